//! What is measured, against what, and why something that was asked for isn't.

use super::tolerance;
use crate::{
    cli::Asked,
    jobs::{crowd::SHORTEST_BYTES, newest, transports::refuses},
    record::delay,
    spec::{Delivery, Experiment, Job, LaneSpec, Layer, Shape, Touch, Traits, TransportId, Waiting},
};

/// One line of the report: a subject, and what it runs against in each round.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) subject: Contender,
    pub(crate) opponents: Vec<(Against, Contender)>,
}

/// A connection and what is done on it.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) lane: LaneSpec,
    /// What the near processes do, and the far ones.
    pub(crate) jobs: [Job; 2],
}

/// What an opponent stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// The fixed ring: where there is no going back and forth, it is the floor.
    FixedRing,
    /// The bare calls beneath the subject.
    Raw,
    /// A bare futex ping-pong.
    Futex,
    /// A copy in and a copy out.
    Memcpy,
    /// The subject itself with one sender and one receiver.
    Alone,
    /// The other model: of the kernel's channels, `shm:spsc`.
    Shared,
}

impl Contender {
    pub(super) fn new(transport: TransportId, waiting: Waiting, jobs: [Job; 2]) -> Self {
        let lane = LaneSpec {
            transport,
            waiting,
            message_len_bytes: 8,
            touch: Touch::All,
            batch: 1,
            in_turn: jobs[0] == Job::Ping,
            shape: Shape::Pair,
            tag: String::new(),
            layer: Layer::None,
            region: None,
        };
        Self { lane, jobs }
    }

    /// The cache line, which is probed before and after each round.
    pub(crate) fn floor() -> Self {
        Self::new(TransportId::CacheLine, Waiting::Spin, [Job::Ping, Job::Echo])
    }

    /// As `self` in all but the transport, which is an opponent's, between two and one by
    /// one.
    fn opponent(&self, transport: TransportId) -> Self {
        let shape = if self.lane.shape == Shape::Solo { Shape::Solo } else { Shape::Pair };
        let waits = transport.traits().waits;
        let alike = waits.iter().find(|&&waiting| waiting == self.lane.waiting);
        let waiting = alike.or(waits.first()).copied().unwrap_or(self.lane.waiting);
        Self { lane: LaneSpec { transport, waiting, shape, batch: 1, ..self.lane.clone() }, jobs: self.jobs }
    }

    /// How many messages `count` iterations are.
    pub(crate) fn messages(&self, count: u64) -> u64 {
        match self.jobs[0] {
            Job::Ping => 2 * count,
            Job::Request { in_flight } => 2 * in_flight * count,
            Job::Update => 2 * count,
            Job::Live { messages } => messages * count,
            Job::Work(_) => self.lane.shape.sides().iter().sum::<usize>() as u64 * count,
            _ => self.lane.shape.sides()[0] as u64 * count,
        }
    }

    /// What is done, where that isn't sending messages one way or back and forth.
    pub(crate) fn operation(&self) -> Option<&'static str> {
        match self.jobs[0] {
            Job::Create => Some("create"),
            Job::OpenToSend => Some("open+send"),
            Job::OpenToReceive => Some("open+receive"),
            Job::ReadNew => Some("read new"),
            Job::ReadAgain => Some("read again"),
            Job::WriteWatched => Some("write watched"),
            Job::Update => Some("update"),
            _ => None,
        }
    }

    /// How many requests are under way at a time.
    pub(crate) fn in_flight(&self) -> Option<u64> {
        if let Job::Request { in_flight } = self.jobs[0] { Some(in_flight) } else { None }
    }

    /// What each hop takes longer.
    pub(crate) fn delay_ns(&self) -> u64 {
        if let Layer::Delay { hop_ns } = self.lane.layer { hop_ns } else { 0 }
    }

    /// How many iterations are tried first: of what takes long, one.
    pub(crate) fn first_count(&self) -> u64 {
        let is_long = self.delay_ns() >= 1_000_000 || matches!(self.jobs[0], Job::Live { .. });
        if is_long { 1 } else { 16 }
    }

    /// How many of what is timed are timed together.
    pub(crate) fn group(&self) -> u64 {
        match self.jobs[0] {
            Job::ReadNew | Job::ReadAgain | Job::WriteWatched => newest::GROUP,
            _ => 1,
        }
    }
}

