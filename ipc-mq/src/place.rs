//! Where the transports that need names of their own keep them: a directory of this user's.
//!
//! It is `/dev/shm/ipc-mq-UID` (in the system's temporary directory where there is no
//! `/dev/shm`), or `.mq` in the directory that `IPC_DIR` names: no channel's name begins with
//! a dot, so nothing else is called so. It is made with mode 0700, whatever the umask, and used
//! only if it is a directory itself, belongs to its user and can't be written by others; to the one
//! that `IPC_DIR` names others may write if it has the sticky bit, or is ours, root's or a trusted
//! user's. It has to be this machine's own: what is in it stands for queues and sockets of the kernel
//! that is asked, and another machine's names look the same. It is one directory, in which the names
//! of `sysv:` and `unix:` channels lie side by side. Whoever has found it keeps it open; each time it
//! is asked again what has its name, which may be another one by then, and what is allowed there, and
//! it is opened anew where it isn't the same.
//!
//! What is only to be read is the text of a symbolic link that leads nowhere: made whole by
//! one call (`symlink(2)`), read by another. What has a mode or is locked is a file: it is
//! written without a name (`O_TMPFILE`, `open(2)`) and then linked. So a killed writer leaves
//! nothing. A name is taken only if it is free; it is taken away under a lock on the directory
//! (`flock(2)`), which the kernel takes back from the dead.

use crate::{
    at_fork::{self, Private},
    flock::{Locked, holder},
    limit,
    wait::uninterrupted,
};
use ipc_core::{ChannelError, ChannelName, OsError, user};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat, readlinkat},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat},
    unistd::{AccessFlags, UnlinkatFlags, close, faccessat, geteuid, linkat, symlinkat, unlinkat},
};
use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// No file of ours is longer, in bytes.
const LONGEST_FILE: usize = 4096;

/// A directory to keep names in, and whose files in it are believed.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    path: Arc<Path>,
    /// In a directory that somebody chose, and others may write to.
    is_in_chosen: bool,
    /// Users besides this one whose directories and files are believed.
    trusted_uids: Arc<[u32]>,
    /// What was found there last. Nobody waits for the lock: who was forked while another thread held
    /// it would wait for ever.
    last: Arc<Mutex<Option<Arc<Directory>>>>,
}

/// A directory, open to look up names. While it is, no other one gets its number.
#[derive(Debug)]
pub(crate) struct Directory {
    descriptor: OwnedFd,
    device: u64,
    inode: u64,
}

