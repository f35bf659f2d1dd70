//! Samples, the ratio of two ways, and the table of them.

use std::fmt::Write as _;

/// What a row must come to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// The ratio, at least
    AtLeast(f64),
    /// The ratio, at most
    AtMost(f64),
    /// What is measured itself, at most
    Under(f64),
    /// The median is within what the reference showed in any run
    NoMore,
    /// Nothing: it is no row of halfgate's
    None,
}

/// One line of the table: the same in alternating runs of two ways.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) against: &'static str,
    pub(crate) ours: Vec<f64>,
    pub(crate) theirs: Vec<f64>,
    pub(crate) target: Target,
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The median and, in brackets, the lowest and the highest.
fn spread(values: &[f64]) -> String {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} ({} to {})", short(median(values)), short(lowest), short(highest))
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

impl Row {
    /// Of each run to the one beside it.
    fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs).collect()
    }

    pub(crate) fn is_met(&self) -> bool {
        let ratio = median(&self.ratios());
        match self.target {
            Target::AtLeast(least) => ratio >= least,
            Target::AtMost(most) => ratio <= most,
            Target::Under(most) => median(&self.ours) <= most,
            Target::None => true,
            Target::NoMore => {
                let most = self.theirs.iter().copied().fold(0.0, f64::max);
                median(&self.ours) <= most
            }
        }
    }

    pub(crate) fn line(&self) -> String {
        let ratio = match self.target {
            Target::NoMore | Target::Under(_) => "-".to_owned(),
            Target::AtLeast(_) | Target::AtMost(_) | Target::None => spread(&self.ratios()),
        };
        let target = match self.target {
            Target::AtLeast(least) => format!(">= {least}"),
            Target::AtMost(most) => format!("<= {most}"),
            Target::Under(most) => format!("<= {most} {}", self.unit),
            Target::NoMore => "no more".to_owned(),
            Target::None => "-".to_owned(),
        };
        let met = match (self.target, self.is_met()) {
            (Target::None, _) => "-",
            (_, true) => "yes",
            (_, false) => "**no**",
        };
        let (ours, theirs) = (spread(&self.ours), spread(&self.theirs));
        format!(
            "| {} | {} | {ours} | {}: {theirs} | {ratio} | {target} | {met} |",
            self.what, self.unit, self.against
        )
    }
}

pub(crate) const HEAD: &str =
    "| what | unit | halfgate | reference | ratio | target | met |\n|---|---|---|---|---|---|---|";

/// Puts a text between the two marks of a document.
pub(crate) fn put_between(document: &str, begin: &str, end: &str, text: &str) -> Option<String> {
    let (head, rest) = document.split_once(begin)?;
    let (_, tail) = rest.split_once(end)?;
    let mut whole = String::new();
    write!(whole, "{head}{begin}\n{}\n{end}{tail}", text.trim_end()).ok()?;
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], theirs: &[f64], target: Target) -> Row {
        Row {
            what: "it".into(),
            unit: "Gbit/s",
            against: "other",
            ours: ours.to_vec(),
            theirs: theirs.to_vec(),
            target,
        }
    }

    #[test]
    fn a_ratio_is_that_of_runs_beside_each_other() {
        // The machine was half as fast in the second round: the ratio does not mind.
        let row = row(&[9.0, 4.5, 9.5], &[10.0, 5.0, 10.0], Target::AtLeast(0.9));
        assert!(row.is_met());
        assert_eq!(
            row.line(),
            "| it | Gbit/s | 9 (4.50 to 9.50) | other: 10 (5 to 10) | 0.90 (0.90 to 0.95) | >= 0.9 | yes |"
        );
    }

    #[test]
    fn a_target_that_is_missed_says_so() {
        assert!(!row(&[1.0], &[2.0], Target::AtLeast(0.95)).is_met());
        assert!(!row(&[3.0], &[2.0], Target::AtMost(1.1)).is_met());
        assert!(!row(&[3.0, 4.0, 9.0], &[0.0, 3.0, 1.0], Target::NoMore).is_met());
        assert!(row(&[0.0, 2.0, 9.0], &[0.0, 3.0, 1.0], Target::NoMore).is_met());
        assert!(!row(&[3.0], &[9.0], Target::Under(2.0)).is_met());
        assert!(row(&[1.0], &[2.0], Target::AtLeast(0.95)).line().ends_with("| **no** |"));
        let none = row(&[1.0], &[2.0], Target::None);
        assert!(none.line().ends_with("| 0.50 (0.50 to 0.50) | - | - |"), "{}", none.line());
    }

    #[test]
    fn a_table_takes_the_place_of_the_last_one() {
        let whole = put_between("a <b> old <e> z", "<b>", "<e>", "new\n");
        assert_eq!(whole.as_deref(), Some("a <b>\nnew\n<e> z"));
        assert_eq!(put_between("a <b> z", "<b>", "<e>", "new"), None);
    }
}
