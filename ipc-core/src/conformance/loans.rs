//! Loans and lent messages: what is committed is sent, what is dropped isn't; what is
//! dropped is released, what is kept isn't.

use super::{
    Capabilities, Case, Fixture, cases, harness,
    payload::Stamp,
    stage::{DEPTH, LEN, Stage, assert_empty},
};
use crate::{Loan, Message, Receiver, Rejected, SendError, Sender, Wait};
use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>> {
    let mut all = cases![
        what_is_written_into_a_loan_arrives,
        a_loan_truncated_to_more_than_it_has_stays_as_it_is,
        a_second_reservation_replaces_the_first,
        without_a_reservation_the_loan_is_empty,
        after_a_refused_reservation_nothing_is_reserved,
        a_dropped_loan_leaves_its_reservation,
        advance_with_a_message_in_hand_returns_at_once,
        held_without_a_message_panics,
        a_message_in_hand_at_a_panic_is_lent_again,
        what_is_received_while_a_panic_unwinds_is_released,
    ];
    if !promised.conflates {
        all.extend(cases![
            an_aborted_loan_sends_nothing,
            aborted_and_replaced_loans_use_up_no_room,
            a_truncated_loan_sends_its_beginning,
            a_committed_reservation_is_used_up,
            a_sender_dropped_with_a_reservation_sends_nothing,
            a_kept_message_is_lent_again,
            dropping_a_message_releases_it,
            a_forgotten_message_stays_held,
        ]);
    }
    if promised.fills() {
        all.extend(cases![a_rejected_loan_can_be_committed_later]);
    }
    all
}

fn what_is_written_into_a_loan_arrives<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for sequence in 0..100 {
        let message = Stamp::new(0, sequence).message_up_to(LEN);
        let mut loan = tx.loan(message.len(), stage.patiently()).expect("a loan");
        assert_eq!(loan.len(), message.len());
        loan.copy_from_slice(&message);
        assert_eq!(&*loan, &*message, "a loan reads as it was written");
        loan.commit(stage.patiently()).map_err(|rejected| rejected.error).expect("committed");
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
    }
    assert_empty(&mut rx);
}

fn an_aborted_loan_sends_nothing<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"before");
    tx.loan(LEN, stage.patiently()).expect("a loan").fill(b'x');
    stage.send(&mut tx, b"after");
    stage.expect(&mut rx, b"before");
    stage.expect(&mut rx, b"after");
    assert_empty(&mut rx);
    drop(tx.loan(LEN, stage.patiently()).expect("a loan"));
    assert_empty(&mut rx);
}

fn aborted_and_replaced_loans_use_up_no_room<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for _ in 0..1000 {
        drop(tx.loan(LEN, Wait::Never).expect("the channel is empty"));
        tx.reserve(LEN / 2, Wait::Never).expect("the channel is empty");
    }
    assert_empty(&mut rx);
    let count = stage.fill(&mut tx);
    assert!(count >= DEPTH as u64, "only {count} messages fit");
    stage.drain(&mut rx, 0..count);
}

fn a_truncated_loan_sends_its_beginning<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for len in [LEN - 1, LEN / 2, 9, 8, 1, 0] {
        let whole = Stamp::new(0, len as u64).message(LEN);
        let mut loan = tx.loan(LEN, stage.patiently()).expect("a loan");
        loan.copy_from_slice(&whole);
        loan.truncate(len);
        assert_eq!(&*loan, &whole[..len]);
        loan.commit(stage.patiently()).map_err(|rejected| rejected.error).expect("committed");
        stage.send(&mut tx, b"next");
        stage.expect(&mut rx, &whole[..len]);
        stage.expect(&mut rx, b"next");
    }
    assert_empty(&mut rx);
}

fn a_loan_truncated_to_more_than_it_has_stays_as_it_is<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let mut loan = tx.loan(5, stage.patiently()).expect("a loan");
    loan.copy_from_slice(b"whole");
    loan.truncate(6);
    loan.truncate(usize::MAX);
    loan.commit(stage.patiently()).map_err(|rejected| rejected.error).expect("committed");
    stage.expect(&mut rx, b"whole");
}

