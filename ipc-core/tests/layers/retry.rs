//! A layer that tries again, a little later each time, around the calls that don't wait.

use crate::channel;
use ipc_core::{Loan, Receiver, RecvError, SendError, Sender, Wait};
use std::{thread, time::Duration};

/// Pauses that double.
struct Backoff {
    tries_left: u32,
    pause: Duration,
}

impl Backoff {
    fn new(tries: u32) -> Self {
        Self { tries_left: tries, pause: Duration::from_micros(10) }
    }

    /// Sleeps a while; false if that was enough.
    fn again(&mut self) -> bool {
        if self.tries_left == 0 {
            return false;
        }
        thread::sleep(self.pause);
        self.tries_left -= 1;
        self.pause *= 2;
        true
    }
}

fn send_retrying<S: Sender>(tx: &mut S, message: &[u8], tries: u32) -> Result<(), SendError> {
    let mut backoff = Backoff::new(tries);
    loop {
        match tx.try_send(message) {
            Err(SendError::WouldBlock) if backoff.again() => {}
            answer => return answer,
        }
    }
}

/// Writes the message once, however often it is refused.
fn commit_retrying<L: Loan>(mut loan: L, tries: u32) -> Result<(), SendError> {
    let mut backoff = Backoff::new(tries);
    loop {
        let rejected = match loan.commit(Wait::Never) {
            Ok(()) => return Ok(()),
            Err(rejected) => rejected,
        };
        match rejected.error {
            SendError::WouldBlock if backoff.again() => loan = rejected.loan,
            error => return Err(error),
        }
    }
}

/// Lends the message: that is what a `receive` in one step can't return out of a loop.
fn recv_retrying<R: Receiver>(rx: &mut R, tries: u32) -> Result<R::Message<'_>, RecvError> {
    let mut backoff = Backoff::new(tries);
    loop {
        match rx.advance(Wait::Never) {
            Ok(()) => return Ok(rx.held()),
            Err(RecvError::WouldBlock) if backoff.again() => {}
            Err(error) => return Err(error),
        }
    }
}

#[test]
fn retries_end_in_success_once_there_is_room() {
    let (mut tx, mut rx) = channel(1);
    tx.send(b"in the way").unwrap();
    assert!(matches!(send_retrying(&mut tx, b"patient", 3), Err(SendError::WouldBlock)));
    thread::scope(|threads| {
        let sender = threads.spawn(|| send_retrying(&mut tx, b"patient", 15));
        thread::sleep(Duration::from_millis(2));
        assert_eq!(&*recv_retrying(&mut rx, 0).unwrap(), b"in the way");
        sender.join().unwrap().unwrap();
    });
    assert_eq!(&*recv_retrying(&mut rx, 0).unwrap(), b"patient");
}

#[test]
fn a_refused_loan_is_committed_again_without_being_written_again() {
    let (mut tx, mut rx) = channel(1);
    tx.send(b"in the way").unwrap();
    thread::scope(|threads| {
        let sender = threads.spawn(|| {
            let mut loan = tx.loan(7, Wait::Never).unwrap();
            loan.copy_from_slice(b"patient");
            commit_retrying(loan, 15)
        });
        thread::sleep(Duration::from_millis(2));
        assert_eq!(&*rx.recv().unwrap(), b"in the way");
        sender.join().unwrap().unwrap();
    });
    assert_eq!(&*rx.try_recv().unwrap(), b"patient");
}

#[test]
fn retries_end_in_success_once_there_is_a_message() {
    let (mut tx, mut rx) = channel(1);
    assert!(matches!(recv_retrying(&mut rx, 3).err(), Some(RecvError::WouldBlock)));
    thread::scope(|threads| {
        threads.spawn(|| {
            thread::sleep(Duration::from_millis(2));
            tx.send(b"late").unwrap();
        });
        assert_eq!(&*recv_retrying(&mut rx, 15).unwrap(), b"late");
    });
}
