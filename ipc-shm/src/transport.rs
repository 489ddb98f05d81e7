//! Namespaces of segments: of one kind each, whose endpoints the compiler knows, or of any.

use crate::{
    broadcast::{BroadcastPublisher, BroadcastSubscriber},
    config::ShmConfig,
    kind::Kind,
    latest::{self, LatestReader, LatestWriter},
    mpmc::{MpmcReceiver, MpmcSender},
    observer::{BroadcastObserver, LatestObserver},
    segment::{
        self, Anchored, Attachment, Collected, Header, Home, Onlooker, Opened, Place, RECEIVER, SENDER, Seat,
        spawning,
    },
    spsc::{SpscReceiver, SpscSender},
    sys::{file, fork::Window, ident},
};
use ipc_core::{
    BatchReceiver, Capabilities, Channel, ChannelError, ChannelInfo, ChannelName, Role, Sender, Transport,
};
use std::{ffi::OsString, fmt, marker::PhantomData, path::PathBuf};

/// The environment variable that names another directory for segments.
const DIRECTORY_VARIABLE: &str = "IPC_DIR";

/// What a channel became when leftovers were collected, or why that can't be told.
pub type Verdict = Result<Collected, ChannelError>;

/// Where channels are, whatever their kinds.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    home: Home,
}

impl Namespace {
    /// The user's own, unless the environment names another.
    pub(crate) fn new() -> Self {
        match std::env::var_os(DIRECTORY_VARIABLE).filter(|value: &OsString| !value.is_empty()) {
            Some(directory) => Self::at(directory.into()),
            None => {
                Self { home: Home { path: file::default_directory(), private: true, trusted: Vec::new() } }
            }
        }
    }

    /// This directory.
    pub(crate) fn at(path: PathBuf) -> Self {
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { home: Home { path, private: false, trusted: Vec::new() } }
    }

    /// With the files of these users, too.
    pub(crate) fn trust(mut self, uids: impl IntoIterator<Item = u32>) -> Self {
        self.home.trusted.extend(uids);
        self
    }

    /// Makes a channel.
    pub(crate) fn create(&self, name: &ChannelName, config: &ShmConfig) -> Result<Anchored, ChannelError> {
        let settings = config.settings(ident::page_size_bytes()?)?;
        let place = self.place(name);
        segment::create(&place, &settings, Window::open())
    }

    /// Opens a channel, of this kind if one is given.
    pub(crate) fn open(&self, name: &ChannelName, kind: Option<Kind>) -> Result<Anchored, ChannelError> {
        let place = self.place(name);
        let mut window = Window::open();
        let opened = segment::open(&place, &mut window)?;
        Self::checked(place, opened, &asked_for(kind), window)
    }

    /// Takes part in a channel, of this kind if one is given, without opening it for more.
    pub(crate) fn attach(
        &self,
        name: &ChannelName,
        kind: Option<Kind>,
        part: impl Fn(&Header) -> Result<Part, ChannelError>,
    ) -> Result<Attached, ChannelError> {
        let page = ident::page_size_bytes()?;
        let attachment = Attachment::open(&self.place(name), |opened| {
            asked_for(kind).check(&opened.settings(), page)?;
            let Part(role, seat) = part(&opened.header)?;
            Ok((role, seat))
        });
        attachment.map(Attached)
    }

    /// Opens a channel that is as `config` says, or makes it.
    pub(crate) fn open_or_create(
        &self,
        name: &ChannelName,
        config: &ShmConfig,
    ) -> Result<Anchored, ChannelError> {
        let settings = config.settings(ident::page_size_bytes()?);
        let place = self.place(name);
        loop {
            let mut window = Window::open();
            match segment::open(&place, &mut window) {
                Ok(opened) => return Self::checked(place, opened, config, window),
                Err(ChannelError::NotFound) => {}
                Err(error) => return Err(error),
            }
            let settings = match &settings {
                Ok(settings) => settings,
                Err(ChannelError::InvalidConfig(what)) => {
                    return Err(ChannelError::InvalidConfig(what.clone()));
                }
                Err(_) => return Err(ChannelError::NotFound),
            };
            match segment::create(&place, settings, window) {
                // Somebody was faster: theirs is as good.
                Err(ChannelError::AlreadyExists) => {}
                answer => return answer,
            }
        }
    }

