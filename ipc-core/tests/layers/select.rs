//! A layer that receives from whichever of two receivers has a message, of two different
//! types.

use crate::channel;
use ipc_core::{Cancel, Message, Receiver, RecvError, Sender, Wait};
use std::{
    ops::Deref,
    thread,
    time::{Duration, Instant},
};

enum Either<L, R> {
    Left(L),
    Right(R),
}

impl<L: Message, R: Message> Deref for Either<L, R> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Left(message) => message,
            Self::Right(message) => message,
        }
    }
}

impl<L: Message, R: Message> Message for Either<L, R> {
    fn keep(self) {
        match self {
            Self::Left(message) => message.keep(),
            Self::Right(message) => message.keep(),
        }
    }
}

/// A receiver of both. It starts with the one that didn't have the last word, so that
/// neither starves.
struct Select<A, B> {
    left: A,
    right: B,
    right_first: bool,
}

impl<A: Receiver, B: Receiver> Select<A, B> {
    fn new(left: A, right: B) -> Self {
        Self { left, right, right_first: false }
    }

    /// Whether there is a message; `right_first` then says where.
    fn poll(&mut self) -> Result<bool, RecvError> {
        for _ in 0..2 {
            let answer = match self.right_first {
                true => self.right.advance(Wait::Never),
                false => self.left.advance(Wait::Never),
            };
            match answer {
                Ok(()) => return Ok(true),
                Err(RecvError::WouldBlock) => self.right_first = !self.right_first,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl<A: Receiver, B: Receiver> Receiver for Select<A, B> {
    type Message<'a>
        = Either<A::Message<'a>, B::Message<'a>>
    where
        Self: 'a;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        while !self.poll()? {
            if matches!(wait, Wait::Never) {
                return Err(RecvError::WouldBlock);
            }
            if wait.is_cancelled() {
                return Err(RecvError::Cancelled);
            }
            if wait.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(RecvError::TimedOut);
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    fn held(&mut self) -> Self::Message<'_> {
        let right = self.right_first;
        match right {
            true => Either::Right(self.right.held()),
            false => Either::Left(self.left.held()),
        }
    }
}

#[test]
fn select_takes_from_either_side() {
    let ((mut left_tx, left), (mut right_tx, right)) = (channel(2), channel(2));
    let mut both = Select::new(left, right);
    assert!(matches!(both.try_recv().err(), Some(RecvError::WouldBlock)));
    right_tx.send(b"right").unwrap();
    assert!(matches!(both.recv().unwrap(), Either::Right(message) if &*message == b"right"));
    left_tx.send(b"left").unwrap();
    both.recv().unwrap().keep();
    assert!(matches!(both.recv().unwrap(), Either::Left(message) if &*message == b"left"));
    assert!(matches!(both.recv_timeout(Duration::ZERO).err(), Some(RecvError::TimedOut)));
}

#[test]
fn selects_nest_so_that_three_are_two_and_one() {
    let ends = [channel(1), channel(1), channel(1)];
    let [(mut first_tx, first), (mut second_tx, second), (mut third_tx, third)] = ends;
    let mut all = Select::new(Select::new(first, second), third);
    thread::scope(|threads| {
        threads.spawn(|| {
            for tx in [&mut first_tx, &mut second_tx, &mut third_tx] {
                tx.send(b"one").unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..3 {
            assert_eq!(&*all.recv().unwrap(), b"one");
        }
    });
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(all.advance(Wait::Forever.or_cancel(&cancel)), Err(RecvError::Cancelled)));
}
