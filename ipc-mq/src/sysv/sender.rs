//! The sending end of a queue, after `msgsnd(2)`.

use super::{
    alarm::{self, sort_out},
    limits,
    sys::{PREFIX_LEN, Queue, TYPE_MAX, type_number},
    transport::{ByAge, ByPriority, Discipline},
};
use ipc_core::{
    Loan, OsError, PrioritySender, PriorityTooHigh, Rejected, SendError, Sender, TypeOutOfRange, TypeSender,
    Unready, Wait,
};
use nix::{errno::Errno, libc::c_long};
use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

/// The sending end of a queue.
///
/// The kernel wants a message behind its type, in one piece, so every message is put
/// together in the endpoint's own memory; a loan is a part of that.
///
/// After a `fork`, parent and child may both go on sending.
#[derive(Debug)]
pub struct SysvSender<D: Discipline = ByAge> {
    queue: Queue,
    max_message_len: usize,
    /// The type, and room for the longest message so far.
    space: Vec<u8>,
    /// How much of the room is reserved.
    reserved_len: usize,
    message_type: c_long,
    discipline: PhantomData<fn() -> D>,
}

impl<D: Discipline> SysvSender<D> {
    pub(crate) fn new(queue: Queue, max_message_len: usize) -> Self {
        let mut sender = Self {
            queue,
            max_message_len,
            space: vec![0; PREFIX_LEN],
            reserved_len: 0,
            message_type: 0,
            discipline: PhantomData,
        };
        sender.set_type(D::FIRST_TYPE);
        sender
    }

    fn set_type(&mut self, message_type: c_long) {
        self.message_type = message_type;
        self.space[..PREFIX_LEN].copy_from_slice(&message_type.to_ne_bytes());
    }

    /// Sends the first `len` bytes of the room.
    #[inline]
    fn push(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        let (queue, typed) = (self.queue, &self.space[..PREFIX_LEN + len]);
        alarm::until(wait, |may_wait| sort_out("msgsnd", queue.send(typed, may_wait)))
            .map_err(|unready| self.explain(unready, len))
    }

    /// The kernel has one error for queues that are gone and for messages that have become too
    /// long since `kernel.msgmax` was lowered.
    #[cold]
    fn explain(&self, unready: Unready, len: usize) -> SendError {
        if !matches!(unready, Unready::Closed) || self.queue.status().is_err() {
            return unready.into();
        }
        match limits::explain_refused_message(len) {
            Ok(Some(refused)) => refused.into(),
            Ok(None) => OsError::new("msgsnd", Errno::EINVAL).into(),
            Err(errno) => OsError::new("msgctl", errno).into(),
        }
    }

    fn make_room(&mut self, len: usize) -> Result<(), SendError> {
        let max = self.max_message_len;
        if len > max {
            return Err(SendError::TooLong { len, max });
        }
        if self.space.len() < PREFIX_LEN + len {
            self.space.resize(PREFIX_LEN + len, 0);
        }
        Ok(())
    }
}

impl<D: Discipline> Sender for SysvSender<D> {
    type Loan<'a> = SysvLoan<'a, D>;

    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    /// Never waits: it is the commit that needs room in the queue.
    fn reserve(&mut self, len: usize, _wait: Wait<'_>) -> Result<(), SendError> {
        self.reserved_len = 0;
        self.make_room(len)?;
        self.reserved_len = len;
        Ok(())
    }

    fn reserved(&mut self) -> SysvLoan<'_, D> {
        SysvLoan { sender: self }
    }

    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.make_room(message.len())?;
        self.reserved_len = 0;
        self.space[PREFIX_LEN..PREFIX_LEN + message.len()].copy_from_slice(message);
        self.push(message.len(), wait)
    }
}

impl TypeSender for SysvSender<ByAge> {
    const MAX_MESSAGE_TYPE: u64 = TYPE_MAX as u64;

    fn set_message_type(&mut self, message_type: u64) -> Result<(), TypeOutOfRange> {
        let checked = super::receiver::checked_type(message_type)?;
        self.set_type(checked);
        Ok(())
    }

    fn message_type(&self) -> u64 {
        type_number(self.message_type)
    }
}

/// The types of priorities are those from 1, the highest, to this one.
const LOWEST_PRIORITY_TYPE: c_long = 32_768;

/// Which type a priority is.
pub(crate) const fn type_of_priority(priority: u32) -> c_long {
    LOWEST_PRIORITY_TYPE - priority as c_long
}

/// Which priority a type is; other programs may send types beyond.
pub(crate) fn priority_of_type(message_type: c_long) -> u32 {
    u32::try_from(LOWEST_PRIORITY_TYPE.saturating_sub(message_type)).unwrap_or(0)
}

impl PrioritySender for SysvSender<ByPriority> {
    /// The same as POSIX queues have.
    const MAX_PRIORITY: u32 = 32_767;

    fn set_priority(&mut self, priority: u32) -> Result<(), PriorityTooHigh> {
        if priority > Self::MAX_PRIORITY {
            return Err(PriorityTooHigh { asked: priority, max: Self::MAX_PRIORITY });
        }
        self.set_type(type_of_priority(priority));
        Ok(())
    }

    fn priority(&self) -> u32 {
        priority_of_type(self.message_type)
    }
}

/// Space for one message, the endpoint's own until it is committed.
#[derive(Debug)]
pub struct SysvLoan<'a, D: Discipline = ByAge> {
    sender: &'a mut SysvSender<D>,
}

impl<D: Discipline> Loan for SysvLoan<'_, D> {
    fn truncate(&mut self, len: usize) {
        self.sender.reserved_len = self.sender.reserved_len.min(len);
    }

    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        match self.sender.push(self.sender.reserved_len, wait) {
            Ok(()) => {
                self.sender.reserved_len = 0;
                Ok(())
            }
            Err(error) => Err(Rejected { loan: self, error }),
        }
    }
}

impl<D: Discipline> Deref for SysvLoan<'_, D> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sender.space[PREFIX_LEN..PREFIX_LEN + self.sender.reserved_len]
    }
}

impl<D: Discipline> DerefMut for SysvLoan<'_, D> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.sender.reserved_len;
        &mut self.sender.space[PREFIX_LEN..PREFIX_LEN + len]
    }
}
