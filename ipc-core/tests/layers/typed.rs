//! A layer that sends and receives values instead of bytes, written in place.

use crate::channel;
use ipc_core::{Loan, Message, Receiver, RecvError, SendError, Sender, Wait};
use std::marker::PhantomData;

trait Encode {
    fn encoded_len(&self) -> usize;
    fn encode(&self, space: &mut [u8]);
}

trait Decode: Sized {
    fn decode(bytes: &[u8]) -> Option<Self>;
}

struct TypedSender<T, S> {
    inner: S,
    sends: PhantomData<fn(T)>,
}

impl<T: Encode, S: Sender> TypedSender<T, S> {
    fn new(inner: S) -> Self {
        Self { inner, sends: PhantomData }
    }

    fn send(&mut self, value: &T, wait: Wait<'_>) -> Result<(), SendError> {
        let mut loan = self.inner.loan(value.encoded_len(), wait)?;
        value.encode(&mut loan);
        loan.commit(wait).map_err(|rejected| rejected.error)
    }
}

struct TypedReceiver<T, R> {
    inner: R,
    receives: PhantomData<fn() -> T>,
}

#[derive(Debug)]
enum TypedError {
    Recv(RecvError),
    /// The message is none of this type; the receiver still holds it.
    Undecodable,
}

impl<T: Decode, R: Receiver> TypedReceiver<T, R> {
    fn new(inner: R) -> Self {
        Self { inner, receives: PhantomData }
    }

    fn recv(&mut self, wait: Wait<'_>) -> Result<T, TypedError> {
        let message = self.inner.receive(wait).map_err(TypedError::Recv)?;
        match T::decode(&message) {
            Some(value) => Ok(value),
            None => {
                message.keep();
                Err(TypedError::Undecodable)
            }
        }
    }
}

#[derive(Debug, PartialEq)]
struct Order {
    count: u32,
    what: String,
}

impl Encode for Order {
    fn encoded_len(&self) -> usize {
        4 + self.what.len()
    }

    fn encode(&self, space: &mut [u8]) {
        let (count, what) = space.split_at_mut(4);
        count.copy_from_slice(&self.count.to_le_bytes());
        what.copy_from_slice(self.what.as_bytes());
    }
}

impl Decode for Order {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (count, what) = bytes.split_first_chunk()?;
        let what = String::from_utf8(what.to_vec()).ok()?;
        Some(Self { count: u32::from_le_bytes(*count), what })
    }
}

#[test]
fn values_arrive_as_they_were_sent() {
    let (tx, rx) = channel(2);
    let (mut tx, mut rx) = (TypedSender::new(tx), TypedReceiver::new(rx));
    let order = Order { count: 42, what: "apples".into() };
    tx.send(&order, Wait::Never).unwrap();
    assert_eq!(rx.recv(Wait::Never).unwrap(), order);
    let empty: Result<Order, _> = rx.recv(Wait::Never);
    assert!(matches!(empty, Err(TypedError::Recv(RecvError::WouldBlock))));
}

#[test]
fn a_value_too_long_is_refused() {
    let mut tx = TypedSender::new(channel(1).0);
    let long = Order { count: 1, what: "x".repeat(61) };
    assert!(matches!(tx.send(&long, Wait::Never), Err(SendError::TooLong { len: 65, max: 64 })));
}

#[test]
fn what_does_not_decode_is_still_held() {
    let (mut tx, rx) = channel(2);
    let mut rx = TypedReceiver::<Order, _>::new(rx);
    tx.send(b"no").unwrap();
    assert!(matches!(rx.recv(Wait::Never), Err(TypedError::Undecodable)));
    assert_eq!(&*rx.inner.held(), b"no");
}
