//! Open-loop load: messages at a fixed rate, each timed from when it was *due*.
//!
//! Who waits for an answer before it sends again measures a stall once, however many messages
//! would have come meanwhile (G. Tene's "coordinated omission"). Here the schedule is fixed
//! beforehand: message i is due at the start plus i intervals. Who sends waits for that moment,
//! awake, and never for anything else; if it is late, since the channel was full or it had no
//! processor, it sends at once, and the message's time has been running all along.
//!
//! A message's number is the moment at which it was due, by the clock that all processes
//! share: the receiver takes that from its own reading.

use crate::{
    links::ends::{ReceivingEnd, SendingEnd},
    machine::now_ns,
    spec::{Outcome, Payload},
    stats::{histogram, recorded},
    trouble::Fallible,
};
use nix::time::ClockId;
use std::{hint, thread};

/// The number of a message after which none follows.
const LAST: u64 = u64::MAX;

/// From the beginning to when the first message is due.
const LEAD_NS: u64 = 100_000;

/// How many times as long as planned a run may take: what can't be sent until then isn't.
const PATIENCE: u64 = 3;

/// Who waits longer than this lets others have the processor.
const LONG_NS: u64 = 20_000;

/// Sends `count` messages, one every `interval_ps`, and one more that says so.
pub(crate) fn send_on_time(tx: &mut impl SendingEnd, count: u64, interval_ps: u64) -> Fallible<Outcome> {
    let mut outcome = Outcome::begin()?;
    let first_ns = outcome.started_ns + LEAD_NS;
    let due_after_ns = |index: u64| (u128::from(index) * u128::from(interval_ps) / 1000) as u64;
    let give_up_ns = first_ns + PATIENCE * due_after_ns(count);
    outcome.started_ns = first_ns;
    let mut now = outcome.started_ns - LEAD_NS;
    for index in 0..count {
        let due_ns = first_ns + due_after_ns(index);
        // Who is behind doesn't look at the clock before it has caught up with its last look.
        while now < due_ns {
            if due_ns - now > LONG_NS {
                thread::yield_now();
            }
            hint::spin_loop();
            now = now_ns(ClockId::CLOCK_MONOTONIC)?;
        }
        tx.send(due_ns)?;
        outcome.messages += 1;
        outcome.sum = outcome.sum.wrapping_add(due_ns);
        if index % 64 == 63 {
            now = now_ns(ClockId::CLOCK_MONOTONIC)?;
            if now > give_up_ns {
                break;
            }
        }
    }
    let outcome = outcome.end()?;
    tx.send(LAST)?;
    Ok(outcome)
}

/// Receives what is sent on time, at most `count` messages, until it is told that there is no
/// more. The time of each runs from when it was due to when it has been read.
pub(crate) fn meter(rx: &mut impl ReceivingEnd, payload: Payload, count: u64) -> Fallible<Outcome> {
    // Written, not just reserved, so that the pages are there.
    let mut times_ns = vec![u64::MAX; usize::try_from(count)?];
    let (mut messages, mut sum, mut last_ns, mut received_ns) = (0, 0u64, 0, 0);
    let mut is_over = false;
    let outcome = Outcome::begin()?;
    while !is_over {
        let missed = rx.receive(|message| {
            let due_ns = Payload::number_of(message).unwrap_or(0);
            payload.check(message, due_ns)?;
            if due_ns == LAST {
                is_over = true;
                return Ok(());
            }
            received_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
            let room = times_ns.get_mut(messages).filter(|_| due_ns > last_ns);
            *room.ok_or_else(|| out_of_order(messages, due_ns, last_ns))? =
                received_ns.saturating_sub(due_ns);
            (messages, sum, last_ns) = (messages + 1, sum.wrapping_add(due_ns), due_ns);
            Ok(())
        })?;
        if missed > 0 {
            return Err(format!("{missed} messages were overwritten before they were received").into());
        }
    }
    let outcome = outcome.end()?;
    let mut histogram = histogram();
    for &time_ns in &times_ns[..messages] {
        histogram.record(time_ns)?;
    }
    let latencies_ns = recorded(&histogram);
    Ok(Outcome { messages: messages as u64, sum, ended_ns: received_ns, latencies_ns, ..outcome })
}

