//! The list of what can be measured.
//!
//! To add a transport of the toolkit: a variant of [`TransportId`] (with its line in
//! [`TransportId::traits`]), a [`Backend`](backends::Backend) of some ten lines, and its
//! line in [`attach`].

use crate::{
    Fallible,
    backends::{self, connect},
    experiment::Experiment,
    floor::{CacheLine, FixedRing},
    link::{AnyLane, Lane, Link, Payload, Side, Touch},
    raw_mq::{self, RawMq},
    shared::Region,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    os::{fd::RawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// A way of moving messages between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
pub(crate) enum TransportId {
    /// The physical floor: a bare cache-line ping-pong
    #[value(name = "floor:cache-line")]
    #[serde(rename = "floor:cache-line")]
    CacheLine,
    /// A fixed-slot ring written for the purpose, payload copied in and out
    #[value(name = "floor:fixed-ring")]
    #[serde(rename = "floor:fixed-ring")]
    FixedRing,
    /// Bare mq_send and mq_receive
    #[value(name = "raw:mq")]
    #[serde(rename = "raw:mq")]
    RawMq,
    /// Kernel queues by the toolkit
    #[value(name = "mq")]
    #[serde(rename = "mq")]
    Mq,
    /// Shared memory by the toolkit: one sender, one receiver
    #[value(name = "shm:spsc")]
    #[serde(rename = "shm:spsc")]
    ShmSpsc,
}

/// How a process waits for the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Waiting {
    /// Never leaves the processor
    Spin,
    /// Spins for a while, then sleeps
    Adaptive,
    /// Sleeps at once
    Block,
}

impl Waiting {
    pub(crate) const ALL: &'static [Self] = &[Self::Spin, Self::Adaptive, Self::Block];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Block => "block",
        }
    }
}

/// What the plan has to know about a transport.
pub(crate) struct Traits {
    pub(crate) name: &'static str,
    /// The ways of waiting that it has.
    pub(crate) waits: &'static [Waiting],
    /// Whether it is a stream of messages, so that one way makes sense.
    pub(crate) streams: bool,
    /// What it is measured against in the same rounds, apart from the cache line: the
    /// fixed ring's share of what shared memory can do, the bare calls beneath a queue.
    pub(crate) opponents: &'static [TransportId],
}

impl TransportId {
    pub(crate) const ALL: &'static [Self] =
        &[Self::CacheLine, Self::FixedRing, Self::RawMq, Self::Mq, Self::ShmSpsc];

    pub(crate) fn traits(self) -> Traits {
        let (name, waits, streams, opponents): (_, &[_], _, &[_]) = match self {
            Self::CacheLine => ("floor:cache-line", &[Waiting::Spin], false, &[]),
            Self::FixedRing => ("floor:fixed-ring", &[Waiting::Spin], true, &[]),
            Self::RawMq => ("raw:mq", &[Waiting::Block], true, &[]),
            Self::Mq => ("mq", &[Waiting::Block], true, &[Self::RawMq]),
            Self::ShmSpsc => ("shm:spsc", Waiting::ALL, true, &[]),
        };
        Traits { name, waits, streams, opponents }
    }

    pub(crate) fn name(self) -> &'static str {
        self.traits().name
    }

    /// Why messages of this length can't be measured here; `None` if they can.
    pub(crate) fn refuses(self, message_len_bytes: usize) -> Option<String> {
        match self {
            Self::RawMq | Self::Mq => raw_mq::refuses(message_len_bytes),
            Self::CacheLine | Self::FixedRing | Self::ShmSpsc => None,
        }
    }

    /// The memory that the coordinator has to make for it.
    pub(crate) fn region_bytes(self, message_len_bytes: usize) -> Option<usize> {
        match self {
            Self::CacheLine => Some(CacheLine::LEN_BYTES),
            Self::FixedRing => Some(FixedRing::len_bytes(message_len_bytes)),
            Self::RawMq | Self::Mq | Self::ShmSpsc => None,
        }
    }

    /// What it runs against in each round of an experiment.
    pub(crate) fn opponents(self, experiment: &Experiment) -> Vec<Self> {
        let ring = (experiment.against_ring && self != Self::FixedRing).then_some(Self::FixedRing);
        let mut opponents = self.traits().opponents.to_vec();
        opponents.extend(ring.filter(|ring| !opponents.contains(ring)));
        opponents
    }
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One connection of the two measuring processes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LaneSpec {
    pub(crate) transport: TransportId,
    pub(crate) waiting: Waiting,
    pub(crate) message_len_bytes: usize,
    pub(crate) touch: Touch,
    /// Tells the names of this connection from those of the others of its block.
    pub(crate) tag: String,
    /// The descriptor of the memory that the coordinator made for it.
    pub(crate) region: Option<RawFd>,
}

