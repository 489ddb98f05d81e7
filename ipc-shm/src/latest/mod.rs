//! The newest value, one writer and any number of readers: endpoints over `ring::latest`.

mod reader;
mod values;
mod writer;

pub(crate) use values::Values;

pub use reader::LatestReader;
pub use values::{LatestBatch, LatestMessage};
pub use writer::{LatestLoan, LatestWriter};

use crate::segment::Layout;

/// The writer's id; the others are the readers'.
pub(crate) const WRITER: u32 = 1;

/// Where the readers' flag is in the page of shared words: behind the newest version, on a
/// line of its own.
pub(crate) fn readers_asleep(layout: &Layout) -> usize {
    layout.shared() + 128
}
