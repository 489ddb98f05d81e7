//! Directories of segments, and segment files made unnamed and published whole:
//! `open(2)` with `O_TMPFILE`, `linkat(2)`, `flock(2)`.

use super::{
    attempt, call,
    fork::{Private, Window},
    ident, limit,
};
use ipc_core::{OsError, user};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, RenameFlags, open, openat, posix_fallocate, renameat2},
    libc,
    sys::{
        stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, stat},
        statvfs::statvfs,
        uio::{pread, pwrite},
    },
    unistd::{Gid, UnlinkatFlags, fchown, linkat, mkdir, unlinkat},
};
use std::{
    ffi::CString,
    fmt,
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The directory that a user's segments live in unless another one is chosen.
pub(crate) fn default_directory() -> PathBuf {
    let shm = "/dev/shm";
    let parent = if is_directory(shm) { PathBuf::from(shm) } else { std::env::temp_dir() };
    parent.join(format!("ipc-{}", ident::euid()))
}

/// What is at a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata {
    pub(crate) identity: Identity,
    pub(crate) kind: FileKind,
    pub(crate) len_bytes: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl fmt::Display for Metadata {
    /// Whose it is, and who may do what with it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}'s, group {}, mode {:04o}", self.uid, self.gid, self.mode)
    }
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

/// What kind of file is at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    Directory,
    Symlink,
    Socket,
    Other,
}

impl From<FileStat> for Metadata {
    fn from(stat: FileStat) -> Self {
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => FileKind::Regular,
            SFlag::S_IFDIR => FileKind::Directory,
            SFlag::S_IFLNK => FileKind::Symlink,
            SFlag::S_IFSOCK => FileKind::Socket,
            _ => FileKind::Other,
        };
        Self {
            identity: Identity { device: stat.st_dev, inode: stat.st_ino },
            kind,
            len_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }
}

/// What is behind a descriptor.
pub(crate) fn metadata(file: impl AsFd) -> Result<Metadata, OsError> {
    call("fstat", || fstat(file.as_fd())).map(Metadata::from)
}

/// What this process takes for the root of all paths; `None` if it isn't told.
pub(crate) fn root() -> Option<Identity> {
    call("stat", || stat("/")).ok().map(|found| Metadata::from(found).identity)
}

/// Makes a directory that only its owner may enter; one that exists is left as it is. Whether it made
/// it: then the umask may have taken from what its owner may, see [`mend_private_directory`].
pub(crate) fn make_private_directory(path: &Path) -> Result<bool, OsError> {
    match attempt("mkdir", || mkdir(path, Mode::S_IRWXU)) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(OsError::new("mkdir", errno)),
    }
}

/// Gives its owner, if that is us, all of a directory of which it lacks one of these bits. Whether
/// that was so.
pub(crate) fn mend_private_directory(path: &Path, lacking: u32) -> Result<bool, OsError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(directory) = call("open", || open(path, flags, Mode::empty())) else { return Ok(false) };
    let found = metadata(&directory)?;
    if found.mode & lacking == lacking || !user::is_same(found.uid, ident::euid()) {
        return Ok(false);
    }
    change_mode(&directory, found.mode | Mode::S_IRWXU.bits()).map(|()| true)
}

