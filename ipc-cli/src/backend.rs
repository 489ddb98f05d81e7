//! What the commands need beyond `ipc-core`'s traits, for each transport, and the one place
//! where an address's scheme chooses between them.

mod kernel;

use crate::{
    address::{Address, Scheme},
    args::{CreateIfMissing, Settings, Trust},
    exit::{Exit, Failure},
};
use ipc_core::{Channel, ChannelError, Peek, PeekError, SendError, Sender as _, Transport, Wait};

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

    /// A sender of messages of the lowest priority, where there are any.
    fn sender(channel: &Self::Channel) -> Result<SenderOf<Self>, ChannelError> {
        channel.sender()
    }

    /// Gives the messages sent from now on this priority.
    fn set_priority(sender: &mut SenderOf<Self>, priority: u32) -> Result<(), String>;

    /// Gives the messages sent from now on this type.
    fn set_type(_sender: &mut SenderOf<Self>, _message_type: u64) -> Result<(), String> {
        Err(format!("{} messages have no --type: leave it out, or use a sysv channel", Self::SCHEME))
    }

    /// Has the receiver take what is chosen only.
    fn choose(_receiver: &mut ReceiverOf<Self>, choice: Choice) -> Result<(), String> {
        let (option, others) = match choice {
            Choice::Type(_) => ("--type", "a sysv channel"),
            Choice::HighestPriority => ("--priority", "a mq or sysv channel"),
        };
        Err(format!("{} channels have no {option}: leave it out, or use {others}", Self::SCHEME))
    }

    /// A way to look at messages without taking them; or why there is none, and what to do.
    fn peeker(_channel: &Self::Channel) -> Result<Box<dyn Peeker>, String> {
        Err(format!(
            "a message of a {} channel can't be looked at without taking it: receive it, or use a sysv channel",
            Self::SCHEME
        ))
    }

    /// Marks the end of the stream.
    fn send_end(sender: &mut SenderOf<Self>, wait: Wait<'_>) -> Result<(), SendError>;

    /// How long the chunks of a stream are best made.
    fn chunk_len(sender: &SenderOf<Self>) -> usize;

    /// Whether a reservation holds up other senders' messages, so that space mustn't be
    /// reserved before there is something to put into it.
    fn reservation_holds_up(_sender: &SenderOf<Self>) -> bool {
        false
    }

    /// How long a message can be that is gone from the channel when it is taken, but can be put
    /// back. Zero where there are none.
    fn max_taken_len(_channel: &Self::Channel) -> usize {
        0
    }

    /// Whether what this receiver holds is delivered again if it is killed.
    fn redelivers(_receiver: &ReceiverOf<Self>) -> bool {
        Self::CAPABILITIES.redelivers
    }

    /// Sees to it that the messages which `receiver` holds are in the channel when it is
    /// gone; or says why they aren't.
    fn put_back(channel: &Self::Channel, receiver: &mut ReceiverOf<Self>) -> Result<(), String>;

    /// To be called when no more is received: where what is held is still in the channel, it is as
    /// if it had not been taken.
    fn leave(_receiver: &mut ReceiverOf<Self>) {}
}

/// What a receiver is to take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice {
    /// Messages of this type.
    Type(u64),
    /// The highest priority first.
    HighestPriority,
}

/// Looks at messages.
pub(crate) trait Peeker {
    /// Copies the message at this place, the oldest being 0. False if there are not so many.
    fn peek(&mut self, index: usize, buffer: &mut Vec<u8>) -> Result<bool, PeekError>;
}

impl<R: Peek> Peeker for R {
    fn peek(&mut self, index: usize, buffer: &mut Vec<u8>) -> Result<bool, PeekError> {
        Peek::peek(self, index, buffer)
    }
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
        Scheme::Sysv => job.run(&ipc_mq::Sysv::new()),
        Scheme::Unix => job.run(&ipc_mq::Unix::new()),
        Scheme::Shm => job.run(&ipc_shm::Shm::new()),
    }
}

/// The same with a backend that opens the channels of those who are trusted, too.
pub(crate) fn trusting<J: Job>(address: &Address, trust: &Trust, job: J) -> Result<J::Output, Failure> {
    if let Some(text) = trust.foreign_to(address.scheme) {
        return Err(Failure::new(Exit::Usage, address, text));
    }
    let uids = trust.uids.iter().copied();
    Ok(match address.scheme {
        Scheme::Mq => job.run(&ipc_mq::Mq::new().trusting(uids)),
        Scheme::Unix => job.run(&ipc_mq::Unix::new().trusting(uids)),
        Scheme::Shm => job.run(&ipc_shm::Shm::new().trust(uids)),
        Scheme::Sysv => with(address.scheme, job),
    })
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
        if let Some(gid) = settings.group {
            config = config.group(gid);
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
            ipc_shm::ShmSender::Spsc(_) | ipc_shm::ShmSender::Broadcast(_) => {
                chunk_of_ring(sender.max_message_len())
            }
            // Slots are taken up whole.
            sender => sender.max_message_len(),
        }
    }

    fn reservation_holds_up(sender: &SenderOf<Self>) -> bool {
        matches!(sender, ipc_shm::ShmSender::Mpmc(_))
    }

    fn redelivers(receiver: &ReceiverOf<Self>) -> bool {
        let is_delivered_once = |receiver: &ipc_shm::MpmcReceiver| receiver.max_deliveries() == 1;
        Self::CAPABILITIES.redelivers
            && !matches!(receiver, ipc_shm::ShmReceiver::Mpmc(receiver) if is_delivered_once(receiver))
    }

    /// What was not released is still in the ring.
    fn put_back(_channel: &Self::Channel, _receiver: &mut ReceiverOf<Self>) -> Result<(), String> {
        Ok(())
    }

    /// A work queue counts who had a message and went away with it, and drops it in the end.
    fn leave(receiver: &mut ReceiverOf<Self>) {
        if let ipc_shm::ShmReceiver::Mpmc(receiver) = receiver {
            receiver.put_back();
        }
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
        Channel as _, ChannelName, EndMark, SendError, Sender as _, Transport as _, Wait,
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

        fn put_back(_: &Self::Channel, _: &mut ReceiverOf<Self>) -> Result<(), String> {
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

    /// A ring that one chunk fills is waited for by the next, or forgets the last one.
    #[rstest]
    fn several_chunks_fit_a_ring(#[values("spsc", "broadcast")] kind: &str) {
        let directory = tempfile::tempdir().unwrap();
        let config = ipc_shm::ShmConfig::new().kind(kind.parse().unwrap()).capacity_bytes(1 << 20);
        let channel = ipc_shm::Shm::at(directory.path()).create(&ChannelName::new("x").unwrap(), &config);
        let sender = channel.unwrap().sender().unwrap();
        let (chunk, longest) = (ipc_shm::Shm::chunk_len(&sender), sender.max_message_len());
        assert!(chunk >= 4096 && chunk * 4 <= longest, "{chunk} of {longest}");
    }
}
