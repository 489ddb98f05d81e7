//! What the command line comes to.

use super::{Common, Messages, Streams};
use crate::{
    measure::experiment::Extent,
    spec::{Experiment, Touch, TransportId, Waiting},
};
use std::time::Duration;

/// What is to be measured, as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) experiment: Experiment,
    pub(crate) transports: Vec<TransportId>,
    /// Whether they were named, not just all that there are.
    pub(crate) transports_named: bool,
    pub(crate) sizes_bytes: Vec<usize>,
    pub(crate) waits: Vec<Waiting>,
    pub(crate) touch: Touch,
    pub(crate) senders: usize,
    pub(crate) receivers: usize,
    /// How many messages are sent with one commit; 1 is one by one.
    pub(crate) batch: usize,
    /// For `tolerance`: what each hop takes longer, and how many requests are under way.
    pub(crate) delays_ns: Vec<u64>,
    pub(crate) in_flight: Vec<u64>,
    pub(crate) json: bool,
    pub(crate) quick: bool,
    pub(crate) watchdog: Duration,
}

impl Asked {
    pub(crate) fn latency(common: &Common, messages: &Messages) -> Self {
        Self::new(Experiment::Latency, common).with_messages(messages)
    }

    pub(crate) fn throughput(common: &Common, messages: &Messages, streams: &Streams) -> Self {
        Self {
            senders: streams.senders.into(),
            receivers: streams.receivers.into(),
            batch: streams.batch.into(),
            ..Self::new(Experiment::Throughput, common).with_messages(messages)
        }
    }

    pub(crate) fn open(common: &Common) -> Self {
        Self::new(Experiment::Open, common)
    }

    pub(crate) fn setup(common: &Common) -> Self {
        Self::new(Experiment::Setup, common)
    }

    pub(crate) fn latest(common: &Common, size: &[usize]) -> Self {
        Self { sizes_bytes: or_default(size, &[8, 64, 1 << 10]), ..Self::new(Experiment::Latest, common) }
    }

    pub(crate) fn tolerance(common: &Common, delay: &[u64], in_flight: &[u64]) -> Self {
        use TransportId as T;
        let transports = [T::Mq, T::Sysv, T::Unix, T::ShmSpsc, T::ShmMpmc, T::ShmMutex];
        Self {
            transports: or_default(&common.transport, &transports),
            delays_ns: or_default(delay, &DELAYS_NS),
            in_flight: or_default(in_flight, &IN_FLIGHT),
            ..Self::new(Experiment::Tolerance, common)
        }
    }

    /// All experiments: what tells most, or everything.
    pub(crate) fn all(extent: Extent, json: bool) -> Vec<Self> {
        use TransportId as T;
        let of = |experiment, transports: &[T], sizes_bytes: &[usize]| Self {
            transports: transports.into(),
            transports_named: false,
            sizes_bytes: sizes_bytes.into(),
            waits: Waiting::ALL.into(),
            quick: extent == Extent::Smoke,
            ..Self::new(experiment, &Common { transport: vec![], json, quick: false, watchdog_s: 20 })
        };
        let channels: &[_] = match extent {
            Extent::Smoke => &[T::Mq, T::ShmSpsc],
            _ => &[T::Mq, T::Sysv, T::Unix, T::ShmSpsc, T::ShmSealed, T::ShmMpmc, T::ShmRpc],
        };
        let in_memory = [T::ShmSpsc, T::ShmMpmc];
        let (small, large): (&[_], &[_]) = match extent {
            Extent::Smoke => (&[8], &[64 << 10]),
            Extent::Quick => (&[8, 1 << 10, 8 << 10, 64 << 10], &[64 << 10, 1 << 20]),
            Extent::Full => (
                &[0, 8, 64, 256, 1 << 10, 4 << 10, 8 << 10, 64 << 10, 256 << 10, 1 << 20],
                &[64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20],
            ),
        };
        let spin = |asked: Self| Self { waits: vec![Waiting::Spin], ..asked };
        let (latency, throughput) = (Experiment::Latency, Experiment::Throughput);
        let batches = [T::ShmSpsc, T::ShmMpmc, T::ShmBroadcastReliable];
        let crowds = [T::Mq, T::Sysv, T::ShmMpmc];
        let delayed = match extent {
            Extent::Smoke => Self {
                delays_ns: DELAYS_NS[..3].into(),
                in_flight: IN_FLIGHT[..2].into(),
                ..of(Experiment::Tolerance, &[T::ShmSpsc, T::ShmMutex], &[8])
            },
            Extent::Quick => of(Experiment::Tolerance, &[T::Sysv, T::ShmSpsc, T::ShmMutex], &[8]),
            Extent::Full => of(
                Experiment::Tolerance,
                &[T::Mq, T::Sysv, T::Unix, T::ShmSpsc, T::ShmMpmc, T::ShmMutex],
                &[8],
            ),
        };
        let mut all = vec![
            of(latency, channels, small),
            spin(of(latency, &[T::CacheLinePaused], &[8])),
            spin(Self { touch: Touch::First, ..of(latency, &in_memory, large) }),
            spin(Self { touch: Touch::Copied, ..of(latency, &in_memory, large) }),
            of(throughput, channels, small),
            spin(Self { batch: 64, ..of(throughput, &batches, &[8]) }),
            Self { senders: 2, receivers: 2, ..of(throughput, &crowds, &[8]) },
            Self { receivers: 8, ..of(throughput, &[T::ShmBroadcast], &[8]) },
            of(Experiment::Open, &in_memory, &[8]),
            of(Experiment::Setup, &[T::Mq, T::Sysv, T::Unix], &[8]),
            of(Experiment::Latest, &[T::ShmLatest], &[8, 64, 1 << 10]),
            delayed,
        ];
        if extent == Extent::Full {
            let scale = [(1, 2), (2, 1), (4, 4), (8, 8)];
            all.extend(scale.map(|(senders, receivers)| Self {
                senders,
                receivers,
                ..of(throughput, &crowds, &[8])
            }));
        }
        all
    }

    fn new(experiment: Experiment, common: &Common) -> Self {
        Self {
            experiment,
            transports: or_default(&common.transport, TransportId::ALL),
            transports_named: !common.transport.is_empty(),
            sizes_bytes: vec![8],
            waits: Vec::new(),
            touch: Touch::All,
            senders: 1,
            receivers: 1,
            batch: 1,
            delays_ns: DELAYS_NS.into(),
            in_flight: IN_FLIGHT.into(),
            json: common.json,
            quick: common.quick,
            watchdog: Duration::from_secs(common.watchdog_s),
        }
    }

    fn with_messages(self, messages: &Messages) -> Self {
        let (touch, sizes_bytes): (_, &[_]) = match (messages.loan, messages.copy) {
            (true, _) => (Touch::First, &[8, 64 << 10, 1 << 20]),
            (_, true) => (Touch::Copied, &[64 << 10, 1 << 20]),
            _ => (Touch::All, &[8, 1 << 10, 8 << 10]),
        };
        Self {
            sizes_bytes: or_default(&messages.size, sizes_bytes),
            waits: or_default(&messages.wait, Waiting::ALL),
            touch,
            ..self
        }
    }
}

/// What each hop takes longer, and how many requests are under way, unless that is said.
const DELAYS_NS: [u64; 6] = [0, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];
const IN_FLIGHT: [u64; 3] = [1, 16, 256];

/// The list, each value once, in the order given; `default` if it is empty.
pub(crate) fn or_default<T: Copy + PartialEq>(given: &[T], default: &[T]) -> Vec<T> {
    let mut values = Vec::new();
    for &value in if given.is_empty() { default } else { given } {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}
