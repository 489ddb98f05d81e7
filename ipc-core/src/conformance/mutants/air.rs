//! Channels of the other kinds, in one process, without a fault or with one: broadcasts that
//! wait and such that lose, a queue that drops its oldest, the newest value.
//!
//! Each receiver has a queue of its own and a sender puts its message into each, under one
//! lock; a queue of shared messages is one that all receivers have.

use super::until;
#[cfg(unix)]
use crate::local::bell::{Bell, Ringer};
use crate::{
    Batch, BatchReceiver, BatchSender, Capabilities, Channel, ChannelError, ChannelInfo, ChannelName,
    EndMark, Loan, Message, Receiver, RecvError, Rejected, SendError, Sender, Sequenced, Transport, Unready,
    Unwinding, Wait,
};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::{Deref, DerefMut},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

/// What kind of channel it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// A broadcast that waits for the slowest receiver.
    Reliable,
    /// A broadcast that doesn't.
    Lossy,
    /// A queue that drops its oldest message.
    Dropping,
    Newest,
}

impl Kind {
    pub(super) fn promises(self) -> Capabilities {
        match self {
            Self::Reliable => Capabilities::NONE.with_broadcasts(),
            Self::Lossy => Capabilities::NONE.with_broadcasts().with_lossy(),
            Self::Dropping => Capabilities::NONE.with_stores().with_lossy(),
            Self::Newest => Capabilities::NONE.with_stores().with_conflates(),
        }
    }
}

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flaw {
    None,
    OneGetsAll,
    LateGetsEarlier,
    WaitsForSomebody,
    SecondSenderIsUnheard,
    OverwritesSilently,
    StaysAfterDrop,
    GivesToOthers,
    SenderTakesAlong,
    WaitsWhenFull,
    MissesOneMore,
    AllMissTogether,
    LateMissesEarlier,
    OverwritesHeld,
    BatchForgetsGap,
    DropsNewest,
    Queues,
    ForgetsNewest,
    StepsBack,
    SendsAborted,
    RingsOneBell,
    NumbersPerReceiver,
    NumbersShrink,
}

#[derive(Clone)]
pub(super) struct Air {
    pub(super) kind: Kind,
    pub(super) flaw: Flaw,
    pub(super) channels: Arc<Mutex<BTreeMap<ChannelName, Arc<Shared>>>>,
}

impl Air {
    fn channels(&self) -> MutexGuard<'_, BTreeMap<ChannelName, Arc<Shared>>> {
        self.channels.lock().expect("no panic under it")
    }
}

#[derive(Clone, Default)]
pub(super) struct AirConfig {
    pub(super) depth: usize,
    pub(super) max_message_len: usize,
}

impl Transport for Air {
    type Config = AirConfig;
    type Channel = AirChannel;

    const SCHEME: &'static str = "air";
    const CAPABILITIES: Capabilities = Capabilities::NONE;

    fn create(&self, name: &ChannelName, config: &AirConfig) -> Result<AirChannel, ChannelError> {
        let mut channels = self.channels();
        if channels.contains_key(name) {
            return Err(ChannelError::AlreadyExists);
        }
        let shared = Arc::new(Shared::new(self.kind, self.flaw, config));
        channels.insert(name.clone(), Arc::clone(&shared));
        Ok(AirChannel { shared })
    }

    fn open(&self, name: &ChannelName) -> Result<AirChannel, ChannelError> {
        let shared = self.channels().get(name).cloned().ok_or(ChannelError::NotFound)?;
        Ok(AirChannel { shared })
    }

    fn open_or_create(&self, name: &ChannelName, config: &AirConfig) -> Result<AirChannel, ChannelError> {
        let created = self.create(name, config);
        let Err(ChannelError::AlreadyExists) = created else { return created };
        let opened = self.open(name)?;
        let (asked, found) = (config.max_message_len, opened.shared.max_message_len);
        if asked != found {
            let (asked, found) = (asked.to_string(), found.to_string());
            return Err(ChannelError::Mismatch { setting: "max_message_len", asked, found });
        }
        Ok(opened)
    }

    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        let shared = self.channels().remove(name).ok_or(ChannelError::NotFound)?;
        let mut state = shared.state();
        state.removed = true;
        shared.tell(&mut state);
        Ok(())
    }

    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        Ok(self.channels().keys().cloned().collect())
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let shared = self.open(name)?.shared;
        let mut info = ChannelInfo::new("air");
        info.depth = Some(shared.depth as u64);
        info.lost_messages = (shared.kind == Kind::Dropping).then(|| shared.state().lost);
        Ok(info)
    }
}

