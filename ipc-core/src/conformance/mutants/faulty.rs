//! The reference transport with a fault.

use crate::{
    Batch, BatchReceiver, Cancel, Capabilities, Channel, ChannelError, ChannelInfo, ChannelName, EndMark,
    Loan, Message, Receiver, RecvError, Rejected, SendError, Sender, Transport, Wait,
    local::{Local, LocalBatch, LocalChannel, LocalConfig, LocalMessage, LocalReceiver, LocalSender},
};
use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, Ordering},
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
    SendsOnDrop,
    RejectsByWiping,
    EndIsEmpty,
    // Receiving.
    AppendsInto,
    ForgetsKeep,
    NeverReleases,
    AdvanceReleases,
    LendsNothing,
    BatchIgnoresLimit,
    BatchReleasesOnDrop,
    BatchReleasesAll,
    BatchMayBeEmpty,
    BatchTakesTwo,
    // Waiting.
    NeverWaitsABit,
    TimesOutEarly,
    GivesUpFirst,
    OverflowsWait,
    SleepsThrough,
    IgnoresCancel,
    CancelledDrops,
    AlwaysCancelled,
    // Coming and going.
    CreateReplaces,
    OpenMakes,
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
    fn distort(self, wait: Wait<'_>) -> Wait<'_> {
        static CANCELLED: Cancel = Cancel::new();
        let century = Duration::from_secs(100 * 365 * 86_400);
        let now = Instant::now();
        match (self, wait, wait.deadline()) {
            (Self::NeverWaitsABit, Wait::Never, _) => Wait::timeout(Duration::from_millis(1)),
            (_, Wait::Never, _) => Wait::Never,
            (Self::TimesOutEarly, _, Some(until)) => Wait::Until(now + (until - now) / 2),
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

    fn gives_up(self, wait: Wait<'_>) -> bool {
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
        FaultyChannel { local, fault: self.fault, had_sender: AtomicBool::new(false) }
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
}

impl Channel for FaultyChannel {
    type Sender = FaultySender;
    type Receiver = FaultyReceiver;

    fn sender(&self) -> Result<FaultySender, ChannelError> {
        self.had_sender.store(true, Ordering::Relaxed);
        let (local, channel) = (self.local.sender()?, self.local.clone());
        let (space, held_back) = (Vec::new(), None);
        Ok(FaultySender { local, channel, fault: self.fault, space, held_back, commits: 0 })
    }

    fn receiver(&self) -> Result<FaultyReceiver, ChannelError> {
        if self.fault == Fault::ReceiverComesSecond && !self.had_sender.load(Ordering::Relaxed) {
            return Err(ChannelError::NotFound);
        }
        Ok(FaultyReceiver { local: self.local.receiver()?, fault: self.fault, kept: true })
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
        self.local.reserve(len, wait)?;
        self.space.resize(len, 0);
        Ok(())
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

impl Drop for FaultySender {
    fn drop(&mut self) {
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
        if self.sender.fault == Fault::SendsAborted && !self.done {
            let _ = self.sender.local.try_send(&self.sender.space);
        }
    }
}

pub(super) struct FaultyReceiver {
    local: LocalReceiver,
    fault: Fault,
    /// Nothing is held but what was kept.
    kept: bool,
}

impl FaultyReceiver {
    fn begin<'c>(&mut self, wait: Wait<'c>) -> Result<Wait<'c>, RecvError> {
        if self.fault.gives_up(wait) {
            return Err(RecvError::TimedOut);
        }
        if self.fault == Fault::AdvanceReleases && !mem::replace(&mut self.kept, false) {
            self.local.held_batch().release(1);
        }
        if self.fault == Fault::CancelledDrops && wait.is_cancelled() {
            drop(self.local.try_recv());
            return Err(RecvError::Cancelled);
        }
        Ok(self.fault.distort(wait))
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
        FaultyMessage { local, fault: self.fault, kept: &mut self.kept }
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

impl Drop for FaultyReceiver {
    fn drop(&mut self) {
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
    kept: &'a mut bool,
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
        match self.local.take() {
            Some(message) if self.fault == Fault::NeverReleases => message.keep(),
            released => *self.kept |= released.is_some(),
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
