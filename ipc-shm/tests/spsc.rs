//! One sender and one receiver: batches that appear whole, numbers of messages, and counts
//! that are right whoever was killed or looks while both ends go on.

mod common;

use common::{Arena, Child, fork_child, name, say, serve, within};
use ipc_shm::{
    Batch, BatchReceiver, BatchSender, Channel, EndMark, Loan, Message, Receiver, RecvError, Role, SendError,
    Sender, Sequenced, ShmConfig, Spsc, SpscChannel, SpscReceiver, SpscSender, Transport, Wait, Waiting,
};
use rstest::rstest;
use std::{
    mem,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let channel = Spsc::at(Path::new(&arguments[0])).open(&name("x")).unwrap();
        match role {
            "batches" => send_batches(&channel),
            other => panic!("no such child: {other}"),
        }
    });
}

/// A ring of one page: 511 words for records.
fn channel(arena: &Arena) -> SpscChannel {
    arena.shm().create(&name("x"), &ShmConfig::new().capacity_bytes(4096)).unwrap()
}

fn ends(arena: &Arena) -> (SpscSender, SpscReceiver) {
    let channel = channel(arena);
    (channel.sender().unwrap(), channel.receiver().unwrap())
}

fn queued(arena: &Arena) -> u64 {
    arena.shm().stat(&name("x")).unwrap().queued_messages.unwrap()
}

fn number_of(message: &[u8]) -> u64 {
    u64::from_ne_bytes(message.try_into().unwrap())
}

#[test]
fn a_batch_is_sent_in_order_and_with_all_its_lengths() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    // Three times round the ring.
    for round in 0..9_u8 {
        let batch: Vec<Vec<u8>> = [0, 1, 8, 9, 500, 0, 900].iter().map(|&len| vec![round; len]).collect();
        assert_eq!(tx.send_batch(&batch, Wait::Never).unwrap(), batch.len());
        for expected in &batch {
            assert_eq!(*rx.try_recv().unwrap(), **expected);
        }
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    }
}

#[test]
fn a_batch_takes_what_there_is_room_for_and_says_how_much() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    let messages: Vec<[u8; 8]> = (0..1000_u64).map(u64::to_ne_bytes).collect();
    // Each takes up 16 bytes, and one word stays free.
    assert_eq!(tx.send_batch(&messages, Wait::Never).unwrap(), 255);
    let full = tx.send_batch(&messages[255..], Wait::Never);
    assert!(matches!(full, Err(SendError::WouldBlock)), "{full:?}");
    assert_eq!(queued(&arena), 255);
    for number in 0..3 {
        assert_eq!(number_of(&rx.try_recv().unwrap()), number);
    }
    assert_eq!(tx.send_batch(&messages[255..], Wait::Never).unwrap(), 3);
    for number in 3..258 {
        assert_eq!(number_of(&rx.try_recv().unwrap()), number);
    }
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
}

#[test]
fn a_batch_of_none_sends_nothing_even_into_a_full_ring() {
    let arena = Arena::new();
    let (mut tx, _rx) = ends(&arena);
    tx.try_send(&[1; 4080]).unwrap();
    assert_eq!(tx.send_batch::<&[u8]>(&[], Wait::Never).unwrap(), 0);
    assert_eq!(queued(&arena), 1);
}

#[test]
fn the_first_message_that_is_too_long_is_an_error_and_a_later_one_ends_the_batch() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    let long = vec![1; 4081];
    let messages: [&[u8]; 3] = [b"one", &long, b"three"];
    assert_eq!(tx.send_batch(&messages, Wait::Never).unwrap(), 1);
    let refused = tx.send_batch(&messages[1..], Wait::Never);
    assert!(matches!(refused, Err(SendError::TooLong { len: 4081, max: 4080 })), "{refused:?}");
    assert_eq!(&*rx.try_recv().unwrap(), b"one");
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
}

#[test]
fn a_batch_waits_for_room_for_its_first_message_and_wakes_the_receiver() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    tx.set_waiting(Waiting::Block);
    rx.set_waiting(Waiting::Block);
    let timed_out = {
        tx.try_send(&[1; 4080]).unwrap();
        tx.send_batch(&[b"late"], Wait::timeout(Duration::from_millis(2)))
    };
    assert!(matches!(timed_out, Err(SendError::TimedOut)), "{timed_out:?}");
    let sender = thread::spawn(move || {
        for _ in 0..200 {
            assert!(tx.send_batch(&[[7; 2000], [8; 2000]], Wait::Forever).unwrap() > 0);
        }
        tx.send_end(Wait::Forever).unwrap();
    });
    assert_eq!(rx.recv().unwrap().len(), 4080);
    // Were a wake-up missing, each of them would take a quarter of a second.
    within(common::PATIENCE, move || {
        loop {
            match rx.recv() {
                Ok(message) => assert_eq!(message.len(), 2000),
                Err(RecvError::End) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    sender.join().unwrap();
}

#[test]
fn a_message_that_panics_when_it_is_read_leaves_the_batch_unsent() {
    struct Trap(bool);
    impl AsRef<[u8]> for Trap {
        fn as_ref(&self) -> &[u8] {
            assert!(!self.0, "a trap");
            b"bait"
        }
    }
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    let messages = [Trap(false), Trap(false), Trap(true)];
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = tx.send_batch(&messages, Wait::Never);
    }));
    assert!(caught.is_err());
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    tx.try_send(b"all is well").unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"all is well");
}

