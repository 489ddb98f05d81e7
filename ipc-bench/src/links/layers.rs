//! Layers over any link: [`Delayed`] makes each hop longer, [`Dropping`] loses messages.
//!
//! A delay models a longer way, not a slower end: messages that are under way together wait
//! together. So the receiver holds each message until it is due, which is the delay after it got
//! here. If the receiver was waiting for it, that is seen. If the receiver came later, the message
//! was here already; how long since tells the time when it was sent, which goes beside the link,
//! on a ring of stamps in shared memory.

use super::{
    link::Link,
    shared::{LINE_BYTES, Region, RingLayout, RingReceiver, RingSender},
};
use crate::{
    machine::{clock_cost_ns, now_ns},
    spec::Side,
    trouble::Fallible,
};
use nix::time::ClockId;
use std::{num::NonZeroU64, ops::Range, thread, time::Duration};

/// How long before a message is due its receiver no longer sleeps, since waking takes time.
const AWAKE_NS: u64 = 300_000;

/// Returns at this time of CLOCK_MONOTONIC, asleep where there is time for it.
fn hold_until(due_ns: u64) -> Fallible<()> {
    loop {
        let left_ns = due_ns.saturating_sub(now_ns(ClockId::CLOCK_MONOTONIC)?);
        match left_ns {
            0 => return Ok(()),
            1..=AWAKE_NS => {}
            _ => thread::sleep(Duration::from_nanos(left_ns - AWAKE_NS)),
        }
    }
}

/// Returns after that time, or at once if there is none.
pub(crate) fn delay(delay_ns: u64) -> Fallible<()> {
    match delay_ns {
        0 => Ok(()),
        _ => hold_until(now_ns(ClockId::CLOCK_MONOTONIC)? + delay_ns),
    }
}

/// When each message was sent, beside the messages.
#[derive(Debug)]
pub(crate) struct Stamps {
    tx: RingSender,
    rx: RingReceiver,
}

impl Stamps {
    /// As many as the longest batch has, at least: they are stamped before they are sent.
    const SLOTS: usize = 4096;

    fn layout() -> RingLayout {
        RingLayout::new(Self::SLOTS, size_of::<u64>())
    }

    /// The memory that those there and back take.
    pub(crate) fn len_bytes() -> usize {
        2 * Self::layout().len_bytes()
    }

    /// Those of one side, in the memory at `offset_bytes`.
    pub(crate) fn attach(region: &'static Region, offset_bytes: usize, side: Side) -> Self {
        let rings = [offset_bytes, offset_bytes + Self::layout().len_bytes()];
        let [out, back] = match side {
            Side::Near => rings,
            Side::Far => [rings[1], rings[0]],
        };
        Self {
            tx: RingSender::at(region, out, Self::layout()),
            rx: RingReceiver::at(region, back, Self::layout()),
        }
    }

    /// Where they begin in memory that something of this length comes before in.
    pub(crate) fn behind(len_bytes: usize) -> usize {
        len_bytes.next_multiple_of(LINE_BYTES)
    }

    #[inline]
    fn put(&mut self, sent_ns: u64) {
        self.tx.send(&sent_ns.to_ne_bytes());
    }

    #[inline]
    fn take(&mut self) -> u64 {
        let mut sent_ns = [0; size_of::<u64>()];
        self.rx.receive(&mut sent_ns);
        u64::from_ne_bytes(sent_ns)
    }
}

/// A link each hop of which takes so much longer.
pub(crate) struct Delayed<L> {
    link: L,
    stamps: Stamps,
    /// Without the two readings of the clock that it takes: when a message comes, when it is due.
    hop_ns: u64,
    /// How many messages the link sends with one commit.
    batch: u64,
}

impl<L> Delayed<L> {
    pub(crate) fn new(link: L, stamps: Stamps, hop_ns: u64, batch: usize) -> Self {
        let hop_ns = hop_ns.saturating_sub((2.0 * clock_cost_ns()) as u64);
        Self { link, stamps, hop_ns, batch: batch as u64 }
    }
}