    fn checked(
        place: Place,
        opened: Opened,
        config: &ShmConfig,
        window: Window,
    ) -> Result<Anchored, ChannelError> {
        let checked = ident::page_size_bytes()
            .map_err(ChannelError::from)
            .and_then(|page| config.check(&opened.settings(), page));
        match checked {
            Ok(()) => Anchored::new(place, opened, window),
            Err(error) => {
                segment::turn_away(&place, opened, window);
                Err(error)
            }
        }
    }

    /// Opens a channel of this kind for somebody who only looks on.
    pub(crate) fn look_on(&self, name: &ChannelName, kind: Kind) -> Result<Onlooker, ChannelError> {
        let page = ident::page_size_bytes()?;
        let config = asked_for(Some(kind));
        Onlooker::open(self.place(name), |opened| config.check(&opened.settings(), page))
    }

    pub(crate) fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        let place = self.place(name);
        spawning::while_in_use(|| segment::remove(&place, &mut Window::open()))
    }

    pub(crate) fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        let Some(directory) = self.home.open()? else { return Ok(Vec::new()) };
        let mut names: Vec<_> =
            directory.names()?.iter().filter_map(|name| ChannelName::new(name).ok()).collect();
        names.sort();
        Ok(names)
    }

    pub(crate) fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let place = self.place(name);
        let found = segment::inspect(&place, &Window::open())?;
        let geometry = found.settings.geometry;
        let mut info = ChannelInfo::new(found.settings.kind_name());
        info.path = Some(place.path());
        info.capacity_bytes = Some(geometry.capacity_bytes);
        info.depth = Some(geometry.depth).filter(|&depth| depth > 0);
        info.max_message_len_bytes = Some(geometry.max_message_len);
        if geometry.state.is_some() {
            // The value, and no messages.
            info.capacity_bytes = info.max_message_len_bytes.take();
        }
        info.queued_messages = found.survey.queued;
        info.sent_messages = found.survey.sent;
        info.lost_messages = found.survey.lost;
        info.redelivered_messages = found.survey.redelivered;
        info.condition = found.survey.condition.map(|condition| condition.to_string());
        info.mode = Some(found.settings.mode);
        info.uid = Some(found.uid);
        info.participants = found.participants;
        Ok(info)
    }

    pub(crate) fn gc(&self) -> Result<Vec<(ChannelName, Verdict)>, ChannelError> {
        let names = self.list()?.into_iter();
        Ok(names
            .map(|name| (name.clone(), segment::collect(&self.place(&name), &mut Window::open())))
            .collect())
    }

    pub(crate) fn recover(&self, name: &ChannelName) -> Result<(), ChannelError> {
        let place = self.place(name);
        spawning::while_in_use(|| segment::recover(&place))
    }

    pub(crate) fn place(&self, name: &ChannelName) -> Place {
        Place { home: self.home.clone(), name: name.clone() }
    }
}

/// What a channel has to be to be of this kind, or of any.
fn asked_for(kind: Option<Kind>) -> ShmConfig {
    kind.map_or_else(ShmConfig::new, |kind| ShmConfig::new().kind(kind))
}

/// A kind of channel whose endpoints send and receive. The markers of this trait
/// ([`SpscKind`], [`MpmcKind`], [`LatestKind`]) stand for the kinds where types are chosen.
pub trait QueueKind: sealed::Sealed + fmt::Debug + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;
    /// What its channels promise.
    const CAPABILITIES: Capabilities;
    /// The sending end.
    type Sender: Sender + 'static;
    /// The receiving end.
    type Receiver: BatchReceiver + 'static;

    /// The part that a sender takes.
    #[doc(hidden)]
    fn sending(page: sealed::Page<'_>) -> sealed::Part;

    #[doc(hidden)]
    fn sender(attached: sealed::Attached) -> Result<Self::Sender, ChannelError>;

    /// The part that a receiver takes.
    #[doc(hidden)]
    fn receiving(page: sealed::Page<'_>) -> sealed::Part;

    #[doc(hidden)]
    fn receiver(attached: sealed::Attached) -> Result<Self::Receiver, ChannelError>;
}

pub(crate) mod sealed {
    //! What only this crate names.

    use crate::segment::{Attachment, Header, Seat};
    use ipc_core::Role;

    pub trait Sealed {}

    /// What a channel's first page says, for the kinds.
    #[derive(Debug)]
    pub struct Page<'a>(pub(crate) &'a Header);

    /// Who an endpoint is, and where.
    #[derive(Debug)]
    pub struct Part(pub(crate) Role, pub(crate) Seat);

    /// An endpoint's part in a channel, once it is taken.
    #[derive(Debug)]
    pub struct Attached(pub(crate) Attachment);
}

