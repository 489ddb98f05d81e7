//! Latency: round trips, one at a time, there over one channel and back over another.
//!
//! Each round trip is timed by itself and with one reading of the clock, which is the end
//! of this one and the start of the next. So each includes one reading, the floor's as well
//! as any other's.

use crate::{
    Fallible,
    experiment::Experiment,
    figures::{histogram, recorded},
    link::{Job, Link, Outcome},
};
use std::{ops::Range, time::Instant};

/// Round trips before the timed ones of each run: the peer was asleep, caches are cold.
pub(crate) const WARM_UP: u64 = 32;

/// The experiment.
pub(crate) const EXPERIMENT: Experiment =
    Experiment { name: "latency", near: Job::Ping, far: Job::Echo, against_ring: false };

/// Sends each of `numbers` and waits for it to come back.
pub(crate) fn ping(
    link: &mut impl Link,
    numbers: Range<u64>,
    samples_ns: &mut Vec<u32>,
) -> Fallible<Outcome> {
    let timed = numbers.start + WARM_UP..numbers.end;
    // Written, not just reserved: the pages are there before the clock runs.
    samples_ns.clear();
    samples_ns.resize(usize::try_from(timed.end - timed.start)?, u32::MAX);

    for number in numbers.start..timed.start {
        link.send(number)?;
        link.receive(number)?;
    }
    let outcome = Outcome::begin()?;
    let mut before = Instant::now();
    for (number, sample_ns) in timed.zip(samples_ns.iter_mut()) {
        link.send(number)?;
        link.receive(number)?;
        let after = Instant::now();
        *sample_ns = u32::try_from((after - before).as_nanos()).unwrap_or(u32::MAX);
        before = after;
    }
    let outcome = outcome.end()?;

    let mut histogram = histogram();
    for &sample_ns in &*samples_ns {
        histogram.record(u64::from(sample_ns))?;
    }
    Ok(Outcome { latencies_ns: recorded(&histogram), ..outcome })
}

/// Sends back each of `numbers`.
pub(crate) fn echo(link: &mut impl Link, numbers: Range<u64>) -> Fallible<Outcome> {
    let timed = numbers.start + WARM_UP;
    for number in numbers.start..timed {
        link.receive(number)?;
        link.send(number)?;
    }
    let outcome = Outcome::begin()?;
    for number in timed..numbers.end {
        link.receive(number)?;
        link.send(number)?;
    }
    outcome.end()
}
