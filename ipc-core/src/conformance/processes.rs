//! Two processes and more: they start in either order, are killed, paused and restarted,
//! and what was acknowledged arrives.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, cases,
    child::{Child, Cue, Part, say, wait_to_be_killed},
    payload::{MIN_LEN, Stamp, mix},
    stage::{BRIEF, DEPTH, LEN, Made, Stage, assert_empty, unless_busy},
};
use crate::{
    Batch, BatchReceiver, Channel, ChannelError, ChannelName, Receiver, RecvError, Role, SendError, Sender,
    Transport,
};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

const MANY: u64 = 12_000;
pub(super) const KILLS: u32 = 12;
/// The round of the message after which there is nothing more to come.
pub(super) const LAST: u32 = u32::MAX;
/// How many messages the part `receive` takes at once.
pub(super) const BATCH: usize = 3;
/// A dead process's role is free at once; the kernel and this test's processor may take a
/// moment.
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    if !promised.cross_process {
        return Vec::new();
    }
    let mut all = cases![requests_and_replies_go_round_between_processes];
    if !promised.conflates {
        all.extend(cases![
            processes_that_race_to_create_meet_in_one_channel,
            a_sender_killed_with_an_open_loan_sends_nothing_of_it,
        ]);
    }
    if promised.fills() {
        all.extend(cases![
            a_waiting_process_gets_what_another_sends,
            many_messages_of_all_lengths_pass_between_processes,
            the_largest_messages_pass_between_processes,
            a_sender_killed_in_mid_stream_loses_nothing_acknowledged,
        ]);
    }
    if promised.fills() && promised.shares() && promised.stores {
        all.extend(cases![a_receiver_killed_in_mid_stream_leaves_the_rest_to_the_next]);
    }
    if promised.fills() && cfg!(unix) {
        all.extend(cases![
            a_paused_receiver_makes_the_sender_time_out_and_then_goes_on,
            a_paused_sender_makes_the_receiver_time_out_and_then_goes_on,
        ]);
    }
    if promised.stores && promised.shares() {
        all.extend(cases![a_process_receives_what_was_sent_before_it_existed]);
    }
    if promised.redelivers && promised.shares() {
        all.extend(cases![what_a_killed_receiver_held_is_delivered_to_the_next]);
    }
    if promised.exclusive {
        all.extend(cases![a_role_is_free_at_once_after_a_kill]);
    }
    all
}

pub(super) fn parts<F: Fixture>() -> Vec<Part<F>> {
    vec![
        Part { name: "send", play: send },
        Part { name: "send until killed", play: send_until_killed },
        Part { name: "hold a loan", play: hold_a_loan },
        Part { name: "receive", play: receive },
        Part { name: "hold messages", play: hold_messages },
        Part { name: "reply", play: reply },
        Part { name: "create and send", play: create_and_send },
        Part { name: "take a role", play: take_a_role },
    ]
}

/// Part: sends stamped messages of all lengths up to one, and the last one. Arguments:
/// channel, round, count, longest length.
fn send<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let mut tx = stage.sender_of(&cue.name(0));
    let (round, count, max) = (cue.number(1) as u32, cue.number(2), cue.number(3) as usize);
    for sequence in 0..count {
        stage.send(&mut tx, &Stamp::new(round, sequence).message_up_to(max));
    }
    stage.send(&mut tx, &Stamp::new(LAST, count).message(MIN_LEN));
}

/// Part: sends stamped messages and reports each that was acknowledged. Arguments: channel,
/// round.
fn send_until_killed<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let mut tx = stage.sender_of(&cue.name(0));
    let round = cue.number(1) as u32;
    for sequence in 0.. {
        stage.send(&mut tx, &Stamp::new(round, sequence).message_up_to(LEN));
        say(sequence);
    }
}

/// Part: sends one message, then holds a loan half written. Argument: channel.
fn hold_a_loan<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let mut tx = stage.sender_of(&cue.name(0));
    stage.send(&mut tx, &Stamp::new(0, 0).message(LEN));
    let mut loan = tx.loan(LEN, stage.patiently()).expect("a loan");
    loan[..LEN / 2].fill(0xff);
    say("ready");
    wait_to_be_killed()
}

