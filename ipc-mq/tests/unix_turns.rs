//! Whose messages a receiver of sockets takes, and what each costs: system calls are counted, not
//! time.
#![cfg(target_os = "linux")]

mod common;

use common::{
    alone, calls_of_prepared,
    sockets::{MAX_LEN, Place, name},
    spawn_watched, wait_until_asleep_in,
};
use ipc_mq::{
    Batch, BatchReceiver, Cancel, Channel, Loan, Pollable, Receiver, RecvError, Sender, Transport,
    UnixChannel, UnixConfig, UnixReceiver, UnixSender, Wait,
};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rstest::rstest;
use std::{
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

/// As many as fit a socket, and more than a turn.
const MESSAGES: usize = 100;
/// After so many messages of one sender the others are looked at.
const TURN: usize = 64;

/// How many of these are the calls that a bare socket takes, and how many are others.
fn counted(calls: &[String]) -> (usize, usize) {
    let count = |numbers: &[libc::c_long]| {
        calls.iter().filter(|call| numbers.iter().any(|number| **call == number.to_string())).count()
    };
    let transfers = count(&[libc::SYS_sendto, libc::SYS_recvfrom]);
    (transfers, calls.len() - transfers)
}

fn ends(place: &Place) -> (UnixChannel, UnixSender, UnixReceiver) {
    let channel = place.channel();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"hello").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"hello");
    (channel, tx, rx)
}

/// With others connected, too.
#[rstest]
#[case::polling(Wait::Never)]
#[case::blocking(Wait::Forever)]
#[case::with_a_deadline(Wait::timeout(Duration::from_secs(60)))]
fn a_message_takes_one_call_at_each_end(#[case] wait: Wait<'static>, #[values(0, 3)] others: usize) {
    let test = thread::current().name().unwrap().to_owned();
    alone(&test, || {
        let met = |place: &Place| {
            let (channel, tx, mut rx) = ends(place);
            let mut silent: Vec<UnixSender> = (0..others).map(|_| channel.sender().unwrap()).collect();
            for other in &mut silent {
                other.send(b"hello").unwrap();
                assert_eq!(&*rx.recv().unwrap(), b"hello");
            }
            (tx, rx, silent)
        };
        let send = |tx: &mut UnixSender| {
            for _ in 0..MESSAGES / 2 {
                tx.send_wait(b"8 bytes!", wait).unwrap();
                let mut loan = tx.loan(8, wait).unwrap();
                loan.fill(1);
                loan.commit(wait).map_err(|rejected| rejected.error).unwrap();
            }
        };
        let (first, second) = (Place::new(), Place::new());
        let sent = calls_of_prepared(|| met(&first), |(tx, ..)| send(tx));
        assert_eq!(counted(&sent), (MESSAGES, 0), "{sent:?}");
        let filled = || {
            let (mut tx, rx, silent) = met(&second);
            send(&mut tx);
            (tx, rx, silent)
        };
        let received = calls_of_prepared(filled, |(_, rx, _)| {
            (0..MESSAGES).for_each(|_| drop(rx.receive(wait).unwrap()));
        });
        let (transfers, looks) = counted(&received);
        assert_eq!(transfers, MESSAGES, "{received:?}");
        // In the beginning it isn't known that they come one right behind the other; and the others
        // are looked at once in a turn.
        assert!(looks <= 10, "{received:?}");
    });
}

#[test]
fn who_polls_in_vain_looks_at_one_sender_and_at_all_others_together() {
    alone("who_polls_in_vain_looks_at_one_sender_and_at_all_others_together", || {
        let place = Place::new();
        let looks = calls_of_prepared(
            || ends(&place),
            |(_, _, rx)| (0..MESSAGES).for_each(|_| assert!(rx.try_recv().is_err())),
        );
        assert_eq!(looks.len(), 2 * MESSAGES, "{looks:?}");
    });
}

/// However many messages one has, each other one waits for at most a turn of it.
#[rstest]
fn nobody_waits_for_more_than_a_turn_of_another(
    #[values(Wait::Never, Wait::Forever)] wait: Wait<'static>,
    #[values(1, 3)] others: usize,
    #[values(false, true)] newcomers: bool,
) {
    let place = Place::new();
    let (channel, mut greedy, mut rx) = ends(&place);
    let mut modest: Vec<UnixSender> = (0..others).map(|_| channel.sender().unwrap()).collect();
    if !newcomers {
        for tx in &mut modest {
            tx.send(b"hello").unwrap();
            assert_eq!(&*rx.recv().unwrap(), b"hello");
        }
    }
    let (mut waited, mut rounds) = (0, 0);
    // At every moment of a turn.
    while rounds < 3 * TURN {
        while greedy.try_send(b"greedy").is_ok() {}
        if waited == 0 {
            rounds += 1;
            for _ in 0..rounds % TURN {
                assert_eq!(&*rx.receive(wait).unwrap(), b"greedy");
                greedy.try_send(b"greedy").unwrap();
            }
            modest.iter_mut().for_each(|tx| tx.send(b"modest").unwrap());
            waited = others;
        }
        let mut before = 0;
        while &*rx.receive(wait).unwrap() != b"modest" {
            before += 1;
            greedy.try_send(b"greedy").unwrap();
        }
        assert!(before <= TURN, "it waited for {before}");
        waited -= 1;
    }
}

