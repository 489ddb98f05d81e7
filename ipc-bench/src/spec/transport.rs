//! The transports, by name, and what the plan has to know about each.

use super::Waiting;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A way of moving messages between processes, or what such ways are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
pub(crate) enum TransportId {
    /// The physical floor: a bare cache-line ping-pong
    #[value(name = "floor:cache-line")]
    #[serde(rename = "floor:cache-line")]
    CacheLine,
    /// The same with a pause after each look, as everything else that polls makes: some processors
    /// are faster that way
    #[value(name = "floor:cache-line-paused")]
    #[serde(rename = "floor:cache-line-paused")]
    CacheLinePaused,
    /// A fixed-slot ring written for the purpose, payload copied in and out
    #[value(name = "floor:fixed-ring")]
    #[serde(rename = "floor:fixed-ring")]
    FixedRing,
    /// A bare futex ping-pong: what waking a blocked process costs
    #[value(name = "floor:futex")]
    #[serde(rename = "floor:futex")]
    Futex,
    /// A copy in by one process and a copy out by the other (with --copy)
    #[value(name = "floor:memcpy")]
    #[serde(rename = "floor:memcpy")]
    Memcpy,
    /// Bare mq_send and mq_receive
    #[value(name = "raw:mq")]
    #[serde(rename = "raw:mq")]
    RawMq,
    /// Bare msgsnd and msgrcv
    #[value(name = "raw:sysv")]
    #[serde(rename = "raw:sysv")]
    RawSysv,
    /// Bare send and recv on a sequenced-packet socket; long messages in pieces
    #[value(name = "raw:unix")]
    #[serde(rename = "raw:unix")]
    RawUnix,
    /// A memfd for each message, written, sealed and handed over by hand
    #[value(name = "raw:memfd")]
    #[serde(rename = "raw:memfd")]
    RawMemfd,
    /// Bare system calls that make and map a file (with `open`)
    #[value(name = "raw:file")]
    #[serde(rename = "raw:file")]
    RawFile,
    /// Kernel queues by the toolkit
    #[value(name = "mq")]
    #[serde(rename = "mq")]
    Mq,
    /// System V queues by the toolkit
    #[value(name = "sysv")]
    #[serde(rename = "sysv")]
    Sysv,
    /// Sequenced-packet sockets by the toolkit
    #[value(name = "unix")]
    #[serde(rename = "unix")]
    Unix,
    /// Shared memory by the toolkit: one sender, one receiver
    #[value(name = "shm:spsc")]
    #[serde(rename = "shm:spsc")]
    ShmSpsc,
    /// Shared memory by the toolkit: one sender, one receiver, who don't trust each other
    #[value(name = "shm:sealed")]
    #[serde(rename = "shm:sealed")]
    ShmSealed,
    /// Shared memory by the toolkit: a work queue of any number of senders and receivers
    #[value(name = "shm:mpmc")]
    #[serde(rename = "shm:mpmc")]
    ShmMpmc,
    /// Shared memory by the toolkit: to every subscriber, who may miss some
    #[value(name = "shm:broadcast")]
    #[serde(rename = "shm:broadcast")]
    ShmBroadcast,
    /// Shared memory by the toolkit: to every subscriber, the slowest one waited for
    #[value(name = "shm:broadcast-reliable")]
    #[serde(rename = "shm:broadcast-reliable")]
    ShmBroadcastReliable,
    /// Shared memory by the toolkit: the newest value
    #[value(name = "shm:latest")]
    #[serde(rename = "shm:latest")]
    ShmLatest,
    /// Shared memory by the toolkit: requests and responses
    #[value(name = "shm:rpc")]
    #[serde(rename = "shm:rpc")]
    ShmRpc,
    /// Shared memory by the toolkit: a value that both change under a lock (with `tolerance`)
    #[value(name = "shm:mutex")]
    #[serde(rename = "shm:mutex")]
    ShmMutex,
}

/// What the plan has to know about a transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) name: &'static str,
    /// The ways of waiting that it has.
    pub(crate) waits: &'static [Waiting],
    /// Whether it is a stream of messages, so that one way makes sense.
    pub(crate) streams: bool,
    /// Whether it takes part in `--copy` only.
    pub(crate) copies_only: bool,
    /// Whether several may send and several receive.
    pub(crate) crowds: bool,
    /// Whether several messages can be sent with one commit.
    pub(crate) batches: bool,
    /// Whether making and opening a channel of it can be measured.
    pub(crate) opens: bool,
    /// Whether it holds a value that is read and written whenever one likes.
    pub(crate) holds_newest: bool,
    /// Whether it is a value under a lock, and carries no messages.
    pub(crate) locks: bool,
    /// Who gets a message.
    pub(crate) delivery: Delivery,
    /// The bare calls beneath it when it carries messages, measured in the same rounds.
    pub(crate) raw: Option<TransportId>,
}

