//! Throughput: one way as fast as it goes, the receiver checking every message.
//!
//! The time runs from before the first message is sent, on an empty channel, to after the
//! last one is read, so that no message is counted that is only on its way.

use crate::{
    Fallible,
    experiment::Experiment,
    link::{Job, Link, Outcome},
};
use std::ops::Range;

/// The experiment.
pub(crate) const EXPERIMENT: Experiment =
    Experiment { name: "throughput", near: Job::Stream, far: Job::Drain, against_ring: true };

/// Sends all `numbers`.
pub(crate) fn stream(link: &mut impl Link, numbers: Range<u64>) -> Fallible<Outcome> {
    let outcome = Outcome::begin()?;
    for number in numbers {
        link.send(number)?;
    }
    outcome.end()
}

/// Receives all `numbers`. Its processor time starts with the first message: before that it
/// waits for the near process to be told to start.
pub(crate) fn drain(link: &mut impl Link, mut numbers: Range<u64>) -> Fallible<Outcome> {
    if let Some(first) = numbers.next() {
        link.receive(first)?;
    }
    let outcome = Outcome::begin()?;
    for number in numbers {
        link.receive(number)?;
    }
    outcome.end()
}
