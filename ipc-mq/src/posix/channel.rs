//! An open channel: a name, and what was found behind it.

use super::{
    MqReceiver, MqSender,
    sys::{Access, Geometry},
    transport::open_for,
};
use ipc_core::{Channel, ChannelError, ChannelName};

/// A queue that exists; makes any number of endpoints, each message goes to one receiver.
///
/// It holds no descriptor, so that a process that may only send, or only receive, can have
/// it. Each endpoint opens the queue that has the name *then*: if the queue was removed
/// and made anew in between, the new one, with its own depth and message length.
#[derive(Clone, Debug)]
pub struct MqChannel {
    name: ChannelName,
    geometry: Geometry,
}

impl MqChannel {
    pub(crate) fn new(name: ChannelName, geometry: Geometry) -> Self {
        Self { name, geometry }
    }

    /// The name; the kernel's has a slash before it.
    pub fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Room for messages, in messages.
    pub fn depth(&self) -> usize {
        self.geometry.depth
    }

    /// The longest message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.geometry.max_message_len
    }
}

impl Channel for MqChannel {
    type Sender = MqSender;
    type Receiver = MqReceiver;

    /// Needs the permission to write, and no other.
    fn sender(&self) -> Result<MqSender, ChannelError> {
        let queue = open_for(&self.name, Access::Send)?;
        let geometry = queue.attributes()?.geometry;
        Ok(MqSender::new(queue, geometry.max_message_len))
    }

    /// Needs the permission to read, and no other.
    fn receiver(&self) -> Result<MqReceiver, ChannelError> {
        let queue = open_for(&self.name, Access::Receive)?;
        let geometry = queue.attributes()?.geometry;
        Ok(MqReceiver::new(queue, geometry.max_message_len))
    }
}
