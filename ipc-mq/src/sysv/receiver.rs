//! The receiving end of a queue, after `msgrcv(2)`.

use super::{
    alarm::{self, sort_out},
    limits,
    sender::priority_of_type,
    sys::{self, PREFIX_LEN, Queue, TYPE_MAX, Wanted, type_number},
    transport::{ByAge, ByPriority, Discipline},
};
use crate::store::Store;
use ipc_core::{
    Batch, BatchReceiver, Message, OsError, Peek, PeekError, PriorityReceiver, Receiver, RecvError,
    Selection, SelectiveReceiver, TypeOutOfRange, Unwinding, Wait,
};
use nix::{errno::Errno, libc::c_long};
use std::{marker::PhantomData, ops::Deref};

/// The receiving end of a queue.
///
/// The kernel gives a message to one receiver and forgets it. From then on it lives in this
/// endpoint's own memory: what is still held when the endpoint is dropped, or its process
/// dies, is gone. So hold little, and release it when it is safe.
///
/// After a `fork`, parent and child may both go on receiving: each message goes to one of
/// them. What was held at the fork, both hold.
///
/// There is no descriptor to poll, since the kernel has none; so this doesn't compile:
///
/// ```compile_fail,E0277
/// fn poll_for_messages(_: impl ipc_mq::Pollable) {}
/// # fn receiver() -> ipc_mq::SysvReceiver { unimplemented!() }
/// poll_for_messages(receiver());
/// ```
#[derive(Debug)]
pub struct SysvReceiver<D: Discipline = ByAge> {
    queue: Queue,
    wanted: Wanted,
    held: Store<c_long>,
    discipline: PhantomData<fn() -> D>,
}

impl<D: Discipline> SysvReceiver<D> {
    /// Other programs may send longer messages than we do, as long as the kernel takes them:
    /// there is room for those when one comes.
    pub(crate) fn new(queue: Queue, max_message_len: usize) -> Self {
        let held = Store::with_prefix(PREFIX_LEN, max_message_len);
        Self { queue, wanted: Wanted::first::<D>(), held, discipline: PhantomData }
    }

    /// The kernel has one error for queues that are gone and for messages that it has no copies of
    /// since `kernel.msgmax` was lowered.
    #[cold]
    fn explain_no_copy(&self) -> PeekError {
        if self.queue.status().is_err() {
            return PeekError::Closed;
        }
        match limits::explain_refused_copy(self.held.max_message_len()) {
            Ok(Some(refused)) => refused.into(),
            Ok(None) => OsError::new("msgrcv", Errno::EINVAL).into(),
            Err(errno) => OsError::new("msgctl", errno).into(),
        }
    }

    /// Takes one more message from the queue, in addition to those held.
    #[inline]
    fn pull(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let Self { queue, wanted, held, .. } = self;
        let len = alarm::until(wait, |may_wait| {
            loop {
                match queue.receive(held.space(), *wanted, may_wait) {
                    // Longer than any of ours; it is still there.
                    Err(Errno::E2BIG) => make_room(held)?,
                    answer => return sort_out("msgrcv", answer),
                }
            }
        })?;
        let prefix = held.space()[..PREFIX_LEN].try_into().unwrap_or_default();
        held.push(len, c_long::from_ne_bytes(prefix));
        Ok(())
    }
}

/// Room for the longest message that there is now.
fn make_room(held: &mut Store<c_long>) -> Result<(), OsError> {
    let longest = sys::limits().map_err(|errno| OsError::new("msgctl", errno))?.max_message_len;
    // A message may be older than a limit that was lowered.
    let longest = if longest > held.max_message_len() { longest } else { held.max_message_len() * 2 };
    if longest > i32::MAX as usize {
        return Err(OsError::new("msgrcv", Errno::E2BIG));
    }
    held.allow(longest);
    Ok(())
}

impl<D: Discipline> Receiver for SysvReceiver<D> {
    type Message<'a> = SysvMessage<'a>;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.held.is_empty() { self.pull(wait) } else { Ok(()) }
    }

    fn held(&mut self) -> SysvMessage<'_> {
        assert!(!self.held.is_empty(), "held() without a successful advance()");
        SysvMessage { held: &mut self.held, release: true, unwinding: Unwinding::watch() }
    }
}

