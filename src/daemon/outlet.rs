//! Where the lines of an answer go.

use tokio::sync::mpsc::Sender;

use super::protocol::Line;

/// Octets that are gathered before they are handed on.
pub const CHUNK: usize = 32 * 1024;

/// Chunks that may wait for a slow client. Then the one who answers waits, and
/// gives up when the client does.
pub const CHUNKS_WAITING: usize = 8;

/// Why an answer ended early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The client went away.
    Gone,
    /// It was refused, and why.
    Said(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Said(why)
    }
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self::Said(why.to_owned())
    }
}

/// Takes the lines of an answer.
pub trait Outlet {
    /// Takes one line.
    ///
    /// # Errors
    /// [`Refusal::Gone`], if nobody wants it any more.
    fn send(&mut self, line: Line) -> Result<(), Refusal>;
}

impl Outlet for Vec<Line> {
    fn send(&mut self, line: Line) -> Result<(), Refusal> {
        self.push(line);
        Ok(())
    }
}

/// An outlet toward a client's socket.
#[derive(Debug)]
pub struct SocketOutlet {
    chunks: Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl SocketOutlet {
    /// Into this channel. Must not be used on the control thread: it waits.
    #[must_use]
    pub fn new(chunks: Sender<Vec<u8>>) -> Self {
        Self { chunks, buffer: Vec::new() }
    }

    /// Hands on what was gathered.
    ///
    /// # Errors
    /// [`Refusal::Gone`].
    pub fn flush(&mut self) -> Result<(), Refusal> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.chunks.blocking_send(std::mem::take(&mut self.buffer)).map_err(|_| Refusal::Gone)
    }
}

impl Outlet for SocketOutlet {
    fn send(&mut self, line: Line) -> Result<(), Refusal> {
        append(&mut self.buffer, &line)?;
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }
}

/// Writes a line behind what is there.
///
/// # Errors
/// If it can't be written as JSON, which our types can.
pub fn append(buffer: &mut Vec<u8>, line: &Line) -> Result<(), Refusal> {
    serde_json::to_writer(&mut *buffer, line).map_err(|error| Refusal::Said(error.to_string()))?;
    buffer.push(b'\n');
    Ok(())
}
