//! What is sent is what is received: loans, priorities, batches, foreign programs.

mod common;

use common::{DEPTH, MAX_LEN, TestQueue, alone};
use ipc_mq::{
    Batch, BatchReceiver, Cancel, Channel, Loan, Message, Mq, MqBatch, MqReceiver, MqSender,
    PriorityReceiver, PrioritySender, PriorityTooHigh, Receiver, RecvError, Rejected, SendError, Sender,
    Transport, Wait,
};
use nix::{
    mqueue::{MQ_OFlag, mq_close, mq_open, mq_receive, mq_send},
    sys::{
        stat::Mode,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};
use rstest::rstest;
use std::time::Duration;

#[rstest]
#[case::empty(0)]
#[case::one_byte(1)]
#[case::longest(MAX_LEN)]
fn messages_arrive_as_they_were_sent(#[case] len: usize) {
    let (mut tx, mut rx) = TestQueue::small().pair();
    let message: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
    tx.send(&message).unwrap();
    assert_eq!(&*rx.recv().unwrap(), message);
}

#[test]
fn a_message_too_long_is_refused_at_once_even_if_the_queue_is_full() {
    let queue = TestQueue::small();
    let (mut tx, _rx) = queue.pair();
    fill(&mut tx);
    let max = MAX_LEN;
    let is_refused = |answer: Result<(), SendError>| {
        assert!(matches!(answer, Err(SendError::TooLong { len, max: m }) if len == max + 1 && m == max));
    };
    is_refused(tx.send(&[0; MAX_LEN + 1]));
    is_refused(tx.reserve(MAX_LEN + 1, Wait::Forever));
    // By one that doesn't know yet how long they may be, too.
    let cancel = Cancel::new();
    cancel.cancel();
    let wait = [Wait::Never, Wait::Forever, Wait::timeout(Duration::ZERO), Wait::Forever.or_cancel(&cancel)];
    for wait in wait {
        let opened = || Mq::new().open(&queue.name.0).unwrap().sender().unwrap();
        is_refused(opened().send_wait(&[0; MAX_LEN + 1], wait));
        is_refused(opened().reserve(MAX_LEN + 1, wait));
        assert_eq!(opened().max_message_len(), MAX_LEN);
    }
}

#[test]
fn higher_priorities_overtake_and_equals_stay_in_order() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    for (priority, message) in [(0, b"c"), (7, b"b"), (MqSender::MAX_PRIORITY, b"a"), (0, b"d")] {
        tx.set_priority(priority).unwrap();
        assert_eq!(tx.priority(), priority);
        tx.send(message).unwrap();
    }
    for (priority, message) in [(MqSender::MAX_PRIORITY, b"a"), (7, b"b"), (0, b"c"), (0, b"d")] {
        let received = rx.recv().unwrap();
        assert_eq!((MqReceiver::priority_of(&received), &*received), (priority, &message[..]));
        assert_eq!(received.priority(), priority);
    }
}

#[test]
fn a_priority_too_high_is_refused_and_changes_nothing() {
    let mut tx = TestQueue::small().channel.sender().unwrap();
    tx.set_priority(3).unwrap();
    let (asked, max) = (MqSender::MAX_PRIORITY + 1, MqSender::MAX_PRIORITY);
    assert_eq!(tx.set_priority(asked), Err(PriorityTooHigh { asked, max }));
    assert_eq!(tx.priority(), 3);
}

#[test]
fn loans_are_sent_with_the_priority_too() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    tx.set_priority(5).unwrap();
    tx.loan(1, Wait::Never).unwrap().commit(Wait::Never).unwrap();
    assert_eq!(rx.recv().unwrap().priority(), 5);
}

#[test]
fn a_loan_is_written_in_place_and_shortened() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    let mut loan = tx.loan(10, Wait::Never).unwrap();
    loan[..5].copy_from_slice(b"short");
    loan.truncate(5);
    loan.truncate(9);
    assert_eq!(&*loan, b"short");
    loan.commit(Wait::Never).unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"short");
}

