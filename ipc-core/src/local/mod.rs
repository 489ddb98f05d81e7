//! The reference transport: channels within one process, a mutex and two condition
//! variables around a queue.
//!
//! It is what the examples of these docs run on, a test double for programs, and the
//! plainest reading of what the traits mean.

#[cfg(unix)]
pub(crate) mod bell;

use crate::{
    Batch, BatchReceiver, BatchSender, Cancel, Capabilities, Channel, ChannelError, ChannelInfo, ChannelName,
    EndMark, Loan, Message, Receiver, RecvError, Redelivered, Rejected, SendError, Sender, Sequenced,
    Transport, Unready, Unwinding, Wait,
};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::{Deref, DerefMut},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::Wake,
    time::Instant,
};

/// A namespace of in-process channels. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Local {
    channels: Arc<Mutex<BTreeMap<ChannelName, Arc<Shared>>>>,
}

impl Local {
    /// A namespace of its own.
    pub fn new() -> Self {
        Self::default()
    }

    fn channels(&self) -> MutexGuard<'_, BTreeMap<ChannelName, Arc<Shared>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an in-process channel is made.
#[derive(Clone, Debug, Default)]
pub struct LocalConfig {
    depth: Option<usize>,
    max_message_len: Option<usize>,
}

impl LocalConfig {
    const DEFAULT_DEPTH: usize = 64;
    const DEFAULT_MAX_MESSAGE_LEN: usize = 64 * 1024;

    /// The defaults: 64 messages of at most 64 KiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for this many messages, at least one.
    #[must_use]
    pub fn depth(self, messages: usize) -> Self {
        Self { depth: Some(messages), ..self }
    }

    /// The longest message, in bytes.
    #[must_use]
    pub fn max_message_len(self, bytes: usize) -> Self {
        Self { max_message_len: Some(bytes), ..self }
    }
}

impl Transport for Local {
    type Config = LocalConfig;
    type Channel = LocalChannel;

    const SCHEME: &'static str = "local";
    const CAPABILITIES: Capabilities = Capabilities::NONE.with_stores().with_redelivers();

    fn create(&self, name: &ChannelName, config: &LocalConfig) -> Result<LocalChannel, ChannelError> {
        let shared = Arc::new(Shared::new(config)?);
        let mut channels = self.channels();
        if channels.contains_key(name) {
            return Err(ChannelError::AlreadyExists);
        }
        channels.insert(name.clone(), Arc::clone(&shared));
        Ok(LocalChannel { shared })
    }

    fn open(&self, name: &ChannelName) -> Result<LocalChannel, ChannelError> {
        let shared = self.channels().get(name).cloned().ok_or(ChannelError::NotFound)?;
        Ok(LocalChannel { shared })
    }

    fn open_or_create(&self, name: &ChannelName, config: &LocalConfig) -> Result<LocalChannel, ChannelError> {
        loop {
            match self.open(name) {
                Ok(channel) => return channel.matching(config),
                Err(ChannelError::NotFound) => {}
                Err(error) => return Err(error),
            }
            match self.create(name, config) {
                Err(ChannelError::AlreadyExists) => {}
                answer => return answer,
            }
        }
    }

    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        let shared = self.channels().remove(name).ok_or(ChannelError::NotFound)?;
        let mut queue = shared.queue();
        queue.removed = true;
        queue.ring();
        drop(queue);
        shared.wake_all();
        Ok(())
    }

    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        Ok(self.channels().keys().cloned().collect())
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let shared = self.open(name)?.shared;
        let mut info = ChannelInfo::new("local");
        info.depth = Some(shared.depth as u64);
        info.max_message_len_bytes = Some(shared.max_message_len as u64);
        let queue = shared.queue();
        let messages = queue.items.iter().filter(|item| matches!(item, Item::Message(_))).count();
        info.queued_messages = Some((messages + queue.held) as u64);
        info.sent_messages = Some(queue.sent);
        info.redelivered_messages = Some(queue.redelivered);
        Ok(info)
    }
}

/// An in-process channel: any number of senders and receivers, each message to one.
#[derive(Clone, Debug)]
pub struct LocalChannel {
    shared: Arc<Shared>,
}

impl LocalChannel {
    fn matching(self, config: &LocalConfig) -> Result<Self, ChannelError> {
        let differs = |setting, asked: Option<usize>, found: usize| match asked {
            Some(asked) if asked != found => {
                Err(ChannelError::Mismatch { setting, asked: asked.to_string(), found: found.to_string() })
            }
            _ => Ok(()),
        };
        differs("depth", config.depth, self.shared.depth)?;
        differs("max_message_len", config.max_message_len, self.shared.max_message_len)?;
        Ok(self)
    }
}

impl Channel for LocalChannel {
    type Sender = LocalSender;
    type Receiver = LocalReceiver;

    fn sender(&self) -> Result<LocalSender, ChannelError> {
        Ok(LocalSender { shared: Arc::clone(&self.shared), space: Vec::new() })
    }