impl LaneSpec {
    pub(crate) fn payload(&self) -> Payload {
        Payload { len_bytes: self.message_len_bytes, touch: self.touch }
    }
}

/// How many messages a ring holds: 1,024 as long as that is 16 MiB at most, for the floor
/// and its opponents alike.
pub(crate) fn messages_in_flight(message_len_bytes: usize) -> usize {
    const MOST_BYTES: usize = 16 << 20;
    let fitting = MOST_BYTES / message_len_bytes.max(1);
    if fitting >= 1024 { 1024 } else { (fitting.max(16) + 1).next_power_of_two() / 2 }
}

/// Where the channels of a block live, and that nothing of them stays.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Site {
    /// Names of kernel queues begin with this.
    pub(crate) prefix: String,
    /// A directory of the block's own, for segments.
    pub(crate) directory: PathBuf,
}

impl Site {
    /// A new one, unlike any other at this time.
    pub(crate) fn new() -> io::Result<Self> {
        static SITES: AtomicU32 = AtomicU32::new(0);
        let number = SITES.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("ipc-bench-{}-{number}", process::id());
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let directory = base.join(&prefix);
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(Self { prefix, directory })
    }

    /// The name of one of a lane's two channels.
    pub(crate) fn channel(&self, spec: &LaneSpec, direction: &str) -> String {
        format!("{}-{}-{direction}", self.prefix, spec.tag)
    }

    /// Takes away the names that are no longer needed once both sides are attached, so that
    /// the channels go with their processes, however those end.
    pub(crate) fn forget_names(&self, lanes: &[LaneSpec]) {
        let in_the_kernel = |spec: &&LaneSpec| matches!(spec.transport, TransportId::RawMq | TransportId::Mq);
        for spec in lanes.iter().filter(in_the_kernel) {
            for direction in DIRECTIONS {
                raw_mq::remove(&self.channel(spec, direction));
            }
        }
    }

    /// Takes away everything.
    pub(crate) fn clear(&self, lanes: &[LaneSpec]) {
        self.forget_names(lanes);
        // There is nobody to tell, and an error here must not hide the one that led here.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// From the near to the far process, and back.
pub(crate) const DIRECTIONS: [&str; 2] = ["there", "back"];

/// Attaches this process to a connection. The near side attaches first and creates.
pub(crate) fn attach(spec: &LaneSpec, side: Side, site: &Site) -> Fallible<Box<dyn AnyLane>> {
    fn lane(link: impl Link + 'static) -> Box<dyn AnyLane> {
        Box::new(Lane::new(link))
    }
    let region = || -> Fallible<_> {
        let inherited = spec.region.ok_or("the coordinator made no memory for this connection")?;
        Ok(Region::map(inherited)?)
    };
    Ok(match spec.transport {
        TransportId::CacheLine => lane(CacheLine::attach(region()?, side)),
        TransportId::FixedRing => lane(FixedRing::attach(region()?, side, spec)),
        TransportId::RawMq => lane(RawMq::attach(spec, side, site)?),
        TransportId::Mq => lane(connect::<backends::Mq>(spec, side, site)?),
        TransportId::ShmSpsc => lane(connect::<backends::ShmSpsc>(spec, side, site)?),
    })
}
