//! How a segment is made: what the user asks for, and what a segment then has.

use crate::{
    kind::{Kind, Lifetime, WhenFull},
    sync::Form,
};
use ipc_core::ChannelError;

/// How a channel in shared memory is made. Every setting that isn't given is the default,
/// and doesn't matter when an existing channel is opened.
///
/// ```
/// use ipc_shm::ShmConfig;
///
/// let config = ShmConfig::new().depth(1024).max_message_len(256).mode(0o660);
/// # let _ = config;
/// ```
///
/// Which settings a kind has, and what they are unless given:
///
/// | setting | spsc | mpmc | broadcast | latest | rpc |
/// |---|---|---|---|---|---|
/// | `capacity_bytes` | 1 MiB | 1 MiB | 1 MiB for each publisher | | |
/// | `depth` | | as fits | | 4 | 64 |
/// | `max_message_len` | capacity − 16 | 8 KiB, or as fits | capacity − 32 | 4 KiB | 8 KiB |
/// | `participants` | 2 | 64 | 64 | 64 | 64 |
/// | `publishers` | | | 4 | | |
/// | `max_deliveries` | | 255 | | | |
/// | `when_full` | wait | wait | drop-oldest | | wait |
#[derive(Clone, Debug, Default)]
pub struct ShmConfig {
    pub(crate) kind: Option<Kind>,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) depth: Option<u64>,
    pub(crate) max_message_len: Option<u64>,
    pub(crate) participants: Option<u32>,
    pub(crate) publishers: Option<u32>,
    pub(crate) max_deliveries: Option<u32>,
    pub(crate) when_full: Option<WhenFull>,
    mode: Option<u32>,
    group: Option<u32>,
    lifetime: Option<Lifetime>,
    huge_pages: Option<bool>,
    prefault: Option<bool>,
    undumped: Option<bool>,
    unswapped: Option<bool>,
    /// What state it is, if it is state.
    pub(crate) state: Option<State>,
}

impl ShmConfig {
    /// The capacity unless another one is given: 1 MiB.
    pub const DEFAULT_CAPACITY_BYTES: u64 = 1 << 20;
    /// The largest capacity, in bytes: 1 TiB.
    pub const MAX_CAPACITY_BYTES: u64 = 1 << 40;
    /// The most endpoints that a channel can be made for.
    pub const MAX_PARTICIPANTS: u32 = 4096;
    /// The most publishers that a channel can be made for.
    pub const MAX_PUBLISHERS: u32 = 256;
    /// Deliveries of a message unless another number is given, and the most that are counted.
    pub const MAX_DELIVERIES: u32 = 255;
    const DEFAULT_MODE: u32 = 0o600;

    /// The defaults: a work queue of 1 MiB, kept, for its owner alone (mode 0600).
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for messages, in bytes, rounded up to whole pages: 1 byte to 1 TiB. All of it is
    /// allocated when the channel is made, so that none is missing later (but see
    /// [on a disk](crate#on-a-disk)). What a message takes up of it depends on the [`Kind`].
    ///
    /// More room takes up bursts, but is no faster: messages of many KiB that are copied in and
    /// out go fastest where the room is a part only of the cache that the processors share, a
    /// few MiB (1 MiB there and back: 116 µs through 4 MiB, 229 through 16, on an AMD EPYC).
    #[must_use]
    pub fn capacity_bytes(self, bytes: u64) -> Self {
        Self { capacity_bytes: Some(bytes), ..self }
    }

    /// Room for messages, in messages of the longest kind; at least 1.
    #[must_use]
    pub fn depth(self, messages: u64) -> Self {
        Self { depth: Some(messages), ..self }
    }

    /// The longest message, in bytes. Kinds with slots have room for it in each slot.
    #[must_use]
    pub fn max_message_len(self, bytes: u64) -> Self {
        Self { max_message_len: Some(bytes), ..self }
    }

    /// How many endpoints there can be at once: 1 to 4096. Each costs 256 bytes.
    #[must_use]
    pub fn participants(self, endpoints: u32) -> Self {
        Self { participants: Some(endpoints), ..self }
    }

    /// How many publishers there can be at once, each with a ring of its own: 1 to 256. They
    /// are among the participants; the others are places for subscribers.
    #[must_use]
    pub fn publishers(self, publishers: u32) -> Self {
        Self { publishers: Some(publishers), ..self }
    }

    /// How often a message is delivered before it is dropped, and counted as lost, because
    /// each of its receivers died with it: 1 (never again) to 255.
    #[must_use]
    pub fn max_deliveries(self, deliveries: u32) -> Self {
        Self { max_deliveries: Some(deliveries), ..self }
    }

