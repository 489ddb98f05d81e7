//! The reference transport with a fault.

use crate::{
    Batch, BatchReceiver, BatchSender, Cancel, Capabilities, Channel, ChannelError, ChannelInfo, ChannelName,
    EndMark, Loan, Message, Receiver, RecvError, Redelivered, Rejected, SendError, Sender, Sequenced,
    Transport, Wait,
    local::{Local, LocalBatch, LocalChannel, LocalConfig, LocalMessage, LocalReceiver, LocalSender},
};
use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    None,
    // Sending.
    HoldsBack,
    DropsSeventh,
    SwallowsEmpty,
    CutsLast,
    CutsTooLong,
    HalfDepth,
    SendsAborted,
    IgnoresTruncate,
    TruncateClears,
    KeepsFirstReservation,
    ReservesByItself,
    ReservationStays,
    RefusalKeepsReservation,
    AbortForgetsReservation,
    SendsOnDrop,
    RejectsByWiping,
    EndIsEmpty,
    SendsBatchOneByOne,
    SendsBatchBackwards,
    SendsBatchWithoutLast,
    SendsBatchWaitingForEach,
    SendsBatchWithoutWaiting,
    SendsBatchLessTooLong,
    RefusesBatchForLater,
    EmptyBatchIsEmptyMessage,
    BatchKeepsReservation,
    // Receiving.
    AppendsInto,
    ForgetsKeep,
    NeverReleases,
    AdvanceReleases,
    LendsNothing,
    PanicReleases,
    PanicKeepsAll,
    BatchIgnoresLimit,
    BatchReleasesOnDrop,
    BatchReleasesAll,
    BatchMayBeEmpty,
    BatchTakesTwo,
    NumbersByThrees,
    NumbersPerReceiver,
    NumbersSkipPerSender,
    NumbersCountLoans,
    AttemptsStayZero,
    AttemptsCountLoans,
    AttemptsForEverybody,
    // Polling.
    NeverReadable,
    AlwaysReadable,
    ArmingSaysNo,
    ArmingSaysYes,
    ArmingLooksTooEarly,
    ArmedIsDeaf,
    ManyDescriptors,
    // Waiting.
    NeverWaitsABit,
    TimesOutEarly,
    TimesOutLate,
    GivesUpFirst,
    OverflowsWait,
    SleepsThrough,
    IgnoresCancel,
    CancelledDrops,
    AlwaysCancelled,
    // Coming and going.
    CreateReplaces,
    OpenMakes,
    OpensAnothersSender,
    OpensAnothersReceiver,
    RemoveDoesNothing,
    RacersReplace,
    IgnoresSettings,
    ListForgets,
    StatIsOff,
    ReceiverComesSecond,
    OneForAll,
    SenderTakesAlong,
    ReceiverTakesAlong,
    LosesHeld,
}

impl Fault {
    /// The wait that is waited instead.
    pub(super) fn distort(self, wait: Wait<'_>) -> Wait<'_> {
        static CANCELLED: Cancel = Cancel::new();
        let century = Duration::from_secs(100 * 365 * 86_400);
        let now = Instant::now();
        match (self, wait, wait.deadline()) {
            (Self::NeverWaitsABit, Wait::Never, _) => Wait::timeout(Duration::from_millis(1)),
            (_, Wait::Never, _) => Wait::Never,
            (Self::TimesOutEarly, _, Some(until)) => Wait::Until(now + (until - now) / 2),
            (Self::TimesOutLate, _, Some(until)) => Wait::Until(until + Duration::from_millis(200)),
            (Self::OverflowsWait, _, until) if until.is_none_or(|until| until > now + century) => {
                Wait::Until(now)
            }
            (Self::SleepsThrough, _, Some(until)) => {
                thread::sleep(until - now);
                Wait::Until(now)
            }
            (Self::IgnoresCancel, _, until) => until.map_or(Wait::Forever, Wait::Until),
            (Self::AlwaysCancelled, Wait::Cancellable { .. }, _) => {
                CANCELLED.cancel();
                wait.or_cancel(&CANCELLED)
            }
            _ => wait,
        }
    }

    pub(super) fn gives_up(self, wait: Wait<'_>) -> bool {
        self == Self::GivesUpFirst && wait.deadline().is_some_and(|until| until <= Instant::now())
    }
}

pub(super) struct Faulty {
    pub(super) local: Local,
    pub(super) fault: Fault,
}

impl Faulty {
    fn name(&self, name: &ChannelName) -> ChannelName {
        match self.fault {
            Fault::OneForAll => ChannelName::new("one").expect("a valid name"),
            _ => name.clone(),
        }
    }