/// By the descriptor, which may be one that only names the file: its name may be somebody else's by
/// now.
fn change_mode(file: impl AsFd, mode: u32) -> Result<(), OsError> {
    let (path, mode) = (by_proc(file), Mode::from_bits_truncate(mode));
    call("chmod", || fchmodat(nix::fcntl::AT_FDCWD, &*path, mode, FchmodatFlags::FollowSymlink))
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Directory {
    /// Opens the directory itself, never one that a symbolic link leads to.
    pub(crate) fn open(path: &Path) -> Result<Self, OsError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        call("open", || open(path, flags, Mode::empty())).map(Self).map_err(limit::explained)
    }

    /// What is known about the directory.
    pub(crate) fn metadata(&self) -> Result<Metadata, OsError> {
        metadata(&self.0)
    }

    /// Opens the file of this name for reading, or for reading and writing. It doesn't
    /// follow a symbolic link and doesn't wait for the other end of a fifo.
    pub(crate) fn open_file(&self, name: &str, write: bool) -> Result<File, OsError> {
        let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        let flags = access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        call("open", || openat(&self.0, name, flags, Mode::empty())).map(File::from).map_err(limit::explained)
    }

    /// What is at this name, a symbolic link itself and not its target.
    pub(crate) fn metadata_of(&self, name: &str) -> Result<Metadata, OsError> {
        call("fstatat", || fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)).map(Metadata::from)
    }

    /// A path of the name that doesn't depend on what the directory is called, nor is long.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        Path::new(DESCRIPTORS).join(self.0.as_raw_fd().to_string()).join(name)
    }

    /// Sets the permission bits of what is at this name, if it is of this kind and ours.
    pub(crate) fn set_mode(&self, name: &str, kind: FileKind, mode: u32) -> Result<(), OsError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = call("open", || openat(&self.0, name, flags, Mode::empty())).map_err(limit::explained)?;
        if metadata(&file)?.kind != kind {
            return Err(OsError::new("chmod", Errno::ENOENT));
        }
        change_mode(&file, mode)
    }

    /// Gives what is at the first name the second one, too. False if something has that.
    pub(crate) fn link_name(&self, from: &str, to: &str) -> Result<bool, OsError> {
        match attempt("linkat", || linkat(&self.0, from, &self.0, to, AtFlags::empty())) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(OsError::new("linkat", errno)),
        }
    }

    /// Exchanges what is at two names, which both exist.
    pub(crate) fn exchange(&self, one: &str, other: &str) -> Result<(), OsError> {
        let flags = RenameFlags::RENAME_EXCHANGE;
        call("renameat2", || renameat2(&self.0, one, &self.0, other, flags))
    }

    /// Takes the name away.
    pub(crate) fn unlink(&self, name: &str) -> Result<(), OsError> {
        call("unlinkat", || unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir))
    }

    /// The names in the directory.
    pub(crate) fn names(&self) -> Result<Vec<String>, OsError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir =
            call("open", || Dir::openat(&self.0, ".", flags, Mode::empty())).map_err(limit::explained)?;
        let mut names = Vec::new();
        let mut entries = dir.iter();
        while let Some(entry) = call("readdir", || entries.next().transpose())? {
            names.extend(entry.file_name().to_str().map(str::to_owned).ok());
        }
        Ok(names)
    }

    /// Takes the directory's lock, which every link and unlink of a name is made under. `None`
    /// if somebody else has it.
    pub(crate) fn try_lock(&self) -> Result<Option<DirectoryLock>, OsError> {
        // A description of its own: this one may be shared by threads.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let own = call("open", || openat(&self.0, ".", flags, Mode::empty())).map_err(limit::explained)?;
        match attempt("flock", || flock(&own, libc::LOCK_EX | libc::LOCK_NB)) {
            Ok(()) => Ok(Some(DirectoryLock(own))),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(OsError::new("flock", errno)),
        }
    }

    /// Makes a file without a name; `None` where the file system can't, or where it could
    /// have none later: that takes `/proc`.
    pub(crate) fn make_unnamed(&self, window: &Window) -> Result<Option<Unpublished>, OsError> {
        if !is_directory(DESCRIPTORS) {
            return Ok(None);
        }
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        match attempt("open(O_TMPFILE)", || openat(&self.0, ".", flags, Mode::from_bits_truncate(0o600))) {
            Ok(file) => Ok(Some(Unpublished { file: window.keep(file), temporary: None })),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT) => Ok(None),
            Err(errno) => Err(limit::explained(OsError::new("open(O_TMPFILE)", errno))),
        }
    }

    /// Makes a file with a temporary name, which a kill leaves behind.
    pub(crate) fn make_temporary(&self, window: &Window) -> Result<Unpublished, OsError> {
        let name = format!("{TEMPORARY}{:032x}", u128::from_ne_bytes(ident::random()?));
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = call("open", || openat(&self.0, &*name, flags, Mode::from_bits_truncate(0o600)))
            .map_err(limit::explained)?;
        Ok(Unpublished { file: window.keep(file), temporary: Some(name) })
    }

    /// Gives the file its name. False if something has that name already.
    pub(crate) fn publish(&self, made: &mut Unpublished, name: &str) -> Result<bool, OsError> {
        let done = match &made.temporary {
            Some(temporary) => self.rename_new(temporary, name),
            None => self.link(&made.file, name),
        };
        match done {
            Ok(true) => made.temporary = None,
            Ok(false) | Err(_) => made.abandon(self),
        }
        done
    }

    fn rename_new(&self, from: &str, to: &str) -> Result<bool, OsError> {
        let flags = RenameFlags::RENAME_NOREPLACE;
        match attempt("renameat2", || renameat2(&self.0, from, &self.0, to, flags)) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(OsError::new("renameat2", errno)),
        }
    }

    /// Names an unnamed file by its descriptor. (`AT_EMPTY_PATH` takes privileges, before
    /// Linux 6.10.)
    fn link(&self, file: &Private, name: &str) -> Result<bool, OsError> {
        let by_proc = by_proc(file);
        let flags = AtFlags::AT_SYMLINK_FOLLOW;
        match attempt("linkat", || linkat(nix::fcntl::AT_FDCWD, &*by_proc, &self.0, name, flags)) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(OsError::new("linkat", errno)),
        }
    }

    /// Bytes that a user may still allocate on the directory's file system.
    #[allow(clippy::unnecessary_cast, reason = "fewer bits in other targets' C libraries")]
    pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
        let path = CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
        let stat = call("statvfs", || statvfs(path.as_c_str())).ok()?;
        Some((stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64))
    }
}

