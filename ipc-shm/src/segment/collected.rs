//! What the collection of leftovers says.

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
