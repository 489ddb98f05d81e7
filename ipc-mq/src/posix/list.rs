//! The directory of the kernel's queues, `mq_overview(7)`: usually mounted on
//! `/dev/mqueue`, reached without a mount point where that is permitted.

use super::{limits, sys, transport::queue_path};
use crate::place::{self, entries};
use ipc_core::{ChannelError, ChannelName, OsError};
use nix::{
    dir::Dir,
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
    let Some(mounted) = sys::mounted_queues(Path::new(MOUNT_POINT))? else {
        return Ok(sorted(entries_of(&mut entries(detached(&not_mounted())?)?)?));
    };
    let mut directory = entries(mounted)?;
    let found = entries_of(&mut directory)?;
    let answer = match are_ours(&directory, &found)? {
        Some(true) => return Ok(sorted(found)),
        Some(false) => detached(&of_another_namespace()),
        // There is none that could tell; who may look elsewhere is sure.
        None => match detached("") {
            Err(ChannelError::Unsupported(_)) => return Ok(sorted(found)),
            answer => answer,
        },
    };
    Ok(sorted(entries_of(&mut entries(answer?)?)?))
}

/// A queue in a directory.
struct Entry {
    name: ChannelName,
    inode: u64,
}

fn entries_of(directory: &mut Dir) -> Result<Vec<Entry>, OsError> {
    let mut found = Vec::new();
    for entry in directory.iter() {
        let entry = entry.map_err(|errno| OsError::new("readdir", errno))?;
        let name = entry.file_name().to_str().ok().and_then(|name| ChannelName::new(name).ok());
        found.extend(name.map(|name| Entry { name, inode: entry.ino() }));
    }
    Ok(found)
}

fn sorted(found: Vec<Entry>) -> Vec<ChannelName> {
    let mut names: Vec<_> = found.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

/// Whether the queues that were found in the directory are those of this thread's namespace, which
/// each have a file system of their own: what is mounted may be another one's. `None` if there is
/// none, or none that may be opened.
fn are_ours(directory: &Dir, found: &[Entry]) -> Result<Option<bool>, ChannelError> {
    let device = place::status(directory)?.st_dev;
    for Entry { name, inode } in found {
        match sys::locate(&queue_path(name)) {
            Ok(queue) => return Ok(Some(queue.st_dev == device)),
            Err(Errno::ENOENT) => {
                let seen = fstatat(directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
                // Else it has been removed.
                if seen.is_ok_and(|seen| seen.st_ino == *inode) {
                    return Ok(Some(false));
                }
            }
            Err(Errno::EACCES) => {}
            Err(errno) => return Err(limits::explain_any("mq_open", errno)),
        }
    }
    Ok(None)
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
    match sys::mounted_queues(Path::new(MOUNT_POINT))? {
        Some(directory) => Ok(directory),
        None => detached(&not_mounted()),
    }
}

/// The queues of this thread's namespace, whatever is mounted. Where that isn't to be had, `why` it
/// takes it and what to do.
fn detached(why: &str) -> Result<OwnedFd, ChannelError> {
    sys::detached_queues().map_err(|error| match error.error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => error.into(),
        // No privilege, or a kernel or a sandbox without these calls.
        _ => ChannelError::Unsupported(why.to_owned()),
    })
}

fn not_mounted() -> String {
    format!(
        "the kernel shows its queues only where they are mounted: \
         run `mkdir -p {MOUNT_POINT} && mount -t mqueue none {MOUNT_POINT}` as root, or list them as root"
    )
}

fn of_another_namespace() -> String {
    format!(
        "what is mounted on {MOUNT_POINT} are the queues of another IPC namespace: \
         run `mount -t mqueue none {MOUNT_POINT}` as root in this one, or list them as root"
    )
}
