//! Requests and replies, so many of them under way at a time: there over one channel and back over
//! another, both processes storing and retrieving.
//!
//! The channels hold all that are under way, so that nobody waits for room. A run is of whole
//! windows: where the way is what takes time, each window takes as long as one round trip.

use crate::{links::link::Link, spec::Outcome, trouble::Fallible};
use std::ops::Range;

/// Sends `numbers`, the next one whenever the reply to the earliest is there.
pub(crate) fn request(link: &mut impl Link, numbers: Range<u64>, in_flight: u64) -> Fallible<Outcome> {
    let outcome = Outcome::begin()?;
    let mut unsent = numbers.clone();
    for number in unsent.by_ref().take(usize::try_from(in_flight)?) {
        link.send(number)?;
    }
    for number in numbers {
        link.receive(number)?;
        if let Some(next) = unsent.next() {
            link.send(next)?;
        }
    }
    outcome.end()
}

/// Sends back each of `numbers`. Its processor time starts with the first one, as a drain's.
pub(crate) fn reply(link: &mut impl Link, mut numbers: Range<u64>) -> Fallible<Outcome> {
    if let Some(first) = numbers.next() {
        link.receive(first)?;
        link.send(first)?;
    }
    let outcome = Outcome::begin()?;
    for number in numbers {
        link.receive(number)?;
        link.send(number)?;
    }
    outcome.end()
}
