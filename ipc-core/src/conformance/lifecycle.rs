//! Channels come, are shared and go; endpoints come and go, and what was sent stays.

use super::{
    Capabilities, Case, Fixture, cases,
    payload::Stamp,
    stage::{BRIEF, DEPTH, LEN, Made, Stage, assert_empty, unless_busy, unused_name},
    waits::MOMENTS,
};
use crate::{
    Batch, BatchReceiver, Channel, ChannelError, Message, Receiver, Role, SendError, Sender, Transport,
};
use std::{panic::resume_unwind, thread};

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    let mut all = cases![
        creating_twice_is_refused_and_harms_nothing,
        what_is_missing_is_not_found,
        a_removed_channel_is_gone_and_a_new_one_is_empty,
        open_or_create_makes_one_channel_for_all_who_race,
        open_or_create_refuses_other_settings,
        the_list_names_what_exists,
        a_receiver_may_come_first,
        an_end_is_opened_by_the_channels_name,
        names_tell_channels_apart,
    ];
    if !promised.conflates {
        all.extend(cases![stat_counts_what_is_queued]);
    }
    if promised.stores && promised.shares() {
        all.extend(cases![
            messages_outlive_their_sender,
            messages_outlive_every_endpoint,
            a_new_receiver_goes_on_where_the_old_one_stopped,
        ]);
    }
    if promised.redelivers && promised.shares() {
        all.extend(cases![
            what_a_dropped_receiver_held_is_delivered_to_the_next,
            a_batch_of_a_dropped_receiver_is_delivered_to_the_next,
            what_a_panic_takes_along_is_delivered_to_the_next,
        ]);
    }
    if promised.exclusive {
        all.extend(cases![a_second_sender_is_told_busy, a_second_receiver_is_told_busy]);
    }
    if promised.one_receiver {
        all.extend(cases![a_second_receiver_is_told_busy_until_the_first_goes]);
    }
    if promised.connects && !promised.stores {
        all.extend(cases![without_a_receiver_nothing_is_taken, a_sender_waits_for_a_receiver_to_come]);
    }
    all
}

fn creating_twice_is_refused_and_harms_nothing<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"kept");
    let again = channel.transport.create(&channel.name, &stage.fixture().config(DEPTH, LEN));
    assert!(matches!(again.err(), Some(ChannelError::AlreadyExists)));
    stage.expect(&mut rx, b"kept");
}

fn what_is_missing_is_not_found<F: Fixture>(stage: &Stage<F>) {
    let (transport, name) = (stage.transport(), unused_name());
    assert!(matches!(transport.open(&name).err(), Some(ChannelError::NotFound)));
    assert!(matches!(transport.open_sender(&name).err(), Some(ChannelError::NotFound)));
    assert!(matches!(transport.open_receiver(&name).err(), Some(ChannelError::NotFound)));
    assert!(matches!(transport.remove(&name), Err(ChannelError::NotFound)));
    assert!(matches!(transport.stat(&name), Err(ChannelError::NotFound)));
}

fn a_removed_channel_is_gone_and_a_new_one_is_empty<F: Fixture>(stage: &Stage<F>) {
    let mut channel = stage.channel();
    for round in 0..3 {
        let receiver = (!stage.promised().stores).then(|| channel.receiver());
        let mut tx = channel.sender();
        stage.send(&mut tx, &Stamp::new(round, 0).message(LEN));
        drop((tx, receiver));
        channel.close();
        channel.transport.remove(&channel.name).expect("nobody uses it");
        assert!(matches!(channel.transport.open(&channel.name).err(), Some(ChannelError::NotFound)));
        let config = stage.fixture().config(DEPTH, LEN);
        drop(channel.transport.create(&channel.name, &config).expect("the name is free"));
        assert_empty(&mut channel.receiver());
    }
}

fn open_or_create_makes_one_channel_for_all_who_race<F: Fixture>(stage: &Stage<F>) {
    const RACERS: usize = 4;
    for _ in 0..10 {
        let made = stage.to_be_made();
        let race = || {
            let config = stage.fixture().config(DEPTH, LEN);
            stage.transport().open_or_create(&made.name, &config).expect("a channel")
        };
        let channels: Vec<_> = thread::scope(|threads| {
            let racers: Vec<_> = (0..RACERS).map(|_| threads.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic")).collect()
        });
        for (from, to) in (0..RACERS).map(|racer| (racer, (racer + 1) % RACERS)) {
            let mut tx = channels[from].sender().expect("a sender");
            let mut rx = channels[to].receiver().expect("a receiver");
            stage.send(&mut tx, &[from as u8]);
            stage.expect(&mut rx, &[from as u8]);
        }
    }
}

fn open_or_create_refuses_other_settings<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (same, other) = (stage.fixture().config(DEPTH, LEN), stage.fixture().config(DEPTH, 16 * LEN));
    let open = |config| channel.transport.open_or_create(&channel.name, config);
    assert!(open(&same).is_ok());
    match open(&other) {
        Err(ChannelError::Mismatch { asked, found, .. }) => assert_ne!(asked, found),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened with messages of {LEN} bytes where {} were asked for", 16 * LEN),
    }
    assert!(open(&same).is_ok());
}