impl Block {
    pub(super) fn new(experiment: Experiment, subject: Contender) -> Self {
        let LaneSpec { transport, waiting, touch, shape, .. } = subject.lane;
        let mut against = Vec::new();
        let raw = transport.traits().raw;
        // Both models in the same rounds: what is said of one over the other is of the same moment.
        let of_the_kernel =
            raw.into_iter().flat_map(|raw| [(Against::Raw, raw), (Against::Shared, TransportId::ShmSpsc)]);
        match experiment {
            Experiment::Open => against.push((Against::Raw, TransportId::RawFile)),
            Experiment::Latest | Experiment::Tolerance => {}
            Experiment::Setup => against.extend(of_the_kernel),
            Experiment::Latency | Experiment::Throughput => {
                match experiment {
                    Experiment::Latency => against.extend(of_the_kernel),
                    _ => against.extend(raw.map(|raw| (Against::Raw, raw))),
                }
                if touch == Touch::Copied {
                    against.push((Against::Memcpy, TransportId::Memcpy));
                } else if experiment == Experiment::Throughput {
                    against.push((Against::FixedRing, TransportId::FixedRing));
                }
                if experiment == Experiment::Latency && waiting == Waiting::Block {
                    against.push((Against::Futex, TransportId::Futex));
                }
            }
        }
        let mut opponents: Vec<_> = against
            .into_iter()
            .filter(|&(_, opponent)| opponent != transport)
            .map(|(against, opponent)| (against, subject.opponent(opponent)))
            .collect();
        if matches!(shape, Shape::Crowd { senders, receivers } if senders + receivers > 2) {
            let shape = Shape::Crowd { senders: 1, receivers: 1 };
            let alone = Contender { lane: LaneSpec { shape, ..subject.lane.clone() }, ..subject };
            opponents.push((Against::Alone, alone));
        }
        Self { subject, opponents }
    }

    /// The floor, the subject, then the opponents.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let opponents = self.opponents.iter().map(|(_, contender)| contender);
        [&Contender::floor(), &self.subject].into_iter().chain(opponents).cloned().collect()
    }

    pub(crate) fn label(&self) -> String {
        let LaneSpec { transport, waiting, message_len_bytes, .. } = self.subject.lane;
        let delay = delay(self.subject.delay_ns());
        match self.subject.operation() {
            Some("update") => format!("{transport}, updates, {delay} a hop"),
            Some(operation) => format!("{transport}, {operation}, {message_len_bytes} bytes"),
            None => match self.subject.in_flight() {
                Some(in_flight) => format!("{transport}, {in_flight} in flight, {delay} a hop"),
                None => format!("{transport}, {message_len_bytes} bytes, {}", waiting.name()),
            },
        }
    }
}

/// The blocks, and why something that was asked for isn't among them.
pub(crate) fn plan(asked: &Asked) -> (Vec<Block>, Vec<String>) {
    let (mut blocks, mut left_out) = (Vec::new(), Vec::new());
    for &transport in &asked.transports {
        let traits = transport.traits();
        if let Some(why) = elsewhere(asked, &traits) {
            // Nobody misses it who didn't ask for it.
            if asked.transports_named {
                left_out.push(why);
            }
        } else if let Some(why) = cant(asked, &traits) {
            left_out.push(why);
        } else {
            add_blocks(asked, transport, &mut blocks, &mut left_out);
        }
    }
    (blocks, left_out)
}

/// Why a transport has no part in such an experiment at all.
fn elsewhere(asked: &Asked, traits: &Traits) -> Option<String> {
    let name = traits.name;
    match asked.experiment {
        Experiment::Open => (!traits.opens)
            .then(|| format!("{name} has no channel in a file that keeps messages for who opens it later")),
        Experiment::Setup => traits
            .raw
            .is_none()
            .then(|| format!("{name} is no channel of the kernel's: its set-up is measured by `open`")),
        Experiment::Latest => {
            (!traits.holds_newest).then(|| format!("{name} holds no newest value: it is for shm:latest"))
        }
        Experiment::Tolerance => tolerance::elsewhere(traits),
        _ if traits.locks => {
            Some(format!("{name} carries no messages: it is a value under a lock, for `tolerance`"))
        }
        _ if traits.waits.is_empty() => Some(format!("{name} carries no messages: it is there for `open`")),
        _ if traits.copies_only && asked.touch != Touch::Copied => {
            Some(format!("{name} does nothing but copy: add --copy"))
        }
        Experiment::Throughput if !traits.streams => {
            Some(format!("{name} has no throughput: it carries one message at a time"))
        }
        Experiment::Latency | Experiment::Throughput => None,
    }
}

