//! More senders than a receiver takes in: they wait at its door, and in front of that.
#![cfg(target_os = "linux")]

mod common;

use common::{alone, alone_in_namespaces, skip, sockets::Place, spawn_watched, wait_until_asleep_in};
use ipc_mq::{
    Cancel, Channel, Pollable, Receiver, RecvError, SendError, Sender, Transport, UnixChannel, UnixReceiver,
    UnixSender, Wait,
};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, poll},
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send, shutdown,
            socket,
        },
    },
};
use rstest::rstest;
use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

const SHORT: Duration = Duration::from_millis(60);
/// Longer than any machine is late.
const LONG: Duration = Duration::from_secs(60);
/// So many are taken in.
const MOST_SENDERS: usize = 1024;

/// Nobody was let in yet, and all are.
#[test]
fn a_crowd_at_the_door_gets_in() {
    let place = Place::new();
    let channel = place.channel();
    let mut rx = channel.receiver().unwrap();
    let mut crowd: Vec<UnixSender> = (0..200).map(|_| channel.sender().unwrap()).collect();
    crowd.iter_mut().for_each(|tx| tx.try_send(b"in").unwrap());
    for _ in &crowd {
        assert_eq!(&*rx.recv().unwrap(), b"in");
    }
    assert_eq!(rx.peers().count(), 200);
}

#[test]
fn who_is_one_too_many_is_heard_when_another_goes() {
    alone("who_is_one_too_many_is_heard_when_another_goes", || {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if hard < 3 * MOST_SENDERS as u64 {
            return skip(&format!("it takes more descriptors than {hard}"));
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let mut inside: Vec<UnixSender> = (0..MOST_SENDERS)
            .map(|_| {
                let mut tx = channel.sender().unwrap();
                tx.send(b"in").unwrap();
                assert_eq!(&*rx.recv().unwrap(), b"in");
                tx
            })
            .collect();
        let mut outside = [channel.sender().unwrap(), channel.sender().unwrap()];
        outside.iter_mut().for_each(|tx| tx.try_send(b"at the door").unwrap());
        assert!(matches!(rx.advance(Wait::timeout(SHORT)), Err(RecvError::TimedOut)));
        assert_eq!(rx.peers().count(), MOST_SENDERS);
        for tx in &mut outside {
            inside[0].send(b"still heard").unwrap();
            assert_eq!(&*rx.recv().unwrap(), b"still heard");
            drop(inside.pop());
            assert_eq!(&*rx.recv().unwrap(), b"at the door");
            assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
            tx.send(b"in").unwrap();
            assert_eq!(rx.peers().count(), MOST_SENDERS);
            if matches!(rx.try_recv().as_deref(), Ok(b"in")) {
                continue;
            }
            panic!("the one that was let in isn't heard");
        }
    });
}

fn one_inside_and_one_at_the_door(channel: &UnixChannel, rx: &mut UnixReceiver) -> [UnixSender; 2] {
    let [mut inside, mut outside] = [channel.sender().unwrap(), channel.sender().unwrap()];
    inside.send(b"in").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"in");
    outside.send(b"at the door").unwrap();
    [inside, outside]
}

/// From now on; how many there may be at most is returned.
fn no_more_descriptors() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    hard
}

/// Nobody leaves, so that nobody makes room.
#[rstest]
#[case::a_try("case_1_a_try", Wait::Never)]
#[case::a_deadline("case_2_a_deadline", Wait::timeout(LONG))]
#[case::for_ever("case_3_for_ever", Wait::Forever)]
fn who_comes_when_there_are_no_descriptors_is_heard_when_there_are(
    #[case] test: &str,
    #[case] wait: Wait<'static>,
) {
    let test = format!("who_comes_when_there_are_no_descriptors_is_heard_when_there_are::{test}");
    alone(&test, || {
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let _senders = one_inside_and_one_at_the_door(&channel, &mut rx);
        let hard = no_more_descriptors();
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert_eq!(&*rx.receive(wait).unwrap(), b"at the door");
        // And who comes later.
        let mut later = channel.sender().unwrap();
        later.send(b"later").unwrap();
        assert_eq!(&*rx.receive(wait).unwrap(), b"later");
        assert_eq!(rx.peers().count(), 3);
    });
}

/// It sleeps when the descriptors come back.
#[test]
fn who_sleeps_takes_in_who_came_when_there_were_no_descriptors() {
    alone("who_sleeps_takes_in_who_came_when_there_were_no_descriptors", || {
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let _senders = one_inside_and_one_at_the_door(&channel, &mut rx);
        let hard = no_more_descriptors();
        thread::scope(|threads| {
            let receiver = threads.spawn(|| rx.recv_timeout(LONG).map(|message| message.to_vec()));
            thread::sleep(SHORT);
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            assert_eq!(receiver.join().unwrap().unwrap(), b"at the door");
        });
    });
}