fn the_list_names_what_exists<F: Fixture>(stage: &Stage<F>) {
    let (mut kept, mut removed) = (stage.channel(), stage.channel());
    let names = match kept.transport.list() {
        Ok(names) => names,
        Err(ChannelError::Unsupported(_)) => return,
        Err(error) => panic!("{error}"),
    };
    assert!(names.contains(&kept.name) && names.contains(&removed.name), "{names:?}");
    assert!(names.is_sorted(), "{names:?}");
    removed.close();
    removed.transport.remove(&removed.name).expect("nobody uses it");
    let names = kept.transport.list().expect("a list");
    assert!(names.contains(&kept.name) && !names.contains(&removed.name), "{names:?}");
    kept.close();
}

fn stat_counts_what_is_queued<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let info = channel.transport.stat(&channel.name).expect("stat");
    assert!(!info.kind.is_empty());
    assert!(info.max_message_len_bytes.is_none_or(|len| len == tx.max_message_len() as u64), "{info:?}");
    assert!(info.depth.is_none_or(|depth| depth >= DEPTH as u64), "{info:?}");
    assert!(info.capacity_bytes.is_none_or(|bytes| bytes >= (DEPTH * LEN) as u64), "{info:?}");
    if info.queued_messages.is_none() {
        return;
    }
    assert_eq!(channel.queued(), Some(0));
    for count in 1..=3 {
        stage.send(&mut tx, b"queued");
        assert_eq!(channel.queued(), Some(count));
    }
    drop(tx.loan(LEN, stage.patiently()).expect("a loan"));
    assert_eq!(channel.queued(), Some(3), "an aborted loan counts");
    for count in (0..3).rev() {
        stage.expect(&mut rx, b"queued");
        assert_eq!(channel.queued(), Some(count));
    }
}

fn a_receiver_may_come_first<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    assert_empty(&mut rx);
    let mut tx = channel.sender();
    stage.send(&mut tx, b"the sender came later");
    stage.expect(&mut rx, b"the sender came later");
}

fn an_end_is_opened_by_the_channels_name<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.transport.open_receiver(&channel.name).expect("a receiver");
    stage.send(&mut channel.sender(), b"to an end by its name");
    stage.expect(&mut rx, b"to an end by its name");
    let mut tx = unless_busy(stage.patience(), || channel.transport.open_sender(&channel.name));
    stage.send(tx.as_mut().expect("a sender"), b"from one, too");
    stage.expect(&mut rx, b"from one, too");
}

fn names_tell_channels_apart<F: Fixture>(stage: &Stage<F>) {
    let (left, right) = (stage.channel(), stage.channel());
    let ((mut left_tx, mut left_rx), (mut right_tx, mut right_rx)) = (left.ends(), right.ends());
    stage.send(&mut left_tx, b"left");
    assert_empty(&mut right_rx);
    stage.send(&mut right_tx, b"right");
    stage.expect(&mut left_rx, b"left");
    stage.expect(&mut right_rx, b"right");
}

fn messages_outlive_their_sender<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    for sequence in 0..3 {
        let mut tx = channel.sender();
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
    stage.drain(&mut rx, 0..3);
}

fn messages_outlive_every_endpoint<F: Fixture>(stage: &Stage<F>) {
    let mut channel = stage.channel();
    let mut tx = channel.sender();
    for sequence in 0..3 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
    drop(tx);
    channel.close();
    stage.drain(&mut channel.receiver(), 0..3);
}

fn a_new_receiver_goes_on_where_the_old_one_stopped<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    for sequence in 0..4 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
    // Nothing may have been fetched ahead of what was asked for.
    assert_eq!(stage.recv_stamp(&mut channel.receiver()), Stamp::new(0, 0));
    let mut rx = channel.receiver();
    assert_eq!(rx.advance_batch(2, stage.patiently()).expect("a batch"), 2);
    Batch::release_all(rx.held_batch());
    drop(rx);
    stage.drain(&mut channel.receiver(), 3..4);
}

