//! The newest value: whole, never an older one after a newer one, and nobody waits for
//! anybody.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, cases,
    order::{assert_too_long, send_stamped},
    payload::Stamp,
    processes::{AT_ONCE, KILLS, LAST, at_some_point},
    stage::{LEN, Stage, assert_empty, unless_busy},
};
use crate::{Batch, BatchReceiver, Channel, Message, Receiver, Sender, Wait};
use std::thread;

const MANY: u64 = 20_000;

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    if !promised.conflates {
        return Vec::new();
    }
    let mut all = cases![
        a_receiver_gets_the_newest_value_once,
        every_receiver_gets_the_newest_value,
        a_batch_is_the_newest_value,
        a_value_in_hand_stays_while_newer_ones_come,
        what_is_given_up_leaves_the_newest_value,
        no_older_value_follows_a_newer_one,
        a_receiver_that_holds_or_is_gone_makes_no_sender_wait,
    ];
    if promised.stores {
        all.extend(cases![the_newest_value_outlives_its_sender, a_late_receiver_gets_the_newest_value]);
    }
    if promised.cross_process {
        all.extend(cases![a_sender_killed_in_mid_stream_leaves_a_whole_value]);
    }
    if promised.cross_process && cfg!(unix) {
        all.extend(cases![a_paused_or_killed_receiver_holds_nobody_up]);
    }
    all
}

fn a_receiver_gets_the_newest_value_once<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..20 {
        send_stamped(stage, &mut tx, round, 1 + u64::from(round) % 7);
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(round, u64::from(round) % 7));
        assert_empty(&mut rx);
    }
}

fn every_receiver_gets_the_newest_value<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut receivers = [channel.receiver(), channel.receiver(), channel.receiver()];
    let mut tx = channel.sender();
    for round in 0..20 {
        send_stamped(stage, &mut tx, round, 5);
        // Not all of them look at each.
        for rx in &mut receivers[..1 + round as usize % 3] {
            assert_eq!(stage.recv_stamp(rx), Stamp::new(round, 4));
            assert_empty(rx);
        }
    }
}

fn a_batch_is_the_newest_value<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..3 {
        send_stamped(stage, &mut tx, round, 5);
        assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 1);
        let batch = rx.held_batch();
        assert!(batch.iter().map(Stamp::of).eq([Stamp::new(round, 4)]));
        batch.release_all();
        assert!(rx.held_batch().is_empty());
        assert_empty(&mut rx);
    }
}

fn a_value_in_hand_stays_while_newer_ones_come<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..5 {
        stage.send(&mut tx, &Stamp::new(round, 99).message(LEN));
        rx.receive(stage.patiently()).expect("receive").keep();
        for _ in 0..3 {
            send_stamped(stage, &mut tx, round, 50);
            let message = rx.receive(Wait::Never).expect("it is in hand");
            assert_eq!(Stamp::of(&message), Stamp::new(round, 99));
            message.keep();
        }
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(round, 99));
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(round, 49));
        assert_empty(&mut rx);
    }
}

fn what_is_given_up_leaves_the_newest_value<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let longest = tx.max_message_len();
    stage.send(&mut tx, b"sent");
    tx.loan(LEN, stage.patiently()).expect("a loan").fill(b'x');
    assert_too_long(tx.send_wait(&vec![7; longest + 1], stage.patiently()), longest + 1, longest);
    tx.reserve(LEN, stage.patiently()).expect("reserved");
    tx.reserved().fill(b'x');
    drop(tx);
    stage.expect(&mut rx, b"sent");
    assert_empty(&mut rx);
    let mut successor = channel.sender();
    drop(successor.loan(LEN, stage.patiently()).expect("a loan"));
    assert_empty(&mut rx);
    stage.send(&mut successor, b"sent too");
    stage.expect(&mut rx, b"sent too");
}

fn no_older_value_follows_a_newer_one<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let receivers = [channel.receiver(), channel.receiver()];
    let mut tx = channel.sender();
    thread::scope(|threads| {
        for mut rx in receivers {
            threads.spawn(move || {
                let mut last = None;
                loop {
                    let stamp = stage.recv_stamp(&mut rx);
                    assert!(last < Some(stamp), "{stamp:?} after {last:?}");
                    if stamp.round == LAST {
                        break;
                    }
                    last = Some(stamp);
                }
                assert_empty(&mut rx);
            });
        }
        for sequence in 0..MANY {
            let message = Stamp::new(0, sequence).message_up_to(LEN);
            tx.send_wait(&message, Wait::Never).expect("no waiting");
        }
        stage.send(&mut tx, &Stamp::new(LAST, 0).message(LEN));
    });
}

