//! Numbered messages: none is missed unnoticed, whoever comes and goes.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, cases,
    order::send_stamped,
    payload::Stamp,
    processes::{AT_ONCE, BATCH, KILLS, LAST, at_some_point},
    stage::{DEPTH, LEN, Stage, assert_empty, unless_busy},
};
use crate::{Batch, BatchReceiver, Channel, Message, Receiver, RecvError, Sender, Sequenced};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>>
where
    ReceiverOf<F>: Sequenced,
{
    let mut all = cases![
        numbers_begin_at_0_and_grow_by_one,
        a_kept_message_keeps_its_number,
        a_new_receiver_goes_on_with_the_numbers,
        numbers_skip_at_most_what_was_given_up,
    ];
    if promised.conflates || !promised.broadcasts {
        all.extend(cases![a_new_sender_goes_on_with_the_numbers]);
    }
    if !promised.conflates {
        all.extend(cases![waiting_messages_are_numbered_in_order]);
    }
    if promised.fills() && promised.has_many_receivers() {
        all.extend(cases![each_number_comes_to_one_of_several_receivers]);
    }
    if promised.redelivers && promised.shares() {
        all.extend(cases![what_is_delivered_again_has_its_number_again]);
    }
    if promised.broadcasts && !promised.conflates {
        all.extend(cases![all_receivers_see_the_same_numbers, the_numbers_of_each_of_several_senders_grow,]);
    }
    if promised.lossy && !promised.conflates {
        all.extend(cases![numbers_skip_exactly_what_was_missed]);
    }
    if promised.conflates {
        all.extend(cases![values_that_nobody_saw_have_numbers_too]);
    }
    if promised.fills() && promised.shares() && promised.cross_process {
        all.extend(cases![numbers_go_on_after_a_killed_sender]);
    }
    if promised.redelivers && promised.shares() && promised.cross_process {
        all.extend(cases![what_a_killed_receiver_held_keeps_its_number]);
    }
    all
}

fn numbers_begin_at_0_and_grow_by_one<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for sequence in 0..100 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message_up_to(LEN));
        stage.expect_number(&mut rx, sequence);
    }
    stage.send(&mut tx, b"");
    let message = rx.receive(stage.patiently()).expect("receive");
    assert_eq!(ReceiverOf::<F>::sequence_of(&message), 100, "the empty message's number");
}

fn a_kept_message_keeps_its_number<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for sequence in 0..3 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        for _ in 0..3 {
            let message = rx.receive(stage.patiently()).expect("receive");
            assert_eq!(ReceiverOf::<F>::sequence_of(&message), sequence);
            message.keep();
        }
        stage.expect_number(&mut rx, sequence);
    }
}

fn a_new_receiver_goes_on_with_the_numbers<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    for first in [0, 2, 4] {
        let mut rx = channel.receiver();
        for sequence in first..first + 2 {
            stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
            stage.expect_number(&mut rx, sequence);
        }
    }
}

fn a_new_sender_goes_on_with_the_numbers<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let mut rx = channel.receiver();
    for first in [0, 2, 4] {
        let mut tx = channel.sender();
        for sequence in first..first + 2 {
            stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
            stage.expect_number(&mut rx, sequence);
        }
    }
}

fn numbers_skip_at_most_what_was_given_up<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let mut last = None;
    for sequence in 0..20 {
        if sequence % 2 == 1 {
            drop(tx.loan(LEN, stage.patiently()).expect("a loan"));
        }
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        let message = rx.receive(stage.patiently()).expect("receive");
        let number = ReceiverOf::<F>::sequence_of(&message);
        let expected = last.map_or(0, |last| last + 1);
        let skipped = sequence % 2;
        assert!((expected..=expected + skipped).contains(&number), "{number} after {last:?}");
        last = Some(number);
    }
}

fn waiting_messages_are_numbered_in_order<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    for sequence in 0..count {
        assert_eq!(stage.recv_numbered(&mut rx), (sequence, Stamp::new(0, sequence)));
    }
    // Those of a batch, too.
    let again = stage.fill(&mut tx);
    assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 3);
    rx.held_batch().release(1);
    for sequence in 1..again {
        assert_eq!(stage.recv_numbered(&mut rx), (count + sequence, Stamp::new(0, sequence)));
    }
    assert_empty(&mut rx);
}

fn each_number_comes_to_one_of_several_receivers<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    const COUNT: u64 = 1000;
    let channel = stage.channel();
    let mut tx = channel.sender();
    let mut receivers = [channel.receiver(), channel.receiver()];
    let taken = AtomicU64::new(0);
    thread::scope(|threads| {
        for rx in &mut receivers {
            let taken = &taken;
            threads.spawn(move || {
                while taken.fetch_add(1, Ordering::Relaxed) < COUNT {
                    let (number, stamp) = stage.recv_numbered(rx);
                    assert_eq!(number, stamp.sequence);
                }
            });
        }
        send_stamped(stage, &mut tx, 0, COUNT);
    });
}

