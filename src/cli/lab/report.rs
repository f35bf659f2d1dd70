//! What the lab says: lines as things happen, and the summary.

use std::{
    env,
    io::{self, IsTerminal as _},
    time::Duration,
};

use serde_json::json;

use super::{ground::Lab, print, scenes};
use crate::sys::netns::Family;

/// What a scene says.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// Something happened.
    Live {
        /// Since the lab's start.
        at: Duration,
        /// Which scene.
        scene: &'static str,
        /// What happened.
        text: String,
    },
    /// A scene's result, or one of several.
    Result(Compared),
}

/// What was expected, and what was seen.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    pub(super) scene: &'static str,
    pub(super) expected: String,
    pub(super) seen: String,
    pub(super) agrees: bool,
}

/// Prints; keeps the results for the summary.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    colour: bool,
    results: Vec<Compared>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        // https://no-color.org
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, colour: !json && !plain && io::stdout().is_terminal(), results: Vec::new() }
    }

    /// What comes next. Nothing in JSON.
    pub(super) fn title(&mut self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { print(&self.painted("1", text)) }
    }

    /// A plain line. Nothing in JSON.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { print(text) }
    }

    /// Who is who.
    pub(super) fn lab(&mut self, lab: &Lab) -> io::Result<()> {
        let ground = lab.ground();
        let both = |address: fn(Family) -> std::net::IpAddr| {
            format!("{}, {}", address(Family::V4), address(Family::V6))
        };
        self.line(&format!("  client   {:<36} {}", both(Family::client), ground.client.name()))?;
        self.line(&format!("  gateway  halfgate run {}", lab.rules().display()))?;
        self.line(&format!("           {:<36} {}", both(Family::outside), ground.gateway.name()))?;
        self.line(&format!("  server   {:<36} {}", both(Family::server), ground.server.name()))
    }

    /// Takes what a scene says.
    pub(super) fn take(&mut self, said: Said) -> io::Result<()> {
        match said {
            Said::Live { at, scene, text } => {
                self.line(&format!("  {:>5.1} s  {scene:<22} {text}", at.as_secs_f64()))
            }
            Said::Result(compared) => {
                if self.json {
                    print(&compared.json())?;
                } else if !compared.agrees {
                    let text = format!("  not as expected: {}: {}", compared.scene, compared.seen);
                    print(&self.painted("31", &text))?;
                }
                self.results.push(compared);
                Ok(())
            }
        }
    }

    /// Prints the summary; whether everything was as expected.
    pub(super) fn summary(&mut self) -> io::Result<bool> {
        let agrees = !self.results.is_empty() && self.results.iter().all(|compared| compared.agrees);
        if self.json {
            return Ok(agrees);
        }
        self.line("")?;
        let mut results = self.results.clone();
        results.sort_by_key(|compared| scenes::place(compared.scene));
        let wide = results.iter().map(|compared| compared.expected.chars().count()).max().unwrap_or(0);
        self.title(&format!("Summary {:<22} {:<wide$}  seen", "", "expected"))?;
        for compared in results {
            let mark = if compared.agrees { self.painted("32", "ok  ") } else { self.painted("31", "FAIL") };
            let Compared { scene, expected, seen, .. } = compared;
            print(&format!("  {mark}  {scene:<22} {expected:<wide$}  {seen}"))?;
        }
        let failed = self.results.iter().filter(|compared| !compared.agrees).count();
        let verdict = if agrees {
            format!("All {} agree.", self.results.len())
        } else {
            format!("{failed} of {} do not agree.", self.results.len())
        };
        print(&self.painted(if agrees { "32" } else { "31" }, &verdict))?;
        Ok(agrees)
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Compared {
    fn json(&self) -> String {
        json!({ "scene": self.scene, "expected": self.expected, "seen": self.seen, "agrees": self.agrees })
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(agrees: bool) -> Compared {
        Compared { scene: "s", expected: "e".to_owned(), seen: "x".to_owned(), agrees }
    }

    #[test]
    fn one_disagreement_spoils_the_summary_and_silence_is_no_agreement() {
        let mut report = Report::new(true);
        assert!(!report.summary().unwrap(), "nothing was compared");
        report.take(Said::Result(compared(true))).unwrap();
        assert!(report.summary().unwrap());
        report.take(Said::Result(compared(false))).unwrap();
        assert!(!report.summary().unwrap());
    }
}
