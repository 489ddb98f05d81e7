//! What a process, a user and the system may have at once of what channels take:
//! `getrlimit(2)`, `inotify(7)`, `proc_sys_fs(5)`.

use super::{Finding, at_least, sysctl};
use crate::units::Size;
use nix::{
    errno::Errno,
    sys::{
        inotify::{InitFlags, Inotify},
        resource::{RLIM_INFINITY, Resource, getrlimit},
    },
};
use std::fs;

/// So many descriptors a program with a few channels needs.
const ENOUGH_DESCRIPTORS: u64 = 256;
/// So many threads a program may have waiting.
const ENOUGH_TIMERS: u64 = 256;
/// What an endpoint of a ring of the default size maps, its data twice, rounded up.
const ENOUGH_LOCKED_BYTES: u64 = 2 * ipc_shm::ShmConfig::DEFAULT_CAPACITY_BYTES + (64 << 10);
const USUAL_LOCKED_BYTES: u64 = 8 << 20;
/// What the kernel starts with.
const INOTIFY_INSTANCES: u64 = 128;
const INOTIFY_WATCHES: u64 = 8192;
/// Less than a fraction of one in this many left is short.
const SPARE_FRACTION: u64 = 10;

pub(super) fn findings() -> Vec<Finding> {
    vec![descriptors(), files_of_all(), inotify_instances(), inotify_watches(), timers(), locked_memory()]
}

fn descriptors() -> Finding {
    const NAME: &str = "RLIMIT_NOFILE";
    let meaning = "open files of a process: one for each mq: endpoint, two and one for each sender for a unix: \
                   receiver, three for a shm: receiver that is polled; a user's long unix: messages under way \
                   count too";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Finding::unknown(NAME, format!("it can't be told; {meaning}"));
    };
    let finding = Finding::fine(NAME, shown(soft), meaning);
    if soft >= ENOUGH_DESCRIPTORS {
        finding
    } else {
        finding.short(Raise::new("-n", "nofile").to(1024, hard))
    }
}

/// `/proc/sys/fs/file-nr`: those that are open, then those that are allocated in vain, then the
/// most.
fn files_of_all() -> Finding {
    const NAME: &str = "fs.file-max";
    let meaning = "open files of all processes together: beyond it no channel is opened";
    let Some(most) = sysctl(NAME) else {
        return Finding::unknown(NAME, format!("/proc doesn't show it; {meaning}"));
    };
    let open = fs::read_to_string("/proc/sys/fs/file-nr").ok();
    let open = open.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let of_these = open.map_or_else(String::new, |open| format!(", of which {open} are open"));
    let finding = Finding::fine(NAME, shown(most) + &of_these, meaning);
    match open {
        Some(open) if is_nearly_all(open, most) => {
            finding.short(format!("sysctl {NAME}={}", most.saturating_mul(2)))
        }
        _ => finding,
    }
}

/// Tried for real, since nobody shows how many a user has.
fn inotify_instances() -> Finding {
    const NAME: &str = "fs.inotify.max_user_instances";
    let meaning = "each shm: receiver that is polled (poll, epoll, async) takes one of its user's; those that just \
                   receive take none";
    let finding = at_least(NAME, INOTIFY_INSTANCES, meaning);
    match (Inotify::init(InitFlags::IN_CLOEXEC), sysctl(NAME)) {
        (Err(Errno::EMFILE), Some(most)) => {
            let meaning = format!("this user has none left: {meaning}");
            let most_again = most.saturating_mul(2).max(INOTIFY_INSTANCES);
            Finding::fine(NAME, most, meaning).short(format!("sysctl {NAME}={most_again}"))
        }
        _ => finding,
    }
}

fn inotify_watches() -> Finding {
    at_least(
        "fs.inotify.max_user_watches",
        INOTIFY_WATCHES,
        "each shm: receiver that is polled takes one of its user's, editors and file managers take the most",
    )
}

