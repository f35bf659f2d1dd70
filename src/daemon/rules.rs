//! Reading rule files: from disk, or the one that is built in.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    config::{self, Compiled, Diagnostic, Severity},
    policy::Policy,
    sys::interfaces,
};

/// The longest rule or list file that is read; a list of 100,000 networks is
/// a twentieth of it.
const MAX_FILE: u64 = 64 << 20;

/// Where the rules come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Built in: the default route's interfaces are outside.
    Embedded,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Embedded => f.write_str("(embedded default)"),
        }
    }
}

/// Why no rules came of it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("rule file {}: {reason}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The built-in rules need to know what is outside.
    #[error(
        "there is no default route, so the built-in rules can't tell which interface is outside: \
         write a rule file with `halfgate init --wan IF --lan IF` and run it by name"
    )]
    NoDefaultRoute,
    /// The kernel can't be asked.
    #[error("interfaces: {0}")]
    Interfaces(io::Error),
    /// It has errors.
    #[error("{from} has {}", errors(.diagnostics))]
    Refused {
        /// Which.
        from: Source,
        /// All of them, warnings too.
        diagnostics: Vec<Diagnostic>,
    },
}

impl LoadError {
    /// What is wrong in the file, if that is it.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::Refused { diagnostics, .. } => diagnostics,
            Self::Unreadable { .. } | Self::NoDefaultRoute | Self::Interfaces(_) => &[],
        }
    }
}

fn errors(diagnostics: &[Diagnostic]) -> String {
    match diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count() {
        1 => "1 error".to_owned(),
        count => format!("{count} errors"),
    }
}

/// Reads and compiles. `previous` is the policy in force.
///
/// # Errors
/// [`LoadError`], with everything that is wrong in the file.
pub fn load(source: &Source, previous: Option<&Policy>) -> Result<Compiled, LoadError> {
    let text = match source {
        Source::File(path) => {
            read_text(path).map_err(|reason| LoadError::Unreadable { path: path.clone(), reason })?
        }
        Source::Embedded => embedded()?,
    };
    let directory = match source {
        Source::File(path) => path.parent().unwrap_or(Path::new("")).to_owned(),
        Source::Embedded => PathBuf::new(),
    };
    let mut read = |name: &str| read_text(&directory.join(name));
    config::compile(&source.to_string(), &text, &mut read, previous)
        .map_err(|diagnostics| LoadError::Refused { from: source.clone(), diagnostics })
}

fn embedded() -> Result<String, LoadError> {
    let outside = interfaces::default_route_interfaces().map_err(LoadError::Interfaces)?;
    if outside.is_empty() {
        return Err(LoadError::NoDefaultRoute);
    }
    let names: Vec<String> = outside.into_iter().map(|(_, name)| name).collect();
    Ok(config::default_rules(&names))
}

/// A text file, or why not, in words.
fn read_text(path: &Path) -> Result<String, String> {
    let open = || {
        let file = fs::File::open(path)?;
        // A pipe or a device would hold the daemon up, or never end.
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(io::Error::other("it is longer than 64 MiB"));
        }
        Ok(text)
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has its own words for the rest")]
    open().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission to read it".to_owned(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_file_is_refused_in_words() {
        let home = std::env::temp_dir().join(format!("halfgate-rules-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("binary"), [0xff, 0xfe]).unwrap();
        assert_eq!(read_text(&home.join("none")).unwrap_err(), "there is no such file");
        assert_eq!(read_text(&home).unwrap_err(), "it is not a file");
        assert_eq!(read_text(Path::new("/dev/null")).unwrap_err(), "it is not a file");
        assert_eq!(read_text(&home.join("binary")).unwrap_err(), "it is not UTF-8 text");
        fs::remove_dir_all(home).unwrap();
    }
}