#[test]
fn a_dropped_loan_sends_nothing() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    {
        let mut loan = tx.loan(10, Wait::Never).unwrap();
        loan.fill(1);
    }
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
}

#[test]
fn a_second_reservation_replaces_the_first_and_a_commit_uses_it_up() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    tx.reserve(100, Wait::Never).unwrap();
    tx.reserve(3, Wait::Never).unwrap();
    let mut loan = tx.reserved();
    loan.copy_from_slice(b"two");
    loan.commit(Wait::Never).unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"two");
    assert!(tx.reserved().is_empty());
}

#[test]
fn a_full_queue_gives_the_loan_back_intact() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    fill(&mut tx);
    let mut loan = tx.loan(4, Wait::Never).unwrap();
    loan.copy_from_slice(b"kept");
    let Rejected { loan, error } = loan.commit(Wait::Never).unwrap_err();
    assert!(matches!(error, SendError::WouldBlock));
    assert_eq!(&*loan, b"kept");

    drop(rx.recv().unwrap());
    loan.commit(Wait::Never).unwrap();
    let last = (0..DEPTH).map(|_| rx.recv().unwrap().to_vec()).last();
    assert_eq!(last.unwrap(), b"kept");
}

#[test]
fn a_full_queue_refuses_without_losing_messages() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    for number in 0..DEPTH as u8 {
        tx.try_send(&[number]).unwrap();
    }
    assert!(matches!(tx.try_send(b"no"), Err(SendError::WouldBlock)));
    for number in 0..DEPTH as u8 {
        assert_eq!(&*rx.try_recv().unwrap(), [number]);
    }
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
}

#[test]
fn a_kept_message_is_lent_again_and_a_dropped_one_is_not() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    tx.send(b"first").unwrap();
    tx.send(b"second").unwrap();
    rx.recv().unwrap().keep();
    assert_eq!(&*rx.recv().unwrap(), b"first");
    assert_eq!(&*rx.recv().unwrap(), b"second");
}

#[test]
#[should_panic(expected = "held() without a successful advance()")]
fn nothing_held_is_nothing_lent() {
    TestQueue::small().channel.receiver().unwrap().held();
}

#[test]
fn a_batch_takes_what_is_there_up_to_its_maximum() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    send_each(&mut tx, [b"a", b"b", b"c"]);
    assert_eq!(rx.advance_batch(2, Wait::Never).unwrap(), 2);
    assert_eq!(contents(&rx.held_batch()), [b"a", b"b"]);
    assert_eq!(rx.advance_batch(10, Wait::Never).unwrap(), 3);
    rx.held_batch().release_all();
    assert!(rx.held_batch().is_empty());
    assert!(matches!(rx.advance_batch(10, Wait::Never), Err(RecvError::WouldBlock)));
}

#[test]
fn a_batch_of_at_most_none_still_takes_one() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    send_each(&mut tx, [b"a", b"b"]);
    assert_eq!(rx.advance_batch(0, Wait::Never).unwrap(), 1);
}

#[test]
fn a_batch_released_in_part_keeps_the_rest_in_order() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    send_each(&mut tx, [b"a", b"b", b"c"]);
    rx.advance_batch(3, Wait::Never).unwrap();
    assert_eq!(rx.held_batch().len(), 3);
    rx.held_batch().release(1);
    send_each(&mut tx, [b"d"]);
    assert_eq!(rx.advance_batch(4, Wait::Never).unwrap(), 3);
    assert_eq!(contents(&rx.held_batch()), [b"b", b"c", b"d"]);
}

#[test]
fn single_messages_and_batches_are_the_same_messages() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    send_each(&mut tx, [b"a", b"b", b"c"]);
    rx.recv().unwrap().keep();
    assert_eq!(rx.advance_batch(2, Wait::Never).unwrap(), 2);
    assert_eq!(&*rx.recv().unwrap(), b"a");
    assert_eq!(contents(&rx.held_batch()), [b"b"]);
    assert_eq!(&*rx.recv().unwrap(), b"b");
    assert_eq!(&*rx.recv().unwrap(), b"c");
}

