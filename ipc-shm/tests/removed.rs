//! Names that are taken away by hand while their channels are in use: whoever waits is told,
//! and what was sent is delivered first.

mod common;

use common::{
    Arena, PATIENCE,
    kinds::{Ends, make},
    name, within,
};
use ipc_shm::{
    CallError, Channel, ChannelError, Client, Kind, Receiver, RecvError, SendError, Sender, Shm, ShmConfig,
    ShmReceiver, ShmSender, Transport, Wait, Waiting, WhenFull,
};
use rstest::rstest;
use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

/// Of little room, for which senders wait if they can.
fn small(kind: Kind) -> ShmConfig {
    let config = ShmConfig::new().kind(kind);
    match kind {
        Kind::Mpmc => config.depth(16).max_message_len(64),
        Kind::Latest => config.max_message_len(64),
        Kind::Rpc => config.depth(1).max_message_len(64),
        _ => config.capacity_bytes(4096).when_full(WhenFull::Wait),
    }
}

#[rstest]
fn who_waits_on_a_channel_that_was_removed_by_hand_is_told_so(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
    #[values(true, false)] replaced: bool,
) {
    let arena = Arena::new();
    make(arena.path(), &small(kind)).unwrap();
    let mut ends = Ends::open(arena.path()).unwrap();
    ends.set_waiting(waiting);
    ends.pass(b"before");
    let old = Shm::at(arena.path()).open(&name("x")).unwrap();
    fs::remove_file(arena.file("x")).unwrap();
    if replaced {
        make(arena.path(), &small(kind)).unwrap();
    }
    let (ends, error) = within(PATIENCE, move || {
        let error = ends.await_nothing(Wait::Forever);
        (ends, error)
    });
    assert!(matches!(error, RecvError::Closed), "{error:?}");
    within(PATIENCE, move || match ends {
        // It is never full.
        Ends::Queue(..) if kind == Kind::Latest => {}
        Ends::Queue(mut tx, _rx) => {
            while tx.try_send(&[0; 64]).is_ok() {}
            let answer = tx.send(&[0; 64]);
            assert!(matches!(answer, Err(SendError::Closed)), "{answer:?}");
        }
        Ends::Service(mut client, _server) => {
            let answer = client.call(b"for an answer", Wait::Forever).map(drop);
            assert!(matches!(answer, Err(CallError::Closed)), "{answer:?}");
            let ticket = client.submit(b"", Wait::Never).unwrap();
            let answer = client.submit(b"for room", Wait::Forever).map(drop);
            assert!(matches!(answer, Err(CallError::Closed)), "{answer:?}");
            client.abandon(ticket);
        }
    });
    if kind != Kind::Rpc {
        assert!(matches!(old.sender(), Err(ChannelError::NotFound)), "the old one has no name any more");
        assert!(matches!(old.receiver(), Err(ChannelError::NotFound)));
    }
}

#[rstest]
#[case::spsc(Kind::Spsc, 1)]
#[case::mpmc(Kind::Mpmc, 3)]
#[case::broadcast(Kind::Broadcast, 3)]
fn what_is_sent_under_load_is_received_whenever_the_name_is_taken_away(
    #[case] kind: Kind,
    #[case] pairs: u64,
) {
    const ENOUGH: u64 = 3000;
    let arena = Arena::new();
    let channel = Shm::at(arena.path()).create(&name("x"), &small(kind)).unwrap();
    let mut receivers: Vec<_> = (0..pairs).map(|_| channel.receiver().unwrap()).collect();
    let mut senders: Vec<_> = (0..pairs).map(|_| channel.sender().unwrap()).collect();
    let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let until = |count| {
        common::eventually("they send", || sent.load(Ordering::Relaxed) >= count);
    };
    let by_senders = |tx: &mut ShmSender| -> Result<(), SendError> {
        while !stop.load(Ordering::Relaxed) {
            tx.send_timeout(&[7; 32], PATIENCE)?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let received = thread::scope(|scope| {
        let receiving: Vec<_> = receivers.iter_mut().map(|rx| scope.spawn(|| count(rx, true))).collect();
        let sending: Vec<_> = senders.iter_mut().map(|tx| scope.spawn(|| by_senders(tx))).collect();
        until(ENOUGH);
        fs::remove_file(arena.file("x")).unwrap();
        make(arena.path(), &small(kind)).unwrap();
        until(2 * ENOUGH);
        stop.store(true, Ordering::Relaxed);
        for sender in sending {
            let end = sender.join().unwrap();
            assert!(matches!(end, Ok(()) | Err(SendError::Closed)), "{end:?}");
        }
        receiving.into_iter().map(|receiver| receiver.join().unwrap()).sum::<u64>()
    });
    // Who had to wait for another one's message may have been told early.
    let rest = receivers.iter_mut().map(|rx| count(rx, false)).sum::<u64>();
    let copies = if kind == Kind::Broadcast { pairs } else { 1 };
    assert_eq!(received + rest, copies * sent.load(Ordering::Relaxed));
    let other = Shm::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!(other.queued_messages.unwrap_or(0), 0, "the new one of that name has nothing of it");
}

/// Receives until the channel is closed, or until there is nothing now.
fn count(rx: &mut ShmReceiver, waits: bool) -> u64 {
    let mut count = 0;
    loop {
        match rx.receive(if waits { Wait::timeout(PATIENCE) } else { Wait::Never }) {
            Ok(message) => assert_eq!(&*message, &[7; 32]),
            Err(RecvError::Closed | RecvError::WouldBlock) => return count,
            Err(error) => panic!("{error:?}"),
        }
        count += 1;
    }
}