use sealed::{Attached, Page, Part};

const QUEUE: Capabilities =
    Capabilities::NONE.with_stores().with_redelivers().with_zero_copy().with_cross_process();

/// [`Kind::Spsc`], as a type.
#[derive(Debug)]
pub enum SpscKind {}

impl sealed::Sealed for SpscKind {}

impl QueueKind for SpscKind {
    const KIND: Kind = Kind::Spsc;
    const CAPABILITIES: Capabilities = QUEUE.with_exclusive();
    type Sender = SpscSender;
    type Receiver = SpscReceiver;

    fn sending(_page: Page<'_>) -> Part {
        Part(Role::Sender, Seat::Only(SENDER))
    }

    fn sender(attached: Attached) -> Result<SpscSender, ChannelError> {
        SpscSender::new(attached.0)
    }

    fn receiving(_page: Page<'_>) -> Part {
        Part(Role::Receiver, Seat::Only(RECEIVER))
    }

    fn receiver(attached: Attached) -> Result<SpscReceiver, ChannelError> {
        SpscReceiver::new(attached.0)
    }
}

/// [`Kind::Mpmc`], as a type.
#[derive(Debug)]
pub enum MpmcKind {}

impl sealed::Sealed for MpmcKind {}

impl QueueKind for MpmcKind {
    const KIND: Kind = Kind::Mpmc;
    const CAPABILITIES: Capabilities = QUEUE;
    type Sender = MpmcSender;
    type Receiver = MpmcReceiver;

    fn sending(_page: Page<'_>) -> Part {
        Part(Role::Sender, Seat::Any)
    }

    fn sender(attached: Attached) -> Result<MpmcSender, ChannelError> {
        MpmcSender::new(attached.0)
    }

    fn receiving(_page: Page<'_>) -> Part {
        Part(Role::Receiver, Seat::Any)
    }

    fn receiver(attached: Attached) -> Result<MpmcReceiver, ChannelError> {
        MpmcReceiver::new(attached.0)
    }
}

/// [`Kind::Broadcast`], as a type.
#[derive(Debug)]
pub enum BroadcastKind {}

impl sealed::Sealed for BroadcastKind {}

impl QueueKind for BroadcastKind {
    const KIND: Kind = Kind::Broadcast;
    const CAPABILITIES: Capabilities = Capabilities::NONE.with_broadcasts().with_cross_process();
    type Sender = BroadcastPublisher;
    type Receiver = BroadcastSubscriber;

    fn sending(page: Page<'_>) -> Part {
        Part(Role::Publisher, Seat::Within(1, page.0.geometry.lanes))
    }

    fn sender(attached: Attached) -> Result<BroadcastPublisher, ChannelError> {
        BroadcastPublisher::new(attached.0)
    }

    fn receiving(page: Page<'_>) -> Part {
        let geometry = &page.0.geometry;
        Part(Role::Subscriber, Seat::Within(geometry.lanes + 1, geometry.participants))
    }

    fn receiver(attached: Attached) -> Result<BroadcastSubscriber, ChannelError> {
        BroadcastSubscriber::new(attached.0)
    }
}

/// [`Kind::Latest`], as a type.
#[derive(Debug)]
pub enum LatestKind {}

impl sealed::Sealed for LatestKind {}

impl QueueKind for LatestKind {
    const KIND: Kind = Kind::Latest;
    const CAPABILITIES: Capabilities =
        Capabilities::NONE.with_stores().with_broadcasts().with_conflates().with_cross_process();
    type Sender = LatestWriter;
    type Receiver = LatestReader;

    fn sending(_page: Page<'_>) -> Part {
        Part(Role::Writer, Seat::Only(latest::WRITER))
    }

    fn sender(attached: Attached) -> Result<LatestWriter, ChannelError> {
        LatestWriter::new(attached.0)
    }

    fn receiving(page: Page<'_>) -> Part {
        Part(Role::Reader, Seat::Within(latest::WRITER + 1, page.0.geometry.participants))
    }

    fn receiver(attached: Attached) -> Result<LatestReader, ChannelError> {
        Ok(LatestReader::new(attached.0))
    }
}

