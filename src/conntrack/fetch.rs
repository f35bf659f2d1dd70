//! Reading ahead, for who knows what comes: nothing is waited for, nothing changes.

/// Brings things into the processor's cache without waiting for them.
pub trait Fetch {
    /// Asks for all of `what`. Does not read it.
    fn fetch<T>(&self, what: &T);
}