/// A call takes at most 1024 messages, or 4 MiB of them: the kernel takes in what waiting senders have
/// while it does.
impl<D: Discipline> BatchReceiver for SysvReceiver<D> {
    type Batch<'a> = SysvBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        let bound = self.held.bound(max_messages, usize::MAX);
        self.advance(wait)?;
        while self.held.is_below(bound) {
            // An error now would hide what is held; if it lasts, the next call meets it.
            if self.pull(Wait::Never).is_err() {
                break;
            }
        }
        Ok(self.held.len())
    }

    fn held_batch(&mut self) -> SysvBatch<'_> {
        SysvBatch { held: &mut self.held }
    }
}

impl PriorityReceiver for SysvReceiver<ByPriority> {
    fn priority_of(message: &SysvMessage<'_>) -> u32 {
        priority_of_type(*message.held.first_tag())
    }
}

impl SelectiveReceiver for SysvReceiver<ByAge> {
    fn select(&mut self, selection: Selection) -> Result<(), TypeOutOfRange> {
        let (message_type, except) = match selection {
            Selection::Only(message_type) => (checked_type(message_type)?, false),
            Selection::Except(message_type) => (checked_type(message_type)?, true),
            Selection::LowestUpTo(message_type) => (-checked_type(message_type)?, false),
            _ => (0, false),
        };
        self.wanted = Wanted { message_type, except };
        Ok(())
    }

    fn type_of(message: &SysvMessage<'_>) -> u64 {
        message.message_type()
    }
}

/// The kernel's form of a type.
pub(crate) fn checked_type(asked: u64) -> Result<c_long, TypeOutOfRange> {
    match c_long::try_from(asked) {
        Ok(message_type) if message_type > 0 => Ok(message_type),
        _ => Err(TypeOutOfRange { asked, max: type_number(TYPE_MAX) }),
    }
}

/// `MSG_COPY`, which the kernel has where it was built with CONFIG_CHECKPOINT_RESTORE. By
/// place, whatever the type.
impl<D: Discipline> Peek for SysvReceiver<D> {
    fn peek(&mut self, index: usize, buffer: &mut Vec<u8>) -> Result<bool, PeekError> {
        let Ok(index) = c_long::try_from(index) else { return Ok(false) };
        let answer = loop {
            buffer.resize(PREFIX_LEN + self.held.max_message_len(), 0);
            match self.queue.copy(buffer, index) {
                Err(Errno::E2BIG) => make_room(&mut self.held)?,
                answer => break answer,
            }
        };
        match answer {
            Ok(len) => {
                buffer.drain(..PREFIX_LEN);
                buffer.truncate(len);
                Ok(true)
            }
            Err(Errno::ENOMSG) => Ok(false),
            Err(Errno::EIDRM | Errno::EINVAL) => Err(self.explain_no_copy()),
            Err(Errno::ENOSYS) => Err(PeekError::Unsupported(
                "this kernel can't show a message without giving it away: \
                 it takes one built with CONFIG_CHECKPOINT_RESTORE"
                    .into(),
            )),
            Err(errno) => Err(OsError::new("msgrcv", errno).into()),
        }
    }
}

/// A message lent by a [`SysvReceiver`]. Dropping it releases it.
#[derive(Debug)]
pub struct SysvMessage<'a> {
    held: &'a mut Store<c_long>,
    release: bool,
    unwinding: Unwinding,
}

impl SysvMessage<'_> {
    /// The type that it was sent with.
    pub fn message_type(&self) -> u64 {
        type_number(*self.held.first_tag())
    }
}

impl Message for SysvMessage<'_> {
    fn keep(mut self) {
        self.release = false;
    }
}

impl Deref for SysvMessage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.held.first()
    }
}

impl Drop for SysvMessage<'_> {
    fn drop(&mut self) {
        if self.release && !self.unwinding.has_begun() {
            self.held.release(1);
        }
    }
}

/// Messages lent together by a [`SysvReceiver`].
#[derive(Debug)]
pub struct SysvBatch<'a> {
    held: &'a mut Store<c_long>,
}

impl Batch for SysvBatch<'_> {
    fn len(&self) -> usize {
        self.held.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.held.iter()
    }

    fn release(self, count: usize) {
        self.held.release(count);
    }
}
