//! Waiting: as long as asked, not shorter, and never past a cancellation.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, SenderOf, Surroundings, cases,
    payload::Stamp,
    stage::{BRIEF, LEN, Stage, assert_empty},
};
use crate::{BatchReceiver, Cancel, Receiver, RecvError, SendError, Sender, Wait};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Whether a wait has begun can't be seen from outside, so it is cut short at different
/// moments: most likely before, and most likely after it began to sleep.
pub(super) const MOMENTS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(20)];

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    let mut all = cases![
        recv_timeout_ends_on_an_empty_channel_and_not_early,
        a_timeout_of_zero_still_delivers_what_is_there,
        a_deadline_in_the_past_still_delivers_what_is_there,
        the_longest_timeout_does_not_overflow,
        the_farthest_deadline_does_not_overflow,
        a_waiting_receiver_gets_what_is_sent,
        cancelling_wakes_a_waiting_receiver,
        a_cancelled_wait_on_an_empty_channel_ends_at_once,
        a_wait_that_was_not_cancelled_is_a_wait_like_others,
    ];
    if !promised.conflates {
        all.extend(cases![a_cancelled_wait_loses_no_message]);
    }
    if promised.fills() {
        all.extend(cases![
            send_timeout_ends_on_a_full_channel_and_not_early,
            a_waiting_sender_goes_on_when_there_is_room,
            cancelling_wakes_a_waiting_sender,
            a_cancelled_wait_on_a_full_channel_sends_nothing,
            one_cancel_ends_two_waits_at_once,
        ]);
    }
    all
}

fn recv_timeout_ends_on_an_empty_channel_and_not_early<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for _ in 0..3 {
        let waited = brief_wait(stage, || rx.recv_timeout(BRIEF).map(|message| message.to_vec()));
        assert!(matches!(waited, Err(RecvError::TimedOut)), "{waited:?}");
    }
    let waited = brief_wait(stage, || rx.advance_batch(3, Wait::timeout(BRIEF)));
    assert!(matches!(waited, Err(RecvError::TimedOut)), "{waited:?}");
    stage.send(&mut tx, b"late");
    stage.expect(&mut rx, b"late");
}

fn send_timeout_ends_on_a_full_channel_and_not_early<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    for _ in 0..3 {
        let waited = brief_wait(stage, || tx.send_timeout(&Stamp::new(9, 9).message(LEN), BRIEF));
        assert!(matches!(waited, Err(SendError::TimedOut)), "{waited:?}");
    }
    stage.drain(&mut rx, 0..count);
}

fn a_timeout_of_zero_still_delivers_what_is_there<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    tx.send_timeout(b"there", Duration::ZERO).expect("there is room");
    assert_eq!(&*rx.recv_timeout(Duration::ZERO).expect("it is there"), b"there");
    let empty = rx.recv_timeout(Duration::ZERO).map(|message| message.to_vec());
    assert!(matches!(empty, Err(RecvError::TimedOut)), "{empty:?}");
}

fn a_deadline_in_the_past_still_delivers_what_is_there<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let now = Instant::now();
    let past = Wait::Until(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
    tx.send_wait(b"there", past).expect("there is room");
    assert_eq!(&*rx.receive(past).expect("it is there"), b"there");
    assert!(matches!(rx.advance(past), Err(RecvError::TimedOut)));
    if stage.promised().fills() {
        let count = stage.fill(&mut tx);
        let full = tx.send_wait(&Stamp::new(9, 9).message(LEN), past);
        assert!(matches!(full, Err(SendError::TimedOut)), "{full:?}");
        stage.drain(&mut rx, 0..count);
    }
}

fn the_longest_timeout_does_not_overflow<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    tx.send_timeout(b"there", Duration::MAX).expect("there is room");
    assert_eq!(&*rx.recv_timeout(Duration::MAX).expect("it is there"), b"there");
    waits_for_a_message_and_for_room(stage, &mut tx, &mut rx, || Wait::timeout(Duration::MAX));
}

fn the_farthest_deadline_does_not_overflow<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    waits_for_a_message_and_for_room(stage, &mut tx, &mut rx, || Wait::Until(farthest_instant()));
}

