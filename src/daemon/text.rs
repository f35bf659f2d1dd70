//! Durations and times as people read and write them.

use std::time::{Duration, SystemTime};

pub use crate::policy::duration::text as duration;

/// As [`duration`], without the fraction of a second once there are whole ones.
#[must_use]
pub fn rough_duration(value: Duration) -> String {
    duration(if value.as_secs() > 0 { Duration::from_secs(value.as_secs()) } else { value })
}

/// The other way round. Numbers without a unit are refused.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    crate::policy::duration::parse(text).map_err(|error| error.to_string())
}

/// RFC 3339, UTC, to the millisecond.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// `12.3 GiB`.
#[must_use]
pub fn octets(count: u64) -> String {
    const STEPS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in STEPS {
        if count >= size {
            let tenths = u128::from(count) * 10 / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{count} B")
}

/// A `Duration` as a string in JSON; used with `#[serde(with = ...)]`.
pub mod as_duration {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    /// Writes `"5m"`.
    ///
    /// # Errors
    /// The serialiser's.
    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::duration(*value))
    }

    /// Reads `"5m"`.
    ///
    /// # Errors
    /// If it is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_duration(&text).map_err(D::Error::custom)
    }
}

/// As [`as_duration`] for `Option<Duration>`; `null` is none.
pub mod as_optional_duration {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    /// Writes `"5m"` or `null`.
    ///
    /// # Errors
    /// The serialiser's.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_str(&super::duration(*value)),
            None => to.serialize_none(),
        }
    }

    /// Reads `"5m"` or `null`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(from)?
            .map(|text| super::parse_duration(&text).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_hide_their_fraction() {
        assert_eq!(rough_duration(Duration::from_millis(61_999)), "1m1s");
        assert_eq!(rough_duration(Duration::from_millis(350)), "350ms");
    }

    #[test]
    fn octets_are_rounded_down() {
        assert_eq!(octets(1023), "1023 B");
        assert_eq!(octets(1536), "1.5 KiB");
        assert_eq!(octets(u64::MAX), "16777215.9 TiB");
    }
}
