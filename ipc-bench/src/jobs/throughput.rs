//! Throughput between two: one way as fast as it goes, the receiver checking every message.
//!
//! The time runs from before the first message is sent, on an empty channel, to after the
//! last one is read, so that no message is counted that is only on its way.

use crate::{links::link::Link, spec::Outcome, trouble::Fallible};
use std::ops::Range;

/// Sends all `numbers`.
pub(crate) fn stream(link: &mut impl Link, numbers: Range<u64>) -> Fallible<Outcome> {
    let outcome = Outcome::begin()?;
    link.send_all(numbers)?;
    outcome.end()
}

/// Receives all `numbers`. Its processor time starts with the first message: before that it
/// waits for the near process to be told to start.
pub(crate) fn drain(link: &mut impl Link, numbers: Range<u64>) -> Fallible<Outcome> {
    let mut next = numbers.start;
    if !numbers.is_empty() {
        next = link.receive_some(next..numbers.end)?;
    }
    let outcome = Outcome::begin()?;
    while next < numbers.end {
        next = link.receive_some(next..numbers.end)?;
    }
    outcome.end()
}
