//! Every subscriber sees every message: endpoints over the rings of `ring::broadcast`.

mod news;
mod publisher;
mod subscriber;

pub(crate) use news::News;

pub use publisher::{BroadcastLoan, BroadcastPublisher};
pub use subscriber::{BroadcastBatch, BroadcastMessage, BroadcastSubscriber};

use crate::segment::{Attachment, Layout};

/// Where the two flags are in the page of shared words: behind the two that are mostly read,
/// on lines of their own.
pub(crate) fn subscribers_asleep(layout: &Layout) -> usize {
    layout.shared() + 128
}

fn publishers_asleep(attachment: &Attachment) -> usize {
    attachment.layout().shared() + 256
}
