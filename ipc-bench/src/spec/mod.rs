//! The plain types at the bottom: what is measured, by whom, and what the processes of a
//! measurement tell each other. Everything else builds on them; they build on nothing.

mod transport;

pub(crate) use transport::{Delivery, Traits, TransportId};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{fmt, num::NonZeroU64, os::fd::RawFd};

/// A question to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Experiment {
    /// Round trips, one at a time.
    Latency,
    /// One way as fast as it goes.
    Throughput,
    /// What comes before the first message, in shared memory.
    Open,
    /// What comes before the first message, on the kernel's channels.
    Setup,
    /// Reading and writing the newest value, each for itself.
    Latest,
    /// Requests and replies, and a value under a lock, when each hop takes longer.
    Tolerance,
}

impl Experiment {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::Open => "open",
            Self::Setup => "setup",
            Self::Latest => "latest",
            Self::Tolerance => "tolerance",
        }
    }
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

/// How much of a payload is written and read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Touch {
    /// Every byte, in place.
    #[default]
    All,
    /// The first byte, in place.
    First,
    /// Every byte, by a copy in from memory of the sender's own, and a copy out.
    Copied,
}

/// What is in the messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    pub(crate) len_bytes: usize,
    pub(crate) touch: Touch,
}

/// Which of the two sides of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// The one that starts: it sends first.
    Near,
    /// The one that answers or receives.
    Far,
}

/// One of the measuring processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Member {
    pub(crate) side: Side,
    /// Which one of its side, from 0.
    pub(crate) index: usize,
}

impl Member {
    /// The first of the near side: it creates what all use.
    pub(crate) const NEAR: Self = Self { side: Side::Near, index: 0 };

    /// The one on the other side.
    pub(crate) fn opposite(self) -> Self {
        let side = if self.side == Side::Near { Side::Far } else { Side::Near };
        Self { side, ..self }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.side {
            Side::Near => "near process",
            Side::Far => "far process",
        })?;
        match self.index {
            0 => Ok(()),
            others => write!(f, " {}", others + 1),
        }
    }
}

/// What people use instead, driven by a program of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Guest {
    Iceoryx2,
    IpcChannel,
    Cloudtoid,
    Pipe,
    CrossbeamChannel,
    Rtrb,
}

impl Guest {
    pub(crate) const ALL: [Self; 6] =
        [Self::Iceoryx2, Self::IpcChannel, Self::Cloudtoid, Self::Pipe, Self::CrossbeamChannel, Self::Rtrb];

    /// As its program knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iceoryx2 => "iceoryx2",
            Self::IpcChannel => "ipc-channel",
            Self::Cloudtoid => "cloudtoid",
            Self::Pipe => "pipe",
            Self::CrossbeamChannel => "crossbeam-channel",
            Self::Rtrb => "rtrb",
        }
    }

    /// Whether it is within one process: no peer, but a reference, for 8 bytes.
    pub(crate) fn is_in_process(self) -> bool {
        matches!(self, Self::CrossbeamChannel | Self::Rtrb)
    }

    /// Whether messages are built and read in place, without a copy.
    pub(crate) fn lends(self) -> bool {
        self == Self::Iceoryx2
    }

    /// How its ends wait.
    pub(crate) fn waiting(self) -> Waiting {
        if matches!(self, Self::IpcChannel | Self::Pipe) { Waiting::Block } else { Waiting::Spin }
    }
}

/// Who takes part in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Shape {
    /// The first near process alone.
    Solo,
    /// The first of each side, with a channel there and another one back.
    Pair,
    /// The same, with one channel after the other, each made by the first near process.
    Lives,
    /// One of each side that run another program, in which they drive a peer.
    Guests {
        peer: Guest,
        /// Which ones of their side: the first are ours.
        index: usize,
    },
    /// That many of each side are workers, all alike.
    Workers { near: usize, far: usize },
    /// That many near processes send and that many far ones receive, on one channel.
    Crowd { senders: usize, receivers: usize },
}