pub(super) struct AirChannel {
    shared: Arc<Shared>,
}

impl Channel for AirChannel {
    type Sender = AirSender;
    type Receiver = AirReceiver;

    fn sender(&self) -> Result<AirSender, ChannelError> {
        let mut state = self.shared.state();
        let id = state.senders;
        state.senders += 1;
        let space = Vec::new();
        Ok(AirSender { shared: Arc::clone(&self.shared), id, space, sent: 0 })
    }

    fn receiver(&self) -> Result<AirReceiver, ChannelError> {
        let id = self.shared.subscribe();
        Ok(AirReceiver {
            shared: Arc::clone(&self.shared),
            id,
            held: VecDeque::new(),
            released: 0,
            #[cfg(unix)]
            bell: None,
        })
    }
}

pub(super) struct Shared {
    kind: Kind,
    flaw: Flaw,
    depth: usize,
    max_message_len: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    inboxes: BTreeMap<u64, Inbox>,
    /// Of receivers that were ever made, and of senders.
    receivers: u64,
    senders: u64,
    /// Messages that were ever sent.
    sent: u64,
    lost: u64,
    newest: Option<Item>,
    removed: bool,
    #[cfg(unix)]
    bells: Vec<Ringer>,
}

/// What a receiver has yet to receive.
#[derive(Default)]
struct Inbox {
    items: VecDeque<Item>,
    held: usize,
    missed: u64,
}

#[derive(Clone)]
struct Item {
    /// None is an end mark.
    bytes: Option<Vec<u8>>,
    sequence: u64,
}

impl Shared {
    fn new(kind: Kind, flaw: Flaw, config: &AirConfig) -> Self {
        let &AirConfig { depth, max_message_len } = config;
        let mut state = State::default();
        if kind == Kind::Dropping {
            state.inboxes.insert(0, Inbox::default());
        }
        Self { kind, flaw, depth, max_message_len, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under it")
    }

    fn subscribe(&self) -> u64 {
        if self.kind == Kind::Dropping {
            return 0;
        }
        let mut state = self.state();
        let id = state.receivers;
        state.receivers += 1;
        let mut inbox = Inbox::default();
        let inherits = self.kind == Kind::Newest && self.flaw != Flaw::ForgetsNewest;
        if inherits || self.flaw == Flaw::LateGetsEarlier {
            inbox.items.extend(state.newest.clone());
        }
        if self.flaw == Flaw::LateMissesEarlier {
            inbox.missed = state.sent;
        }
        state.inboxes.insert(id, inbox);
        id
    }

    /// Tells all who wait that something changed.
    fn tell(&self, state: &mut State) {
        #[cfg(unix)]
        {
            if self.flaw == Flaw::RingsOneBell {
                state.bells.truncate(1);
            }
            state.bells.drain(..).for_each(Ringer::ring);
        }
        let _ = state;
        self.changed.notify_all();
    }

    /// Whether a message can be sent now.
    fn has_room(&self, state: &State) -> bool {
        let waits = match self.flaw {
            Flaw::OverwritesSilently => false,
            Flaw::WaitsWhenFull => true,
            _ => self.kind == Kind::Reliable,
        };
        if state.inboxes.is_empty() {
            return self.flaw != Flaw::WaitsForSomebody;
        }
        let depth = if self.kind == Kind::Newest { 1 } else { self.depth };
        !waits || state.inboxes.values().all(|inbox| inbox.items.len() + inbox.held < depth)
    }

    fn put(&self, state: &mut State, item: Item) {
        let (depth, kind, flaw) = (self.depth, self.kind, self.flaw);
        let mut lost = 0;
        let mut overflown = false;
        let only = (flaw == Flaw::OneGetsAll).then(|| state.inboxes.keys().min().copied()).flatten();
        for (id, inbox) in &mut state.inboxes {
            if only.is_some_and(|only| only != *id) {
                continue;
            }
            if kind == Kind::Newest && flaw != Flaw::Queues {
                if flaw != Flaw::StepsBack || item.sequence % 2 == 0 {
                    inbox.items.clear();
                }
                inbox.items.push_front(item.clone());
                continue;
            }
            if inbox.items.len() == depth {
                overflown = true;
                if flaw != Flaw::DropsNewest {
                    inbox.items.pop_front();
                }
                match kind {
                    Kind::Lossy => inbox.missed += 1,
                    _ => lost += 1,
                }
            }
            if flaw != Flaw::DropsNewest || !overflown {
                inbox.items.push_back(item.clone());
            }
        }
        if overflown && flaw == Flaw::AllMissTogether {
            for inbox in state.inboxes.values_mut() {
                inbox.missed += inbox.items.len() as u64;
                inbox.items.clear();
            }
        }
        state.lost += lost;
        state.sent += 1;
        state.newest = Some(item);
        self.tell(state);
    }

    /// Waits until `attempt` answers.
    fn until<T>(
        &self,
        wait: Wait<'_>,
        mut attempt: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Unready> {
        until(&self.state, &self.changed, wait, |state| match attempt(state) {
            None if state.removed => Err(Unready::Closed),
            answer => Ok(answer),
        })
    }
}

pub(super) struct AirSender {
    shared: Arc<Shared>,
    id: u64,
    space: Vec<u8>,
    sent: u64,
}

impl AirSender {
    /// Sends the first of these, and those behind it for which there is room.
    fn put(&mut self, items: &[Option<&[u8]>], wait: Wait<'_>) -> Result<usize, SendError> {
        let Self { shared, id, sent, .. } = self;
        let unheard = shared.flaw == Flaw::SecondSenderIsUnheard && *id > 0;
        let put = shared.until(wait, |state| {
            if state.removed {
                return None;
            }
            let mut count = 0;
            while count < items.len() && shared.has_room(state) {
                // Each publisher counts for itself, where it is one.
                let number = if shared.kind.promises().broadcasts { *sent } else { state.sent };
                let sequence = if shared.flaw == Flaw::NumbersShrink { u64::MAX - number } else { number };
                *sent += 1;
                if !unheard {
                    shared.put(state, Item { bytes: items[count].map(<[u8]>::to_vec), sequence });
                }
                count += 1;
            }
            (count > 0).then_some(count)
        })?;
        Ok(put)
    }
}

impl Sender for AirSender {
    type Loan<'a> = AirLoan<'a>;

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

    fn reserved(&mut self) -> AirLoan<'_> {
        AirLoan { sender: self, done: false }
    }
}

impl EndMark for AirSender {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        self.put(&[None], wait).map(drop)
    }
}

