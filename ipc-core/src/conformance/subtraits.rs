//! Capabilities that are traits: a backend that has them asks for their cases by name.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, SenderOf, cases,
    payload::Stamp,
    stage::{BRIEF, LEN, Stage, assert_empty},
};
use crate::{
    Batch, BatchReceiver, EndMark, PriorityReceiver, PrioritySender, PriorityTooHigh, Receiver, RecvError,
    SendError, Wait,
};

pub(super) fn end_mark_cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>>
where
    SenderOf<F>: EndMark,
{
    let mut all = cases![an_end_mark_wakes_a_waiting_receiver];
    if !promised.conflates {
        all.extend(cases![
            an_end_mark_arrives_in_order_and_once,
            an_end_mark_is_not_an_empty_message,
            a_batch_ends_before_an_end_mark,
        ]);
    }
    if promised.fills() {
        all.extend(cases![end_marks_fill_a_channel_without_losing_messages]);
    }
    if promised.stores && promised.shares() {
        all.extend(cases![an_end_mark_outlives_its_sender]);
    }
    all
}

pub(super) fn priority_cases<F: Fixture>() -> Vec<Case<F>>
where
    SenderOf<F>: PrioritySender,
    ReceiverOf<F>: PriorityReceiver,
{
    cases![
        higher_priorities_overtake_and_equals_stay_in_order,
        the_highest_priority_is_the_highest,
        a_new_sender_has_the_lowest_priority,
    ]
}

fn an_end_mark_arrives_in_order_and_once<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: EndMark,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for round in 0..20 {
        stage.send(&mut tx, &Stamp::new(round, 0).message_up_to(LEN));
        tx.send_end(stage.patiently()).expect("an end mark");
        stage.send(&mut tx, &Stamp::new(round, 1).message_up_to(LEN));
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(round, 0));
        assert_end(rx.advance(stage.patiently()));
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(round, 1));
        assert_empty(&mut rx);
    }
}

fn an_end_mark_is_not_an_empty_message<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: EndMark,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"");
    tx.send_end(stage.patiently()).expect("an end mark");
    tx.send_end(stage.patiently()).expect("another");
    stage.send(&mut tx, b"");
    stage.expect(&mut rx, b"");
    assert_end(rx.advance(Wait::Never));
    assert_end(rx.advance(Wait::Never));
    stage.expect(&mut rx, b"");
    assert_empty(&mut rx);
}

fn an_end_mark_wakes_a_waiting_receiver<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: EndMark,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    std::thread::scope(|threads| {
        let waiter = threads.spawn(|| rx.advance(stage.patiently()));
        std::thread::sleep(BRIEF);
        tx.send_end(stage.patiently()).expect("an end mark");
        assert_end(waiter.join().expect("no panic"));
    });
}

fn a_batch_ends_before_an_end_mark<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: EndMark,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"before");
    tx.send_end(stage.patiently()).expect("an end mark");
    stage.send(&mut tx, b"behind");
    for _ in 0..2 {
        assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 1);
    }
    assert_eq!(rx.held_batch().iter().next(), Some(&b"before"[..]));
    rx.held_batch().release_all();
    assert_end(rx.advance_batch(3, stage.patiently()).map(drop));
    assert!(rx.held_batch().is_empty());
    assert_eq!(rx.advance_batch(3, stage.patiently()).expect("a batch"), 1);
    rx.held_batch().release_all();
    assert_empty(&mut rx);
}

fn end_marks_fill_a_channel_without_losing_messages<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: EndMark,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    let mut ends = 0;
    // A mark may fit where a message doesn't.
    let refused = loop {
        match tx.send_end(Wait::Never) {
            Ok(()) => ends += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SendError::WouldBlock), "{refused:?}");
    let refused = tx.send_end(Wait::timeout(BRIEF));
    assert!(matches!(refused, Err(SendError::TimedOut)), "{refused:?}");
    for sequence in 0..count {
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
    }
    for _ in 0..ends {
        assert_end(rx.advance(Wait::Never));
    }
    tx.send_end(stage.patiently()).expect("there is room again");
    assert_end(rx.advance(Wait::Never));
    assert_empty(&mut rx);
}

fn an_end_mark_outlives_its_sender<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: EndMark,
{
    let mut channel = stage.channel();
    let mut tx = channel.sender();
    stage.send(&mut tx, b"last words");
    tx.send_end(stage.patiently()).expect("an end mark");
    drop(tx);
    channel.close();
    let mut rx = channel.receiver();
    stage.expect(&mut rx, b"last words");
    assert_end(rx.advance(Wait::Never));
    assert_empty(&mut rx);
}

fn higher_priorities_overtake_and_equals_stay_in_order<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: PrioritySender,
    ReceiverOf<F>: PriorityReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let high = SenderOf::<F>::MAX_PRIORITY;
    for (priority, message) in [(0, "low 1"), (high, "high 1"), (0, "low 2"), (high, "high 2")] {
        tx.set_priority(priority).expect("a priority there is");
        assert_eq!(tx.priority(), priority);
        stage.send(&mut tx, message.as_bytes());
    }
    for (priority, text) in [(high, "high 1"), (high, "high 2"), (0, "low 1"), (0, "low 2")] {
        let message = rx.receive(stage.patiently()).expect("receive");
        assert_eq!(&*message, text.as_bytes());
        assert_eq!(ReceiverOf::<F>::priority_of(&message), priority);
    }
    assert_empty(&mut rx);
}

fn the_highest_priority_is_the_highest<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: PrioritySender,
{
    let channel = stage.channel();
    let mut tx = channel.sender();
    let max = SenderOf::<F>::MAX_PRIORITY;
    assert!(max > 0, "priorities that make no difference");
    tx.set_priority(1).expect("a priority there is");
    for asked in [max.saturating_add(1), u32::MAX] {
        if asked > max {
            assert_eq!(tx.set_priority(asked), Err(PriorityTooHigh { asked, max }));
            assert_eq!(tx.priority(), 1, "a refusal changes nothing");
        }
    }
    tx.set_priority(max).expect("a priority there is");
    assert_eq!(tx.priority(), max);
}

fn a_new_sender_has_the_lowest_priority<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: PrioritySender,
    ReceiverOf<F>: PriorityReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    assert_eq!(tx.priority(), 0);
    stage.send(&mut tx, b"unhurried");
    let message = rx.receive(stage.patiently()).expect("receive");
    assert_eq!(ReceiverOf::<F>::priority_of(&message), 0);
}

#[track_caller]
pub(super) fn assert_end(answer: Result<(), RecvError>) {
    assert!(matches!(answer, Err(RecvError::End)), "an end mark was due: {answer:?}");
}
