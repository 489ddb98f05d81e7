//! Batches of a sender: several messages published together, as many as there is room for.

use super::{
    Capabilities, Case, Fixture, SenderOf,
    batches::assert_held,
    cases,
    child::{Cue, Part, say},
    order::{assert_too_long, expect_from_each},
    payload::{Stamp, mix},
    processes::{BATCH, assert_killed_senders_lose_nothing},
    stage::{BRIEF, DEPTH, LEN, Stage, assert_empty},
    waits::{MOMENTS, assert_prompt, brief_wait, cancelled_after},
};
use crate::{Batch, BatchReceiver, BatchSender, Cancel, RecvError, SendError, Sender, Wait};
use std::{
    ops::Range,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const MANY: u64 = 10_000;

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>>
where
    SenderOf<F>: BatchSender,
{
    let mut all = cases![
        an_empty_batch_sends_nothing_and_waits_for_nothing,
        a_batch_that_begins_too_long_is_refused,
        a_sent_batch_gives_up_the_reservation,
    ];
    if !promised.conflates {
        all.extend(cases![
            a_sent_batch_arrives_in_order,
            a_sent_batch_appears_whole,
            a_sent_batch_wakes_a_waiting_receiver,
            a_message_too_long_ends_the_batch_before_it,
            batches_and_single_messages_keep_order,
        ]);
    }
    if promised.fills() {
        all.extend(cases![
            a_batch_beyond_the_room_is_sent_in_part_and_its_rest_goes_on,
            a_batch_waits_for_room_for_its_first_message,
            sent_batches_of_all_sizes_keep_order,
        ]);
    }
    if promised.fills() && !promised.exclusive {
        all.extend(cases![batches_of_several_senders_keep_the_order_of_each]);
    }
    if promised.fills() && promised.cross_process {
        all.extend(cases![a_sender_killed_in_a_batch_loses_nothing_acknowledged]);
    }
    all
}

pub(super) fn parts<F: Fixture>() -> Vec<Part<F>>
where
    SenderOf<F>: BatchSender,
{
    vec![Part { name: "send batches until killed", play: send_batches_until_killed }]
}

/// Part: sends stamped messages in batches and reports the last one of each that was
/// acknowledged. Arguments: channel, round.
fn send_batches_until_killed<F: Fixture>(stage: &Stage<F>, cue: &Cue)
where
    SenderOf<F>: BatchSender,
{
    let mut tx = stage.sender_of(&cue.name(0));
    let round = cue.number(1) as u32;
    let mut next = 0;
    loop {
        let batch = stamped(round, next..next + BATCH as u64);
        next += stage.send_batch(&mut tx, &batch);
        say(next - 1);
    }
}

fn an_empty_batch_sends_nothing_and_waits_for_nothing<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let none: [&[u8]; 0] = [];
    let nothing_sent = |tx: &mut SenderOf<F>| {
        for wait in [Wait::Never, stage.patiently(), Wait::Forever] {
            let start = Instant::now();
            assert_eq!(tx.send_batch(&none, wait).expect("nothing to do"), 0);
            assert_prompt(stage, start);
        }
    };
    nothing_sent(&mut tx);
    assert_empty(&mut rx);
    if stage.promised().fills() {
        let count = stage.fill(&mut tx);
        nothing_sent(&mut tx);
        stage.drain(&mut rx, 0..count);
    }
}

fn a_batch_that_begins_too_long_is_refused<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let longest = tx.max_message_len();
    let batch = [vec![7; longest + 1], b"behind it".to_vec()];
    // Waiting wouldn't help, so there is no waiting.
    for wait in [Wait::Never, Wait::Forever] {
        assert_too_long(tx.send_batch(&batch, wait).map(drop), longest + 1, longest);
    }
    assert_empty(&mut rx);
    assert_eq!(tx.send_batch(&batch[1..], stage.patiently()).expect("sent"), 1);
    stage.expect(&mut rx, b"behind it");
}

fn a_sent_batch_gives_up_the_reservation<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for len in [LEN, 3] {
        tx.reserve(len, stage.patiently()).expect("reserved");
        tx.reserved().fill(b'x');
        assert_eq!(tx.send_batch(&[b"sent"], stage.patiently()).expect("sent"), 1);
        assert!(tx.reserved().is_empty(), "lent again: {} bytes", tx.reserved().len());
        stage.expect(&mut rx, b"sent");
        assert_empty(&mut rx);
    }
}