    fn receiver(&self) -> Result<LocalReceiver, ChannelError> {
        Ok(LocalReceiver {
            shared: Arc::clone(&self.shared),
            held: VecDeque::new(),
            #[cfg(unix)]
            bell: None,
        })
    }
}

#[derive(Debug)]
struct Shared {
    depth: usize,
    max_message_len: usize,
    queue: Mutex<Queue>,
    not_full: Condvar,
    not_empty: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Messages that receivers hold; they still take up room.
    held: usize,
    /// Messages that were ever sent: the next one's number.
    sent: u64,
    redelivered: u64,
    removed: bool,
    /// Of receivers that want to be told of the next change.
    #[cfg(unix)]
    bells: Vec<bell::Ringer>,
}

impl Queue {
    fn push(&mut self, bytes: Vec<u8>) {
        self.items.push_back(Item::Message(Numbered { bytes, sequence: self.sent, attempts: 0 }));
        self.sent += 1;
        self.ring();
    }

    fn push_end(&mut self) {
        self.items.push_back(Item::End);
        self.ring();
    }

    fn ring(&mut self) {
        #[cfg(unix)]
        self.bells.drain(..).for_each(|bell| bell.ring());
    }
}

#[derive(Debug)]
enum Item {
    Message(Numbered),
    End,
}

#[derive(Debug)]
struct Numbered {
    bytes: Vec<u8>,
    sequence: u64,
    /// Earlier deliveries.
    attempts: u32,
}

impl Shared {
    fn new(config: &LocalConfig) -> Result<Self, ChannelError> {
        let depth = config.depth.unwrap_or(LocalConfig::DEFAULT_DEPTH);
        if depth == 0 {
            return Err(ChannelError::InvalidConfig(
                "a depth of 0 messages holds none: give at least 1".into(),
            ));
        }
        Ok(Self {
            depth,
            max_message_len: config.max_message_len.unwrap_or(LocalConfig::DEFAULT_MAX_MESSAGE_LEN),
            queue: Mutex::default(),
            not_full: Condvar::new(),
            not_empty: Condvar::new(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        self.not_full.notify_all();
        self.not_empty.notify_all();
    }

    /// Waits on `condvar` until `attempt` answers.
    fn until<T>(
        self: &Arc<Self>,
        condvar: impl Fn(&Self) -> &Condvar,
        wait: Wait<'_>,
        mut attempt: impl FnMut(&mut Queue) -> Option<T>,
    ) -> Result<T, Unready> {
        let _registration =
            wait.cancel().map(|cancel: &Cancel| cancel.register(Arc::new(WakeAll(Arc::clone(self))).into()));
        let mut queue = self.queue();
        loop {
            if let Some(answer) = attempt(&mut queue) {
                return Ok(answer);
            }
            if queue.removed {
                return Err(Unready::Closed);
            }
            if wait.is_cancelled() {
                return Err(Unready::Cancelled);
            }
            let condvar = condvar(self);
            queue = match (wait, wait.deadline()) {
                (Wait::Never, _) => return Err(Unready::WouldBlock),
                (_, None) => condvar.wait(queue).unwrap_or_else(PoisonError::into_inner),
                (_, Some(until)) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Unready::TimedOut);
                    }
                    condvar.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// Wakes a channel's waiters when their wait is cancelled.
struct WakeAll(Arc<Shared>);

impl Wake for WakeAll {
    fn wake(self: Arc<Self>) {
        // Under the lock, or the notification could fall between a waiter's check and its
        // sleep.
        let _queue = self.0.queue();
        self.0.wake_all();
    }
}

/// The sending end of an in-process channel.
#[derive(Debug)]
pub struct LocalSender {
    shared: Arc<Shared>,
    space: Vec<u8>,
}

impl LocalSender {
    /// Waits for room, then has `push` use it; it is told for how many messages there is.
    fn push<T>(&self, wait: Wait<'_>, mut push: impl FnMut(&mut Queue, usize) -> T) -> Result<T, SendError> {
        let depth = self.shared.depth;
        let pushed = self.shared.until(
            |shared| &shared.not_full,
            wait,
            |queue| {
                let room = depth - queue.items.len() - queue.held;
                (room > 0 && !queue.removed).then(|| push(queue, room))
            },
        )?;
        self.shared.not_empty.notify_all();
        Ok(pushed)
    }
}

impl Sender for LocalSender {
    type Loan<'a> = LocalLoan<'a>;

    fn max_message_len(&self) -> usize {
        self.shared.max_message_len
    }

    fn reserve(&mut self, len: usize, _wait: Wait<'_>) -> Result<(), SendError> {
        let max = self.shared.max_message_len;
        if len > max {
            self.space.clear();
            return Err(SendError::TooLong { len, max });
        }
        self.space.resize(len, 0);
        Ok(())
    }

    fn reserved(&mut self) -> LocalLoan<'_> {
        LocalLoan { sender: self }
    }
}

impl EndMark for LocalSender {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        self.push(wait, |queue, _| queue.push_end())
    }
}

impl BatchSender for LocalSender {
    fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M], wait: Wait<'_>) -> Result<usize, SendError> {
        let max = self.shared.max_message_len;
        let fit = |message: &&M| message.as_ref().len() <= max;
        match messages.first() {
            None => return Ok(0),
            Some(first) if !fit(&first) => {
                return Err(SendError::TooLong { len: first.as_ref().len(), max });
            }
            Some(_) => self.space.clear(),
        }
        // Under one lock, so that nobody sees a part of them.
        self.push(wait, |queue, room| {
            let sent = messages.iter().take(room).take_while(fit);
            sent.map(|message| queue.push(message.as_ref().to_vec())).count()
        })
    }
}

/// Space for one message, the endpoint's own until it is committed.
#[derive(Debug)]
pub struct LocalLoan<'a> {
    sender: &'a mut LocalSender,
}

