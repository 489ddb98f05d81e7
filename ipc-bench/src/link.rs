//! What the experiments see of a transport: a [`Link`] to the peer, whatever carries it.
//!
//! Messages are numbered. The sender writes the number all over the payload, the receiver
//! reads all of it and compares, so that every byte is touched on both sides, and a lost,
//! repeated, swapped or torn message is an error and not a good figure.

use crate::{Fallible, latency, throughput};
use ipc_core::{Loan, Receiver, Sender, Wait};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Which of the two measuring processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// The one that starts: it sends first.
    Near,
    /// The one that answers or receives.
    Far,
}

/// How much of a payload is written and read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Touch {
    /// Every byte.
    #[default]
    All,
    /// The first byte.
    First,
}

/// What is in the messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    pub(crate) len_bytes: usize,
    pub(crate) touch: Touch,
}

impl Payload {
    /// Writes the message `number`.
    #[inline]
    pub(crate) fn write(self, space: &mut [u8], number: u64) {
        let pattern = number.to_le_bytes();
        if self.touch == Touch::First {
            space.iter_mut().take(1).for_each(|first| *first = pattern[0]);
            return;
        }
        let mut words = space.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&pattern);
        }
        let rest = words.into_remainder();
        rest.copy_from_slice(&pattern[..rest.len()]);
    }

    /// Reads a message, which must be `number`.
    #[inline]
    pub(crate) fn check(self, message: &[u8], number: u64) -> Fallible<()> {
        if message.len() == self.len_bytes && self.difference(message, number) == 0 {
            return Ok(());
        }
        Err(self.mistake(message, number))
    }

    /// Zero if what is to be read is what was written. Reads on after a difference: that
    /// is no slower for good messages, and vectorises.
    #[inline]
    fn difference(self, message: &[u8], number: u64) -> u64 {
        let pattern = number.to_le_bytes();
        if self.touch == Touch::First {
            return message.first().map_or(0, |&first| u64::from(first ^ pattern[0]));
        }
        let words = message.chunks_exact(8);
        let rest = words.remainder().iter().zip(pattern).fold(0, |sum, (&a, b)| sum | u64::from(a ^ b));
        words.fold(rest, |sum, word| {
            sum | (u64::from_le_bytes(word.try_into().expect("chunks of 8")) ^ number)
        })
    }

    #[cold]
    fn mistake(self, message: &[u8], number: u64) -> Box<dyn std::error::Error + Send + Sync> {
        format!(
            "message {number} came as something else: {} bytes instead of {}, beginning with {:02x?}",
            message.len(),
            self.len_bytes,
            &message[..message.len().min(16)]
        )
        .into()
    }
}

/// One end of a two-way connection: a channel there and another one back.
pub(crate) trait Link {
    /// Sends message `number`, waiting for room.
    fn send(&mut self, number: u64) -> Fallible<()>;

    /// Waits for message `number`, reads and releases it.
    fn receive(&mut self, number: u64) -> Fallible<()>;
}

/// Any transport of the toolkit: written in place, read in place.
pub(crate) struct CoreLink<S, R> {
    pub(crate) tx: S,
    pub(crate) rx: R,
    pub(crate) payload: Payload,
}

impl<S: Sender, R: Receiver> Link for CoreLink<S, R> {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        let mut loan = self.tx.loan(self.payload.len_bytes, Wait::Forever)?;
        self.payload.write(&mut loan, number);
        loan.commit(Wait::Forever).map_err(|rejected| rejected.error)?;
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        let message = self.rx.recv()?;
        self.payload.check(&message, number)
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
}

/// What one process saw in a measurement.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// When the timed part began and ended, by the clock that all processes share.
    pub(crate) started_ns: u64,
    pub(crate) ended_ns: u64,
    /// Processor time of the timed part.
    pub(crate) cpu_ns: u64,
    /// Round trips: how long, and how many took that long.
    pub(crate) latencies_ns: Vec<(u64, u64)>,
}

impl Outcome {
    /// Begins the timed part.
    pub(crate) fn begin() -> Fallible<Self> {
        let cpu_ns = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        Ok(Self { started_ns: now_ns(ClockId::CLOCK_MONOTONIC)?, cpu_ns, ..Self::default() })
    }

    /// Ends it.
    pub(crate) fn end(self) -> Fallible<Self> {
        let ended_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
        let cpu_ns = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - self.cpu_ns;
        Ok(Self { ended_ns, cpu_ns, ..self })
    }
}

