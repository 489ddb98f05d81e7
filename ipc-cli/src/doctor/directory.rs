//! The directory of the channels: the one that `IPC_DIR` names, or the user's own. Where it
//! is, who may change it, and what room it has.

use super::{
    Finding,
    mounts::{self, Mount},
};
use nix::unistd::{AccessFlags, access, geteuid};
use std::{
    env, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const SHARED_MEMORY: &str = "/dev/shm";
const WHAT_FOR: &str = "shm: channels are files in it, and what finds sysv: and unix: ones";
const ANOTHER: &str = "mkdir -m 700 DIRECTORY && export IPC_DIR=DIRECTORY";

pub(super) fn findings() -> Vec<Finding> {
    match env::var_os("IPC_DIR").filter(|path| !path.is_empty()).map(PathBuf::from) {
        Some(path) => {
            let path = std::path::absolute(&path).unwrap_or(path);
            let found = directory(&path);
            let room = found.value.is_some().then(|| mounts::room("IPC_DIR room", &path, WHAT_FOR));
            [found].into_iter().chain(room).chain(shared_memory(Some(&path))).collect()
        }
        None => [vec![own()], shared_memory(None)].concat(),
    }
}

/// The directory that was chosen.
fn directory(path: &Path) -> Finding {
    const NAME: &str = "IPC_DIR";
    let shown = path.display();
    // Where a symbolic link leads is not asked: channels aren't looked for behind one.
    let found = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => found,
        Ok(_) => {
            let meaning = format!("{shown} is no directory itself, so there are no channels in it");
            return Finding::missing(NAME, meaning, ANOTHER);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let meaning = format!("{shown} doesn't exist, so there are no channels in it");
            return Finding::missing(NAME, meaning, format!("mkdir -m 700 {shown}  or  unset IPC_DIR"));
        }
        Err(error) => {
            return Finding::missing(NAME, format!("{shown} can't be looked at: {error}"), ANOTHER);
        }
    };
    let value = format!("{shown}, user {}'s, group {}, mode {:04o}", found.uid(), found.gid(), mode(&found));
    if access(path, AccessFlags::R_OK | AccessFlags::X_OK).is_err() {
        let meaning = format!("{value}: user {} may not look into it", geteuid());
        return Finding::missing(NAME, meaning, ANOTHER);
    }
    let finding = |meaning: &str| Finding::fine(NAME, &value, meaning);
    if mode(&found) & (OTHERS_WRITE | STICKY) == OTHERS_WRITE {
        let meaning = if is_ours_or_roots(&found) {
            "anybody may take channels away in it, also those in use, and put others in their places"
        } else {
            "anybody may take channels away in it, and its owner isn't trusted by itself: it is refused"
        };
        return finding(meaning).short(format!("chmod +t {shown}"));
    }
    // A read-only file system is the next finding's.
    if access(path, AccessFlags::W_OK) == Err(nix::errno::Errno::EACCES) {
        let meaning = "this user can open the channels in it that are open to it, and make none";
        return finding(meaning).short(ANOTHER);
    }
    if mode(&found) & (GROUP_WRITES | STICKY) == GROUP_WRITES {
        return finding("its owner and its group may take away any channel in it: those are to be trusted");
    }
    if !is_ours_or_roots(&found) {
        return finding("its owner may take away any channel in it, and decides who may come in");
    }
    finding("channels are looked for here instead of in the user's own directory: all who meet set it alike")
}

const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;

fn is_ours_or_roots(found: &fs::Metadata) -> bool {
    [geteuid().as_raw(), ROOT].contains(&found.uid())
}

fn mode(found: &fs::Metadata) -> u32 {
    found.mode() & 0o7777
}

/// Where none was chosen: the user's own directories, of shm: channels and of what finds the
/// others. They are made at need, and used only if nobody else can change them.
fn own() -> Finding {
    const NAME: &str = "IPC_DIR";
    let (uid, parent) = (geteuid().as_raw(), Path::new(SHARED_MEMORY));
    for path in [format!("ipc-{uid}"), format!("ipc-mq-{uid}")].map(|name| parent.join(name)) {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let shown = path.display();
        if !found.is_dir() || found.uid() != uid {
            let meaning = format!(
                "{shown} is in the way, and user {}'s, so there are no channels of user {uid}'s in it",
                found.uid()
            );
            return Finding::missing(NAME, meaning, format!("rm -r {shown}  or  {ANOTHER}"));
        }
        if mode(&found) & (OTHERS_WRITE | GROUP_WRITES) != 0 {
            let meaning = format!(
                "{shown} can be written by others (mode {:04o}), so no channels are looked for in it",
                mode(&found)
            );
            return Finding::missing(NAME, meaning, format!("chmod 700 {shown}"));
        }
    }
    let meaning = format!(
        "channels are in user {uid}'s own directory, which nobody else may enter: to meet other users, set it to \
         one that they may enter"
    );
    Finding::fine(NAME, "not set", meaning)
}

/// What the user's own directory is in; `chosen` is another one that is used instead.
fn shared_memory(chosen: Option<&Path>) -> Vec<Finding> {
    const MOUNT: &str = "mkdir -p /dev/shm && mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm";
    if let Some(path) = chosen.filter(|path| !path.starts_with(SHARED_MEMORY)) {
        let meaning = format!("not used: IPC_DIR has the channels in {}", path.display());
        let kind = mounts::find(SHARED_MEMORY).map_or_else(|| "not mounted".into(), |mount| mount.kind);
        return vec![Finding::fine(SHARED_MEMORY, kind, meaning)];
    }
    let Some(Mount { kind, options, .. }) = mounts::find(SHARED_MEMORY) else {
        let meaning =
            "it isn't mounted: shm: channels are files of the temporary directory, which may be on a disk";
        return vec![Finding::fine(SHARED_MEMORY, "not mounted", meaning).short(MOUNT)];
    };
    let room = mounts::room(SHARED_MEMORY, Path::new(SHARED_MEMORY), WHAT_FOR);
    let room = if kind != "tmpfs" && room.command.is_none() { room.short(MOUNT) } else { room };
    let options = Finding::fine(
        "/dev/shm options",
        options,
        "nosuid, nodev and noexec are fine: segments hold data only",
    );
    vec![room, options]
}
