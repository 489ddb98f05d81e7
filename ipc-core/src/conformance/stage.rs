//! What a case works with: channels of its own that vanish with it, and sending and
//! receiving that can't hang.

use super::{ChannelOf, Fixture, ReceiverOf, SenderOf, Surroundings, payload::Stamp};
use crate::{
    Capabilities, Channel, ChannelError, ChannelName, Receiver, RecvError, SendError, Sender, Transport, Wait,
};
use std::{
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Room for this many messages, unless a case needs other room.
pub(super) const DEPTH: usize = 4;
/// The longest message, unless a case needs longer ones, in bytes.
pub(super) const LEN: usize = 128;
/// A timeout that is meant to be reached.
pub(super) const BRIEF: Duration = Duration::from_millis(30);

/// No fixture's channel takes more of the small messages than this.
const FULL_AT_LATEST: u64 = 1_000_000;

/// Where a case is played.
pub(super) struct Stage<F: Surroundings> {
    fixture: Arc<F>,
}

impl<F: Surroundings> Stage<F> {
    pub(super) fn new(fixture: Arc<F>) -> Self {
        Self { fixture }
    }

    pub(super) fn fixture(&self) -> &Arc<F> {
        &self.fixture
    }

    pub(super) fn patience(&self) -> Duration {
        self.fixture.patience()
    }

    /// Waits long enough.
    pub(super) fn patiently(&self) -> Wait<'static> {
        Wait::timeout(self.patience())
    }
}

impl<F: Fixture> Stage<F> {
    pub(super) fn transport(&self) -> F::Transport {
        self.fixture.transport()
    }

    pub(super) fn promised(&self) -> Capabilities {
        self.fixture.capabilities()
    }

    /// A new channel of [`DEPTH`] and [`LEN`].
    pub(super) fn channel(&self) -> Made<F> {
        self.channel_of(DEPTH, LEN)
    }

    /// A new channel with room for `depth` messages of `max_message_len` bytes.
    #[track_caller]
    pub(super) fn channel_of(&self, depth: usize, max_message_len: usize) -> Made<F> {
        let made = self.to_be_made();
        let config = self.fixture.config(depth, max_message_len);
        made.channel.get_or_init(|| made.transport.create(&made.name, &config).expect("create a channel"));
        made
    }

    /// A name of its own, and the removal of the channel that somebody is to give it.
    pub(super) fn to_be_made(&self) -> Made<F> {
        let (name, transport) = (unused_name(), self.transport());
        Made { name, transport, channel: OnceLock::new(), patience: self.patience() }
    }

    #[track_caller]
    pub(super) fn send(&self, tx: &mut SenderOf<F>, message: &[u8]) {
        tx.send_wait(message, self.patiently()).expect("send");
    }

    #[track_caller]
    pub(super) fn recv(&self, rx: &mut ReceiverOf<F>) -> Vec<u8> {
        rx.receive(self.patiently()).expect("receive").to_vec()
    }

    #[track_caller]
    pub(super) fn recv_stamp(&self, rx: &mut ReceiverOf<F>) -> Stamp {
        Stamp::of(&rx.receive(self.patiently()).expect("receive"))
    }

    /// Receives a message and compares it.
    #[track_caller]
    pub(super) fn expect(&self, rx: &mut ReceiverOf<F>, message: &[u8]) {
        let received = self.recv(rx);
        assert!(received == message, "received {}, not {}", Shown(&received), Shown(message));
    }

    /// Receives two messages: in the order of sending if they had one sender, or if there is
    /// one order for all.
    #[track_caller]
    pub(super) fn expect_from_two(&self, rx: &mut ReceiverOf<F>, messages: [&[u8]; 2]) {
        let mut received = [self.recv(rx), self.recv(rx)];
        if !self.promised().keeps_one_order() && received[0] == messages[1] {
            received.reverse();
        }
        for (received, message) in received.iter().zip(messages) {
            assert!(received == message, "received {}, not {}", Shown(received), Shown(message));
        }
    }