#[cold]
fn out_of_order(messages: usize, due_ns: u64, last_ns: u64) -> Box<dyn std::error::Error + Send + Sync> {
    format!("after {messages} messages, the last one due at {last_ns}, came one due at {due_ns}").into()
}

#[cfg(test)]
mod tests {
    use super::{ClockId, LAST, meter, now_ns, send_on_time};
    use crate::{
        links::ends::{ReceivingEnd, SendingEnd},
        spec::{Outcome, Payload, Touch},
        trouble::Fallible,
    };
    use std::{thread, time::Duration};

    const PAYLOAD: Payload = Payload { len_bytes: 16, touch: Touch::All };

    /// A channel that stands still for a while at one message.
    #[derive(Default)]
    struct Kept {
        numbers: Vec<u64>,
        /// How long after it was due each was sent.
        late_ns: Vec<u64>,
        stalls_at: Option<usize>,
    }

    const STALL: Duration = Duration::from_millis(20);

    impl SendingEnd for Kept {
        fn send(&mut self, number: u64) -> Fallible<()> {
            if self.stalls_at == Some(self.numbers.len()) {
                thread::sleep(STALL);
            }
            self.numbers.push(number);
            self.late_ns.push(now_ns(ClockId::CLOCK_MONOTONIC)?.saturating_sub(number));
            Ok(())
        }
    }

    impl ReceivingEnd for std::vec::IntoIter<u64> {
        fn receive(&mut self, mut read: impl FnMut(&[u8]) -> Fallible<()>) -> Fallible<u64> {
            let mut message = [0; 16];
            PAYLOAD.write(&mut message, self.next().ok_or("nothing comes any more")?);
            read(&message).map(|()| 0)
        }
    }

    fn metered(numbers: Vec<u64>) -> Fallible<Outcome> {
        let count = numbers.len() as u64 - 1;
        meter(&mut numbers.into_iter(), PAYLOAD, count)
    }

    #[test]
    fn each_message_is_due_an_interval_after_the_one_before_whatever_became_of_that() {
        let mut kept = Kept { stalls_at: Some(10), ..Kept::default() };
        let sent = send_on_time(&mut kept, 1000, 50_000_500).unwrap();
        let dues: Vec<u64> = kept.numbers[..1000].iter().map(|due| due - sent.started_ns).collect();
        let expected: Vec<u64> = (0..1000).map(|index| index * 50_000_500 / 1000).collect();
        assert_eq!((dues, kept.numbers[1000]), (expected, LAST));
    }

    #[test]
    fn who_waits_for_a_channel_that_stands_still_counts_all_that_was_due_meanwhile() {
        let mut kept = Kept { stalls_at: Some(0), ..Kept::default() };
        // One every 10 us: 2000 are due while it stands still.
        send_on_time(&mut kept, 3000, 10_000_000).unwrap();
        // Of those in the first half of the stall, each is late by the other half at least.
        assert!(kept.late_ns[..1000].iter().all(|&late_ns| late_ns >= 10_000_000), "{:?}", kept.late_ns);
    }

    #[test]
    fn a_run_that_can_never_be_done_in_time_is_given_up() {
        let mut kept = Kept { stalls_at: Some(0), ..Kept::default() };
        let sent = send_on_time(&mut kept, 100_000, 1_000).unwrap();
        assert_eq!(sent.messages, 64);
        assert_eq!(kept.numbers.len(), 65);
        let received = metered(kept.numbers).unwrap();
        assert_eq!((received.messages, received.sum), (sent.messages, sent.sum));
    }

    #[test]
    fn a_message_that_comes_twice_out_of_order_or_unasked_for_ends_the_measurement() {
        for (numbers, said) in [
            (vec![5, 5, LAST], "the last one due at 5, came one due at 5"),
            (vec![5, 4, LAST], "the last one due at 5, came one due at 4"),
        ] {
            let error = metered(numbers).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = meter(&mut vec![1, 2, 3, LAST].into_iter(), PAYLOAD, 2).unwrap_err().to_string();
        assert!(error.contains("after 2 messages"), "{error}");
    }
}
