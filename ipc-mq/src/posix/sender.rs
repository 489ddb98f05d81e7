//! The sending end of a queue, after `mq_send(3)`.

use super::sys::{Geometry, Queue};
use crate::wait::{Patience, Waiter, sort_out};
use ipc_core::{Loan, PrioritySender, PriorityTooHigh, Rejected, SendError, Sender, Unready, Wait};
use nix::{libc, poll::PollFlags};
use std::{
    ops::{Deref, DerefMut},
    os::fd::{AsFd, BorrowedFd},
};

/// The sending end of a queue.
///
/// A loan is the endpoint's own memory, which the kernel copies on commit;
/// [`send`](Sender::send) and its kin let the kernel copy from the caller's slice.
///
/// After a `fork`, parent and child may both go on sending: a message goes to the queue in
/// one piece, and the order is that of the calls.
#[derive(Debug)]
pub struct MqSender {
    queue: Queue,
    priority: u32,
    /// Grows to the longest loan so far.
    space: Vec<u8>,
    /// How much of it is reserved.
    reserved_len: usize,
    waiter: Waiter,
}

impl MqSender {
    pub(crate) fn new(queue: Queue) -> Self {
        Self { queue, priority: 0, space: Vec::new(), reserved_len: 0, waiter: Waiter::default() }
    }

    fn check_len(&self, len: usize) -> Result<(), SendError> {
        let max = self.queue.geometry()?.max_message_len;
        if len > max { Err(SendError::TooLong { len, max }) } else { Ok(()) }
    }

    /// The same, where it costs no call; else the kernel refuses what is too long.
    #[inline]
    fn check_known_len(&self, len: usize) -> Result<(), SendError> {
        match self.queue.known_geometry() {
            Some(known) if len > known.max_message_len => self.check_len(len),
            _ => Ok(()),
        }
    }
}

/// Puts `message` on `queue`. It takes the fields apart, since the message may be in one.
#[inline]
fn push(
    queue: &Queue,
    waiter: &mut Waiter,
    message: &[u8],
    priority: u32,
    wait: Wait<'_>,
) -> Result<(), SendError> {
    let attempt = |patience| {
        let answer = match patience {
            Patience::Endless => queue.send(message, priority),
            Patience::None => queue.send_by_epoch(message, priority),
        };
        sort_out("mq_send", answer)
    };
    waiter.until(queue.as_fd(), PollFlags::POLLOUT, wait, attempt).map_err(|unready| match unready {
        Unready::Os(error) if error.error.raw_os_error() == Some(libc::EMSGSIZE) => too_long(queue, message),
        other => other.into(),
    })
}

/// The kernel has refused it, which was sent before it was known how long messages may be.
#[cold]
fn too_long(queue: &Queue, message: &[u8]) -> SendError {
    match queue.geometry() {
        Ok(Geometry { max_message_len: max, .. }) => SendError::TooLong { len: message.len(), max },
        Err(error) => error.into(),
    }
}

impl Sender for MqSender {
    type Loan<'a> = MqLoan<'a>;

    fn max_message_len(&self) -> usize {
        self.queue.max_message_len()
    }

    /// Never waits: it is the commit that needs room in the queue.
    fn reserve(&mut self, len: usize, _wait: Wait<'_>) -> Result<(), SendError> {
        self.reserved_len = 0;
        self.check_len(len)?;
        if self.space.len() < len {
            self.space.resize(len, 0);
        }
        self.reserved_len = len;
        Ok(())
    }

    fn reserved(&mut self) -> MqLoan<'_> {
        MqLoan { sender: self }
    }

    /// Straight from the caller's memory, without a copy of our own.
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.check_known_len(message.len())?;
        self.reserved_len = 0;
        push(&self.queue, &mut self.waiter, message, self.priority, wait)
    }
}

impl PrioritySender for MqSender {
    /// `MQ_PRIO_MAX - 1` on Linux.
    const MAX_PRIORITY: u32 = 32_767;

    fn set_priority(&mut self, priority: u32) -> Result<(), PriorityTooHigh> {
        if priority > Self::MAX_PRIORITY {
            return Err(PriorityTooHigh { asked: priority, max: Self::MAX_PRIORITY });
        }
        self.priority = priority;
        Ok(())
    }

    fn priority(&self) -> u32 {
        self.priority
    }
}

/// For `poll` and its kin: the queue has room when it is writable. Leave the descriptor's mode alone, and
/// take it out of an `epoll(7)` before this endpoint is dropped: the channel's other endpoints share its
/// open file description, which is watched as long as one of them is left.
impl AsFd for MqSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Space for one message, the endpoint's own until it is committed.
#[derive(Debug)]
pub struct MqLoan<'a> {
    sender: &'a mut MqSender,
}

impl Loan for MqLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.sender.reserved_len = self.sender.reserved_len.min(len);
    }

    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        let MqSender { queue, waiter, priority, space, reserved_len, .. } = &mut *self.sender;
        match push(queue, waiter, &space[..*reserved_len], *priority, wait) {
            Ok(()) => {
                *reserved_len = 0;
                Ok(())
            }
            Err(error) => Err(Rejected { loan: self, error }),
        }
    }
}

impl Deref for MqLoan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sender.space[..self.sender.reserved_len]
    }
}

impl DerefMut for MqLoan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.sender.space[..self.sender.reserved_len]
    }
}
