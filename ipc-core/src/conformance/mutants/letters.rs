//! Letters: the reference transport with types, priorities, descriptors, senders' names and looks
//! at what waits, without a fault or with one.
//!
//! A message goes through the reference transport behind its envelope. A receiver, of which there
//! is one, takes all that is there and picks the next one.

use crate::{
    Batch, BatchReceiver, Capabilities, Channel, ChannelError, ChannelInfo, ChannelName, Credentials,
    DescriptorReceiver, DescriptorSender, Message, Peek, PeekError, PeerCredentials, PriorityReceiver,
    PrioritySender, PriorityTooHigh, Receiver, RecvError, Selection, SelectiveReceiver, SendError, Sender,
    TooManyDescriptors, Transport, TypeOutOfRange, TypeSender, Unwinding, Wait,
    local::{Local, LocalChannel, LocalConfig, LocalLoan, LocalReceiver, LocalSender},
};
use std::{
    collections::BTreeMap,
    mem,
    ops::Deref,
    os::fd::OwnedFd,
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What a type or a priority can be at most.
const MAX: u64 = 9;
const MAX_DESCRIPTORS: usize = 3;
/// The type or priority, and the number under which the descriptors lie ready.
const ENVELOPE_LEN: usize = 16;

/// What a letter's mark means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mark {
    Type,
    Priority,
}

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Slip {
    None,
    // Priorities.
    ByAgeAlone,
    EqualsBackwards,
    TakesAnyPriority,
    BeginsUrgently,
    // Types.
    SelectsNothing,
    LosesTheRest,
    SortsByType,
    LowestComeByAge,
    TakesTheNearestType,
    OthersEndTheWait,
    // The rest.
    LookTakes,
    LosesDescriptors,
    LeaksDescriptors,
    KeptLosesDescriptors,
    TakesAnyNumberOfDescriptors,
    NamesNobody,
}

pub(super) type Attached = Arc<Mutex<BTreeMap<u64, Vec<OwnedFd>>>>;

pub(super) struct Letters {
    pub(super) local: Local,
    pub(super) mark: Mark,
    pub(super) slip: Slip,
    pub(super) attached: Attached,
}

impl Letters {
    fn channel(&self, local: LocalChannel) -> LetterChannel {
        LetterChannel { local, mark: self.mark, slip: self.slip, attached: Arc::clone(&self.attached) }
    }
}

impl Transport for Letters {
    type Config = LocalConfig;
    type Channel = LetterChannel;

    const SCHEME: &'static str = "letters";
    const CAPABILITIES: Capabilities = Capabilities::NONE.with_stores();

    fn create(&self, name: &ChannelName, config: &LocalConfig) -> Result<LetterChannel, ChannelError> {
        self.local.create(name, config).map(|local| self.channel(local))
    }

    fn open(&self, name: &ChannelName) -> Result<LetterChannel, ChannelError> {
        self.local.open(name).map(|local| self.channel(local))
    }

    fn open_or_create(
        &self,
        name: &ChannelName,
        config: &LocalConfig,
    ) -> Result<LetterChannel, ChannelError> {
        self.local.open_or_create(name, config).map(|local| self.channel(local))
    }

    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        self.local.remove(name)
    }

    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        self.local.list()
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        self.local.stat(name)
    }
}

pub(super) struct LetterChannel {
    local: LocalChannel,
    mark: Mark,
    slip: Slip,
    attached: Attached,
}

impl Channel for LetterChannel {
    type Sender = Writer;
    type Receiver = Reader;

    fn sender(&self) -> Result<Writer, ChannelError> {
        let urgent = self.mark == Mark::Priority && self.slip == Slip::BeginsUrgently;
        let mark = if self.mark == Mark::Type { 1 } else { u64::from(urgent) };
        let (local, attached) = (self.local.sender()?, Arc::clone(&self.attached));
        Ok(Writer { local, slip: self.slip, mark, descriptors: Vec::new(), attached })
    }

    fn receiver(&self) -> Result<Reader, ChannelError> {
        Ok(Reader {
            local: self.local.receiver()?,
            mark: self.mark,
            slip: self.slip,
            selection: Selection::All,
            waiting: Vec::new(),
            held: None,
            attached: Arc::clone(&self.attached),
        })
    }
}

pub(super) struct Writer {
    local: LocalSender,
    slip: Slip,
    mark: u64,
    descriptors: Vec<OwnedFd>,
    attached: Attached,
}

impl Sender for Writer {
    type Loan<'a> = LocalLoan<'a>;

