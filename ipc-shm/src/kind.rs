//! The kinds of channels, and the choices that come with them.

use crate::{
    config::{Geometry, Setting, ShmConfig, invalid, ranged, rounded},
    ring,
    segment::Layout,
};
use ipc_core::{ChannelError, Wait};

/// What kind of channel a segment holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// One sender and one receiver at a time: a ring of variable-length records. Each takes
    /// up its length, rounded up to a multiple of 8, and 8 bytes more. A channel is three
    /// pages and its capacity.
    Spsc,
    /// A work queue: any number of senders and receivers, each message to one of them. Slots
    /// of a fixed size: the longest message and 16 bytes more, rounded up to a multiple of
    /// 64 (to 32, if it has 16 bytes at most). A channel is two pages, 256 bytes for each
    /// participant, and its slots, each of the two sums in whole pages.
    #[default]
    Mpmc,
    /// Every subscriber sees every message: any number of publishers, each with a ring of
    /// variable-length records, and of subscribers, each with positions of its own. A record
    /// takes up its length, rounded up to a multiple of 8, and 16 bytes more.
    ///
    /// With [`WhenFull::DropOldest`], the default, publishers never wait, and a subscriber
    /// that was too slow is told how many messages it missed; with the others, publishers
    /// keep within a ring of the slowest subscriber that lives.
    ///
    /// In bytes, a channel is 8192, 256 for each participant, and for each that isn't a
    /// publisher 16 times `publishers`, rounded up to a multiple of 128, each of the two sums
    /// in whole pages; then `capacity_bytes` for each publisher.
    Broadcast,
    /// The newest value: one writer at a time, any number of readers. Slots of a fixed size:
    /// the longest value and 24 bytes more, rounded up to a multiple of 128. A channel is made
    /// up as a work queue is.
    Latest,
    /// Request and response: any number of clients and servers. A slot for each call under
    /// way: the longest message and 16 bytes more, rounded up to an odd multiple of 64. A
    /// channel is made up as a work queue is.
    Rpc,
    /// No channel, but state that processes share: a lock, a semaphore, a value. It is made
    /// and used by [`sync`](crate::sync) alone, and listed, inspected and removed as channels
    /// are.
    State,
}

impl Kind {
    /// Every kind of channel.
    pub const ALL: &'static [Self] = &[Self::Spsc, Self::Mpmc, Self::Broadcast, Self::Latest, Self::Rpc];
    /// What a segment can hold.
    pub(crate) const IN_SEGMENTS: [Self; 6] =
        [Self::Spsc, Self::Mpmc, Self::Broadcast, Self::Latest, Self::Rpc, Self::State];

    /// The kind as text, as in `--kind spsc`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spsc => "spsc",
            Self::Mpmc => "mpmc",
            Self::Broadcast => "broadcast",
            Self::Latest => "latest",
            Self::Rpc => "rpc",
            Self::State => "state",
        }
    }

    /// Its number in a segment's header.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Spsc => 1,
            Self::Mpmc => 2,
            Self::Broadcast => 3,
            Self::Latest => 4,
            Self::Rpc => 5,
            Self::State => 6,
        }
    }

    /// What `config` comes to for this kind.
    pub(crate) fn resolve(self, config: &ShmConfig, page: u64) -> Result<Geometry, ChannelError> {
        match self {
            Self::Spsc => resolve_spsc(config, page),
            Self::Mpmc => resolve_mpmc(config, page),
            Self::Broadcast => resolve_broadcast(config, page),
            Self::Latest => resolve_latest(config, page),
            Self::Rpc => resolve_rpc(config, page),
            Self::State => resolve_state(config, page),
        }
    }

    /// Where things are in a segment of this kind.
    pub(crate) fn layout(self, geometry: &Geometry, page: u64) -> Layout {
        match self {
            Self::Spsc => Layout::of_two(page, geometry.capacity_bytes),
            Self::Mpmc | Self::Latest | Self::Rpc | Self::State => {
                Layout::of_many(page, geometry.participants, geometry.capacity_bytes)
            }
            Self::Broadcast => {
                let table = ring::broadcast::table_bytes(geometry.participants, geometry.lanes);
                Layout::of_lanes(page, geometry.participants, table, geometry.lanes, geometry.capacity_bytes)
            }
        }
    }
}

