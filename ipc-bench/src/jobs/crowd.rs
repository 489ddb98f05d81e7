//! Throughput among several: so many processes send and so many receive, on one channel.
//!
//! Each sender sends as many messages as any other, numbered by sender. A receiver can't
//! know which of them will be its own, so it goes on until it is told to stop, by a message:
//! where each message goes to one receiver, the sender that finishes last stops one receiver
//! after the other; where each goes to all, every sender marks the end of its own. What the
//! receivers count must add up to what was sent (where each message goes to all, what every
//! one of them counts, and has been told that it missed), and the messages that each of them
//! gets from one sender must come in order.
//!
//! The time runs from before the first message of the first sender to when the first
//! receiver meets a message that stops it: all others have been taken by then, and each
//! receiver has at most one batch of them yet to read. Where each goes to all, it runs to
//! when the last receiver has met all ends; where receivers may miss some, and senders wait
//! for nobody, to when the last sender has sent its last: the rate is that of publishing.

use super::{lane::AnyLane, load};
use crate::{
    links::{
        ends::{ReceivingEnd, SendingEnd},
        shared::{LINE_BYTES, Region},
    },
    spec::{Delivery, Job, Outcome, Payload},
    trouble::Fallible,
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// The shortest message that has room for a number.
pub(crate) const SHORTEST_BYTES: usize = 8;

/// Where the sender is in a number, which has room for 255 of them.
const SENDER_SHIFT: u32 = 56;

/// The number of a message that stops who receives it: no sender's.
const STOP: u64 = 255 << SENDER_SHIFT;

/// What the members of a crowd tell each other beside the channel: counts that only grow,
/// each on a line of its own, over all runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    arrived: &'static AtomicU64,
    finished: &'static AtomicU64,
    stopped: &'static AtomicU64,
}

impl Board {
    /// The memory that it takes.
    pub(crate) const LEN_BYTES: usize = 3 * LINE_BYTES;

    pub(crate) fn at(region: &'static Region) -> Self {
        let [arrived, finished, stopped] = [0, 1, 2].map(|line| &region.words(line * LINE_BYTES, 1)[0]);
        Self { arrived, finished, stopped }
    }

    /// Waits until `all` have arrived, over all runs.
    pub(super) fn arrive(self, all: u64) {
        // Release: pairs with the Acquire in `wait_until`.
        self.arrived.fetch_add(1, Ordering::Release);
        wait_until(self.arrived, all);
    }

    /// How many have finished by now, over all runs.
    pub(super) fn finish(self) -> u64 {
        // AcqRel: whoever comes last comes after all that the others have done.
        self.finished.fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// Waits until `count` is `wanted`. The others may be on the same processor.
pub(super) fn wait_until(count: &AtomicU64, wanted: u64) {
    // Acquire: pairs with the Release of those who count; what they did before is done.
    while count.load(Ordering::Acquire) < wanted {
        thread::yield_now();
    }
}

/// What all members know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) senders: usize,
    pub(crate) receivers: usize,
    pub(crate) delivery: Delivery,
    pub(crate) payload: Payload,
    pub(crate) board: Board,
}

impl Crowd {
    /// How many messages stop a receiver.
    fn stops(&self) -> usize {
        match self.delivery {
            Delivery::One => 1,
            Delivery::All { .. } => self.senders,
        }
    }
}

/// One of the senders.
pub(crate) struct CrowdSender<S> {
    tx: S,
    crowd: Crowd,
    /// The next message's number, with this sender in its head.
    next: u64,
    runs: u64,
}

impl<S: SendingEnd> CrowdSender<S> {
    pub(crate) fn new(tx: S, crowd: Crowd, index: usize) -> Self {
        Self { tx, crowd, next: (index as u64) << SENDER_SHIFT | 1, runs: 0 }
    }

