//! The clocks of a measurement: around the timed part, and around each thing in it.

use crate::{
    machine::now_ns,
    spec::Outcome,
    stats::{histogram, recorded},
    trouble::Fallible,
};
use nix::time::ClockId;
use std::time::Duration;

impl Outcome {
    /// Begins the timed part.
    pub(crate) fn begin() -> Fallible<Self> {
        let cpu_ns = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        Ok(Self { started_ns: now_ns(ClockId::CLOCK_MONOTONIC)?, cpu_ns, ..Self::default() })
    }

    /// Ends it.
    pub(crate) fn end(self) -> Fallible<Self> {
        let ended_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
        let cpu_ns = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - self.cpu_ns;
        Ok(Self { ended_ns, cpu_ns, ..self })
    }
}

/// Times of single things, as they are taken.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<u32>);

impl Samples {
    /// Forgets the old ones, and makes room: written, not just reserved, so that the pages
    /// are there before the clock runs.
    pub(crate) fn start(&mut self, count: u64) -> Fallible<&mut [u32]> {
        self.0.clear();
        self.0.resize(usize::try_from(count)?, u32::MAX);
        Ok(&mut self.0)
    }

    /// How long, and how many took that long.
    pub(crate) fn counted(&self) -> Fallible<Vec<(u64, u64)>> {
        let mut histogram = histogram();
        for &sample_ns in &self.0 {
            histogram.record(u64::from(sample_ns))?;
        }
        Ok(recorded(&histogram))
    }
}

/// A sample of this time.
#[inline]
pub(crate) fn sample_ns(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}