/// Part: receives stamped messages until the last one. It reports each, as round and
/// sequence number, before it releases it, and what it missed. Argument: channel.
fn receive<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let mut rx = stage.receiver_of(&cue.name(0));
    say("ready");
    loop {
        match rx.advance_batch(BATCH, stage.patiently()) {
            Ok(_) => {}
            Err(RecvError::Lagged { missed }) => {
                say(format_args!("missed {missed}"));
                continue;
            }
            Err(error) => panic!("no batch: {error}"),
        }
        let batch = rx.held_batch();
        let stamps: Vec<Stamp> = batch.iter().map(Stamp::of).collect();
        for stamp in &stamps {
            say(format_args!("{} {}", stamp.round, stamp.sequence));
        }
        batch.release_all();
        if stamps.iter().any(|stamp| stamp.round == LAST) {
            return;
        }
    }
}

/// Part: holds a batch. Argument: channel.
fn hold_messages<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let mut rx = stage.receiver_of(&cue.name(0));
    say("ready");
    say(rx.advance_batch(BATCH, stage.patiently()).expect("a batch"));
    wait_to_be_killed()
}

/// Part: sends back what it receives, in reverse, up to an empty message. Arguments:
/// channel of requests, channel of replies.
fn reply<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let mut requests = stage.receiver_of(&cue.name(0));
    let mut replies = stage.sender_of(&cue.name(1));
    say("ready");
    loop {
        let mut message = stage.recv(&mut requests);
        message.reverse();
        stage.send(&mut replies, &message);
        if message.is_empty() {
            return;
        }
    }
}

/// Part: opens or creates the channel at the word, sends one message at the next. Arguments:
/// channel, round.
fn create_and_send<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let (transport, name) = (stage.transport(), cue.name(0));
    let config = stage.fixture().config(DEPTH, LEN);
    say("ready");
    cue.wait_for_go();
    let channel = transport.open_or_create(&name, &config).expect("a channel");
    say("open");
    cue.wait_for_go();
    let mut tx = unless_busy(stage.patience(), || channel.sender()).expect("a sender");
    stage.send(&mut tx, &Stamp::new(cue.number(1) as u32, 0).message(LEN));
}

/// Part: takes the sender's role (0) or the receiver's (1) and keeps it. Arguments:
/// channel, role.
fn take_a_role<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let sender = (cue.number(1) == 0).then(|| stage.sender_of(&cue.name(0)));
    let receiver = (cue.number(1) == 1).then(|| stage.receiver_of(&cue.name(0)));
    say("ready");
    let _kept = (sender, receiver);
    wait_to_be_killed()
}

fn a_process_receives_what_was_sent_before_it_existed<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    // As many as surely fit, the last one included.
    let count = DEPTH as u64 - 1;
    stage.start("send", &[&channel.name, &0, &count, &LEN]).finish();
    let report = stage.start_receiver(&channel.name).finish();
    assert_complete(&report, 0, count);
}

fn a_waiting_process_gets_what_another_sends<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let receiver = stage.start_receiver(&channel.name);
    thread::sleep(2 * BRIEF);
    stage.start("send", &[&channel.name, &0, &20, &LEN]).finish();
    assert_complete(&receiver.finish(), 0, 20);
}

fn many_messages_of_all_lengths_pass_between_processes<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let max = channel.sender().max_message_len();
    let receiver = stage.start_receiver(&channel.name);
    let sender = stage.start("send", &[&channel.name, &7, &MANY, &max]);
    assert_complete(&receiver.finish(), 7, MANY);
    sender.finish();
}

fn the_largest_messages_pass_between_processes<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel_of(2, stage.fixture().large_message_len());
    let receiver = stage.start_receiver(&channel.name);
    let mut tx = channel.sender();
    let max = tx.max_message_len();
    for sequence in 0..50 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(max - sequence as usize % 3));
    }
    stage.send(&mut tx, &Stamp::new(LAST, 50).message(max));
    assert_complete(&receiver.finish(), 0, 50);
}

fn requests_and_replies_go_round_between_processes<F: Fixture>(stage: &Stage<F>) {
    let (requests, replies) = (stage.channel(), stage.channel());
    let mut server = stage.start("reply", &[&requests.name, &replies.name]);
    server.expect_line("ready");
    let (mut tx, mut rx) = (requests.sender(), replies.receiver());
    for sequence in 0..500 {
        let mut message = Stamp::new(0, sequence).message_up_to(LEN);
        stage.send(&mut tx, &message);
        message.reverse();
        stage.expect(&mut rx, &message);
    }
    stage.send(&mut tx, b"");
    stage.expect(&mut rx, b"");
    server.finish();
}