fn resolve_spsc(config: &ShmConfig, page: u64) -> Result<Geometry, ChannelError> {
    use Setting::{Depth, MaxDeliveries, MaxMessageLen, Participants, Publishers};
    config.refuse(Kind::Spsc, &[Depth, MaxMessageLen, Participants, Publishers, MaxDeliveries])?;
    let when_full = config.when_full.unwrap_or_default();
    if when_full == WhenFull::DropOldest {
        return invalid("channels of kind spsc can't drop the oldest message, which may be lent: choose wait or fail, or another kind".into());
    }
    let capacity_bytes = rounded(config.capacity_bytes.unwrap_or(ShmConfig::DEFAULT_CAPACITY_BYTES), page)?;
    Ok(Geometry {
        capacity_bytes,
        max_message_len: capacity_bytes - ring::spsc::OVERHEAD_BYTES,
        participants: 2,
        when_full,
        ..Geometry::default()
    })
}

fn resolve_mpmc(config: &ShmConfig, page: u64) -> Result<Geometry, ChannelError> {
    const DEFAULT_MAX_MESSAGE_LEN: u64 = 8192;
    config.refuse(Kind::Mpmc, &[Setting::Publishers])?;
    let (max_message_len, depth) = slots(config, DEFAULT_MAX_MESSAGE_LEN, ring::mpmc::slot_bytes)?;
    Ok(Geometry {
        capacity_bytes: rounded(depth.saturating_mul(ring::mpmc::slot_bytes(max_message_len)), page)?,
        depth,
        max_message_len,
        participants: config.participants_or(64)?,
        max_deliveries: ranged(
            "deliveries",
            config.max_deliveries.unwrap_or(ShmConfig::MAX_DELIVERIES),
            ShmConfig::MAX_DELIVERIES,
        )?,
        when_full: config.when_full.unwrap_or_default(),
        ..Geometry::default()
    })
}

fn resolve_broadcast(config: &ShmConfig, page: u64) -> Result<Geometry, ChannelError> {
    use Setting::{Depth, MaxDeliveries, MaxMessageLen};
    config.refuse(Kind::Broadcast, &[Depth, MaxMessageLen, MaxDeliveries])?;
    let capacity_bytes = rounded(config.capacity_bytes.unwrap_or(ShmConfig::DEFAULT_CAPACITY_BYTES), page)?;
    let lanes = ranged("publishers", config.publishers.unwrap_or(4), ShmConfig::MAX_PUBLISHERS)?;
    let participants = config.participants_or(64.max(2 * lanes))?;
    if participants <= lanes {
        return invalid(format!(
            "{participants} participants leave no place for a subscriber beside {lanes} publishers: give at least {}",
            lanes + 1
        ));
    }
    Ok(Geometry {
        capacity_bytes,
        max_message_len: capacity_bytes - ring::broadcast::OVERHEAD_BYTES,
        participants,
        lanes,
        when_full: config.when_full.unwrap_or(WhenFull::DropOldest),
        ..Geometry::default()
    })
}

fn resolve_latest(config: &ShmConfig, page: u64) -> Result<Geometry, ChannelError> {
    use Setting::{Capacity, MaxDeliveries, Publishers};
    config.refuse(Kind::Latest, &[Capacity, Publishers, MaxDeliveries, Setting::WhenFull])?;
    let depth = config.depth.unwrap_or(4);
    if !(2..=ring::latest::MAX_DEPTH).contains(&depth) {
        return invalid(format!(
            "channels of kind latest can't have a depth of {depth}: give 2 to {}",
            ring::latest::MAX_DEPTH
        ));
    }
    let max_message_len = config.max_message_len.unwrap_or(4096);
    let participants = config.participants_or(64)?;
    if participants < 2 {
        return invalid("1 participant has nobody to read what it writes: give at least 2".into());
    }
    Ok(Geometry {
        capacity_bytes: rounded(depth.saturating_mul(ring::latest::slot_bytes(max_message_len)), page)?,
        depth,
        max_message_len,
        participants,
        ..Geometry::default()
    })
}

