//! From the name of a transport to what can be done with it.
//!
//! To add a transport of the toolkit: a variant of [`TransportId`] with its line in
//! [`TransportId::traits`], a [`Backend`] of some ten lines, and its line in [`attach`].

use super::{
    crowd::{Board, Crowd, CrowdReceiver, CrowdSender},
    lane::{AnyLane, Lane},
    lifetime::Lifetimes,
    newest::{GROUP, Newest, OwnValues},
    opening::{CAPACITY_BYTES, Opening, RawFile},
    setup::{BareMq, BareSysv, BareUnix, Kept, SetupLane},
    update::Updates,
    workers::Worker,
};
use crate::{
    links::{
        backends::{self, Backend, Opens, ReadsNewest, ReceiverOf, SenderOf, crowd_channel},
        ends::{
            BatchedReceiver, BatchedSender, Copying, InPlace, Polling, PollingCopies, ReceivingEnd,
            SendingEnd,
        },
        floor::{CacheLine, FixedRing, Futex, messages_in_flight},
        layers::{Delayed, Dropping, Stamps},
        link::{EndsLink, Link},
        raw_mq::{self, RawMq},
        raw_sysv::{self, RawSysv},
        raw_unix::{self, RawMemfd, RawUnix},
        rpc::{Answerer, Caller},
        sealed::{Sealed, Unmet},
        shared::Region,
        site::Site,
    },
    spec::{LaneSpec, Layer, Member, Payload, Shape, Side, Touch, TransportId, Waiting},
    trouble::Fallible,
};
use ipc_core::{BatchSender, Channel, Transport};

/// Why messages of this length can't be measured there; `None` if they can.
pub(crate) fn refuses(transport: TransportId, message_len_bytes: usize) -> Option<String> {
    match transport {
        TransportId::RawMq | TransportId::Mq => raw_mq::refuses(message_len_bytes),
        TransportId::RawSysv | TransportId::Sysv => raw_sysv::refuses(message_len_bytes),
        _ => None,
    }
}

/// How many such messages a channel holds, at least.
pub(crate) fn holds(transport: TransportId, payload: Payload) -> usize {
    match transport {
        TransportId::RawMq | TransportId::Mq => raw_mq::depth(),
        TransportId::RawSysv | TransportId::Sysv => raw_sysv::depth(payload.len_bytes),
        TransportId::RawUnix | TransportId::RawMemfd | TransportId::Unix => {
            raw_unix::depth(payload.len_bytes)
        }
        _ => messages_in_flight(payload, false),
    }
}

/// The memory that the coordinator has to make for a connection: the transport's, then the
/// layer's.
pub(crate) fn region_bytes(spec: &LaneSpec) -> Option<usize> {
    match spec.layer {
        Layer::Delay { .. } if !spec.transport.traits().locks => Some(stamps_at(spec) + Stamps::len_bytes()),
        _ => transports_bytes(spec),
    }
}

fn stamps_at(spec: &LaneSpec) -> usize {
    Stamps::behind(transports_bytes(spec).unwrap_or(0))
}

fn transports_bytes(spec: &LaneSpec) -> Option<usize> {
    match (spec.shape, spec.transport) {
        (Shape::Crowd { .. } | Shape::Workers { .. }, _) => Some(Board::LEN_BYTES),
        (Shape::Guests { .. }, _) => None,
        (Shape::Lives, _) => Some(Lifetimes::<backends::Mq>::LEN_BYTES),
        (_, TransportId::CacheLine | TransportId::CacheLinePaused) => Some(CacheLine::<false>::LEN_BYTES),
        (_, TransportId::Futex) => Some(Futex::LEN_BYTES),
        (_, TransportId::FixedRing | TransportId::Memcpy) => Some(FixedRing::len_bytes(spec)),
        (_, TransportId::ShmMutex) => Some(Updates::LEN_BYTES),
        _ => None,
    }
}

