//! Work queues in shared memory do what every transport must do.

#[path = "common/segments.rs"]
mod segments;

use ipc_shm::{Mpmc, ShmConfig};
use segments::Segments;

ipc_core::conformance_main!(
    Segments::new(
        |directory| Mpmc::at(directory),
        |depth, len| ShmConfig::new().depth(depth).max_message_len(len)
    ),
    end_mark,
    pollable,
    pollable_end_mark,
    batch_sender,
    sequenced,
    redelivered
);