    /// Fills a channel with stamped messages of [`LEN`] bytes until it refuses; how many it
    /// took. Where it refuses nothing, these are the [`DEPTH`] messages that it has room for.
    #[track_caller]
    pub(super) fn fill(&self, tx: &mut SenderOf<F>) -> u64 {
        if !self.promised().fills() {
            (0..DEPTH as u64).for_each(|sequence| self.send(tx, &Stamp::new(0, sequence).message(LEN)));
            return DEPTH as u64;
        }
        for sequence in 0..FULL_AT_LATEST {
            match tx.try_send(&Stamp::new(0, sequence).message(LEN)) {
                Ok(()) => {}
                Err(SendError::WouldBlock) => return sequence,
                Err(error) => panic!("message {sequence} of a channel to be filled: {error}"),
            }
        }
        panic!("not full after {FULL_AT_LATEST} messages: let the fixture make a smaller channel")
    }

    /// Receives stamped messages of round 0 until the channel is empty: exactly those of
    /// these numbers.
    #[track_caller]
    pub(super) fn drain(&self, rx: &mut ReceiverOf<F>, numbers: std::ops::Range<u64>) {
        for sequence in numbers {
            assert_eq!(self.recv_stamp(rx), Stamp::new(0, sequence));
        }
        assert_empty(rx);
    }
}

/// A channel that is removed at the end of the case. Bind it before its endpoints, so that
/// they are gone by then.
pub(super) struct Made<F: Fixture> {
    pub(super) name: ChannelName,
    pub(super) transport: F::Transport,
    channel: OnceLock<ChannelOf<F>>,
    patience: Duration,
}

impl<F: Fixture> Made<F> {
    /// The channel, opened if that hasn't happened yet.
    #[track_caller]
    pub(super) fn channel(&self) -> &ChannelOf<F> {
        self.channel.get_or_init(|| self.transport.open(&self.name).expect("open the channel"))
    }

    /// Closes the channel, which exists on.
    pub(super) fn close(&mut self) {
        self.channel.take();
    }

    #[track_caller]
    pub(super) fn sender(&self) -> SenderOf<F> {
        self.channel().sender().expect("a sender")
    }

    #[track_caller]
    pub(super) fn receiver(&self) -> ReceiverOf<F> {
        self.channel().receiver().expect("a receiver")
    }

    #[track_caller]
    pub(super) fn ends(&self) -> (SenderOf<F>, ReceiverOf<F>) {
        (self.sender(), self.receiver())
    }

    /// The number of queued messages, where the transport knows it.
    #[track_caller]
    pub(super) fn queued(&self) -> Option<u64> {
        self.transport.stat(&self.name).expect("stat").queued_messages
    }
}

impl<F: Fixture> Drop for Made<F> {
    fn drop(&mut self) {
        self.close();
        leave_nothing(&self.name, self.patience, || self.transport.remove(&self.name));
    }
}

/// Removes what a case made, unless somebody did so before.
pub(super) fn leave_nothing(
    name: &ChannelName,
    patience: Duration,
    remove: impl Fn() -> Result<(), ChannelError>,
) {
    // A killed child's locks may take the kernel a moment.
    match unless_busy(patience, remove) {
        Ok(()) | Err(ChannelError::NotFound) => {}
        Err(_) if thread::panicking() => {}
        Err(error) => panic!("the channel {name} is left behind: {error}"),
    }
}

/// Tries again while the answer is `Busy`, for at most `patience`.
pub(super) fn unless_busy<T>(
    patience: Duration,
    attempt: impl Fn() -> Result<T, ChannelError>,
) -> Result<T, ChannelError> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Err(ChannelError::Busy { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            answer => return answer,
        }
    }
}

/// A name that no channel has or had: not even one that a killed run with the same process
/// id left behind.
pub(super) fn unused_name() -> ChannelName {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
    ChannelName::new(&format!("conformance-{}-{now:x}-{count}", process::id())).expect("a valid name")
}

/// Nothing is in the channel.
#[track_caller]
pub(super) fn assert_empty(rx: &mut impl Receiver) {
    match rx.try_recv() {
        Err(RecvError::WouldBlock) => {}
        Err(error) => panic!("an empty channel said: {error}"),
        Ok(message) => panic!("one message too many: {}", Shown(&message)),
    }
}

/// A message for people: its length and how it begins.
pub(super) struct Shown<'a>(pub(super) &'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.0[..self.0.len().min(24)];
        let dots = if start.len() < self.0.len() { "…" } else { "" };
        write!(f, "{} bytes \"{}{dots}\"", self.0.len(), start.escape_ascii())
    }
}