impl BatchSender for AirSender {
    fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M], wait: Wait<'_>) -> Result<usize, SendError> {
        let max = self.shared.max_message_len;
        let fit = messages.iter().map(AsRef::as_ref).take_while(|message| message.len() <= max);
        let fit: Vec<Option<&[u8]>> = fit.map(Some).collect();
        match messages.first() {
            None => Ok(0),
            Some(first) if fit.is_empty() => Err(SendError::TooLong { len: first.as_ref().len(), max }),
            Some(_) => {
                self.space.clear();
                self.put(&fit, wait)
            }
        }
    }
}

impl Drop for AirSender {
    fn drop(&mut self) {
        if self.shared.flaw == Flaw::SenderTakesAlong {
            let mut state = self.shared.state();
            state.inboxes.values_mut().for_each(|inbox| inbox.items.clear());
            state.newest = None;
        }
    }
}

pub(super) struct AirLoan<'a> {
    sender: &'a mut AirSender,
    done: bool,
}

impl Loan for AirLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.sender.space.truncate(len);
    }

    fn commit(mut self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        let message = self.sender.space.clone();
        match self.sender.put(&[Some(&message)], wait) {
            Ok(_) => {
                self.done = true;
                self.sender.space.clear();
                Ok(())
            }
            Err(error) => Err(Rejected { loan: self, error }),
        }
    }
}

impl Deref for AirLoan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sender.space
    }
}

impl DerefMut for AirLoan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.sender.space
    }
}

impl Drop for AirLoan<'_> {
    fn drop(&mut self) {
        if self.sender.shared.flaw == Flaw::SendsAborted && !self.done {
            let message = self.sender.space.clone();
            let _ = self.sender.put(&[Some(&message)], Wait::Never);
        }
    }
}

pub(super) struct AirReceiver {
    shared: Arc<Shared>,
    id: u64,
    held: VecDeque<Item>,
    released: u64,
    #[cfg(unix)]
    bell: Option<Bell>,
}

impl AirReceiver {
    fn release(&mut self, count: usize) {
        let count = count.min(self.held.len());
        self.held.drain(..count);
        self.released += count as u64;
        let mut state = self.shared.state();
        if let Some(inbox) = state.inboxes.get_mut(&self.id) {
            inbox.held -= count;
        }
        self.shared.tell(&mut state);
    }