fn what_a_dropped_receiver_held_is_delivered_to_the_next<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    for sequence in 0..3 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
    for _ in 0..2 {
        let mut rx = channel.receiver();
        let message = rx.receive(stage.patiently()).expect("receive");
        assert_eq!(Stamp::of(&message), Stamp::new(0, 0));
        message.keep();
    }
    stage.drain(&mut channel.receiver(), 0..3);
}

fn what_a_panic_takes_along_is_delivered_to_the_next<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    for sequence in 0..3 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
    panic_with_a_message(stage, &channel);
    stage.drain(&mut channel.receiver(), 0..3);
}

/// A receiver of a thread that panics with message 0 in hand.
pub(super) fn panic_with_a_message<F: Fixture>(stage: &Stage<F>, channel: &Made<F>) {
    let panicked = thread::scope(|threads| {
        let victim = threads.spawn(|| {
            let mut rx = channel.receiver();
            let message = rx.receive(stage.patiently()).expect("receive");
            assert_eq!(Stamp::of(&message), Stamp::new(0, 0));
            resume_unwind(Box::new(OnPurpose));
        });
        victim.join()
    });
    assert!(panicked.is_err_and(|payload| payload.is::<OnPurpose>()), "it had the message");
}

struct OnPurpose;

fn a_batch_of_a_dropped_receiver_is_delivered_to_the_next<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    for sequence in 0..4 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
    let mut rx = channel.receiver();
    assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 3);
    Batch::release(rx.held_batch(), 1);
    drop(rx);
    stage.drain(&mut channel.receiver(), 1..4);
}

fn a_second_sender_is_told_busy<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut first = channel.sender();
    match channel.channel().sender() {
        Err(ChannelError::Busy { role: Role::Sender, .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("two senders at once"),
    }
    let reopened = channel.transport.open(&channel.name).expect("open").sender();
    assert!(matches!(reopened.err(), Some(ChannelError::Busy { role: Role::Sender, .. })));
    let by_name = channel.transport.open_sender(&channel.name);
    assert!(matches!(by_name.err(), Some(ChannelError::Busy { role: Role::Sender, .. })));
    let mut rx = channel.receiver();
    stage.send(&mut first, b"from the first");
    drop(first);
    stage.send(&mut channel.sender(), b"from the second");
    stage.expect(&mut rx, b"from the first");
    stage.expect(&mut rx, b"from the second");
}

fn a_second_receiver_is_told_busy<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut first) = channel.ends();
    match channel.channel().receiver() {
        Err(ChannelError::Busy { role: Role::Receiver, .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("two receivers at once"),
    }
    let by_name = channel.transport.open_receiver(&channel.name);
    assert!(matches!(by_name.err(), Some(ChannelError::Busy { role: Role::Receiver, .. })));
    stage.send(&mut tx, b"to the first");
    stage.expect(&mut first, b"to the first");
    drop(first);
    stage.send(&mut tx, b"to the second");
    stage.expect(&mut channel.receiver(), b"to the second");
}

fn a_second_receiver_is_told_busy_until_the_first_goes<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut first = channel.receiver();
    let reopened = channel.transport.open(&channel.name).expect("open");
    for channel in [channel.channel(), &reopened] {
        match channel.receiver() {
            Err(ChannelError::Busy { role: Role::Receiver, .. }) => {}
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("two receivers at once"),
        }
    }
    stage.send(&mut channel.sender(), b"to the first");
    stage.expect(&mut first, b"to the first");
    drop(first);
    let mut second = channel.receiver();
    stage.send(&mut channel.sender(), b"to the second");
    stage.expect(&mut second, b"to the second");
}

fn without_a_receiver_nothing_is_taken<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    for _ in 0..2 {
        assert!(matches!(tx.try_send(b"to nobody"), Err(SendError::WouldBlock)));
        assert!(matches!(tx.send_timeout(b"to nobody", BRIEF), Err(SendError::TimedOut)));
    }
    let mut rx = channel.receiver();
    assert_empty(&mut rx);
    stage.send(&mut tx, b"to somebody");
    stage.expect(&mut rx, b"to somebody");
}

fn a_sender_waits_for_a_receiver_to_come<F: Fixture>(stage: &Stage<F>) {
    for moment in MOMENTS {
        let channel = stage.channel();
        let mut tx = channel.sender();
        thread::scope(|threads| {
            let sender = threads.spawn(|| stage.send(&mut tx, b"worth waiting for"));
            thread::sleep(moment);
            let mut rx = channel.receiver();
            stage.expect(&mut rx, b"worth waiting for");
            sender.join().expect("sent");
        });
    }
}
