//! What a process that is just being spawned keeps for a moment.
//!
//! `posix_spawn(3)` and `vfork(2)` run no handlers that would keep it out of a
//! [`Window`](crate::sys::fork::Window). If the child is made while another thread attaches, it
//! has that thread's descriptor, and so its locks, until its `exec`: a seat that was given up,
//! or whose holder died, seems to be taken, and a channel that nobody uses to be in use. So
//! both are refused only when they are so for a while, and who leaves a channel in which nobody
//! is seen asks a few times whether it is the last one. Between attempts no window is open and
//! no lock is held: other threads may fork, and other processes change names.

use ipc_core::ChannelError;
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a seat may seem to be taken: those who wait for a role to become free ask again
/// and again, and want to be told soon.
const SEAT: Duration = Duration::from_millis(20);

/// How long a channel may seem to be in use.
const CHANNEL: Duration = Duration::from_millis(100);

/// Tries until a seat is free.
pub(crate) fn while_taken<T>(attempt: impl FnMut() -> Result<T, ChannelError>) -> Result<T, ChannelError> {
    patiently(SEAT, attempt, |error| matches!(error, ChannelError::Busy { .. } | ChannelError::Limit(_)))
}

/// Tries until nobody has the channel open.
pub(crate) fn while_in_use<T>(attempt: impl FnMut() -> Result<T, ChannelError>) -> Result<T, ChannelError> {
    patiently(CHANNEL, attempt, |error| matches!(error, ChannelError::Busy { .. }))
}

/// How long one that leaves may seem not to be the last one, though nobody is seen: it is a drop
/// that waits. So it does where somebody is there, but without a role: who has the channel open,
/// or observes it.
const LEAVING: Duration = Duration::from_millis(10);

/// Tries to leave as the last one, until that is `settled`: it was, or others are seen.
pub(super) fn while_nobody_is_seen(mut settled: impl FnMut() -> bool) {
    let give_up = Instant::now() + LEAVING;
    let mut pause = LEAVING / 100;
    while !settled() && Instant::now() < give_up {
        thread::sleep(pause);
        pause *= 2;
    }
}

fn patiently<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, ChannelError>,
    may_pass: impl Fn(&ChannelError) -> bool,
) -> Result<T, ChannelError> {
    let give_up = Instant::now() + patience;
    loop {
        match attempt() {
            Err(error) if may_pass(&error) && Instant::now() < give_up => thread::sleep(patience / 50),
            answer => return answer,
        }
    }
}