impl<L: Link> Link for Delayed<L> {
    /// The stamp comes after the message, while that one is on its way.
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.link.send(number)?;
        self.stamps.put(now_ns(ClockId::CLOCK_MONOTONIC)?);
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        self.receive_some(number..number + 1)?;
        Ok(())
    }

    /// Where the link sends several with one commit, their stamps come before: who takes only
    /// some of them, so that the others find room, needs theirs.
    #[inline]
    fn send_all(&mut self, mut numbers: Range<u64>) -> Fallible<()> {
        if self.batch == 1 {
            return numbers.try_for_each(|number| self.send(number));
        }
        while !numbers.is_empty() {
            let end = numbers.end.min(numbers.start + self.batch);
            let sent_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
            (numbers.start..end).for_each(|_| self.stamps.put(sent_ns));
            self.link.send_all(numbers.start..end)?;
            numbers.start = end;
        }
        Ok(())
    }

    /// What was taken together is handed on together, when the last of it is due.
    #[inline]
    fn receive_some(&mut self, numbers: Range<u64>) -> Fallible<u64> {
        let first = numbers.start;
        let waiting_since_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
        let next = self.link.receive_some(numbers)?;
        let now_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
        let sent_ns = (first..next).fold(0, |_, _| self.stamps.take());
        let here_ns = if sent_ns > waiting_since_ns { now_ns } else { sent_ns };
        let due_ns = here_ns + self.hop_ns;
        if now_ns < due_ns {
            hold_until(due_ns)?;
        }
        Ok(next)
    }
}

/// A link on which one message in so many isn't sent, and whoever sends it doesn't know.
pub(crate) struct Dropping<L> {
    link: L,
    one_in: NonZeroU64,
}

impl<L> Dropping<L> {
    pub(crate) fn new(link: L, one_in: NonZeroU64) -> Self {
        Self { link, one_in }
    }
}

