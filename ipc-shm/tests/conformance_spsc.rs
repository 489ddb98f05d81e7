//! Channels with one sender and one receiver do what every transport must do.

#[path = "common/segments.rs"]
mod segments;

use ipc_shm::{ShmConfig, Spsc};
use segments::Segments;

ipc_core::conformance_main!(
    Segments::new(
        |directory| Spsc::at(directory),
        |depth, len| {
            // Each with its word, and the word behind them.
            ShmConfig::new().capacity_bytes(depth * (8 + len.next_multiple_of(8)) + 8)
        }
    ),
    end_mark,
    batch_sender,
    sequenced,
    pollable,
    pollable_end_mark
);
