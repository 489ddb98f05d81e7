//! The kernel's channels as the commands use them.

use super::{Backend, Choice, Peeker, ReceiverOf, SenderOf};
use crate::args::Settings;
use ipc_core::{
    Channel, ChannelError, Receiver as _, Selection, SelectiveReceiver as _, SendError, Sender as _,
    TypeSender as _, Wait,
};
use std::time::Duration;

/// How long a message that goes back to a full queue waits for others to receive. Whoever it was
/// taken for is gone, and so we are expected to be.
const PUT_BACK_PATIENCE: Duration = Duration::from_secs(5);

impl Backend for ipc_mq::Mq {
    const END_IS_EMPTY_MESSAGE: bool = true;

    fn config(settings: &Settings) -> Result<ipc_mq::MqConfig, String> {
        let mut config = ipc_mq::MqConfig::new();
        if let Some(depth) = settings.depth {
            config = config.depth(depth);
        }
        if let Some(bytes) = settings.max_message {
            config =
                config.max_message_len(usize::try_from(bytes).map_err(|_| "--max-message is too large")?);
        }
        if let Some(mode) = settings.mode {
            config = config.mode(mode);
        }
        Ok(config)
    }

    fn set_priority(sender: &mut SenderOf<Self>, priority: u32) -> Result<(), String> {
        ipc_core::PrioritySender::set_priority(sender, priority).map_err(|error| error.to_string())
    }

    /// It always does.
    fn choose(_receiver: &mut ReceiverOf<Self>, choice: Choice) -> Result<(), String> {
        match choice {
            Choice::HighestPriority => Ok(()),
            Choice::Type(_) => Err("mq messages have no --type: leave it out, or use a sysv channel".into()),
        }
    }

    fn send_end(sender: &mut SenderOf<Self>, wait: Wait<'_>) -> Result<(), SendError> {
        sender.send_wait(b"", wait)
    }

    /// The kernel copies a message whole, so the longest are the fastest.
    fn chunk_len(sender: &SenderOf<Self>) -> usize {
        sender.max_message_len()
    }

    fn max_taken_len(channel: &Self::Channel) -> usize {
        channel.max_message_len()
    }

    /// The kernel forgot the message when it was taken: it is sent again, with its priority.
    fn put_back(channel: &Self::Channel, receiver: &mut ReceiverOf<Self>) -> Result<(), String> {
        use ipc_core::{PriorityReceiver as _, PrioritySender as _};
        let mut sender = channel.sender().map_err(|error| error.to_string())?;
        let message = receiver.held();
        let priority = ReceiverOf::<Self>::priority_of(&message);
        // The kernel delivered it, so it is one that the kernel takes.
        let _ = sender.set_priority(priority);
        sender.send_wait(&message, Wait::timeout(PUT_BACK_PATIENCE)).map_err(|error| error.to_string())
    }
}

impl Backend for ipc_mq::Sysv {
    const END_IS_EMPTY_MESSAGE: bool = true;

    fn config(settings: &Settings) -> Result<ipc_mq::SysvConfig, String> {
        let mut config = ipc_mq::SysvConfig::new();
        if let Some(depth) = settings.depth {
            config = config.depth(depth);
        }
        if let Some(bytes) = settings.max_message {
            config =
                config.max_message_len(usize::try_from(bytes).map_err(|_| "--max-message is too large")?);
        }
        if let Some(mode) = settings.mode {
            config = config.mode(mode);
        }
        Ok(config)
    }

    /// A sender's own first type would be the highest priority.
    fn sender(channel: &Self::Channel) -> Result<SenderOf<Self>, ChannelError> {
        let mut sender = channel.sender()?;
        let lowest = Self::set_priority(&mut sender, 0);
        debug_assert_eq!(lowest, Ok(()), "there is always a lowest priority");
        Ok(sender)
    }

