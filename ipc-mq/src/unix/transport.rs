//! The namespace of one user's channels, or of a directory's.

use super::{
    UnixChannel, UnixConfig,
    channel::{Found, PREFIX, file_name},
    config::Settings,
};
use crate::{
    at_fork::{self, Private},
    flock::{Locked, holder},
    place::{Folder, Home, OpenFile, status},
    random,
};
use ipc_core::{Capabilities, ChannelError, ChannelInfo, ChannelName, OsError, Role, Transport};
use nix::errno::Errno;
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
};

/// The channels of this user, or of a directory, which stays open once it was found, as long as this,
/// a copy of it or one of its channels lives.
#[derive(Clone, Debug)]
pub struct Unix {
    home: Home,
}

impl Unix {
    /// Those of this user, in a directory of its own: `/dev/shm/ipc-mq-UID`, or `.mq` in the
    /// directory that `IPC_DIR` names. One that others may write to is refused where it hasn't the
    /// sticky bit, unless it belongs to us, to root or to somebody who is trusted. It has to be this
    /// machine's own, as sockets are.
    pub fn new() -> Self {
        Self { home: Home::of_user() }
    }

    /// Those in this directory, made with mode 0700 if it is missing. It must belong to this
    /// user (see [`trusting`](Self::trusting)), and nobody else may be able to write to it.
    /// So that other users find a channel in it, it must be open to them, and the channel have
    /// a [mode](UnixConfig::mode) for them.
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
        let folder = self.home.open()?.ok_or(ChannelError::NotFound)?;
        let (file, settings) = read(&folder, name)?;
        Ok(Found { folder, name: name.clone(), settings, file })
    }
}

/// The file of a channel, and what it says.
fn read<D: AsFd>(folder: &Folder<D>, name: &ChannelName) -> Result<(OpenFile, Settings), ChannelError> {
    let (file, text) = folder.read(&file_name(name))?.ok_or(ChannelError::NotFound)?;
    let settings = Settings::of(&text).ok_or_else(|| {
        let path = folder.path().join(file_name(name));
        ChannelError::Corrupt(format!("{} doesn't say which channel it is: remove it", path.display()))
    })?;
    Ok((file, settings))
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
        let folder = self.home.open_or_make()?;
        let socket = random::bits().map_err(|errno| OsError::new("getrandom", errno))?;
        let settings = config.settings(socket, folder.uid());
        let file = folder.publish(&file_name(name), &settings.to_text(), config.mode_or_default())?;
        Ok(UnixChannel::new(Found { folder, name: name.clone(), settings, file }))
    }

    fn open(&self, name: &ChannelName) -> Result<UnixChannel, ChannelError> {
        self.find(name).map(UnixChannel::new)
    }

    fn open_or_create(&self, name: &ChannelName, config: &UnixConfig) -> Result<UnixChannel, ChannelError> {
        config.validate()?;
        loop {
            match self.find(name) {
                Ok(found) => {
                    config.check(&found.settings, found.file.status.st_mode & 0o7777)?;
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
        let folder = self.home.lock()?.ok_or(ChannelError::NotFound)?;
        let (file, settings) = match read(&folder, name) {
            Err(ChannelError::Corrupt(_)) => {
                // Who found it before it was damaged goes on.
                let _receivers_role = privately(|| {
                    let own = folder.open_unchecked(&file_name(name))?.ok_or(ChannelError::NotFound)?;
                    let inode = status(&own)?.st_ino;
                    take_role(own, inode)
                })?;
                return folder.unlink(&file_name(name));
            }
            answer => answer?,
        };
        let _receivers_role = lock_role(&folder, name, &file)?;
        folder.unlink_own(&settings.socket_name())?;
        folder.unlink_own(&settings.new_socket_name())?;
        folder.unlink(&file_name(name))
    }

    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        self.home.open()?.map_or(Ok(Vec::new()), |folder| folder.names(PREFIX))
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let found = self.find(name)?;
        let mut info = ChannelInfo::new("unix-seqpacket");
        info.path = Some(found.path());
        info.max_message_len_bytes = Some(found.settings.max_message_len as u64);
        info.mode = Some(found.file.status.st_mode & 0o7777);
        info.uid = Some(found.file.status.st_uid);
        Ok(info)
    }
}

/// Takes the receiver's role, which is a lock on the channel's file: it goes with the
/// process, whose children don't have it. It has a description of its own, or two receivers of one
/// channel would share the lock.
pub(crate) fn lock_role<D: AsFd>(
    folder: &Folder<D>,
    name: &ChannelName,
    found: &OpenFile,
) -> Result<Private<Locked<File>>, ChannelError> {
    privately(|| {
        let own = folder.open_unchecked(&file_name(name))?.ok_or(ChannelError::NotFound)?;
        let lock = take_role(own, found.status.st_ino)?;
        // It may be another one by now, or gone: who removes the channel has the lock until its
        // name is.
        let now = status(&lock)?;
        if found.is(&now) && now.st_nlink > 0 { Ok(lock) } else { Err(ChannelError::NotFound) }
    })
}

fn privately(
    take: impl FnOnce() -> Result<Locked<File>, ChannelError>,
) -> Result<Private<Locked<File>>, ChannelError> {
    at_fork::private(take, |lock| lock.as_fd().as_raw_fd())
}

/// The same, whatever the file is.
fn take_role(file: File, inode: u64) -> Result<Locked<File>, ChannelError> {
    Locked::at_once(file).map_err(|errno| match errno {
        Errno::EWOULDBLOCK => ChannelError::Busy { role: Role::Receiver, pid: holder(inode) },
        errno => OsError::new("flock", errno).into(),
    })
}
