//! Where the transports that need files keep them: a directory of this user's own.
//!
//! It is `/dev/shm/ipc-mq-UID` (in the system's temporary directory where there is no
//! `/dev/shm`), or `.mq` in the directory that `IPC_DIR` names: no channel's name begins with
//! a dot, so nothing else is called so. It is made with mode 0700, and used only if it is a
//! directory itself, belongs to its user and can't be written by others.
//!
//! A file appears in it whole: it is written without a name (`O_TMPFILE`, `open(2)`) and
//! then linked, so that a killed writer leaves nothing. Names are linked and unlinked under
//! a lock on the directory (`flock(2)`), which the kernel takes back from the dead.

use ipc_core::{ChannelError, ChannelName, OsError};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, Flock, FlockArg, OFlag, open, openat},
    sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat},
    unistd::{UnlinkatFlags, geteuid, linkat, unlinkat},
};
use std::{
    env,
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// No file of ours is longer, in bytes.
const LONGEST_FILE: u64 = 4096;

/// A directory to keep files in, and whose files in it are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    path: PathBuf,
    /// Users besides this one whose directories and files are believed.
    trusted_uids: Vec<u32>,
}

impl Home {
    /// This user's own.
    pub(crate) fn of_user() -> Self {
        let path = match env::var_os("IPC_DIR").filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path).join(".mq"),
            None => default_parent().join(format!("ipc-mq-{}", geteuid())),
        };
        Self { path, trusted_uids: Vec::new() }
    }

    /// A directory that was chosen.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, trusted_uids: Vec::new() }
    }

    /// The same, where these users' files are believed too.
    pub(crate) fn trusting(self, uids: &[u32]) -> Self {
        Self { trusted_uids: uids.to_vec(), ..self }
    }

    /// Whether a file of this user may be believed.
    pub(crate) fn trusts(&self, uid: u32) -> bool {
        uid == geteuid().as_raw() || self.trusted_uids.contains(&uid)
    }

    /// The path of a folder in it.
    pub(crate) fn folder_path(&self, folder: &str) -> PathBuf {
        self.path.join(folder)
    }

    /// Opens a folder in it; `None` if nobody has made it yet.
    pub(crate) fn open(&self, folder: &str) -> Result<Option<Folder>, ChannelError> {
        let Some(home) = self.open_checked(open(&self.path, DIRECTORY, Mode::empty()), &self.path)? else {
            return Ok(None);
        };
        let path = self.folder_path(folder);
        let opened = self.open_checked(openat(&home, folder, DIRECTORY, Mode::empty()), &path)?;
        Ok(opened.map(|descriptor| Folder { descriptor, path, home: self.clone() }))
    }

    /// Opens a folder in it, which is made if it is missing.
    pub(crate) fn open_or_make(&self, folder: &str) -> Result<Folder, ChannelError> {
        if let Some(folder) = self.open(folder)? {
            return Ok(folder);
        }
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        // Where it leads is the system's affair, a symbolic link included.
        let flags = DIRECTORY.difference(OFlag::O_NOFOLLOW);
        let parent = open(parent, flags, Mode::empty()).map_err(|errno| refusal(parent, errno))?;
        let name = self.path.file_name().ok_or_else(|| refusal(&self.path, Errno::ENOENT))?;
        make(&parent, Path::new(name), &self.path)?;
        let home = openat(&parent, name, DIRECTORY, Mode::empty());
        let home = self.open_checked(home, &self.path)?.ok_or(ChannelError::NotFound)?;
        make(&home, Path::new(folder), &self.folder_path(folder))?;
        self.open(folder)?.ok_or(ChannelError::NotFound)
    }

    /// Somebody else may have been faster to take the name of our directory.
    fn open_checked(
        &self,
        opened: Result<OwnedFd, Errno>,
        path: &Path,
    ) -> Result<Option<OwnedFd>, ChannelError> {
        let directory = match opened {
            Ok(directory) => directory,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(refusal(path, errno)),
        };
        let found = status(&directory)?;
        let path = path.display();
        if !self.trusts(found.st_uid) {
            return Err(ChannelError::NotPermitted(format!(
                "{path} belongs to user {}, not to us (user {}): remove it or set IPC_DIR to a directory of yours",
                found.st_uid,
                geteuid()
            )));
        }
        if found.st_mode & 0o022 != 0 {
            return Err(ChannelError::NotPermitted(format!(
                "{path} can be written by others (mode {:03o}): make it private with `chmod 700 {path}`",
                found.st_mode & 0o777
            )));
        }
        Ok(Some(directory))
    }
}

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
    home: Home,
}

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) file: File,
    pub(crate) status: FileStat,
    pub(crate) text: String,
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Nobody else links or unlinks a name while this is held. It goes with the process.
    pub(crate) fn lock(&self) -> Result<Flock<OwnedFd>, OsError> {
        // A description of its own: threads exclude each other too.
        let mut descriptor = openat(&self.descriptor, ".", DIRECTORY, Mode::empty())
            .map_err(|errno| OsError::new("openat", errno))?;
        loop {
            match Flock::lock(descriptor, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(lock),
                Err((again, Errno::EINTR)) => descriptor = again,
                Err((_, errno)) => return Err(OsError::new("flock", errno)),
            }
        }
    }

    /// The file of this name, if there is one and it may be believed.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Entry>, ChannelError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let path = self.path.join(name);
        let file = match openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(refusal(&path, errno)),
        };
        let status = status(&file)?;
        let path = path.display();
        if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(ChannelError::Corrupt(format!("{path} is not a file: remove it")));
        }
        if !self.home.trusts(status.st_uid) {
            return Err(ChannelError::NotPermitted(format!(
                "{path} belongs to user {}, who isn't trusted here",
                status.st_uid
            )));
        }
        let mut text = String::new();
        match (&file).take(LONGEST_FILE).read_to_string(&mut text) {
            Ok(_) => Ok(Some(Entry { file, status, text })),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(ChannelError::Corrupt(format!("{path} holds other things than text: remove it")))
            }
            Err(error) => Err(OsError::new("read", error).into()),
        }
    }

    /// Makes a file with exactly this mode. It appears whole, or not at all.
    pub(crate) fn publish(&self, name: &str, text: &str, mode: u32) -> Result<(), ChannelError> {
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        let unnamed =
            openat(&self.descriptor, ".", flags, mode).map_err(|errno| refusal(&self.path, errno))?;
        fchmod(&unnamed, mode).map_err(|errno| OsError::new("fchmod", errno))?;
        let mut file = File::from(unnamed);
        file.write_all(text.as_bytes()).map_err(|error| OsError::new("write", error))?;
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(nix::fcntl::AT_FDCWD, &*source, &self.descriptor, name, AtFlags::AT_SYMLINK_FOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(ChannelError::AlreadyExists),
            Err(Errno::ENOENT) => Err(ChannelError::Unsupported(
                "a file can't get its name without /proc: mount it with `mount -t proc proc /proc`".into(),
            )),
            Err(errno) => Err(refusal(&self.path.join(name), errno)),
        }
    }

    /// Takes a name away, if it is there.
    pub(crate) fn unlink(&self, name: &str) -> Result<(), ChannelError> {
        match unlinkat(&self.descriptor, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(refusal(&self.path.join(name), errno)),
        }
    }

    /// Whether the name leads to this file.
    pub(crate) fn leads_to(&self, name: &str, file: &FileStat) -> bool {
        let found = fstatat(&self.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino))
    }

    /// All names that channels can have, sorted.
    pub(crate) fn names(&self) -> Result<Vec<ChannelName>, ChannelError> {
        let descriptor = openat(&self.descriptor, ".", DIRECTORY, Mode::empty())
            .map_err(|errno| OsError::new("openat", errno))?;
        let mut directory = Dir::from_fd(descriptor).map_err(|errno| OsError::new("fdopendir", errno))?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let entry = entry.map_err(|errno| OsError::new("readdir", errno))?;
            names.extend(entry.file_name().to_str().ok().and_then(|name| ChannelName::new(name).ok()));
        }
        names.sort();
        Ok(names)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Entry {
    /// The value of a line `KEY VALUE`, if there is such a line and it makes sense.
    pub(crate) fn value<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        let lines = self.text.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.into_iter().find(|(found, _)| *found == key)?;
        value.parse().ok()
    }
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn default_parent() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.into() } else { env::temp_dir() }
}