/// The methods that every namespace has.
macro_rules! namespace {
    () => {
        /// The channels in `$IPC_DIR` if that is set and not empty, else in the user's own
        /// directory, which is made at need.
        pub fn new() -> Self {
            Namespace::new().into()
        }

        /// The channels in this directory, which must exist. A relative path is taken from
        /// the working directory of now, wherever the process goes later.
        ///
        /// Whoever may write to a directory can rename and remove what is in it, unless it has
        /// the sticky bit. One that others may write to is refused where it hasn't, unless it
        /// belongs to us, to root or to somebody who is trusted.
        pub fn at(directory: impl Into<PathBuf>) -> Self {
            Namespace::at(directory.into()).into()
        }

        /// Takes the files of these users, by number, for channels, too. Otherwise only files
        /// of this process's effective user are: whoever owns a channel's file can change
        /// whatever is in it, and is trusted not to be malicious. What a trusted user's file
        /// lets us do is up to its mode.
        #[must_use]
        pub fn trust(self, uids: impl IntoIterator<Item = u32>) -> Self {
            self.namespace.trust(uids).into()
        }

        /// Removes what killed users of transient channels left: those that are empty and
        /// that, by the kernel's word, nobody has open. Says for each channel, of whatever
        /// kind, what became of it, or why that can't be told.
        ///
        /// The same happens to a channel when it is opened, so nothing depends on this; it
        /// is for tidiness.
        ///
        /// # Errors
        ///
        /// As [`Transport::list`](ipc_core::Transport::list).
        pub fn gc(&self) -> Result<Vec<(ChannelName, Verdict)>, ChannelError> {
            self.namespace.gc()
        }

        /// Accepts what a channel on a disk holds that was in use when the machine went down:
        /// from now on it is opened again. Its structure is checked whenever it is used, but
        /// messages may be missing, old or mixed up. Nothing happens to any other channel.
        ///
        /// # Errors
        ///
        /// [`ChannelError::NotFound`]; [`ChannelError::Busy`] if somebody has it open.
        pub fn recover(&self, name: &ChannelName) -> Result<(), ChannelError> {
            self.namespace.recover(name)
        }
    };
}
pub(crate) use namespace;

/// The methods of a transport that don't depend on the kind.
macro_rules! names_of_channels {
    () => {
        fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
            self.namespace.remove(name)
        }

        fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
            self.namespace.list()
        }

        fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
            self.namespace.stat(name)
        }
    };
}
pub(crate) use names_of_channels;

/// Channels of one kind in shared memory, one file each in one directory: [`Spsc`],
/// [`Mpmc`], [`Latest`]. Opening a channel of another kind is an error that names both.
///
/// Unless another directory is chosen, by [`at`](Of::at) or the environment variable
/// `IPC_DIR`, it is `/dev/shm/ipc-UID`, which belongs to its user alone.
pub struct Of<K> {
    namespace: Namespace,
    kind: PhantomData<K>,
}

/// Channels with one sender and one receiver at a time: [`Kind::Spsc`].
pub type Spsc = Of<SpscKind>;
/// Work queues with any number of senders and receivers: [`Kind::Mpmc`].
pub type Mpmc = Of<MpmcKind>;
/// Broadcasts with any number of publishers and subscribers: [`Kind::Broadcast`].
pub type Broadcast = Of<BroadcastKind>;
/// A channel of [`Broadcast`].
pub type BroadcastChannel = ChannelOf<BroadcastKind>;
/// The newest value, from one writer to any number of readers: [`Kind::Latest`].
pub type Latest = Of<LatestKind>;
/// A channel of [`Spsc`].
pub type SpscChannel = ChannelOf<SpscKind>;
/// A channel of [`Mpmc`].
pub type MpmcChannel = ChannelOf<MpmcKind>;
/// A channel of [`Latest`].
pub type LatestChannel = ChannelOf<LatestKind>;

impl<K: QueueKind> Of<K> {
    namespace!();

    fn of_kind(config: &ShmConfig) -> Result<ShmConfig, ChannelError> {
        config.clone().only(K::KIND)
    }
}

impl Of<BroadcastKind> {
    /// Looks on: a subscribing end that changes no byte of the channel, and needs no right to.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotPermitted`] if we may not read the file, or it belongs to somebody
    /// who isn't trusted; [`ChannelError::Unsupported`] if the channel is a reliable one, whose
    /// publishers would have to know of us; and the others.
    pub fn observe(&self, name: &ChannelName) -> Result<BroadcastObserver, ChannelError> {
        BroadcastObserver::new(self.namespace.look_on(name, Kind::Broadcast)?)
    }
}

