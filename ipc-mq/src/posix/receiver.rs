//! The receiving end of a queue, after `mq_receive(3)`.

use super::{
    notification::{Asked, State},
    sys::{Geometry, Queue},
};
use crate::{
    store::Store,
    wait::{Patience, Waiter, is_ready, sort_out},
};
use ipc_core::{
    Batch, BatchReceiver, Message, Notify, NotifyError, OsError, Pollable, PriorityReceiver, Receiver,
    RecvError, Unwinding, Wait,
};
use nix::{errno::Errno, poll::PollFlags};
use std::{
    ops::Deref,
    os::fd::{AsFd, BorrowedFd},
};

/// The receiving end of a queue.
///
/// The kernel gives a message to one receiver and forgets it. From then on it lives in this
/// endpoint's own memory: what is still held when the endpoint is dropped, or its process
/// dies, is gone. So hold little, and release it when it is safe.
///
/// After a `fork`, parent and child may both go on receiving: each message goes to one of
/// them. What was held at the fork, both hold.
#[derive(Debug)]
pub struct MqReceiver {
    queue: Queue,
    /// How many messages the queue has room for.
    depth: usize,
    held: Store<u32>,
    waiter: Waiter,
    /// That it asked for a notification that may still stand.
    asked: Option<Asked>,
}

impl MqReceiver {
    pub(crate) fn new(queue: Queue, Geometry { depth, max_message_len }: Geometry) -> Self {
        Self { queue, depth, held: Store::new(max_message_len), waiter: Waiter::default(), asked: None }
    }

    /// Takes one more message from the queue, in addition to those held.
    #[inline]
    fn pull(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let Self { queue, held, waiter, .. } = self;
        let space = held.space();
        let attempt = |patience| {
            let answer = match patience {
                Patience::Endless => queue.receive(space),
                Patience::None => queue.receive_by_epoch(space),
            };
            sort_out("mq_receive", answer)
        };
        let (len, priority) = waiter.until(queue.as_fd(), PollFlags::POLLIN, wait, attempt)?;
        held.push(len, priority);
        Ok(())
    }
}

impl Receiver for MqReceiver {
    type Message<'a> = MqMessage<'a>;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.held.is_empty() { self.pull(wait) } else { Ok(()) }
    }

    fn held(&mut self) -> MqMessage<'_> {
        assert!(!self.held.is_empty(), "held() without a successful advance()");
        MqMessage { held: &mut self.held, release: true, unwinding: Unwinding::watch() }
    }
}

/// A call takes at most as many messages as the queue has room for, 1024, or 4 MiB of them: the kernel
/// takes in what waiting senders have while it does.
impl BatchReceiver for MqReceiver {
    type Batch<'a> = MqBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        let bound = self.held.bound(max_messages, self.depth);
        self.advance(wait)?;
        while self.held.is_below(bound) {
            // An error now would hide what is held; if it lasts, the next call meets it.
            if self.pull(Wait::Never).is_err() {
                break;
            }
        }
        Ok(self.held.len())
    }

    fn held_batch(&mut self) -> MqBatch<'_> {
        MqBatch { held: &mut self.held }
    }
}

impl PriorityReceiver for MqReceiver {
    fn priority_of(message: &MqMessage<'_>) -> u32 {
        message.priority()
    }
}

/// The queue's own descriptor; there is nothing to arm, it is readable while there is a
/// message.
///
/// Endpoints of one channel share an open file description, and `epoll(7)` keeps what it watches until
/// the last descriptor of that is closed: so have it forget this one (`EPOLL_CTL_DEL`) before the
/// endpoint is dropped, or it goes on telling of the queue.
impl Pollable for MqReceiver {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        Ok(self.queue.as_fd())
    }

    fn arm(&mut self) -> Result<bool, RecvError> {
        Ok(!self.held.is_empty() || is_ready(self.queue.as_fd(), PollFlags::POLLIN)?)
    }
}

