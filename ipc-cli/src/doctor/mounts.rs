//! Mounted file systems, `proc_pid_mounts(5)`, and the room of those that channels are on.

use super::Finding;
use crate::units::Size;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// A channel of default size has 1 MiB; less than this many bytes leave room for few.
const ENOUGH_BYTES: u64 = 64 << 20;
/// Less than this many bytes free, and the next channels may be refused.
const ENOUGH_FREE_BYTES: u64 = 16 << 20;

/// A mounted file system.
pub(super) struct Mount {
    pub(super) point: PathBuf,
    /// `tmpfs`.
    pub(super) kind: String,
    pub(super) options: String,
}

/// What is mounted at this path.
pub(super) fn find(path: &str) -> Option<Mount> {
    holding(Path::new(path)).filter(|mount| mount.point == Path::new(path))
}

/// What the file at this path is on: the innermost mount, of several the last.
pub(super) fn holding(path: &Path) -> Option<Mount> {
    innermost(&fs::read_to_string("/proc/self/mounts").ok()?, path)
}

fn innermost(mounts: &str, path: &Path) -> Option<Mount> {
    let mut found: Option<Mount> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1).map(str::to_owned);
        let point = unescaped(&fields.next()?);
        let is_inner = found.as_ref().is_none_or(|outer| point.starts_with(&outer.point));
        if path.starts_with(&point) && is_inner {
            let (kind, options) = (fields.next()?, fields.next()?);
            found = Some(Mount { point, kind, options });
        }
    }
    found
}

/// Spaces and the like stand there as `\040`.
fn unescaped(field: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), field.as_bytes());
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped.filter(|_| *first == b'\\') {
            Some(byte) => (bytes.push(byte), rest = &tail[3..]),
            None => (bytes.push(*first), rest = tail),
        };
    }
    OsString::from_vec(bytes).into()
}

/// How much fits, and how much of it is free: of the file system that `path` is on.
pub(super) fn room(name: &'static str, path: &Path, meaning: &str) -> Finding {
    let (Some(mount), Ok(status)) = (holding(path), statvfs(path)) else {
        return Finding::unknown(name, format!("its size can't be told; {meaning}"));
    };
    let Mount { point, kind, options } = mount;
    let unit = status.fragment_size();
    let (size, free) = (bytes(status.blocks(), unit), bytes(status.blocks_available(), unit));
    let point = point.display();
    if options.split(',').any(|option| option == "ro") || status.flags().contains(FsFlags::ST_RDONLY) {
        let meaning = format!("{} can't be written, so no channels are made there", path.display());
        return Finding::missing(name, meaning, format!("mount -o remount,rw {point}  or  export IPC_DIR=…"));
    }
    // A tmpfs without a limit says that it has no blocks.
    let shown = match size {
        0 => format!("{kind}, unlimited"),
        _ => format!("{kind} of {}, {} free", Size(size), Size(free)),
    };
    let finding = Finding::fine(name, shown, meaning);
    match size != 0 && (size < ENOUGH_BYTES || free < ENOUGH_FREE_BYTES) {
        true if kind == "tmpfs" => {
            let wanted = ENOUGH_BYTES.max(size.saturating_mul(2));
            finding.short(format!("mount -o remount,size={wanted} {point}"))
        }
        true => finding.short("ipc rm ADDR  or  export IPC_DIR=…"),
        false => finding,
    }
}

/// So many blocks. Some file systems without a limit, and those that know none, say that they have
/// as many as can be said.
fn bytes(blocks: u64, unit: u64) -> u64 {
    blocks.saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::{bytes, innermost};
    use std::path::Path;

    const MOUNTS: &str = "\
/dev/root / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw,size=64k 0 0
none /mnt/a\\040b tmpfs ro 0 0
none /mnt/a\\040b/c ramfs rw 0 0
none /dev/shm tmpfs rw 0 0
";

    #[test]
    fn no_file_system_is_too_large() {
        assert_eq!((bytes(3, 4096), bytes(u64::MAX, 4096)), (12_288, u64::MAX));
    }

    #[test]
    fn a_file_is_on_the_innermost_mount_and_of_several_on_the_last() {
        let on = |path: &str| innermost(MOUNTS, Path::new(path)).map(|mount| (mount.kind, mount.options));
        let is = |kind: &str, options: &str| Some((kind.to_owned(), options.to_owned()));
        assert_eq!(on("/dev/shm/ipc-0"), is("tmpfs", "rw"));
        assert_eq!(on("/dev/shmem"), is("ext4", "rw"));
        assert_eq!(on("/mnt/a b"), is("tmpfs", "ro"));
        assert_eq!(on("/mnt/a b/c/d"), is("ramfs", "rw"));
    }
}
