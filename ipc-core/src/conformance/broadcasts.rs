//! Broadcasts: every receiver gets every message that is sent after it came, in the order
//! of each sender, whatever becomes of the others.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, cases,
    order::{expect_from_each, send_stamped},
    payload::Stamp,
    processes::{assert_complete, receive_until_last},
    stage::{BRIEF, DEPTH, LEN, Stage, assert_empty},
    waits::assert_prompt,
};
use crate::{Message, Receiver, RecvError, SendError, Sender, Wait};
use std::{ops::Range, thread, time::Instant};

const MANY: u64 = 5_000;

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    if !promised.broadcasts || promised.conflates {
        return Vec::new();
    }
    let mut all = cases![
        every_receiver_gets_every_message_in_order,
        a_late_receiver_gets_only_what_comes_after,
        without_receivers_a_sender_never_waits,
        every_receiver_gets_what_each_of_several_senders_sends,
        what_a_dropped_receiver_held_goes_to_nobody_else,
        what_a_dropped_sender_sent_still_arrives,
    ];
    if promised.fills() {
        all.extend(cases![
            the_slowest_receiver_makes_the_sender_wait,
            a_dropped_receiver_lets_a_waiting_sender_go_on,
            several_receivers_and_senders_on_threads_of_their_own,
        ]);
    }
    if promised.cross_process {
        all.extend(cases![what_a_killed_receiver_held_goes_to_nobody_else]);
    }
    if promised.fills() && promised.cross_process {
        all.extend(cases![
            every_receiving_process_gets_every_message,
            a_killed_receiver_lets_a_waiting_sender_go_on,
        ]);
    }
    all
}

fn every_receiver_gets_every_message_in_order<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut receivers = [channel.receiver(), channel.receiver(), channel.receiver()];
    let mut tx = channel.sender();
    for round in 0..50 {
        send_stamped(stage, &mut tx, round, DEPTH as u64);
        for rx in &mut receivers {
            stage.expect_stamps(rx, round, 0..DEPTH as u64);
            assert_empty(rx);
        }
    }
}

fn a_late_receiver_gets_only_what_comes_after<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut early) = channel.ends();
    for round in 0..3 {
        send_stamped(stage, &mut tx, round, 3);
        let mut late = channel.receiver();
        assert_empty(&mut late);
        stage.send(&mut tx, &Stamp::new(round, 3).message(LEN));
        stage.expect_stamps(&mut late, round, 3..4);
        assert_empty(&mut late);
        stage.expect_stamps(&mut early, round, 0..4);
        assert_empty(&mut early);
    }
}

fn without_receivers_a_sender_never_waits<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    for _ in 0..2 {
        for sequence in 0..20 * DEPTH as u64 {
            let message = Stamp::new(0, sequence).message_up_to(LEN);
            tx.send_wait(&message, Wait::Never).expect("there is nobody to wait for");
        }
        let mut rx = channel.receiver();
        assert_empty(&mut rx);
        stage.send(&mut tx, b"somebody came");
        stage.expect(&mut rx, b"somebody came");
        drop(rx);
    }
}

fn every_receiver_gets_what_each_of_several_senders_sends<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut receivers = [channel.receiver(), channel.receiver()];
    let mut senders = [channel.sender(), channel.sender()];
    for turn in 0..50 {
        let (first, end) = (2 * turn, 2 * turn + 2);
        for sequence in first..end {
            for (round, tx) in (0..).zip(&mut senders) {
                stage.send(tx, &Stamp::new(round, sequence).message_up_to(LEN));
            }
        }
        for rx in &mut receivers {
            let mut stamps: Vec<Stamp> = (0..4).map(|_| stage.recv_stamp(rx)).collect();
            // Stable, so that the order of each sender shows.
            stamps.sort_by_key(|stamp| stamp.round);
            let sent = (0..2).flat_map(|round| (first..end).map(move |number| Stamp::new(round, number)));
            assert!(stamps.iter().copied().eq(sent), "turn {turn}: {stamps:?}");
            assert_empty(rx);
        }
    }
}

fn what_a_dropped_receiver_held_goes_to_nobody_else<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..10 {
        let mut leaving = channel.receiver();
        send_stamped(stage, &mut tx, round, 3);
        leaving.receive(stage.patiently()).expect("receive").keep();
        drop(leaving);
        stage.expect_stamps(&mut rx, round, 0..3);
        assert_empty(&mut rx);
        assert_empty(&mut channel.receiver());
    }
}

fn what_a_dropped_sender_sent_still_arrives<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    for round in 0..10 {
        let mut tx = channel.sender();
        send_stamped(stage, &mut tx, round, 3);
        drop(tx);
        stage.expect_stamps(&mut rx, round, 0..3);
        assert_empty(&mut rx);
    }
}

