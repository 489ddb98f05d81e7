//! Sealed broadcasts and newest values between honest peers: who is admitted is given what is
//! sent from then on, or told exactly what it missed; nobody waits for anybody.

#[path = "common/attack.rs"]
mod attack;
mod common;

use attack::soon;
use common::{Arena, Child, eventually, fork_child, say, serve, told};
use ipc_shm::{
    Batch, BatchReceiver, BatchSender, EndMark, Loan, Message, Receiver, RecvError, SendError, Sender,
    Sequenced, Wait, Waiting,
    sealed::{
        self, Guest, Link, LinkError, Listener, Peers, SealedConfig, SealedPublisher, SealedReader,
        SealedSubscriber, SealedWriter,
    },
};
use rstest::rstest;
use std::{path::Path, thread, time::Duration};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let path = Path::new(&arguments[0]);
        match role {
            "subscribe to all" => subscribe_to_all(path),
            "publish and stay" => publish_and_stay(path),
            "read the newest" => read_the_newest(path),
            other => panic!("no such child: {other}"),
        }
    });
}

fn connect(path: &Path) -> Link {
    sealed::connect(path, &Peers::ourselves(), soon()).expect("somebody listens")
}

fn small() -> SealedConfig {
    SealedConfig::new().capacity_bytes(4096)
}

fn next_guest(listener: &Listener) -> Guest {
    listener.accept(soon()).unwrap().guest(soon()).unwrap()
}

/// A subscriber of this process.
fn subscribed(tx: &mut SealedPublisher) -> SealedSubscriber {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let there = thread::spawn(move || connect(&path).subscriber(&SealedConfig::new(), soon()).unwrap());
    tx.admit(next_guest(&listener)).unwrap();
    there.join().unwrap()
}

/// A reader of this process.
fn reading(tx: &mut SealedWriter) -> SealedReader {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let there = thread::spawn(move || connect(&path).reader(&SealedConfig::new(), soon()).unwrap());
    tx.admit(next_guest(&listener)).unwrap();
    there.join().unwrap()
}

/// A payload that is told from others.
fn payload(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number as usize * 31 + at) as u8).collect()
}

const MESSAGES: u64 = 2000;

fn len_of(number: u64) -> usize {
    (number as usize * 7919) % 700
}