fn a_sent_batch_arrives_in_order<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    // At whatever position: uneven messages move it on.
    for round in 0..40 {
        let batch = stamped(round, 0..DEPTH as u64);
        let sent = tx.send_batch(&batch, Wait::Never).expect("the channel is empty");
        assert_eq!(sent, DEPTH, "round {round}: there is room for all of them");
        for sequence in 0..DEPTH as u64 {
            assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(round, sequence));
        }
        assert_empty(&mut rx);
    }
    let texts: [&[u8]; 3] = [b"", b"between", b""];
    assert_eq!(tx.send_batch(&texts, stage.patiently()).expect("sent"), 3);
    texts.iter().for_each(|text| stage.expect(&mut rx, text));
    assert_empty(&mut rx);
}

/// Seen by a receiver that looks all the time.
fn a_sent_batch_appears_whole<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    const ROUNDS: u32 = 300;
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let (released, releases) = mpsc::channel();
    let size = |round| 2 + round as usize % (DEPTH - 1);
    thread::scope(|threads| {
        threads.spawn(move || {
            for round in 0..ROUNDS {
                let deadline = Instant::now() + stage.patience();
                let held = loop {
                    match rx.advance_batch(DEPTH, Wait::Never) {
                        Ok(held) => break held,
                        Err(RecvError::WouldBlock) => thread::yield_now(),
                        Err(error) => panic!("round {round}: {error}"),
                    }
                    assert!(Instant::now() < deadline, "round {round}: nothing came");
                };
                assert_eq!(held, size(round), "round {round}: a batch of another size");
                assert!(rx.held_batch().iter().map(Stamp::of).eq(stamps(round, 0..held as u64)));
                rx.held_batch().release_all();
                released.send(()).expect("the sender listens");
            }
        });
        for round in 0..ROUNDS {
            let batch = stamped(round, 0..size(round) as u64);
            let sent = tx.send_batch(&batch, stage.patiently()).expect("sent");
            assert_eq!(sent, size(round), "round {round}: there is room for all of them");
            releases.recv_timeout(stage.patience()).expect("received");
        }
    });
}

fn a_sent_batch_wakes_a_waiting_receiver<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for moment in MOMENTS {
        thread::scope(|threads| {
            let waiter = threads.spawn(|| {
                let held = rx.advance_batch(DEPTH, stage.patiently()).expect("a batch");
                assert_eq!(held, 3, "woken before all of it was there");
                assert_held(&mut rx, 0..3);
                rx.held_batch().release_all();
            });
            thread::sleep(moment);
            let start = Instant::now();
            assert_eq!(tx.send_batch(&stamped(0, 0..3), stage.patiently()).expect("sent"), 3);
            waiter.join().expect("received");
            assert_prompt(stage, start);
        });
    }
}

fn a_message_too_long_ends_the_batch_before_it<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let longest = tx.max_message_len();
    let mut batch = stamped(0, 0..3);
    batch.insert(2, vec![7; longest + 1]);
    assert_eq!(tx.send_batch(&batch, stage.patiently()).expect("those before it"), 2);
    assert_too_long(tx.send_batch(&batch[2..], stage.patiently()).map(drop), longest + 1, longest);
    assert_eq!(tx.send_batch(&batch[3..], stage.patiently()).expect("those behind it"), 1);
    stage.drain(&mut rx, 0..3);
}

fn batches_and_single_messages_keep_order<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..40 {
        let messages = stamped(round, 0..4);
        stage.send(&mut tx, &messages[0]);
        assert_eq!(tx.send_batch(&messages[1..3], stage.patiently()).expect("sent"), 2);
        stage.send(&mut tx, &messages[3]);
        assert!((0..4).map(|_| stage.recv_stamp(&mut rx)).eq(stamps(round, 0..4)), "round {round}");
        assert_empty(&mut rx);
    }
}

