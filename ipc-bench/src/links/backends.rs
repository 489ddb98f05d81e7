//! The transports of the toolkit, as they are measured.

use super::{
    floor::messages_in_flight,
    raw_mq,
    site::{DIRECTIONS, Site},
};
use crate::{
    spec::{LaneSpec, Side, Waiting},
    trouble::Fallible,
};
use ipc_core::{Channel, ChannelName, Receiver, RecvError, Transport};
use ipc_mq::{MqConfig, SysvConfig, UnixConfig};
use ipc_shm::{ShmConfig, WhenFull};

/// What the rig has to know of a transport beyond the traits.
pub(crate) trait Backend {
    type Transport: Transport;

    /// Where its channels live.
    fn transport(site: &Site) -> Self::Transport;

    /// How they are made.
    fn config(spec: &LaneSpec) -> <Self::Transport as Transport>::Config;

    /// Sets how the sending end waits, where there is a choice.
    fn set_sender_waiting(_tx: &mut SenderOf<Self>, _waiting: Waiting) {}

    /// Sets how the receiving end waits, where there is a choice.
    fn set_receiver_waiting(_rx: &mut ReceiverOf<Self>, _waiting: Waiting) {}
}

/// A backend whose channels live in files, so that making and opening them can be compared
/// with what bare system calls take.
pub(crate) trait Opens: Backend {
    /// How a channel of this capacity is made that is kept until it is removed.
    fn kept(capacity_bytes: u64) -> <Self::Transport as Transport>::Config;
}

/// Receivers that lend the newest value without waiting for it, whether or not it is new.
pub(crate) trait ReadsNewest: Receiver {
    /// Has the value read, if there is one. False if there is none, or the writer was faster.
    fn read_newest(&mut self, read: impl FnOnce(&[u8]) -> Fallible<()>) -> Fallible<bool>;
}

