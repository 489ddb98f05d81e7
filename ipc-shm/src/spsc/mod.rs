//! One sender and one receiver: endpoints over the ring of variable-length records
//! (`ring::spsc`).

mod receiver;
mod sender;

pub use receiver::{SpscBatch, SpscMessage, SpscReceiver};
pub use sender::{SpscLoan, SpscSender};