fn a_second_reservation_replaces_the_first<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for lens in [[40, 40], [3, 100], [100, 3], [0, 7], [7, 0]] {
        for len in lens {
            tx.reserve(len, stage.patiently()).expect("reserved");
        }
        let mut loan = tx.reserved();
        assert_eq!(loan.len(), lens[1]);
        loan.fill(b'r');
        loan.commit(stage.patiently()).map_err(|rejected| rejected.error).expect("committed");
        stage.expect(&mut rx, &vec![b'r'; lens[1]]);
        assert_empty(&mut rx);
    }
}

fn without_a_reservation_the_loan_is_empty<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    assert!(tx.reserved().is_empty());
    assert_empty(&mut rx);
    tx.reserved().commit(stage.patiently()).map_err(|rejected| rejected.error).expect("committed");
    stage.expect(&mut rx, b"");
    assert_empty(&mut rx);
}

/// What is claimed for it in the channel would keep back whatever anybody sends later.
fn after_a_refused_reservation_nothing_is_reserved<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let others_may_send = !stage.promised().exclusive && !stage.promised().conflates;
    for another_sends in [false, true] {
        let mut tx = channel.sender();
        let mut other = (another_sends && others_may_send).then(|| channel.sender());
        tx.reserve(8, stage.patiently()).expect("reserved");
        let too_long = tx.max_message_len().saturating_add(1);
        let refused = tx.reserve(too_long, stage.patiently());
        assert!(matches!(refused, Err(SendError::TooLong { len, .. }) if len == too_long), "{refused:?}");
        stage.send(other.as_mut().unwrap_or(&mut tx), b"next");
        stage.expect(&mut rx, b"next");
        tx.reserve(8, stage.patiently()).expect("reserved");
        let _ = tx.reserve(too_long, Wait::Never);
        assert!(tx.reserved().is_empty(), "what was reserved before the refusal still is");
    }
    assert_empty(&mut rx);
}

fn a_dropped_loan_leaves_its_reservation<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for len in [8, LEN] {
        tx.reserve(len, stage.patiently()).expect("reserved");
        for _ in 0..2 {
            let mut loan = tx.reserved();
            assert_eq!(loan.len(), len);
            loan.fill(b'x');
        }
        assert_empty(&mut rx);
        let mut loan = tx.reserved();
        loan.fill(b'r');
        loan.commit(stage.patiently()).map_err(|rejected| rejected.error).expect("committed");
        stage.expect(&mut rx, &vec![b'r'; len]);
        assert!(tx.reserved().is_empty(), "it is used up");
        tx.reserve(len, stage.patiently()).expect("reserved");
        drop(tx.reserved());
        stage.send(&mut tx, b"sent instead");
        stage.expect(&mut rx, b"sent instead");
        assert!(tx.reserved().is_empty(), "another message has used it up");
    }
    assert_empty(&mut rx);
}

fn a_committed_reservation_is_used_up<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"sent");
    let loan = tx.reserved();
    assert!(loan.is_empty(), "lent again: {} bytes", loan.len());
    loan.commit(stage.patiently()).map_err(|rejected| rejected.error).expect("committed");
    stage.expect(&mut rx, b"sent");
    stage.expect(&mut rx, b"");
    assert_empty(&mut rx);
}

fn a_sender_dropped_with_a_reservation_sends_nothing<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"first");
    tx.reserve(LEN, stage.patiently()).expect("reserved");
    tx.reserved().fill(b'x');
    drop(tx);
    let mut successor = channel.sender();
    stage.send(&mut successor, b"second");
    stage.expect_from_two(&mut rx, [b"first", b"second"]);
    assert_empty(&mut rx);
}

