//! Collecting diagnostics, and taking nodes apart by the schema.

use std::{sync::Arc, time::Duration};

use super::{
    Diagnostic, Severity,
    schema::Group,
    words,
    yaml::{Kind, Node, Place},
};
use crate::policy::duration;

/// More diagnostics than this help nobody.
const MOST: usize = 1000;

/// What is being read.
pub(super) enum Context {
    /// The file's own part.
    File,
    /// A rule, by name.
    Rule(String),
    /// A test, by name.
    Test(String),
}

/// The diagnostics of one file, and the rule that is being read.
pub(super) struct Report {
    file: Arc<str>,
    diagnostics: Vec<Diagnostic>,
    left_out: usize,
    context: Context,
    errors: usize,
}

impl Report {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.into(), diagnostics: Vec::new(), left_out: 0, context: Context::File, errors: 0 }
    }

    /// The file's name.
    pub(super) const fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// How many errors there were so far.
    pub(super) const fn errors(&self) -> usize {
        self.errors
    }

    /// Says in which rule or test the next diagnostics stand.
    pub(super) fn enter(&mut self, context: Context) {
        self.context = context;
    }

    pub(super) fn error(&mut self, place: Place, message: impl Into<String>, cure: impl Into<String>) {
        let file = Arc::clone(&self.file);
        self.push(Severity::Error, file, place, message.into(), cure.into());
    }

    pub(super) fn warning(&mut self, place: Place, message: impl Into<String>, cure: impl Into<String>) {
        let file = Arc::clone(&self.file);
        self.push(Severity::Warning, file, place, message.into(), cure.into());
    }

    /// An error in a file that the rule file names.
    pub(super) fn error_in(
        &mut self,
        file: &Arc<str>,
        place: Place,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.push(Severity::Error, Arc::clone(file), place, message.into(), cure.into());
    }

    fn push(&mut self, severity: Severity, file: Arc<str>, place: Place, message: String, cure: String) {
        if severity == Severity::Error {
            self.errors = self.errors.saturating_add(1);
        }
        if self.diagnostics.len() >= MOST {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        let (rule, message) = match &self.context {
            Context::File => (None, message),
            Context::Rule(name) => (Some(name.clone()), message),
            Context::Test(name) => (None, format!("test {name}: {message}")),
        };
        self.diagnostics.push(Diagnostic {
            severity,
            file,
            line: place.line,
            column: place.column,
            rule,
            message: words::shorten(&message, 300),
            cure: words::shorten(&cure, 300),
        });
    }

    /// All diagnostics in order, those of the rule file first; whether one is
    /// an error.
    pub(super) fn finish(mut self) -> (Vec<Diagnostic>, bool) {
        self.diagnostics.sort_by(|a, b| {
            let key = |d: &Diagnostic| (d.file != self.file, d.line, d.column);
            key(a).cmp(&key(b))
        });
        self.diagnostics.dedup();
        if self.left_out > 0 {
            let last = self.diagnostics.last().map_or(1, |last| last.line);
            self.diagnostics.push(Diagnostic {
                severity: Severity::Error,
                file: self.file,
                line: last,
                column: 1,
                rule: None,
                message: format!("{} more errors and warnings", self.left_out),
                cure: "mend these first".to_owned(),
            });
        }
        (self.diagnostics, self.errors > 0)
    }
}

