//! What a receiver held when it went away comes again, and tells how often it came before.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, cases,
    lifecycle::panic_with_a_message,
    order::send_stamped,
    payload::Stamp,
    processes::{AT_ONCE, BATCH},
    stage::{DEPTH, LEN, Stage, assert_empty, unless_busy},
};
use crate::{Batch, BatchReceiver, Channel, Message, Receiver, Redelivered, Transport};

/// How often a message is given back in these cases: one delivery less than a channel must
/// allow for.
const GIVEN_BACK: u32 = 3;

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>>
where
    ReceiverOf<F>: Redelivered,
{
    let mut all = cases![
        a_first_delivery_has_none_before_it,
        each_receiver_that_goes_away_counts,
        each_receiver_that_panics_counts,
        what_was_held_and_never_lent_counts,
        what_was_not_held_does_not_count,
        a_released_message_leaves_no_count_behind,
    ];
    if promised.cross_process {
        all.extend(cases![each_killed_receiver_counts]);
    }
    all
}

fn a_first_delivery_has_none_before_it<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Redelivered,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for sequence in 0..50 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        for _ in 0..3 {
            let message = rx.receive(stage.patiently()).expect("receive");
            assert_eq!(ReceiverOf::<F>::attempts_of(&message), 0, "kept, not given back");
            message.keep();
        }
        stage.expect_attempts(&mut rx, sequence, 0);
    }
}

fn each_receiver_that_goes_away_counts<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Redelivered,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    send_stamped(stage, &mut tx, 0, 3);
    for attempts in 0..GIVEN_BACK {
        let mut rx = channel.receiver();
        let message = rx.receive(stage.patiently()).expect("receive");
        assert_eq!(Stamp::of(&message), Stamp::new(0, 0));
        assert_eq!(ReceiverOf::<F>::attempts_of(&message), attempts);
        message.keep();
    }
    let mut rx = channel.receiver();
    stage.expect_attempts(&mut rx, 0, GIVEN_BACK);
    stage.expect_attempts(&mut rx, 1, 0);
    stage.expect_attempts(&mut rx, 2, 0);
    assert_empty(&mut rx);
    let counted = channel.transport.stat(&channel.name).expect("stat").redelivered_messages;
    assert!(counted.is_none_or(|count| count == u64::from(GIVEN_BACK)), "counted: {counted:?}");
}

fn each_receiver_that_panics_counts<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Redelivered,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    send_stamped(stage, &mut tx, 0, 2);
    for _ in 0..GIVEN_BACK {
        panic_with_a_message(stage, &channel);
    }
    let mut rx = channel.receiver();
    stage.expect_attempts(&mut rx, 0, GIVEN_BACK);
    stage.expect_attempts(&mut rx, 1, 0);
    assert_empty(&mut rx);
}

fn what_was_held_and_never_lent_counts<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Redelivered,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    send_stamped(stage, &mut tx, 0, 1);
    channel.receiver().advance(stage.patiently()).expect("receive");
    stage.expect_attempts(&mut channel.receiver(), 0, 1);
}

fn what_was_not_held_does_not_count<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Redelivered,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    send_stamped(stage, &mut tx, 0, 4);
    let mut rx = channel.receiver();
    assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 3);
    rx.held_batch().release(1);
    drop(rx);
    let mut rx = channel.receiver();
    for (sequence, attempts) in [(1, 1), (2, 1), (3, 0)] {
        stage.expect_attempts(&mut rx, sequence, attempts);
    }
    assert_empty(&mut rx);
    drop(rx);
    send_stamped(stage, &mut tx, 0, 1);
    stage.expect_attempts(&mut channel.receiver(), 0, 0);
}

fn a_released_message_leaves_no_count_behind<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Redelivered,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    let count = stage.fill(&mut tx);
    let held = channel.receiver().advance_batch(DEPTH, stage.patiently()).expect("a batch");
    assert_eq!(held, DEPTH);
    let mut rx = channel.receiver();
    for sequence in 0..count {
        stage.expect_attempts(&mut rx, sequence, u32::from(sequence < DEPTH as u64));
    }
    // In the same places, once around and further.
    for sequence in 0..3 * count {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        stage.expect_attempts(&mut rx, sequence, 0);
    }
    assert_empty(&mut rx);
}

fn each_killed_receiver_counts<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Redelivered,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    send_stamped(stage, &mut tx, 0, DEPTH as u64);
    for _ in 0..GIVEN_BACK {
        stage.start_holder(&channel.name).kill();
    }
    let mut rx = unless_busy(AT_ONCE, || channel.channel().receiver()).expect("the role is free");
    for sequence in 0..DEPTH as u64 {
        let attempts = if sequence < BATCH as u64 { GIVEN_BACK } else { 0 };
        stage.expect_attempts(&mut rx, sequence, attempts);
    }
    assert_empty(&mut rx);
}

impl<F: Fixture> Stage<F>
where
    ReceiverOf<F>: Redelivered,
{
    /// Receives the message of round 0 with this number: it was delivered so often before.
    #[track_caller]
    fn expect_attempts(&self, rx: &mut ReceiverOf<F>, sequence: u64, attempts: u32) {
        let message = rx.receive(self.patiently()).expect("receive");
        assert_eq!(Stamp::of(&message), Stamp::new(0, sequence));
        assert_eq!(ReceiverOf::<F>::attempts_of(&message), attempts, "of message {sequence}");
    }
}