fn now_ns(clock: ClockId) -> Fallible<u64> {
    let now = clock_gettime(clock)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

/// A link with the count of its messages, ready for any job.
pub(crate) struct Lane<L> {
    link: L,
    /// The next message's number. Both sides count alike, and never use one twice: what an
    /// earlier run left behind can't be taken for an answer.
    next: u64,
    /// Room for the round trips of a run, kept so that its pages are there already.
    samples_ns: Vec<u32>,
}

impl<L: Link> Lane<L> {
    pub(crate) fn new(link: L) -> Self {
        Self { link, next: 1, samples_ns: Vec::new() }
    }
}

/// A [`Lane`] whatever its link. The one dynamic call is outside the measured loop.
pub(crate) trait AnyLane {
    /// Does `job` for `count` messages or round trips.
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome>;
}

impl<L: Link> AnyLane for Lane<L> {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        let first = self.next;
        match job {
            Job::Ping | Job::Echo => self.next += latency::WARM_UP + count,
            Job::Stream | Job::Drain => self.next += count,
        }
        let numbers = first..self.next;
        match job {
            Job::Ping => latency::ping(&mut self.link, numbers, &mut self.samples_ns),
            Job::Echo => latency::echo(&mut self.link, numbers),
            Job::Stream => throughput::stream(&mut self.link, numbers),
            Job::Drain => throughput::drain(&mut self.link, numbers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AnyLane, CoreLink, Job, Lane, Payload, Touch};
    use ipc_core::{Channel, ChannelName, Sender, Transport, local::Local};
    use rstest::rstest;
    use std::thread;

    const ALL_OF_20: Payload = Payload { len_bytes: 20, touch: Touch::All };

    #[rstest]
    #[case::nothing(0)]
    #[case::less_than_a_word(3)]
    #[case::word(8)]
    #[case::words_and_a_rest(20)]
    fn what_is_written_is_accepted(#[case] len_bytes: usize) {
        let payload = Payload { len_bytes, touch: Touch::All };
        let mut message = vec![0xee; len_bytes];
        payload.write(&mut message, 0x0102_0304_0506_0708);
        assert!(payload.check(&message, 0x0102_0304_0506_0708).is_ok());
    }

    #[rstest]
    fn any_changed_byte_is_noticed(#[values(0, 7, 8, 19)] position: usize) {
        let mut message = vec![0; 20];
        ALL_OF_20.write(&mut message, 7);
        message[position] ^= 0x40;
        assert!(ALL_OF_20.check(&message, 7).unwrap_err().to_string().contains("message 7"));
    }

    #[test]
    fn a_short_message_is_noticed() {
        let mut message = vec![0; 20];
        ALL_OF_20.write(&mut message, 7);
        assert!(
            ALL_OF_20.check(&message[..16], 7).unwrap_err().to_string().contains("16 bytes instead of 20")
        );
    }

    #[test]
    fn lending_touches_the_first_byte_only() {
        let payload = Payload { len_bytes: 3, touch: Touch::First };
        let mut message = [0xee; 3];
        payload.write(&mut message, 9);
        assert_eq!(message, [9, 0xee, 0xee]);
        assert!(payload.check(&message, 9).is_ok());
        assert!(payload.check(&message, 8).is_err());
    }

    type LocalLane = Lane<CoreLink<ipc_core::local::LocalSender, ipc_core::local::LocalReceiver>>;

    fn local_lanes() -> (LocalLane, LocalLane) {
        let local = Local::new();
        let [there, back] = ["there", "back"]
            .map(|name| local.create(&ChannelName::new(name).unwrap(), &Default::default()).unwrap());
        let lane = |tx, rx| Lane::new(CoreLink { tx, rx, payload: ALL_OF_20 });
        (
            lane(there.sender().unwrap(), back.receiver().unwrap()),
            lane(back.sender().unwrap(), there.receiver().unwrap()),
        )
    }

    #[rstest]
    #[case::round_trips(Job::Ping, Job::Echo, 50)]
    #[case::one_way(Job::Stream, Job::Drain, 0)]
    fn any_transport_of_the_traits_can_be_driven(
        #[case] near_job: Job,
        #[case] far_job: Job,
        #[case] samples: u64,
    ) {
        let (mut near, mut far) = local_lanes();
        let answering = thread::spawn(move || far.run(far_job, 50).map(|_| ()));
        let outcome = near.run(near_job, 50).unwrap();
        answering.join().unwrap().unwrap();
        assert_eq!(outcome.latencies_ns.iter().map(|(_, count)| count).sum::<u64>(), samples);
        assert!(outcome.ended_ns >= outcome.started_ns);
    }

    #[test]
    fn a_message_out_of_sequence_ends_the_measurement() {
        let (mut near, mut far) = local_lanes();
        near.link.tx.send(b"not a message of ours").unwrap();
        assert!(far.run(Job::Drain, 1).is_err());
    }
}