    fn channel(&self, local: LocalChannel) -> FaultyChannel {
        FaultyChannel { local, fault: self.fault, had_sender: AtomicBool::new(false), gone: Arc::default() }
    }

    /// One that has nothing to do with that of this name.
    fn another(&self, name: &ChannelName) -> Result<FaultyChannel, ChannelError> {
        self.open(name)?;
        Local::new().create(name, &LocalConfig::new()).map(|local| self.channel(local))
    }
}

impl Transport for Faulty {
    type Config = LocalConfig;
    type Channel = FaultyChannel;

    const SCHEME: &'static str = "faulty";
    const CAPABILITIES: Capabilities = Local::CAPABILITIES;

    fn create(&self, name: &ChannelName, config: &LocalConfig) -> Result<FaultyChannel, ChannelError> {
        let name = self.name(name);
        let created = match self.fault {
            Fault::OneForAll | Fault::RemoveDoesNothing => self.local.open_or_create(&name, config),
            Fault::CreateReplaces => {
                let _ = self.local.remove(&name);
                self.local.create(&name, config)
            }
            _ => self.local.create(&name, config),
        };
        created.map(|local| self.channel(local))
    }

    fn open(&self, name: &ChannelName) -> Result<FaultyChannel, ChannelError> {
        let opened = match self.fault {
            Fault::OpenMakes => self.local.open_or_create(name, &LocalConfig::new()),
            _ => self.local.open(&self.name(name)),
        };
        opened.map(|local| self.channel(local))
    }

    fn open_sender(&self, name: &ChannelName) -> Result<FaultySender, ChannelError> {
        match self.fault {
            Fault::OpensAnothersSender => self.another(name)?.sender(),
            _ => self.open(name)?.sender(),
        }
    }

    fn open_receiver(&self, name: &ChannelName) -> Result<FaultyReceiver, ChannelError> {
        match self.fault {
            Fault::OpensAnothersReceiver => self.another(name)?.receiver(),
            _ => self.open(name)?.receiver(),
        }
    }

    fn open_or_create(
        &self,
        name: &ChannelName,
        config: &LocalConfig,
    ) -> Result<FaultyChannel, ChannelError> {
        let opened = match self.fault {
            Fault::RacersReplace => {
                let _ = self.local.remove(name);
                return self.create(name, config);
            }
            Fault::IgnoresSettings => {
                self.local.open(name).or_else(|_| self.local.open_or_create(name, config))
            }
            _ => self.local.open_or_create(&self.name(name), config),
        };
        opened.map(|local| self.channel(local))
    }

    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        match self.fault {
            Fault::RemoveDoesNothing => Ok(()),
            _ => self.local.remove(&self.name(name)),
        }
    }

    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        let names = self.local.list()?;
        Ok(if self.fault == Fault::ListForgets { names[1..].to_vec() } else { names })
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let mut info = self.local.stat(&self.name(name))?;
        if self.fault == Fault::StatIsOff {
            info.queued_messages = info.queued_messages.map(|count| count.saturating_sub(1));
        }
        Ok(info)
    }
}

