//! Looking on at a lossy broadcast: API → ring, and nothing back.

use super::{Outlook, Window};
use crate::{
    broadcast::{News, subscribers_asleep},
    ring::{
        broadcast::{Copies, Geometry, Next, Reader, Record},
        memory::Words,
    },
    segment::Onlooker,
    wait::Waiting,
};
use ipc_core::{
    Batch, BatchReceiver, ChannelError, Message, Receiver, RecvError, Sequenced, Unwinding, Wait,
};
use std::{collections::VecDeque, ops::Deref};

/// A subscribing end of a lossy broadcast that only reads ([`Broadcast::observe`]).
///
/// It sees what a [`BroadcastSubscriber`](crate::BroadcastSubscriber) sees, whatever others do:
/// every message whose sending starts after it was made, those of each publisher in order, and
/// where it was too slow, exactly how many it missed. But nobody knows of it. It isn't listed,
/// there may be any number, and none is woken: after the spinning it looks every 0.1 ms at
/// first and every 10 ms at last, so that a message may be noticed that much later, and a
/// cancellation too. [`Waiting::Spin`] has no such pauses.
///
/// It keeps the channel's name from being removed. The last one out of a transient channel takes
/// the name along only if it may write there; the next one that opens the channel does so, else.
///
/// Whoever may read the file may hold up, by locks on it, those who come to it or remove it; it
/// can't change what they send and receive.
///
/// [`Broadcast::observe`]: crate::Broadcast::observe
///
/// ```
/// # use ipc_shm::{Broadcast, Channel, ChannelName, Receiver, Sender, ShmConfig, Transport};
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-observe-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let name = ChannelName::new("news")?;
/// let broadcasts = Broadcast::at(&directory);
/// let news = broadcasts.create(&name, &ShmConfig::new().mode(0o640))?;
/// let mut tx = news.sender()?;
///
/// // Another user, in the file's group: `Broadcast::at(…).trust([owner])`.
/// let mut rx = broadcasts.observe(&name)?;
/// tx.send(b"hello")?;
/// assert_eq!(&*rx.recv()?, b"hello");
/// # drop((tx, rx, news));
/// # broadcasts.remove(&name)?;
/// # std::fs::remove_dir(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BroadcastObserver<O: Outlook = Window> {
    ring: Reader<Words>,
    /// The message held, which is among the copies, and the rest of a batch.
    held: Option<Record>,
    rest: VecDeque<Record>,
    /// What was found behind them, and is reported when they are released.
    ahead: Option<Ahead>,
    copies: Copies,
    outlook: O,
}

/// What isn't a message.
#[derive(Debug)]
enum Ahead {
    End,
    Missed(u64),
}

impl From<Ahead> for RecvError {
    fn from(ahead: Ahead) -> Self {
        match ahead {
            Ahead::End => Self::End,
            Ahead::Missed(missed) => Self::Lagged { missed },
        }
    }
}

impl BroadcastObserver {
    pub(crate) fn new(onlooker: Onlooker) -> Result<Self, ChannelError> {
        let layout = *onlooker.layout();
        let geometry = Geometry::of(&layout, &onlooker.header().geometry);
        if !geometry.lossy {
            return Err(ChannelError::Unsupported(
                "the publishers of a reliable broadcast wait for those they know of, and nobody knows of one who \
                 only looks on: make the channel with the policy drop-oldest, or subscribe"
                    .into(),
            ));
        }
        let window = Window::new(onlooker, subscribers_asleep(&layout));
        let ring = Reader::observe(window.words.clone(), geometry)?;
        Ok(Self::at(ring, window))
    }
}

impl<O: Outlook> BroadcastObserver<O> {
    pub(crate) fn at(ring: Reader<Words>, outlook: O) -> Self {
        Self { ring, held: None, rest: VecDeque::new(), ahead: None, copies: Copies::default(), outlook }
    }

    /// The memory, which can only be loaded from.
    pub(crate) fn memory(&self) -> &Words {
        self.ring.memory()
    }

