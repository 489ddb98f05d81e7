//! Waiting where one may not announce that one sleeps: on a mapping for reading only.
//!
//! Nobody knows of such a sleeper, and so nobody wakes it. It looks again and again, after
//! pauses that get longer; it sleeps on the flag of those who are woken (`futex(2)` asks for
//! no right to write), because if there are any, it is woken together with them.

use super::{Awaited, SLEEP, overdue, time_left};
use crate::{ring::memory::Words, sys::futex};
use ipc_core::{Unready, Wait};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// The first pause, and the longest: as much later may a message be noticed.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Waits until what is awaited is there, `wait` is over, or the channel isn't there any more
/// as `is_there` says, which was asked at `looked` last, in whichever wait. A cancellation is
/// noticed after the pause that it falls into.
pub(crate) fn until<A: Awaited>(
    words: &Words,
    flag: usize,
    wait: Wait<'_>,
    is_there: impl Fn() -> bool,
    looked: &mut Option<Instant>,
    mut awaited: A,
) -> Result<A::Answer, A::Error> {
    let word = words.half_word(flag);
    let mut pause = FIRST_PAUSE;
    loop {
        let seen = word.load(Ordering::Relaxed);
        if let Some(answer) = awaited.poll()? {
            return Ok(answer);
        }
        if let Some(unready) = overdue(wait) {
            return Err(unready.into());
        }
        if looked.is_none_or(|looked| looked.elapsed() >= SLEEP) {
            *looked = Some(Instant::now());
            if !is_there() {
                return awaited.poll()?.ok_or(Unready::Closed.into());
            }
        }
        // There is something, and it was overwritten while it was copied: a pause would make it
        // no better.
        if !awaited.takes_long() {
            let time = time_left(wait).map_or(pause, |left| left.min(pause));
            futex::wait(word.get(), seen, time);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}