/// Where it is the reservation that waits, no commit is rejected; then the reservation must
/// be refused.
fn a_rejected_loan_can_be_committed_later<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let count = stage.fill(&mut tx);
    let message = Stamp::new(0, count).message(LEN);
    let mut loan = match tx.loan(LEN, Wait::Never) {
        Ok(loan) => loan,
        Err(SendError::WouldBlock) => return stage.drain(&mut rx, 0..count),
        Err(error) => panic!("{error}"),
    };
    loan.copy_from_slice(&message);
    for _ in 0..2 {
        let Err(Rejected { loan: returned, error }) = loan.commit(Wait::Never) else {
            panic!("a full channel took a message")
        };
        assert!(matches!(error, SendError::WouldBlock), "{error:?}");
        assert_eq!(&*returned, &*message, "the loan comes back as it was");
        loan = returned;
    }
    assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, 0));
    loan.commit(stage.patiently()).map_err(|rejected| rejected.error).expect("there is room");
    stage.drain(&mut rx, 1..count + 1);
}

fn a_kept_message_is_lent_again<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"one");
    stage.send(&mut tx, b"two");
    for _ in 0..3 {
        let message = rx.receive(stage.patiently()).expect("receive");
        assert_eq!(&*message, b"one");
        message.keep();
    }
    let message = rx.held();
    assert_eq!(&*message, b"one");
    message.keep();
    stage.expect(&mut rx, b"one");
    stage.expect(&mut rx, b"two");
    assert_empty(&mut rx);
}

fn dropping_a_message_releases_it<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for sequence in 0..50 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        rx.advance(stage.patiently()).expect("receive");
        let message = rx.held();
        assert_eq!(Stamp::of(&message), Stamp::new(0, sequence));
        drop(message);
    }
    assert_empty(&mut rx);
    let count = stage.fill(&mut tx);
    assert!(count >= DEPTH as u64, "only {count} messages fit");
    stage.drain(&mut rx, 0..count);
}

/// Leaking is safe, so a message that is never dropped must do no harm: it isn't released.
fn a_forgotten_message_stays_held<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"one");
    stage.send(&mut tx, b"two");
    mem::forget(rx.receive(stage.patiently()).expect("receive"));
    stage.expect(&mut rx, b"one");
    stage.expect(&mut rx, b"two");
    assert_empty(&mut rx);
}

fn advance_with_a_message_in_hand_returns_at_once<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"only");
    rx.advance(stage.patiently()).expect("receive");
    for wait in [Wait::Never, Wait::Forever, Wait::timeout(stage.patience())] {
        rx.advance(wait).expect("it is in hand");
    }
    stage.expect(&mut rx, b"only");
    assert_empty(&mut rx);
}

fn held_without_a_message_panics<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let panics = |rx: &mut _| harness::panics(AssertUnwindSafe(|| drop(Receiver::held(rx))));
    assert!(panics(&mut rx), "lent a message before any was there");
    stage.send(&mut tx, b"only");
    assert!(panics(&mut rx), "lent a message that nobody advanced to");
    stage.expect(&mut rx, b"only");
    assert!(panics(&mut rx), "lent a message that was released");
    assert_empty(&mut rx);
    assert!(panics(&mut rx), "lent a message after a failed advance");
}

fn a_message_in_hand_at_a_panic_is_lent_again<F: Fixture>(stage: &Stage<F>) {
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"only");
    for is_held_before in [false, true] {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            if is_held_before {
                rx.advance(stage.patiently()).expect("it is in hand");
            }
            let _message = rx.receive(stage.patiently()).expect("receive");
            resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
    }
    stage.expect(&mut rx, b"only");
    assert_empty(&mut rx);
}

/// What empties a channel when it is dropped would get the same message for ever, else.
fn what_is_received_while_a_panic_unwinds_is_released<F: Fixture>(stage: &Stage<F>) {
    struct AtTheEnd<A: FnMut()>(A);

    impl<A: FnMut()> Drop for AtTheEnd<A> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"only");
    let mut received = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _at_the_end = AtTheEnd(|| received = [(); 2].map(|()| rx.try_recv().is_ok()).to_vec());
        resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    assert_eq!(received, [true, false], "received while a panic unwinds");
    assert_empty(&mut rx);
}
