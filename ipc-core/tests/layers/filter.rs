//! A layer that lets through what a predicate accepts, and is itself a receiver.

use crate::channel;
use ipc_core::{Message, Receiver, RecvError, Sender, Wait};
use std::time::Duration;

struct Filter<R, P> {
    inner: R,
    accepts: P,
}

impl<R: Receiver, P: FnMut(&[u8]) -> bool + Send> Receiver for Filter<R, P> {
    type Message<'a>
        = R::Message<'a>
    where
        Self: 'a;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        loop {
            self.inner.advance(wait)?;
            let message = self.inner.held();
            if (self.accepts)(&message) {
                message.keep();
                return Ok(());
            }
            // Dropped, hence released.
        }
    }

    fn held(&mut self) -> R::Message<'_> {
        self.inner.held()
    }
}

#[test]
fn a_filter_passes_what_its_predicate_accepts_and_releases_the_rest() {
    let (mut tx, rx) = channel(4);
    let mut even = Filter { inner: rx, accepts: |message: &[u8]| message[0] % 2 == 0 };
    for number in [1, 2, 3, 4] {
        tx.send(&[number]).unwrap();
    }
    assert_eq!(&*even.recv().unwrap(), [2]);
    assert_eq!(&*even.try_recv().unwrap(), [4]);
    assert!(matches!(even.try_recv().err(), Some(RecvError::WouldBlock)));
    for number in [5, 7, 9, 11] {
        tx.try_send(&[number]).expect("all before were released");
    }
    let brief = Duration::from_millis(5);
    assert!(matches!(even.recv_timeout(brief).err(), Some(RecvError::TimedOut)));
}

#[test]
fn filters_nest_and_keep_works_through_them() {
    let (mut tx, rx) = channel(12);
    let even = Filter { inner: rx, accepts: |message: &[u8]| message[0] % 2 == 0 };
    let mut sixth = Filter { inner: even, accepts: |message: &[u8]| message[0] % 3 == 0 };
    for number in 1..=12 {
        tx.send(&[number]).unwrap();
    }
    sixth.recv().unwrap().keep();
    assert_eq!(&*sixth.recv().unwrap(), [6]);
    assert_eq!(&*sixth.recv().unwrap(), [12]);
}
