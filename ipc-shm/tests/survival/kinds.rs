//! What the proofs need to know of each kind of channel.

use crate::{
    arena, broadcast,
    common::{Dice, layout},
    latest, mpmc, places, protection, queues, rpc,
    scenario::Scenario,
    spsc, state,
};
use ipc_shm::{Channel, ChannelError, Kind, Role, ShmChannel, ShmConfig, ShmReceiver, ShmSender, Waiting};

/// A kind of channel that messages are sent through, each to one receiver.
pub(crate) trait Queue: 'static {
    const KIND: Kind;
    /// Whether what a dead receiver held comes again in its place, and a batch is released
    /// all at once.
    const IN_ORDER: bool;

    /// A small channel: for five messages of 700 bytes, and not six; or one of 1000.
    fn config() -> ShmConfig;

    /// A channel for messages of at most 1000 bytes, of whatever size.
    fn varied_config(dice: &mut Dice) -> ShmConfig;

    /// The places of participants: the byte that each has locked, and where in the file its
    /// process id is.
    fn seats() -> Vec<(u64, u64)>;

    /// Where in the file the flag of a sleeper of this role is.
    fn asleep(role: Role) -> u64;
}

/// How many messages of 700 bytes each kind's small channel holds.
pub(crate) const ROOM_FOR_700: usize = 5;

/// One sender and one receiver at a time.
pub(crate) struct Spsc;

impl Queue for Spsc {
    const KIND: Kind = Kind::Spsc;
    const IN_ORDER: bool = true;

    fn config() -> ShmConfig {
        ShmConfig::new().kind(Kind::Spsc).capacity_bytes(layout::PAGE)
    }

    fn varied_config(dice: &mut Dice) -> ShmConfig {
        Self::config().capacity_bytes(layout::PAGE << dice.below(5))
    }

    fn seats() -> Vec<(u64, u64)> {
        vec![(1, layout::SENDER), (2, layout::RECEIVER)]
    }

    fn asleep(role: Role) -> u64 {
        let page = if role == Role::Sender { layout::SENDER } else { layout::RECEIVER };
        page + layout::ASLEEP
    }
}

/// Any number of senders and receivers.
pub(crate) struct Mpmc;

impl Queue for Mpmc {
    const KIND: Kind = Kind::Mpmc;
    const IN_ORDER: bool = false;

    fn config() -> ShmConfig {
        ShmConfig::new().kind(Kind::Mpmc).depth(ROOM_FOR_700 as u64).max_message_len(1000)
    }

    fn varied_config(dice: &mut Dice) -> ShmConfig {
        ShmConfig::new().kind(Kind::Mpmc).depth(1 + dice.below(64)).max_message_len(1000)
    }

    fn seats() -> Vec<(u64, u64)> {
        (1..=64).map(|id| (id, 2 * layout::PAGE + (id - 1) * 256)).collect()
    }

    fn asleep(role: Role) -> u64 {
        layout::PAGE + if role == Role::Sender { 256 } else { 128 }
    }
}

/// A sending end that sleeps at once when it has to wait.
pub(crate) fn sender(channel: &ShmChannel) -> Result<ShmSender, ChannelError> {
    let mut tx = channel.sender()?;
    tx.set_waiting(Waiting::Block);
    Ok(tx)
}

/// A receiving end that sleeps at once when it has to wait.
pub(crate) fn receiver(channel: &ShmChannel) -> Result<ShmReceiver, ChannelError> {
    let mut rx = channel.receiver()?;
    rx.set_waiting(Waiting::Block);
    Ok(rx)
}

/// Every scene of every kind.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = places::scenarios::<Spsc>();
    all.extend(queues::scenarios::<Spsc>());
    all.extend(spsc::scenarios());
    all.extend(places::scenarios::<Mpmc>());
    all.extend(queues::scenarios::<Mpmc>());
    all.extend(mpmc::scenarios());
    all.extend(broadcast::scenarios());
    all.extend(latest::scenarios());
    all.extend(rpc::scenarios());
    all.extend(state::scenarios());
    all.extend(arena::scenarios());
    all.extend(protection::scenarios());
    all
}
