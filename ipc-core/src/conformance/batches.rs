//! Batches: several messages held at once, released together or in part, and never lost on
//! the way.

use super::{
    Capabilities, Case, Fixture, cases,
    payload::Stamp,
    stage::{LEN, Stage, assert_empty},
};
use crate::{Batch, BatchReceiver, Message, Receiver, RecvError, Sender, Wait};

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    let mut all = cases![an_empty_channel_gives_no_batch];
    if promised.conflates {
        return all;
    }
    all.extend(cases![
        a_batch_takes_what_is_there_up_to_its_limit,
        a_batch_is_held_until_it_is_released,
        a_batch_released_in_part_keeps_the_rest,
        a_batch_of_one_is_one_message,
        a_batch_of_at_most_none_is_one_message,
        a_kept_message_begins_the_next_batch,
        a_batch_in_hand_is_lent_one_by_one_too,
        a_released_batch_makes_room,
    ]);
    if promised.fills() {
        all.extend(cases![batches_of_all_sizes_keep_order]);
    }
    all
}

fn a_batch_takes_what_is_there_up_to_its_limit<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_numbered(stage, &mut tx, 0..4);
    assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 3);
    assert_held(&mut rx, 0..3);
    rx.held_batch().release_all();
    assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 1);
    assert_held(&mut rx, 3..4);
    rx.held_batch().release_all();
    assert_empty(&mut rx);
}

fn a_batch_is_held_until_it_is_released<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_numbered(stage, &mut tx, 0..3);
    for _ in 0..3 {
        assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 3);
        assert_held(&mut rx, 0..3);
        drop(rx.held_batch());
    }
    rx.held_batch().release(0);
    assert_held(&mut rx, 0..3);
    rx.held_batch().release_all();
    assert!(rx.held_batch().is_empty());
    assert_empty(&mut rx);
}

fn a_batch_released_in_part_keeps_the_rest<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_numbered(stage, &mut tx, 0..4);
    assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 3);
    rx.held_batch().release(1);
    assert_held(&mut rx, 1..3);
    assert_eq!(rx.advance_batch(4, Wait::Never).expect("two in hand, one in the channel"), 3);
    assert_held(&mut rx, 1..4);
    assert_eq!(rx.advance_batch(2, Wait::Never).expect("three in hand"), 3);
    rx.held_batch().release(usize::MAX);
    assert_empty(&mut rx);
}

fn a_batch_of_one_is_one_message<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_numbered(stage, &mut tx, 0..3);
    for sequence in 0..3 {
        assert_eq!(rx.advance_batch(1, stage.patiently()).expect("a batch"), 1);
        assert_held(&mut rx, sequence..sequence + 1);
        rx.held_batch().release(1);
    }
    assert_empty(&mut rx);
}

fn a_batch_of_at_most_none_is_one_message<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_numbered(stage, &mut tx, 0..2);
    assert_eq!(rx.advance_batch(0, stage.patiently()).expect("a batch"), 1);
    assert_held(&mut rx, 0..1);
    rx.held_batch().release_all();
    assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, 1));
}

fn a_kept_message_begins_the_next_batch<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_numbered(stage, &mut tx, 0..3);
    rx.receive(stage.patiently()).expect("receive").keep();
    assert_eq!(rx.advance_batch(3, Wait::Never).expect("one in hand"), 3);
    assert_held(&mut rx, 0..3);
    rx.held_batch().release_all();
    assert_empty(&mut rx);
}

fn a_batch_in_hand_is_lent_one_by_one_too<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_numbered(stage, &mut tx, 0..4);
    assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 3);
    rx.advance(Wait::Never).expect("three in hand");
    assert_eq!(Stamp::of(&rx.held()), Stamp::new(0, 0));
    assert_held(&mut rx, 1..3);
    rx.held().keep();
    assert_held(&mut rx, 1..3);
    for sequence in 1..4 {
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
    }
    assert!(rx.held_batch().is_empty());
    assert_empty(&mut rx);
}

fn an_empty_channel_gives_no_batch<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let empty = rx.advance_batch(3, Wait::Never);
    assert!(matches!(empty, Err(RecvError::WouldBlock)), "{empty:?}");
    let batch = rx.held_batch();
    assert_eq!((batch.len(), batch.is_empty(), batch.iter().count()), (0, true, 0));
    batch.release_all();
    send_numbered(stage, &mut tx, 0..1);
    assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, 0));
}

fn a_released_batch_makes_room<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for _ in 0..5 {
        let count = stage.fill(&mut tx);
        let held = rx.advance_batch(count as usize, stage.patiently()).expect("a batch");
        assert_eq!(held as u64, count);
        assert_held(&mut rx, 0..count);
        rx.held_batch().release_all();
        assert_empty(&mut rx);
    }
}

fn batches_of_all_sizes_keep_order<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let (mut sent, mut received) = (0, 0);
    for turn in 0..500 {
        while tx.try_send(&Stamp::new(0, sent).message_up_to(LEN)).is_ok() {
            sent += 1;
        }
        let held = rx.advance_batch(1 + turn % 5, stage.patiently()).expect("a batch") as u64;
        assert_held(&mut rx, received..received + held);
        let released = 1 + turn as u64 % held;
        rx.held_batch().release(released as usize);
        received += released;
    }
    stage.drain(&mut rx, received..sent);
}

fn send_numbered<F: Fixture>(stage: &Stage<F>, tx: &mut impl Sender, numbers: std::ops::Range<u64>) {
    for sequence in numbers {
        let message = Stamp::new(0, sequence).message_up_to(LEN);
        tx.send_wait(&message, stage.patiently()).expect("send");
    }
}

/// The messages of these numbers are in hand, and no others.
#[track_caller]
pub(super) fn assert_held<R: BatchReceiver>(rx: &mut R, numbers: std::ops::Range<u64>) {
    let batch = rx.held_batch();
    let held: Vec<u64> = batch.iter().map(|message| Stamp::of(message).sequence).collect();
    assert!(held.iter().copied().eq(numbers.clone()), "in hand: {held:?}, not {numbers:?}");
    assert_eq!(batch.len(), held.len());
}
