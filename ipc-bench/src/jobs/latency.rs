//! Latency: round trips, one at a time, there over one channel and back over another.
//!
//! Each round trip is timed by itself and with one reading of the clock, which is the end
//! of this one and the start of the next. So each includes one reading, the floor's as well
//! as any other's.

use super::clock::{Samples, sample_ns};
use crate::{links::link::Link, spec::Outcome, trouble::Fallible};
use std::{ops::Range, time::Instant};

/// Round trips before the timed ones of each run: the peer was asleep, caches are cold.
pub(crate) const WARM_UP: u64 = 32;

/// Sends each of `numbers` and waits for it to come back.
pub(crate) fn ping(link: &mut impl Link, numbers: Range<u64>, samples: &mut Samples) -> Fallible<Outcome> {
    let timed = numbers.start + WARM_UP..numbers.end;
    let samples_ns = samples.start(timed.end - timed.start)?;
    for number in numbers.start..timed.start {
        link.send(number)?;
        link.receive(number)?;
    }
    let outcome = Outcome::begin()?;
    let mut before = Instant::now();
    for (number, sample) in timed.zip(samples_ns) {
        link.send(number)?;
        link.receive(number)?;
        let after = Instant::now();
        *sample = sample_ns(after - before);
        before = after;
    }
    let outcome = outcome.end()?;
    Ok(Outcome { latencies_ns: samples.counted()?, ..outcome })
}

/// Sends back each of `numbers`, the first `warm_up` of which aren't timed.
pub(crate) fn echo(link: &mut impl Link, numbers: Range<u64>, warm_up: u64) -> Fallible<Outcome> {
    let timed = numbers.start + warm_up;
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
