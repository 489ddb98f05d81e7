//! What the commands need beyond `ipc-core`'s traits, for each transport, and the one place
//! where an address's scheme chooses between them.

use crate::{
    address::{Address, Scheme},
    args::{CreateIfMissing, Settings},
    exit::{Exit, Failure},
};
use ipc_core::{Channel, Receiver as _, SendError, Sender as _, Transport, Wait};

/// The sending end of a backend's channels.
pub(crate) type SenderOf<B> = <<B as Transport>::Channel as Channel>::Sender;
/// The receiving end of a backend's channels.
pub(crate) type ReceiverOf<B> = <<B as Transport>::Channel as Channel>::Receiver;

/// A transport as the commands use it.
pub(crate) trait Backend: Transport {
    /// Whether the end of a stream is marked by an empty message.
    const END_IS_EMPTY_MESSAGE: bool;

    /// The configuration with these settings; which options the scheme has is checked.
    fn config(settings: &Settings) -> Result<Self::Config, String>;

    /// The same for a channel that needn't outlive its use.
    fn transient(config: Self::Config) -> Self::Config {
        config
    }

    /// Gives the messages sent from now on this priority.
    fn set_priority(sender: &mut SenderOf<Self>, priority: u32) -> Result<(), String>;

    /// Marks the end of the stream.
    fn send_end(sender: &mut SenderOf<Self>, wait: Wait<'_>) -> Result<(), SendError>;

    /// How long the chunks of a stream are best made.
    fn chunk_len(sender: &SenderOf<Self>) -> usize;

    /// Whether a reservation holds up other senders' messages, so that space mustn't be
    /// reserved before there is something to put into it.
    fn reservation_holds_up(_sender: &SenderOf<Self>) -> bool {
        false
    }

    /// Sees to it that the messages which `receiver` holds are in the channel when it is
    /// gone.
    fn put_back(channel: &Self::Channel, receiver: &mut ReceiverOf<Self>) -> Result<(), SendError>;
}

/// Something to be done with a backend.
pub(crate) trait Job {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<B: Backend>(self, backend: &B) -> Self::Output;
}

/// Does `job` with the backend of `scheme`.
pub(crate) fn with<J: Job>(scheme: Scheme, job: J) -> J::Output {
    match scheme {
        Scheme::Mq => job.run(&ipc_mq::Mq::new()),
        Scheme::Shm => job.run(&ipc_shm::Shm::new()),
    }
}

/// The configuration that `settings` ask for.
pub(crate) fn config<B: Backend>(address: &Address, settings: &Settings) -> Result<B::Config, Failure> {
    let usage = |text| Failure::new(Exit::Usage, address, text);
    if let Some(text) = settings.foreign_to(address.scheme) {
        return Err(usage(text));
    }
    B::config(settings).map_err(usage)
}

/// What is wrong with settings for a channel that exists.
pub(crate) const SETTINGS_WITHOUT_CREATE: &str =
    "settings are for making the channel: add --create, or leave them out";

/// Opens the channel, or makes it if that is wanted.
pub(crate) fn open<B: Backend>(
    backend: &B,
    address: &Address,
    create: &CreateIfMissing,
) -> Result<B::Channel, Failure> {
    let opened = if create.create {
        let config = B::transient(config::<B>(address, &create.settings)?);
        backend.open_or_create(&address.name, &config)
    } else if create.settings == Settings::default() {
        backend.open(&address.name)
    } else {
        return Err(Failure::new(Exit::Usage, address, SETTINGS_WITHOUT_CREATE));
    };
    opened.map_err(|error| Failure::channel(address, &error))
}

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

    fn send_end(sender: &mut SenderOf<Self>, wait: Wait<'_>) -> Result<(), SendError> {
        sender.send_wait(b"", wait)
    }

    /// The kernel copies a message whole, so the longest are the fastest.
    fn chunk_len(sender: &SenderOf<Self>) -> usize {
        sender.max_message_len()
    }

    /// The kernel forgot the message when it was taken: it is sent again, with its priority.
    fn put_back(channel: &Self::Channel, receiver: &mut ReceiverOf<Self>) -> Result<(), SendError> {
        use ipc_core::{PriorityReceiver as _, PrioritySender as _};
        let mut sender = channel.sender().map_err(|_| SendError::Closed)?;
        let message = receiver.held();
        let priority = ReceiverOf::<Self>::priority_of(&message);
        // The kernel delivered it, so it is one that the kernel takes.
        let _ = sender.set_priority(priority);
        sender.send_wait(&message, Wait::Never)
    }
}

