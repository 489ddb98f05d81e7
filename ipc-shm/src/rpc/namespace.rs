//! Services by name.

use super::{RpcClient, RpcServer};
use crate::{
    config::ShmConfig,
    kind::Kind,
    segment::{Anchored, Seat},
    transport::{Namespace, Verdict, namespace},
};
use ipc_core::{ChannelError, ChannelInfo, ChannelName, Role};
use std::path::PathBuf;

/// Services in shared memory: channels of [`Kind::Rpc`], one file each in one directory.
/// Clients make requests and servers answer them; so this is no
/// [`Transport`](ipc_core::Transport), whose channels have senders and receivers.
///
/// Unless another directory is chosen, by [`Rpc::at`] or the environment variable `IPC_DIR`,
/// it is `/dev/shm/ipc-UID`, which belongs to its user alone.
///
/// ```
/// use ipc_shm::{ChannelName, Client, Request, Rpc, Server, ShmConfig, Wait};
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-rpc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let rpc = Rpc::at(&directory);
/// # let name = ChannelName::new("shouting")?;
/// let service = rpc.create(&name, &ShmConfig::new())?;
///
/// let mut server = service.server()?; // in one process
/// std::thread::spawn(move || {
///     let request = server.next(Wait::Forever).unwrap();
///     let answer = request.to_ascii_uppercase();
///     request.respond(&answer).unwrap();
/// });
///
/// let mut client = service.client()?; // in another one
/// assert_eq!(&*client.call(b"hello", Wait::Forever)?, b"HELLO");
/// # drop((client, service));
/// # while rpc.remove(&name).is_err() {}
/// # std::fs::remove_dir(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rpc {
    namespace: Namespace,
}

impl Rpc {
    namespace!();

    /// Makes a service.
    ///
    /// # Errors
    ///
    /// [`ChannelError::AlreadyExists`], [`ChannelError::InvalidConfig`],
    /// [`ChannelError::Limit`] and the others.
    pub fn create(&self, name: &ChannelName, config: &ShmConfig) -> Result<RpcChannel, ChannelError> {
        self.namespace.create(name, &config.clone().only(Kind::Rpc)?).map(Into::into)
    }

    /// Opens a service that exists.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`], [`ChannelError::Mismatch`] if it is a channel of another
    /// kind, and the others.
    pub fn open(&self, name: &ChannelName) -> Result<RpcChannel, ChannelError> {
        self.namespace.open(name, Some(Kind::Rpc)).map(Into::into)
    }

    /// Opens the service, or makes it if there is none; who loses a race opens the winner's.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if one exists with other settings than those that `config`
    /// asks for explicitly, and the others.
    pub fn open_or_create(&self, name: &ChannelName, config: &ShmConfig) -> Result<RpcChannel, ChannelError> {
        self.namespace.open_or_create(name, &config.clone().only(Kind::Rpc)?).map(Into::into)
    }

    /// Removes a channel, of whatever kind.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; [`ChannelError::Busy`] while somebody has it open.
    pub fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        self.namespace.remove(name)
    }

    /// The names of all channels, of whatever kind, sorted.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotPermitted`] and the others.
    pub fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        self.namespace.list()
    }

    /// What is known about a channel, of whatever kind, without taking part in it. Of a
    /// service, `queued_messages` are the calls under way, and `sent_messages` all that were
    /// begun, as its places count them: each from 0 again after 2^35 - 1.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        self.namespace.stat(name)
    }
}

impl From<Namespace> for Rpc {
    fn from(namespace: Namespace) -> Self {
        Self { namespace }
    }
}

impl Default for Rpc {
    fn default() -> Self {
        Self::new()
    }
}

/// A service, open. It counts as a user as long as it lives: nobody removes the service
/// meanwhile.
#[derive(Debug)]
pub struct RpcChannel {
    anchored: Anchored,
}

impl RpcChannel {
    /// A client. There may be any number, and no server need exist yet.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Limit`] if all places for participants are taken, and the others.
    pub fn client(&self) -> Result<RpcClient, ChannelError> {
        RpcClient::new(self.anchored.attach(Role::Client, Seat::Any)?)
    }

    /// A server. There may be any number, which share the work.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Limit`] if all places for participants are taken, and the others.
    pub fn server(&self) -> Result<RpcServer, ChannelError> {
        RpcServer::new(self.anchored.attach(Role::Server, Seat::Any)?)
    }
}

impl From<Anchored> for RpcChannel {
    fn from(anchored: Anchored) -> Self {
        Self { anchored }
    }
}
