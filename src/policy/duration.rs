//! Durations as people write them: `5m`, `2h4m`, `1m30s`, `500ms`.
//!
//! A number without a unit is refused: half of the field counts in seconds, the
//! other half in milliseconds.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A duration in the largest units that fit: `2h4m`, `1m30s`, `0s`.
/// What is smaller than a millisecond is left out.
#[must_use]
pub fn text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (unit, millis) in UNITS {
        let count = rest.checked_div(millis).unwrap_or(0);
        rest = rest.checked_rem(millis).unwrap_or(0);
        if count > 0 {
            out.push_str(&count.to_string());
            out.push_str(unit);
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// Why a text is no duration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DurationError {
    /// No unit behind a number.
    #[error("`{0}` has no unit; write {0}s, {0}m, {0}h or {0}d")]
    NoUnit(String),
    /// A unit that is none of ours.
    #[error("`{0}` is not a unit of time; the units are ms, s, m, h and d")]
    BadUnit(String),
    /// Not a duration at all.
    #[error("`{0}` is not a duration; write one like 30s, 5m, 2h4m or 7d")]
    Nonsense(String),
    /// More than fits.
    #[error("`{0}` is too long; the longest is 100d")]
    TooLong(String),
}

/// Reads a duration: one or more of a whole number and its unit, without or
/// with spaces between them.
///
/// # Errors
/// [`DurationError`], which says what to write.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let nonsense = || DurationError::Nonsense(text.to_owned());
    let too_long = || DurationError::TooLong(text.to_owned());
    let mut rest = text.trim();
    let mut millis = 0_u64;
    if rest.is_empty() {
        return Err(nonsense());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        if number.is_empty() {
            return Err(nonsense());
        }
        let number: u64 = number.parse().map_err(|_| too_long())?;
        let behind = behind.trim_start();
        let letters = behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len());
        let (unit, next) = behind.split_at(letters);
        if unit.is_empty() {
            let whole = text.trim().chars().all(|c| c.is_ascii_digit());
            return Err(if whole { DurationError::NoUnit(text.trim().to_owned()) } else { nonsense() });
        }
        let factor = factor(unit).ok_or_else(|| DurationError::BadUnit(unit.to_owned()))?;
        millis = number.checked_mul(factor).and_then(|part| millis.checked_add(part)).ok_or_else(too_long)?;
        rest = next.trim_start();
    }
    Ok(Duration::from_millis(millis))
}

fn factor(unit: &str) -> Option<u64> {
    let short = match unit {
        "day" | "days" => "d",
        "hour" | "hours" | "hr" | "hrs" => "h",
        "min" | "mins" | "minute" | "minutes" => "m",
        "sec" | "secs" | "second" | "seconds" => "s",
        "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => "ms",
        other => other,
    };
    UNITS.into_iter().find(|&(name, _)| name == short).map(|(_, millis)| millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_people_write_them() {
        for (written, millis) in [
            ("5m", 300_000),
            ("2h4m", 7_440_000),
            ("1m 30s", 90_000),
            ("500ms", 500),
            ("2 min", 120_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(written), Ok(Duration::from_millis(millis)), "{written}");
        }
        assert_eq!(text(Duration::from_secs(7440)), "2h4m");
        assert_eq!(text(Duration::from_secs(100 * 86_400)), "100d");
        assert_eq!(text(Duration::ZERO), "0s");
    }

    #[test]
    fn what_is_wrong_says_what_to_write() {
        for (written, message) in [
            ("5", "`5` has no unit; write 5s, 5m, 5h or 5d"),
            ("5x", "`x` is not a unit of time; the units are ms, s, m, h and d"),
            ("soon", "`soon` is not a duration; write one like 30s, 5m, 2h4m or 7d"),
            ("-5m", "`-5m` is not a duration; write one like 30s, 5m, 2h4m or 7d"),
            ("1.5h", "`1.5h` is not a duration; write one like 30s, 5m, 2h4m or 7d"),
            ("99999999999999999999d", "`99999999999999999999d` is too long; the longest is 100d"),
        ] {
            assert_eq!(parse(written).unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in 0_u64..=u64::MAX / 2) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&text(duration)), Ok(duration));
        }

        #[test]
        fn nothing_makes_it_panic(written in ".*") {
            let _ = parse(&written);
        }
    }
}