/// Attaches this process to a connection. The first near process attaches first and
/// creates.
pub(crate) fn attach(spec: &LaneSpec, member: Member, site: &Site) -> Fallible<Box<dyn AnyLane>> {
    if spec.layer != Layer::None && !takes_layer(spec) {
        return Err(format!("{} is not measured with a layer like {:?}", spec.transport, spec.layer).into());
    }
    if spec.shape == Shape::Solo {
        if let Some(lane) = setup_lane(spec, site)? {
            return Ok(lane);
        }
    }
    if spec.shape == Shape::Lives {
        return lives(spec, member.side, site);
    }
    if let Shape::Workers { .. } = spec.shape {
        return Ok(Box::new(Worker::attach(spec, member, site, region(spec)?)?));
    }
    match spec.transport {
        TransportId::CacheLine => {
            between_two(CacheLine::<false>::attach(region(spec)?, member.side), spec, member)
        }
        TransportId::CacheLinePaused => {
            between_two(CacheLine::<true>::attach(region(spec)?, member.side), spec, member)
        }
        TransportId::Futex => between_two(Futex::attach(region(spec)?, member.side), spec, member),
        // What tells the two apart is how much of the payload is touched.
        TransportId::FixedRing | TransportId::Memcpy => {
            between_two(FixedRing::attach(region(spec)?, member.side, spec), spec, member)
        }
        TransportId::RawMq => between_two(RawMq::attach(spec, member.side, site)?, spec, member),
        TransportId::RawFile => Ok(Box::new(RawFile::new(spec, site)?)),
        TransportId::RawSysv => between_two(RawSysv::attach(spec, member.side, site)?, spec, member),
        TransportId::RawUnix => between_two(RawUnix::attach(spec, member.side, site)?, spec, member),
        TransportId::RawMemfd => between_two(RawMemfd::attach(spec, member.side, site)?, spec, member),
        TransportId::Mq => in_the_kernel::<backends::Mq>(spec, member, site),
        TransportId::Sysv => in_the_kernel::<backends::Sysv>(spec, member, site),
        TransportId::Unix => in_the_kernel::<backends::Unix>(spec, member, site),
        TransportId::ShmSpsc => {
            solo_or::<backends::ShmSpsc>(spec, site, || by_batches::<backends::ShmSpsc>(spec, member, site))
        }
        TransportId::ShmSealed => sealed_ends(spec, member, site),
        TransportId::ShmMpmc => {
            solo_or::<backends::ShmMpmc>(spec, site, || by_batches::<backends::ShmMpmc>(spec, member, site))
        }
        TransportId::ShmRpc => match member.side {
            Side::Near => between_two(Caller::attach(spec, site)?, spec, member),
            Side::Far => between_two(Answerer::attach(spec, site)?, spec, member),
        },
        TransportId::ShmMutex => Ok(Box::new(Updates::attach(spec, region(spec)?, site)?)),
        TransportId::ShmBroadcast => solo_or::<backends::ShmBroadcast<true>>(spec, site, || {
            by_batches::<backends::ShmBroadcast<true>>(spec, member, site)
        }),
        TransportId::ShmLatest => newest::<backends::ShmLatest>(spec, member, site),
        TransportId::ShmBroadcastReliable => solo_or::<backends::ShmBroadcast<false>>(spec, site, || {
            by_batches::<backends::ShmBroadcast<false>>(spec, member, site)
        }),
    }
}

/// Whether its layer can be over it: there is one over links of two, and a lock can be delayed.
fn takes_layer(spec: &LaneSpec) -> bool {
    let traits = spec.transport.traits();
    let is_dropped = matches!(spec.layer, Layer::Drop { .. });
    spec.shape == Shape::Pair && !traits.holds_newest && !(traits.locks && is_dropped)
}

/// Sealed channels, a message at a time.
fn sealed_ends(spec: &LaneSpec, member: Member, site: &Site) -> Fallible<Box<dyn AnyLane>> {
    let unmet = Unmet::attach(spec, member.side, site)?;
    match spec.touch {
        Touch::All | Touch::First => {
            between_two(Sealed::new(unmet, spec, InPlace::new, InPlace::new), spec, member)
        }
        Touch::Copied => between_two(Sealed::new(unmet, spec, Copying::new, Copying::new), spec, member),
    }
}

/// A kernel's channel made and opened by one process, if it is one.
fn setup_lane(spec: &LaneSpec, site: &Site) -> Fallible<Option<Box<dyn AnyLane>>> {
    Ok(Some(match spec.transport {
        TransportId::RawMq => Box::new(SetupLane::of(BareMq::new(spec, site)?)),
        TransportId::RawSysv => Box::new(SetupLane::of(BareSysv::new(spec, site)?)),
        TransportId::RawUnix => Box::new(SetupLane::of(BareUnix::new(spec, site))),
        TransportId::Mq => kept::<backends::Mq>(Default::default(), spec, site)?,
        TransportId::Sysv => kept::<backends::Sysv>(Default::default(), spec, site)?,
        TransportId::Unix => kept::<backends::Unix>(Default::default(), spec, site)?,
        _ => return Ok(None),
    }))
}

fn kept<B: Backend>(config: ConfigOf<B>, spec: &LaneSpec, site: &Site) -> Fallible<Box<dyn AnyLane>>
where
    B::Transport: 'static,
    ConfigOf<B>: 'static,
{
    Ok(Box::new(SetupLane::of(Kept::new(B::transport(site), config, spec, site)?)))
}