    /// Tells the receivers, or has the last sender tell them, that there is no more.
    fn stop_receivers(&mut self) -> Fallible<()> {
        let Crowd { senders, receivers, board, .. } = self.crowd;
        if self.crowd.delivery != Delivery::One {
            return self.tx.send(STOP);
        }
        if board.finish() < self.runs * senders as u64 {
            return Ok(());
        }
        let stopped_before = (self.runs - 1) * receivers as u64;
        // One at a time, so that nobody takes two of them in one batch.
        for stopped in 1..=receivers as u64 {
            self.tx.send(STOP)?;
            wait_until(board.stopped, stopped_before + stopped);
        }
        Ok(())
    }
}

impl<S: SendingEnd> AnyLane for CrowdSender<S> {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        match job {
            Job::Stream => {}
            Job::SendOnTime { interval_ps } => return load::send_on_time(&mut self.tx, count, interval_ps),
            other => return Err(format!("a crowd's sender has no such job: {other:?}").into()),
        }
        self.runs += 1;
        let numbers = self.next..self.next + count;
        self.next = numbers.end;
        let Crowd { senders, board, .. } = self.crowd;
        board.arrive(self.runs * senders as u64);
        let sum = numbers.clone().fold(0, u64::wrapping_add);
        let outcome = Outcome::begin()?;
        self.tx.send_all(numbers)?;
        let outcome = outcome.end()?;
        self.stop_receivers()?;
        Ok(Outcome { messages: count, sum, ..outcome })
    }
}

/// One of the receivers.
pub(crate) struct CrowdReceiver<R> {
    rx: R,
    crowd: Crowd,
    tally: Tally,
}

impl<R: ReceivingEnd> CrowdReceiver<R> {
    pub(crate) fn new(rx: R, crowd: Crowd) -> Self {
        Self { rx, crowd, tally: Tally { last: vec![0; crowd.senders], ..Tally::default() } }
    }

    #[inline]
    fn receive(&mut self) -> Fallible<()> {
        let (payload, tally) = (self.crowd.payload, &mut self.tally);
        let missed = self.rx.receive(|message| tally.take(payload, message))?;
        self.tally.missed += missed;
        Ok(())
    }
}

impl<R: ReceivingEnd> AnyLane for CrowdReceiver<R> {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        match job {
            Job::Drain => {}
            Job::Meter => return load::meter(&mut self.rx, self.crowd.payload, count),
            other => return Err(format!("a crowd's receiver has no such job: {other:?}").into()),
        }
        self.tally = Tally { last: std::mem::take(&mut self.tally.last), ..Tally::default() };
        // As between two: before the first message it waits for the senders to be told.
        self.receive()?;
        let outcome = Outcome::begin()?;
        while self.tally.stops < self.crowd.stops() {
            self.receive()?;
        }
        let outcome = outcome.end()?;
        // Release: pairs with the Acquire in `wait_until`.
        self.crowd.board.stopped.fetch_add(1, Ordering::Release);
        let Tally { messages, sum, missed, .. } = self.tally;
        Ok(Outcome { messages, sum, missed, ..outcome })
    }
}

/// What a receiver has counted.
#[derive(Debug, Default)]
struct Tally {
    /// The number of the last message of each sender.
    last: Vec<u64>,
    messages: u64,
    sum: u64,
    missed: u64,
    stops: usize,
}

impl Tally {
    #[inline]
    fn take(&mut self, payload: Payload, message: &[u8]) -> Fallible<()> {
        let number = Payload::number_of(message).unwrap_or(0);
        payload.check(message, number)?;
        if number == STOP {
            self.stops += 1;
            return Ok(());
        }
        match self.last.get_mut((number >> SENDER_SHIFT) as usize) {
            Some(last) if *last < number => *last = number,
            _ => return Err(out_of_order(number, &self.last)),
        }
        self.messages += 1;
        self.sum = self.sum.wrapping_add(number);
        Ok(())
    }
}

#[cold]
fn out_of_order(number: u64, last: &[u64]) -> Box<dyn std::error::Error + Send + Sync> {
    format!("message {number:x} came after these last ones of each sender: {last:x?}").into()
}

#[cfg(test)]
mod tests {
    use super::{Board, Crowd, CrowdReceiver, CrowdSender};
    use crate::{
        jobs::lane::AnyLane,
        links::{
            ends::{BatchedReceiver, BatchedSender, InPlace},
            shared::{Region, create},
        },
        spec::{Delivery, Job, LaneSpec, Outcome, Shape, TransportId, Waiting},
    };
    use ipc_core::{
        Channel, ChannelName, Sender, Transport,
        local::{Local, LocalChannel, LocalReceiver, LocalSender},
    };
    use rstest::rstest;
    use std::{
        os::fd::AsRawFd,
        sync::{Arc, Barrier},
        thread,
    };