fn what_is_delivered_again_has_its_number_again<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_stamped(stage, &mut tx, 0, 3);
    stage.expect_number(&mut rx, 0);
    rx.advance(stage.patiently()).expect("receive");
    drop(rx);
    let mut rx = channel.receiver();
    for sequence in 1..3 {
        stage.expect_number(&mut rx, sequence);
    }
    send_stamped(stage, &mut tx, 0, 1);
    stage.expect_number(&mut rx, 3);
}

fn all_receivers_see_the_same_numbers<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let mut first = channel.receiver();
    let mut tx = channel.sender();
    send_stamped(stage, &mut tx, 0, 2);
    let mut second = channel.receiver();
    stage.send(&mut tx, &Stamp::new(0, 2).message(LEN));
    for sequence in 0..3 {
        stage.expect_number(&mut first, sequence);
    }
    stage.expect_number(&mut second, 2);
}

fn the_numbers_of_each_of_several_senders_grow<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let mut senders = [channel.sender(), channel.sender()];
    let mut last = [None; 2];
    for sequence in 0..20 {
        for (round, tx) in (0..).zip(&mut senders) {
            stage.send(tx, &Stamp::new(round, sequence).message_up_to(LEN));
        }
        for _ in 0..2 {
            let (number, stamp) = stage.recv_numbered(&mut rx);
            let last = last[stamp.round as usize].replace(number);
            assert!(last < Some(number), "sender {}: {number} after {last:?}", stamp.round);
        }
    }
}

/// Whether the receiver is told of the gap or not, its numbers show it.
fn numbers_skip_exactly_what_was_missed<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.overflow(&mut tx, 0);
    let mut last = None;
    while last != Some(count - 1) {
        match rx.advance(stage.patiently()) {
            Ok(()) => {}
            Err(RecvError::Lagged { .. }) => continue,
            Err(error) => panic!("behind {last:?}: {error}"),
        }
        let (number, stamp) = stage.recv_numbered(&mut rx);
        assert_eq!(number, stamp.sequence);
        last = Some(number);
    }
}

fn values_that_nobody_saw_have_numbers_too<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..3 {
        send_stamped(stage, &mut tx, round, 5);
        let newest = u64::from(round) * 5 + 4;
        assert_eq!(stage.recv_numbered(&mut rx), (newest, Stamp::new(round, 4)));
    }
}

/// A number may be missing for each sender that was killed: the message that it was just
/// writing.
fn numbers_go_on_after_a_killed_sender<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let numbers = thread::scope(|threads| {
        let receiver = threads.spawn(|| {
            let all = std::iter::repeat_with(|| stage.recv_numbered(&mut rx));
            all.take_while(|(_, stamp)| stamp.round != LAST).map(|(number, _)| number).collect::<Vec<_>>()
        });
        for round in 0..KILLS / 2 {
            let mut sender = stage.start("send until killed", &[&channel.name, &round]);
            sender.expect_line("0");
            thread::sleep(at_some_point());
            sender.kill();
        }
        let mut successor = unless_busy(AT_ONCE, || channel.channel().sender()).expect("the role is free");
        stage.send(&mut successor, &Stamp::new(LAST, 0).message(LEN));
        receiver.join().expect("all went well")
    });
    assert_eq!(numbers.first(), Some(&0));
    let step_back = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
    assert!(step_back.is_none(), "one after the other: {step_back:?}");
    let span = numbers.last().map_or(0, |last| last + 1);
    let skipped = span - numbers.len() as u64;
    assert!(skipped <= u64::from(KILLS / 2), "{skipped} numbers are missing of {span}");
}

fn what_a_killed_receiver_held_keeps_its_number<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Sequenced,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    send_stamped(stage, &mut tx, 0, DEPTH as u64);
    for _ in 0..2 {
        stage.start_holder(&channel.name).kill();
    }
    let mut rx = unless_busy(AT_ONCE, || channel.channel().receiver()).expect("the role is free");
    const { assert!(BATCH < DEPTH) };
    for sequence in 0..DEPTH as u64 {
        stage.expect_number(&mut rx, sequence);
    }
}

impl<F: Fixture> Stage<F>
where
    ReceiverOf<F>: Sequenced,
{
    /// Receives a stamped message: its number, and its stamp.
    #[track_caller]
    fn recv_numbered(&self, rx: &mut ReceiverOf<F>) -> (u64, Stamp) {
        let message = rx.receive(self.patiently()).expect("receive");
        (ReceiverOf::<F>::sequence_of(&message), Stamp::of(&message))
    }

    /// Receives a message with this number.
    #[track_caller]
    fn expect_number(&self, rx: &mut ReceiverOf<F>, expected: u64) {
        let (number, stamp) = self.recv_numbered(rx);
        assert_eq!(number, expected, "the number of {stamp:?}");
    }
}