/// A path that leads to what is behind a descriptor.
fn by_proc(file: impl AsFd) -> String {
    format!("{DESCRIPTORS}/{}", file.as_fd().as_raw_fd())
}

fn is_directory(path: &str) -> bool {
    call("stat", || stat(path)).is_ok_and(|found| Metadata::from(found).kind == FileKind::Directory)
}

/// Where a process finds its own descriptors by name.
const DESCRIPTORS: &str = "/proc/self/fd";

/// What temporary names start with; no channel's name does.
pub(crate) const TEMPORARY: &str = ".making-";

/// The directory's lock, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct DirectoryLock(OwnedFd);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Not by closing alone: a process that is just being spawned has the description too.
        let _ = attempt("flock", || flock(&self.0, libc::LOCK_UN));
    }
}

fn flock(directory: &OwnedFd, operation: libc::c_int) -> nix::Result<()> {
    // SAFETY: takes numbers, and the descriptor is open.
    Errno::result(unsafe { libc::flock(directory.as_raw_fd(), operation) }).map(drop)
}

/// A file that has no name yet, or only a temporary one, by a description that carries no lock.
#[derive(Debug)]
pub(crate) struct Unpublished {
    pub(crate) file: Private,
    temporary: Option<String>,
}

impl Unpublished {
    /// Opens it anew, for reading: a description of its own, which may carry a lock.
    pub(crate) fn reopen(&self, directory: &Directory) -> Result<File, OsError> {
        if let Some(name) = &self.temporary {
            return directory.open_file(name, false);
        }
        let (path, flags) = (by_proc(&self.file), OFlag::O_RDONLY | OFlag::O_CLOEXEC);
        call("open", || open(&*path, flags, Mode::empty())).map(File::from).map_err(limit::explained)
    }

    /// Gives up: takes the temporary name away if there is one.
    pub(crate) fn abandon(&mut self, directory: &Directory) {
        if let Some(name) = self.temporary.take() {
            let _ = directory.unlink(&name);
        }
    }
}

/// Why a call on a file or directory failed, as far as it matters to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    NotFound,
    AlreadyExists,
    NotPermitted,
    IsSymlink,
    IsDirectory,
    NotDirectory,
    /// A socket, or a device without a driver.
    NotOpenable,
    Full,
    /// The call is there, and not for this.
    NotSupported,
    Other,
}

impl Cause {
    pub(crate) fn of(error: &OsError) -> Self {
        match error.error.raw_os_error() {
            Some(libc::ENOENT) => Self::NotFound,
            Some(libc::EEXIST) => Self::AlreadyExists,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Self::NotPermitted,
            Some(libc::ELOOP) => Self::IsSymlink,
            Some(libc::EISDIR) => Self::IsDirectory,
            Some(libc::ENOTDIR) => Self::NotDirectory,
            Some(libc::ENXIO | libc::ENODEV) => Self::NotOpenable,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Self::Full,
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => Self::NotSupported,
            _ => Self::Other,
        }
    }
}

/// Reads as many bytes as `bytes` has, from `offset` on. False if the file ends before.
pub(crate) fn read_at(file: impl AsFd, bytes: &mut [u8], offset: u64) -> Result<bool, OsError> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset_of(offset + done as u64)?;
        match call("pread", || pread(file.as_fd(), &mut bytes[done..], at))? {
            0 => return Ok(false),
            read => done += read,
        }
    }
    Ok(true)
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_at(file: impl AsFd, bytes: &[u8], offset: u64) -> Result<(), OsError> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset_of(offset + done as u64)?;
        match call("pwrite", || pwrite(file.as_fd(), &bytes[done..], at))? {
            0 => return Err(OsError::new("pwrite", Errno::ENOSPC)),
            written => done += written,
        }
    }
    Ok(())
}

fn offset_of(at: u64) -> Result<libc::off_t, OsError> {
    libc::off_t::try_from(at).map_err(|_| OsError::new("pread", Errno::EOVERFLOW))
}

/// Allocates every page of the file's first `len_bytes`, so that no later access can find
/// the file system full. That may take seconds.
pub(crate) fn allocate(file: impl AsFd, len_bytes: u64) -> Result<(), OsError> {
    let len = libc::off_t::try_from(len_bytes).map_err(|_| OsError::new("posix_fallocate", Errno::EFBIG))?;
    call("posix_fallocate", || posix_fallocate(file.as_fd(), 0, len))
}

/// Sets the permission bits to exactly these, whatever the umask.
pub(crate) fn set_mode(file: impl AsFd, mode: u32) -> Result<(), OsError> {
    call("fchmod", || fchmod(file.as_fd(), Mode::from_bits_truncate(mode)))
}

/// Gives the file to a group.
pub(crate) fn set_group(file: impl AsFd, gid: u32) -> Result<(), OsError> {
    call("fchown", || fchown(file.as_fd(), None, Some(Gid::from_raw(gid))))
}