    fn max_message_len(&self) -> usize {
        self.local.max_message_len() - ENVELOPE_LEN
    }

    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        self.local.reserve(len, wait)
    }

    /// Not by the cases of letters.
    fn reserved(&mut self) -> LocalLoan<'_> {
        self.local.reserved()
    }

    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        let number = {
            let mut attached = lock(&self.attached);
            let number = attached.len() as u64;
            attached.insert(number, mem::take(&mut self.descriptors));
            number
        };
        let envelope = [self.mark.to_ne_bytes(), number.to_ne_bytes()].concat();
        self.local.send_wait(&[&envelope, message].concat(), wait)
    }
}

impl PrioritySender for Writer {
    const MAX_PRIORITY: u32 = MAX as u32;

    fn set_priority(&mut self, priority: u32) -> Result<(), PriorityTooHigh> {
        if u64::from(priority) > MAX && self.slip != Slip::TakesAnyPriority {
            return Err(PriorityTooHigh { asked: priority, max: Self::MAX_PRIORITY });
        }
        self.mark = priority.into();
        Ok(())
    }

    fn priority(&self) -> u32 {
        self.mark as u32
    }
}

impl TypeSender for Writer {
    const MAX_MESSAGE_TYPE: u64 = MAX;

    fn set_message_type(&mut self, message_type: u64) -> Result<(), TypeOutOfRange> {
        if self.slip == Slip::TakesTheNearestType {
            self.mark = message_type.clamp(1, MAX);
        }
        in_range(message_type)?;
        self.mark = message_type;
        Ok(())
    }

    fn message_type(&self) -> u64 {
        self.mark
    }
}

impl DescriptorSender for Writer {
    const MAX_DESCRIPTORS: usize = MAX_DESCRIPTORS;

    fn attach(&mut self, descriptor: OwnedFd) -> Result<(), TooManyDescriptors> {
        if self.descriptors.len() == MAX_DESCRIPTORS && self.slip != Slip::TakesAnyNumberOfDescriptors {
            return Err(TooManyDescriptors { descriptor, max: MAX_DESCRIPTORS });
        }
        self.descriptors.push(descriptor);
        Ok(())
    }
}

/// One that has arrived.
struct Letter {
    text: Vec<u8>,
    mark: u64,
    descriptors: Vec<OwnedFd>,
}

pub(super) struct Reader {
    local: LocalReceiver,
    mark: Mark,
    slip: Slip,
    selection: Selection,
    /// By age.
    waiting: Vec<Letter>,
    held: Option<Letter>,
    attached: Attached,
}

impl Reader {
    fn fetch(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let message = self.local.receive(wait)?;
        let word = |at| u64::from_ne_bytes(message[at..at + 8].try_into().expect("eight bytes"));
        let descriptors = lock(&self.attached).get_mut(&word(8)).map(mem::take).unwrap_or_default();
        let descriptors = if self.slip == Slip::LosesDescriptors { Vec::new() } else { descriptors };
        self.waiting.push(Letter { text: message[ENVELOPE_LEN..].to_vec(), mark: word(0), descriptors });
        Ok(())
    }

    fn fetch_all(&mut self) {
        while self.fetch(Wait::Never).is_ok() {}
    }

    /// Which one comes next.
    fn pick(&self) -> Option<usize> {
        let all = self.waiting.iter().map(|letter| letter.mark).enumerate();
        let pick = match (self.mark, self.selection) {
            (_, Selection::All) if self.slip == Slip::SortsByType => all.min_by_key(|&(_, mark)| mark),
            (Mark::Priority, _) if self.slip == Slip::EqualsBackwards => all.max_by_key(|&(_, mark)| mark),
            (Mark::Priority, _) if self.slip != Slip::ByAgeAlone => all.rev().max_by_key(|&(_, mark)| mark),
            (Mark::Type, Selection::Only(wanted)) if self.slip != Slip::SelectsNothing => {
                all.into_iter().find(|&(_, mark)| mark == wanted)
            }
            (Mark::Type, Selection::Except(unwanted)) if self.slip != Slip::SelectsNothing => {
                all.into_iter().find(|&(_, mark)| mark != unwanted)
            }
            (Mark::Type, Selection::LowestUpTo(most)) if self.slip != Slip::SelectsNothing => {
                let mut low = all.filter(|&(_, mark)| mark <= most);
                if self.slip == Slip::LowestComeByAge {
                    low.next()
                } else {
                    low.min_by_key(|&(_, mark)| mark)
                }
            }
            _ => all.into_iter().next(),
        };
        pick.map(|(index, _)| index)
    }
}