impl Of<LatestKind> {
    /// Looks on: a reading end that changes no byte of the channel, and needs no right to.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotPermitted`] if we may not read the file, or it belongs to somebody
    /// who isn't trusted; and the others.
    pub fn observe(&self, name: &ChannelName) -> Result<LatestObserver, ChannelError> {
        Ok(LatestObserver::new(self.namespace.look_on(name, Kind::Latest)?))
    }
}

impl<K: QueueKind> Transport for Of<K> {
    type Config = ShmConfig;
    type Channel = ChannelOf<K>;

    const SCHEME: &'static str = "shm";
    const CAPABILITIES: Capabilities = K::CAPABILITIES;

    fn create(&self, name: &ChannelName, config: &ShmConfig) -> Result<ChannelOf<K>, ChannelError> {
        self.namespace.create(name, &Self::of_kind(config)?).map(Into::into)
    }

    fn open(&self, name: &ChannelName) -> Result<ChannelOf<K>, ChannelError> {
        self.namespace.open(name, Some(K::KIND)).map(Into::into)
    }

    fn open_or_create(&self, name: &ChannelName, config: &ShmConfig) -> Result<ChannelOf<K>, ChannelError> {
        self.namespace.open_or_create(name, &Self::of_kind(config)?).map(Into::into)
    }

    fn open_sender(&self, name: &ChannelName) -> Result<K::Sender, ChannelError> {
        K::sender(self.namespace.attach(name, Some(K::KIND), |header| Ok(K::sending(Page(header))))?)
    }

    fn open_receiver(&self, name: &ChannelName) -> Result<K::Receiver, ChannelError> {
        K::receiver(self.namespace.attach(name, Some(K::KIND), |header| Ok(K::receiving(Page(header))))?)
    }

    names_of_channels!();
}

impl<K> From<Namespace> for Of<K> {
    fn from(namespace: Namespace) -> Self {
        Self { namespace, kind: PhantomData }
    }
}

impl<K> Clone for Of<K> {
    fn clone(&self) -> Self {
        self.namespace.clone().into()
    }
}

impl<K: QueueKind> Default for Of<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: QueueKind> fmt::Debug for Of<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Of").field("kind", &K::KIND).field("namespace", &self.namespace).finish()
    }
}

/// A channel of a known kind. It counts as a user as long as it lives: nobody removes the
/// channel meanwhile.
#[derive(Debug)]
pub struct ChannelOf<K> {
    anchored: Anchored,
    kind: PhantomData<K>,
}

impl<K> From<Anchored> for ChannelOf<K> {
    fn from(anchored: Anchored) -> Self {
        Self { anchored, kind: PhantomData }
    }
}

/// The methods that every open channel has.
macro_rules! open_channel {
    () => {
        /// Returns when all that was sent and released before is on the disk, and the channel's
        /// name, where its directory is on one. Without it, that survives everybody's death and
        /// an orderly shutdown, not a power loss.
        ///
        /// # Errors
        ///
        /// [`ChannelError::NotFound`] if the channel was removed meanwhile, and what the disk
        /// reports. It does so once; from then on it is [`ChannelError::Unrecovered`], whoever
        /// asks, until that is accepted by [`Shm::recover`](crate::Shm::recover): something
        /// that was sent is in memory only.
        ///
        /// # Blocking
        ///
        /// As long as the disk takes. No other thread is kept waiting by it.
        pub fn sync(&self) -> Result<(), ChannelError> {
            self.anchored.sync()
        }
    };
}
pub(crate) use open_channel;

impl<K> ChannelOf<K> {
    open_channel!();
}

impl<K: QueueKind> Channel for ChannelOf<K> {
    type Sender = K::Sender;
    type Receiver = K::Receiver;

    fn sender(&self) -> Result<K::Sender, ChannelError> {
        let Part(role, seat) = K::sending(Page(&self.anchored.header));
        K::sender(Attached(self.anchored.attach(role, seat)?))
    }

    fn receiver(&self) -> Result<K::Receiver, ChannelError> {
        let Part(role, seat) = K::receiving(Page(&self.anchored.header));
        K::receiver(Attached(self.anchored.attach(role, seat)?))
    }
}
