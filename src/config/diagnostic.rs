//! Diagnostics as people and programs read them: one line each, or a picture
//! of the place.

use std::fmt;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};

use super::{Diagnostic, Severity};

/// The longest line that is shown in a picture, in octets.
const LONGEST_LINE: usize = 400;

impl fmt::Display for Diagnostic {
    /// `file:line:column: error: rule web: message (cure)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: ", self.file, self.line, self.column, self.severity)?;
        if let Some(rule) = &self.rule {
            write!(f, "rule {rule}: ")?;
        }
        write!(f, "{} ({})", self.message, self.cure)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// The diagnostic under the line of `source` that it is about. `source` is the
/// text of [`Diagnostic::file`]; without it the picture is only words.
#[must_use]
pub fn picture(diagnostic: &Diagnostic, source: Option<&str>, colour: bool) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = match &diagnostic.rule {
        Some(rule) => format!("rule {rule}: {}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let line = source.and_then(|text| text.lines().nth(diagnostic.line.saturating_sub(1)));
    let group = level.primary_title(title);
    let group = match line.filter(|line| line.len() <= LONGEST_LINE) {
        Some(line) => group.element(
            Snippet::source(line)
                .path(&*diagnostic.file)
                .line_start(diagnostic.line)
                .annotation(AnnotationKind::Primary.span(word_at(line, diagnostic.column))),
        ),
        None => group.element(Level::NOTE.message(format!(
            "in {}, line {}, column {}",
            diagnostic.file, diagnostic.line, diagnostic.column
        ))),
    };
    let report = [group.element(Level::HELP.message(diagnostic.cure.clone()))];
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    renderer.decor_style(DecorStyle::Ascii).render(&report)
}

/// The octets of the YAML word that begins at this column (from 1, in
/// characters).
fn word_at(line: &str, column: usize) -> std::ops::Range<usize> {
    let start = line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    let rest = line.get(start..).unwrap_or("");
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
    let len = match quote {
        Some(quote) => {
            rest.char_indices().skip(1).find(|&(_, c)| c == quote).map(|(at, _)| at.saturating_add(1))
        }
        None => {
            let ends = |rest: &str| rest.starts_with([',', ']', '}', '[', '{']) || rest.starts_with(" #");
            let is_colon = |rest: &str| rest == ":" || rest.starts_with(": ");
            rest.char_indices()
                .skip(1)
                .map(|(at, _)| at)
                .find(|&at| rest.get(at..).is_some_and(|rest| ends(rest) || is_colon(rest)))
        }
    };
    let word = rest.get(..len.unwrap_or(rest.len())).unwrap_or(rest).trim_end();
    start..start.saturating_add(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic() -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: "rules.yaml".into(),
            line: 2,
            column: 11,
            rule: Some("web".to_owned()),
            message: "`reject` is no action".to_owned(),
            cure: "did you mean `reset`?".to_owned(),
        }
    }

    #[test]
    fn one_line_for_machines_and_grep() {
        insta::assert_snapshot!(
            diagnostic(),
            @"rules.yaml:2:11: error: rule web: `reject` is no action (did you mean `reset`?)"
        );
        let json = serde_json::to_string(&diagnostic()).unwrap();
        assert_eq!(serde_json::from_str::<Diagnostic>(&json).unwrap(), diagnostic());
        assert!(json.starts_with(r#"{"severity":"error","file":"rules.yaml","line":2,"#), "{json}");
    }

    #[test]
    fn a_picture_points_at_the_word() {
        let picture = picture(&diagnostic(), Some("rules:\n  action: reject, x\n"), false);
        insta::assert_snapshot!(picture, @r"
        error: rule web: `reject` is no action
         --> rules.yaml:2:11
          |
        2 |   action: reject, x
          |           ^^^^^^
          |
          = help: did you mean `reset`?
        ");
    }

    #[test]
    fn no_place_makes_it_panic() {
        for (line, column) in [(0, 0), (1, 1), (1, 99), (99, 1)] {
            for source in [None, Some(""), Some("ä"), Some("'ö"), Some("\r\n")] {
                let _ = picture(&Diagnostic { line, column, ..diagnostic() }, source, true);
            }
        }
    }

    #[test]
    fn words_end_where_yaml_ends_them() {
        for (line, column, word) in [
            ("a: b c # d", 4, "b c"),
            ("{ a: \"x, y\" }", 6, "\"x, y\""),
            ("[fd00::/8, b]", 2, "fd00::/8"),
            ("key: v", 1, "key"),
        ] {
            assert_eq!(&line[word_at(line, column)], word, "{line}");
        }
    }
}