fn processes_that_race_to_create_meet_in_one_channel<F: Fixture>(stage: &Stage<F>) {
    for _ in 0..5 {
        let channel = stage.to_be_made();
        let start = |round| stage.start("create and send", &[&channel.name, &round]);
        let mut racers: Vec<Child> = (0..DEPTH).map(start).collect();
        racers.iter_mut().for_each(|racer| racer.expect_line("ready"));
        racers.iter_mut().for_each(Child::go);
        racers.iter_mut().for_each(|racer| racer.expect_line("open"));
        let mut rx = channel.receiver();
        racers.iter_mut().for_each(Child::go);
        racers.into_iter().for_each(|racer| drop(racer.finish()));
        let rounds: BTreeSet<u32> = (0..DEPTH).map(|_| stage.recv_stamp(&mut rx).round).collect();
        assert!(rounds.into_iter().eq(0..DEPTH as u32), "some sent into a channel of their own");
        assert_empty(&mut rx);
    }
}

fn a_sender_killed_in_mid_stream_loses_nothing_acknowledged<F: Fixture>(stage: &Stage<F>) {
    assert_killed_senders_lose_nothing(stage, "send until killed", 1);
}

fn a_sender_killed_with_an_open_loan_sends_nothing_of_it<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let mut sender = stage.start("hold a loan", &[&channel.name]);
    sender.expect_line("ready");
    sender.kill();
    assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, 0));
    assert_empty(&mut rx);
    let mut successor = unless_busy(AT_ONCE, || channel.channel().sender()).expect("the role is free");
    let count = stage.fill(&mut successor);
    assert!(count >= DEPTH as u64, "the dead sender's loan takes up room: {count} messages fit");
    stage.drain(&mut rx, 0..count);
}

fn a_receiver_killed_in_mid_stream_leaves_the_rest_to_the_next<F: Fixture>(stage: &Stage<F>) {
    let promised = stage.promised();
    let channel = stage.channel();
    let mut tx = channel.sender();
    let enough = AtomicBool::new(false);
    let (sent, reports) = thread::scope(|threads| {
        let sender = threads.spawn(|| {
            let stamps = (0..).map(|sequence| Stamp::new(0, sequence));
            let sent = stamps.take_while(|_| !enough.load(Ordering::Relaxed));
            let sent = sent.map(|stamp| stage.send(&mut tx, &stamp.message_up_to(LEN))).count();
            stage.send(&mut tx, &Stamp::new(LAST, sent as u64).message(MIN_LEN));
            sent as u64
        });
        // Ends the sender also if a receiver fails.
        let stop = SetOnDrop(&enough);
        let mut reports: Vec<Vec<String>> = Vec::new();
        for _ in 0..KILLS {
            let mut receiver = stage.start_receiver(&channel.name);
            let first = receiver.line();
            thread::sleep(at_some_point());
            reports.push([vec![first], receiver.kill()].concat());
        }
        drop(stop);
        reports.push(stage.start_receiver(&channel.name).finish());
        (sender.join().expect("all went well"), reports)
    });
    let outputs: Vec<Vec<u64>> = reports.iter().map(|report| sequences(report, 0)).collect();
    let received: BTreeSet<u64> = outputs.iter().flatten().copied().collect();
    let missing: Vec<u64> = (0..sent).filter(|sequence| !received.contains(sequence)).collect();
    assert!(received.last().is_none_or(|&last| last < sent));
    if promised.redelivers {
        assert!(missing.is_empty(), "{sent} acknowledged, of which nobody reported {missing:?}");
    } else {
        let at_most = KILLS as usize * BATCH;
        assert!(missing.len() <= at_most, "{KILLS} kills lost {}: {missing:?}", missing.len());
        assert!(outputs.concat().is_sorted_by(|one, next| one < next), "delivered twice or out of order");
    }
    if promised.redelivers && promised.exclusive {
        for (output, next) in outputs.iter().zip(&outputs[1..]) {
            assert!(output.is_sorted_by(|one, next| one + 1 == *next), "out of order: {output:?}");
            let (last, first) = (output.last().copied(), next.first().copied());
            assert!(first <= last.map(|last| last + 1) || last.is_none(), "{first:?} after {last:?}");
        }
    }
}

