//! Waits over sockets: as long as asked, whatever happens meanwhile.
#![cfg(target_os = "linux")]

mod common;

use common::{
    alone,
    signals::{under_signals, wait_for_signals},
    sockets::Place,
};
use ipc_mq::{Cancel, Channel, Receiver, RecvError, SendError, Sender, UnixReceiver, UnixSender, Wait};
use rstest::rstest;
use std::{
    thread,
    time::{Duration, Instant},
};

const SHORT: Duration = Duration::from_millis(60);
/// Longer than any machine is late.
const LONG: Duration = Duration::from_secs(60);

/// A sender that has no more room, and who doesn't receive.
fn full(place: &Place) -> (UnixSender, UnixReceiver) {
    let channel = place.channel();
    let (mut tx, rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    while tx.try_send(b"fills").is_ok() {}
    (tx, rx)
}

/// Each wait that ends by itself: for a message from nobody, from one who is alone, and from several; for
/// room, for a packet and for a parcel; and for a receiver.
#[test]
fn a_signal_storm_neither_shortens_nor_prolongs_a_wait() {
    alone("a_signal_storm_neither_shortens_nor_prolongs_a_wait", || {
        let signals = under_signals(|| {
            let on_time = |timed_out: &mut dyn FnMut(Wait<'_>) -> bool| {
                let cancel = Cancel::new();
                for cancellable in [false, true] {
                    let start = Instant::now();
                    let wait = Wait::timeout(SHORT);
                    assert!(timed_out(if cancellable { wait.or_cancel(&cancel) } else { wait }));
                    assert!((SHORT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
                }
            };
            let place = Place::new();
            let channel = place.channel();
            let mut rx = channel.receiver().unwrap();
            let mut senders = Vec::new();
            for _ in 0..3 {
                on_time(&mut |wait| matches!(rx.advance(wait), Err(RecvError::TimedOut)));
                let mut tx = channel.sender().unwrap();
                tx.send(b"in").unwrap();
                assert_eq!(&*rx.recv().unwrap(), b"in");
                senders.push(tx);
            }
            drop((senders, rx));
            let mut alone = channel.sender().unwrap();
            on_time(&mut |wait| matches!(alone.send_wait(b"to nobody", wait), Err(SendError::TimedOut)));
            let place = Place::new();
            let (mut tx, _rx) = full(&place);
            for len in [1, 200_000] {
                let message = vec![7; len];
                on_time(&mut |wait| matches!(tx.send_wait(&message, wait), Err(SendError::TimedOut)));
            }
        });
        assert!(signals > 100, "only {signals} signals in the storm");
    });
}

#[rstest]
#[case::for_ever("case_1_for_ever", Wait::Forever)]
#[case::by_a_deadline("case_2_by_a_deadline", Wait::timeout(LONG))]
fn a_signal_storm_ends_no_wait_and_loses_nothing(#[case] case: &str, #[case] wait: Wait<'static>) {
    alone(&format!("a_signal_storm_ends_no_wait_and_loses_nothing::{case}"), || {
        let quiet = Place::new();
        let channel = quiet.channel();
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        let busy = Place::new();
        let (mut full_tx, mut full_rx) = full(&busy);
        let early = Place::new();
        let no_receiver_yet = early.channel();
        let mut early_tx = no_receiver_yet.sender().unwrap();
        let peer = thread::spawn(move || {
            for message in [&b"through the storm"[..], &[7; 200_000]] {
                wait_for_signals(50);
                tx.send(message).unwrap();
            }
            wait_for_signals(50);
            let mut received = Vec::new();
            while received != b"this way too" {
                received = full_rx.recv().unwrap().to_vec();
            }
            wait_for_signals(50);
            let mut late_rx = no_receiver_yet.receiver().unwrap();
            assert_eq!(&*late_rx.recv().unwrap(), b"to who comes");
        });
        under_signals(move || {
            assert_eq!(&*rx.receive(wait).unwrap(), b"through the storm");
            assert_eq!(&*rx.receive(wait).unwrap(), [7; 200_000]);
            full_tx.send_wait(b"this way too", wait).unwrap();
            early_tx.send_wait(b"to who comes", wait).unwrap();
        });
        peer.join().unwrap();
    });
}