/// The entries of a mapping, by the keys that its group knows.
pub(super) struct Fields<'n> {
    pub(super) place: Place,
    entries: Vec<(&'static str, &'n Node, Place)>,
    /// Keys that an unknown one was probably meant to be.
    meant: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Takes a mapping apart. Unknown and doubled keys are reported; `None` if
    /// the node is no mapping.
    pub(super) fn of(node: &'n Node, group: &'static Group, report: &mut Report) -> Option<Self> {
        let Kind::Map(map) = &node.kind else {
            report.error(
                node.place,
                format!("{} must be a mapping, and this is {}", group.title, node.what()),
                format!("write it like `{}`", group.example),
            );
            return None;
        };
        let mut entries: Vec<(&'static str, &'n Node, Place)> = Vec::new();
        let mut meant = Vec::new();
        for (key, value) in map {
            let Some(name) = key_text(key, report) else { continue };
            if let Some(known) = group.keys.iter().find(|known| **known == name) {
                if let Some((_, _, first)) = entries.iter().find(|(other, ..)| other == known) {
                    report.error(
                        key.place,
                        format!("`{name}` is written twice; the first is on line {}", first.line),
                        "keep one of them",
                    );
                } else {
                    entries.push((known, value, key.place));
                }
            } else {
                meant.extend(unknown_key(name, key.place, group, report));
            }
        }
        Some(Self { place: node.place, entries, meant })
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &'static str) -> Option<&'n Node> {
        self.entries.iter().find(|(name, ..)| *name == key).map(|&(_, node, _)| node)
    }

    /// Whether an unknown key was probably meant to be this one: its absence is
    /// no second mistake.
    pub(super) fn is_meant(&self, key: &str) -> bool {
        self.meant.iter().any(|meant| meant.split(':').next() == Some(key))
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &'static str, cure: &str, report: &mut Report) -> Option<&'n Node> {
        let found = self.get(key);
        if found.is_none() && !self.is_meant(key) {
            report.error(self.place, format!("`{key}` is missing"), cure);
        }
        found
    }
}

/// The name and the value of each entry of a mapping with names of the
/// operator's choice; doubled names are reported.
pub(super) fn named<'n>(
    node: &'n Node,
    title: &str,
    example: &str,
    report: &mut Report,
) -> Vec<(&'n str, Place, &'n Node)> {
    let map = match &node.kind {
        Kind::Map(map) => map,
        Kind::Null => return Vec::new(),
        Kind::Bool(_) | Kind::Text(_) | Kind::List(_) => {
            report.error(
                node.place,
                format!("{title} must be a mapping of names, and this is {}", node.what()),
                format!("write it like `{example}`"),
            );
            return Vec::new();
        }
    };
    let mut first = std::collections::HashMap::new();
    let mut out = Vec::new();
    for (key, value) in map {
        let Some(name) = key_text(key, report) else { continue };
        if let Some(line) = first.insert(name, key.place.line) {
            let cure = if title == "timers" { "keep one of them" } else { "give one of them another name" };
            report.error(
                key.place,
                format!("the name `{name}` is used twice; the first is on line {line}"),
                cure,
            );
        } else {
            out.push((name, key.place, value));
        }
    }
    out
}

fn key_text<'n>(key: &'n Node, report: &mut Report) -> Option<&'n str> {
    if let Kind::Text(text) = &key.kind {
        return Some(text);
    }
    let cure = match key.kind {
        Kind::List(_) | Kind::Map(_) => "check the brackets; an address with `:` at its end needs quotes",
        Kind::Null | Kind::Bool(_) | Kind::Text(_) => "put the name in quotes",
    };
    report.error(key.place, format!("a key must be a word, and this is {}", key.what()), cure);
    None
}

/// Reports an unknown key; gives the one that was probably meant.
fn unknown_key(name: &str, place: Place, group: &'static Group, report: &mut Report) -> Option<&'static str> {
    if let Some((_, cure)) = group.later.iter().find(|(later, _)| *later == name) {
        report.error(place, format!("this version does not have `{name}`"), *cure);
        return None;
    }
    if name == "<<" {
        report.error(place, "merge keys (`<<`) are not supported", "write the keys out");
        return None;
    }
    let foreign = group.foreign.iter().find(|(word, _)| *word == name).map(|(_, ours)| *ours);
    let meant = foreign.or_else(|| words::nearest(name, group.keys.iter().copied()));
    let cure = match meant {
        Some(ours) => format!("did you mean `{ours}`?"),
        None => format!("{} has: {}", group.title, group.keys.join(", ")),
    };
    report.error(place, format!("unknown key `{name}` in {}", group.title), cure);
    meant
}

/// A list's nodes, or the one node that stands for a list of one.
pub(super) fn one_or_more(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::List(nodes) => nodes,
        Kind::Null | Kind::Bool(_) | Kind::Text(_) | Kind::Map(_) => std::slice::from_ref(node),
    }
}

