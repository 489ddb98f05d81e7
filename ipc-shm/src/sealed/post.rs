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

use super::memory::PostWords;
use crate::{
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
    ours: PostWords,
    theirs: PostWords,
    fences: FenceMode,
}

impl SharedPost {
    pub(super) fn new(ours: PostWords, theirs: PostWords, fences: FenceMode) -> Self {
        Self { ours, theirs, fences }
    }
}

impl Post for SharedPost {
    fn announce(&self, number: u32) {
        self.ours.words.half_word(self.ours.asleep).store(number, Ordering::Relaxed);
    }

    #[inline]
    fn announced(&self) -> u32 {
        self.theirs.words.half_word(self.theirs.asleep).load(Ordering::Relaxed)
    }

    fn ring(&self) {
        let bell = self.ours.words.half_word(self.ours.bell);
        let shown = bell.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `bell`; the change of the ring comes first.
        bell.store(shown.wrapping_add(1), Ordering::Release);
        futex::wake_all(bell.get());
    }

    fn bell(&self) -> u32 {
        // Acquire: pairs with the Release in `ring`.
        self.theirs.words.half_word(self.theirs.bell).load(Ordering::Acquire)
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
        futex::wait(self.theirs.words.half_word(self.theirs.bell).get(), seen, time);
    }
}

#[cfg(test)]
mod model {
    //! All schedules: nobody sleeps for ever. Sleeps have no bound here, so that a lost wake-up
    //! is a deadlock, which the checker finds; both fences are real ones, as the heavy one
    //! makes them.

    use super::{Post, Sleeper, Waker};
    use loom::{
        sync::{
            Condvar, Mutex,
            atomic::{AtomicU32, AtomicU64, fence},
        },
        thread,
    };
    use rstest::rstest;
    use std::{
        panic::catch_unwind,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    /// A part of the agreement to leave out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Without {
        Nothing,
        LightFence,
        HeavyFence,
        /// Each sleep has the same number.
        NewNumbers,
        /// The bell is loaded after the look at the ring.
        BellFirst,
        WakingAll,
    }

    struct Modelled {
        /// The sleeper's word, and the waker's.
        asleep: AtomicU32,
        bell: AtomicU32,
        /// The ring: how many messages were sent.
        sent: AtomicU64,
        queue: Mutex<()>,
        sleepers: Condvar,
        without: Without,
    }

    impl Post for Modelled {
        fn announce(&self, number: u32) {
            let number = if self.without == Without::NewNumbers { number.min(1) } else { number };
            self.asleep.store(number, Ordering::Relaxed);
        }

        fn announced(&self) -> u32 {
            self.asleep.load(Ordering::Relaxed)
        }

        fn ring(&self) {
            let shown = self.bell.load(Ordering::Relaxed);
            self.bell.store(shown + 1, Ordering::Release);
            if self.without != Without::WakingAll {
                let _queue = self.queue.lock().unwrap();
                self.sleepers.notify_all();
            }
        }

        fn bell(&self) -> u32 {
            self.bell.load(Ordering::Acquire)
        }

        fn light_fence(&self) {
            if self.without != Without::LightFence {
                fence(Ordering::SeqCst);
            }
        }

        fn heavy_fence(&self) -> bool {
            if self.without != Without::HeavyFence {
                fence(Ordering::SeqCst);
            }
            true
        }

        /// As a futex, which compares the newest value and falls asleep at once; a wake-up when
        /// nobody sleeps is none.
        fn sleep(&self, seen: u32, _time: Duration) {
            let queue = self.queue.lock().unwrap();
            if self.bell.fetch_add(0, Ordering::SeqCst) == seen {
                drop(self.sleepers.wait(queue).unwrap());
            }
        }
    }

    fn receive(shared: &Modelled, messages: u64) {
        let mut sleeper = Sleeper::default();
        let has = |count| shared.sent.load(Ordering::Acquire) >= count;
        for next in 1..=messages {
            while !has(next) {
                let (mut seen, _) = sleeper.announce(shared);
                if has(next) {
                    shared.announce(0);
                    break;
                }
                if shared.without == Without::BellFirst {
                    seen = shared.bell();
                }
                shared.sleep(seen, Duration::MAX);
            }
        }
    }

    fn explore(without: Without, messages: u64) -> usize {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::new(Modelled {
                asleep: AtomicU32::new(0),
                bell: AtomicU32::new(0),
                sent: AtomicU64::new(0),
                queue: Mutex::new(()),
                sleepers: Condvar::new(),
                without,
            });
            let receiver = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || receive(&shared, messages))
            };
            let waker = Waker::default();
            for number in 1..=messages {
                shared.sent.store(number, Ordering::Release);
                waker.wake(&*shared);
            }
            receiver.join().expect("no panic");
        });
        runs.load(Ordering::Relaxed)
    }

    #[rstest]
    fn nobody_sleeps_for_ever(#[values(1, 2, 3)] messages: u64) {
        let runs = explore(Without::Nothing, messages);
        println!("model sealed waking: {messages} messages: {runs} schedules");
        assert!(runs > 10);
    }

    #[rstest]
    #[case::the_light_fence(Without::LightFence)]
    #[case::the_heavy_fence(Without::HeavyFence)]
    #[case::a_new_number_each_time(Without::NewNumbers)]
    #[case::the_bell_before_the_ring(Without::BellFirst)]
    #[case::waking(Without::WakingAll)]
    fn every_part_is_needed(#[case] without: Without) {
        let noticed = catch_unwind(move || explore(without, 3));
        assert!(noticed.is_err(), "nobody misses {without:?}");
        println!("model sealed waking: 1 of 1 parts taken away noticed");
    }
}
