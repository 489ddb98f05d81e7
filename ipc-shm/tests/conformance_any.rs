//! Channels whose kind is known only when they are opened do what every transport must do.

#[path = "common/segments.rs"]
mod segments;

use ipc_shm::{Shm, ShmConfig};
use segments::Segments;

ipc_core::conformance_main!(
    Segments::new(
        |directory| Shm::at(directory),
        |depth, len| ShmConfig::new().depth(depth).max_message_len(len)
    ),
    end_mark,
    pollable,
    pollable_end_mark
);
