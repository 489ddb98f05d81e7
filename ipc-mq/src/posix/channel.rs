//! An open channel: a name, and what was found behind it.

use super::{
    MqReceiver, MqSender, limits,
    sys::{Access, Queue},
    transport::not_permitted,
};
use ipc_core::{Channel, ChannelError, ChannelName};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// A queue that exists; makes any number of endpoints, each message goes to one receiver.
///
/// It stands for the queue that had the name when it was opened, and so do its endpoints:
/// when that is removed and made anew, they go on with the old one. It has the queue open for
/// whatever this process was permitted then, to send, to receive or both.
#[derive(Clone, Debug)]
pub struct MqChannel {
    name: ChannelName,
    queue: Queue,
    /// What for; nothing at all if its maker gave it such a mode.
    access: Option<Access>,
    /// Whether an endpoint shares the descriptor. The next one has one of its own, since
    /// `epoll(7)` takes each only once.
    shared: Arc<AtomicBool>,
}

impl MqChannel {
    pub(crate) fn new(name: ChannelName, queue: Queue, access: Option<Access>) -> Self {
        Self { name, queue, access, shared: Arc::default() }
    }

    /// The name; the kernel's has a slash before it.
    pub fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Room for messages, in messages.
    pub fn depth(&self) -> usize {
        self.queue.depth()
    }

    /// The longest message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.queue.max_message_len()
    }

    /// The queue for an endpoint.
    fn endpoint(&self) -> Result<Queue, ChannelError> {
        if self.shared.swap(true, Relaxed) {
            self.queue.duplicate().map_err(|errno| limits::explain_any("fcntl", errno))
        } else {
            Ok(self.queue.clone())
        }
    }
}

impl Channel for MqChannel {
    type Sender = MqSender;
    type Receiver = MqReceiver;

    /// Needs the permission to write, and no other.
    fn sender(&self) -> Result<MqSender, ChannelError> {
        if !matches!(self.access, Some(Access::Both | Access::Send)) {
            return Err(not_permitted(&self.name, "this process may not send to the queue"));
        }
        Ok(MqSender::new(self.endpoint()?))
    }

    /// Needs the permission to read, and no other.
    fn receiver(&self) -> Result<MqReceiver, ChannelError> {
        if !matches!(self.access, Some(Access::Both | Access::Receive)) {
            return Err(not_permitted(&self.name, "this process may not receive from the queue"));
        }
        let geometry = self.queue.geometry()?;
        Ok(MqReceiver::new(self.endpoint()?, geometry))
    }
}