impl ReadsNewest for ipc_shm::LatestReader {
    #[inline]
    fn read_newest(&mut self, read: impl FnOnce(&[u8]) -> Fallible<()>) -> Fallible<bool> {
        match self.read() {
            Ok(Some(value)) => read(&value).map(|()| true),
            Ok(None) | Err(RecvError::WouldBlock) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A channel of a backend's transport.
pub(crate) type ChannelOf<B> = <<B as Backend>::Transport as Transport>::Channel;
/// Its sending end.
pub(crate) type SenderOf<B> = <ChannelOf<B> as Channel>::Sender;
/// Its receiving end.
pub(crate) type ReceiverOf<B> = <ChannelOf<B> as Channel>::Receiver;

/// `mq`: POSIX message queues, of the depth and message size that `raw:mq` has.
pub(crate) struct Mq;

impl Backend for Mq {
    type Transport = ipc_mq::Mq;

    fn transport(_: &Site) -> ipc_mq::Mq {
        ipc_mq::Mq::new()
    }

    fn config(spec: &LaneSpec) -> MqConfig {
        MqConfig::new()
            .depth(raw_mq::depth())
            .max_message_len(raw_mq::max_message_len_bytes(spec.message_len_bytes))
    }
}

/// `sysv`: System V queues with the kernel's room and the longest message it takes, as
/// `raw:sysv` has.
pub(crate) struct Sysv;

impl Backend for Sysv {
    type Transport = ipc_mq::Sysv;

    fn transport(_: &Site) -> ipc_mq::Sysv {
        ipc_mq::Sysv::new()
    }

    fn config(_: &LaneSpec) -> SysvConfig {
        SysvConfig::new()
    }
}

/// `unix`: sequenced-packet sockets with the system's buffer, as `raw:unix` has.
pub(crate) struct Unix;

impl Backend for Unix {
    type Transport = ipc_mq::Unix;

    fn transport(site: &Site) -> ipc_mq::Unix {
        ipc_mq::Unix::at(site.directory.join(".unix"))
    }

    fn config(spec: &LaneSpec) -> UnixConfig {
        UnixConfig::new().max_message_len(spec.message_len_bytes.max(1))
    }
}

/// `shm:spsc`: one sender, one receiver, a byte ring with about as many messages in it as
/// `floor:fixed-ring` has slots.
pub(crate) struct ShmSpsc;

impl Backend for ShmSpsc {
    type Transport = ipc_shm::Spsc;

    fn transport(site: &Site) -> ipc_shm::Spsc {
        ipc_shm::Spsc::at(&site.directory)
    }

    fn config(spec: &LaneSpec) -> ShmConfig {
        ShmConfig::new().transient().capacity_bytes(records_bytes(spec))
    }

    fn set_sender_waiting(tx: &mut ipc_shm::SpscSender, waiting: Waiting) {
        tx.set_waiting(shm_waiting(waiting));
    }

    fn set_receiver_waiting(rx: &mut ipc_shm::SpscReceiver, waiting: Waiting) {
        rx.set_waiting(shm_waiting(waiting));
    }
}

/// `shm:mpmc`: any number of senders and receivers, as many slots as `floor:fixed-ring` has.
pub(crate) struct ShmMpmc;

impl Backend for ShmMpmc {
    type Transport = ipc_shm::Mpmc;

    fn transport(site: &Site) -> ipc_shm::Mpmc {
        ipc_shm::Mpmc::at(&site.directory)
    }

    fn config(spec: &LaneSpec) -> ShmConfig {
        ShmConfig::new()
            .transient()
            .depth(messages_in_flight(spec.payload(), spec.in_turn) as u64)
            .max_message_len(spec.message_len_bytes as u64)
    }

    fn set_sender_waiting(tx: &mut ipc_shm::MpmcSender, waiting: Waiting) {
        tx.set_waiting(shm_waiting(waiting));
    }

    fn set_receiver_waiting(rx: &mut ipc_shm::MpmcReceiver, waiting: Waiting) {
        rx.set_waiting(shm_waiting(waiting));
    }
}

/// `shm:broadcast` (lossy) and `shm:broadcast-reliable`: every subscriber gets every message,
/// from a byte ring of each publisher with about as many messages in it as `floor:fixed-ring`
/// has slots.
pub(crate) struct ShmBroadcast<const LOSSY: bool>;

impl<const LOSSY: bool> Backend for ShmBroadcast<LOSSY> {
    type Transport = ipc_shm::Broadcast;

    fn transport(site: &Site) -> ipc_shm::Broadcast {
        ipc_shm::Broadcast::at(&site.directory)
    }

    fn config(spec: &LaneSpec) -> ShmConfig {
        let [publishers, _] = spec.shape.sides();
        ShmConfig::new()
            .transient()
            .capacity_bytes(records_bytes(spec))
            .publishers(publishers as u32)
            .when_full(if LOSSY { WhenFull::DropOldest } else { WhenFull::Wait })
    }

    fn set_sender_waiting(tx: &mut ipc_shm::BroadcastPublisher, waiting: Waiting) {
        tx.set_waiting(shm_waiting(waiting));
    }

    fn set_receiver_waiting(rx: &mut ipc_shm::BroadcastSubscriber, waiting: Waiting) {
        rx.set_waiting(shm_waiting(waiting));
    }
}

impl Opens for ShmSpsc {
    fn kept(capacity_bytes: u64) -> ShmConfig {
        ShmConfig::new().capacity_bytes(capacity_bytes)
    }
}

impl<const LOSSY: bool> Opens for ShmBroadcast<LOSSY> {
    fn kept(capacity_bytes: u64) -> ShmConfig {
        let config = ShmConfig::new().capacity_bytes(capacity_bytes);
        config.when_full(if LOSSY { WhenFull::DropOldest } else { WhenFull::Wait })
    }
}

impl Opens for ShmMpmc {
    fn kept(capacity_bytes: u64) -> ShmConfig {
        ShmConfig::new().capacity_bytes(capacity_bytes)
    }
}

/// `shm:latest`: one writer, the newest value.
pub(crate) struct ShmLatest;

impl Backend for ShmLatest {
    type Transport = ipc_shm::Latest;

    fn transport(site: &Site) -> ipc_shm::Latest {
        ipc_shm::Latest::at(&site.directory)
    }

    fn config(spec: &LaneSpec) -> ShmConfig {
        ShmConfig::new().transient().max_message_len(spec.message_len_bytes.max(1) as u64)
    }

    fn set_receiver_waiting(rx: &mut ipc_shm::LatestReader, waiting: Waiting) {
        rx.set_waiting(shm_waiting(waiting));
    }
}

/// What a byte ring takes for as many messages as `floor:fixed-ring` has slots, and for one more, since
/// where it begins again a part of it may be left over; not for more than that: whoever has more room
/// has more time. Where there is one message at a time, a page more is enough, and it goes round in the
/// pages of that one.
pub(crate) fn records_bytes(spec: &LaneSpec) -> u64 {
    const HEADER_BYTES: usize = 8;
    const PAGE_BYTES: usize = 4096;
    let record_bytes = HEADER_BYTES + spec.message_len_bytes.next_multiple_of(8);
    let messages = messages_in_flight(spec.payload(), spec.in_turn);
    let spare_bytes = if messages == 1 { PAGE_BYTES } else { record_bytes };
    (messages * record_bytes + spare_bytes) as u64
}

/// A way of waiting, as endpoints in shared memory know it.
pub(crate) fn shm_waiting(waiting: Waiting) -> ipc_shm::Waiting {
    match waiting {
        Waiting::Spin => ipc_shm::Waiting::Spin,
        Waiting::Adaptive => ipc_shm::Waiting::Adaptive,
        Waiting::Block => ipc_shm::Waiting::Block,
    }
}

/// Attaches to a pair of channels of any backend: one there and one back.
pub(crate) fn pair<B: Backend>(
    spec: &LaneSpec,
    side: Side,
    site: &Site,
) -> Fallible<(SenderOf<B>, ReceiverOf<B>)> {
    let [there, back] = DIRECTIONS.map(|direction| channel::<B>(spec, side == Side::Near, site, direction));
    let (there, back) = (there?, back?);
    let (mut tx, mut rx) = match side {
        Side::Near => (there.sender()?, back.receiver()?),
        Side::Far => (back.sender()?, there.receiver()?),
    };
    B::set_sender_waiting(&mut tx, spec.waiting);
    B::set_receiver_waiting(&mut rx, spec.waiting);
    Ok((tx, rx))
}

/// Makes channels of which this process has both ends: `count` of them.
pub(crate) fn own<B: Backend>(
    spec: &LaneSpec,
    site: &Site,
    count: usize,
) -> Fallible<Vec<(SenderOf<B>, ReceiverOf<B>)>> {
    let ends = |index: usize| -> Fallible<_> {
        let channel = channel::<B>(spec, true, site, &index.to_string())?;
        Ok((channel.sender()?, channel.receiver()?))
    };
    (0..count).map(ends).collect()
}

/// Attaches to the one channel of a crowd, or makes it.
pub(crate) fn crowd_channel<B: Backend>(
    spec: &LaneSpec,
    creates: bool,
    site: &Site,
) -> Fallible<ChannelOf<B>> {
    channel::<B>(spec, creates, site, DIRECTIONS[0])
}

fn channel<B: Backend>(
    spec: &LaneSpec,
    creates: bool,
    site: &Site,
    direction: &str,
) -> Fallible<ChannelOf<B>> {
    let (transport, name) = (B::transport(site), ChannelName::new(&site.channel(spec, direction))?);
    Ok(if creates { transport.create(&name, &B::config(spec))? } else { transport.open(&name)? })
}