impl Loan for LocalLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.sender.space.truncate(len);
    }

    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        let message = self.sender.space.clone();
        match self.sender.push(wait, |queue, _| queue.push(message.clone())) {
            Ok(()) => {
                self.sender.space.clear();
                Ok(())
            }
            Err(error) => Err(Rejected { loan: self, error }),
        }
    }
}

impl Deref for LocalLoan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sender.space
    }
}

impl DerefMut for LocalLoan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.sender.space
    }
}

/// The receiving end of an in-process channel. What it holds when it is dropped goes back
/// to the front of the queue.
#[derive(Debug)]
pub struct LocalReceiver {
    shared: Arc<Shared>,
    held: VecDeque<Numbered>,
    #[cfg(unix)]
    bell: Option<bell::Bell>,
}

impl LocalReceiver {
    fn release(&mut self, count: usize) {
        let count = count.min(self.held.len());
        self.held.drain(..count);
        self.shared.queue().held -= count;
        self.shared.not_full.notify_all();
    }
}

impl Receiver for LocalReceiver {
    type Message<'a> = LocalMessage<'a>;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if !self.held.is_empty() {
            return Ok(());
        }
        let item = self.shared.until(
            |shared| &shared.not_empty,
            wait,
            |queue| {
                let item = queue.items.pop_front()?;
                queue.held += usize::from(matches!(item, Item::Message(_)));
                Some(item)
            },
        )?;
        match item {
            Item::Message(message) => {
                self.held.push_back(message);
                Ok(())
            }
            Item::End => {
                self.shared.not_full.notify_all();
                Err(RecvError::End)
            }
        }
    }

    fn held(&mut self) -> LocalMessage<'_> {
        assert!(!self.held.is_empty(), "held() without a successful advance()");
        LocalMessage { receiver: self, release: true, unwinding: Unwinding::watch() }
    }
}

impl BatchReceiver for LocalReceiver {
    type Batch<'a> = LocalBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.advance(wait)?;
        let mut queue = self.shared.queue();
        while self.held.len() < max_messages && matches!(queue.items.front(), Some(Item::Message(_))) {
            if let Some(Item::Message(message)) = queue.items.pop_front() {
                queue.held += 1;
                self.held.push_back(message);
            }
        }
        Ok(self.held.len())
    }

    fn held_batch(&mut self) -> LocalBatch<'_> {
        LocalBatch { receiver: self }
    }
}

impl Sequenced for LocalReceiver {
    fn sequence_of(message: &LocalMessage<'_>) -> u64 {
        message.numbered().sequence
    }
}

impl Redelivered for LocalReceiver {
    fn attempts_of(message: &LocalMessage<'_>) -> u32 {
        message.numbered().attempts
    }
}

impl Drop for LocalReceiver {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.held -= self.held.len();
        queue.redelivered += self.held.len() as u64;
        while let Some(mut message) = self.held.pop_back() {
            message.attempts += 1;
            queue.items.push_front(Item::Message(message));
        }
        queue.ring();
        drop(queue);
        self.shared.not_empty.notify_all();
    }
}

/// A message lent by a [`LocalReceiver`].
#[derive(Debug)]
pub struct LocalMessage<'a> {
    receiver: &'a mut LocalReceiver,
    release: bool,
    unwinding: Unwinding,
}

impl LocalMessage<'_> {
    fn numbered(&self) -> &Numbered {
        &self.receiver.held[0]
    }
}

impl Message for LocalMessage<'_> {
    fn keep(mut self) {
        self.release = false;
    }
}

impl Deref for LocalMessage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.numbered().bytes
    }
}

impl Drop for LocalMessage<'_> {
    fn drop(&mut self) {
        if self.release && !self.unwinding.has_begun() {
            self.receiver.release(1);
        }
    }
}

/// Messages lent together by a [`LocalReceiver`].
#[derive(Debug)]
pub struct LocalBatch<'a> {
    receiver: &'a mut LocalReceiver,
}

impl Batch for LocalBatch<'_> {
    fn len(&self) -> usize {
        self.receiver.held.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.receiver.held.iter().map(|message| &*message.bytes)
    }

    fn release(self, count: usize) {
        self.receiver.release(count);
    }
}