#[test]
fn a_reservation_ends_with_whatever_is_sent_after_it() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    for len in [0, 5, 100] {
        tx.reserve(100, Wait::Never).unwrap();
        tx.send(&vec![1; len]).unwrap();
        assert!(tx.reserved().is_empty());
        tx.reserve(100, Wait::Never).unwrap();
        tx.send_batch(&[vec![2; len]], Wait::Never).unwrap();
        assert!(tx.reserved().is_empty());
        tx.reserve(100, Wait::Never).unwrap();
        let mut loan = tx.reserved();
        loan.truncate(len);
        loan.commit(Wait::Never).unwrap();
        assert!(tx.reserved().is_empty());
        tx.reserve(100, Wait::Never).unwrap();
        tx.send_end(Wait::Never).unwrap();
        assert!(tx.reserved().is_empty());
        for _ in 0..3 {
            assert_eq!(rx.try_recv().unwrap().len(), len);
        }
        assert!(matches!(rx.try_recv(), Err(RecvError::End)));
    }
}

#[test]
fn the_receiver_of_a_sender_killed_at_any_time_finds_whole_batches_only() {
    let arena = Arena::new();
    let mut rx = channel(&arena).receiver().unwrap();
    let mut batches = 0;
    for round in 0..20 {
        let mut child = Child::spawn("batches", &[arena.path().to_str().unwrap()]);
        child.says("here");
        for _ in 0..1 + round * 50 {
            assert!(receive_a_batch(&mut rx, Wait::timeout(common::PATIENCE)));
        }
        child.kill();
        while receive_a_batch(&mut rx, Wait::Never) {
            batches += 1;
        }
        assert_eq!(queued(&arena), 0);
    }
    assert!(batches > 0, "it was killed while it sent");
}

/// Endlessly sends three messages that are alike, and then others.
fn send_batches(channel: &SpscChannel) {
    let mut tx = channel.sender().unwrap();
    say("here");
    for number in 0_u64.. {
        // Room for all three.
        tx.reserve(40, Wait::Forever).unwrap();
        assert_eq!(tx.send_batch(&[number.to_ne_bytes(); 3], Wait::Never).unwrap(), 3);
    }
}

/// Receives three messages that are alike; false if there is none.
fn receive_a_batch(rx: &mut SpscReceiver, wait: Wait<'_>) -> bool {
    match rx.advance(wait) {
        Ok(()) => {}
        Err(RecvError::WouldBlock) => return false,
        Err(error) => panic!("{error:?}"),
    }
    assert_eq!(rx.advance_batch(3, Wait::Never).unwrap(), 3, "half a batch");
    let numbers: Vec<u64> = rx.held_batch().iter().map(number_of).collect();
    rx.held_batch().release_all();
    assert!(numbers.iter().all(|&number| number == numbers[0]), "of different batches: {numbers:?}");
    true
}

#[test]
fn messages_are_numbered_and_end_marks_are_not() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    for number in 0..300 {
        tx.try_send(b"x").unwrap();
        tx.send_end(Wait::Never).unwrap();
        assert_eq!(SpscReceiver::sequence_of(&rx.try_recv().unwrap()), number);
        assert!(matches!(rx.try_recv(), Err(RecvError::End)));
    }
}

#[test]
fn what_is_known_of_a_channel_says_how_far_each_end_has_come() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    (0..10).for_each(|_| tx.try_send(b"x").unwrap());
    (0..3).for_each(|_| drop(rx.try_recv().unwrap()));
    let info = arena.shm().stat(&name("x")).unwrap();
    let known: Vec<_> = info.participants.iter().map(|one| (one.role, one.position, one.lag)).collect();
    assert_eq!(known, [(Role::Sender, Some(10), None), (Role::Receiver, Some(3), Some(7))]);
}

#[test]
fn messages_of_a_batch_have_the_numbers_that_they_would_have_had_alone() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    let messages: Vec<[u8; 8]> = (0..10_u64).map(u64::to_ne_bytes).collect();
    tx.send_batch(&messages, Wait::Never).unwrap();
    rx.advance_batch(8, Wait::Never).unwrap();
    rx.held_batch().release(3);
    for number in 3..10 {
        let message = rx.try_recv().unwrap();
        assert_eq!(SpscReceiver::sequence_of(&message), number);
        assert_eq!(number_of(&message), number);
    }
}