/// `mq_notify(3)` by signal. The signal's handler finds `SI_MESGQ` as its code.
///
/// Endpoints of the same channel may come and go without taking a registration back. The kernel
/// does, without a word, when this process closes any other descriptor of the queue: drops another
/// channel of it that was opened apart, or an endpoint of that, asks [`stat`](ipc_core::Transport::stat)
/// about it, is refused when it opens it with other settings, or calls `mq_close(3)`.
///
/// A receiver that waits for ever, here or elsewhere, gets a message before who is notified, and the
/// registration stays. One that waits with a deadline or a cancellation doesn't count as waiting: it
/// sleeps in `ppoll(2)`, of which the kernel's queue knows nothing. Then the signal is sent and the
/// registration used up, though that receiver may take the message.
impl Notify for MqReceiver {
    fn notify(&mut self, signal: i32) -> Result<(), NotifyError> {
        if signal <= 0 {
            // The kernel registers 0, and then notifies nobody.
            return Err(NotifyError::NoSuchSignal(signal));
        }
        let mut state = self.queue.notification().lock();
        let mut answer = self.queue.notify(Some(signal));
        if answer == Err(Errno::EBUSY) {
            // If it is our own process's, this takes it back; another's stays.
            take_back(&self.queue, state.as_deref_mut())?;
            answer = self.queue.notify(Some(signal));
        }
        match answer {
            Ok(()) => {
                self.asked = state.map(|mut state| state.asked());
                Ok(())
            }
            Err(Errno::EBUSY) => Err(NotifyError::Busy),
            Err(Errno::EINVAL) => Err(NotifyError::NoSuchSignal(signal)),
            Err(other) => Err(OsError::new("mq_notify", other).into()),
        }
    }

    fn forget_notification(&mut self) -> Result<(), OsError> {
        self.asked = None;
        take_back(&self.queue, self.queue.notification().lock().as_deref_mut())
    }
}

fn take_back(queue: &Queue, state: Option<&mut State>) -> Result<(), OsError> {
    queue.notify(None).map_err(|errno| OsError::new("mq_notify", errno))?;
    if let Some(state) = state {
        state.forgotten();
    }
    Ok(())
}

/// For `poll` and its kin: the queue has a message when it is readable. One that this
/// endpoint holds doesn't count. Leave the descriptor's mode alone, and take it out of an `epoll(7)`
/// before this endpoint is dropped, see its [`Pollable`].
impl AsFd for MqReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Its notification goes with it, unless another endpoint has asked since. Where its descriptor is
/// closed the kernel sees to that, but its channel may have it open yet.
impl Drop for MqReceiver {
    fn drop(&mut self) {
        let Some(asked) = self.asked else { return };
        let state = self.queue.notification().lock();
        if let Some(mut state) = state.filter(|state| state.is_last(asked)) {
            // There is nobody to tell; in a child process it is the parent's, and stays.
            let _ = take_back(&self.queue, Some(&mut state));
        }
    }
}

/// A message lent by a [`MqReceiver`]. Dropping it releases it.
#[derive(Debug)]
pub struct MqMessage<'a> {
    held: &'a mut Store<u32>,
    release: bool,
    unwinding: Unwinding,
}

impl MqMessage<'_> {
    /// The priority that it was sent with.
    pub fn priority(&self) -> u32 {
        *self.held.first_tag()
    }
}

impl Message for MqMessage<'_> {
    fn keep(mut self) {
        self.release = false;
    }
}

impl Deref for MqMessage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.held.first()
    }
}

impl Drop for MqMessage<'_> {
    fn drop(&mut self) {
        if self.release && !self.unwinding.has_begun() {
            self.held.release(1);
        }
    }
}

/// Messages lent together by a [`MqReceiver`].
#[derive(Debug)]
pub struct MqBatch<'a> {
    held: &'a mut Store<u32>,
}

impl Batch for MqBatch<'_> {
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
