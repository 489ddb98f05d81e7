//! What measuring processes do: the timed loops, and the [`lane`]s that they run on.

pub(crate) mod clock;
pub(crate) mod crowd;
mod footprint;
mod idle;
pub(crate) mod lane;
pub(crate) mod latency;
pub(crate) mod lifetime;
pub(crate) mod load;
pub(crate) mod newest;
pub(crate) mod opening;
mod setup;
pub(crate) mod throughput;
pub(crate) mod transports;
mod update;
mod window;
mod workers;