#[rstest]
fn numbers_outlive_a_receiver(#[values(true, false)] dies: bool) {
    let arena = Arena::new();
    let mut tx = channel(&arena).sender().unwrap();
    for number in 0..200_u64 {
        tx.try_send(&number.to_ne_bytes()).unwrap();
    }
    for round in 0..50 {
        let take_three_and_hold_one = || {
            let mut rx = arena.shm().open(&name("x")).unwrap().receiver().unwrap();
            for number in 3 * round..3 * round + 4 {
                let message = rx.try_recv().unwrap();
                assert_eq!(SpscReceiver::sequence_of(&message), number);
                assert_eq!(number_of(&message), number);
                if number == 3 * round + 3 {
                    // It comes again, and has the same number.
                    message.keep();
                }
            }
            rx
        };
        match dies {
            true => fork_child(|| mem::forget(take_three_and_hold_one())).ends_well(),
            false => drop(take_three_and_hold_one()),
        }
    }
}

/// A sender that sends and dies without a word.
fn send_and_die(arena: &Arena, messages: u64, batch: usize) {
    fork_child(|| {
        let mut tx = arena.shm().open(&name("x")).unwrap().sender().unwrap();
        let messages: Vec<[u8; 8]> = (0..messages).map(u64::to_ne_bytes).collect();
        for chunk in messages.chunks(batch) {
            assert_eq!(tx.send_batch(chunk, Wait::Never).unwrap(), chunk.len());
        }
        mem::forget(tx);
    })
    .ends_well();
}

#[rstest]
fn what_a_dead_sender_sent_is_counted_exactly(
    #[values(1, 63, 64, 65, 127, 128, 200)] messages: u64,
    #[values(1, 7, 200)] batch: usize,
    #[values(0, 1, 64, 200)] released: u64,
) {
    let arena = Arena::new();
    let channel = channel(&arena);
    let mut rx = channel.receiver().unwrap();
    // Before the first record of the sender's ledger, after it, and with the receiver far
    // ahead of it.
    for round in 0..3 {
        send_and_die(&arena, messages, batch);
        assert_eq!(queued(&arena), messages);
        let released = released.min(messages);
        for number in 0..released {
            assert_eq!(number_of(&rx.try_recv().unwrap()), number);
        }
        assert_eq!(queued(&arena), messages - released);
        let mut tx = channel.sender().unwrap();
        tx.try_send(b"8 bytes.").unwrap();
        assert_eq!(queued(&arena), messages - released + 1);
        drop(tx);
        for _ in released..messages {
            rx.try_recv().unwrap();
        }
        let message = rx.try_recv().unwrap();
        assert_eq!(SpscReceiver::sequence_of(&message), (round + 1) * (messages + 1) - 1);
        drop(message);
        assert_eq!(queued(&arena), 0);
    }
}

#[test]
fn a_successor_goes_on_beside_a_receiver_that_is_at_work() {
    let arena = Arena::new();
    let channel = channel(&arena);
    let mut rx = channel.receiver().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut next = 0;
            while !over.load(Ordering::Relaxed) || queued(&arena) > 0 {
                while let Ok(message) = rx.try_recv() {
                    assert_eq!(SpscReceiver::sequence_of(&message), next);
                    next += 1;
                }
            }
            next
        });
        for round in 0..100 {
            // The sender is alone in its process, as far as channels go.
            fork_child(|| {
                let mut tx = arena.shm().open(&name("x")).unwrap().sender().unwrap();
                for _ in 0..100 + round {
                    tx.send(b"x").unwrap();
                }
                mem::forget(tx);
            })
            .ends_well();
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(receiver.join().unwrap(), (0..100).map(|round| 100 + round).sum::<u64>());
    });
    assert_eq!(queued(&arena), 0);
}

#[test]
fn who_looks_at_a_ring_in_use_is_given_a_figure_that_could_be() {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = tx.send_batch(&[[1; 8]; 5], Wait::timeout(Duration::from_millis(1)));
                let _ = tx.send_timeout(b"", Duration::from_millis(1));
            }
        });
        let receiver = scope.spawn(|| {
            let mut received = 0_u64;
            while !over.load(Ordering::Relaxed) {
                received += u64::from(rx.recv_timeout(Duration::from_millis(1)).is_ok());
            }
            received
        });
        for _ in 0..2000 {
            // So many empty ones fit.
            assert!(queued(&arena) <= 511);
        }
        over.store(true, Ordering::Relaxed);
        assert!(receiver.join().unwrap() > 0);
    });
    // And now that nobody works with it, the one that is.
    for left in (0..queued(&arena)).rev() {
        drop(rx.try_recv().unwrap());
        assert_eq!(queued(&arena), left);
    }
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
}
