//! What measuring processes do: the timed loops, and the [`lane`]s that they run on.

pub(crate) mod clock;
pub(crate) mod crowd;
pub(crate) mod lane;
pub(crate) mod latency;
pub(crate) mod newest;
pub(crate) mod opening;
mod setup;
pub(crate) mod throughput;
pub(crate) mod transports;
mod update;
mod window;