fn what_a_killed_receiver_held_is_delivered_to_the_next<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    for sequence in 0..DEPTH as u64 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
    for _ in 0..3 {
        stage.start_holder(&channel.name).kill();
    }
    let mut rx = unless_busy(AT_ONCE, || channel.channel().receiver()).expect("the role is free");
    stage.drain(&mut rx, 0..DEPTH as u64);
}

fn a_paused_receiver_makes_the_sender_time_out_and_then_goes_on<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut tx = channel.sender();
    let mut receiver = stage.start_receiver(&channel.name);
    stage.send(&mut tx, &Stamp::new(0, 0).message(LEN));
    receiver.expect_line("0 0");
    receiver.pause();
    let mut sent = 1;
    let refused = loop {
        match tx.send_timeout(&Stamp::new(0, sent).message(LEN), 2 * BRIEF) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SendError::TimedOut), "a paused receiver was taken for {refused:?}");
    let again = tx.send_timeout(&Stamp::new(0, sent).message(LEN), 2 * BRIEF);
    assert!(matches!(again, Err(SendError::TimedOut)), "a paused receiver was taken for {again:?}");
    assert_still_busy(stage, &channel, Role::Receiver);
    receiver.resume();
    for sequence in sent..sent + 20 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
    stage.send(&mut tx, &Stamp::new(LAST, sent + 20).message(MIN_LEN));
    let report = [vec!["0 0".into()], receiver.finish()].concat();
    assert_complete(&report, 0, sent + 20);
}

fn a_paused_sender_makes_the_receiver_time_out_and_then_goes_on<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let sender = stage.start("send until killed", &[&channel.name, &0]);
    assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, 0));
    sender.pause();
    let mut received = 1;
    let empty = loop {
        match rx.recv_timeout(2 * BRIEF) {
            Ok(message) => assert_eq!(Stamp::of(&message), Stamp::new(0, received)),
            Err(error) => break error,
        }
        received += 1;
    };
    assert!(matches!(empty, RecvError::TimedOut), "a paused sender was taken for {empty:?}");
    let again = rx.advance(crate::Wait::timeout(2 * BRIEF));
    assert!(matches!(again, Err(RecvError::TimedOut)), "a paused sender was taken for {again:?}");
    assert_still_busy(stage, &channel, Role::Sender);
    sender.resume();
    for sequence in received..received + 20 {
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
    }
    sender.kill();
}

fn a_role_is_free_at_once_after_a_kill<F: Fixture>(stage: &Stage<F>) {
    for (number, role) in [(0, Role::Sender), (1, Role::Receiver)] {
        let channel = stage.channel();
        for _ in 0..5 {
            let mut owner = stage.start("take a role", &[&channel.name, &number]);
            owner.expect_line("ready");
            assert_still_busy(stage, &channel, role);
            owner.kill();
            let taken = match role {
                Role::Sender => unless_busy(AT_ONCE, || channel.channel().sender()).map(drop),
                _ => unless_busy(AT_ONCE, || channel.channel().receiver()).map(drop),
            };
            assert!(taken.is_ok(), "the dead process's role: {taken:?}");
        }
    }
}

/// Where a role is one process's at a time, nobody else gets it.
#[track_caller]
fn assert_still_busy<F: Fixture>(stage: &Stage<F>, channel: &Made<F>, taken: Role) {
    let promised = stage.promised();
    let taken_alone = promised.exclusive || promised.one_receiver && taken == Role::Receiver;
    if !taken_alone {
        return;
    }
    let answer = match taken {
        Role::Sender => channel.channel().sender().map(drop),
        _ => channel.channel().receiver().map(drop),
    };
    match answer {
        Err(ChannelError::Busy { role, .. }) => assert_eq!(role, taken),
        other => panic!("the {taken}'s role is taken: {other:?}"),
    }
}

impl<F: Fixture> Stage<F> {
    /// A child that plays `receive`; it has its receiver.
    #[track_caller]
    pub(super) fn start_receiver(&self, channel: &ChannelName) -> Child {
        let mut receiver = self.start("receive", &[channel]);
        receiver.expect_line("ready");
        receiver
    }

    /// A child that holds a batch of the messages that are there.
    #[track_caller]
    pub(super) fn start_holder(&self, channel: &ChannelName) -> Child {
        let mut holder = self.start("hold messages", &[channel]);
        holder.expect_line("ready");
        holder.expect_line(&BATCH.to_string());
        holder
    }
}

