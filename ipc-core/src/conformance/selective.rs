//! Message types: a selection takes what it names, in its order, and leaves the rest.

use super::{
    Case, Fixture, ReceiverOf, SenderOf, cases,
    stage::{BRIEF, Stage, assert_empty},
};
use crate::{Receiver, RecvError, Selection, SelectiveReceiver, TypeOutOfRange, TypeSender, Wait};
use std::thread;

pub(super) fn cases<F: Fixture>() -> Vec<Case<F>>
where
    SenderOf<F>: TypeSender,
    ReceiverOf<F>: SelectiveReceiver,
{
    cases![
        a_selection_takes_its_type_and_leaves_the_rest_in_order,
        everything_comes_by_age_whatever_its_type,
        all_but_one_type_can_be_received,
        the_lowest_type_comes_first_if_asked_for,
        a_type_that_is_none_is_refused_and_changes_nothing,
        a_receiver_waits_for_its_type_while_others_come,
    ]
}

fn a_selection_takes_its_type_and_leaves_the_rest_in_order<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: TypeSender,
    ReceiverOf<F>: SelectiveReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_typed(stage, &mut tx, &[(1, "a"), (2, "b"), (1, "c"), (2, "d")]);
    rx.select(Selection::Only(2)).expect("a type there is");
    expect_typed(stage, &mut rx, &[(2, "b"), (2, "d")]);
    assert_empty(&mut rx);
    rx.select(Selection::All).expect("everything");
    expect_typed(stage, &mut rx, &[(1, "a"), (1, "c")]);
    assert_empty(&mut rx);
}

fn everything_comes_by_age_whatever_its_type<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: TypeSender,
    ReceiverOf<F>: SelectiveReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    assert_eq!(tx.message_type(), 1, "the type to begin with");
    let highest = SenderOf::<F>::MAX_MESSAGE_TYPE;
    let sent = [(highest, "a"), (1, "b"), (7, "c"), (1, "d")];
    send_typed(stage, &mut tx, &sent);
    expect_typed(stage, &mut rx, &sent);
}

fn all_but_one_type_can_be_received<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: TypeSender,
    ReceiverOf<F>: SelectiveReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_typed(stage, &mut tx, &[(5, "a"), (6, "b"), (5, "c"), (7, "d")]);
    rx.select(Selection::Except(5)).expect("a type there is");
    expect_typed(stage, &mut rx, &[(6, "b"), (7, "d")]);
    assert_empty(&mut rx);
}

fn the_lowest_type_comes_first_if_asked_for<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: TypeSender,
    ReceiverOf<F>: SelectiveReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    send_typed(stage, &mut tx, &[(4, "a"), (2, "b"), (3, "c"), (2, "d")]);
    rx.select(Selection::LowestUpTo(3)).expect("a type there is");
    expect_typed(stage, &mut rx, &[(2, "b"), (2, "d"), (3, "c")]);
    assert_empty(&mut rx);
}

fn a_type_that_is_none_is_refused_and_changes_nothing<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: TypeSender,
    ReceiverOf<F>: SelectiveReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let max = SenderOf::<F>::MAX_MESSAGE_TYPE;
    send_typed(stage, &mut tx, &[(2, "b")]);
    rx.select(Selection::Only(2)).expect("a type there is");
    for asked in [0, max.saturating_add(1)].into_iter().filter(|asked| !(1..=max).contains(asked)) {
        let wrong = TypeOutOfRange { asked, max };
        assert_eq!(tx.set_message_type(asked), Err(wrong));
        for selection in [Selection::Only(asked), Selection::Except(asked), Selection::LowestUpTo(asked)] {
            assert_eq!(rx.select(selection), Err(wrong));
        }
    }
    assert_eq!(tx.message_type(), 2);
    send_typed(stage, &mut tx, &[(1, "a")]);
    expect_typed(stage, &mut rx, &[(2, "b")]);
    assert_empty(&mut rx);
}

fn a_receiver_waits_for_its_type_while_others_come<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: TypeSender,
    ReceiverOf<F>: SelectiveReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    rx.select(Selection::Only(2)).expect("a type there is");
    send_typed(stage, &mut tx, &[(1, "other")]);
    let nothing = rx.advance(Wait::timeout(BRIEF));
    assert!(matches!(nothing, Err(RecvError::TimedOut)), "{nothing:?}");
    thread::scope(|threads| {
        let waiter = threads.spawn(|| expect_typed(stage, &mut rx, &[(2, "mine")]));
        thread::sleep(BRIEF);
        send_typed(stage, &mut tx, &[(1, "other"), (2, "mine")]);
        waiter.join().expect("received");
    });
}

#[track_caller]
fn send_typed<F: Fixture>(stage: &Stage<F>, tx: &mut SenderOf<F>, messages: &[(u64, &str)])
where
    SenderOf<F>: TypeSender,
{
    for (message_type, text) in messages {
        tx.set_message_type(*message_type).expect("a type there is");
        assert_eq!(tx.message_type(), *message_type);
        stage.send(tx, text.as_bytes());
    }
}

#[track_caller]
fn expect_typed<F: Fixture>(stage: &Stage<F>, rx: &mut ReceiverOf<F>, messages: &[(u64, &str)])
where
    ReceiverOf<F>: SelectiveReceiver,
{
    for (message_type, text) in messages {
        let message = rx.receive(stage.patiently()).expect("receive");
        assert_eq!(&*message, text.as_bytes());
        assert_eq!(ReceiverOf::<F>::type_of(&message), *message_type);
    }
}
