//! The transports of the toolkit, as they are measured.

use crate::{
    Fallible,
    link::{CoreLink, Side},
    raw_mq,
    transports::{DIRECTIONS, LaneSpec, Site, Waiting, messages_in_flight},
};
use ipc_core::{Channel, ChannelName, Transport};
use ipc_mq::MqConfig;
use ipc_shm::ShmConfig;

/// What the rig has to know of a transport beyond the traits.
pub(crate) trait Backend {
    type Transport: Transport;

    /// Where its channels live.
    fn transport(site: &Site) -> Self::Transport;

    /// How they are made.
    fn config(spec: &LaneSpec) -> <Self::Transport as Transport>::Config;

    /// Sets how the endpoints wait, where there is a choice.
    fn set_waiting(_tx: &mut SenderOf<Self>, _rx: &mut ReceiverOf<Self>, _waiting: Waiting) {}
}

type ChannelOf<B> = <<B as Backend>::Transport as Transport>::Channel;
type SenderOf<B> = <ChannelOf<B> as Channel>::Sender;
type ReceiverOf<B> = <ChannelOf<B> as Channel>::Receiver;

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

/// `shm:spsc`: one sender, one receiver, a byte ring with about as many messages in it as
/// `floor:fixed-ring` has slots.
pub(crate) struct ShmSpsc;

impl Backend for ShmSpsc {
    type Transport = ipc_shm::Spsc;

    fn transport(site: &Site) -> ipc_shm::Spsc {
        ipc_shm::Spsc::at(&site.directory)
    }

    fn config(spec: &LaneSpec) -> ShmConfig {
        const RECORD_BYTES: usize = 16;
        let record_bytes = (spec.message_len_bytes + RECORD_BYTES) as u64;
        let messages = messages_in_flight(spec.message_len_bytes) as u64;
        ShmConfig::new().transient().capacity_bytes((messages * record_bytes).next_power_of_two())
    }

    fn set_waiting(tx: &mut ipc_shm::SpscSender, rx: &mut ipc_shm::SpscReceiver, waiting: Waiting) {
        let waiting = match waiting {
            Waiting::Spin => ipc_shm::Waiting::Spin,
            Waiting::Adaptive => ipc_shm::Waiting::Adaptive,
            Waiting::Block => ipc_shm::Waiting::Block,
        };
        tx.set_waiting(waiting);
        rx.set_waiting(waiting);
    }
}

/// Attaches to a pair of channels of any backend.
pub(crate) fn connect<B: Backend>(
    spec: &LaneSpec,
    side: Side,
    site: &Site,
) -> Fallible<CoreLink<SenderOf<B>, ReceiverOf<B>>> {
    let transport = B::transport(site);
    let open = |direction| -> Fallible<_> {
        let name = ChannelName::new(&site.channel(spec, direction))?;
        Ok(match side {
            Side::Near => transport.create(&name, &B::config(spec))?,
            Side::Far => transport.open(&name)?,
        })
    };
    let [there, back] = DIRECTIONS.map(open);
    let (there, back) = (there?, back?);
    let (mut tx, mut rx) = match side {
        Side::Near => (there.sender()?, back.receiver()?),
        Side::Far => (back.sender()?, there.receiver()?),
    };
    B::set_waiting(&mut tx, &mut rx, spec.waiting);
    Ok(CoreLink { tx, rx, payload: spec.payload() })
}