    /// What a sender does that finds no room.
    #[must_use]
    pub fn when_full(self, policy: WhenFull) -> Self {
        Self { when_full: Some(policy), ..self }
    }

    /// Permission bits, set exactly, whatever the umask. The default is 0600.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode: Some(mode), ..self }
    }

    /// The group that the channel's file belongs to, by number; else it is that of the process,
    /// or of the directory. With mode 0640 its members may look on ([`Broadcast::observe`]),
    /// with 0660 take part.
    ///
    /// [`Broadcast::observe`]: crate::Broadcast::observe
    #[must_use]
    pub fn group(self, gid: u32) -> Self {
        Self { group: Some(gid), ..self }
    }

    /// What kind of channel it is. The namespaces of one kind ([`Spsc`](crate::Spsc),
    /// [`Mpmc`](crate::Mpmc), …) know theirs, and refuse another.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// Huge pages (2 MiB here and there), for fewer misses in the processor's table of pages:
    /// worth it for channels of many MiB. A ring's capacity is rounded up to whole ones. If
    /// the system has none to give, making the channel fails and says so.
    #[must_use]
    pub fn huge_pages(self, huge_pages: bool) -> Self {
        Self { huge_pages: Some(huge_pages), ..self }
    }

    /// Maps all of the channel's pages when an endpoint is made, so that no message waits for
    /// a page fault: some 0.1 ms for each MiB then, instead of at the first use of each page.
    #[must_use]
    pub fn prefault(self, prefault: bool) -> Self {
        Self { prefault: Some(prefault), ..self }
    }

    /// Keeps the channel's pages out of the core dumps of all who use it (`MADV_DONTDUMP`):
    /// for secrets.
    #[must_use]
    pub fn undumped(self, undumped: bool) -> Self {
        Self { undumped: Some(undumped), ..self }
    }

    /// Keeps the channel's pages from being swapped out to a disk (`mlock(2)`): for secrets,
    /// and where no message may wait for a page to come back. Each endpoint counts against its
    /// process's limit (`ulimit -l`); one that the limit has no room for isn't made, and the
    /// error says so.
    #[must_use]
    pub fn unswapped(self, unswapped: bool) -> Self {
        Self { unswapped: Some(unswapped), ..self }
    }

    /// When it ends.
    #[must_use]
    pub fn lifetime(self, lifetime: Lifetime) -> Self {
        Self { lifetime: Some(lifetime), ..self }
    }

    /// Shorthand for [`Lifetime::Transient`].
    #[must_use]
    pub fn transient(self) -> Self {
        self.lifetime(Lifetime::Transient)
    }

    /// With nothing left open.
    pub(crate) fn settings(&self, page: u64) -> Result<Settings, ChannelError> {
        let mode = self.mode.unwrap_or(Self::DEFAULT_MODE);
        if mode & !0o777 != 0 {
            return invalid(format!(
                "mode {mode:o} has bits other than read, write and execute: give 0 to 777"
            ));
        }
        if mode & 0o600 != 0o600 {
            return invalid(format!(
                "mode {mode:03o} doesn't let its owner read and write: give 600 or more"
            ));
        }
        let kind = self.kind.unwrap_or_default();
        let pages = Pages {
            huge: self.huge_pages.unwrap_or(false),
            prefaulted: self.prefault.unwrap_or(false),
            undumped: self.undumped.unwrap_or(false),
            unswapped: self.unswapped.unwrap_or(false),
        };
        let unit = if pages.huge { page.max(HUGE_PAGE_BYTES) } else { page };
        let geometry = kind.resolve(self, unit)?;
        let lifetime = self.lifetime.unwrap_or_default();
        Ok(Settings { kind, geometry, pages, mode, group: self.group, lifetime })
    }

    /// Refuses an existing channel whose settings are not those that were asked for. The
    /// lifetime isn't compared: it says how a channel ends, not how it is used.
    pub(crate) fn check(&self, found: &Settings, page: u64) -> Result<(), ChannelError> {
        let kind = found.kind;
        if let Some(asked) = self.kind.filter(|&asked| asked != kind) {
            return differs("kind", asked, found.kind_name());
        }
        let theirs = Self::of(kind, &found.geometry);
        compare("depth", self.depth, theirs.depth)?;
        compare("longest message", self.max_message_len, theirs.max_message_len)?;
        compare("number of participants", self.participants, theirs.participants)?;
        compare("number of publishers", self.publishers, theirs.publishers)?;
        compare("number of deliveries", self.max_deliveries, theirs.max_deliveries)?;
        compare("policy when full", self.when_full, theirs.when_full)?;
        let asked = Self { kind: Some(kind), huge_pages: Some(found.pages.huge), ..self.clone() };
        asked.filled_in(&theirs).check_capacity(&found.geometry, page)?;
        if let Some(huge) = self.huge_pages.filter(|&huge| huge != found.pages.huge) {
            return differs("use of huge pages", huge, found.pages.huge);
        }
        if let Some(mode) = self.mode.filter(|&mode| mode != found.mode) {
            return differs("mode", format!("{mode:03o}"), format!("{:03o}", found.mode));
        }
        if let Some((asked, found)) = self.group.zip(found.group).filter(|(asked, found)| asked != found) {
            return differs("group", asked, found);
        }
        Ok(())
    }

    /// The same with what was found, where nothing was asked for. A capacity is enough to say how
    /// much room there is.
    fn filled_in(self, found: &Self) -> Self {
        let (depth, max_message_len) = match self.capacity_bytes {
            Some(_) => (self.depth, self.max_message_len),
            None => (self.depth.or(found.depth), self.max_message_len.or(found.max_message_len)),
        };
        Self {
            capacity_bytes: self.capacity_bytes.or(found.capacity_bytes),
            depth,
            max_message_len,
            participants: self.participants.or(found.participants),
            publishers: self.publishers.or(found.publishers),
            max_deliveries: self.max_deliveries.or(found.max_deliveries),
            when_full: self.when_full.or(found.when_full),
            ..self
        }
    }

    /// Refuses what can't be, and another capacity than that which was found. Where it is divided
    /// into slots, their number or their length may have been given with it then, and be left out now.
    fn check_capacity(self, found: &Geometry, page: u64) -> Result<(), ChannelError> {
        let ours = self.settings(page)?.geometry.capacity_bytes;
        let comes_to_it = |config: Self| {
            config
                .settings(page)
                .is_ok_and(|settings| settings.geometry.capacity_bytes == found.capacity_bytes)
        };
        let is_same = ours == found.capacity_bytes
            || found.depth > 0
                && (comes_to_it(Self { depth: Some(found.depth), max_message_len: None, ..self.clone() })
                    || comes_to_it(Self {
                        depth: None,
                        max_message_len: Some(found.max_message_len),
                        ..self
                    }));
        if is_same {
            return Ok(());
        }
        let bytes = |bytes: u64| format!("{bytes} bytes");
        differs("capacity", bytes(ours), bytes(found.capacity_bytes))
    }

    /// The configuration that comes to this geometry, if any does.
    pub(crate) fn of(kind: Kind, geometry: &Geometry) -> Self {
        let config = Self::new().kind(kind).when_full(geometry.when_full);
        let config = match kind {
            Kind::Spsc => config,
            Kind::State => Self { when_full: None, state: geometry.state, ..config }
                .participants(geometry.participants)
                .max_message_len(geometry.max_message_len),
            _ => config.participants(geometry.participants),
        };
        match kind {
            Kind::Spsc => config.capacity_bytes(geometry.capacity_bytes),
            Kind::State if geometry.state.is_some_and(|state| state.form.has_capacity()) => {
                config.capacity_bytes(geometry.capacity_bytes)
            }
            Kind::State => config,
            Kind::Broadcast => config.capacity_bytes(geometry.capacity_bytes).publishers(geometry.lanes),
            Kind::Mpmc => config
                .depth(geometry.depth)
                .max_message_len(geometry.max_message_len)
                .max_deliveries(geometry.max_deliveries),
            Kind::Rpc => config.depth(geometry.depth).max_message_len(geometry.max_message_len),
            Kind::Latest => Self { when_full: None, ..config }
                .depth(geometry.depth)
                .max_message_len(geometry.max_message_len),
        }
    }

    /// Refuses the settings that a kind doesn't have.
    pub(crate) fn refuse(&self, kind: Kind, foreign: &[Setting]) -> Result<(), ChannelError> {
        for setting in foreign {
            let given = match setting {
                Setting::Capacity => self.capacity_bytes.is_some(),
                Setting::Depth => self.depth.is_some(),
                Setting::MaxMessageLen => self.max_message_len.is_some(),
                Setting::Participants => self.participants.is_some(),
                Setting::Publishers => self.publishers.is_some(),
                Setting::MaxDeliveries => self.max_deliveries.is_some(),
                Setting::WhenFull => self.when_full.is_some(),
            };
            if given {
                return invalid(format!("channels of kind {kind} have no {}: leave it out", setting.name()));
            }
        }
        Ok(())
    }

    /// The same for channels of this kind and no other.
    pub(crate) fn only(self, kind: Kind) -> Result<Self, ChannelError> {
        match self.kind.filter(|&asked| asked != kind) {
            Some(other) => {
                invalid(format!("channels of kind {other} aren't made here: this is for kind {kind}"))
            }
            None => Ok(self.kind(kind)),
        }
    }

    /// The number of participants, or `default`.
    pub(crate) fn participants_or(&self, default: u32) -> Result<u32, ChannelError> {
        ranged("participants", self.participants.unwrap_or(default), Self::MAX_PARTICIPANTS)
    }
}