pub(super) struct FaultyChannel {
    local: LocalChannel,
    fault: Fault,
    had_sender: AtomicBool,
    gone: Arc<Gone>,
}

/// How many endpoints there were and are no more.
#[derive(Default)]
struct Gone {
    senders: AtomicU64,
    receivers: AtomicU32,
}

impl Channel for FaultyChannel {
    type Sender = FaultySender;
    type Receiver = FaultyReceiver;

    fn sender(&self) -> Result<FaultySender, ChannelError> {
        self.had_sender.store(true, Ordering::Relaxed);
        let (local, channel) = (self.local.sender()?, self.local.clone());
        let (space, held_back, gone) = (Vec::new(), None, Arc::clone(&self.gone));
        Ok(FaultySender { local, channel, fault: self.fault, space, held_back, commits: 0, gone })
    }

    fn receiver(&self) -> Result<FaultyReceiver, ChannelError> {
        if self.fault == Fault::ReceiverComesSecond && !self.had_sender.load(Ordering::Relaxed) {
            return Err(ChannelError::NotFound);
        }
        Ok(FaultyReceiver {
            local: self.local.receiver()?,
            fault: self.fault,
            kept: true,
            panicked: false,
            lent: 0,
            released: 0,
            armed: false,
            #[cfg(unix)]
            sockets: Vec::new(),
            gone: Arc::clone(&self.gone),
        })
    }
}

pub(super) struct FaultySender {
    local: LocalSender,
    channel: LocalChannel,
    fault: Fault,
    /// The reservation.
    space: Vec<u8>,
    held_back: Option<Vec<u8>>,
    commits: u64,
    gone: Arc<Gone>,
}

impl FaultySender {
    fn commit(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        if self.fault.gives_up(wait) {
            return Err(SendError::TimedOut);
        }
        let wait = self.fault.distort(wait);
        self.commits += 1;
        match self.fault {
            Fault::DropsSeventh if self.commits % 7 == 0 => return Ok(()),
            Fault::SwallowsEmpty if self.space.is_empty() => return Ok(()),
            Fault::CutsLast if self.space.len() >= 64 => drop(self.space.pop()),
            Fault::HoldsBack if self.held_back.is_none() => {
                self.held_back = Some(mem::take(&mut self.space));
                return Ok(());
            }
            _ => {}
        }
        let sent = self.local.send_wait(&self.space, wait);
        if let (Ok(()), Some(held_back)) = (&sent, self.held_back.take()) {
            self.local.send_wait(&held_back, wait)?;
        }
        if self.fault == Fault::RejectsByWiping && sent.is_err() {
            self.space.fill(0);
        }
        sent
    }
}

impl Sender for FaultySender {
    type Loan<'a> = FaultyLoan<'a>;

    fn max_message_len(&self) -> usize {
        self.local.max_message_len()
    }

    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        if self.fault == Fault::KeepsFirstReservation && !self.space.is_empty() {
            return Ok(());
        }
        let cut = self.fault == Fault::CutsTooLong;
        let len = if cut { len.min(self.max_message_len()) } else { len };
        let reserved = self.local.reserve(len, wait);
        match reserved {
            Ok(()) => self.space.resize(len, 0),
            Err(_) if self.fault == Fault::RefusalKeepsReservation => {}
            Err(_) => self.space.clear(),
        }
        reserved
    }

    fn reserved(&mut self) -> FaultyLoan<'_> {
        if self.fault == Fault::ReservesByItself && self.space.is_empty() {
            self.space.push(0);
        }
        FaultyLoan { sender: self, done: false }
    }

    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.reserve(message.len(), wait)?;
        let mut loan = self.reserved();
        let len = loan.len().min(message.len());
        loan[..len].copy_from_slice(&message[..len]);
        loan.commit(wait).map_err(|rejected| rejected.error)
    }
}