/// The kernel takes a timer for a signal that may be pending, `timer_create(2)`.
fn timers() -> Finding {
    const NAME: &str = "RLIMIT_SIGPENDING";
    let meaning = "timers and pending signals of a user: one for each thread that waits at a sysv: channel with a \
                   deadline, or so that it can be cancelled";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_SIGPENDING) else {
        return Finding::unknown(NAME, format!("it can't be told; {meaning}"));
    };
    let used = pending_signals();
    let of_these = used.map_or_else(String::new, |used| format!(", of which {used} are used"));
    let finding = Finding::fine(NAME, shown(soft) + &of_these, meaning);
    if soft >= ENOUGH_TIMERS && !used.is_some_and(|used| is_nearly_all(used, soft)) {
        return finding;
    }
    finding.short(Raise::new("-i", "sigpending").to(soft.saturating_mul(2).max(ENOUGH_TIMERS), hard))
}

/// `SigQ:` of `/proc/self/status`: what the user has, and the limit.
fn pending_signals() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let queued = status.lines().find_map(|line| line.strip_prefix("SigQ:"))?;
    queued.trim().split('/').next()?.parse().ok()
}

fn locked_memory() -> Finding {
    const NAME: &str = "RLIMIT_MEMLOCK";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Finding::unknown(NAME, "what a process may lock into memory can't be told");
    };
    let size = if soft == RLIM_INFINITY { "unlimited".into() } else { Size(soft).to_string() };
    let finding = Finding::fine(
        NAME,
        size,
        "each endpoint of a shm: channel that was made `unswapped` locks all that it maps, a ring's data twice; \
         other channels lock nothing, and CAP_IPC_LOCK lifts the limit",
    );
    if soft >= ENOUGH_LOCKED_BYTES {
        return finding;
    }
    finding.short(Raise { flag: "-l", name: "memlock", unit: 1 << 10 }.to(USUAL_LOCKED_BYTES, hard))
}

/// How a process's limit is raised.
pub(super) struct Raise {
    /// Of the shell's `ulimit`.
    flag: &'static str,
    /// Of `prlimit(1)`.
    name: &'static str,
    /// What `ulimit` counts in.
    unit: u64,
}

impl Raise {
    pub(super) const fn new(flag: &'static str, name: &'static str) -> Self {
        Self { flag, name, unit: 1 }
    }

    /// Up to the hard limit anybody may raise it.
    pub(super) fn to(self, limit: u64, hard: u64) -> String {
        let Self { flag, name, unit } = self;
        match limit <= hard {
            true => format!("ulimit {flag} {}", limit / unit),
            false => format!("sudo prlimit --pid $$ --{name}={limit}:{limit}"),
        }
    }
}

/// A limit, or that there is none: the system's largest number stands for it.
fn shown(limit: u64) -> String {
    if limit >= i64::MAX as u64 { "unlimited".into() } else { limit.to_string() }
}

pub(super) fn is_nearly_all(used: u64, most: u64) -> bool {
    used.saturating_add(most / SPARE_FRACTION) >= most
}

#[cfg(test)]
mod tests {
    use super::{Raise, is_nearly_all, shown};

    #[test]
    fn beyond_the_hard_limit_it_takes_root() {
        let descriptors = |hard| Raise::new("-n", "nofile").to(1024, hard);
        assert_eq!(descriptors(4096), "ulimit -n 1024");
        assert_eq!(descriptors(100), "sudo prlimit --pid $$ --nofile=1024:1024");
        let memory = |hard| Raise { flag: "-l", name: "memlock", unit: 1024 }.to(8192, hard);
        assert_eq!(memory(8192), "ulimit -l 8");
        assert_eq!(memory(0), "sudo prlimit --pid $$ --memlock=8192:8192");
    }

    #[test]
    fn no_limit_is_no_number() {
        assert_eq!(shown(i64::MAX as u64), "unlimited");
        assert_eq!(shown(1024), "1024");
    }

    #[test]
    fn a_tenth_is_to_be_left() {
        assert!(is_nearly_all(90, 100) && !is_nearly_all(89, 100));
        assert!(!is_nearly_all(3000, u64::MAX));
    }
}