fn a_batch_beyond_the_room_is_sent_in_part_and_its_rest_goes_on<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let room = stage.fill(&mut tx);
    stage.drain(&mut rx, 0..room);
    let total = 3 * room + 1;
    let batch: Vec<_> = stamps(0, 0..total).map(|stamp| stamp.message(LEN)).collect();
    let mut sent = tx.send_batch(&batch, stage.patiently()).expect("the first ones");
    assert!((DEPTH..batch.len()).contains(&sent), "{sent} of {total} sent into room for {room}");
    let full = tx.send_batch(&batch[sent..], Wait::Never);
    assert!(matches!(full, Err(SendError::WouldBlock)), "after as many as there was room for: {full:?}");
    for sequence in 0..total {
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
        if sent == batch.len() {
            continue;
        }
        // A ring's room may come in other portions than messages.
        match tx.send_batch(&batch[sent..], Wait::Never) {
            Ok(0) => panic!("none sent, and no error"),
            Ok(more) => sent += more,
            Err(SendError::WouldBlock) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(sent, batch.len());
    assert_empty(&mut rx);
}

fn a_batch_waits_for_room_for_its_first_message<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    let batch: Vec<_> = stamps(0, count..count + 2).map(|stamp| stamp.message(LEN)).collect();
    let refused = tx.send_batch(&batch, Wait::Never);
    assert!(matches!(refused, Err(SendError::WouldBlock)), "{refused:?}");
    let refused = brief_wait(stage, || tx.send_batch(&batch, Wait::timeout(BRIEF)));
    assert!(matches!(refused, Err(SendError::TimedOut)), "{refused:?}");
    let cancel = Cancel::new();
    let wait = stage.patiently().or_cancel(&cancel);
    let refused = cancelled_after(stage, BRIEF, &cancel, || tx.send_batch(&batch, wait));
    assert!(matches!(refused, Err(SendError::Cancelled)), "{refused:?}");
    let sent = thread::scope(|threads| {
        let waiter = threads.spawn(|| tx.send_batch(&batch, stage.patiently()));
        thread::sleep(BRIEF);
        let start = Instant::now();
        for sequence in 0..=count {
            assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
        }
        let sent = waiter.join().expect("no panic").expect("sent");
        assert_prompt(stage, start);
        sent as u64
    });
    assert!((1..=2).contains(&sent));
    stage.drain(&mut rx, count + 1..count + sent);
}

fn sent_batches_of_all_sizes_keep_order<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    thread::scope(|threads| {
        threads.spawn(move || stage.send_batches(&mut tx, 0, MANY));
        for sequence in 0..MANY {
            assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
        }
    });
    assert_empty(&mut rx);
}

fn batches_of_several_senders_keep_the_order_of_each<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: BatchSender,
{
    const SENDERS: u32 = 3;
    const EACH: u64 = 500;
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let senders: Vec<_> = (0..SENDERS).map(|_| channel.sender()).collect();
    thread::scope(|threads| {
        for (round, mut tx) in (0..).zip(senders) {
            threads.spawn(move || stage.send_batches(&mut tx, round, EACH));
        }
        expect_from_each(stage, &mut rx, SENDERS, EACH);
    });
}

/// The batch that it was just sending may have arrived, or its beginning.
fn a_sender_killed_in_a_batch_loses_nothing_acknowledged<F: Fixture>(stage: &Stage<F>) {
    assert_killed_senders_lose_nothing(stage, "send batches until killed", BATCH as u64);
}

impl<F: Fixture> Stage<F>
where
    SenderOf<F>: BatchSender,
{
    /// Sends as many of a batch as there is room for; how many.
    #[track_caller]
    fn send_batch(&self, tx: &mut SenderOf<F>, batch: &[Vec<u8>]) -> u64 {
        let sent = tx.send_batch(batch, self.patiently()).expect("send");
        assert!((1..=batch.len()).contains(&sent), "{sent} of {} sent", batch.len());
        sent as u64
    }

    /// Sends this many stamped messages in batches of all sizes, and of more than there is
    /// room for.
    fn send_batches(&self, tx: &mut SenderOf<F>, round: u32, count: u64) {
        let mut next = 0;
        while next < count {
            let end = count.min(next + 1 + mix(next) % (2 * DEPTH as u64));
            next += self.send_batch(tx, &stamped(round, next..end));
            // Now and then the receiver catches up.
            if next % 97 == 0 {
                thread::sleep(Duration::from_micros(100));
            }
        }
    }
}

fn stamps(round: u32, numbers: Range<u64>) -> impl Iterator<Item = Stamp> {
    numbers.map(move |sequence| Stamp::new(round, sequence))
}

/// Messages of varied length.
fn stamped(round: u32, numbers: Range<u64>) -> Vec<Vec<u8>> {
    stamps(round, numbers).map(|stamp| stamp.message_up_to(LEN)).collect()
}