impl EndMark for FaultySender {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        match self.fault {
            Fault::EndIsEmpty => self.local.send_wait(b"", wait),
            _ => self.local.send_end(wait),
        }
    }
}

impl BatchSender for FaultySender {
    fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M], wait: Wait<'_>) -> Result<usize, SendError> {
        let max = self.max_message_len();
        let Some(first) = messages.first() else {
            if self.fault == Fault::EmptyBatchIsEmptyMessage {
                self.local.send_wait(b"", wait)?;
            }
            return Ok(0);
        };
        if first.as_ref().len() <= max && self.fault != Fault::BatchKeepsReservation {
            self.space.clear();
        }
        match self.fault {
            Fault::SendsBatchOneByOne => {
                self.local.send_wait(first.as_ref(), wait)?;
                let rest = messages[1..].iter().take_while(|message| {
                    thread::sleep(Duration::from_millis(1));
                    self.local.try_send(message.as_ref()).is_ok()
                });
                Ok(1 + rest.count())
            }
            Fault::SendsBatchBackwards => {
                let backwards: Vec<_> = messages.iter().rev().collect();
                self.local.send_batch(&backwards, wait)
            }
            Fault::SendsBatchWithoutLast => {
                self.local.send_batch(&messages[..messages.len() - 1], wait)?;
                Ok(messages.len())
            }
            Fault::SendsBatchWaitingForEach => {
                for message in messages {
                    self.local.send_wait(message.as_ref(), wait)?;
                }
                Ok(messages.len())
            }
            Fault::SendsBatchWithoutWaiting => self.local.send_batch(messages, Wait::Never),
            Fault::SendsBatchLessTooLong => {
                let fit: Vec<_> = messages.iter().filter(|message| message.as_ref().len() <= max).collect();
                self.local.send_batch(&fit, wait)
            }
            Fault::RefusesBatchForLater => {
                match messages.iter().map(|message| message.as_ref().len()).find(|&len| len > max) {
                    Some(len) => Err(SendError::TooLong { len, max }),
                    None => self.local.send_batch(messages, wait),
                }
            }
            _ => self.local.send_batch(messages, wait),
        }
    }
}

impl Drop for FaultySender {
    fn drop(&mut self) {
        self.gone.senders.fetch_add(1, Ordering::Relaxed);
        if self.fault == Fault::SendsOnDrop && !self.space.is_empty() {
            let _ = self.local.try_send(&self.space);
        }
        if self.fault == Fault::SenderTakesAlong {
            let mut rx = self.channel.receiver().expect("any number of them");
            while let Ok(_) | Err(RecvError::End) = rx.try_recv() {}
        }
    }
}

pub(super) struct FaultyLoan<'a> {
    sender: &'a mut FaultySender,
    done: bool,
}

impl Loan for FaultyLoan<'_> {
    fn truncate(&mut self, len: usize) {
        match self.sender.fault {
            Fault::IgnoresTruncate => {}
            Fault::TruncateClears if len > self.len() => self.sender.space.clear(),
            _ => self.sender.space.truncate(len),
        }
    }

    fn commit(mut self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        match self.sender.commit(wait) {
            Ok(()) => {
                self.done = true;
                if self.sender.fault != Fault::ReservationStays {
                    self.sender.space.clear();
                }
                Ok(())
            }
            Err(error) => Err(Rejected { loan: self, error }),
        }
    }
}

impl Deref for FaultyLoan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sender.space
    }
}

impl DerefMut for FaultyLoan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.sender.space
    }
}

impl Drop for FaultyLoan<'_> {
    fn drop(&mut self) {
        match self.sender.fault {
            _ if self.done => {}
            Fault::SendsAborted => {
                let _ = self.sender.local.try_send(&self.sender.space);
            }
            Fault::AbortForgetsReservation => self.sender.space.clear(),
            _ => {}
        }
    }
}