fn a_waiting_receiver_gets_what_is_sent<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for moment in MOMENTS {
        thread::scope(|threads| {
            let waiter = threads.spawn(|| stage.expect(&mut rx, b"worth waiting for"));
            thread::sleep(moment);
            let sent = Instant::now();
            stage.send(&mut tx, b"worth waiting for");
            waiter.join().expect("received");
            assert_prompt(stage, sent);
        });
    }
}

fn a_waiting_sender_goes_on_when_there_is_room<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for moment in MOMENTS {
        let count = stage.fill(&mut tx);
        thread::scope(|threads| {
            let waiter = threads.spawn(|| stage.send(&mut tx, &Stamp::new(0, count).message(LEN)));
            thread::sleep(moment);
            let released = Instant::now();
            for sequence in 0..=count {
                assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
            }
            waiter.join().expect("sent");
            assert_prompt(stage, released);
        });
    }
}

fn cancelling_wakes_a_waiting_receiver<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for moment in MOMENTS {
        for batch in [false, true] {
            let cancel = Cancel::new();
            let wait = stage.patiently().or_cancel(&cancel);
            let answer = cancelled_after(stage, moment, &cancel, || match batch {
                false => rx.advance(wait),
                true => rx.advance_batch(3, wait).map(drop),
            });
            assert!(matches!(answer, Err(RecvError::Cancelled)), "{answer:?}");
        }
    }
    stage.send(&mut tx, b"afterwards");
    stage.expect(&mut rx, b"afterwards");
}

fn cancelling_wakes_a_waiting_sender<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    for moment in MOMENTS {
        let cancel = Cancel::new();
        let wait = stage.patiently().or_cancel(&cancel);
        let answer = cancelled_after(stage, moment, &cancel, || tx.send_wait(&[9; LEN], wait));
        assert!(matches!(answer, Err(SendError::Cancelled)), "{answer:?}");
    }
    stage.drain(&mut rx, 0..count);
}

fn a_cancelled_wait_on_an_empty_channel_ends_at_once<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let cancel = Cancel::new();
    cancel.cancel();
    let start = Instant::now();
    for wait in [stage.patiently(), Wait::Forever] {
        let answer = rx.advance(wait.or_cancel(&cancel));
        assert!(matches!(answer, Err(RecvError::Cancelled)), "{answer:?}");
    }
    assert_prompt(stage, start);
    assert_empty(&mut rx);
}

/// Whether what is there is delivered or `Cancelled` reported is the transport's choice.
fn a_cancelled_wait_loses_no_message<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let cancel = Cancel::new();
    cancel.cancel();
    stage.send(&mut tx, b"one");
    stage.send(&mut tx, b"two");
    let answer = rx.advance(Wait::Forever.or_cancel(&cancel));
    assert!(matches!(answer, Ok(()) | Err(RecvError::Cancelled)), "{answer:?}");
    stage.expect(&mut rx, b"one");
    stage.expect(&mut rx, b"two");
    assert_empty(&mut rx);
}

fn a_cancelled_wait_on_a_full_channel_sends_nothing<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    let cancel = Cancel::new();
    cancel.cancel();
    let answer = tx.send_wait(&Stamp::new(9, 9).message(LEN), stage.patiently().or_cancel(&cancel));
    assert!(matches!(answer, Err(SendError::Cancelled)), "{answer:?}");
    stage.drain(&mut rx, 0..count);
}

fn one_cancel_ends_two_waits_at_once<F: Fixture>(stage: &Stage<F>) {
    let (quiet, busy) = (stage.channel(), stage.channel());
    let mut rx = quiet.receiver();
    let (mut tx, mut unread) = busy.ends();
    let count = stage.fill(&mut tx);
    let cancel = Cancel::new();
    let wait = stage.patiently().or_cancel(&cancel);
    thread::scope(|threads| {
        let receiver = threads.spawn(|| rx.advance(wait));
        let sender = threads.spawn(|| tx.send_wait(&[9; LEN], wait));
        thread::sleep(BRIEF);
        cancel.cancel();
        let answers = (receiver.join().expect("no panic"), sender.join().expect("no panic"));
        assert!(matches!(answers, (Err(RecvError::Cancelled), Err(SendError::Cancelled))), "{answers:?}");
    });
    stage.drain(&mut unread, 0..count);
}