fn resolve_rpc(config: &ShmConfig, page: u64) -> Result<Geometry, ChannelError> {
    use Setting::{Capacity, MaxDeliveries, Publishers};
    config.refuse(Kind::Rpc, &[Capacity, Publishers, MaxDeliveries])?;
    let when_full = config.when_full.unwrap_or_default();
    if when_full == WhenFull::DropOldest {
        return invalid("channels of kind rpc can't drop calls: choose wait or fail".into());
    }
    let depth = config.depth.unwrap_or(64);
    if !(1..=ring::rpc::MAX_DEPTH).contains(&depth) {
        return invalid(format!(
            "channels of kind rpc can't have a depth of {depth}: give 1 to {}",
            ring::rpc::MAX_DEPTH
        ));
    }
    let max_message_len = config.max_message_len.unwrap_or(8192);
    let participants = config.participants_or(64)?;
    if participants < 2 {
        return invalid("1 participant has nobody to call: give at least 2".into());
    }
    Ok(Geometry {
        capacity_bytes: rounded(depth.saturating_mul(ring::rpc::slot_bytes(max_message_len)), page)?,
        depth,
        max_message_len,
        participants,
        when_full,
        ..Geometry::default()
    })
}

fn resolve_state(config: &ShmConfig, page: u64) -> Result<Geometry, ChannelError> {
    use Setting::{Capacity, Depth, MaxDeliveries, Publishers};
    let (Some(state), Some(len_bytes)) = (config.state, config.max_message_len) else {
        return invalid("state is no channel: it is made by what uses it (ipc_shm::sync, `ipc lock`)".into());
    };
    config.refuse(Kind::State, &[Depth, Publishers, MaxDeliveries, Setting::WhenFull])?;
    let least_bytes = state.form.data_bytes(len_bytes).max(1);
    let capacity_bytes = match (state.form.has_capacity(), config.capacity_bytes) {
        (true, Some(capacity)) if capacity < least_bytes => {
            return invalid(format!("{capacity} bytes are too few: this one takes up {least_bytes}"));
        }
        (true, Some(capacity)) => capacity,
        (true, None) => least_bytes,
        (false, _) => {
            config.refuse(Kind::State, &[Capacity])?;
            least_bytes
        }
    };
    Ok(Geometry {
        capacity_bytes: rounded(capacity_bytes, page)?,
        max_message_len: len_bytes,
        participants: config.participants_or(64)?,
        state: Some(state),
        ..Geometry::default()
    })
}

/// The longest message and the number of slots for it, of which the user gives any two of
/// three: longest message, number, capacity.
fn slots(
    config: &ShmConfig,
    default_len: u64,
    slot_bytes: impl Fn(u64) -> u64,
) -> Result<(u64, u64), ChannelError> {
    let capacity = config.capacity_bytes.unwrap_or(ShmConfig::DEFAULT_CAPACITY_BYTES);
    if config.depth == Some(0) {
        return invalid("a depth of 0 messages holds none: give at least 1".into());
    }
    if config.max_message_len.is_some_and(|len| len > ShmConfig::MAX_CAPACITY_BYTES)
        || capacity > ShmConfig::MAX_CAPACITY_BYTES
    {
        return invalid(format!(
            "that is too large: a channel has at most {} bytes (1 TiB)",
            ShmConfig::MAX_CAPACITY_BYTES
        ));
    }
    let room_for = |len: u64| capacity / slot_bytes(len);
    match (config.depth, config.max_message_len, config.capacity_bytes) {
        (Some(_), Some(_), Some(_)) => {
            invalid("a depth, a longest message and a capacity are one too many: give two of them".into())
        }
        (Some(depth), len, None) => Ok((len.unwrap_or(default_len), depth)),
        (Some(depth), None, Some(_)) => match longest(capacity / depth, &slot_bytes) {
            Some(len) => Ok((len, depth)),
            None => invalid(format!(
                "{depth} messages don't fit {capacity} bytes: ask for fewer, or for more capacity"
            )),
        },
        (None, Some(len), _) => match room_for(len) {
            0 if config.capacity_bytes.is_none() => Ok((len, 1)),
            0 => invalid(format!(
                "a message of {len} bytes takes up {} and doesn't fit {capacity}: ask for shorter messages, or for more capacity",
                slot_bytes(len)
            )),
            depth => Ok((len, depth)),
        },
        (None, None, _) => match room_for(default_len) {
            0 => match longest(capacity, &slot_bytes) {
                Some(len) => Ok((len, 1)),
                None => invalid(format!(
                    "a capacity of {capacity} bytes has no room for a message: give at least {}",
                    slot_bytes(0)
                )),
            },
            depth => Ok((default_len, depth)),
        },
    }
}