/// Kills one child after the other that plays `part`, which reports the numbers of what was
/// acknowledged, and receives all of that; of the next ones, which it was just sending and of
/// which there are at most this many, it may receive any.
#[track_caller]
pub(super) fn assert_killed_senders_lose_nothing<F: Fixture>(
    stage: &Stage<F>,
    part: &'static str,
    in_flight: u64,
) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let (mut received, acknowledged) = thread::scope(|threads| {
        let receiver = threads.spawn(|| receive_until_last(stage, &mut rx));
        let kill = |round| {
            let mut sender = stage.start(part, &[&channel.name, &round]);
            let first = sender.line();
            thread::sleep(at_some_point());
            let last = sender.kill().pop().unwrap_or(first);
            1 + last.parse::<u64>().expect("a number")
        };
        let acknowledged: Vec<u64> = (0..KILLS).map(kill).collect();
        let mut successor = unless_busy(AT_ONCE, || channel.channel().sender()).expect("the role is free");
        stage.send(&mut successor, &Stamp::new(LAST, 0).message(LEN));
        (receiver.join().expect("all went well"), acknowledged)
    });
    if !stage.promised().keeps_one_order() {
        // Stable, so that the order of each sender shows.
        received.sort_by_key(|stamp| stamp.round);
    }
    let mut received = received.into_iter().peekable();
    for (round, acknowledged) in (0..).zip(acknowledged) {
        let mut count = 0;
        while received.next_if_eq(&Stamp::new(round, count)).is_some() {
            count += 1;
        }
        assert!(
            count >= acknowledged,
            "round {round}: {acknowledged} acknowledged, {count} received in order, then {:?}",
            received.peek()
        );
        // What it was just sending may have arrived: each message whole, or not at all.
        while let Some(stamp) = received.next_if(|stamp| stamp.round == round) {
            assert!(stamp.sequence >= count, "{stamp:?} came after the one before {count}");
            count = stamp.sequence + 1;
        }
        assert!(
            count <= acknowledged + in_flight,
            "round {round}: {acknowledged} acknowledged, {in_flight} under way, yet number {} came",
            count - 1
        );
    }
    assert_eq!(received.next(), None);
}

/// All stamps up to the last one's, and what comes behind it: what others sent before, where
/// there is no one order.
pub(super) fn receive_until_last<F: Fixture>(stage: &Stage<F>, rx: &mut ReceiverOf<F>) -> Vec<Stamp> {
    let stamps = std::iter::repeat_with(|| stage.recv_stamp(rx));
    let mut stamps: Vec<Stamp> = stamps.take_while(|stamp| stamp.round != LAST).collect();
    loop {
        match rx.try_recv() {
            Ok(message) => stamps.push(Stamp::of(&message)),
            Err(RecvError::WouldBlock) => return stamps,
            Err(error) => panic!("behind the last one: {error}"),
        }
    }
}

/// A receiver's report tells of exactly `count` messages of this round, in order, and of the
/// last one.
#[track_caller]
pub(super) fn assert_complete(report: &[String], round: u32, count: u64) {
    let received = sequences(report, round);
    let wrong = (0..).zip(&received).find(|(expected, sequence)| expected != *sequence);
    assert!(wrong.is_none(), "place and number of the first that is out of order: {wrong:?}");
    assert_eq!(received.len() as u64, count);
    assert_eq!(report.last(), Some(&format!("{LAST} {count}")));
}

/// The sequence numbers of a receiver's report; all but the last one's are of this round.
#[track_caller]
fn sequences(report: &[String], round: u32) -> Vec<u64> {
    let stamps = report.iter().map(|line| {
        let (round, sequence) = line.split_once(' ').expect("round and sequence number");
        Stamp::new(round.parse().expect("a number"), sequence.parse().expect("a number"))
    });
    let stamps = stamps.filter(|stamp| stamp.round != LAST);
    stamps.inspect(|stamp| assert_eq!(stamp.round, round)).map(|stamp| stamp.sequence).collect()
}

/// A moment of up to 20 ms, another one each time.
pub(super) fn at_some_point() -> Duration {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Duration::from_micros(mix(now.as_nanos() as u64) % 20_000)
}

pub(super) struct SetOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