fn subscribe_to_all(path: &Path) {
    let mut rx = connect(path).subscriber(&SealedConfig::new(), soon()).unwrap();
    let (mut next, mut missed) = (0, 0);
    loop {
        match rx.receive(soon()) {
            Ok(message) => {
                assert_eq!(SealedSubscriber::sequence_of(&message), next);
                assert_eq!(*message, *payload(next, len_of(next)), "message {next}");
                next += 1;
            }
            Err(RecvError::Lagged { missed: more }) => {
                missed += more;
                next += more;
            }
            Err(RecvError::End) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(next, MESSAGES, "those that were missed are counted exactly");
    say(&format!("missed {missed}"));
    assert!(matches!(rx.receive(soon()), Err(RecvError::Closed)));
}

#[rstest]
#[case::with_room_for_all(1 << 20, true)]
#[case::with_room_for_few(4096, false)]
fn each_subscriber_is_given_all_or_told_what_it_missed(#[case] capacity: u64, #[case] all: bool) {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let mut tx = SealedPublisher::new(&SealedConfig::new().capacity_bytes(capacity)).unwrap();
    let mut children: Vec<_> =
        (0..3).map(|_| Child::spawn("subscribe to all", &[path.to_str().unwrap()])).collect();
    for _ in &children {
        let guest = next_guest(&listener);
        assert!(children.iter().any(|child| child.pid() == guest.peer().pid));
        tx.admit(guest).unwrap();
    }
    assert_eq!(tx.subscribers(), 3);
    for number in 0..MESSAGES {
        match number % 2 {
            0 => tx.send(&payload(number, len_of(number))).unwrap(),
            _ => {
                let mut loan = tx.loan(len_of(number) + 3, soon()).unwrap();
                loan[..len_of(number)].copy_from_slice(&payload(number, len_of(number)));
                loan.truncate(len_of(number));
                loan.send().unwrap();
            }
        }
    }
    tx.send_end(soon()).unwrap();
    for child in &mut children {
        let line = child.line();
        assert!(line.starts_with("missed "), "{line}");
        assert!(!all || line == "missed 0", "{line}");
    }
    drop(tx);
    children.into_iter().for_each(Child::ends_well);
}

#[test]
fn who_was_admitted_misses_nothing_that_was_sent_before_it_looked() {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let mut tx = SealedPublisher::new(&small()).unwrap();
    tx.send(b"too early").unwrap();
    let there = thread::spawn(move || {
        let mut rx = connect(&path).subscriber(&SealedConfig::new(), soon()).unwrap();
        (0..2).map(|_| rx.receive(soon()).unwrap().to_vec()).collect::<Vec<_>>()
    });
    tx.admit(next_guest(&listener)).unwrap();
    let batch = [b"one".to_vec(), b"two".to_vec()];
    assert_eq!(tx.send_batch(&batch, Wait::Never).unwrap(), 2);
    assert_eq!(there.join().unwrap(), batch);
}

#[test]
fn a_slow_subscriber_is_told_exactly_what_it_missed_and_holds_up_nobody() {
    let mut tx = SealedPublisher::new(&small()).unwrap();
    let (mut slow, mut quick) = (subscribed(&mut tx), subscribed(&mut tx));
    let longest = tx.max_message_len();
    assert_eq!(longest, 4096 - 32);
    assert!(matches!(tx.send(&vec![0; longest + 1]), Err(SendError::TooLong { .. })));
    for number in 0..1000_u64 {
        tx.try_send(&number.to_ne_bytes()).unwrap();
        assert_eq!(*quick.try_recv().unwrap(), number.to_ne_bytes());
    }
    let Err(RecvError::Lagged { missed }) = slow.try_recv().map(drop) else { panic!("it was overtaken") };
    for number in missed..1000 {
        assert_eq!(*slow.try_recv().unwrap(), number.to_ne_bytes());
    }
    assert!(matches!(slow.try_recv(), Err(RecvError::WouldBlock)));
    tx.send(&vec![9; longest]).unwrap();
    assert_eq!(*slow.recv().unwrap(), *vec![9; longest]);
    quick.recv().unwrap().keep();
    assert_eq!(*quick.recv().unwrap(), *vec![9; longest]);
    assert!(matches!(quick.recv_timeout(Duration::from_millis(1)), Err(RecvError::TimedOut)));
}

#[test]
fn a_batch_is_lent_together_and_what_is_not_released_comes_again() {
    let mut tx = SealedPublisher::new(&small()).unwrap();
    let mut rx = subscribed(&mut tx);
    for number in 0..5_u8 {
        tx.send(&[number]).unwrap();
    }
    tx.send_end(soon()).unwrap();
    assert_eq!(rx.advance_batch(3, soon()).unwrap(), 3);
    let batch = rx.held_batch();
    assert!(batch.iter().eq([[0], [1], [2]]));
    batch.release(2);
    assert_eq!(rx.advance_batch(10, soon()).unwrap(), 3);
    assert_eq!(&*rx.recv().unwrap(), [2]);
    let batch = rx.held_batch();
    assert!(batch.iter().eq([[3], [4]]));
    batch.release(2);
    assert!(matches!(rx.advance_batch(10, soon()), Err(RecvError::End)));

    let mut values = SealedWriter::new(&SealedConfig::new()).unwrap();
    let mut rx = reading(&mut values);
    values.send(b"old").unwrap();
    values.send(b"new").unwrap();
    assert_eq!(rx.advance_batch(10, soon()).unwrap(), 1);
    let batch = rx.held_batch();
    assert!(batch.iter().eq([b"new"]));
    batch.release(1);
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
}

#[rstest]
fn sleepers_are_woken(#[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting) {
    // Room for all, so that nobody misses one.
    let mut tx = SealedPublisher::new(&SealedConfig::new()).unwrap();
    let mut values = SealedWriter::new(&SealedConfig::new().max_message_len(8)).unwrap();
    let mut there: Vec<_> = (0..2).map(|_| subscribed(&mut tx)).collect();
    let mut answer = reading(&mut values);
    there.iter_mut().for_each(|rx| rx.set_waiting(waiting));
    answer.set_waiting(waiting);
    let mut other = there.pop().unwrap();
    let mut rx = there.pop().unwrap();
    // The one answers, the other is there to be woken as well.
    let echo = thread::spawn(move || {
        while let Ok(message) = rx.receive(soon()) {
            values.send(&message).unwrap();
        }
    });
    let listener = thread::spawn(move || {
        let mut count = 0;
        while other.receive(soon()).is_ok() {
            count += 1;
        }
        count
    });
    for round in 0..200_u64 {
        tx.send(&round.to_ne_bytes()).unwrap();
        assert_eq!(*answer.receive(soon()).unwrap(), round.to_ne_bytes());
    }
    drop(tx);
    echo.join().unwrap();
    assert_eq!(listener.join().unwrap(), 200);
}

fn publish_and_stay(path: &Path) {
    let listener = Listener::bind(path, Peers::ourselves()).unwrap();
    let mut tx = SealedPublisher::new(&small()).unwrap();
    say("here");
    tx.admit(next_guest(&listener)).unwrap();
    tx.send(b"before I go").unwrap();
    say("sent");
    told();
}

#[rstest]
fn a_subscriber_learns_that_the_publisher_is_gone(
    #[values(false, true)] killed: bool,
    #[values(false, true)] polled: bool,
) {
    let arena = Arena::new();
    let path = arena.file("s");
    let mut child = Child::spawn("publish and stay", &[path.to_str().unwrap()]);
    child.says("here");
    let mut rx = connect(&path).subscriber(&SealedConfig::new(), soon()).unwrap();
    child.says("sent");
    match killed {
        true => child.kill(),
        false => child.tell(),
    }
    assert_eq!(&*rx.receive(soon()).unwrap(), b"before I go");
    let mut error = RecvError::WouldBlock;
    eventually("it is missed", || {
        error = rx.receive(if polled { Wait::Never } else { soon() }).map(drop).unwrap_err();
        !matches!(error, RecvError::WouldBlock)
    });
    match killed {
        true => assert!(matches!(error, RecvError::PeerDied), "{error:?}"),
        false => assert!(matches!(error, RecvError::Closed), "{error:?}"),
    }
}

fn read_the_newest(path: &Path) {
    let mut rx = connect(path).reader(&SealedConfig::new(), soon()).unwrap();
    assert_eq!(&*rx.read().unwrap().unwrap(), b"first");
    say("read");
    let mut last = Vec::new();
    let error = loop {
        match rx.receive(soon()) {
            Ok(value) => last = value.to_vec(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RecvError::End), "{error:?}");
    assert_eq!(last, b"last");
    assert!(matches!(rx.receive(soon()), Err(RecvError::Closed)));
    assert_eq!(&*rx.read().unwrap().unwrap(), b"last", "it outlives its writer");
}

#[test]
fn the_newest_value_is_what_each_reader_is_given() {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let mut tx = SealedWriter::new(&SealedConfig::new().max_message_len(100).depth(2)).unwrap();
    tx.send(b"first").unwrap();
    let mut children: Vec<_> =
        (0..2).map(|_| Child::spawn("read the newest", &[path.to_str().unwrap()])).collect();
    for _ in &children {
        tx.admit(next_guest(&listener)).unwrap();
    }
    children.iter_mut().for_each(|child| child.says("read"));
    for number in 0..1000_u32 {
        tx.send(&[number as u8; 100]).unwrap();
    }
    let mut loan = tx.loan(100, soon()).unwrap();
    loan[..4].copy_from_slice(b"last");
    loan.truncate(4);
    loan.send().unwrap();
    tx.send_end(soon()).unwrap();
    assert!(matches!(tx.send(&[0; 101]), Err(SendError::TooLong { len: 101, max: 100 })));
    drop(tx);
    children.into_iter().for_each(Child::ends_well);
}

/// Each of them is of one kind of bytes only.
#[test]
fn a_value_is_never_torn() {
    let mut tx = SealedWriter::new(&SealedConfig::new().max_message_len(4000).depth(2)).unwrap();
    let mut rx = reading(&mut tx);
    let writer = thread::spawn(move || {
        for number in 0..20_000_u32 {
            tx.send(&[number as u8; 4000]).unwrap();
        }
    });
    let mut seen = 0;
    let error = loop {
        match rx.receive(soon()) {
            Ok(value) => {
                assert!(value.iter().all(|&byte| byte == value[0]));
                seen += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RecvError::Closed), "{error:?}");
    assert!(seen > 0);
    writer.join().unwrap();
}

#[test]
fn those_who_have_gone_are_let_go_of() {
    let mut tx = SealedPublisher::new(&small()).unwrap();
    let mut values = SealedWriter::new(&SealedConfig::new()).unwrap();
    let (one, two) = (subscribed(&mut tx), subscribed(&mut tx));
    let reader = reading(&mut values);
    assert_eq!((tx.subscribers(), values.readers()), (2, 1));
    drop((one, reader));
    assert_eq!((tx.subscribers(), values.readers()), (1, 0));
    // Also by those who only publish.
    drop(two);
    let open_ones = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open_ones();
    eventually("the connection is closed", || {
        (0..256).for_each(|_| tx.send(b"x").unwrap());
        open_ones() < before
    });
}

#[test]
fn a_forked_child_has_no_part_in_it() {
    let mut tx = SealedPublisher::new(&small()).unwrap();
    let mut values = SealedWriter::new(&SealedConfig::new()).unwrap();
    let (mut rx, mut reader) = (subscribed(&mut tx), reading(&mut values));
    fork_child(|| {
        assert!(matches!(tx.send(b"no"), Err(SendError::Forked)));
        assert!(matches!(values.send(b"no"), Err(SendError::Forked)));
        assert!(matches!(values.loan(1, soon()).map(drop), Err(SendError::Forked)));
        assert!(matches!(rx.try_recv(), Err(RecvError::Forked)));
        assert!(matches!(reader.read(), Err(RecvError::Forked)));
        drop((tx, values, rx, reader));
    })
    .ends_well();
}

#[rstest]
#[case::of_one_value(SealedConfig::new().depth(1))]
#[case::of_too_many(SealedConfig::new().depth(257))]
#[case::of_too_long_ones(SealedConfig::new().max_message_len(u64::MAX))]
fn slots_that_make_no_sense_are_refused(#[case] config: SealedConfig) {
    let error = SealedWriter::new(&config).unwrap_err();
    assert!(matches!(error, LinkError::InvalidConfig(_)), "{error:?}");
}

#[test]
fn more_memory_than_is_accepted_is_refused() {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let mut tx = SealedPublisher::new(&SealedConfig::new().capacity_bytes(8192)).unwrap();
    let little = SealedConfig::new().max_capacity_bytes(4096);
    let there = thread::spawn(move || connect(&path).subscriber(&little, soon()).unwrap_err());
    tx.admit(next_guest(&listener)).unwrap();
    let error = there.join().unwrap();
    assert!(error.to_string().contains("raise max_capacity_bytes"), "{error}");
    assert_eq!(tx.subscribers(), 0);
}

#[test]
fn who_came_for_something_else_is_told_so() {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let read = || {
        let path = path.clone();
        thread::spawn(move || connect(&path).reader(&SealedConfig::new(), soon()).unwrap_err())
    };
    let there = read();
    let error = SealedPublisher::new(&small()).unwrap().admit(next_guest(&listener)).unwrap_err();
    assert!(error.to_string().contains("it reads a newest value"), "{error}");
    assert!(matches!(there.join().unwrap(), LinkError::HungUp));

    let there = read();
    let error = listener.accept(soon()).unwrap().receiver(&SealedConfig::new(), soon()).unwrap_err();
    assert!(error.to_string().contains("to read a newest value, and not to send"), "{error}");
    assert!(matches!(there.join().unwrap(), LinkError::HungUp));

    let other = path.clone();
    let there = thread::spawn(move || connect(&other).sender(&small(), soon()).unwrap_err());
    let error = listener.accept(soon()).unwrap().guest(soon()).unwrap_err();
    assert!(error.to_string().contains("to send, and not to subscribe"), "{error}");
    assert!(matches!(there.join().unwrap(), LinkError::HungUp));
}
