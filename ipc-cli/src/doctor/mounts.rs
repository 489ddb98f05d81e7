//! Mounted file systems, `proc_pid_mountinfo(5)`, and the one of shared memory.

use super::Finding;
use crate::units::Size;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs;

/// A channel of default size has 1 MiB; less than this many bytes leave room for few.
const ENOUGH_BYTES: u64 = 64 << 20;
/// Less than this many bytes free, and the next channels may be refused.
const ENOUGH_FREE_BYTES: u64 = 16 << 20;

/// A mounted file system.
pub(super) struct Mount {
    /// `tmpfs`.
    pub(super) kind: String,
    options: String,
}

/// What is mounted at this path; the last one hides the others.
pub(super) fn find(path: &str) -> Option<Mount> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut found = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if fields.next() == Some(path) {
            found = Some(Mount {
                kind: fields.next().unwrap_or_default().into(),
                options: fields.next().unwrap_or_default().into(),
            });
        }
    }
    found
}

pub(super) fn shared_memory() -> Vec<Finding> {
    const NAME: &str = "/dev/shm";
    const MOUNT: &str = "mkdir -p /dev/shm && mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm";
    let Some(mount) = find(NAME) else {
        let meaning =
            "it isn't mounted: shm: channels are files of the temporary directory, which may be on a disk";
        return vec![Finding::fine(NAME, "not mounted", meaning).short(MOUNT)];
    };
    let Ok(status) = statvfs(NAME) else {
        return vec![Finding::unknown(NAME, "its size can't be told; shm: channels are files in it")];
    };
    let unit = status.fragment_size();
    let (size, free) = (status.blocks() * unit, status.blocks_available() * unit);
    let meaning = "shm: channels are files in it, and what finds sysv: and unix: ones";
    // A tmpfs without a limit says that it has no blocks.
    let shown = match size {
        0 => format!("{}, unlimited", mount.kind),
        _ => format!("{} of {}, {} free", mount.kind, Size(size), Size(free)),
    };
    let finding = Finding::fine(NAME, shown, meaning);
    let larger = || format!("mount -o remount,size={} /dev/shm", ENOUGH_BYTES.max(size * 2));
    let sized = if mount.options.split(',').any(|option| option == "ro")
        || status.flags().contains(FsFlags::ST_RDONLY)
    {
        let meaning = "it can't be written, so there are no shm: channels in it";
        Finding::missing(NAME, meaning, "mount -o remount,rw /dev/shm  or  export IPC_DIR=…")
    } else if mount.kind != "tmpfs" {
        finding.short(MOUNT)
    } else if size != 0 && (size < ENOUGH_BYTES || free < ENOUGH_FREE_BYTES) {
        finding.short(larger())
    } else {
        finding
    };
    let options = Finding::fine(
        "/dev/shm options",
        mount.options,
        "nosuid, nodev and noexec are fine: segments hold data only",
    );
    vec![sized, options]
}
