//! Endpoints move: into threads of their own, in use or not, whatever they are.

use crate::channel;
use ipc_core::{Batch, BatchReceiver, Message, Receiver, Sender, Wait};
use std::thread::{self, JoinHandle};

/// A thread that hands on what it receives: each batch is released once it is sent. It
/// ends with an empty message.
fn forward<R, S>(mut from: R, mut to: S) -> JoinHandle<(R, S)>
where
    R: BatchReceiver + 'static,
    S: Sender + 'static,
{
    thread::spawn(move || {
        loop {
            from.advance_batch(8, Wait::Forever).expect("a batch");
            let batch = from.held_batch();
            let last = batch.iter().any(<[u8]>::is_empty);
            for message in batch.iter() {
                to.send(message).expect("sent on");
            }
            batch.release_all();
            if last {
                return (from, to);
            }
        }
    })
}

#[test]
fn endpoints_of_any_kind_work_in_a_thread_of_their_own() {
    let ((mut tx, from), (to, mut rx)) = (channel(4), channel(2));
    let thread = forward(from, to);
    let sender = thread::spawn(move || {
        for number in 0..1000_u32 {
            tx.send(&number.to_le_bytes()).unwrap();
        }
        tx.send(b"").unwrap();
        tx
    });
    for number in 0..1000_u32 {
        assert_eq!(&*rx.recv().unwrap(), number.to_le_bytes());
    }
    assert!(rx.recv().unwrap().is_empty());
    let (_, mut back) = thread.join().unwrap();
    sender.join().unwrap().send(b"usable after the move").unwrap();
    back.send(b"both of them").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"both of them");
}

#[test]
fn a_receiver_moves_with_the_message_it_holds() {
    let (mut tx, mut rx) = channel(1);
    tx.send(b"luggage").unwrap();
    rx.recv().unwrap().keep();
    let there = thread::spawn(move || rx.held().to_vec()).join().unwrap();
    assert_eq!(there, b"luggage");
}
