//! What a sender does that finds a channel full is the channel's to say, whatever the kind and
//! the call.

mod common;

use common::{Arena, PATIENCE, name};
use ipc_shm::{
    BatchSender, Channel, EndMark, Kind, Receiver, SendError, Sender, Shm, ShmConfig, ShmSender, Transport,
    Wait, WhenFull,
};
use rstest::rstest;

/// A full channel of this kind, its sender first, with somebody who doesn't receive.
fn full(arena: &Arena, kind: Kind, when_full: WhenFull) -> (ShmSender, impl Receiver + use<>) {
    let config = ShmConfig::new().kind(kind).when_full(when_full);
    let config = match kind {
        Kind::Mpmc => config.max_message_len(64).depth(4),
        _ => config.capacity_bytes(4096),
    };
    let channel = Shm::at(arena.path()).create(&name("x"), &config).unwrap();
    let (mut tx, rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    while tx.try_send(&[7; 64]).is_ok() {}
    // What room is left for shorter ones is taken as well.
    while tx.try_send(b"").is_ok() {}
    (tx, rx)
}

#[rstest]
fn who_is_to_fail_fails_at_once_whatever_it_calls(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast)] kind: Kind,
) {
    let arena = Arena::new();
    let (mut tx, rx) = full(&arena, kind, WhenFull::Fail);
    let long = Wait::timeout(PATIENCE);
    let fails = |result: Result<(), SendError>| assert!(matches!(result, Err(SendError::WouldBlock)));
    fails(tx.send_wait(&[7; 64], long));
    fails(tx.reserve(64, long));
    fails(tx.loan(64, long).map(drop));
    fails(tx.send_end(long));
    match tx {
        ShmSender::Spsc(mut tx) => fails(tx.send_batch(&[[7; 64]; 3], long).map(drop)),
        ShmSender::Mpmc(mut tx) => fails(tx.send_batch(&[[7; 64]; 3], long).map(drop)),
        ShmSender::Broadcast(mut tx) => fails(tx.send_batch(&[[7; 64]; 3], long).map(drop)),
        other => panic!("of another kind: {other:?}"),
    }
    drop(rx);
}

#[rstest]
fn who_is_to_wait_waits_as_long_as_it_says(#[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast)] kind: Kind) {
    let arena = Arena::new();
    let (mut tx, rx) = full(&arena, kind, WhenFull::Wait);
    let short = || Wait::timeout(std::time::Duration::from_millis(20));
    assert!(matches!(tx.send_wait(&[7; 64], short()), Err(SendError::TimedOut)));
    assert!(matches!(tx.send_end(short()), Err(SendError::TimedOut)));
    drop(rx);
}
