//! An open channel: its file, and what that says.

use super::{UnixReceiver, UnixSender, config::Settings};
use crate::place::{Folder, Home};
use ipc_core::{Channel, ChannelError, ChannelName, OsError};
use nix::{
    sys::{socket::UnixAddr, stat::FileStat},
    unistd::geteuid,
};
use std::{fs::File, os::fd::AsRawFd, path::PathBuf, sync::Arc};

/// The folder of the channels' files.
pub(crate) const CHANNELS: &str = "unix";
/// The folder of their sockets.
pub(crate) const SOCKETS: &str = "sockets";

/// A channel that exists; makes any number of senders, and one receiver at a time.
#[derive(Clone, Debug)]
pub struct UnixChannel {
    found: Arc<Found>,
}

/// A channel's file as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) home: Home,
    pub(crate) name: ChannelName,
    pub(crate) settings: Settings,
    pub(crate) status: FileStat,
    pub(crate) folder: Folder,
    /// What the receiver locks.
    pub(crate) file: File,
    pub(crate) sockets: Option<Folder>,
}

/// A socket's address, and what must stay open for it to lead anywhere.
pub(crate) struct Address(pub(crate) UnixAddr);

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
        self.folder.path().join(self.name.as_str())
    }

    /// Whether the name still leads to this channel.
    pub(crate) fn exists(&self) -> bool {
        self.folder.leads_to(self.name.as_str(), &self.status)
    }

    pub(crate) fn sockets_path(&self) -> PathBuf {
        self.home.folder_path(SOCKETS)
    }

    pub(crate) fn socket_path(&self) -> PathBuf {
        self.sockets_path().join(self.settings.socket_name())
    }

    pub(crate) fn socket_address(&self) -> Result<Address, OsError> {
        address(&self.home, self.sockets.as_ref(), &self.settings.socket_name())
    }
}

/// The address of a socket in the folder. A path that is too long for an address is made
/// short by way of the folder's descriptor.
pub(crate) fn address(home: &Home, sockets: Option<&Folder>, name: &str) -> Result<Address, OsError> {
    let path = home.folder_path(SOCKETS).join(name);
    let short = || {
        let descriptor = std::os::fd::AsFd::as_fd(sockets?).as_raw_fd();
        UnixAddr::new(&PathBuf::from(format!("/proc/self/fd/{descriptor}/{name}"))).ok()
    };
    UnixAddr::new(&path).or_else(|errno| short().ok_or(errno)).map(Address).map_err(|_| {
        OsError::new(
            "bind",
            std::io::Error::other(format!(
                "the socket's path {} is too long for an address (107 bytes): set IPC_DIR to a shorter one",
                path.display()
            )),
        )
    })
}