#[test]
fn a_batch_may_be_larger_than_the_queue() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    let mut sent = Vec::new();
    for round in 0..100_u8 {
        let message = vec![round; usize::from(round)];
        tx.try_send(&message).unwrap();
        sent.push(message);
        assert_eq!(rx.advance_batch(sent.len(), Wait::Never).unwrap(), sent.len());
    }
    assert!(rx.held_batch().iter().eq(sent.iter().map(Vec::as_slice)));
}

#[test]
fn a_batch_knows_nothing_of_messages_that_nobody_holds() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    send_each(&mut tx, [b"a"]);
    assert_eq!(rx.held_batch().len(), 0);
    drop(rx.recv().unwrap());
    assert_eq!(rx.held_batch().len(), 0);
}

#[test]
fn what_was_sent_outlives_its_sender() {
    let queue = TestQueue::small();
    queue.channel.sender().unwrap().send(b"legacy").unwrap();
    assert_eq!(&*queue.channel.receiver().unwrap().recv().unwrap(), b"legacy");
}

#[test]
fn a_program_that_knows_only_the_c_library_receives_the_plain_bytes() {
    let queue = TestQueue::small();
    let mut tx = queue.channel.sender().unwrap();
    tx.set_priority(9).unwrap();
    tx.send(b"plain\0bytes").unwrap();

    let peer = mq_open(&*queue.name.path(), MQ_OFlag::O_RDONLY, Mode::empty(), None).unwrap();
    let (mut buffer, mut priority) = ([0; MAX_LEN], 0);
    let len = mq_receive(&peer, &mut buffer, &mut priority).unwrap();
    mq_close(peer).unwrap();
    assert_eq!((&buffer[..len], priority), (&b"plain\0bytes"[..], 9));
}

#[test]
fn what_a_program_that_knows_only_the_c_library_sends_is_received() {
    let queue = TestQueue::small();
    let peer = mq_open(&*queue.name.path(), MQ_OFlag::O_WRONLY, Mode::empty(), None).unwrap();
    mq_send(&peer, b"from C", 4).unwrap();
    mq_close(peer).unwrap();

    let mut rx = queue.channel.receiver().unwrap();
    let message = rx.recv().unwrap();
    assert_eq!((&*message, message.priority()), (&b"from C"[..], 4));
}

/// A child uses what it inherited: the descriptors are its own as well.
#[test]
fn after_a_fork_parent_and_child_both_use_the_endpoints() {
    alone("after_a_fork_parent_and_child_both_use_the_endpoints", || {
        let (mut tx, mut rx) = TestQueue::small().pair();
        // SAFETY: until it exits, the child makes system calls only: no allocation, no lock.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let failed = tx.try_send(b"from the child").is_err();
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { nix::libc::_exit(failed.into()) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(&*rx.recv().unwrap(), b"from the child");
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
                tx.send(b"from the parent").unwrap();
                assert_eq!(&*rx.recv().unwrap(), b"from the parent");
            }
        }
    });
}

#[test]
fn held_messages_no_longer_count_as_queued() {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    send_each(&mut tx, [b"a", b"b"]);
    rx.recv().unwrap().keep();
    assert_eq!(Mq::new().stat(&queue.name.0).unwrap().queued_messages, Some(1));
}

fn fill(tx: &mut MqSender) {
    while tx.try_send(b"filler").is_ok() {}
}

fn send_each<const N: usize>(tx: &mut MqSender, messages: [&[u8; 1]; N]) {
    for message in messages {
        tx.try_send(message).unwrap();
    }
}

fn contents<'a>(batch: &'a MqBatch<'_>) -> Vec<&'a [u8]> {
    batch.iter().collect()
}
