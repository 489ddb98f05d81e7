//! Channels of the newest value do what every transport must do.

#[path = "common/segments.rs"]
mod segments;

use ipc_shm::{Latest, ShmConfig};
use segments::Segments;

ipc_core::conformance_main!(
    Segments::new(|directory| Latest::at(directory), |_, len| ShmConfig::new().max_message_len(len)),
    end_mark,
    sequenced,
    pollable,
    pollable_end_mark
);
