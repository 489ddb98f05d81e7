//! Lossy channels: a sender never waits, and who was too slow is told how much it missed.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, SenderOf, cases,
    order::send_stamped,
    payload::Stamp,
    processes::LAST,
    stage::{DEPTH, LEN, Stage, assert_empty},
};
use crate::{Batch, BatchReceiver, Message, Receiver, RecvError, Sender, Transport, Wait};
use std::thread;

const MANY: u64 = 20_000;
/// So many more than there is room for.
const TOO_MANY: u64 = 2_000;

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    if !promised.lossy || promised.conflates {
        return Vec::new();
    }
    let mut all = cases![a_full_channel_makes_no_sender_wait, a_message_in_hand_is_not_overwritten];
    if !promised.broadcasts {
        all.extend(cases![a_full_channel_drops_its_oldest]);
        return all;
    }
    all.extend(cases![
        a_slow_receiver_is_told_how_many_it_missed,
        a_gap_comes_before_a_batch_too,
        a_slow_receiver_misses_alone,
        a_late_receiver_has_missed_nothing,
        what_was_missed_and_received_while_racing_adds_up,
    ]);
    if promised.cross_process && cfg!(unix) {
        all.extend(cases![a_paused_receiver_holds_nobody_up_and_learns_what_it_missed]);
    }
    all
}

fn a_full_channel_makes_no_sender_wait<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.overflow(&mut tx, 0);
    // The newest message is there, and behind it there is nothing.
    assert_eq!(stage.receive_all(&mut rx).0.last(), Some(&Stamp::new(0, count - 1)));
    assert_empty(&mut rx);
}

/// Here nobody in particular missed them; the channel counts.
fn a_full_channel_drops_its_oldest<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.overflow(&mut tx, 0);
    let (received, missed) = stage.receive_all(&mut rx);
    assert_eq!(missed, 0, "whose messages were they?");
    assert!(received.len() >= DEPTH && (received.len() as u64) < count, "{} received", received.len());
    let first = count - received.len() as u64;
    assert!(received.into_iter().eq((first..count).map(|sequence| Stamp::new(0, sequence))));
    let lost = channel.transport.stat(&channel.name).expect("stat").lost_messages;
    assert!(lost.is_none_or(|lost| lost == first), "{first} dropped, {lost:?} counted");
}

fn a_message_in_hand_is_not_overwritten<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, &Stamp::new(7, 0).message(LEN));
    rx.receive(stage.patiently()).expect("receive").keep();
    for round in 0..5 {
        stage.overflow(&mut tx, round);
        let message = rx.receive(stage.patiently()).expect("it is in hand");
        assert_eq!(Stamp::of(&message), Stamp::new(7, 0));
        message.keep();
    }
    assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(7, 0));
}

fn a_slow_receiver_is_told_how_many_it_missed<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..5 {
        let count = stage.overflow(&mut tx, round);
        let missed = match rx.advance(stage.patiently()) {
            Err(RecvError::Lagged { missed }) => missed,
            other => panic!("{count} sent into room for {DEPTH}: {other:?}"),
        };
        // Said once.
        let (received, missed_more) = stage.receive_all(&mut rx);
        assert_eq!(missed_more, 0, "nothing was sent since");
        let behind_it = (missed..count).map(|sequence| Stamp::new(round, sequence));
        assert!(received.iter().copied().eq(behind_it), "missed {missed} of {count}, then {received:?}");
        assert!(!received.is_empty(), "the newest message is there");
    }
    // Who keeps up misses nothing.
    for round in 0..20 {
        send_stamped(stage, &mut tx, round, DEPTH as u64);
        stage.expect_stamps(&mut rx, round, 0..DEPTH as u64);
    }
}

fn a_gap_comes_before_a_batch_too<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.overflow(&mut tx, 0);
    let lagged = rx.advance_batch(DEPTH, stage.patiently());
    let Err(RecvError::Lagged { missed }) = lagged else { panic!("a gap was due: {lagged:?}") };
    assert!(rx.held_batch().is_empty());
    assert_eq!(rx.advance_batch(1, stage.patiently()).expect("behind the gap"), 1);
    assert_eq!(Stamp::of(rx.held_batch().iter().next().expect("one")), Stamp::new(0, missed));
    // What is in hand stays; the gap behind it is told when it is released.
    let more = stage.overflow(&mut tx, 1);
    assert_eq!(rx.advance_batch(1, Wait::Never).expect("in hand"), 1);
    assert_eq!(Stamp::of(rx.held_batch().iter().next().expect("one")), Stamp::new(0, missed));
    rx.held_batch().release_all();
    let (received, missed_more) = stage.receive_all(&mut rx);
    assert!(missed_more > 0, "a gap was due");
    assert_eq!(missed + 1 + missed_more + received.len() as u64, count + more);
}