impl Directory {
    fn is(&self, found: &FileStat) -> bool {
        (self.device, self.inode) == (found.st_dev, found.st_ino)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Home {
    /// This user's own.
    pub(crate) fn of_user() -> Self {
        match env::var_os("IPC_DIR").filter(|path| !path.is_empty()) {
            Some(path) => Self { is_in_chosen: true, ..Self::at(PathBuf::from(path).join(".mq")) },
            None => Self::at(default_parent().join(format!("ipc-mq-{}", geteuid()))),
        }
    }

    /// A directory that was chosen.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path: path.into(), is_in_chosen: false, trusted_uids: Arc::default(), last: Arc::default() }
    }

    /// The same, where these users' files are believed too.
    pub(crate) fn trusting(self, uids: &[u32]) -> Self {
        Self { trusted_uids: uids.into(), ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it to look up names; `None` if nobody has made it yet.
    pub(crate) fn open(&self) -> Result<Option<Folder>, ChannelError> {
        if let Some((descriptor, found)) = self.found_again() {
            let uid = self.check(&*descriptor, &found)?;
            return Ok(Some(Folder { descriptor, home: self.clone(), uid }));
        }
        let open = || self.open_for(OFlag::O_PATH);
        let Some((descriptor, found, uid)) = self.checked(open)? else { return Ok(None) };
        let (device, inode) = (found.st_dev, found.st_ino);
        let descriptor = Arc::new(Directory { descriptor, device, inode });
        if let Ok(mut last) = self.last.try_lock() {
            *last = Some(Arc::clone(&descriptor));
        }
        Ok(Some(Folder { descriptor, home: self.clone(), uid }))
    }

    /// The directory that was found last, if it has the name still; and how it is now.
    fn found_again(&self) -> Option<(Arc<Directory>, FileStat)> {
        let last = Arc::clone(self.last.try_lock().ok()?.as_ref()?);
        let found = fstatat(AT_FDCWD, &*self.path, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        last.is(&found).then_some((last, found))
    }

    /// The same; it is made if it is missing.
    pub(crate) fn open_or_make(&self) -> Result<Folder, ChannelError> {
        self.or_make(Self::open)
    }

    /// Opens it and locks it: nobody else takes names away while this is held. The lock goes
    /// with the process: no child has it. Who only looks at channels takes none.
    pub(crate) fn lock(&self) -> Result<Option<LockedFolder>, ChannelError> {
        // Each time a description of its own: threads exclude each other too.
        let open = || at_fork::private(|| self.open_for(OFlag::O_RDONLY), OwnedFd::as_raw_fd);
        let Some((unlocked, _, uid)) = self.checked(open)? else { return Ok(None) };
        let descriptor = Locked::wait(unlocked).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => self.locked_by_somebody(),
            other => OsError::new("flock", other).into(),
        })?;
        Ok(Some(Folder { descriptor, home: self.clone(), uid }))
    }

    /// The same; it is made if it is missing.
    pub(crate) fn lock_or_make(&self) -> Result<LockedFolder, ChannelError> {
        self.or_make(Self::lock)
    }

    #[cold]
    fn locked_by_somebody(&self) -> ChannelError {
        let path = self.path.display();
        let found = fs::metadata(&self.path).ok();
        let who = match found.and_then(|found| holder(found.ino())) {
            Some(pid) => format!("process {pid} has"),
            None => "somebody has".into(),
        };
        let advice = format!("{who} a lock on {path} and doesn't give it back: end it, or try again later");
        OsError::new("flock", std::io::Error::new(std::io::ErrorKind::WouldBlock, advice)).into()
    }

    fn or_make<T>(&self, open: fn(&Self) -> Result<Option<T>, ChannelError>) -> Result<T, ChannelError> {
        if let Some(opened) = open(self)? {
            return Ok(opened);
        }
        self.make()?;
        open(self)?.ok_or(ChannelError::NotFound)
    }

    #[cold]
    fn make(&self) -> Result<(), ChannelError> {
        let parent = parent_of(&self.path);
        // Where it leads is the system's affair, a symbolic link included.
        let flags = DIRECTORY.difference(OFlag::O_NOFOLLOW) | OFlag::O_PATH;
        let opened = uninterrupted(|| open(parent, flags, Mode::empty())).map_err(|errno| match errno {
            Errno::ENOENT => missing(parent),
            other => refusal("open", parent, other),
        })?;
        if self.is_in_chosen {
            self.check_parent(&status(&opened)?)?;
        }
        let name = self.path.file_name().ok_or_else(|| refusal("mkdirat", &self.path, Errno::ENOENT))?;
        match mkdirat(opened, name, Mode::S_IRWXU) {
            Ok(()) => self.mend(Mode::S_IRWXU).map(drop),
            Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(refusal("mkdirat", &self.path, errno)),
        }
    }

    /// Gives its owner, if that is us, all of a directory of which it lacks one of these: its maker's
    /// umask took them, and it may have been killed before it could give them back. Whether that was so.
    #[cold]
    fn mend(&self, lacking: Mode) -> Result<bool, ChannelError> {
        let Ok(directory) = self.open_for(OFlag::O_PATH) else { return Ok(false) };
        let found = status(&directory)?;
        let is_lacking = found.st_mode & lacking.bits() != lacking.bits();
        if !is_lacking || !user::is_same(found.st_uid, geteuid().as_raw()) {
            return Ok(false);
        }
        // By the descriptor: the name may be somebody else's by now.
        let by_proc = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let mode = Mode::from_bits_truncate(found.st_mode) | Mode::S_IRWXU;
        match fchmodat(AT_FDCWD, &*by_proc, mode, FchmodatFlags::FollowSymlink) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::EACCES | Errno::EPERM | Errno::EROFS) => {
                let path = self.path.display();
                Err(ChannelError::NotPermitted(format!(
                    "{path} has mode {:03o}, which keeps its owner out: give it back with `chmod 700 {path}`",
                    found.st_mode & 0o777
                )))
            }
            Err(errno) => Err(OsError::new("fchmodat", errno).into()),
        }
    }

    fn open_for(&self, access: OFlag) -> Result<OwnedFd, Errno> {
        uninterrupted(|| open(&*self.path, DIRECTORY | access, Mode::empty()))
    }

