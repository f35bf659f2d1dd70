//! How much memory the machine has, how much of it this process may have, and how much
//! it has.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// From here on a limit of the first version of control groups means none.
const NO_LIMIT: u64 = 1 << 60;

/// A control group that allows less than the machine has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// The group: of this process, or one around it.
    pub group: PathBuf,
    /// Octets.
    pub octets: u64,
}

/// Octets of memory that the machine has; `None`: the kernel does not say.
#[must_use]
pub fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The least that a control group of this process allows; `None`: none sets a limit.
#[must_use]
pub fn allowance() -> Option<Allowance> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    allowance_in(&groups, &|path| fs::read_to_string(path).ok())
}

fn allowance_in(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<Allowance> {
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        match controllers {
            "" => Some((PathBuf::from(GROUPS), "memory.max", path)),
            some if some.split(',').any(|one| one == "memory") => {
                Some((Path::new(GROUPS).join("memory"), "memory.limit_in_bytes", path))
            }
            _ => None,
        }
    });
    let limits = lines.flat_map(|(root, file, path)| {
        let own = Path::new(path.trim_start_matches('/'));
        own.ancestors()
            .filter_map(|group| {
                let text = read(&root.join(group).join(file))?;
                let octets: u64 = text.trim().parse().ok()?;
                (octets < NO_LIMIT).then(|| Allowance { group: Path::new("/").join(group), octets })
            })
            .collect::<Vec<_>>()
    });
    limits.min_by_key(|limit| limit.octets)
}

/// Octets of memory that this process has now.
#[must_use]
pub fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.checked_mul(u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_there_is() {
        let (all, own) = (memory().unwrap(), resident().unwrap());
        assert!(own > 1 << 20 && own < all, "{own} of {all}");
    }

    #[test]
    fn the_tightest_group_counts() {
        let found = |groups: &str, files: &[(&str, &str)]| {
            allowance_in(groups, &|path| {
                let known = files.iter().find(|(name, _)| Path::new(name) == path);
                known.map(|(_, text)| format!("{text}\n"))
            })
        };
        let allowance = |group: &str, octets| Some(Allowance { group: group.into(), octets });
        let service = "0::/system.slice/halfgate.service\n";
        let own = "/sys/fs/cgroup/system.slice/halfgate.service/memory.max";
        let slice = "/sys/fs/cgroup/system.slice/memory.max";
        assert_eq!(found(service, &[]), None);
        assert_eq!(found(service, &[(own, "max"), (slice, "max")]), None);
        assert_eq!(
            found(service, &[(own, "1000"), (slice, "max")]),
            allowance("/system.slice/halfgate.service", 1000)
        );
        assert_eq!(found(service, &[(own, "1000"), (slice, "900")]), allowance("/system.slice", 900));
        assert_eq!(found("0::/\n", &[("/sys/fs/cgroup/memory.max", "77")]), allowance("/", 77));
        let first = "5:cpu:/a\n4:memory:/b\n";
        let limit = "/sys/fs/cgroup/memory/b/memory.limit_in_bytes";
        assert_eq!(found(first, &[(limit, "5000")]), allowance("/b", 5000));
        assert_eq!(found(first, &[(limit, "9223372036854771712")]), None, "that means none");
        for nonsense in ["", "0", "0::", ":::", "0::/../.."] {
            assert_eq!(found(nonsense, &[(own, "x")]), None, "{nonsense}");
        }
    }
}
