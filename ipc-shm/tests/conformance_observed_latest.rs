//! Those who look on at a newest value do what every receiver must do. Readers of sealed values
//! are the same code in front of another connection.

#[path = "common/observed.rs"]
mod observed;
#[path = "common/segments.rs"]
mod segments;

use ipc_shm::{Latest, ShmConfig};
use observed::Observed;
use segments::Segments;

ipc_core::conformance_main!(
    Segments::new(
        |directory| Observed(Latest::at(directory)),
        |_, len| ShmConfig::new().max_message_len(len)
    ),
    end_mark,
    sequenced
);
