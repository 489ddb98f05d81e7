//! A layer that counts what passes, and is itself a sender, a receiver and a receiver of
//! batches: it wraps what is lent as well.

use crate::channel;
use ipc_core::{
    Batch, BatchReceiver, Loan, Message, Receiver, RecvError, Rejected, SendError, Sender, Unwinding, Wait,
};
use std::{
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Meter {
    messages: u64,
    bytes: u64,
}

impl Meter {
    fn count(&mut self, len_bytes: usize) {
        self.messages += 1;
        self.bytes += len_bytes as u64;
    }
}

/// An endpoint, and what it sent, or received and released.
struct Metered<E> {
    inner: E,
    meter: Meter,
}

impl<E> Metered<E> {
    fn new(inner: E) -> Self {
        Self { inner, meter: Meter::default() }
    }
}

impl<S: Sender> Sender for Metered<S> {
    type Loan<'a>
        = MeteredLoan<'a, S::Loan<'a>>
    where
        Self: 'a;

    fn max_message_len(&self) -> usize {
        self.inner.max_message_len()
    }

    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        self.inner.reserve(len, wait)
    }

    fn reserved(&mut self) -> Self::Loan<'_> {
        MeteredLoan { inner: self.inner.reserved(), meter: &mut self.meter }
    }
}

struct MeteredLoan<'a, L> {
    inner: L,
    meter: &'a mut Meter,
}

impl<L: Loan> Loan for MeteredLoan<'_, L> {
    fn truncate(&mut self, len: usize) {
        self.inner.truncate(len);
    }

    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        let Self { inner, meter } = self;
        let len_bytes = inner.len();
        match inner.commit(wait) {
            Ok(()) => {
                meter.count(len_bytes);
                Ok(())
            }
            Err(Rejected { loan, error }) => Err(Rejected { loan: Self { inner: loan, meter }, error }),
        }
    }
}

impl<L: Loan> Deref for MeteredLoan<'_, L> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.inner
    }
}

impl<L: Loan> DerefMut for MeteredLoan<'_, L> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.inner
    }
}

impl<R: Receiver> Receiver for Metered<R> {
    type Message<'a>
        = MeteredMessage<'a, R::Message<'a>>
    where
        Self: 'a;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        self.inner.advance(wait)
    }

    fn held(&mut self) -> Self::Message<'_> {
        MeteredMessage {
            inner: Some(self.inner.held()),
            meter: &mut self.meter,
            unwinding: Unwinding::watch(),
        }
    }
}

/// Counted when it is released; `None` once it is kept instead, and a panic keeps it too.
struct MeteredMessage<'a, M: Message> {
    inner: Option<M>,
    meter: &'a mut Meter,
    unwinding: Unwinding,
}

impl<M: Message> Message for MeteredMessage<'_, M> {
    fn keep(mut self) {
        if let Some(inner) = self.inner.take() {
            inner.keep();
        }
    }
}

impl<M: Message> Deref for MeteredMessage<'_, M> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.inner.as_deref().unwrap_or_default()
    }
}

impl<M: Message> Drop for MeteredMessage<'_, M> {
    fn drop(&mut self) {
        if let (Some(inner), false) = (&self.inner, self.unwinding.has_begun()) {
            self.meter.count(inner.len());
        }
    }
}

impl<R: BatchReceiver> BatchReceiver for Metered<R> {
    type Batch<'a>
        = MeteredBatch<'a, R::Batch<'a>>
    where
        Self: 'a;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.inner.advance_batch(max_messages, wait)
    }

    fn held_batch(&mut self) -> Self::Batch<'_> {
        MeteredBatch { inner: self.inner.held_batch(), meter: &mut self.meter }
    }
}

struct MeteredBatch<'a, B> {
    inner: B,
    meter: &'a mut Meter,
}

impl<B: Batch> Batch for MeteredBatch<'_, B> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.inner.iter()
    }

    fn release(self, count: usize) {
        for message in self.inner.iter().take(count) {
            self.meter.count(message.len());
        }
        self.inner.release(count);
    }
}

#[test]
fn what_is_committed_is_counted_and_nothing_else() {
    let (tx, mut rx) = channel(2);
    let mut tx = Metered::new(tx);
    tx.send(b"four").unwrap();
    tx.loan(64, Wait::Never).unwrap().fill(b'x');
    let mut loan = tx.loan(64, Wait::Never).unwrap();
    loan[..3].copy_from_slice(b"abc");
    loan.truncate(3);
    loan.commit(Wait::Never).map_err(|rejected| rejected.error).unwrap();
    assert!(matches!(tx.try_send(b"refused"), Err(SendError::WouldBlock)));
    assert_eq!(tx.meter, Meter { messages: 2, bytes: 7 });
    assert_eq!(&*rx.recv().unwrap(), b"four");
    assert_eq!(&*rx.recv().unwrap(), b"abc");
}

#[test]
fn a_rejected_loan_comes_back_through_the_layer() {
    let (tx, mut rx) = channel(1);
    let mut tx = Metered::new(tx);
    tx.send(b"in the way").unwrap();
    let mut loan = tx.loan(5, Wait::Never).unwrap();
    loan.copy_from_slice(b"later");
    let rejected = loan.commit(Wait::Never).map(drop).map_err(|rejected| rejected.loan).err().unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"in the way");
    rejected.commit(Wait::Never).map_err(|rejected| rejected.error).unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"later");
    assert_eq!(tx.meter, Meter { messages: 2, bytes: 15 });
}

#[test]
fn what_is_released_is_counted_and_what_is_kept_is_not() {
    let (mut tx, rx) = channel(8);
    let mut rx = Metered::new(rx);
    for message in ["a", "bb", "ccc", "dddd"] {
        tx.send(message.as_bytes()).unwrap();
    }
    rx.recv().unwrap().keep();
    assert_eq!(rx.meter, Meter::default());
    assert_eq!(&*rx.recv().unwrap(), b"a");
    assert_eq!(rx.meter, Meter { messages: 1, bytes: 1 });
    assert_eq!(rx.advance_batch(8, Wait::Never).unwrap(), 3);
    rx.held_batch().release(2);
    assert_eq!(rx.meter, Meter { messages: 3, bytes: 6 });
    rx.held_batch().release_all();
    assert_eq!(rx.meter, Meter { messages: 4, bytes: 10 });
}

#[test]
fn a_layer_over_borrowed_endpoints_leaves_them_when_it_goes() {
    let (mut tx, mut rx) = channel(8);
    let mut metered = Metered::new(&mut tx);
    metered.send(b"one").unwrap();
    metered.loan(3, Wait::Never).unwrap().send().unwrap();
    assert_eq!(metered.meter, Meter { messages: 2, bytes: 6 });
    tx.send(b"three").unwrap();
    let mut metered = Metered::new(&mut rx);
    assert_eq!(&*metered.recv().unwrap(), b"one");
    metered.recv().unwrap().keep();
    assert_eq!(metered.meter, Meter { messages: 1, bytes: 3 });
    assert_eq!(rx.recv().unwrap().len(), 3, "what was kept through it");
    assert_eq!(&*rx.recv().unwrap(), b"three");
}

#[test]
fn what_a_panic_keeps_is_not_counted() {
    let (mut tx, rx) = channel(1);
    let mut rx = Metered::new(rx);
    tx.send(b"again").unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _message = rx.recv().unwrap();
        resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    assert_eq!(rx.meter, Meter::default());
    assert_eq!(&*rx.try_recv().unwrap(), b"again");
    assert_eq!(rx.meter, Meter { messages: 1, bytes: 5 });
}