pub(super) struct FaultyReceiver {
    local: LocalReceiver,
    fault: Fault,
    /// Nothing is held but what was kept.
    kept: bool,
    /// What is held was in hand at a panic.
    panicked: bool,
    lent: u32,
    released: u64,
    armed: bool,
    /// To be polled instead.
    #[cfg(unix)]
    sockets: Vec<[std::os::unix::net::UnixStream; 2]>,
    gone: Arc<Gone>,
}

impl FaultyReceiver {
    fn begin<'c>(&mut self, wait: Wait<'c>) -> Result<Wait<'c>, RecvError> {
        if self.fault.gives_up(wait) {
            return Err(RecvError::TimedOut);
        }
        if self.fault == Fault::ArmedIsDeaf && self.armed {
            let until = wait.deadline().unwrap_or_else(Instant::now);
            thread::sleep(until.saturating_duration_since(Instant::now()));
            return Err(RecvError::TimedOut);
        }
        if self.fault == Fault::AdvanceReleases && !mem::replace(&mut self.kept, false) {
            self.local.held_batch().release(1);
        }
        self.forget_panic();
        if self.fault == Fault::CancelledDrops && wait.is_cancelled() {
            drop(self.local.try_recv());
            return Err(RecvError::Cancelled);
        }
        Ok(self.fault.distort(wait))
    }

    fn forget_panic(&mut self) {
        if mem::take(&mut self.panicked) && self.fault == Fault::PanicReleases {
            self.local.held_batch().release(1);
        }
    }
}

impl Receiver for FaultyReceiver {
    type Message<'a> = FaultyMessage<'a>;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let wait = self.begin(wait)?;
        self.local.advance(wait)
    }

    fn held(&mut self) -> FaultyMessage<'_> {
        let nothing = self.fault == Fault::LendsNothing && self.local.held_batch().is_empty();
        let local = if nothing { None } else { Some(self.local.held()) };
        self.lent += 1;
        let sequence = local.as_ref().map_or(0, LocalReceiver::sequence_of);
        let sequence = match self.fault {
            Fault::NumbersByThrees => 3 * sequence,
            Fault::NumbersPerReceiver => self.released,
            Fault::NumbersSkipPerSender => sequence + 10 * self.gone.senders.load(Ordering::Relaxed),
            Fault::NumbersCountLoans => u64::from(self.lent - 1),
            _ => sequence,
        };
        let attempts = local.as_ref().map_or(0, LocalReceiver::attempts_of);
        let attempts = match self.fault {
            Fault::AttemptsStayZero => 0,
            Fault::AttemptsCountLoans => self.lent - 1,
            Fault::AttemptsForEverybody => self.gone.receivers.load(Ordering::Relaxed),
            _ => attempts,
        };
        let (kept, panicked, released) = (&mut self.kept, &mut self.panicked, &mut self.released);
        FaultyMessage { local, fault: self.fault, sequence, attempts, kept, panicked, released }
    }

    fn recv_into(&mut self, buffer: &mut Vec<u8>, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.local.advance(wait)?;
        if self.fault != Fault::AppendsInto {
            buffer.clear();
        }
        let message = self.local.held();
        buffer.extend_from_slice(&message);
        Ok(message.len())
    }
}

impl BatchReceiver for FaultyReceiver {
    type Batch<'a> = FaultyBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        let wait = self.begin(wait)?;
        let max_messages = match self.fault {
            Fault::BatchMayBeEmpty if max_messages == 0 => return Ok(0),
            Fault::BatchIgnoresLimit => max_messages + 1,
            Fault::BatchTakesTwo => max_messages.min(2),
            _ => max_messages,
        };
        self.local.advance_batch(max_messages, wait)
    }

    fn held_batch(&mut self) -> FaultyBatch<'_> {
        FaultyBatch { local: Some(self.local.held_batch()), fault: self.fault }
    }
}

impl Sequenced for FaultyReceiver {
    fn sequence_of(message: &FaultyMessage<'_>) -> u64 {
        message.sequence
    }
}