    /// A priority is a type here, see [`ipc_mq::Sysv::by_priority`].
    fn set_priority(sender: &mut SenderOf<Self>, priority: u32) -> Result<(), String> {
        let max = <ipc_mq::SysvSender<ipc_mq::ByPriority> as ipc_core::PrioritySender>::MAX_PRIORITY;
        if priority > max {
            return Err(ipc_core::PriorityTooHigh { asked: priority, max }.to_string());
        }
        Self::set_type(sender, ipc_mq::Sysv::type_of_priority(priority))
    }

    fn set_type(sender: &mut SenderOf<Self>, message_type: u64) -> Result<(), String> {
        sender.set_message_type(message_type).map_err(|error| error.to_string())
    }

    fn choose(receiver: &mut ReceiverOf<Self>, choice: Choice) -> Result<(), String> {
        let selection = match choice {
            Choice::Type(message_type) => Selection::Only(message_type),
            Choice::HighestPriority => Selection::LowestUpTo(SenderOf::<Self>::MAX_MESSAGE_TYPE),
        };
        receiver.select(selection).map_err(|error| error.to_string())
    }

    fn peeker(channel: &Self::Channel) -> Result<Box<dyn Peeker>, String> {
        Ok(Box::new(channel.receiver().map_err(|error| error.to_string())?))
    }

    fn send_end(sender: &mut SenderOf<Self>, wait: Wait<'_>) -> Result<(), SendError> {
        sender.send_wait(b"", wait)
    }

    /// Two are to fit the queue at once, so that one is read while another is written.
    fn chunk_len(sender: &SenderOf<Self>) -> usize {
        sender.max_message_len()
    }

    fn max_taken_len(channel: &Self::Channel) -> usize {
        channel.max_message_len()
    }

    /// As on a POSIX queue, with its type.
    fn put_back(channel: &Self::Channel, receiver: &mut ReceiverOf<Self>) -> Result<(), String> {
        let mut sender = channel.sender().map_err(|error| error.to_string())?;
        let message = receiver.held();
        // The kernel delivered it, so it is one that the kernel takes.
        let _ = sender.set_message_type(message.message_type());
        sender.send_wait(&message, Wait::timeout(PUT_BACK_PATIENCE)).map_err(|error| error.to_string())
    }
}

impl Backend for ipc_mq::Unix {
    const END_IS_EMPTY_MESSAGE: bool = true;

    fn config(settings: &Settings) -> Result<ipc_mq::UnixConfig, String> {
        let mut config = ipc_mq::UnixConfig::new();
        if let Some(bytes) = settings.max_message {
            config =
                config.max_message_len(usize::try_from(bytes).map_err(|_| "--max-message is too large")?);
        }
        if let Some(bytes) = settings.capacity {
            config = config.buffer_bytes(usize::try_from(bytes).map_err(|_| "--capacity is too large")?);
        }
        if let Some(mode) = settings.mode {
            config = config.mode(mode);
        }
        if !settings.allow_uid.is_empty() {
            config = config.allow_uids(settings.allow_uid.iter().copied());
        }
        Ok(config)
    }

    fn set_priority(_sender: &mut SenderOf<Self>, _priority: u32) -> Result<(), String> {
        Err("unix channels have no --priority: leave it out, or use a mq channel".into())
    }

    fn send_end(sender: &mut SenderOf<Self>, wait: Wait<'_>) -> Result<(), SendError> {
        sender.send_wait(b"", wait)
    }

    /// As long as a packet takes without a detour.
    fn chunk_len(sender: &SenderOf<Self>) -> usize {
        const CHUNK_LEN: usize = 32 * 1024;
        sender.max_message_len().min(CHUNK_LEN)
    }

    /// Nothing keeps it.
    fn put_back(_channel: &Self::Channel, _receiver: &mut ReceiverOf<Self>) -> Result<(), String> {
        Err("a unix channel stores nothing".into())
    }
}
