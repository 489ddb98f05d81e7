//! Those who look on at a broadcast do what every receiver must do. Subscribers of sealed
//! broadcasts are the same code in front of another connection.

#[path = "common/observed.rs"]
mod observed;
#[path = "common/segments.rs"]
mod segments;

use ipc_shm::{Broadcast, Capabilities, ShmConfig, WhenFull};
use observed::Observed;
use segments::Segments;

ipc_core::conformance_main!(
    Segments::new(
        |directory| Observed(Broadcast::at(directory)),
        |depth, len| {
            // As for subscribers: twice what is needed, since a batch takes up half the ring at most.
            let bytes = 2 * (depth * (len.next_multiple_of(8) + 16) + 16);
            ShmConfig::new().capacity_bytes(bytes).when_full(WhenFull::DropOldest)
        }
    )
    .with(Capabilities::with_lossy),
    end_mark,
    batch_sender,
    sequenced
);