/// What waits in the kernel can do: sleep in a call, or call again and again without waiting.
const IN_THE_KERNEL: &[Waiting] = &[Waiting::Spin, Waiting::Block];

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// One receiver.
    One,
    /// Every receiver.
    All {
        /// Who is too slow misses some, and is told how many; else all wait for it.
        lossy: bool,
    },
}

impl TransportId {
    pub(crate) const ALL: &'static [Self] = &[
        Self::CacheLine,
        Self::CacheLinePaused,
        Self::FixedRing,
        Self::Futex,
        Self::Memcpy,
        Self::RawMq,
        Self::RawSysv,
        Self::RawUnix,
        Self::RawMemfd,
        Self::RawFile,
        Self::Mq,
        Self::Sysv,
        Self::Unix,
        Self::ShmSpsc,
        Self::ShmSealed,
        Self::ShmMpmc,
        Self::ShmBroadcast,
        Self::ShmBroadcastReliable,
        Self::ShmLatest,
        Self::ShmRpc,
        Self::ShmMutex,
    ];

    pub(crate) fn traits(self) -> Traits {
        // A stream between two.
        let plain = |name, waits| Traits {
            name,
            waits,
            streams: true,
            copies_only: false,
            crowds: false,
            batches: false,
            opens: false,
            holds_newest: false,
            locks: false,
            delivery: Delivery::One,
            raw: None,
        };
        let broadcast = |name, lossy| Traits {
            crowds: true,
            batches: true,
            delivery: Delivery::All { lossy },
            ..plain(name, Waiting::ALL)
        };
        match self {
            Self::CacheLine => Traits { streams: false, ..plain("floor:cache-line", &[Waiting::Spin]) },
            Self::CacheLinePaused => {
                Traits { streams: false, ..plain("floor:cache-line-paused", &[Waiting::Spin]) }
            }
            Self::FixedRing => plain("floor:fixed-ring", &[Waiting::Spin]),
            Self::Futex => Traits { streams: false, ..plain("floor:futex", &[Waiting::Block]) },
            Self::Memcpy => Traits { copies_only: true, ..plain("floor:memcpy", &[Waiting::Spin]) },
            Self::RawMq => plain("raw:mq", IN_THE_KERNEL),
            Self::RawSysv => plain("raw:sysv", IN_THE_KERNEL),
            Self::RawUnix => plain("raw:unix", IN_THE_KERNEL),
            Self::RawMemfd => plain("raw:memfd", IN_THE_KERNEL),
            Self::RawFile => Traits { streams: false, opens: true, ..plain("raw:file", &[]) },
            Self::Mq => Traits { crowds: true, raw: Some(Self::RawMq), ..plain("mq", IN_THE_KERNEL) },
            Self::Sysv => Traits { crowds: true, raw: Some(Self::RawSysv), ..plain("sysv", IN_THE_KERNEL) },
            Self::Unix => Traits { raw: Some(Self::RawUnix), ..plain("unix", IN_THE_KERNEL) },
            Self::ShmRpc => Traits { streams: false, ..plain("shm:rpc", Waiting::ALL) },
            Self::ShmSpsc => Traits { batches: true, opens: true, ..plain("shm:spsc", Waiting::ALL) },
            Self::ShmSealed => plain("shm:sealed", Waiting::ALL),
            Self::ShmMpmc => {
                Traits { crowds: true, batches: true, opens: true, ..plain("shm:mpmc", Waiting::ALL) }
            }
            Self::ShmBroadcast => broadcast("shm:broadcast", true),
            Self::ShmBroadcastReliable => broadcast("shm:broadcast-reliable", false),
            Self::ShmLatest => {
                Traits { streams: false, holds_newest: true, ..plain("shm:latest", Waiting::ALL) }
            }
            Self::ShmMutex => Traits { streams: false, locks: true, ..plain("shm:mutex", Waiting::ALL) },
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.traits().name
    }
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::TransportId;
    use clap::ValueEnum;

    #[test]
    fn every_transport_is_in_the_list_and_has_one_name() {
        assert_eq!(TransportId::ALL, TransportId::value_variants());
        for id in TransportId::ALL {
            assert_eq!(id.to_possible_value().unwrap().get_name(), id.name());
            assert_eq!(serde_json::to_value(id).unwrap(), id.name());
        }
    }
}
