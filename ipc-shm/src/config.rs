//! How a segment is made.

use ipc_core::ChannelError;

/// How a channel in shared memory is made. Every setting that isn't given is the default,
/// and doesn't matter when an existing channel is opened.
///
/// ```
/// use ipc_shm::ShmConfig;
///
/// let config = ShmConfig::new().capacity_bytes(16 << 20).mode(0o660);
/// # let _ = config;
/// ```
#[derive(Clone, Debug, Default)]
pub struct ShmConfig {
    capacity_bytes: Option<u64>,
    mode: Option<u32>,
    kind: Option<Kind>,
    lifetime: Option<Lifetime>,
}

impl ShmConfig {
    /// The capacity unless another one is given: 1 MiB.
    pub const DEFAULT_CAPACITY_BYTES: u64 = 1 << 20;
    /// The largest capacity, in bytes: 1 TiB.
    pub const MAX_CAPACITY_BYTES: u64 = 1 << 40;
    const DEFAULT_MODE: u32 = 0o600;

    /// The defaults: an spsc ring of 1 MiB, kept, for its owner alone (mode 0600).
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for messages, in bytes, rounded up to whole pages: 1 byte to 1 TiB. Each
    /// message takes up its length, rounded up to a multiple of 8, and 8 bytes more. All of
    /// it is allocated when the channel is made.
    #[must_use]
    pub fn capacity_bytes(self, bytes: u64) -> Self {
        Self { capacity_bytes: Some(bytes), ..self }
    }

    /// Permission bits, set exactly, whatever the umask. The default is 0600.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode: Some(mode), ..self }
    }

    /// What kind of channel it is.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
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

    pub(crate) fn settings(&self, page: u64) -> Result<Settings, ChannelError> {
        let settings = Settings {
            capacity_bytes: rounded(self.capacity_bytes.unwrap_or(Self::DEFAULT_CAPACITY_BYTES), page)?,
            mode: self.mode.unwrap_or(Self::DEFAULT_MODE),
            kind: self.kind.unwrap_or_default(),
            lifetime: self.lifetime.unwrap_or_default(),
        };
        if settings.mode & !0o777 != 0 {
            return Err(ChannelError::InvalidConfig(format!(
                "mode {:o} has bits other than read, write and execute: give 0 to 777",
                settings.mode
            )));
        }
        if settings.mode & 0o600 != 0o600 {
            return Err(ChannelError::InvalidConfig(format!(
                "mode {:03o} doesn't let its owner read and write: give 600 or more",
                settings.mode
            )));
        }
        Ok(settings)
    }

    /// Refuses an existing channel whose settings are not those that were asked for. The
    /// lifetime isn't compared: it says how a channel ends, not how it is used.
    pub(crate) fn check(&self, found: &Settings, page: u64) -> Result<(), ChannelError> {
        let differs =
            |setting, asked: String, found: String| Err(ChannelError::Mismatch { setting, asked, found });
        if let Some(kind) = self.kind.filter(|&kind| kind != found.kind) {
            return differs("kind", kind.to_string(), found.kind.to_string());
        }
        if let Some(asked) = self.capacity_bytes.map(|bytes| rounded(bytes, page)).transpose()? {
            if asked != found.capacity_bytes {
                return differs(
                    "capacity",
                    format!("{asked} bytes"),
                    format!("{} bytes", found.capacity_bytes),
                );
            }
        }
        if let Some(mode) = self.mode.filter(|&mode| mode != found.mode) {
            return differs("mode", format!("{mode:03o}"), format!("{:03o}", found.mode));
        }
        Ok(())
    }
}

fn rounded(capacity_bytes: u64, page: u64) -> Result<u64, ChannelError> {
    match capacity_bytes {
        0 => Err(ChannelError::InvalidConfig("a capacity of 0 bytes holds nothing: give at least 1".into())),
        bytes if bytes > ShmConfig::MAX_CAPACITY_BYTES => Err(ChannelError::InvalidConfig(format!(
            "a capacity of {bytes} bytes is too large: the most is {} (1 TiB)",
            ShmConfig::MAX_CAPACITY_BYTES
        ))),
        bytes => Ok(bytes.next_multiple_of(page)),
    }
}

/// A [`ShmConfig`] with nothing left open, or what a segment was found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) capacity_bytes: u64,
    pub(crate) mode: u32,
    pub(crate) kind: Kind,
    pub(crate) lifetime: Lifetime,
}

/// What kind of channel a segment holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// One sender and one receiver at a time: a ring of variable-length records.
    #[default]
    Spsc,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Spsc];

    /// The kind as text, as in `--kind spsc`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spsc => "spsc",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("no such kind of channel: `{text}`; there is {}", known.join(", "))
        })
    }
}

/// When a channel ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lifetime {
    /// When it is removed, and not before.
    #[default]
    Kept,
    /// When the last one leaves it empty. If all its users are killed, the next one to
    /// open it finds nothing, unless messages are left in it; until then it is listed.
    Transient,
}

/// What became of a channel when leftovers were collected ([`Shm::gc`](crate::Shm::gc)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Collected {
    /// It is gone: transient, empty, and the kernel says that nobody has it open.
    Removed,
    /// It stays: only `remove` ends it.
    Kept,
    /// It stays: somebody has it open.
    InUse,
    /// It stays: transient, and nobody has it open, but there are messages in it.
    HoldsMessages,
}

impl std::fmt::Display for Collected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Removed => "removed: transient, empty, and nobody has it open",
            Self::Kept => "left: it is kept until it is removed by name",
            Self::InUse => "left: somebody has it open",
            Self::HoldsMessages => "left: nobody has it open, but messages are in it",
        })
    }
}