/// A setting that not every kind has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting {
    Capacity,
    Depth,
    MaxMessageLen,
    Participants,
    Publishers,
    MaxDeliveries,
    WhenFull,
}

impl Setting {
    fn name(self) -> &'static str {
        match self {
            Self::Capacity => "capacity in bytes",
            Self::Depth => "depth",
            Self::MaxMessageLen => "longest message of their own",
            Self::Participants => "number of participants",
            Self::Publishers => "number of publishers",
            Self::MaxDeliveries => "number of deliveries",
            Self::WhenFull => "policy for when they are full",
        }
    }
}

/// A number between 1 and `max`.
pub(crate) fn ranged(what: &str, value: u32, max: u32) -> Result<u32, ChannelError> {
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    invalid(format!("{value} {what} can't be: give 1 to {max}"))
}

/// A capacity in whole pages.
pub(crate) fn rounded(capacity_bytes: u64, page: u64) -> Result<u64, ChannelError> {
    match capacity_bytes {
        0 => invalid("a capacity of 0 bytes holds nothing: give at least 1".into()),
        bytes if bytes > ShmConfig::MAX_CAPACITY_BYTES => invalid(format!(
            "a capacity of {bytes} bytes is too large: the most is {} (1 TiB)",
            ShmConfig::MAX_CAPACITY_BYTES
        )),
        bytes => Ok(bytes.next_multiple_of(page)),
    }
}

