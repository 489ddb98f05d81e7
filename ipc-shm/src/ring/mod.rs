//! The algorithms, apart from memory and waiting: they see words by their offsets, and
//! know neither who sleeps nor what a segment is. So a model checker's memory can stand in
//! for the mapped one.

pub(crate) mod arena;
pub(crate) mod broadcast;
pub(crate) mod latest;
pub(crate) mod ledger;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod mpmc;
pub(crate) mod permits;
pub(crate) mod readers;
pub(crate) mod rpc;
pub(crate) mod spsc;
pub(crate) mod state;

#[cfg(test)]
mod model;

/// What a look at a ring says, without taking part in it. `None` where the kind has no such
/// thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Messages sent and not yet released.
    pub(crate) queued: Option<u64>,
    /// Messages sent since the channel was made.
    pub(crate) sent: Option<u64>,
    /// Messages dropped.
    pub(crate) lost: Option<u64>,
    /// Deliveries that were repeated.
    pub(crate) redelivered: Option<u64>,
    /// How state is.
    pub(crate) condition: Option<state::Condition>,
}

/// What a ring found in shared memory that no correct peer writes.
#[derive(Debug)]
pub(crate) struct Corrupt(pub(crate) String);

impl From<Corrupt> for ipc_core::SendError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.0)
    }
}

impl From<Corrupt> for ipc_core::RecvError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.0)
    }
}

impl From<Corrupt> for ipc_core::CallError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.0)
    }
}

impl From<Corrupt> for ipc_core::ChannelError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.0)
    }
}

/// A failed look around, as an endpoint reports it: the channel's damage, or the system's
/// refusal.
pub(crate) fn troubled<E: From<Corrupt> + From<ipc_core::OsError>>(
    error: ipc_core::ChannelError,
) -> Result<(), E> {
    match error {
        ipc_core::ChannelError::Corrupt(what) => Err(Corrupt(what).into()),
        ipc_core::ChannelError::Os(error) => Err(error.into()),
        // Nothing else comes of it.
        _ => Ok(()),
    }
}