fn a_receiver_that_holds_or_is_gone_makes_no_sender_wait<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    let never_wait = |tx: &mut _, round| {
        for sequence in 0..1000 {
            let message = Stamp::new(round, sequence).message(LEN);
            Sender::send_wait(tx, &message, Wait::Never).expect("no waiting");
        }
    };
    never_wait(&mut tx, 0);
    let mut rx = channel.receiver();
    never_wait(&mut tx, 1);
    rx.receive(stage.patiently()).expect("receive").keep();
    never_wait(&mut tx, 2);
    let mut other = channel.receiver();
    never_wait(&mut tx, 3);
    assert_eq!(stage.recv_stamp(&mut other), Stamp::new(3, 999));
    drop(rx);
    never_wait(&mut tx, 4);
    assert_eq!(stage.recv_stamp(&mut other), Stamp::new(4, 999));
}

fn the_newest_value_outlives_its_sender<F: Fixture>(stage: &Stage<F>) {
    let mut channel = stage.channel();
    let mut rx = channel.receiver();
    for round in 0..3 {
        let mut tx = channel.sender();
        send_stamped(stage, &mut tx, round, 3);
        drop(tx);
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(round, 2));
    }
    drop(rx);
    channel.close();
    assert_eq!(stage.recv_stamp(&mut channel.receiver()), Stamp::new(2, 2));
}

fn a_late_receiver_gets_the_newest_value<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    send_stamped(stage, &mut tx, 0, 5);
    for _ in 0..3 {
        let mut late = channel.receiver();
        assert_eq!(stage.recv_stamp(&mut late), Stamp::new(0, 4));
        assert_empty(&mut late);
    }
}

fn a_sender_killed_in_mid_stream_leaves_a_whole_value<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    for round in 0..KILLS {
        let mut sender = stage.start("send until killed", &[&channel.name, &round]);
        let first = sender.line();
        thread::sleep(at_some_point());
        let last = sender.kill().pop().unwrap_or(first);
        let acknowledged = last.parse::<u64>().expect("a number");
        let stamp = stage.recv_stamp(&mut rx);
        // The one that it was just writing may be there: whole, or not at all.
        let newest = [Stamp::new(round, acknowledged), Stamp::new(round, acknowledged + 1)];
        assert!(newest.contains(&stamp), "{acknowledged} acknowledged, {stamp:?} received");
        assert_empty(&mut rx);
        let mut successor = unless_busy(AT_ONCE, || channel.channel().sender()).expect("the role is free");
        stage.send(&mut successor, b"from the successor");
        stage.expect(&mut rx, b"from the successor");
    }
}

fn a_paused_or_killed_receiver_holds_nobody_up<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let mut other = stage.start_receiver(&channel.name);
    stage.send(&mut tx, &Stamp::new(0, 0).message(LEN));
    other.expect_line("0 0");
    #[cfg(unix)]
    other.pause();
    let flood = |tx: &mut _, rx: &mut ReceiverOf<F>, round| {
        for sequence in 0..MANY {
            let message = Stamp::new(round, sequence).message(LEN);
            Sender::send_wait(tx, &message, Wait::Never).expect("no waiting");
        }
        assert_eq!(stage.recv_stamp(rx), Stamp::new(round, MANY - 1));
    };
    flood(&mut tx, &mut rx, 1);
    stage.send(&mut tx, &Stamp::new(LAST, 0).message(LEN));
    #[cfg(unix)]
    other.resume();
    assert_eq!(other.finish().last(), Some(&format!("{LAST} 0")));
    assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(LAST, 0));
    let mut holder = stage.start("hold messages", &[&channel.name]);
    holder.expect_line("ready");
    stage.send(&mut tx, &Stamp::new(2, 0).message(LEN));
    holder.line();
    holder.kill();
    flood(&mut tx, &mut rx, 3);
}