fn the_slowest_receiver_makes_the_sender_wait<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut fast, mut slow) = (channel.receiver(), channel.receiver());
    let mut tx = channel.sender();
    let count = stage.fill(&mut tx);
    stage.drain(&mut fast, 0..count);
    let refused = tx.send_timeout(&Stamp::new(0, count).message(LEN), BRIEF);
    assert!(matches!(refused, Err(SendError::TimedOut)), "one of two has not received: {refused:?}");
    thread::scope(|threads| {
        let waiter = threads.spawn(|| stage.send(&mut tx, &Stamp::new(0, count).message(LEN)));
        thread::sleep(BRIEF);
        let start = Instant::now();
        stage.drain_waiting(&mut slow, 0..=count);
        waiter.join().expect("sent");
        assert_prompt(stage, start);
    });
    stage.drain(&mut fast, count..count + 1);
}

fn a_dropped_receiver_lets_a_waiting_sender_go_on<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let mut tx = channel.sender();
    for held in [false, true] {
        let mut leaving = channel.receiver();
        let count = stage.fill(&mut tx);
        stage.drain(&mut rx, 0..count);
        if held {
            leaving.receive(stage.patiently()).expect("receive").keep();
        }
        thread::scope(|threads| {
            let waiter = threads.spawn(|| send_numbers(stage, &mut tx, count..3 * count));
            thread::sleep(BRIEF);
            let start = Instant::now();
            drop(leaving);
            stage.drain_waiting(&mut rx, count..=3 * count - 1);
            waiter.join().expect("sent");
            assert_prompt(stage, start);
        });
        assert_empty(&mut rx);
    }
}

fn several_receivers_and_senders_on_threads_of_their_own<F: Fixture>(stage: &Stage<F>) {
    const SENDERS: u32 = 2;
    let channel = stage.channel();
    let receivers = [channel.receiver(), channel.receiver(), channel.receiver()];
    let senders: Vec<_> = (0..SENDERS).map(|_| channel.sender()).collect();
    thread::scope(|threads| {
        for (round, mut tx) in (0..).zip(senders) {
            threads.spawn(move || send_stamped(stage, &mut tx, round, MANY));
        }
        for mut rx in receivers {
            threads.spawn(move || expect_from_each(stage, &mut rx, SENDERS, MANY));
        }
    });
}

fn every_receiving_process_gets_every_message<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let receivers = [stage.start_receiver(&channel.name), stage.start_receiver(&channel.name)];
    let mut rx = channel.receiver();
    let sender = stage.start("send", &[&channel.name, &7, &MANY, &LEN]);
    let here = receive_until_last(stage, &mut rx);
    assert!(here.into_iter().eq((0..MANY).map(|sequence| Stamp::new(7, sequence))));
    for receiver in receivers {
        assert_complete(&receiver.finish(), 7, MANY);
    }
    sender.finish();
}

/// By the kernel's word, not by a timeout: a paused receiver still makes the sender wait.
fn a_killed_receiver_lets_a_waiting_sender_go_on<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let mut tx = channel.sender();
    for _ in 0..3 {
        let mut leaving = stage.start("hold messages", &[&channel.name]);
        leaving.expect_line("ready");
        let count = stage.fill(&mut tx);
        stage.drain(&mut rx, 0..count);
        thread::scope(|threads| {
            let waiter = threads.spawn(|| send_numbers(stage, &mut tx, count..3 * count));
            leaving.kill();
            stage.drain_waiting(&mut rx, count..=3 * count - 1);
            waiter.join().expect("sent");
        });
        assert_empty(&mut rx);
    }
}

fn what_a_killed_receiver_held_goes_to_nobody_else<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..3 {
        let mut leaving = stage.start("hold messages", &[&channel.name]);
        leaving.expect_line("ready");
        send_stamped(stage, &mut tx, round, 3);
        leaving.line();
        leaving.kill();
        stage.expect_stamps(&mut rx, round, 0..3);
        assert_empty(&mut rx);
        assert_empty(&mut channel.receiver());
    }
}

fn send_numbers<F: Fixture>(stage: &Stage<F>, tx: &mut super::SenderOf<F>, numbers: Range<u64>) {
    numbers.for_each(|sequence| stage.send(tx, &Stamp::new(0, sequence).message(LEN)));
}

impl<F: Fixture> Stage<F> {
    /// Receives the messages of this round with these numbers, without waiting for them.
    #[track_caller]
    pub(super) fn expect_stamps(&self, rx: &mut ReceiverOf<F>, round: u32, numbers: Range<u64>) {
        for sequence in numbers {
            match rx.try_recv() {
                Ok(message) => assert_eq!(Stamp::of(&message), Stamp::new(round, sequence)),
                Err(RecvError::WouldBlock) => panic!("message {sequence} of round {round} never came"),
                Err(error) => panic!("instead of message {sequence} of round {round}: {error}"),
            }
        }
    }

    /// Receives the messages of round 0 with these numbers as they come.
    #[track_caller]
    fn drain_waiting(&self, rx: &mut ReceiverOf<F>, numbers: std::ops::RangeInclusive<u64>) {
        for sequence in numbers {
            assert_eq!(self.recv_stamp(rx), Stamp::new(0, sequence));
        }
    }
}