/// A transport's channels from their making to their last message.
fn lives(spec: &LaneSpec, side: Side, site: &Site) -> Fallible<Box<dyn AnyLane>> {
    use backends::{Mq, ShmMpmc, ShmSpsc, Sysv, Unix};
    match spec.transport {
        TransportId::Mq => lives_of::<Mq>(Default::default(), spec, side, site),
        TransportId::Sysv => lives_of::<Sysv>(Default::default(), spec, side, site),
        TransportId::Unix => lives_of::<Unix>(Default::default(), spec, side, site),
        TransportId::ShmSpsc => lives_of::<ShmSpsc>(ShmSpsc::kept(CAPACITY_BYTES), spec, side, site),
        TransportId::ShmMpmc => lives_of::<ShmMpmc>(ShmMpmc::kept(CAPACITY_BYTES), spec, side, site),
        other => Err(format!("whole lives of {other} aren't measured").into()),
    }
}

fn lives_of<B: Backend + 'static>(
    config: ConfigOf<B>,
    spec: &LaneSpec,
    side: Side,
    site: &Site,
) -> Fallible<Box<dyn AnyLane>> {
    Ok(Box::new(Lifetimes::<B>::attach(config, spec, side, region(spec)?, site)?))
}

type ConfigOf<B> = <<B as Backend>::Transport as Transport>::Config;

/// A backend's channels made and opened by one process, or what several do with them.
fn solo_or<B: Opens + 'static>(
    spec: &LaneSpec,
    site: &Site,
    several: impl FnOnce() -> Fallible<Box<dyn AnyLane>>,
) -> Fallible<Box<dyn AnyLane>> {
    match spec.shape {
        Shape::Solo => Ok(Box::new(Opening::<B>::new(spec, site)?)),
        _ => several(),
    }
}

fn region(spec: &LaneSpec) -> Fallible<&'static Region> {
    let inherited = spec.region.ok_or("the coordinator made no memory for this connection")?;
    Ok(Region::map(inherited)?)
}

/// The lane of this process on a link, with the layer that is to be over it.
fn between_two(link: impl Link + 'static, spec: &LaneSpec, member: Member) -> Fallible<Box<dyn AnyLane>> {
    Ok(match spec.layer {
        Layer::None => Box::new(Lane::new(link)),
        Layer::Delay { hop_ns } => {
            let stamps = Stamps::attach(region(spec)?, stamps_at(spec), member.side);
            Box::new(Lane::new(Delayed::new(link, stamps, hop_ns, spec.batch)))
        }
        Layer::Drop { one_in } => Box::new(Lane::new(Dropping::new(link, one_in))),
    })
}

/// A backend of newest values: in one process alone, or from one to the other.
fn newest<B: Backend>(spec: &LaneSpec, member: Member, site: &Site) -> Fallible<Box<dyn AnyLane>>
where
    SenderOf<B>: 'static,
    ReceiverOf<B>: ReadsNewest + 'static,
{
    if spec.shape == Shape::Solo {
        let own = backends::own::<B>(spec, site, GROUP as usize)?;
        return Ok(Box::new(OwnValues::new(own, spec)));
    }
    let (tx, rx) = backends::pair::<B>(spec, member.side, site)?;
    Ok(Box::new(Newest::new(tx, rx, spec)))
}

/// Any backend, a message at a time.
fn one_by_one<B: Backend>(spec: &LaneSpec, member: Member, site: &Site) -> Fallible<Box<dyn AnyLane>> {
    match spec.touch {
        Touch::All | Touch::First => {
            with_ends::<B, _, _>(spec, member, site, |tx| InPlace::new(tx, spec), |rx| InPlace::new(rx, spec))
        }
        Touch::Copied => {
            with_ends::<B, _, _>(spec, member, site, |tx| Copying::new(tx, spec), |rx| Copying::new(rx, spec))
        }
    }
}

/// A backend whose ends wait in the kernel, or not at all.
fn in_the_kernel<B: Backend>(spec: &LaneSpec, member: Member, site: &Site) -> Fallible<Box<dyn AnyLane>> {
    match (spec.waiting, spec.touch) {
        (Waiting::Spin, Touch::All | Touch::First) => {
            with_ends::<B, _, _>(spec, member, site, |tx| Polling::new(tx, spec), |rx| Polling::new(rx, spec))
        }
        (Waiting::Spin, Touch::Copied) => {
            let (sending, receiving) = (|tx| PollingCopies::new(tx, spec), |rx| PollingCopies::new(rx, spec));
            with_ends::<B, _, _>(spec, member, site, sending, receiving)
        }
        (Waiting::Adaptive | Waiting::Block, _) => one_by_one::<B>(spec, member, site),
    }
}

