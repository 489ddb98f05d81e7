//! A descriptor to wait for instead of sleeping: for `poll(2)`, `epoll(7)` and what is built
//! on them.
//!
//! It watches the segment's own file. The poller announces itself in the flag that it would
//! otherwise sleep on (see `flag`), and whoever finds that bit touches the file, once. So
//! there is nothing beside the segment that a kill could leave behind, one call tells all
//! who poll, and while nobody does, nobody makes a call. Because a waker may be killed before
//! it touches, the descriptor becomes readable by itself when a sleep would have ended.
//!
//! An endpoint offers it by two methods of its [`Waiter`](super::Waiter):
//!
//! ```text
//! impl Pollable for SomeReceiver {
//!     fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
//!         self.waiter.descriptor(&self.attachment)
//!     }
//!
//!     fn arm(&mut self) -> Result<bool, RecvError> {
//!         // not ours: Forked; something held: true; else
//!         self.waiter.arm(&self.attachment, /* an `Awaited` that looks and doesn't take */)
//!     }
//! }
//! ```

use super::{Awaited, Bell, announce, flag, flag::Flag, longest_sleep};
use crate::{segment::Attachment, sys::notice::Watch};
use ipc_core::{OsError, Unready};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

/// An endpoint's descriptor.
#[derive(Debug)]
pub(super) struct Doorbell {
    watch: Watch,
    /// When the descriptor becomes readable by itself, and we look around. It is not put off
    /// by arming anew: who is woken all the time by other things looks around as well.
    due: Instant,
}

impl Doorbell {
    pub(super) fn new(attachment: &Attachment) -> Result<Self, OsError> {
        // The first look is due at once: it tells whether the file that is watched is ours.
        Ok(Self { watch: Watch::new(attachment.spot())?, due: Instant::now() })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Has the descriptor become readable at the next change. True if what is awaited is
    /// there; then the announcement stays, which costs a needless touch.
    pub(super) fn arm<A: Awaited<Answer = ()>>(
        &mut self,
        attachment: &Attachment,
        bell: &Bell,
        mut awaited: A,
    ) -> Result<bool, A::Error> {
        let words = attachment.words();
        let mine = bell.flag(&words);
        // Before the announcement: what is touched after it is not to be forgotten.
        let was_touched = self.watch.forget().map_err(Unready::Os)?;
        // Whoever rings takes the bit away first. So it was somebody else; perhaps the name
        // was taken away.
        let is_strange = was_touched && mine.load() & flag::POLLED != 0;
        let is_heard = announce(attachment, &words, &mine, flag::POLLED).is_heard;
        if awaited.poll()?.is_some() {
            return Ok(true);
        }
        let now = Instant::now();
        let is_due = now >= self.due;
        if (is_due || is_strange) && !attachment.is_named() {
            return match awaited.poll()? {
                Some(()) => Ok(true),
                None => Err(Unready::Closed.into()),
            };
        }
        if is_due {
            awaited.look_around()?;
            // What it put in order may be for us.
            if awaited.poll()?.is_some() {
                return Ok(true);
            }
        }
        let due = now + longest_sleep(is_heard, awaited.is_obstructed());
        if is_due || due < self.due {
            self.watch.set_time(due - now).map_err(Unready::Os)?;
            self.due = due;
        }
        Ok(false)
    }
}