    /// What `open` opens: somebody else may have been faster to take the name of our directory. Says
    /// also how it is, and who we are.
    fn checked<D: AsFd>(
        &self,
        open: impl Fn() -> Result<D, Errno>,
    ) -> Result<Option<(D, FileStat, u32)>, ChannelError> {
        let answer = match open() {
            Err(Errno::EACCES) if self.mend(Mode::S_IXUSR)? => open(),
            answer => answer,
        };
        let directory = match answer {
            Ok(directory) => directory,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(refusal("open", &self.path, errno)),
        };
        let mut found = status(&directory)?;
        // Nobody chooses that, since it is of no use; who may only look may have been meant to.
        if found.st_mode & Mode::S_IXUSR.bits() == 0 && self.mend(Mode::S_IXUSR)? {
            found = status(&directory)?;
        }
        let uid = self.check(&directory, &found)?;
        Ok(Some((directory, found, uid)))
    }

    /// Whether what is this user's may be believed by us, who are that one.
    fn believes(&self, owner: u32, uid: u32) -> bool {
        self.trusted_uids.contains(&owner) || user::is_same(owner, uid)
    }

    /// Whether the directory may be used that is like that; who we are.
    fn check(&self, directory: &impl AsFd, found: &FileStat) -> Result<u32, ChannelError> {
        let (uid, path) = (geteuid().as_raw(), self.path.display());
        if !self.believes(found.st_uid, uid) {
            return Err(ChannelError::NotPermitted(format!(
                "{path} belongs to user {}, not to us (user {uid}): remove it or set IPC_DIR to a directory of yours{}",
                found.st_uid,
                user::likeness(found.st_uid, uid)
            )));
        }
        if found.st_mode & 0o022 != 0 {
            return Err(ChannelError::NotPermitted(format!(
                "{path} can be written by others (mode {:03o}): remove from it what isn't yours, \
                 and make it private with `chmod 700 {path}`",
                found.st_mode & 0o777
            )));
        }
        if self.is_in_chosen {
            let parent = fstatat(directory, "..", AtFlags::empty());
            self.check_parent(&parent.map_err(|errno| OsError::new("fstatat", errno))?)?;
        }
        Ok(uid)
    }

    /// Where anybody may write and names aren't their owners' alone, anybody can take our
    /// directory's name away. That is up to whose directory it is: us, the administrator, or
    /// somebody who is trusted.
    fn check_parent(&self, found: &FileStat) -> Result<(), ChannelError> {
        let (owner, uid) = (found.st_uid, geteuid().as_raw());
        let is_safe = found.st_mode & 0o022 == 0 || found.st_mode & Mode::S_ISVTX.bits() != 0;
        if is_safe || owner == 0 || self.believes(owner, uid) {
            return Ok(());
        }
        let path = parent_of(&self.path).display();
        Err(ChannelError::NotPermitted(format!(
            "{path} belongs to user {owner}, we are user {uid}, and others can rename and remove what is in it \
             (mode {:03o}): trust that user, have it do `chmod +t {path}`, or set IPC_DIR to a directory of yours{}",
            found.st_mode & 0o7777,
            user::likeness(owner, uid)
        )))
    }
}

/// The directory, open.
#[derive(Debug)]
pub(crate) struct Folder<D = Arc<Directory>> {
    descriptor: D,
    home: Home,
    /// Whose it was opened as.
    uid: u32,
}

/// The directory, in which nobody else takes names away.
pub(crate) type LockedFolder = Folder<Locked<Private<OwnedFd>>>;

impl<D: AsFd> Folder<D> {
    pub(crate) fn path(&self) -> &Path {
        &self.home.path
    }

    /// As which user it was opened.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether a file of this user may be believed.
    pub(crate) fn trusts(&self, uid: u32) -> bool {
        self.home.believes(uid, self.uid)
    }

