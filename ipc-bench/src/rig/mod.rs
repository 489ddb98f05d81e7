//! The coordinator's side of the measuring processes, and theirs.

pub(crate) mod peer;
pub(crate) mod team;