impl Shape {
    /// How many of each side: near, far.
    pub(crate) fn sides(self) -> [usize; 2] {
        match self {
            Self::Solo => [1, 0],
            Self::Pair | Self::Lives | Self::Guests { .. } => [1, 1],
            Self::Workers { near, far } => [near, far],
            Self::Crowd { senders, receivers } => [senders, receivers],
        }
    }

    /// Who takes part, the near ones first.
    pub(crate) fn members(self) -> impl Iterator<Item = Member> {
        let [near, far] = self.sides();
        let first = self.first();
        let of = move |side, count| (first..first + count).map(move |index| Member { side, index });
        of(Side::Near, near).chain(of(Side::Far, far))
    }

    pub(crate) fn includes(self, member: Member) -> bool {
        (self.first()..self.first() + self.sides()[member.side as usize]).contains(&member.index)
    }

    /// The index of the first of each side.
    fn first(self) -> usize {
        if let Self::Guests { index, .. } = self { index } else { 0 }
    }
}

/// What is between a connection of two and what uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Layer {
    #[default]
    None,
    /// Each hop takes so much longer, or a lock's being taken and its being given back.
    Delay { hop_ns: u64 },
    /// One message in so many isn't sent.
    Drop { one_in: NonZeroU64 },
}

/// One connection of measuring processes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LaneSpec {
    pub(crate) transport: TransportId,
    pub(crate) waiting: Waiting,
    pub(crate) message_len_bytes: usize,
    pub(crate) touch: Touch,
    /// How many messages are sent with one commit, and taken together; 1 is one by one.
    pub(crate) batch: usize,
    /// Whether one message is under way at a time, as in round trips.
    #[serde(default)]
    pub(crate) in_turn: bool,
    pub(crate) shape: Shape,
    pub(crate) layer: Layer,
    /// Tells the names of this connection from those of the others of its block.
    pub(crate) tag: String,
    /// The descriptor of the memory that the coordinator made for it.
    pub(crate) region: Option<RawFd>,
}

impl LaneSpec {
    pub(crate) fn payload(&self) -> Payload {
        Payload { len_bytes: self.message_len_bytes, touch: self.touch }
    }

    /// A pair that sends one short message by one: for tests, which say what differs.
    #[cfg(test)]
    pub(crate) fn sample(transport: TransportId, waiting: Waiting) -> Self {
        Self {
            transport,
            waiting,
            message_len_bytes: 8,
            touch: Touch::All,
            batch: 1,
            in_turn: false,
            shape: Shape::Pair,
            layer: Layer::None,
            tag: "0".into(),
            region: None,
        }
    }
}

/// What one process does in a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Job {
    /// Sends one at a time and waits for each to come back.
    Ping,
    /// Sends back what comes.
    Echo,
    /// Sends as fast as it goes.
    Stream,
    /// Receives as fast as it goes.
    Drain,
    /// Sends one message after each such interval, whether or not the one before has arrived.
    SendOnTime { interval_ps: u64 },
    /// Receives what comes, and times each from when it was due.
    Meter,
    /// Looks at what a process that waits has done in a while, and then sends what it waits for.
    WatchIdle { pid: u32, for_ms: u32 },
    /// Sends back what comes, from the first message on.
    Answer,
    /// Makes a channel and opens it, and looks at what that takes of memory.
    Weigh,
    /// Makes a channel.
    Create,
    /// Opens a channel that exists and sends a message.
    OpenToSend,
    /// Opens a channel that exists and receives the message that is in it.
    OpenToReceive,
    /// Reads values that nobody is writing, each a new one.
    ReadNew,
    /// Reads a value that nobody has written since it was read.
    ReadAgain,
    /// Writes values that another process is reading.
    WriteWatched,
    /// Reads values as fast as it goes until the last one is there.
    Watch,
    /// Makes a channel and sends so many messages on it; the other one opens it and receives them.
    Live { messages: u64 },
    /// Sends so many requests at a time, and the next one whenever a reply comes.
    Request { in_flight: u64 },
    /// Replies to them.
    Reply { in_flight: u64 },
    /// Changes a value under a lock, as the other one does.
    Update,
    /// Does orders together with other workers.
    Work(Design),
}