/// Why a transport can't do it in the way that was asked for.
fn cant(asked: &Asked, traits: &Traits) -> Option<String> {
    let Asked { senders, receivers, batch, waits, .. } = asked;
    let Traits { name, waits: its_waits, .. } = traits;
    match asked.experiment {
        Experiment::Latency | Experiment::Throughput => {}
        Experiment::Open | Experiment::Setup | Experiment::Latest | Experiment::Tolerance => return None,
    }
    if (*senders, *receivers) != (1, 1) && !traits.crowds {
        return Some(format!(
            "{name} is measured with one sender and one receiver only, not with {senders} and {receivers}"
        ));
    }
    if *batch > 1 && !traits.batches {
        return Some(format!("{name} sends no batches: each message is committed by itself"));
    }
    let names = |waits: &[Waiting]| waits.iter().map(|wait| wait.name()).collect::<Vec<_>>().join(", ");
    if !its_waits.iter().any(|wait| waits.contains(wait)) {
        return Some(format!("{name} waits by {} only, not by {}", names(its_waits), names(waits)));
    }
    None
}

fn add_blocks(asked: &Asked, transport: TransportId, blocks: &mut Vec<Block>, left_out: &mut Vec<String>) {
    if asked.experiment == Experiment::Tolerance {
        return tolerance::add_blocks(asked, transport, blocks, left_out);
    }
    let mut add = |contender| blocks.push(Block::new(asked.experiment, contender));
    if matches!(asked.experiment, Experiment::Open | Experiment::Setup) {
        for job in [Job::Create, Job::OpenToSend, Job::OpenToReceive] {
            // The far process has no part in it, and nobody waits.
            let Contender { lane, jobs } = Contender::new(transport, Waiting::Adaptive, [job, job]);
            add(Contender { lane: LaneSpec { shape: Shape::Solo, ..lane }, jobs });
        }
        return;
    }
    if asked.experiment == Experiment::Latest {
        for &message_len_bytes in &asked.sizes_bytes {
            if message_len_bytes < newest::SHORTEST_BYTES {
                left_out.push(format!(
                    "{transport} with {message_len_bytes} bytes: values are known by numbers of {} bytes",
                    newest::SHORTEST_BYTES
                ));
                continue;
            }
            for (shape, jobs) in [
                (Shape::Solo, [Job::ReadNew; 2]),
                (Shape::Solo, [Job::ReadAgain; 2]),
                (Shape::Pair, [Job::WriteWatched, Job::Watch]),
            ] {
                let Contender { lane, jobs } = Contender::new(transport, Waiting::Spin, jobs);
                add(Contender { lane: LaneSpec { message_len_bytes, shape, ..lane }, jobs });
            }
        }
        return;
    }
    let &Asked { senders, receivers, batch, touch, .. } = asked;
    let (shape, jobs) = match (asked.experiment, senders, receivers) {
        // Between two, each message is waited for: that is no way to measure who doesn't wait.
        (Experiment::Throughput, 1, 1) if transport.traits().delivery != Delivery::All { lossy: true } => {
            (Shape::Pair, [Job::Stream, Job::Drain])
        }
        (Experiment::Throughput, ..) => (Shape::Crowd { senders, receivers }, [Job::Stream, Job::Drain]),
        _ => (Shape::Pair, [Job::Ping, Job::Echo]),
    };
    let crowd = shape != Shape::Pair;
    if crowd && touch == Touch::First {
        left_out.push(format!(
            "{transport} with --loan: messages of several, and those that may be missed, are known by their \
             numbers, which take more than their first byte"
        ));
        return;
    }
    for &message_len_bytes in &asked.sizes_bytes {
        let too_short = (crowd && message_len_bytes < SHORTEST_BYTES)
            .then(|| format!("here messages are known by numbers of {SHORTEST_BYTES} bytes"));
        if let Some(why) = too_short.or_else(|| refuses(transport, message_len_bytes)) {
            left_out.push(format!("{transport} with {message_len_bytes} bytes: {why}"));
            continue;
        }
        for &waiting in transport.traits().waits.iter().filter(|wait| asked.waits.contains(wait)) {
            let Contender { lane, jobs } = Contender::new(transport, waiting, jobs);
            add(Contender { lane: LaneSpec { message_len_bytes, touch, batch, shape, ..lane }, jobs });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Against, Block, plan};
    use crate::{
        cli::Asked,
        spec::{Experiment, Layer, Shape, Touch, TransportId, Waiting},
    };
    use rstest::rstest;
    use std::time::Duration;

    fn asked(experiment: Experiment, transport: TransportId) -> Asked {
        Asked {
            experiment,
            transports: vec![transport],
            transports_named: true,
            sizes_bytes: vec![8],
            waits: Waiting::ALL.into(),
            touch: Touch::All,
            senders: 1,
            receivers: 1,
            batch: 1,
            delays_ns: vec![0, 1_000],
            in_flight: vec![1, 16],
            json: false,
            quick: true,
            watchdog: Duration::from_secs(1),
        }
    }

    fn against(block: &Block) -> Vec<Against> {
        block.opponents.iter().map(|(against, _)| *against).collect()
    }

    #[rstest]
    #[case::spins(Waiting::Spin, Touch::All, &[])]
    #[case::sleeps(Waiting::Block, Touch::All, &[Against::Futex])]
    #[case::copies(Waiting::Spin, Touch::Copied, &[Against::Memcpy])]
    fn round_trips_are_compared_with_what_they_can_be_compared_with(
        #[case] waiting: Waiting,
        #[case] touch: Touch,
        #[case] expected: &[Against],
    ) {
        let asked = Asked { waits: vec![waiting], touch, ..asked(Experiment::Latency, TransportId::ShmSpsc) };
        let (blocks, left_out) = plan(&asked);
        assert_eq!((blocks.len(), left_out), (1, vec![]));
        assert_eq!(against(&blocks[0]), expected);
    }

    #[test]
    fn a_crowd_runs_against_itself_alone_and_its_opponents_between_two() {
        let asked = Asked { senders: 2, receivers: 3, ..asked(Experiment::Throughput, TransportId::Mq) };
        let (blocks, _) = plan(&asked);
        assert_eq!(against(&blocks[0]), [Against::Raw, Against::FixedRing, Against::Alone]);
        let shapes: Vec<_> = blocks[0].contenders().iter().map(|contender| contender.lane.shape).collect();
        let crowd = |senders, receivers| Shape::Crowd { senders, receivers };
        assert_eq!(shapes, [Shape::Pair, crowd(2, 3), Shape::Pair, Shape::Pair, crowd(1, 1)]);
    }

    #[rstest]
    #[case::lossy(TransportId::ShmBroadcast, Shape::Crowd { senders: 1, receivers: 1 })]
    #[case::reliable(TransportId::ShmBroadcastReliable, Shape::Pair)]
    fn who_may_miss_messages_counts_them_even_if_it_is_one(
        #[case] transport: TransportId,
        #[case] shape: Shape,
    ) {
        let (blocks, _) = plan(&asked(Experiment::Throughput, transport));
        assert!(blocks.iter().all(|block| block.subject.lane.shape == shape));
        assert_eq!(against(&blocks[0]), [Against::FixedRing]);
    }

    #[test]
    fn a_floor_is_not_its_own_opponent() {
        for transport in [TransportId::Futex, TransportId::FixedRing, TransportId::Memcpy] {
            let experiment = match transport {
                TransportId::FixedRing => Experiment::Throughput,
                _ => Experiment::Latency,
            };
            let touch = if transport == TransportId::Memcpy { Touch::Copied } else { Touch::All };
            let (blocks, left_out) = plan(&Asked { touch, ..asked(experiment, transport) });
            assert_eq!((against(&blocks[0]), left_out), (vec![], vec![]), "{transport}");
        }
    }

    #[test]
    fn openings_run_against_the_bare_calls_one_operation_at_a_time() {
        let (blocks, _) = plan(&asked(Experiment::Open, TransportId::ShmSpsc));
        let operations: Vec<_> = blocks.iter().map(|block| block.subject.operation()).collect();
        assert_eq!(operations, [Some("create"), Some("open+send"), Some("open+receive")]);
        for block in &blocks {
            assert_eq!(against(block), [Against::Raw]);
            assert_eq!(block.opponents[0].1.jobs, block.subject.jobs);
        }
    }

    #[test]
    fn values_are_read_by_one_process_and_written_beside_another() {
        let (blocks, _) = plan(&asked(Experiment::Latest, TransportId::ShmLatest));
        let seen: Vec<_> = blocks
            .iter()
            .map(|block| (block.subject.operation().unwrap(), block.subject.lane.shape))
            .collect();
        let expected =
            [("read new", Shape::Solo), ("read again", Shape::Solo), ("write watched", Shape::Pair)];
        assert_eq!(seen, expected);
        assert!(blocks.iter().all(|block| block.opponents.is_empty()));
    }

    #[rstest]
    #[case::requests(TransportId::ShmSpsc, &[Some(1), Some(16)])]
    #[case::updates(TransportId::ShmMutex, &[None])]
    fn the_points_of_a_curve_differ_by_their_delay_only(
        #[case] transport: TransportId,
        #[case] curves: &[Option<u64>],
    ) {
        let (blocks, left_out) = plan(&asked(Experiment::Tolerance, transport));
        let of = |block: &Block| (block.subject.in_flight(), block.subject.lane.layer);
        let delays = [0, 1_000].map(|hop_ns| Layer::Delay { hop_ns });
        let expected: Vec<_> = curves.iter().flat_map(|&curve| delays.map(|delay| (curve, delay))).collect();
        assert_eq!((blocks.iter().map(of).collect(), left_out), (expected, vec![]));
    }

    #[rstest]
    #[case::newest(asked(Experiment::Latest, TransportId::Mq), "mq holds no newest value")]
    #[case::newest_too_short(Asked { sizes_bytes: vec![7], ..asked(Experiment::Latest, TransportId::ShmLatest) }, "7 bytes")]
    #[case::crowd(Asked { senders: 2, ..asked(Experiment::Throughput, TransportId::ShmSpsc) }, "shm:spsc is measured with one sender")]
    #[case::batch(Asked { batch: 8, ..asked(Experiment::Throughput, TransportId::Mq) }, "mq sends no batches")]
    #[case::wait(Asked { waits: vec![Waiting::Adaptive], ..asked(Experiment::Latency, TransportId::Mq) }, "mq waits by spin, block only")]
    #[case::copy(asked(Experiment::Throughput, TransportId::Memcpy), "add --copy")]
    #[case::one_way(asked(Experiment::Throughput, TransportId::Futex), "one message at a time")]
    #[case::open(asked(Experiment::Open, TransportId::Mq), "mq has no channel in a file")]
    #[case::setup(asked(Experiment::Setup, TransportId::ShmSpsc), "measured by `open`")]
    #[case::calls(asked(Experiment::Latency, TransportId::RawFile), "for `open`")]
    #[case::unnumbered(Asked { senders: 2, sizes_bytes: vec![7], ..asked(Experiment::Throughput, TransportId::Mq) }, "7 bytes")]
    #[case::lent(Asked { senders: 2, touch: Touch::First, ..asked(Experiment::Throughput, TransportId::Mq) }, "--loan")]
    fn what_is_left_out_is_said_with_the_transports_name(#[case] asked: Asked, #[case] said: &str) {
        let (blocks, left_out) = plan(&asked);
        assert_eq!((blocks.len(), left_out.len()), (0, 1));
        assert!(
            left_out[0].contains(said) && left_out[0].contains(asked.transports[0].name()),
            "{left_out:?}"
        );
    }

    #[test]
    fn what_has_no_part_in_an_experiment_is_not_missed_unless_it_was_named() {
        let asked = Asked { transports_named: false, ..asked(Experiment::Latency, TransportId::RawFile) };
        assert_eq!(plan(&asked).1, [""; 0]);
    }
}