    /// The text under this name, if there is one. Only who may write to the directory can have
    /// put it there.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, ChannelError> {
        let path = || self.path().join(name);
        match readlinkat(&self.descriptor, name) {
            Ok(text) => match text.into_string() {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(no_text(&path())),
            },
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::EINVAL) => {
                Err(ChannelError::Corrupt(format!("{} is not a symbolic link: remove it", path().display())))
            }
            Err(errno) => Err(refusal("readlinkat", &path(), errno)),
        }
    }

    /// Puts a text under a free name. It appears whole, or not at all.
    pub(crate) fn publish_text(&self, name: &str, text: &str) -> Result<(), ChannelError> {
        symlinkat(text, &self.descriptor, name).map_err(|errno| match errno {
            Errno::EEXIST => ChannelError::AlreadyExists,
            other => refusal("symlinkat", &self.path().join(name), other),
        })
    }

    /// Opens what has this name, whatever it is.
    pub(crate) fn open_unchecked(&self, name: &str) -> Result<Option<File>, ChannelError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match uninterrupted(|| openat(&self.descriptor, name, flags, Mode::empty())) {
            Ok(descriptor) => Ok(Some(File::from(descriptor))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(refusal("openat", &self.path().join(name), errno)),
        }
    }

    /// Opens the file of this name, if there is one and it may be believed.
    fn open_file(&self, name: &str) -> Result<Option<(File, FileStat)>, ChannelError> {
        let Some(file) = self.open_unchecked(name)? else { return Ok(None) };
        let (status, path) = (status(&file)?, || self.path().join(name));
        if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(ChannelError::Corrupt(format!("{} is not a file: remove it", path().display())));
        }
        if !self.trusts(status.st_uid) {
            return Err(ChannelError::NotPermitted(format!(
                "{} belongs to user {}, who isn't trusted here",
                path().display(),
                status.st_uid
            )));
        }
        Ok(Some((file, status)))
    }

    /// The file of this name, and what it says.
    pub(crate) fn read(&self, name: &str) -> Result<Option<(OpenFile, String)>, ChannelError> {
        let Some((mut file, status)) = self.open_file(name)? else { return Ok(None) };
        // Not longer than any of ours: that such a one is none of them, its end says.
        let len = usize::try_from(status.st_size).unwrap_or(0).min(LONGEST_FILE);
        let mut text = vec![0; len];
        file.read_exact(&mut text).map_err(|error| OsError::new("read", error))?;
        match String::from_utf8(text) {
            Ok(text) => Ok(Some((OpenFile { _file: file, status }, text))),
            Err(_) => Err(no_text(&self.path().join(name))),
        }
    }

    /// Makes a file with exactly this mode under a free name. It appears whole, or not at all.
    pub(crate) fn publish(&self, name: &str, text: &str, mode: u32) -> Result<OpenFile, ChannelError> {
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let unnamed = uninterrupted(|| openat(&self.descriptor, ".", flags, Mode::from_bits_truncate(mode)));
        let mut file =
            File::from(unnamed.map_err(|errno| refusal("openat", &self.path().join(name), errno))?);
        let mut status = status(&file)?;
        if status.st_mode & 0o7777 != mode {
            // The umask took from it.
            fchmod(&file, Mode::from_bits_truncate(mode)).map_err(|errno| OsError::new("fchmod", errno))?;
            status.st_mode = status.st_mode & !0o7777 | mode;
        }
        file.write_all(text.as_bytes()).map_err(|error| OsError::new("write", error))?;
        match self.link(&file, name) {
            Ok(()) => Ok(OpenFile { _file: file, status }),
            Err(Errno::EEXIST) => Err(ChannelError::AlreadyExists),
            Err(Errno::ENOENT) => Err(ChannelError::Unsupported(
                "this kernel gives no name to a file without /proc: mount it with `mount -t proc proc /proc`"
                    .into(),
            )),
            Err(errno) => Err(refusal("linkat", &self.path().join(name), errno)),
        }
    }

    fn link(&self, file: &File, name: &str) -> Result<(), Errno> {
        match linkat(file, "", &self.descriptor, name, AtFlags::AT_EMPTY_PATH) {
            // Before Linux 6.10 this takes CAP_DAC_READ_SEARCH.
            Err(Errno::ENOENT) => {
                let source = format!("/proc/self/fd/{}", file.as_raw_fd());
                linkat(AT_FDCWD, &*source, &self.descriptor, name, AtFlags::AT_SYMLINK_FOLLOW)
            }
            answer => answer,
        }
    }

    /// Takes a name away that is the caller's own, if it is there.
    pub(crate) fn unlink_own(&self, name: &str) -> Result<(), ChannelError> {
        match unlinkat(&self.descriptor, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(refusal("unlinkat", &self.path().join(name), errno)),
        }
    }

    /// Whether the name leads to this file.
    pub(crate) fn leads_to(&self, name: &str, file: &OpenFile) -> Result<bool, OsError> {
        match fstatat(&self.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // While it is being taken away, a name still leads to it and to nothing.
            Ok(found) => Ok(file.is(&found) && found.st_nlink > 0),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(OsError::new("fstatat", errno)),
        }
    }

    /// All names of channels behind this prefix, sorted.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<ChannelName>, ChannelError> {
        let descriptor = uninterrupted(|| openat(&self.descriptor, ".", DIRECTORY, Mode::empty()))
            .map_err(|errno| limit::explained("openat", errno))?;
        let mut directory = entries(descriptor)?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let entry = entry.map_err(|errno| OsError::new("readdir", errno))?;
            let name = entry.file_name().to_str().ok().and_then(|name| name.strip_prefix(prefix));
            names.extend(name.and_then(|name| ChannelName::new(name).ok()));
        }
        names.sort();
        Ok(names)
    }
}