/// How workers keep together what they work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Design {
    /// One structure under a lock.
    Locked,
    /// A part for each, and queues, on which so many orders are sent at a time.
    Queues { batch: usize },
}

/// What one process saw in a measurement.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// When the timed part began and ended, by the clock that all processes share.
    pub(crate) started_ns: u64,
    pub(crate) ended_ns: u64,
    /// Processor time of the timed part.
    pub(crate) cpu_ns: u64,
    /// Round trips, or what else was timed one by one: how long, and how many took that
    /// long.
    pub(crate) latencies_ns: Vec<(u64, u64)>,
    /// Messages sent or received, where there are several who do.
    pub(crate) messages: u64,
    /// The sum of their numbers, wrapping: all that was sent must have been received.
    pub(crate) sum: u64,
    /// Messages that this receiver was told it had missed.
    pub(crate) missed: u64,
    /// How often the process that was watched went to sleep.
    #[serde(default)]
    pub(crate) sleeps: u64,
    #[serde(default)]
    pub(crate) memory: Option<Memory>,
    /// What its processor fetched from other ones' caches, or why that isn't known.
    #[serde(default)]
    pub(crate) transfers: Option<Result<u64, String>>,
}

impl Outcome {
    /// For what share of the timed part the process was without a processor.
    pub(crate) fn away_share(&self) -> f64 {
        match self.ended_ns.saturating_sub(self.started_ns) {
            0 => 0.0,
            elapsed_ns => 1.0 - self.cpu_ns.min(elapsed_ns) as f64 / elapsed_ns as f64,
        }
    }
}

/// What a channel takes of memory. `None` where the system doesn't say.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Memory {
    /// Room for messages.
    pub(crate) room_bytes: Option<u64>,
    /// The blocks of its file.
    pub(crate) file_bytes: Option<u64>,
    /// What of a process is in memory more when it receives from it, and when it sends to it.
    pub(crate) receiver_bytes: u64,
    pub(crate) sender_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::{Guest, Member, Outcome, Shape, Side};

    const FAR: Member = Member { side: Side::Far, index: 0 };

    #[test]
    fn who_takes_part_follows_from_the_shape() {
        let crowd = Shape::Crowd { senders: 2, receivers: 1 };
        let second = Member { side: Side::Near, index: 1 };
        assert_eq!(crowd.members().collect::<Vec<_>>(), [Member::NEAR, second, FAR]);
        assert!(crowd.includes(second) && !Shape::Pair.includes(second));
        assert_eq!(Shape::Solo.members().collect::<Vec<_>>(), [Member::NEAR]);
        let guests = Shape::Guests { peer: Guest::Pipe, index: 1 };
        assert_eq!(guests.members().collect::<Vec<_>>(), [second, second.opposite()]);
        assert!(guests.includes(second) && !guests.includes(Member::NEAR));
    }

    #[test]
    fn who_was_without_a_processor_has_less_of_its_time_than_went_by() {
        let of =
            |cpu_ns| Outcome { started_ns: 100, ended_ns: 300, cpu_ns, ..Outcome::default() }.away_share();
        // What is around the timed part counts as well.
        assert_eq!([of(200), of(50), of(0), of(210)], [0.0, 0.75, 1.0, 0.0]);
        assert_eq!(Outcome::default().away_share(), 0.0);
    }

    #[test]
    fn guests_have_one_name() {
        for guest in Guest::ALL {
            assert_eq!(serde_json::to_value(guest).unwrap(), guest.name());
        }
    }

    #[test]
    fn members_are_told_apart_once_there_are_several() {
        let third = Member { side: Side::Far, index: 2 };
        assert_eq!([FAR, third].map(|member| member.to_string()), ["far process", "far process 3"]);
    }
}