fn a_wait_that_was_not_cancelled_is_a_wait_like_others<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let cancel = Cancel::new();
    let brief = || Wait::timeout(BRIEF).or_cancel(&cancel);
    let waited = brief_wait(stage, || rx.advance(brief()));
    assert!(matches!(waited, Err(RecvError::TimedOut)), "{waited:?}");
    waits_for_a_message_and_for_room(stage, &mut tx, &mut rx, || Wait::Forever.or_cancel(&cancel));
    if stage.promised().fills() {
        let count = stage.fill(&mut tx);
        let waited = brief_wait(stage, || tx.send_wait(&[9; LEN], brief()));
        assert!(matches!(waited, Err(SendError::TimedOut)), "{waited:?}");
        stage.drain(&mut rx, 0..count);
    }
}

/// A receiver that waits for a message gets it; a sender that waits for room gets it, where
/// there is such waiting.
fn waits_for_a_message_and_for_room<'c, F: Fixture>(
    stage: &Stage<F>,
    tx: &mut SenderOf<F>,
    rx: &mut ReceiverOf<F>,
    wait: impl Fn() -> Wait<'c> + Sync,
) {
    thread::scope(|threads| {
        let waiter = threads.spawn(|| rx.receive(wait()).map(|message| message.to_vec()));
        thread::sleep(BRIEF);
        stage.send(tx, b"here");
        assert_eq!(waiter.join().expect("no panic").expect("received"), b"here");
    });
    if !stage.promised().fills() {
        return;
    }
    let count = stage.fill(tx);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| tx.send_wait(&Stamp::new(0, count).message(LEN), wait()));
        thread::sleep(BRIEF);
        for sequence in 0..=count {
            assert_eq!(stage.recv_stamp(rx), Stamp::new(0, sequence));
        }
        waiter.join().expect("no panic").expect("sent");
    });
}

/// What `action` answers; `cancel` is cancelled meanwhile, and it must answer soon after.
#[track_caller]
pub(super) fn cancelled_after<F: Surroundings, T: Send>(
    stage: &Stage<F>,
    moment: Duration,
    cancel: &Cancel,
    action: impl FnOnce() -> T + Send,
) -> T {
    thread::scope(|threads| {
        let waiter = threads.spawn(action);
        thread::sleep(moment);
        cancel.cancel();
        let cancelled = Instant::now();
        let answer = waiter.join().expect("no panic");
        assert_prompt(stage, cancelled);
        answer
    })
}

/// What `action` answers, which waits for [`BRIEF`]: not before, nor ages after that. Machines
/// may be loaded; whoever misses the end of its wait sleeps for longer than there is patience.
#[track_caller]
pub(super) fn brief_wait<F: Surroundings, T>(stage: &Stage<F>, action: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = action();
    let (elapsed, limit) = (start.elapsed(), stage.patience() / 2);
    assert!((BRIEF..limit).contains(&elapsed), "timed out after {elapsed:?} of {BRIEF:?}");
    answer
}

/// What began at `start` took far less than a missed wake-up costs: all the patience there
/// is.
#[track_caller]
pub(super) fn assert_prompt<F: Surroundings>(stage: &Stage<F>, start: Instant) {
    let (elapsed, limit) = (start.elapsed(), stage.patience() / 10);
    assert!(elapsed < limit, "it took {elapsed:?}");
}

/// The last instant that the clock can tell, to within a second or so.
pub(super) fn farthest_instant() -> Instant {
    let now = Instant::now();
    let mut ahead = Duration::ZERO;
    for bit in (0..64).rev() {
        let farther = ahead.saturating_add(Duration::from_secs(1 << bit));
        if now.checked_add(farther).is_some() {
            ahead = farther;
        }
    }
    now + ahead
}
