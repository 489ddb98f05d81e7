//! The directory of the kernel's queues, `mq_overview(7)`: usually mounted on
//! `/dev/mqueue`, reached without a mount point where that is permitted.

use super::sys;
use crate::place::entries;
use ipc_core::{ChannelError, ChannelName, OsError};
use nix::{
    errno::Errno,
    fcntl::AtFlags,
    sys::stat::{FileStat, fstatat},
};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

const MOUNT_POINT: &str = "/dev/mqueue";

/// The names of all queues that are names of channels, sorted.
pub(crate) fn names() -> Result<Vec<ChannelName>, ChannelError> {
    let mut directory = entries(queues()?)?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let entry = entry.map_err(|errno| OsError::new("readdir", errno))?;
        names.extend(entry.file_name().to_str().ok().and_then(|name| ChannelName::new(name).ok()));
    }
    names.sort();
    Ok(names)
}

/// Where the queue with this status can be seen. The directory may belong to another
/// namespace, so it is the inode that decides, not the name.
pub(crate) fn visible_path(name: &ChannelName, queue: &FileStat) -> Option<PathBuf> {
    let path = Path::new(MOUNT_POINT).join(name.as_str());
    let seen = nix::sys::stat::lstat(&path).ok()?;
    ((seen.st_dev, seen.st_ino) == (queue.st_dev, queue.st_ino)).then_some(path)
}

/// The owner and permission bits of a queue that can't be opened, where they can be seen.
pub(crate) fn status(name: &ChannelName) -> Option<FileStat> {
    fstatat(queues().ok()?, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}

fn queues() -> Result<OwnedFd, ChannelError> {
    if let Some(directory) = sys::mounted_queues(Path::new(MOUNT_POINT))? {
        return Ok(directory);
    }
    sys::detached_queues().map_err(|error| match error.error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => error.into(),
        // No privilege, or a kernel or a sandbox without these calls.
        _ => ChannelError::Unsupported(format!(
            "the kernel shows its queues only where they are mounted: \
             run `mkdir -p {MOUNT_POINT} && mount -t mqueue none {MOUNT_POINT}` as root, or list them as root"
        )),
    })
}