/// It is told by the descriptor, which nothing else makes readable.
#[test]
fn who_polls_is_told_of_who_came_when_there_were_no_descriptors() {
    alone("who_polls_is_told_of_who_came_when_there_were_no_descriptors", || {
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        assert!(!rx.arm().unwrap());
        let _senders = one_inside_and_one_at_the_door(&channel, &mut rx);
        let hard = no_more_descriptors();
        assert!(!rx.arm().unwrap());
        // As long as there are none, it is told from time to time.
        for _ in 0..3 {
            assert!(becomes_readable(&mut rx));
            assert!(!rx.arm().unwrap());
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert!(becomes_readable(&mut rx));
        assert_eq!(&*rx.try_recv().unwrap(), b"at the door");
        assert!(!rx.arm().unwrap());
        thread::sleep(SHORT);
        assert!(!rx.arm().unwrap(), "it is told of nothing");
    });
}

fn becomes_readable(rx: &mut UnixReceiver) -> bool {
    let mut descriptors = [PollFd::new(rx.descriptor().unwrap(), PollFlags::POLLIN)];
    poll(&mut descriptors, u16::try_from(LONG.as_millis()).unwrap()).unwrap() == 1
}

/// There may be no end of them. In a network namespace of one's own, since how many can be at the
/// door is everybody's limit.
#[rstest]
#[case::and_die("case_1_and_die", |stranger: &OwnedFd| {
    shutdown(stranger.as_raw_fd(), Shutdown::Write).unwrap();
})]
#[case::and_send_garbage("case_2_and_send_garbage", |stranger: &OwnedFd| {
    send(stranger.as_raw_fd(), b"garbage", MsgFlags::empty()).unwrap();
})]
fn those_who_come_hold_up_no_try(#[case] test: &str, #[case] go: fn(&OwnedFd)) {
    alone_in_namespaces(&format!("those_who_come_hold_up_no_try::{test}"), || {
        const CAME: usize = 3 * MOST_SENDERS;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if hard < 2 * CAME as u64 || unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return skip("it takes a network namespace of one's own, and many descriptors");
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        fs::write("/proc/sys/net/core/somaxconn", (CAME + 1).to_string()).unwrap();
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let strangers: Vec<OwnedFd> = (0..CAME).map(|_| connect_to(&channel.socket_path())).collect();
        strangers.iter().for_each(go);
        let mut tx = channel.sender().unwrap();
        tx.try_send(b"behind them").unwrap();
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
        let closed = strangers.iter().filter(|stranger| {
            !matches!(recv(stranger.as_raw_fd(), &mut [0], MsgFlags::empty()), Err(Errno::EAGAIN))
        });
        let closed = closed.count();
        assert!((MOST_SENDERS..=2 * MOST_SENDERS).contains(&closed), "{closed} came and went in one try");
        assert_eq!(&*rx.recv_timeout(LONG).unwrap(), b"behind them");
    });
}

/// Somebody who has said nothing yet.
fn connect_to(path: &Path) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}

/// In a network namespace of one's own, since the limit is everybody's.
#[test]
fn who_finds_no_place_at_the_door_waits_as_if_the_channel_were_full() {
    alone_in_namespaces("who_finds_no_place_at_the_door_waits_as_if_the_channel_were_full", || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return skip("it takes a network namespace of one's own");
        }
        fs::write("/proc/sys/net/core/somaxconn", "2").unwrap();
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let mut at_the_door = Vec::new();
        let mut tx = loop {
            let mut tx = channel.sender().unwrap();
            match tx.try_send(b"at the door") {
                Ok(()) => at_the_door.push(tx),
                Err(SendError::WouldBlock) => break tx,
                Err(error) => panic!("{error}"),
            }
            assert!(at_the_door.len() < 10, "the limit is lower");
        };
        let start = Instant::now();
        assert!(matches!(tx.send_timeout(b"too late", SHORT), Err(SendError::TimedOut)));
        assert!((SHORT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
        let cancel = Cancel::new();
        thread::scope(|threads| {
            let sender = threads.spawn(|| tx.send_wait(b"cancelled", Wait::Forever.or_cancel(&cancel)));
            thread::sleep(SHORT);
            cancel.cancel();
            assert!(matches!(sender.join().unwrap(), Err(SendError::Cancelled)));
        });
        for wait in [Wait::Forever, Wait::timeout(LONG)] {
            let (id, sender) = spawn_watched(move || {
                tx.send_wait(b"patient", wait).unwrap();
                tx
            });
            wait_until_asleep_in(id, &[libc::SYS_ppoll]);
            for _ in &at_the_door {
                assert_eq!(&*rx.recv().unwrap(), b"at the door");
            }
            assert_eq!(&*rx.recv().unwrap(), b"patient");
            drop(sender.join().unwrap());
            // A crowd again.
            at_the_door = at_the_door.iter().map(|_| channel.sender().unwrap()).collect();
            at_the_door.iter_mut().for_each(|tx| tx.try_send(b"at the door").unwrap());
            tx = channel.sender().unwrap();
            assert!(matches!(tx.try_send(b"too many"), Err(SendError::WouldBlock)));
        }
        // Nobody lets it in any more, nor ever will.
        drop(rx);
        place.transport().remove(channel.name()).unwrap();
        assert!(matches!(tx.send_wait(b"x", Wait::Forever), Err(SendError::Closed)));
    });
}
