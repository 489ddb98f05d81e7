//! The algorithms, apart from memory and waiting: they see words by their offsets, and
//! know neither who sleeps nor what a segment is. So a model checker's memory can stand in
//! for the mapped one.

pub(crate) mod ledger;
pub(crate) mod memory;
pub(crate) mod spsc;

#[cfg(test)]
mod model;

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

impl From<Corrupt> for ipc_core::ChannelError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.0)
    }
}
