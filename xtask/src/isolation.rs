//! A `/dev/shm` and kernel queues of our own, `namespaces(7)`, so that what is left behind
//! is known to be ours and nobody else's tests get in the way.
//!
//! The superuser may have new namespaces for mounts and queues; others may have them within
//! a user namespace that maps just their own id, in which the programs that are started
//! have no more rights than before. Where neither is permitted, we do without and say so.

use std::{
    fmt,
    process::{Command, ExitCode, Stdio},
};

/// The argument that makes this program try whether namespaces can be had.
pub(crate) const PROBE: &str = "isolation-probe";

/// What separates this run from the rest of the system.
pub(crate) enum Isolation {
    /// An empty `/dev/shm` and no queues at the start.
    #[cfg(target_os = "linux")]
    Private {
        /// Where the queues can be listed.
        queues: linux::Queues,
    },
    /// The system's own.
    Shared,
}

impl Isolation {
    /// Enters new namespaces where possible. Only before other threads are started.
    pub(crate) fn enter() -> Self {
        // A half-made isolation is none, and there is no way back: try it elsewhere first.
        if !probe_succeeds() {
            return Self::Shared;
        }
        try_enter().unwrap_or(Self::Shared)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(target_os = "linux")]
            Self::Private { .. } => f.write_str("a /dev/shm and kernel queues of our own (namespaces)"),
            Self::Shared => f.write_str("none (namespaces are not permitted here)"),
        }
    }
}

/// What [`PROBE`] does.
pub(crate) fn probe() -> ExitCode {
    if try_enter().is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn probe_succeeds() -> bool {
    let Ok(this) = std::env::current_exe() else { return false };
    let mut probe = Command::new(this);
    probe.arg(PROBE).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

#[cfg(target_os = "linux")]
fn try_enter() -> Option<Isolation> {
    linux::enter().ok().map(|queues| Isolation::Private { queues })
}

#[cfg(not(target_os = "linux"))]
fn try_enter() -> Option<Isolation> {
    None
}

/// The system calls.
#[cfg(target_os = "linux")]
pub(crate) mod linux {
    use nix::{
        mount::{MntFlags, MsFlags, mount, umount2},
        sched::{CloneFlags, unshare},
        unistd::{Gid, Uid},
    };
    use std::{
        env,
        fs::{self, File},
        io,
        os::fd::AsRawFd,
        path::Path,
        process,
    };

    /// The folder of this namespace's queues, which has no name anywhere.
    pub(crate) struct Queues(File);

    impl Queues {
        pub(crate) fn names(&self) -> io::Result<Vec<String>> {
            let entries = fs::read_dir(format!("/proc/self/fd/{}", self.0.as_raw_fd()))?;
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        }
    }

    pub(super) fn enter() -> io::Result<Queues> {
        let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
        let (uid, gid) = (Uid::current(), Gid::current());
        match uid.is_root() {
            true => unshare(namespaces)?,
            false => {
                unshare(namespaces | CloneFlags::CLONE_NEWUSER)?;
                map_own_ids(uid, gid)?;
            }
        }
        // What is mounted from here on is not to be seen outside.
        mount_at(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
        mount_at(Some("tmpfs"), Path::new("/dev/shm"), MsFlags::empty(), Some("mode=1777"))?;
        mount_queues()
    }

    fn map_own_ids(uid: Uid, gid: Gid) -> io::Result<()> {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
    }

    /// Where the system has a place for the queues, programs may look for them there.
    fn mount_queues() -> io::Result<Queues> {
        let usual = Path::new("/dev/mqueue");
        if usual.is_dir() {
            mount_at(Some("mqueue"), usual, MsFlags::empty(), None)?;
            return Ok(Queues(File::open(usual)?));
        }
        let place = env::temp_dir().join(format!("xtask-queues-{}", process::id()));
        fs::create_dir(&place)?;
        let queues = mount_at(Some("mqueue"), &place, MsFlags::empty(), None).and_then(|()| {
            let queues = File::open(&place)?;
            umount2(&place, MntFlags::MNT_DETACH)?;
            Ok(Queues(queues))
        });
        fs::remove_dir(&place)?;
        queues
    }

    fn mount_at(kind: Option<&str>, place: &Path, flags: MsFlags, options: Option<&str>) -> io::Result<()> {
        Ok(mount(kind, place, kind, flags, options)?)
    }
}