fn a_slow_receiver_misses_alone<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut fast, mut slow) = (channel.receiver(), channel.receiver());
    let mut tx = channel.sender();
    let count = TOO_MANY;
    for sequence in 0..count {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        stage.expect_stamps(&mut fast, 0, sequence..sequence + 1);
    }
    assert_empty(&mut fast);
    let (received, missed) = stage.receive_all(&mut slow);
    assert!(missed > 0, "{count} messages are no more than there is room for");
    assert_eq!(missed + received.len() as u64, count);
}

fn a_late_receiver_has_missed_nothing<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, _unread) = channel.ends();
    for round in 0..3 {
        stage.overflow(&mut tx, round);
        let mut late = channel.receiver();
        assert_empty(&mut late);
        send_stamped(stage, &mut tx, round, 2);
        stage.expect_stamps(&mut late, round, 0..2);
        assert_empty(&mut late);
    }
}

fn what_was_missed_and_received_while_racing_adds_up<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let receivers = [channel.receiver(), channel.receiver()];
    let mut tx = channel.sender();
    thread::scope(|threads| {
        let racers = receivers.map(|mut rx| {
            threads.spawn(move || {
                let mut next = 0;
                loop {
                    match rx.receive(stage.patiently()).map(|message| Stamp::of(&message)) {
                        Ok(Stamp { round: LAST, .. }) => return next,
                        Ok(stamp) => {
                            assert_eq!(stamp, Stamp::new(0, next), "and not told of a gap");
                            next += 1;
                        }
                        Err(RecvError::Lagged { missed }) => next += missed,
                        Err(error) => panic!("behind {next} messages: {error}"),
                    }
                }
            })
        });
        for sequence in 0..MANY {
            let message = Stamp::new(0, sequence).message_up_to(LEN);
            tx.send_wait(&message, Wait::Never).expect("no waiting");
        }
        stage.send(&mut tx, &Stamp::new(LAST, 0).message(LEN));
        for racer in racers {
            assert_eq!(racer.join().expect("all went well"), MANY);
        }
    });
}

fn a_paused_receiver_holds_nobody_up_and_learns_what_it_missed<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    let mut receiver = stage.start_receiver(&channel.name);
    stage.send(&mut tx, &Stamp::new(0, 0).message(LEN));
    receiver.expect_line("0 0");
    #[cfg(unix)]
    receiver.pause();
    for sequence in 1..MANY {
        tx.send_wait(&Stamp::new(0, sequence).message(LEN), Wait::Never).expect("no waiting");
    }
    tx.send_wait(&Stamp::new(LAST, MANY).message(LEN), Wait::Never).expect("no waiting");
    #[cfg(unix)]
    receiver.resume();
    let mut next = 1;
    let report = receiver.finish();
    for line in &report {
        match line.split_once(' ').expect("two words") {
            ("missed", missed) => next += missed.parse::<u64>().expect("a number"),
            ("0", sequence) => {
                assert_eq!(sequence.parse::<u64>().expect("a number"), next, "and not told of a gap");
                next += 1;
            }
            _ => assert_eq!(line, &format!("{LAST} {MANY}")),
        }
    }
    assert_eq!(next, MANY);
    assert_eq!(report.last(), Some(&format!("{LAST} {MANY}")));
}

impl<F: Fixture> Stage<F> {
    /// Sends stamped messages, many times as many as there is room for, none of which waits;
    /// how many.
    #[track_caller]
    pub(super) fn overflow(&self, tx: &mut SenderOf<F>, round: u32) -> u64 {
        for sequence in 0..TOO_MANY {
            tx.send_wait(&Stamp::new(round, sequence).message(LEN), Wait::Never).expect("no waiting");
        }
        TOO_MANY
    }

    /// Receives what is there: the stamps, and how many were missed in between.
    #[track_caller]
    fn receive_all(&self, rx: &mut ReceiverOf<F>) -> (Vec<Stamp>, u64) {
        let (mut stamps, mut all_missed) = (Vec::new(), 0);
        loop {
            match rx.try_recv().map(|message| Stamp::of(&message)) {
                Ok(stamp) => stamps.push(stamp),
                Err(RecvError::Lagged { missed }) => {
                    assert!(missed > 0, "a gap of nothing");
                    all_missed += missed;
                }
                Err(RecvError::WouldBlock) => return (stamps, all_missed),
                Err(error) => panic!("behind {:?}: {error}", stamps.last()),
            }
        }
    }
}
