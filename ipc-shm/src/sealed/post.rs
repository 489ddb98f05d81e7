//! How the ends of a sealed channel wake each other, each writing to its own memory only.
//!
//! ```text
//! sleeper, with words of its own        waker, with words of its own
//!   asleep = a new number                 change the ring
//!   heavy fence                           light fence
//!   seen = the waker's bell               the sleeper's asleep: 0, or woken before?
//!   look at the ring; changed?              no: bell + 1, wake who sleeps on it
//!   sleep while the bell is as seen
//! ```
//!
//! With the fences, at least one of the two sees what the other did, as in `wait::flag`; there
//! the waker takes the flag back, here it can't, and remembers the number that it woke. The
//! bell is loaded before the ring, so that a ring of it that goes with a change that wasn't
//! seen is noticed by the sleep, which compares. (`futex(2)` sleeps on memory that can only be
//! read.)
//!
//! A peer that stores whatever it likes to its two words costs system calls and processor
//! time: the deadline is looked at after each of them, and sleeps are bounded.

use super::memory::{PostWords, Shared};
use crate::{
    ring::memory::Words,
    segment::FenceMode,
    sys::{fence, futex},
};
use std::{
    cell::Cell,
    sync::atomic::{self, Ordering},
    time::Duration,
};

/// The words, and what can be done with them.
pub(super) trait Post {
    /// Says, by a number, that we sleep or are about to; 0, that we don't.
    fn announce(&self, number: u32);
    /// What the peer has announced.
    fn announced(&self) -> u32;
    /// Rings our bell, and wakes who sleeps on it.
    fn ring(&self);
    /// What the peer's bell shows.
    fn bell(&self) -> u32;
    /// Orders the waker's change of the ring before its look at what is announced.
    fn light_fence(&self);
    /// Orders the sleeper's announcement before its look at the ring. False if it can't.
    fn heavy_fence(&self) -> bool;
    /// Sleeps while the peer's bell shows `seen`, for at most `time`; may return early.
    fn sleep(&self, seen: u32, time: Duration);
}

/// Wakes a peer, each time that it sleeps once.
#[derive(Debug, Default)]
pub(super) struct Waker {
    woken: Cell<u32>,
}

impl Waker {
    /// To be called after each change of the ring that the peer may wait for.
    #[inline]
    pub(super) fn wake(&self, post: &impl Post) {
        post.light_fence();
        let number = post.announced();
        if number != 0 && number != self.woken.get() {
            self.woken.set(number);
            ring(post);
        }
    }
}

#[cold]
fn ring(post: &impl Post) {
    post.ring();
}

/// Sleeps, each time under a number of its own.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    number: u32,
}

impl Sleeper {
    /// Announces a sleep: what the bell shows, to sleep on after another look at the ring; and
    /// whether the waker can't overlook it.
    pub(super) fn announce(&mut self, post: &impl Post) -> (u32, bool) {
        self.number = self.number.checked_add(1).unwrap_or(1);
        post.announce(self.number);
        let is_heard = post.heavy_fence();
        (post.bell(), is_heard)
    }
}

/// The words of both ends.
#[derive(Debug)]
pub(super) struct SharedPost {
    words: Words,
    ours: PostWords,
    theirs: PostWords,
    fences: FenceMode,
}

impl SharedPost {
    pub(super) fn new(shared: &Shared, fences: FenceMode) -> Self {
        Self { words: shared.words.clone(), ours: shared.ours, theirs: shared.theirs, fences }
    }
}

impl Post for SharedPost {
    fn announce(&self, number: u32) {
        self.words.half_word(self.ours.asleep).store(number, Ordering::Relaxed);
    }

    #[inline]
    fn announced(&self) -> u32 {
        self.words.half_word(self.theirs.asleep).load(Ordering::Relaxed)
    }

    fn ring(&self) {
        let bell = self.words.half_word(self.ours.bell);
        let shown = bell.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `bell`; the change of the ring comes first.
        bell.store(shown.wrapping_add(1), Ordering::Release);
        futex::wake_all(bell.get());
    }

    fn bell(&self) -> u32 {
        // Acquire: pairs with the Release in `ring`.
        self.words.half_word(self.theirs.bell).load(Ordering::Acquire)
    }

    #[inline]
    fn light_fence(&self) {
        match self.fences {
            // The sleeper's fence runs on our processor too: see `sys::fence`.
            FenceMode::Asymmetric => atomic::compiler_fence(Ordering::SeqCst),
            FenceMode::Full => atomic::fence(Ordering::SeqCst),
        }
    }

    fn heavy_fence(&self) -> bool {
        match self.fences {
            FenceMode::Asymmetric => fence::everywhere(),
            FenceMode::Full => {
                atomic::fence(Ordering::SeqCst);
                true
            }
        }
    }

    fn sleep(&self, seen: u32, time: Duration) {
        futex::wait(self.words.half_word(self.theirs.bell).get(), seen, time);
    }
}