impl Receiver for Reader {
    type Message<'a> = LetterMessage<'a>;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        while self.held.is_none() {
            self.fetch_all();
            match self.pick() {
                Some(index) => {
                    self.held = Some(self.waiting.remove(index));
                    if self.slip == Slip::LosesTheRest {
                        self.waiting.drain(..index);
                    }
                }
                None if self.slip == Slip::OthersEndTheWait && !self.waiting.is_empty() => {
                    return Err(RecvError::WouldBlock);
                }
                None => self.fetch(wait)?,
            }
        }
        Ok(())
    }

    fn held(&mut self) -> LetterMessage<'_> {
        LetterMessage { held: &mut self.held, slip: self.slip, released: true, unwinding: Unwinding::watch() }
    }
}

/// Not by the cases of letters.
impl BatchReceiver for Reader {
    type Batch<'a> = LetterBatch<'a>;

    fn advance_batch(&mut self, _max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.advance(wait).map(|()| 1)
    }

    fn held_batch(&mut self) -> LetterBatch<'_> {
        LetterBatch { held: &mut self.held }
    }
}

impl PriorityReceiver for Reader {
    fn priority_of(message: &LetterMessage<'_>) -> u32 {
        message.letter().mark as u32
    }
}

impl SelectiveReceiver for Reader {
    fn select(&mut self, selection: Selection) -> Result<(), TypeOutOfRange> {
        if let Selection::Only(asked) | Selection::Except(asked) | Selection::LowestUpTo(asked) = selection {
            in_range(asked)?;
        }
        self.selection = selection;
        Ok(())
    }

    fn type_of(message: &LetterMessage<'_>) -> u64 {
        message.letter().mark
    }
}

impl Peek for Reader {
    fn peek(&mut self, index: usize, buffer: &mut Vec<u8>) -> Result<bool, PeekError> {
        self.fetch_all();
        let Some(letter) = self.waiting.get(index) else { return Ok(false) };
        buffer.clear();
        buffer.extend_from_slice(&letter.text);
        if self.slip == Slip::LookTakes {
            self.waiting.remove(index);
        }
        Ok(true)
    }
}

impl DescriptorReceiver for Reader {
    fn take_descriptors(message: &mut LetterMessage<'_>) -> Vec<OwnedFd> {
        message.held.as_mut().map(|letter| mem::take(&mut letter.descriptors)).unwrap_or_default()
    }
}

impl PeerCredentials for Reader {
    fn credentials_of(message: &LetterMessage<'_>) -> Credentials {
        let pid = if message.slip == Slip::NamesNobody { 0 } else { process::id() };
        Credentials { pid, uid: 0, gid: 0 }
    }
}

pub(super) struct LetterMessage<'a> {
    held: &'a mut Option<Letter>,
    slip: Slip,
    released: bool,
    unwinding: Unwinding,
}

impl LetterMessage<'_> {
    fn letter(&self) -> &Letter {
        self.held.as_ref().expect("a letter in hand")
    }
}

impl Message for LetterMessage<'_> {
    fn keep(mut self) {
        self.released = false;
        if self.slip == Slip::KeptLosesDescriptors {
            drop(Reader::take_descriptors(&mut self));
        }
    }
}

impl Deref for LetterMessage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.letter().text
    }
}

impl Drop for LetterMessage<'_> {
    fn drop(&mut self) {
        if self.released && !self.unwinding.has_begun() {
            if self.slip == Slip::LeaksDescriptors {
                mem::forget(Reader::take_descriptors(self));
            }
            *self.held = None;
        }
    }
}

pub(super) struct LetterBatch<'a> {
    held: &'a mut Option<Letter>,
}

impl Batch for LetterBatch<'_> {
    fn len(&self) -> usize {
        self.held.iter().len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.held.iter().map(|letter| &*letter.text)
    }

    fn release(self, count: usize) {
        if count > 0 {
            *self.held = None;
        }
    }
}

fn in_range(asked: u64) -> Result<(), TypeOutOfRange> {
    if (1..=MAX).contains(&asked) { Ok(()) } else { Err(TypeOutOfRange { asked, max: MAX }) }
}

fn lock(attached: &Attached) -> MutexGuard<'_, BTreeMap<u64, Vec<OwnedFd>>> {
    attached.lock().unwrap_or_else(PoisonError::into_inner)
}