/// Any backend that knows batches, in batches if that is what is to be measured.
fn by_batches<B: Backend>(spec: &LaneSpec, member: Member, site: &Site) -> Fallible<Box<dyn AnyLane>>
where
    SenderOf<B>: BatchSender,
{
    let receiver = |rx| BatchedReceiver::new(rx, spec);
    match (spec.batch, spec.message_len_bytes) {
        (1, _) => one_by_one::<B>(spec, member, site),
        // What a program sends many of at a time is in an array, not each on its own.
        (_, 8) => {
            with_ends::<B, _, _>(spec, member, site, |tx| BatchedSender::new(tx, spec, [0; 8]), receiver)
        }
        (_, len_bytes) => with_ends::<B, _, _>(
            spec,
            member,
            site,
            |tx| BatchedSender::new(tx, spec, vec![0; len_bytes]),
            receiver,
        ),
    }
}

/// The lane of this process on a backend's channels, its ends used in a certain way.
fn with_ends<B: Backend, S: SendingEnd + 'static, R: ReceivingEnd + 'static>(
    spec: &LaneSpec,
    member: Member,
    site: &Site,
    sending: impl FnOnce(SenderOf<B>) -> S,
    receiving: impl FnOnce(ReceiverOf<B>) -> R,
) -> Fallible<Box<dyn AnyLane>> {
    let payload = spec.payload();
    let Shape::Crowd { senders, receivers } = spec.shape else {
        let (tx, rx) = backends::pair::<B>(spec, member.side, site)?;
        return between_two(EndsLink { tx: sending(tx), rx: receiving(rx), payload }, spec, member);
    };
    let delivery = spec.transport.traits().delivery;
    let crowd = Crowd { senders, receivers, delivery, payload, board: Board::at(region(spec)?) };
    let channel = crowd_channel::<B>(spec, member == Member::NEAR, site)?;
    Ok(match member.side {
        Side::Near => {
            let mut tx = channel.sender()?;
            B::set_sender_waiting(&mut tx, spec.waiting);
            Box::new(CrowdSender::new(sending(tx), crowd, member.index))
        }
        Side::Far => {
            let mut rx = channel.receiver()?;
            B::set_receiver_waiting(&mut rx, spec.waiting);
            Box::new(CrowdReceiver::new(receiving(rx), crowd))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::attach;
    use crate::{
        links::site::{Ground, Site},
        spec::{Job, LaneSpec, Layer, Member, Shape, Side, Touch, TransportId, Waiting},
    };
    use nix::unistd::gettid;
    use rstest::rstest;
    use std::{
        fs,
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    /// The processor time that a thread of this process has taken, in ticks, by proc_pid_stat(5).
    fn ticks(thread: nix::unistd::Pid) -> u64 {
        let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    #[rstest]
    fn who_polls_takes_processor_time_while_it_waits(
        #[values(TransportId::RawUnix, TransportId::Unix)] transport: TransportId,
        #[values(Touch::All, Touch::First, Touch::Copied)] touch: Touch,
    ) {
        let spec = LaneSpec { message_len_bytes: 4096, touch, ..LaneSpec::sample(transport, Waiting::Spin) };
        let ground = Ground::new(std::slice::from_ref(&spec)).unwrap();
        let mut near = attach(&spec, Member::NEAR, &ground).unwrap();
        let (site, (say, said)) = (Site::clone(&ground), mpsc::channel());
        let far = thread::spawn(move || {
            let mut far = attach(&spec, Member { side: Side::Far, index: 0 }, &site).unwrap();
            say.send(gettid()).unwrap();
            far.run(Job::Echo, 1).map(|_| ()).unwrap();
        });
        let (waiting, deadline) = (said.recv().unwrap(), Instant::now() + Duration::from_secs(30));
        while ticks(waiting) < 5 {
            assert!(Instant::now() < deadline, "it sleeps");
            thread::sleep(Duration::from_millis(10));
        }
        near.run(Job::Ping, 1).map(|_| ()).unwrap();
        far.join().unwrap();
    }

    #[rstest]
    #[case::several(TransportId::Mq, Shape::Crowd { senders: 2, receivers: 1 })]
    #[case::alone(TransportId::ShmSpsc, Shape::Solo)]
    #[case::newest(TransportId::ShmLatest, Shape::Pair)]
    #[case::locked(TransportId::ShmMutex, Shape::Pair)]
    fn a_layer_that_would_do_nothing_is_refused(#[case] transport: TransportId, #[case] shape: Shape) {
        let spec = LaneSpec {
            shape,
            layer: Layer::Drop { one_in: std::num::NonZeroU64::MIN },
            ..LaneSpec::sample(transport, Waiting::Spin)
        };
        let site = Ground::new(std::slice::from_ref(&spec)).unwrap();
        let error = attach(&spec, Member::NEAR, &site).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("is not measured with a layer like Drop"), "{error}");
    }
}