    /// Sets how this endpoint waits for messages; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.outlook.set_waiting(waiting);
    }

    /// Which publisher the message came from: 1 to the channel's number of publishers.
    pub fn publisher_of(message: &ObservedMessage<'_, O>) -> u32 {
        message.record.publisher()
    }

    /// The way of [`advance`](Receiver::advance) when there is nothing yet.
    #[inline(never)]
    fn wait_for_record(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let next = self.outlook.until(wait, News::of(&mut self.ring, &mut self.copies))?;
        self.take(next).map(drop)
    }

    /// Holds a message, if it is one; what else there is, is reported and done with.
    #[inline]
    fn take(&mut self, next: Next) -> Result<bool, RecvError> {
        match next {
            Next::Nothing | Next::Overtaken => Ok(false),
            Next::Record(end) if end.is_end() => Err(Ahead::End.into()),
            Next::Record(record) => {
                self.held = Some(record);
                Ok(true)
            }
            Next::Missed(missed) => Err(Ahead::Missed(missed).into()),
        }
    }

    /// Makes room among the copies, before something is added.
    fn tidy_up(&mut self) {
        let Some(held) = &mut self.held else { return };
        let moved = self.copies.forget(held.at());
        if moved > 0 {
            held.moved(moved);
            self.rest.iter_mut().for_each(|record| record.moved(moved));
        }
    }

    fn bytes(&self, record: &Record) -> &[u8] {
        self.copies.get(record.at(), record.len())
    }
}

impl<O: Outlook + Send> Receiver for BroadcastObserver<O> {
    type Message<'a>
        = ObservedMessage<'a, O>
    where
        Self: 'a;

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.advance_now()? {
            return Ok(());
        }
        self.wait_for_record(wait)
    }

    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.outlook.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.held.is_some() {
            return Ok(true);
        }
        if let Some(ahead) = self.ahead.take() {
            return Err(ahead.into());
        }
        self.copies.clear();
        let next = self.ring.next(&mut self.copies)?;
        self.take(next)
    }

    #[inline]
    fn held(&mut self) -> ObservedMessage<'_, O> {
        assert!(self.outlook.is_ours(), "held() in a forked child");
        let record = self.held.expect("held() without a successful advance()");
        ObservedMessage { observer: self, record, unwinding: Unwinding::watch() }
    }
}

impl<O: Outlook + Send> BatchReceiver for BroadcastObserver<O> {
    type Batch<'a>
        = ObservedBatch<'a, O>
    where
        Self: 'a;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.advance(wait)?;
        self.tidy_up();
        // A publisher that is faster than we copy would have us copy for ever.
        let mut bytes_left = self.ring.geometry().capacity;
        while self.rest.len() + 1 < max_messages && self.ahead.is_none() && bytes_left > 0 {
            match self.ring.next(&mut self.copies) {
                Ok(Next::Record(end)) if end.is_end() => self.ahead = Some(Ahead::End),
                Ok(Next::Record(record)) => {
                    self.rest.push_back(record);
                    bytes_left = bytes_left.saturating_sub(record.size());
                }
                Ok(Next::Missed(missed)) => self.ahead = Some(Ahead::Missed(missed)),
                // What is corrupt is found again when nothing is held any more.
                Ok(Next::Nothing | Next::Overtaken) | Err(_) => break,
            }
        }
        Ok(self.rest.len() + 1)
    }

    fn held_batch(&mut self) -> ObservedBatch<'_, O> {
        assert!(self.outlook.is_ours(), "held_batch() in a forked child");
        ObservedBatch { observer: self }
    }
}

impl<O: Outlook + Send> Sequenced for BroadcastObserver<O> {
    /// The message's number among those of its publisher, and of those that had its number
    /// before: 0 for the first that was ever sent. What is skipped was missed.
    fn sequence_of(message: &ObservedMessage<'_, O>) -> u64 {
        message.record.number()
    }
}

/// A message lent by a [`BroadcastObserver`]: its own copy, which nobody changes.
#[derive(Debug)]
pub struct ObservedMessage<'a, O: Outlook = Window> {
    observer: &'a mut BroadcastObserver<O>,
    record: Record,
    unwinding: Unwinding,
}

impl<O: Outlook> Message for ObservedMessage<'_, O> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl<O: Outlook> Deref for ObservedMessage<'_, O> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.observer.bytes(&self.record)
    }
}

impl<O: Outlook> Drop for ObservedMessage<'_, O> {
    #[inline]
    fn drop(&mut self) {
        if !self.unwinding.has_begun() {
            self.observer.held = self.observer.rest.pop_front();
        }
    }
}

/// Messages lent together by a [`BroadcastObserver`]: its own copies.
#[derive(Debug)]
pub struct ObservedBatch<'a, O: Outlook = Window> {
    observer: &'a mut BroadcastObserver<O>,
}

impl<O: Outlook> Batch for ObservedBatch<'_, O> {
    fn len(&self) -> usize {
        usize::from(self.observer.held.is_some()) + self.observer.rest.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.observer.held.iter().chain(&self.observer.rest).map(|record| self.observer.bytes(record))
    }

    fn release(self, count: usize) {
        let Some(rest) = count.min(self.len()).checked_sub(1) else { return };
        self.observer.rest.drain(..rest);
        self.observer.held = self.observer.rest.pop_front();
    }
}