/// The longest message whose slot takes up `bytes` at most.
fn longest(bytes: u64, slot_bytes: &impl Fn(u64) -> u64) -> Option<u64> {
    let overhead = slot_bytes(0);
    let (mut fits, mut too_long) = (0, bytes + 1);
    if overhead > bytes {
        return None;
    }
    while fits + 1 < too_long {
        let middle = fits + (too_long - fits) / 2;
        if slot_bytes(middle) <= bytes { fits = middle } else { too_long = middle }
    }
    Some(fits)
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named("kind of channel", Self::ALL, Self::as_str, text)
    }
}

/// What a sender does that finds a channel full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for room, as long as the call says.
    #[default]
    Wait,
    /// It is told at once ([`SendError::WouldBlock`](crate::SendError::WouldBlock)),
    /// whatever the call says.
    Fail,
    /// It takes the place of the oldest message, which is counted as lost. A message that a
    /// receiver holds is never dropped; where that is in the way, it waits. The mark of a
    /// stream's end may be dropped as a message is, and isn't counted.
    DropOldest,
}

impl WhenFull {
    /// Every policy.
    pub const ALL: &'static [Self] = &[Self::Wait, Self::Fail, Self::DropOldest];

    /// The policy as text, as in `--when-full drop-oldest`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Fail => "fail",
            Self::DropOldest => "drop-oldest",
        }
    }

    /// How long a sender waits for room that was asked to wait so long.
    #[inline]
    pub(crate) fn limit(self, wait: Wait<'_>) -> Wait<'_> {
        if self == Self::Fail { Wait::Never } else { wait }
    }

    /// Its number in a segment's header.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Wait => 0,
            Self::Fail => 1,
            Self::DropOldest => 2,
        }
    }
}

impl std::fmt::Display for WhenFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for WhenFull {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named("policy", Self::ALL, Self::as_str, text)
    }
}

fn named<T: Copy>(what: &str, all: &[T], name: impl Fn(T) -> &'static str, text: &str) -> Result<T, String> {
    all.iter().copied().find(|&one| name(one) == text).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|&one| name(one)).collect();
        format!("no such {what}: `{text}`; there is {}", known.join(", "))
    })
}

/// When a channel ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lifetime {
    /// When it is removed, and not before.
    ///
    /// By others, too: where systemd's logind does as it does by default (`RemoveIPC=yes`), what
    /// an ordinary user has in `/dev/shm` is removed when the last of its sessions ends, whether
    /// or not its processes go on. For a service of such a user that is to be left alone, say
    /// `loginctl enable-linger USER`, or `RemoveIPC=no` in `logind.conf(5)`, or keep channels in
    /// a directory elsewhere (`IPC_DIR`). System users, and root, keep theirs.
    #[default]
    Kept,
    /// When the last one leaves it empty. If all its users are killed, the next one to
    /// open it finds nothing, unless messages are left in it; until then it is listed. Who may
    /// not remove it, another user's in that one's directory, uses it as it is.
    Transient,
}

impl Lifetime {
    pub(crate) const ALL: &'static [Self] = &[Self::Kept, Self::Transient];

    /// Its number in a segment's header.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Kept => 1,
            Self::Transient => 2,
        }
    }
}
