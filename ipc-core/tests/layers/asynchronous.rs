//! A layer for async code: receiving and sending as futures, without a runtime.
//!
//! A future asks without waiting. Nothing tells it when to ask again (that takes a
//! descriptor to poll, which is a backend's matter), so a clock thread wakes it now and
//! then.

use crate::channel;
use ipc_core::{Receiver, RecvError, SendError, Sender, Wait};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

/// Wakes whoever asks, at the next tick. Its thread ends with it.
#[derive(Clone)]
struct Clock {
    sleepers: mpsc::Sender<Waker>,
}

impl Clock {
    fn new(tick: Duration) -> Self {
        let (sleepers, asking) = mpsc::channel::<Waker>();
        thread::spawn(move || {
            loop {
                thread::sleep(tick);
                match asking.recv_timeout(tick) {
                    Ok(waker) => waker.wake(),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                asking.try_iter().for_each(Waker::wake);
            }
        });
        Self { sleepers }
    }

    fn wake_later<T>(&self, context: &Context<'_>) -> Poll<T> {
        self.sleepers.send(context.waker().clone()).expect("the clock runs");
        Poll::Pending
    }
}

struct AsyncReceiver<R> {
    inner: R,
    clock: Clock,
}

impl<R: Receiver> AsyncReceiver<R> {
    async fn next(&mut self) -> Result<R::Message<'_>, RecvError> {
        poll_fn(|context| match self.inner.advance(Wait::Never) {
            Err(RecvError::WouldBlock) => self.clock.wake_later(context),
            answer => Poll::Ready(answer),
        })
        .await?;
        Ok(self.inner.held())
    }
}

struct AsyncSender<S> {
    inner: S,
    clock: Clock,
}

impl<S: Sender> AsyncSender<S> {
    async fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        poll_fn(|context| match self.inner.try_send(message) {
            Err(SendError::WouldBlock) => self.clock.wake_later(context),
            answer => Poll::Ready(answer),
        })
        .await
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_future_of_a_message_lends_it() {
    let (tx, rx) = channel(2);
    let clock = Clock::new(Duration::from_micros(200));
    let (mut tx, mut rx) =
        (AsyncSender { inner: tx, clock: clock.clone() }, AsyncReceiver { inner: rx, clock });
    let numbers = 0..100_u32;
    let sender = {
        let numbers = numbers.clone();
        thread::spawn(move || {
            block_on(async {
                for number in numbers {
                    tx.send(&number.to_le_bytes()).await.unwrap();
                }
            });
        })
    };
    block_on(async {
        for number in numbers {
            assert_eq!(&*rx.next().await.unwrap(), number.to_le_bytes());
        }
    });
    sender.join().unwrap();
}

#[test]
fn an_abandoned_future_has_taken_nothing() {
    let (mut tx, rx) = channel(2);
    let mut rx = AsyncReceiver { inner: rx, clock: Clock::new(Duration::from_micros(200)) };
    {
        let mut abandoned = pin!(rx.next());
        let mut context = Context::from_waker(Waker::noop());
        assert!(abandoned.as_mut().poll(&mut context).is_pending());
        tx.send(b"for the next one").unwrap();
    }
    assert_eq!(&*block_on(rx.next()).unwrap(), b"for the next one");
}

/// Futures of endpoints move between threads, as executors need.
#[test]
fn the_futures_are_send() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let (tx, rx) = channel(1);
    let clock = Clock::new(Duration::from_micros(200));
    let mut tx = AsyncSender { inner: tx, clock: clock.clone() };
    let mut rx = AsyncReceiver { inner: rx, clock };
    block_on(assert_send(tx.send(b"moved"))).unwrap();
    assert_eq!(&*block_on(assert_send(rx.next())).unwrap(), b"moved");
}
