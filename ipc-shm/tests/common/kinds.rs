//! Channels of every kind, calls among them, used alike: for tests that go through all kinds.

use super::name;
use ipc_shm::{
    Channel, ChannelError, Client, Kind, Pollable, Receiver, RecvError, Request, Rpc, RpcClient, RpcServer,
    SendError, Sender, Server, Shm, ShmConfig, ShmReceiver, ShmSender, Transport, Wait, Waiting,
};
use std::path::Path;

/// How a channel is made whose messages have `bytes` of room, less what goes with them.
pub(crate) fn sized(kind: Kind, bytes: u64) -> ShmConfig {
    let config = ShmConfig::new().kind(kind);
    match kind {
        Kind::Latest => config.depth(2).max_message_len(bytes / 2 - 128),
        Kind::Rpc => config.depth(1).max_message_len(bytes - 128),
        Kind::Broadcast => config.publishers(1).capacity_bytes(bytes),
        _ => config.capacity_bytes(bytes),
    }
}

/// Makes the channel `x`.
pub(crate) fn make(directory: &Path, config: &ShmConfig) -> Result<(), ChannelError> {
    Shm::at(directory).create(&name("x"), config).map(drop)
}

/// Both ends of a channel.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there are few of them")]
pub(crate) enum Ends {
    Queue(ShmSender, ShmReceiver),
    Service(RpcClient, RpcServer),
}

impl Ends {
    /// Of the channel `x`, whatever its kind.
    pub(crate) fn open(directory: &Path) -> Result<Self, ChannelError> {
        Self::open_trusting(directory, &[])
    }

    /// The same where files of these users are trusted, too.
    pub(crate) fn open_trusting(directory: &Path, trusted: &[u32]) -> Result<Self, ChannelError> {
        let channel = Shm::at(directory).trust(trusted.iter().copied()).open(&name("x"))?;
        if channel.kind() == Kind::Rpc {
            let service = Rpc::at(directory).trust(trusted.iter().copied()).open(&name("x"))?;
            return Ok(Self::Service(service.client()?, service.server()?));
        }
        // Who receives first, or it misses what is broadcast.
        let rx = channel.receiver()?;
        Ok(Self::Queue(channel.sender()?, rx))
    }

    pub(crate) fn set_waiting(&mut self, waiting: Waiting) {
        match self {
            Self::Queue(tx, rx) => {
                tx.set_waiting(waiting);
                rx.set_waiting(waiting);
            }
            Self::Service(client, server) => {
                client.set_waiting(waiting);
                server.set_waiting(waiting);
            }
        }
    }

    pub(crate) fn max_message_len(&self) -> usize {
        match self {
            Self::Queue(tx, _) => tx.max_message_len(),
            Self::Service(client, _) => client.max_message_len(),
        }
    }

    /// Sends a message and receives it; a call's comes back as well.
    pub(crate) fn pass(&mut self, message: &[u8]) {
        match self {
            Self::Queue(tx, rx) => {
                tx.try_send(message).unwrap();
                assert!(*rx.try_recv().unwrap() == *message);
            }
            Self::Service(client, server) => {
                let ticket = client.submit(message, Wait::Never).unwrap();
                let request = server.next(Wait::Never).unwrap();
                assert!(*request == *message);
                assert!(request.respond(message).unwrap());
                assert!(*client.collect(ticket, Wait::Never).unwrap() == *message);
            }
        }
    }

    /// Waits for what doesn't come, as a receiver or a server does.
    pub(crate) fn await_nothing(&mut self, wait: Wait<'_>) -> RecvError {
        match self {
            Self::Queue(_, rx) => rx.advance(wait).unwrap_err(),
            Self::Service(_, server) => server.next(wait).map(drop).unwrap_err(),
        }
    }

    /// Fails unless each use is refused since the endpoints are another process's.
    pub(crate) fn assert_forked(&mut self) {
        match self {
            Self::Queue(tx, rx) => {
                assert!(matches!(tx.try_send(b"x"), Err(SendError::Forked)));
                assert!(matches!(tx.reserve(1, Wait::Forever), Err(SendError::Forked)));
                assert!(matches!(rx.try_recv().map(drop), Err(RecvError::Forked)));
                assert!(matches!(rx.advance(Wait::Forever), Err(RecvError::Forked)));
                assert!(matches!(rx.arm(), Err(RecvError::Forked)));
            }
            Self::Service(client, server) => {
                assert!(matches!(client.submit(b"x", Wait::Forever), Err(ipc_shm::CallError::Forked)));
                assert!(matches!(server.next(Wait::Forever).map(drop), Err(RecvError::Forked)));
            }
        }
    }
}

/// The kind of this name.
pub(crate) fn named(text: &str) -> Kind {
    text.parse().unwrap()
}