pub(crate) fn invalid<T>(text: String) -> Result<T, ChannelError> {
    Err(ChannelError::InvalidConfig(text))
}

/// Refuses a value that isn't the one that was found. What a kind doesn't have isn't found, and is
/// refused as such.
fn compare<T: Copy + PartialEq + ToString>(
    setting: &'static str,
    asked: Option<T>,
    found: Option<T>,
) -> Result<(), ChannelError> {
    match asked.zip(found) {
        Some((asked, found)) if asked != found => differs(setting, asked, found),
        _ => Ok(()),
    }
}

fn differs(setting: &'static str, asked: impl ToString, found: impl ToString) -> Result<(), ChannelError> {
    Err(ChannelError::Mismatch { setting, asked: asked.to_string(), found: found.to_string() })
}

/// A [`ShmConfig`] with nothing left open, or what a segment was found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) kind: Kind,
    pub(crate) geometry: Geometry,
    pub(crate) pages: Pages,
    pub(crate) mode: u32,
    /// None: whatever it comes to.
    pub(crate) group: Option<u32>,
    pub(crate) lifetime: Lifetime,
}

impl Settings {
    /// What people call it: of state, what state it is.
    pub(crate) fn kind_name(&self) -> &'static str {
        self.geometry.state.map_or(self.kind.as_str(), |state| state.form.as_str())
    }
}

/// What pages a segment is made of, when they are mapped, and where they may not go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) huge: bool,
    pub(crate) prefaulted: bool,
    pub(crate) undumped: bool,
    pub(crate) unswapped: bool,
}

/// The huge pages of the machines that have 4 KiB pages otherwise.
pub(crate) const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// What the layout of a segment follows from. Fields that a kind doesn't have are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// The length of the data area, or of each lane of it: whole pages.
    pub(crate) capacity_bytes: u64,
    /// Slots.
    pub(crate) depth: u64,
    pub(crate) max_message_len: u64,
    /// Endpoints at once; their ids are 1 to this.
    pub(crate) participants: u32,
    /// Rings beside each other, of which each has one writer.
    pub(crate) lanes: u32,
    pub(crate) max_deliveries: u32,
    pub(crate) when_full: WhenFull,
    /// What state it is, if it is state.
    pub(crate) state: Option<State>,
}

/// What state a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) form: Form,
    /// Of the description of the value's layout.
    pub(crate) layout_hash: u64,
}
