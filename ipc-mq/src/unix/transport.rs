//! The namespace of one user's channels, or of a directory's.

use super::{
    UnixChannel, UnixConfig,
    channel::{CHANNELS, Found, SOCKETS},
    config::Settings,
    sys,
};
use crate::place::{Entry, Home};
use ipc_core::{Capabilities, ChannelError, ChannelInfo, ChannelName, OsError, Role, Transport};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{fs::File, path::PathBuf};

/// The channels of this user, or of a directory.
#[derive(Clone, Debug)]
pub struct Unix {
    home: Home,
}

impl Unix {
    /// Those of this user, in a directory of its own: `/dev/shm/ipc-mq-UID`, or `.mq` in the
    /// directory that `IPC_DIR` names.
    pub fn new() -> Self {
        Self { home: Home::of_user() }
    }

    /// Those in this directory, made with mode 0700 if it is missing. It must belong to this
    /// user (see [`trusting`](Self::trusting)), and nobody else may be able to write to it.
    /// So that other users find a channel in it, it and its folders must be open to them, and
    /// the channel have a [mode](UnixConfig::mode) for them.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { home: Home::at(directory.into()) }
    }

    /// The same, where the directories, channels and receivers of these users are believed
    /// besides our own.
    #[must_use]
    pub fn trusting(self, uids: impl IntoIterator<Item = u32>) -> Self {
        let uids: Vec<u32> = uids.into_iter().collect();
        Self { home: self.home.trusting(&uids) }
    }

    fn find(&self, name: &ChannelName) -> Result<Found, ChannelError> {
        let folder = self.home.open(CHANNELS)?.ok_or(ChannelError::NotFound)?;
        let entry = folder.read(name.as_str())?.ok_or(ChannelError::NotFound)?;
        let settings = Settings::of(&entry).ok_or_else(|| {
            let path = folder.path().join(name.as_str());
            ChannelError::Corrupt(format!("{} doesn't say which channel it is: remove it", path.display()))
        })?;
        let Entry { file, status, .. } = entry;
        let sockets = self.home.open(SOCKETS)?;
        Ok(Found { home: self.home.clone(), name: name.clone(), settings, status, folder, file, sockets })
    }
}

impl Default for Unix {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport for Unix {
    type Config = UnixConfig;
    type Channel = UnixChannel;

    const SCHEME: &'static str = "unix";
    const CAPABILITIES: Capabilities =
        Capabilities::NONE.with_cross_process().with_connects().with_one_receiver();

    fn create(&self, name: &ChannelName, config: &UnixConfig) -> Result<UnixChannel, ChannelError> {
        config.validate()?;
        let folder = self.home.open_or_make(CHANNELS)?;
        // There from now on, so that who waits for a receiver can watch it.
        self.home.open_or_make(SOCKETS)?;
        let socket = sys::random().map_err(|errno| OsError::new("getrandom", errno))?;
        let text = config.settings(socket).to_text();
        {
            let _lock = folder.lock()?;
            folder.publish(name.as_str(), &text, config.mode_or_default())?;
        }
        self.open(name)
    }

    fn open(&self, name: &ChannelName) -> Result<UnixChannel, ChannelError> {
        self.find(name).map(UnixChannel::new)
    }

    fn open_or_create(&self, name: &ChannelName, config: &UnixConfig) -> Result<UnixChannel, ChannelError> {
        config.validate()?;
        loop {
            match self.find(name) {
                Ok(found) => {
                    config.check(&found.settings, found.status.st_mode & 0o7777)?;
                    return Ok(UnixChannel::new(found));
                }
                Err(ChannelError::NotFound) => {}
                Err(error) => return Err(error),
            }
            match self.create(name, config) {
                // Somebody else was faster; or the new one is removed already.
                Err(ChannelError::AlreadyExists | ChannelError::NotFound) => {}
                answer => return answer,
            }
        }
    }

    /// Refused while somebody receives. Senders that wait for a receiver are told
    /// [`Closed`](ipc_core::SendError::Closed).
    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        let folder = self.home.open(CHANNELS)?.ok_or(ChannelError::NotFound)?;
        let _lock = folder.lock()?;
        let found = match self.find(name) {
            // It can't be used, so nobody uses it.
            Err(ChannelError::Corrupt(_)) => return folder.unlink(name.as_str()),
            answer => answer?,
        };
        let _receivers_role = lock_role(&found.file)?;
        if let Some(sockets) = &found.sockets {
            sockets.unlink(&found.settings.socket_name())?;
            sockets.unlink(&format!(".{}", found.settings.socket_name()))?;
        }
        folder.unlink(name.as_str())
    }

    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        self.home.open(CHANNELS)?.map_or(Ok(Vec::new()), |folder| folder.names())
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let found = self.find(name)?;
        let mut info = ChannelInfo::new("unix-seqpacket");
        info.path = Some(found.path());
        info.max_message_len_bytes = Some(found.settings.max_message_len as u64);
        info.mode = Some(found.status.st_mode & 0o7777);
        info.uid = Some(found.status.st_uid);
        Ok(info)
    }
}

/// Takes the receiver's role, which is a lock on the channel's file: it goes with the
/// process, or when every copy of the descriptor is closed.
pub(crate) fn lock_role(file: &File) -> Result<Flock<File>, ChannelError> {
    // A description of its own, or two receivers of one channel would share the lock.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let own = File::open(path).map_err(|error| OsError::new("open", error))?;
    match Flock::lock(own, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(ChannelError::Busy { role: Role::Receiver, pid: None }),
        Err((_, errno)) => Err(OsError::new("flock", errno).into()),
    }
}
