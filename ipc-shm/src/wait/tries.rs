//! How often one who only ever tries looks for the dead.

use super::OBSTRUCTED_SLEEP;
use crate::{hooks, sys::ident};
use crossbeam_utils::atomic::AtomicCell;

/// When one who doesn't wait looked for the dead last.
///
/// A look takes some 10 µs, too long for each try in vain, of which some take a hundredth of
/// that; and who tries once in a while hasn't many tries to wait for. So it goes by the clock, as
/// it does for who waits while somebody is in the way.
#[derive(Debug)]
pub(crate) struct Tries {
    looked_ms: AtomicCell<u64>,
}

impl Tries {
    /// Of one whose first try in vain is to look.
    pub(crate) fn new() -> Self {
        Self { looked_ms: AtomicCell::new(0) }
    }

    /// Of one who comes, and has met the dead.
    pub(crate) fn of_a_newcomer() -> Self {
        Self { looked_ms: AtomicCell::new(now_ms()) }
    }

    /// To be called after a try in vain: whether to look for the dead now.
    pub(crate) fn are_to_look(&self) -> bool {
        if hooks::are_tries_blindfolded() {
            return false;
        }
        let now_ms = now_ms();
        // The wall clock, which is the cheapest, may be set.
        let is_time = now_ms.abs_diff(self.looked_ms.load()) >= APART_MS;
        if is_time {
            self.looked_ms.store(now_ms);
        }
        is_time
    }
}

const APART_MS: u64 = OBSTRUCTED_SLEEP.as_millis() as u64;

fn now_ms() -> u64 {
    ident::coarse_unix_time_ns() / 1_000_000
}
