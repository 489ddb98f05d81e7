//! An open channel: its file, and what that says.

use super::{UnixReceiver, UnixSender, config::Settings};
use crate::place::{Folder, OpenFile};
use ipc_core::{Channel, ChannelError, ChannelName, OsError};
use nix::{sys::socket::UnixAddr, unistd::geteuid};
use std::{
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    sync::Arc,
};

/// What the names of the channels' files begin with.
pub(crate) const PREFIX: &str = "unix:";

/// A channel that exists; makes any number of senders, and one receiver at a time.
#[derive(Clone, Debug)]
pub struct UnixChannel {
    found: Arc<Found>,
}

/// A channel's file as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) folder: Folder,
    pub(crate) name: ChannelName,
    pub(crate) settings: Settings,
    /// What the receiver locks, by a descriptor of its own.
    pub(crate) file: OpenFile,
}

impl UnixChannel {
    pub(crate) fn new(found: Found) -> Self {
        Self { found: Arc::new(found) }
    }

    /// The name.
    pub fn name(&self) -> &ChannelName {
        &self.found.name
    }

    /// The longest message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.found.settings.max_message_len
    }

    /// Where its socket is, or will be.
    pub fn socket_path(&self) -> PathBuf {
        self.found.socket_path()
    }
}

impl Channel for UnixChannel {
    type Sender = UnixSender;
    type Receiver = UnixReceiver;

    /// Doesn't connect yet: there may be no receiver.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotPermitted`] if this user isn't on the channel's allow-list.
    fn sender(&self) -> Result<UnixSender, ChannelError> {
        let uid = geteuid().as_raw();
        let allowed = &self.found.settings.allowed_uids;
        if !allowed.contains(&uid) {
            return Err(ChannelError::NotPermitted(format!(
                "the channel takes messages of users {allowed:?}, and this is user {uid}"
            )));
        }
        Ok(UnixSender::new(Arc::clone(&self.found)))
    }

    /// Takes the receiver's role, and replaces what a dead one left.
    fn receiver(&self) -> Result<UnixReceiver, ChannelError> {
        UnixReceiver::open(&self.found)
    }
}

impl Found {
    /// The path of the channel's file.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join(file_name(&self.name))
    }

    /// Whether the name still leads to this channel.
    pub(crate) fn exists(&self) -> Result<bool, OsError> {
        self.folder.leads_to(&file_name(&self.name), &self.file)
    }

    pub(crate) fn socket_path(&self) -> PathBuf {
        self.folder.path().join(self.settings.socket_name())
    }

    /// The address of a socket in the folder. A path that is too long for an address is made
    /// short by way of the folder's descriptor.
    pub(crate) fn address(&self, name: &str) -> Result<UnixAddr, OsError> {
        let path = self.folder.path().join(name);
        let short = || PathBuf::from(format!("/proc/self/fd/{}/{name}", self.folder.as_fd().as_raw_fd()));
        UnixAddr::new(&path).or_else(|_| UnixAddr::new(&short())).map_err(|_| {
            OsError::new(
                "bind",
                std::io::Error::other(format!(
                    "the socket's path {} is too long for an address (107 bytes): set IPC_DIR to a shorter one",
                    path.display()
                )),
            )
        })
    }
}

/// What the file of a channel is called.
pub(crate) fn file_name(name: &ChannelName) -> String {
    format!("{PREFIX}{name}")
}
