//! An open channel: a name, and the queue that was found behind it.

use super::{SysvReceiver, SysvSender, sys::Queue, transport::Discipline};
use ipc_core::{Channel, ChannelError, ChannelName};
use std::marker::PhantomData;

/// A queue that exists; makes any number of endpoints, each message goes to one receiver.
///
/// It stands for the queue that had the name when it was opened. When that is removed, its
/// endpoints are told [`Closed`](ipc_core::RecvError::Closed).
///
/// It knows the queue by its [number](Self::id), which means that queue in the IPC namespace in which it
/// was opened, and as long as it is there: use it in threads of that namespace only, and open it anew
/// where it may have been removed long ago.
#[derive(Clone, Debug)]
pub struct SysvChannel<D: Discipline> {
    name: ChannelName,
    queue: Queue,
    key: u32,
    max_message_len: usize,
    discipline: PhantomData<fn() -> D>,
}

impl<D: Discipline> SysvChannel<D> {
    pub(crate) fn new(name: ChannelName, queue: Queue, key: u32, max_message_len: usize) -> Self {
        Self { name, queue, key, max_message_len, discipline: PhantomData }
    }

    /// The name, which the kernel doesn't know.
    pub fn name(&self) -> &ChannelName {
        &self.name
    }

    /// What a program without this crate gives to `msgget(2)`.
    pub fn key(&self) -> u32 {
        self.key
    }

    /// The kernel's number for the queue, which `ipcs(1)` shows.
    pub fn id(&self) -> i32 {
        self.queue.0
    }

    /// The longest message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.max_message_len
    }
}

impl<D: Discipline> Channel for SysvChannel<D> {
    type Sender = SysvSender<D>;
    type Receiver = SysvReceiver<D>;

    fn sender(&self) -> Result<SysvSender<D>, ChannelError> {
        Ok(SysvSender::new(self.queue, self.max_message_len))
    }

    fn receiver(&self) -> Result<SysvReceiver<D>, ChannelError> {
        Ok(SysvReceiver::new(self.queue, self.max_message_len))
    }
}