    /// Takes one more message, or what stands before it.
    fn take(&mut self, wait: Wait<'_>, tell_gap: bool) -> Result<(), RecvError> {
        let (id, flaw) = (self.id, self.shared.flaw);
        let item = self.shared.until(wait, |state| {
            let inbox = state.inboxes.get_mut(&id)?;
            if inbox.missed > 0 && tell_gap {
                let missed = inbox.missed + u64::from(flaw == Flaw::MissesOneMore);
                inbox.missed = 0;
                return Some(Err(RecvError::Lagged { missed }));
            }
            let item = inbox.items.pop_front()?;
            inbox.held += usize::from(item.bytes.is_some());
            Some(Ok(item))
        })??;
        if item.bytes.is_none() {
            self.shared.tell(&mut self.shared.state());
            return Err(RecvError::End);
        }
        self.held.push_back(item);
        Ok(())
    }

    /// Whether a message follows, not a gap nor an end mark.
    fn one_more(&self) -> bool {
        let state = self.shared.state();
        state.inboxes.get(&self.id).is_some_and(|inbox| {
            inbox.missed == 0 && inbox.items.front().is_some_and(|item| item.bytes.is_some())
        })
    }
}

impl Receiver for AirReceiver {
    type Message<'a> = AirMessage<'a>;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.held.is_empty() { self.take(wait, true) } else { Ok(()) }
    }

    fn held(&mut self) -> AirMessage<'_> {
        assert!(!self.held.is_empty(), "held() without a successful advance()");
        if self.shared.flaw == Flaw::OverwritesHeld {
            let state = self.shared.state();
            let newer = state.inboxes.get(&self.id).and_then(|inbox| inbox.items.front());
            self.held[0] = newer.cloned().unwrap_or_else(|| self.held[0].clone());
        }
        AirMessage { receiver: self, release: true, unwinding: Unwinding::watch() }
    }
}

impl BatchReceiver for AirReceiver {
    type Batch<'a> = AirBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        if self.held.is_empty() {
            self.take(wait, self.shared.flaw != Flaw::BatchForgetsGap)?;
        }
        while self.held.len() < max_messages && self.one_more() {
            self.take(Wait::Never, true)?;
        }
        Ok(self.held.len())
    }

    fn held_batch(&mut self) -> AirBatch<'_> {
        AirBatch { receiver: self }
    }
}

impl Sequenced for AirReceiver {
    fn sequence_of(message: &AirMessage<'_>) -> u64 {
        match message.receiver.shared.flaw {
            Flaw::NumbersPerReceiver => message.receiver.released,
            _ => message.receiver.held[0].sequence,
        }
    }
}

#[cfg(unix)]
impl crate::Pollable for AirReceiver {
    fn descriptor(&mut self) -> Result<std::os::fd::BorrowedFd<'_>, crate::OsError> {
        Ok(Bell::of(&mut self.bell)?.descriptor())
    }

    fn arm(&mut self) -> Result<bool, RecvError> {
        let bell = Bell::of(&mut self.bell)?;
        bell.silence()?;
        let mut state = self.shared.state();
        let inbox = state.inboxes.get(&self.id).expect("ours");
        if !self.held.is_empty() || !inbox.items.is_empty() || inbox.missed > 0 {
            return Ok(true);
        }
        if state.removed {
            return Err(RecvError::Closed);
        }
        bell.arm(&mut state.bells);
        Ok(false)
    }
}

impl Drop for AirReceiver {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if self.shared.kind == Kind::Dropping {
            state.inboxes.get_mut(&self.id).expect("everybody's").held -= self.held.len();
        } else if self.shared.flaw != Flaw::StaysAfterDrop {
            state.inboxes.remove(&self.id);
        }
        if self.shared.flaw == Flaw::GivesToOthers {
            for inbox in state.inboxes.values_mut() {
                inbox.items.extend(self.held.iter().cloned());
            }
        }
        self.shared.tell(&mut state);
    }
}

pub(super) struct AirMessage<'a> {
    receiver: &'a mut AirReceiver,
    release: bool,
    unwinding: Unwinding,
}

impl Message for AirMessage<'_> {
    fn keep(mut self) {
        self.release = false;
    }
}

impl Deref for AirMessage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.receiver.held[0].bytes.as_deref().unwrap_or_default()
    }
}

impl Drop for AirMessage<'_> {
    fn drop(&mut self) {
        if self.release && !self.unwinding.has_begun() {
            self.receiver.release(1);
        }
    }
}

pub(super) struct AirBatch<'a> {
    receiver: &'a mut AirReceiver,
}

impl Batch for AirBatch<'_> {
    fn len(&self) -> usize {
        self.receiver.held.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.receiver.held.iter().map(|item| item.bytes.as_deref().unwrap_or_default())
    }

    fn release(self, count: usize) {
        self.receiver.release(count);
    }
}