    fn spec(senders: usize, receivers: usize, batch: usize) -> LaneSpec {
        LaneSpec {
            message_len_bytes: 20,
            batch,
            shape: Shape::Crowd { senders, receivers },
            ..LaneSpec::sample(TransportId::Mq, Waiting::Block)
        }
    }

    fn crowd(spec: &LaneSpec) -> (LocalChannel, Crowd) {
        let channel = Local::new().create(&ChannelName::new("crowd").unwrap(), &Default::default()).unwrap();
        let memory = create(Board::LEN_BYTES).unwrap();
        let board = Board::at(Region::map(memory.as_raw_fd()).unwrap());
        let [senders, receivers] = spec.shape.sides();
        (channel, Crowd { senders, receivers, delivery: Delivery::One, payload: spec.payload(), board })
    }

    /// Two runs of 200 messages of each sender. Nobody begins the second one, or leaves,
    /// before all have ended the first: the coordinator sees to that.
    fn run(
        mut lane: impl AnyLane + Send + 'static,
        job: Job,
        all: &Arc<Barrier>,
    ) -> thread::JoinHandle<[Outcome; 2]> {
        let all = Arc::clone(all);
        thread::spawn(move || {
            [(); 2].map(|()| {
                let outcome = lane.run(job, 200).unwrap();
                all.wait();
                outcome
            })
        })
    }

    #[rstest]
    fn what_receivers_count_adds_up_to_what_was_sent(
        #[values(1, 3)] senders: usize,
        #[values(1, 4)] receivers: usize,
        #[values(1, 7)] batch: usize,
    ) {
        let spec = spec(senders, receivers, batch);
        let (channel, crowd) = crowd(&spec);
        let all = Arc::new(Barrier::new(senders + receivers));
        let receiving: Vec<_> = (0..receivers)
            .map(|_| {
                let rx: LocalReceiver = channel.receiver().unwrap();
                match batch {
                    1 => run(CrowdReceiver::new(InPlace::new(rx, &spec), crowd), Job::Drain, &all),
                    _ => run(CrowdReceiver::new(BatchedReceiver::new(rx, &spec), crowd), Job::Drain, &all),
                }
            })
            .collect();
        let sending: Vec<_> = (0..senders)
            .map(|index| {
                let tx: LocalSender = channel.sender().unwrap();
                let message = vec![0; spec.message_len_bytes];
                match batch {
                    1 => run(CrowdSender::new(InPlace::new(tx, &spec), crowd, index), Job::Stream, &all),
                    _ => {
                        let tx = BatchedSender::new(tx, &spec, message);
                        run(CrowdSender::new(tx, crowd, index), Job::Stream, &all)
                    }
                }
            })
            .collect();
        let [sent, received] = [sending, receiving]
            .map(|side| side.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>());
        for round in 0..2 {
            let total = |side: &[[Outcome; 2]]| {
                side.iter().fold((0, 0u64), |(messages, sum), outcomes| {
                    (messages + outcomes[round].messages, sum.wrapping_add(outcomes[round].sum))
                })
            };
            assert_eq!(total(&sent).0, 200 * senders as u64);
            assert_eq!(total(&sent), total(&received));
        }
    }

    #[rstest]
    #[case::twice(&[1, 1], "message 1 came after")]
    #[case::out_of_order(&[5, 4], "message 4 came after")]
    #[case::of_nobody(&[3 << 56], "message 300000000000000")]
    fn a_message_that_nobody_sent_there_ends_the_measurement(#[case] numbers: &[u64], #[case] said: &str) {
        let spec = spec(2, 1, 1);
        let (channel, crowd) = crowd(&spec);
        let mut tx = channel.sender().unwrap();
        for &number in numbers {
            let mut message = vec![0; spec.message_len_bytes];
            spec.payload().write(&mut message, number);
            tx.send(&message).unwrap();
        }
        let mut receiver = CrowdReceiver::new(InPlace::new(channel.receiver().unwrap(), &spec), crowd);
        let error = receiver.run(Job::Drain, 0).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
