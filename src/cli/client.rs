//! The client's end of the control socket.
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    config,
    daemon::protocol::{Line, Request},
    sys::control,
};

/// How long the daemon may be silent; a follower of events waits for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to the daemon.
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

/// The daemon refused, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        Ok(Self { stream: BufReader::new(control::connect(socket)?) })
    }

    /// Asks, and hands over each line of the answer but the last.
    ///
    /// # Errors
    /// The daemon's refusal, or that it went away.
    pub(super) fn ask(&mut self, request: &Request, each: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
        let is_endless = matches!(request, Request::Events { follow: true, .. });
        self.stream.get_ref().set_read_timeout((!is_endless).then_some(PATIENCE))?;
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        // A daemon that sends us away says why before it closes.
        let sent = self.stream.get_mut().write_all(&text);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.stream.read_until(b'\n', &mut line).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::other("it has not answered for two minutes"),
                // Not our reader's: that one is quiet.
                io::ErrorKind::ConnectionReset => io::Error::other("it closed the connection"),
                _ => error,
            });
            if read.context("the daemon")? == 0 {
                if let Err(error) = sent {
                    bail!("the daemon does not listen: {}", error.kind());
                }
                bail!("the daemon went away in the middle of its answer: see its log");
            }
            match parse(&line)? {
                Some(Line::Done(_)) => return Ok(()),
                Some(Line::Error(why)) => return Err(Refused(why).into()),
                Some(other) => each(other)?,
                None => {}
            }
        }
    }
}

/// Whether the daemon refused, in words; otherwise it could not be heard to the
/// end.
pub(super) fn is_refusal(error: &anyhow::Error) -> bool {
    error.is::<Refused>()
}

/// One line; `None` for a kind that a newer daemon knows and we don't.
fn parse(line: &[u8]) -> Result<Option<Line>> {
    match serde_json::from_slice(line) {
        Ok(line) => Ok(Some(line)),
        Err(error) if !error.is_data() => Err(error).context("the daemon's answer is not JSON"),
        Err(error) if error.to_string().starts_with("unknown variant") => Ok(None),
        Err(error) => Err(error).context("the daemon's answer makes no sense"),
    }
}

/// Asks once.
///
/// # Errors
/// As [`Client::ask`].
pub(super) fn ask(socket: &Path, request: &Request, each: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
    Client::connect(socket)?.ask(request, each)
}

/// Writes a note or a finding to standard error, where it doesn't mix with rows.
///
/// # Errors
/// If standard error is gone.
pub(super) fn aside(line: &Line) -> Result<()> {
    let mut stderr = io::stderr().lock();
    match line {
        Line::Note(note) => writeln!(stderr, "note: {note}")?,
        Line::Finding(diagnostic) => {
            let text = std::fs::read_to_string(&*diagnostic.file).ok();
            let colour = io::IsTerminal::is_terminal(&io::stderr());
            writeln!(stderr, "{}", config::picture(diagnostic, text.as_deref(), colour).trim_end())?;
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_daemons_lines_are_passed_over() {
        assert_eq!(parse(br#"{"done":true}"#).unwrap(), Some(Line::Done(true)));
        assert_eq!(parse(br#"{"weather":"fine"}"#).unwrap(), None);
        assert!(parse(br#"{"killed":"many"}"#).is_err());
        assert!(parse(b"[]").is_err());
        assert!(parse(b"done").is_err());
    }
}