impl Redelivered for FaultyReceiver {
    fn attempts_of(message: &FaultyMessage<'_>) -> u32 {
        message.attempts
    }
}

#[cfg(unix)]
impl crate::Pollable for FaultyReceiver {
    fn descriptor(&mut self) -> Result<std::os::fd::BorrowedFd<'_>, crate::OsError> {
        let another = match self.fault {
            Fault::NeverReadable | Fault::AlwaysReadable => self.sockets.is_empty(),
            Fault::ManyDescriptors => true,
            _ => return self.local.descriptor(),
        };
        if another {
            let (heard, rung) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
            if self.fault == Fault::AlwaysReadable {
                std::io::Write::write_all(&mut &rung, &[0]).expect("written");
            }
            self.sockets.push([heard, rung]);
        }
        Ok(std::os::fd::AsFd::as_fd(&self.sockets[self.sockets.len() - 1][0]))
    }

    fn arm(&mut self) -> Result<bool, RecvError> {
        match self.fault {
            Fault::ArmingSaysNo => self.local.arm().map(|_| false),
            Fault::ArmingSaysYes => Ok(true),
            Fault::ArmingLooksTooEarly => match self.local.advance(Wait::Never) {
                Ok(()) => Ok(true),
                Err(RecvError::WouldBlock) => {
                    thread::sleep(Duration::from_millis(1));
                    self.local.arm().map(|_| false)
                }
                Err(error) => Err(error),
            },
            _ => {
                let there = self.local.arm()?;
                self.armed = true;
                Ok(there)
            }
        }
    }
}

impl Drop for FaultyReceiver {
    fn drop(&mut self) {
        self.gone.receivers.fetch_add(1, Ordering::Relaxed);
        self.forget_panic();
        match self.fault {
            Fault::LosesHeld => self.local.held_batch().release_all(),
            Fault::ReceiverTakesAlong => drop(self.local.try_recv()),
            _ => {}
        }
    }
}

pub(super) struct FaultyMessage<'a> {
    local: Option<LocalMessage<'a>>,
    fault: Fault,
    sequence: u64,
    attempts: u32,
    kept: &'a mut bool,
    panicked: &'a mut bool,
    released: &'a mut u64,
}

impl Message for FaultyMessage<'_> {
    fn keep(mut self) {
        *self.kept = true;
        if self.fault != Fault::ForgetsKeep {
            self.local.take().into_iter().for_each(Message::keep);
        }
    }
}

impl Deref for FaultyMessage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.local.as_deref().unwrap_or_default()
    }
}

impl Drop for FaultyMessage<'_> {
    fn drop(&mut self) {
        *self.panicked = self.local.is_some() && thread::panicking();
        let keeps = match self.fault {
            Fault::NeverReleases => true,
            Fault::PanicKeepsAll => thread::panicking(),
            _ => false,
        };
        match self.local.take() {
            Some(message) if keeps => message.keep(),
            released => {
                *self.kept |= released.is_some();
                *self.released += u64::from(released.is_some());
            }
        }
    }
}

pub(super) struct FaultyBatch<'a> {
    local: Option<LocalBatch<'a>>,
    fault: Fault,
}

impl Batch for FaultyBatch<'_> {
    fn len(&self) -> usize {
        self.local.as_ref().map_or(0, Batch::len)
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.local.iter().flat_map(Batch::iter)
    }

    fn release(mut self, count: usize) {
        let count = if self.fault == Fault::BatchReleasesAll { usize::MAX } else { count };
        self.local.take().into_iter().for_each(|batch| batch.release(count));
    }
}

impl Drop for FaultyBatch<'_> {
    fn drop(&mut self) {
        if self.fault == Fault::BatchReleasesOnDrop {
            self.local.take().into_iter().for_each(Batch::release_all);
        }
    }
}
