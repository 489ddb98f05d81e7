//! What the proofs need to know of each kind of channel.

use crate::{
    common::layout,
    scenario::Scenario,
    {places, queues},
};
use ipc_shm::{
    BatchReceiver, Channel, ChannelError, EndMark, Role, Sender, ShmChannel, ShmConfig, SpscReceiver,
    SpscSender, Waiting,
};

/// A kind of channel that messages are sent through, each to one receiver.
pub(crate) trait Kind: 'static {
    /// As `--kind` has it.
    const NAME: &'static str;
    /// What its names say, whatever its own kind: its smallest channel.
    fn config() -> ShmConfig;

    type Sender: Sender + EndMark;
    fn sender(channel: &ShmChannel, waiting: Waiting) -> Result<Self::Sender, ChannelError>;

    type Receiver: BatchReceiver;
    fn receiver(channel: &ShmChannel, waiting: Waiting) -> Result<Self::Receiver, ChannelError>;

    /// Where in the file the flag of a sleeper of this role is.
    fn asleep(role: Role) -> u64;
    /// The byte of the file that the holder of this role has locked, where there is one.
    fn role_byte(role: Role) -> u64;
}

/// One sender and one receiver at a time.
pub(crate) struct Spsc;

impl Kind for Spsc {
    const NAME: &'static str = "spsc";

    fn config() -> ShmConfig {
        ShmConfig::new().kind(ipc_shm::Kind::Spsc).capacity_bytes(layout::PAGE)
    }

    type Sender = SpscSender;

    fn sender(channel: &ShmChannel, waiting: Waiting) -> Result<SpscSender, ChannelError> {
        let mut tx = channel.sender()?;
        tx.set_waiting(waiting);
        Ok(tx)
    }

    type Receiver = SpscReceiver;

    fn receiver(channel: &ShmChannel, waiting: Waiting) -> Result<SpscReceiver, ChannelError> {
        let mut rx = channel.receiver()?;
        rx.set_waiting(waiting);
        Ok(rx)
    }

    fn asleep(role: Role) -> u64 {
        page(role) + layout::ASLEEP
    }

    fn role_byte(role: Role) -> u64 {
        match role {
            Role::Sender => 1,
            _ => 2,
        }
    }
}

fn page(role: Role) -> u64 {
    match role {
        Role::Sender => layout::SENDER,
        _ => layout::RECEIVER,
    }
}

/// Every scene of every kind.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = places::scenarios::<Spsc>();
    all.extend(queues::scenarios::<Spsc>());
    all
}