impl Backend for ipc_shm::Shm {
    const END_IS_EMPTY_MESSAGE: bool = false;

    fn config(settings: &Settings) -> Result<ipc_shm::ShmConfig, String> {
        let mut config = ipc_shm::ShmConfig::new();
        if let Some(kind) = &settings.kind {
            config = config.kind(kind.parse::<ipc_shm::Kind>()?);
        }
        if let Some(bytes) = settings.capacity {
            config = config.capacity_bytes(bytes);
        }
        if let Some(depth) = settings.depth {
            config = config.depth(depth as u64);
        }
        if let Some(bytes) = settings.max_message {
            config = config.max_message_len(bytes);
        }
        if let Some(participants) = settings.participants {
            config = config.participants(participants);
        }
        if let Some(publishers) = settings.publishers {
            config = config.publishers(publishers);
        }
        if let Some(deliveries) = settings.max_deliveries {
            config = config.max_deliveries(deliveries);
        }
        if let Some(policy) = &settings.when_full {
            config = config.when_full(policy.parse::<ipc_shm::WhenFull>()?);
        }
        if settings.huge_pages {
            config = config.huge_pages(true);
        }
        if settings.prefault {
            config = config.prefault(true);
        }
        if let Some(mode) = settings.mode {
            config = config.mode(mode);
        }
        Ok(config)
    }

    fn transient(config: ipc_shm::ShmConfig) -> ipc_shm::ShmConfig {
        config.transient()
    }

    fn set_priority(_sender: &mut SenderOf<Self>, _priority: u32) -> Result<(), String> {
        Err("shm channels have no --priority: leave it out, or use a mq channel".into())
    }

    fn send_end(sender: &mut SenderOf<Self>, wait: Wait<'_>) -> Result<(), SendError> {
        ipc_core::EndMark::send_end(sender, wait)
    }

    fn chunk_len(sender: &SenderOf<Self>) -> usize {
        match sender {
            ipc_shm::ShmSender::Spsc(sender) => chunk_of_ring(sender.max_message_len()),
            // Slots are taken up whole.
            sender => sender.max_message_len(),
        }
    }

    fn reservation_holds_up(sender: &SenderOf<Self>) -> bool {
        matches!(sender, ipc_shm::ShmSender::Mpmc(_))
    }

    /// What was not released is still in the ring.
    fn put_back(_channel: &Self::Channel, _receiver: &mut ReceiverOf<Self>) -> Result<(), SendError> {
        Ok(())
    }
}

/// Several chunks are to fit a ring at once, so that one is read while another is written;
/// beyond what a processor's cache holds they gain nothing.
fn chunk_of_ring(max_message_len: usize) -> usize {
    const LEAST: usize = 4 * 1024;
    const MOST: usize = 128 * 1024;
    (max_message_len / 8).clamp(LEAST, MOST).min(max_message_len)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Backend, ReceiverOf, SenderOf, chunk_of_ring};
    use crate::args::Settings;
    use ipc_core::{
        EndMark, SendError, Wait,
        local::{Local, LocalConfig},
    };
    use rstest::rstest;

    /// The in-process transport, to test the commands' logic on.
    impl Backend for Local {
        const END_IS_EMPTY_MESSAGE: bool = false;

        fn config(_settings: &Settings) -> Result<LocalConfig, String> {
            Ok(LocalConfig::new())
        }

        fn set_priority(_sender: &mut SenderOf<Self>, _priority: u32) -> Result<(), String> {
            Err("no priorities".into())
        }

        fn send_end(sender: &mut SenderOf<Self>, wait: Wait<'_>) -> Result<(), SendError> {
            EndMark::send_end(sender, wait)
        }

        fn chunk_len(sender: &SenderOf<Self>) -> usize {
            ipc_core::Sender::max_message_len(sender)
        }

        fn put_back(_: &Self::Channel, _: &mut ReceiverOf<Self>) -> Result<(), SendError> {
            Ok(())
        }
    }

    #[rstest]
    #[case::tiny(100, 100)]
    #[case::small(8176, 4096)]
    #[case::default((1 << 20) - 16, 131_070)]
    #[case::huge(1 << 30, 131_072)]
    fn chunks_leave_room_for_others(#[case] max_message_len: usize, #[case] expected: usize) {
        assert_eq!(chunk_of_ring(max_message_len), expected);
    }
}
