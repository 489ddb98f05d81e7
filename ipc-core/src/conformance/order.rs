//! What is sent arrives: whole, in order, once, and no more of it than there is room for.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, SenderOf, cases,
    payload::{MIN_LEN, Stamp, mix, scribble},
    stage::{DEPTH, LEN, Stage, assert_empty},
};
use crate::{Receiver, SendError, Sender, Wait};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// So many that a small channel is gone round often.
const MANY: u64 = 10_000;

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    let mut all = cases![
        every_length_arrives_whole,
        a_length_beyond_all_memory_is_refused,
        an_empty_channel_would_block,
        recv_into_replaces_what_the_buffer_held,
    ];
    if !promised.conflates {
        all.extend(cases![
            delivers_in_order,
            an_empty_message_is_a_message,
            one_byte_too_long_is_refused_and_nothing_is_lost,
            the_promised_room_is_there,
            large_messages_arrive_whole,
        ]);
    }
    if promised.fills() {
        all.extend(cases![
            full_channel_refuses_without_losing_messages,
            full_channel_takes_again_after_a_release,
            many_rounds_of_uneven_fill_keep_order_and_content,
            endpoints_work_on_threads_of_their_own,
        ]);
    }
    if promised.fills() && !promised.exclusive {
        all.extend(cases![several_senders_keep_the_order_of_each]);
    }
    if promised.fills() && promised.has_many_receivers() {
        all.extend(cases![several_receivers_share_without_loss_or_duplicates]);
    }
    all
}

fn delivers_in_order<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for message in ["first", "second", "third"] {
        stage.send(&mut tx, message.as_bytes());
    }
    for message in ["first", "second", "third"] {
        stage.expect(&mut rx, message.as_bytes());
    }
    assert_empty(&mut rx);
}

fn an_empty_message_is_a_message<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for message in ["", "between", "", ""] {
        stage.send(&mut tx, message.as_bytes());
    }
    for message in ["", "between", "", ""] {
        stage.expect(&mut rx, message.as_bytes());
    }
    assert_empty(&mut rx);
}

fn every_length_arrives_whole<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let max = tx.max_message_len();
    assert!(max >= LEN, "asked for messages of {LEN} bytes, the longest has {max}");
    for len in interesting_lengths(max) {
        let mut message = vec![0; len];
        scribble(len as u64, &mut message);
        stage.send(&mut tx, &message);
        stage.expect(&mut rx, &message);
    }
    assert_empty(&mut rx);
}

fn one_byte_too_long_is_refused_and_nothing_is_lost<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let longest = tx.max_message_len();
    stage.send(&mut tx, b"before");
    assert_too_long(tx.send_wait(&vec![7; longest + 1], stage.patiently()), longest + 1, longest);
    // Waiting wouldn't help, so there is no waiting.
    assert_too_long(tx.reserve(longest + 1, Wait::Forever), longest + 1, longest);
    assert_too_long(tx.try_send(&vec![7; longest + 1]), longest + 1, longest);
    stage.send(&mut tx, b"after");
    stage.expect(&mut rx, b"before");
    stage.expect(&mut rx, b"after");
    assert_empty(&mut rx);
}

fn a_length_beyond_all_memory_is_refused<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let longest = tx.max_message_len();
    for len in [usize::MAX, usize::MAX - 7, usize::MAX / 2 + 1, u32::MAX as usize] {
        assert_too_long(tx.reserve(len, Wait::Forever), len, longest);
    }
    stage.send(&mut tx, b"after");
    stage.expect(&mut rx, b"after");
}

fn an_empty_channel_would_block<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    assert_empty(&mut rx);
    assert_empty(&mut rx);
    stage.send(&mut tx, b"only");
    stage.expect(&mut rx, b"only");
    assert_empty(&mut rx);
}

fn the_promised_room_is_there<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    // At whatever position: uneven messages move it on in between.
    for round in 0..40 {
        stage.send(&mut tx, &vec![1; round as usize * 3]);
        stage.expect(&mut rx, &vec![1; round as usize * 3]);
        for sequence in 0..DEPTH as u64 {
            let message = Stamp::new(round, sequence).message(LEN);
            assert!(tx.try_send(&message).is_ok(), "round {round}: only {sequence} messages fit");
        }
        for sequence in 0..DEPTH as u64 {
            assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(round, sequence));
        }
    }
}

fn full_channel_refuses_without_losing_messages<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    assert!(count >= DEPTH as u64, "full after {count} messages");
    for _ in 0..3 {
        let refused = tx.try_send(&Stamp::new(9, 9).message(LEN));
        assert!(matches!(refused, Err(SendError::WouldBlock)), "a full channel said {refused:?}");
    }
    stage.drain(&mut rx, 0..count);
}

fn full_channel_takes_again_after_a_release<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    let mut sent = count;
    for released in 0..3 * count {
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, released));
        // A ring's room may come in other portions than messages; the empty channel has it.
        while sent - released - 1 < count && sent < 3 * count {
            match tx.try_send(&Stamp::new(0, sent).message(LEN)) {
                Ok(()) => sent += 1,
                Err(SendError::WouldBlock) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(sent > released + 1 || sent == 3 * count, "empty and still full");
    }
    assert_empty(&mut rx);
}