/// The one that is alone is watched apart from the door and from the others.
#[rstest]
#[case::for_ever(false, false)]
#[case::until_a_deadline(true, false)]
#[case::unless_cancelled(false, true)]
fn who_sleeps_is_woken_by_all(#[case] deadline: bool, #[case] cancellable: bool) {
    let place = Place::new();
    let (channel, tx, mut rx) = ends(&place);
    let mut senders = [tx, channel.sender().unwrap(), channel.sender().unwrap()];
    // Each sleeps behind the one before: the first is there, the others come.
    for index in [0, 1, 0, 2, 1, 0, 0] {
        let (id, receiver) = spawn_watched(move || {
            let cancel = Cancel::new();
            let wait = if deadline { Wait::timeout(Duration::from_secs(600)) } else { Wait::Forever };
            let wait = if cancellable { wait.or_cancel(&cancel) } else { wait };
            assert_eq!(&*rx.receive(wait).unwrap(), b"wake up");
            rx
        });
        wait_until_asleep_in(id, &[libc::SYS_ppoll, libc::SYS_epoll_wait, libc::SYS_epoll_pwait]);
        senders[index].send(b"wake up").unwrap();
        let sent = Instant::now();
        while !receiver.is_finished() {
            assert!(sent.elapsed() < Duration::from_secs(60), "nobody woke it for sender {index}");
            thread::sleep(Duration::from_millis(1));
        }
        rx = receiver.join().unwrap();
    }
}

/// It was alone, and is on its own descriptor until somebody asks for one that tells of all: once,
/// as who adds it to an `epoll` does.
#[test]
fn whoever_watches_the_receiver_hears_of_all() {
    let place = Place::new();
    let (channel, tx, mut rx) = ends(&place);
    let mut senders = vec![tx, channel.sender().unwrap()];
    let watched = rx.descriptor().unwrap().try_clone_to_owned().unwrap();
    for round in 0..3 * TURN {
        assert!(!is_readable(&watched));
        senders[round % 2].send(b"news").unwrap();
        assert!(is_readable(&watched));
        while rx.try_recv().is_ok() {}
    }
    // Alone again, and for long.
    let mut first = senders.swap_remove(0);
    drop(senders);
    while rx.try_recv().is_ok() {}
    for _ in 0..3 * TURN {
        assert!(!is_readable(&watched));
        first.send(b"news").unwrap();
        assert!(is_readable(&watched));
        while rx.try_recv().is_ok() {}
    }
}

fn is_readable(watched: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::ZERO).unwrap() == 1
}

/// The next one comes while it is alone, or was there before and had nothing to say for long.
#[rstest]
fn a_sender_that_was_alone_and_goes_makes_room_for_the_next(#[values(false, true)] was_there: bool) {
    let place = Place::new();
    let channel = place.transport().create(&name(), &UnixConfig::new()).unwrap();
    let mut rx = channel.receiver().unwrap();
    for round in 0..5_u8 {
        let (mut first, mut second) = (channel.sender().unwrap(), channel.sender().unwrap());
        for tx in [&mut first, &mut second].into_iter().take(if was_there { 2 } else { 1 }) {
            tx.send(b"hello").unwrap();
            assert_eq!(&*rx.recv().unwrap(), b"hello");
        }
        for _ in 0..2 * TURN {
            first.send(&[round]).unwrap();
            assert_eq!(&*rx.recv().unwrap(), [round]);
        }
        second.send(&[100 + round]).unwrap();
        drop(first);
        assert_eq!(&*rx.recv().unwrap(), [100 + round]);
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
        assert_eq!(rx.peers().count(), 1);
        drop(second);
        assert!(rx.try_recv().is_err());
        assert_eq!(rx.peers().count(), 0);
    }
}

#[test]
fn a_batch_takes_of_all() {
    let place = Place::new();
    let (channel, mut first, mut rx) = ends(&place);
    let mut second = channel.sender().unwrap();
    (0..10).for_each(|_| first.send(b"first").unwrap());
    (0..10).for_each(|_| second.send(b"second").unwrap());
    assert_eq!(rx.advance_batch(100, Wait::Never).unwrap(), 20);
    let batch = rx.held_batch();
    assert_eq!(batch.iter().filter(|message| *message == b"second").count(), 10);
    batch.release_all();
}

/// Who only sends may be faster than who receives.
#[test]
fn a_batch_has_an_end_though_more_is_there() {
    const MOST: usize = 1024;
    let place = Place::new();
    let (channel, _, mut rx) = ends(&place);
    let (mut senders, mut sent) = (Vec::new(), 0);
    while sent < MOST + 100 {
        let mut tx = channel.sender().unwrap();
        while tx.try_send(b"x").is_ok() {
            sent += 1;
        }
        senders.push(tx);
    }
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), MOST);
    rx.held_batch().release_all();
    let mut received = MOST;
    while let Ok(count) = rx.advance_batch(usize::MAX, Wait::Never) {
        received += count;
        rx.held_batch().release_all();
    }
    assert_eq!(received, sent);
}

#[test]
fn a_batch_of_long_messages_has_few_of_them() {
    let place = Place::new();
    let (_channel, mut tx, mut rx) = ends(&place);
    (0..6).for_each(|_| tx.try_send(&vec![7; MAX_LEN]).unwrap());
    // 4 MiB.
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), 4);
    rx.held_batch().release_all();
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), 2);
}