fn make(parent: &OwnedFd, name: &Path, path: &Path) -> Result<(), ChannelError> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(refusal(path, errno)),
    }
}

fn status(file: &impl AsFd) -> Result<FileStat, OsError> {
    fstat(file.as_fd()).map_err(|errno| OsError::new("fstat", errno))
}

/// Why a directory or a file can't be used.
fn refusal(path: &Path, errno: Errno) -> ChannelError {
    let path = path.display();
    match errno {
        Errno::ENOENT => ChannelError::InvalidConfig(format!(
            "the directory of {path} doesn't exist: make it with `mkdir -m 700`, or unset IPC_DIR"
        )),
        Errno::ENOTDIR | Errno::ELOOP => ChannelError::NotPermitted(format!(
            "{path} is in the way, and not what it should be: remove it or set IPC_DIR to a directory of yours"
        )),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            ChannelError::NotPermitted(format!("{path}: {}", errno.desc()))
        }
        Errno::ENOSPC | Errno::EDQUOT => ChannelError::Limit(format!(
            "the file system of {path} is full: make room, or enlarge it (`ipc doctor` says which and how)"
        )),
        Errno::EMFILE => ChannelError::Limit(
            "this process has as many files open as RLIMIT_NOFILE allows: \
             close some or raise it with `ulimit -n`"
                .into(),
        ),
        Errno::EOPNOTSUPP => ChannelError::Unsupported(format!(
            "the file system of {path} has no unnamed files: set IPC_DIR to a directory on another one"
        )),
        other => OsError::new("open", other).into(),
    }
}
