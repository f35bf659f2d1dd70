//! Writing to standard output: rows of JSON, aligned tables, colour only on a
//! terminal.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;

/// Standard output, locked and buffered.
pub(super) struct Output {
    to: BufWriter<StdoutLock<'static>>,
    colour: bool,
}

/// How a word is dressed on a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dress {
    Heading,
    Good,
    Bad,
    Odd,
    Faint,
}

impl Dress {
    /// SGR parameters (ECMA-48 §8.3.117).
    const fn code(self) -> &'static str {
        match self {
            Self::Heading => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Odd => "33",
            Self::Faint => "2",
        }
    }
}

impl Output {
    /// Locks standard output.
    pub(super) fn open() -> Self {
        let stdout = io::stdout();
        // https://no-color.org: set and not empty means none.
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: stdout.is_terminal() && !no_colour, to: BufWriter::new(stdout.lock()) }
    }

    /// One line of text.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.to, "{text}")
    }

    /// One object on a line.
    pub(super) fn json(&mut self, row: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, row)?;
        self.to.write_all(b"\n")
    }

    /// A word in its dress.
    pub(super) fn dressed(&self, dress: Dress, text: &str) -> String {
        if self.colour { format!("\x1b[{}m{text}\x1b[0m", dress.code()) } else { text.to_owned() }
    }

    /// Clears the terminal, if it is one.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if io::stdout().is_terminal() { write!(self.to, "\x1b[H\x1b[2J\x1b[3J") } else { Ok(()) }
    }

    /// Hands everything over.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Where a column's words stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table that is written as it comes: the widths are those of the first rows,
/// later rows that need more push their line out.
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    widths: Vec<usize>,
    waiting: Vec<Vec<String>>,
    started: bool,
    /// Used anew for every row.
    line: String,
}

impl Table {
    /// Rows that are looked at for the widths.
    const LOOK_AHEAD: usize = 1000;

    /// A table with these columns.
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            widths: columns.iter().map(|(name, _)| name.len()).collect(),
            waiting: Vec::new(),
            started: false,
            line: String::new(),
        }
    }

    /// One row; as many words as columns.
    pub(super) fn row(&mut self, output: &mut Output, words: &[impl AsRef<str>]) -> io::Result<()> {
        if self.started {
            return output.line(self.render(words));
        }
        for (width, word) in self.widths.iter_mut().zip(words) {
            *width = (*width).max(word.as_ref().chars().count());
        }
        self.waiting.push(words.iter().map(|word| word.as_ref().to_owned()).collect());
        if self.waiting.len() >= Self::LOOK_AHEAD { self.start(output) } else { Ok(()) }
    }

    /// Writes what still waits; the heading too, if there was any row.
    pub(super) fn finish(&mut self, output: &mut Output) -> io::Result<()> {
        if self.started || self.waiting.is_empty() { Ok(()) } else { self.start(output) }
    }

    fn start(&mut self, output: &mut Output) -> io::Result<()> {
        self.started = true;
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        let heading = output.dressed(Dress::Heading, self.render(&names));
        output.line(&heading)?;
        for words in std::mem::take(&mut self.waiting) {
            output.line(self.render(&words))?;
        }
        Ok(())
    }

    fn render(&mut self, words: &[impl AsRef<str>]) -> &str {
        let line = &mut self.line;
        line.clear();
        for (((_, align), width), word) in self.columns.iter().zip(&self.widths).zip(words) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let word = word.as_ref();
            let blanks = width.saturating_sub(word.chars().count());
            if *align == Align::Left {
                line.push_str(word);
            }
            line.extend(std::iter::repeat_n(' ', blanks));
            if *align == Align::Right {
                line.push_str(word);
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let mut table = Table::new(&[("NAME", Align::Left), ("COUNT", Align::Right), ("X", Align::Left)]);
        table.widths = vec![6, 5, 3];
        assert_eq!(table.render(&["a", "17", "b"]), "a          17  b");
        assert_eq!(table.render(&["longer than that", "1", ""]), "longer than that      1");
    }
}