impl<L: Link> Link for Dropping<L> {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        if number % self.one_in == 0 { Ok(()) } else { self.link.send(number) }
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        self.link.receive(number)
    }

    #[inline]
    fn send_all(&mut self, mut numbers: Range<u64>) -> Fallible<()> {
        while !numbers.is_empty() {
            let dropped = numbers.start.next_multiple_of(self.one_in.get());
            self.link.send_all(numbers.start..numbers.end.min(dropped))?;
            numbers.start = dropped.saturating_add(1);
        }
        Ok(())
    }

    #[inline]
    fn receive_some(&mut self, numbers: Range<u64>) -> Fallible<u64> {
        self.link.receive_some(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::{Delayed, Dropping, Stamps};
    use crate::{
        links::{
            ends::{BatchedReceiver, BatchedSender, InPlace, ReceivingEnd, SendingEnd},
            link::{EndsLink, Link},
            shared::{Region, create},
        },
        spec::{LaneSpec, Side, TransportId, Waiting},
    };
    use ipc_core::{
        Channel, ChannelName, Transport,
        local::{Local, LocalReceiver, LocalSender},
    };
    use rstest::rstest;
    use std::{
        num::NonZeroU64,
        os::fd::AsRawFd,
        time::{Duration, Instant},
    };

    const COUNT: u64 = 40;

    fn spec(batch: usize) -> LaneSpec {
        LaneSpec { message_len_bytes: 20, batch, ..LaneSpec::sample(TransportId::ShmSpsc, Waiting::Block) }
    }

    /// Those of the near and of the far side.
    fn local_ends() -> [(LocalSender, LocalReceiver); 2] {
        let local = Local::new();
        let [there, back] = ["there", "back"]
            .map(|name| local.create(&ChannelName::new(name).unwrap(), &Default::default()).unwrap());
        [
            (there.sender().unwrap(), back.receiver().unwrap()),
            (back.sender().unwrap(), there.receiver().unwrap()),
        ]
    }

    fn one_by_one() -> [EndsLink<impl SendingEnd, impl ReceivingEnd>; 2] {
        let spec = spec(1);
        local_ends().map(|(tx, rx)| EndsLink {
            tx: InPlace::new(tx, &spec),
            rx: InPlace::new(rx, &spec),
            payload: spec.payload(),
        })
    }

    fn in_batches(batch: usize) -> [EndsLink<impl SendingEnd, impl ReceivingEnd>; 2] {
        let spec = spec(batch);
        local_ends().map(|(tx, rx)| EndsLink {
            tx: BatchedSender::new(tx, &spec, vec![0; spec.message_len_bytes]),
            rx: BatchedReceiver::new(rx, &spec),
            payload: spec.payload(),
        })
    }

    fn delayed<L: Link>([near, far]: [L; 2], delay: Duration, batch: usize) -> [Delayed<L>; 2] {
        let memory = create(Stamps::len_bytes()).unwrap();
        let region = Region::map(memory.as_raw_fd()).unwrap();
        let over =
            |link, side| Delayed::new(link, Stamps::attach(region, 0, side), delay.as_nanos() as u64, batch);
        [over(near, Side::Near), over(far, Side::Far)]
    }

    /// Sends and receives `COUNT`: how long after they were sent the first one was there, and the
    /// last one.
    fn times([near, far]: &mut [impl Link; 2]) -> [Duration; 2] {
        let sent = Instant::now();
        near.send_all(1..COUNT + 1).unwrap();
        let mut next = far.receive_some(1..COUNT + 1).unwrap();
        let first = sent.elapsed();
        while next <= COUNT {
            next = far.receive_some(next..COUNT + 1).unwrap();
        }
        [first, sent.elapsed()]
    }

    #[rstest]
    fn no_message_is_there_before_its_delay_and_delays_overlap(#[values(1, 16)] batch: usize) {
        let delay = Duration::from_millis(50);
        let [first, last] = match batch {
            1 => times(&mut delayed(one_by_one(), delay, batch)),
            _ => times(&mut delayed(in_batches(batch), delay, batch)),
        };
        // What a reading of the clock takes is part of it.
        assert!(first >= delay - Duration::from_millis(1), "{first:?}");
        // One after the other they would take two seconds.
        assert!(last < delay * COUNT as u32 / 2, "{last:?}");
    }

    #[test]
    fn who_waits_for_an_answer_waits_for_both_delays() {
        let delay = Duration::from_millis(20);
        let [mut near, mut far] = delayed(one_by_one(), delay, 1);
        let answering = std::thread::spawn(move || {
            for number in 1..=3 {
                far.receive(number).unwrap();
                far.send(number).unwrap();
            }
        });
        for number in 1..=3 {
            let sent = Instant::now();
            near.send(number).unwrap();
            near.receive(number).unwrap();
            let took = sent.elapsed();
            assert!(took >= 2 * delay - Duration::from_millis(1), "{took:?}");
        }
        answering.join().unwrap();
    }

    fn received([near, far]: [impl Link; 2]) -> String {
        let mut near = Dropping::new(near, NonZeroU64::new(20).unwrap());
        near.send_all(1..COUNT + 1).unwrap();
        let mut far = Dropping::new(far, NonZeroU64::MIN);
        let mut next = 1;
        while next <= COUNT {
            match far.receive_some(next..COUNT + 1) {
                Ok(further) => next = further,
                Err(error) => return error.to_string(),
            }
        }
        "nothing is missing".into()
    }

    #[test]
    fn a_message_that_was_dropped_is_missed_by_its_number() {
        let said = "message 20 is missing: message 21 came in its place";
        assert_eq!(received(one_by_one()), said);
        for batch in [7, 16] {
            assert_eq!(received(in_batches(batch)), said);
        }
    }
}
