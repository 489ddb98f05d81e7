//! The agreement between who is about to sleep and who may have to wake it.
//!
//! ```text
//! sleeper                         waker
//!   flag = ASLEEP                   change the ring
//!   heavy fence                     light fence
//!   look at the ring; changed?      flag ASLEEP?
//!   sleep while flag is ASLEEP      flag = AWAKE, wake all
//! ```
//!
//! With the fences, at least one of the two sees what the other did. The heavy one may be
//! the sleeper's alone (`sys::fence`), which turns the light one into nothing but an order
//! to the compiler. It is a flag and not a count, which a killed sleeper would leave wrong;
//! the waker takes it back with a swap, so that one of several wakes.

use std::time::Duration;

pub(super) const AWAKE: u32 = 0;
pub(super) const ASLEEP: u32 = 1;

/// A flag in shared memory and the means to sleep on it.
pub(super) trait Flag {
    /// Loads the flag, in no particular order.
    fn load(&self) -> u32;
    /// Stores to the flag, before any fence that follows.
    fn store(&self, value: u32);
    /// Swaps the flag, in one total order with the cancellation of a wait.
    fn swap(&self, value: u32) -> u32;
    /// Orders the waker's change of the ring before its look at the flag.
    fn light_fence(&self);
    /// Orders the sleeper's flag before its look at the ring. False if it can't.
    fn heavy_fence(&self) -> bool;
    /// Sleeps while the flag is `ASLEEP`, for at most `time`; may return early.
    fn sleep(&self, time: Duration);
    /// Wakes all who sleep.
    fn wake_all(&self);
}

/// The waker's part, after each change of the ring that a sleeper may wait for.
#[inline]
pub(super) fn ring(flag: &impl Flag) {
    flag.light_fence();
    if flag.load() != AWAKE {
        wake(flag);
    }
}

/// Wakes whoever sleeps or is about to.
#[cold]
pub(super) fn wake(flag: &impl Flag) {
    if flag.swap(AWAKE) != AWAKE {
        flag.wake_all();
    }
}

/// The sleeper's part before its last look at the ring. False if the waker may overlook it.
pub(super) fn announce(flag: &impl Flag) -> bool {
    flag.store(ASLEEP);
    flag.heavy_fence()
}

/// The sleeper's part after its last look at the ring. False if nobody woke it.
pub(super) fn sleep(flag: &impl Flag, time: Duration) -> bool {
    flag.sleep(time);
    flag.load() == AWAKE
}

/// The sleeper's part when it doesn't sleep after all.
pub(super) fn withdraw(flag: &impl Flag) {
    flag.store(AWAKE);
}

#[cfg(test)]
mod model {
    //! All schedules: nobody sleeps for ever. Sleeps have no bound here, so that a lost
    //! wake-up is a deadlock, which the checker finds; both fences are real ones, as the
    //! heavy one makes them.

    use super::{ASLEEP, Flag, announce, ring, sleep, withdraw};
    use loom::{
        sync::{
            Notify,
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
        LastLook,
    }

    struct Modelled {
        flag: AtomicU32,
        /// The ring: how many messages were sent.
        sent: AtomicU64,
        bell: Notify,
        without: Without,
    }

    impl Flag for Modelled {
        fn load(&self) -> u32 {
            self.flag.load(Ordering::Relaxed)
        }

        fn store(&self, value: u32) {
            self.flag.store(value, Ordering::SeqCst);
        }

        fn swap(&self, value: u32) -> u32 {
            self.flag.swap(value, Ordering::SeqCst)
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

        /// As a futex: a wake-up between comparing and falling asleep isn't lost.
        fn sleep(&self, _time: Duration) {
            if self.load() == ASLEEP {
                self.bell.wait();
            }
        }

        fn wake_all(&self) {
            self.bell.notify();
        }
    }

    fn receive(shared: &Modelled, messages: u64) {
        let there = || shared.sent.load(Ordering::Acquire) >= messages;
        while !there() {
            announce(shared);
            if shared.without != Without::LastLook && there() {
                withdraw(shared);
                break;
            }
            sleep(shared, Duration::MAX);
        }
    }

    fn explore(without: Without, messages: u64) -> usize {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        loom::model(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::new(Modelled {
                flag: AtomicU32::new(0),
                sent: AtomicU64::new(0),
                bell: Notify::new(),
                without,
            });
            let sender = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    for number in 1..=messages {
                        shared.sent.store(number, Ordering::Release);
                        ring(&*shared);
                    }
                }
            });
            receive(&shared, messages);
            sender.join().expect("no panic");
        });
        runs.load(Ordering::Relaxed)
    }

    #[rstest]
    fn nobody_sleeps_for_ever(#[values(1, 2)] messages: u64) {
        let runs = explore(Without::Nothing, messages);
        println!("{runs} schedules");
        assert!(runs > 10);
    }

    #[rstest]
    fn every_part_is_needed(
        #[values(Without::LightFence, Without::HeavyFence, Without::LastLook)] without: Without,
    ) {
        let noticed = catch_unwind(move || explore(without, 1));
        assert!(noticed.is_err(), "nobody misses {without:?}");
    }
}
