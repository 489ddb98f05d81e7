//! Broadcasts in shared memory whose publishers never wait do what every transport must do.

#[path = "common/segments.rs"]
mod segments;

use ipc_shm::{Broadcast, Capabilities, ShmConfig, WhenFull};
use segments::Segments;

ipc_core::conformance_main!(
    Segments::new(
        |directory| Broadcast::at(directory),
        |depth, len| {
            // Each with a header, and the header behind them; twice, since a batch takes up half the
            // ring at most.
            let bytes = 2 * (depth * (len.next_multiple_of(8) + 16) + 16);
            ShmConfig::new().capacity_bytes(bytes).when_full(WhenFull::DropOldest)
        }
    )
    .with(Capabilities::with_lossy),
    end_mark,
    pollable,
    pollable_end_mark,
    batch_sender,
    sequenced
);