/// A word or text.
pub(super) fn text<'n>(node: &'n Node, title: &str, report: &mut Report) -> Option<&'n str> {
    match &node.kind {
        Kind::Text(text) => Some(text),
        Kind::Bool(true) => Some("true"),
        Kind::Bool(false) => Some("false"),
        Kind::Null | Kind::List(_) | Kind::Map(_) => {
            let cure = match node.kind {
                Kind::Null => "write a value behind the colon",
                Kind::Bool(_) | Kind::Text(_) | Kind::List(_) | Kind::Map(_) => {
                    "write one word, in quotes if it has a `:` or `,` in it"
                }
            };
            report.error(node.place, format!("{title} must be a word, and this is {}", node.what()), cure);
            None
        }
    }
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node, title: &str, report: &mut Report) -> Option<bool> {
    if let Kind::Bool(value) = node.kind {
        return Some(value);
    }
    let cure = match &node.kind {
        Kind::Text(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" | "1" => "write true",
            "no" | "off" | "false" | "0" => "write false",
            _ => "write true or false",
        },
        Kind::Null | Kind::Bool(_) | Kind::List(_) | Kind::Map(_) => "write true or false",
    };
    report.error(node.place, format!("{title} must be true or false"), cure);
    None
}

/// A whole number in a range.
pub(super) fn number(
    node: &Node,
    title: &str,
    range: std::ops::RangeInclusive<u32>,
    report: &mut Report,
) -> Option<u32> {
    let text = text(node, title, report)?;
    let (low, high) = (*range.start(), *range.end());
    let digits: String = text.chars().filter(|&c| c != '_').collect();
    match digits.parse::<u32>() {
        Ok(value) if range.contains(&value) => Some(value),
        _ => {
            let all_digits = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
            let message = if all_digits {
                format!("{title} can't be {text}")
            } else {
                format!("{title} must be a whole number, and `{text}` is not")
            };
            report.error(node.place, message, format!("write a number from {low} to {high}"));
            None
        }
    }
}

/// A duration of any length.
pub(super) fn duration(node: &Node, title: &str, report: &mut Report) -> Option<Duration> {
    let text = text(node, title, report)?;
    match duration::parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            let message = error.to_string();
            let (message, cure) =
                message.split_once("; ").unwrap_or((&message, "write one like 30s, 5m or 2h"));
            report.error(node.place, format!("{title}: {message}"), cure);
            None
        }
    }
}

/// One of a few words; words of other firewalls and near misses get a hint.
pub(super) fn choice<T: Copy>(
    node: &Node,
    title: &str,
    choices: &[(&str, T)],
    foreign: &[(&str, &str)],
    later: &[(&str, &str)],
    report: &mut Report,
) -> Option<T> {
    let word = text(node, title, report)?;
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
        return Some(*value);
    }
    if let Some((_, cure)) = later.iter().find(|(name, _)| *name == word) {
        report.error(node.place, format!("this version does not have `{title}: {word}`"), *cure);
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let names = || choices.iter().map(|(name, _)| *name);
    let hint = foreign
        .iter()
        .find(|(name, _)| *name == lower)
        .map(|(_, ours)| *ours)
        .or_else(|| names().find(|name| *name == lower))
        .or_else(|| words::nearest(&lower, names()));
    let cure = match hint {
        Some(hint) => format!("did you mean `{hint}`?"),
        None => format!("write one of: {}", names().collect::<Vec<_>>().join(", ")),
    };
    report.error(node.place, format!("{title} can't be `{word}`"), cure);
    None
}