fn many_rounds_of_uneven_fill_keep_order_and_content<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let max = tx.max_message_len();
    let (mut sent, mut received) = (0, 0);
    while received < MANY {
        // One to seven more, as many as fit; then some of them back, or all.
        for _ in 0..=mix(sent) % 7 {
            match tx.try_send(&Stamp::new(0, sent).message_up_to(max)) {
                Ok(()) => sent += 1,
                Err(SendError::WouldBlock) => break,
                Err(error) => panic!("message {sent}: {error}"),
            }
        }
        assert!(sent > received, "a message of {max} bytes doesn't fit into the empty channel");
        let waiting = sent - received;
        for _ in 0..=mix(received) % waiting {
            assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, received));
            received += 1;
        }
    }
    stage.drain(&mut rx, received..sent);
}

fn large_messages_arrive_whole<F: Fixture>(stage: &Stage<F>) {
    let large = stage.fixture().large_message_len();
    let channel = stage.channel_of(2, large);
    let (mut tx, mut rx) = channel.ends();
    let max = tx.max_message_len();
    assert!(max >= large, "asked for messages of {large} bytes, the longest has {max}");
    for (sequence, len) in (0..).zip([max, large, MIN_LEN, max - 1, large / 2 + 1, max]) {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(len));
        let message = stage.recv(&mut rx);
        assert_eq!((message.len(), Stamp::of(&message)), (len, Stamp::new(0, sequence)));
    }
    for sequence in 0..2 {
        assert!(tx.try_send(&Stamp::new(1, sequence).message(large)).is_ok(), "room for {sequence}, not 2");
    }
    for sequence in 0..2 {
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(1, sequence));
    }
}

fn recv_into_replaces_what_the_buffer_held<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let mut buffer = b"what was there".to_vec();
    assert!(rx.recv_into(&mut buffer, Wait::Never).is_err());
    assert_eq!(buffer, b"what was there");
    for message in ["short", "", "longer than what was there"] {
        stage.send(&mut tx, message.as_bytes());
        let len = rx.recv_into(&mut buffer, stage.patiently()).expect("receive");
        assert_eq!((len, &*buffer), (message.len(), message.as_bytes()));
    }
    assert_empty(&mut rx);
}

fn endpoints_work_on_threads_of_their_own<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    thread::scope(|threads| {
        threads.spawn(move || send_stamped(stage, &mut tx, 0, MANY));
        threads.spawn(move || {
            for sequence in 0..MANY {
                assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
            }
            assert_empty(&mut rx);
        });
    });
}

fn several_senders_keep_the_order_of_each<F: Fixture>(stage: &Stage<F>) {
    const SENDERS: u32 = 3;
    const EACH: u64 = 500;
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let senders: Vec<_> = (0..SENDERS).map(|_| channel.sender()).collect();
    thread::scope(|threads| {
        for (round, mut tx) in (0..).zip(senders) {
            threads.spawn(move || send_stamped(stage, &mut tx, round, EACH));
        }
        expect_from_each(stage, &mut rx, SENDERS, EACH);
    });
}

fn several_receivers_share_without_loss_or_duplicates<F: Fixture>(stage: &Stage<F>) {
    const COUNT: u64 = 1000;
    let channel = stage.channel();
    let mut tx = channel.sender();
    let mut receivers = [channel.receiver(), channel.receiver()];
    let taken = AtomicU64::new(0);
    let outputs = thread::scope(|threads| {
        let takers = receivers.each_mut().map(|rx| {
            let taken = &taken;
            threads.spawn(move || {
                let mut output = Vec::new();
                while taken.fetch_add(1, Ordering::Relaxed) < COUNT {
                    output.push(stage.recv_stamp(rx).sequence);
                }
                output
            })
        });
        send_stamped(stage, &mut tx, 0, COUNT);
        takers.map(|taker| taker.join().expect("receiving went well"))
    });
    for output in &outputs {
        assert!(output.is_sorted(), "one receiver saw {output:?}");
    }
    let all: BTreeSet<u64> = outputs.iter().flatten().copied().collect();
    assert!(all.into_iter().eq(0..COUNT), "some came twice, others never");
}

/// Sends this many stamped messages of varied length.
pub(super) fn send_stamped<F: Fixture>(stage: &Stage<F>, tx: &mut SenderOf<F>, round: u32, count: u64) {
    for sequence in 0..count {
        stage.send(tx, &Stamp::new(round, sequence).message_up_to(LEN));
    }
}

/// Receives this many messages of each of several senders, in the order of each, and no
/// more.
pub(super) fn expect_from_each<F: Fixture>(
    stage: &Stage<F>,
    rx: &mut ReceiverOf<F>,
    senders: u32,
    count: u64,
) {
    let mut next = vec![0; senders as usize];
    for _ in 0..u64::from(senders) * count {
        let stamp = stage.recv_stamp(rx);
        let expected = &mut next[stamp.round as usize];
        assert_eq!(stamp.sequence, *expected, "from sender {}", stamp.round);
        *expected += 1;
    }
    assert_empty(rx);
}

/// Short ones, those around powers of two, and the longest.
pub(super) fn interesting_lengths(max: usize) -> BTreeSet<usize> {
    let powers = (0..usize::BITS).map(|bit| 1_usize << bit).take_while(|&power| power <= max);
    let around = powers.flat_map(|power| [power - 1, power, power + 1]);
    (0..=72).chain(around).chain([max - 1, max]).filter(|&len| len <= max).collect()
}

#[track_caller]
pub(super) fn assert_too_long(answer: Result<(), SendError>, asked: usize, longest: usize) {
    match answer {
        Err(SendError::TooLong { len, max }) => assert_eq!((len, max), (asked, longest)),
        other => panic!("{asked} bytes where {longest} is the longest: {other:?}"),
    }
}
