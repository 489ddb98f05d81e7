//! What state there is.

use crate::ring::{arena, latest};

/// What state a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "only to be named in a hidden place")]
pub enum Form {
    Mutex,
    RwLock,
    Condvar,
    Semaphore,
    Barrier,
    Event,
    Once,
    Shared,
    Arena,
}

impl Form {
    pub(crate) const ALL: [Self; 9] = [
        Self::Mutex,
        Self::RwLock,
        Self::Condvar,
        Self::Semaphore,
        Self::Barrier,
        Self::Event,
        Self::Once,
        Self::Shared,
        Self::Arena,
    ];

    /// As people call it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::RwLock => "rwlock",
            Self::Condvar => "condvar",
            Self::Semaphore => "semaphore",
            Self::Barrier => "barrier",
            Self::Event => "event",
            Self::Once => "once",
            Self::Shared => "shared",
            Self::Arena => "arena",
        }
    }

    /// Its number in a segment's header.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Mutex => 1,
            Self::RwLock => 2,
            Self::Condvar => 3,
            Self::Semaphore => 4,
            Self::Barrier => 5,
            Self::Event => 6,
            Self::Once => 7,
            Self::Shared => 8,
            Self::Arena => 9,
        }
    }

    /// Whether there is room beside the value, as much as is asked for.
    pub(crate) fn has_capacity(self) -> bool {
        self == Self::Arena
    }

    /// How much room a value of `len_bytes` takes, at least.
    pub(crate) fn data_bytes(self, len_bytes: u64) -> u64 {
        match self {
            Self::Shared => SHARED_DEPTH.saturating_mul(latest::slot_bytes(len_bytes)),
            Self::Arena => arena::least_bytes(len_bytes),
            _ => len_bytes,
        }
    }
}

/// Versions of a shared value: a reader tries again only if three are written while it copies
/// one.
pub(crate) const SHARED_DEPTH: u64 = 4;