impl LockedFolder {
    /// Refuses where the name can't be taken away.
    pub(crate) fn check_removable(&self, name: &str) -> Result<(), ChannelError> {
        faccessat(self, ".", AccessFlags::W_OK, AtFlags::AT_EACCESS)
            .map_err(|errno| refusal("faccessat", &self.path().join(name), errno))
    }

    /// Takes a channel's name away, if it is there.
    pub(crate) fn unlink(&self, name: &str) -> Result<(), ChannelError> {
        self.unlink_own(name)
    }
}

impl<D: AsFd> AsFd for Folder<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A file as it was found. It stays open: no other one gets its number in the file system before
/// it is closed.
#[derive(Debug)]
pub(crate) struct OpenFile {
    _file: File,
    pub(crate) status: FileStat,
}

impl OpenFile {
    /// Whether this is the status of the same file.
    pub(crate) fn is(&self, status: &FileStat) -> bool {
        (status.st_dev, status.st_ino) == (self.status.st_dev, self.status.st_ino)
    }
}

/// The values of the first items `KEY VALUE` with these keys, as far as there are such, in one pass:
/// to look for each by itself took as long as a system call.
pub(crate) fn values<'a, const COUNT: usize>(
    items: impl Iterator<Item = &'a str>,
    keys: [&str; COUNT],
) -> [Option<&'a str>; COUNT] {
    let mut found = [None; COUNT];
    for (key, value) in items.filter_map(|item| item.split_once(' ')) {
        if let Some(index) = keys.iter().position(|&wanted| wanted == key) {
            found[index].get_or_insert(value);
        }
    }
    found
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn default_parent() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.into() } else { env::temp_dir() }
}

pub(crate) fn status(file: &impl AsFd) -> Result<FileStat, OsError> {
    fstat(file.as_fd()).map_err(|errno| OsError::new("fstat", errno))
}

fn no_text(path: &Path) -> ChannelError {
    ChannelError::Corrupt(format!("{} holds other things than text: remove it", path.display()))
}

/// To read a directory.
pub(crate) fn entries(descriptor: OwnedFd) -> Result<Dir, OsError> {
    let raw = descriptor.as_raw_fd();
    Dir::from_fd(descriptor).map_err(|errno| {
        // `nix` has given it away, and the C library didn't take it.
        let _ = close(raw);
        OsError::new("fdopendir", errno)
    })
}

/// In which directory it is.
fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The directory that a path is to be in isn't there.
fn missing(directory: &Path) -> ChannelError {
    let path = directory.display();
    ChannelError::InvalidConfig(format!(
        "the directory {path} doesn't exist: make it with `mkdir -m 700 {path}`, or unset IPC_DIR"
    ))
}

/// Why a directory or a file can't be used.
pub(crate) fn refusal(call: &'static str, path: &Path, errno: Errno) -> ChannelError {
    if let Some(text) = limit::no_descriptors(errno) {
        return ChannelError::Limit(text);
    }
    let (path, directory) = (path.display(), parent_of(path));
    match errno {
        Errno::ENOENT => missing(directory),
        Errno::ENOTDIR | Errno::ELOOP => ChannelError::NotPermitted(format!(
            "{path} is in the way, and not what it should be: remove it or set IPC_DIR to a directory of yours"
        )),
        Errno::EACCES | Errno::EPERM => ChannelError::NotPermitted(format!("{path}: {}", errno.desc())),
        Errno::EROFS => ChannelError::NotPermitted(format!("{}: {}", directory.display(), errno.desc())),
        Errno::ENOSPC | Errno::EDQUOT => ChannelError::Limit(format!(
            "the file system of {path} is full: make room, or enlarge it (`ipc doctor` says which and how)"
        )),
        Errno::EOPNOTSUPP => ChannelError::Unsupported(format!(
            "the file system of {path} has no unnamed files: set IPC_DIR to a directory on another one"
        )),
        other => OsError::new(call, other).into(),
    }
}
