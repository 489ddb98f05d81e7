//! The agreement between who is about to wait and who may have to wake it.
//!
//! ```text
//! sleeper, poller                       waker
//!   poller: forget the touches so far     change the ring
//!   flag |= ASLEEP or POLLED              light fence
//!   heavy fence                           take all bits and count; which were there?
//!   look at the ring; changed?            ASLEEP: wake all
//!   sleep while flag is as it was         POLLED: touch
//!     when we had added our bit,
//!     or poll for a touch
//! ```
//!
//! With the fences, at least one of the two sees what the other did. The heavy one may be
//! the waiting side's alone (`sys::fence`), which turns the light one into nothing but an
//! order to the compiler. The flag's bits are no counts, which the killed would leave wrong;
//! the waker looks first, and takes them back all at once, so that one of several wakes.
//! Those who share a flag add their bits and don't take away each other's.
//!
//! Whoever takes bits counts that in the flag, above them. Without this a sleeper couldn't
//! tell that its bit was taken, and it overlooked, if another one has added it again before
//! it sleeps. The count comes round after 2^30 times, too many for who is between two lines.

use std::time::Duration;

/// Nobody waits.
pub(super) const AWAKE: u32 = 0;
/// Somebody sleeps on the flag or is about to.
pub(super) const ASLEEP: u32 = 1;
/// Somebody polls for a touch or is about to.
pub(super) const POLLED: u32 = 2;
/// All bits; what is above them counts.
const BITS: u32 = ASLEEP | POLLED;

/// Which bits are there.
#[inline]
pub(super) fn bits(flag: u32) -> u32 {
    flag & BITS
}

/// What becomes of the flag when bits are taken away.
pub(super) fn without(flag: u32, bits: u32) -> u32 {
    (flag & !(bits & BITS)).wrapping_add(BITS + 1)
}

/// A flag in shared memory and the means to wait for a change of it.
pub(super) trait Flag {
    /// Loads the flag, in no particular order.
    fn load(&self) -> u32;
    /// Adds bits to the flag, before any fence that follows, and returns what it is then.
    fn add(&self, bits: u32) -> u32;
    /// Takes bits away, counts it, and returns which bits there were, in one total order with
    /// the cancellation of a wait.
    fn take(&self, bits: u32) -> u32;
    /// Orders the waker's change of the ring before its look at the flag.
    fn light_fence(&self);
    /// Orders the waiting side's bit before its look at the ring. False if it can't.
    fn heavy_fence(&self) -> bool;
    /// Sleeps while the flag is `seen`, for at most `time`; may return early.
    fn sleep(&self, seen: u32, time: Duration);
    /// Wakes all who sleep.
    fn wake_all(&self);
    /// Tells all who poll.
    fn touch(&self);
}

/// The first half of the waker's part, after each change of the ring that somebody may wait
/// for: whether somebody does, and is to be woken.
#[inline]
pub(super) fn is_rung_for(flag: &impl Flag) -> bool {
    flag.light_fence();
    bits(flag.load()) != AWAKE
}

/// The second half: wakes whoever waits or is about to.
pub(super) fn wake(flag: &impl Flag) {
    let waiting = flag.take(BITS);
    if waiting & ASLEEP != 0 {
        flag.wake_all();
    }
    if waiting & POLLED != 0 {
        flag.touch();
    }
}

/// Wakes whoever sleeps or is about to, and nobody else: nothing has changed in the ring.
#[cold]
pub(super) fn interrupt(flag: &impl Flag) {
    if flag.take(ASLEEP) & ASLEEP != 0 {
        flag.wake_all();
    }
}

/// What the waiting side is told when it announces itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    /// The flag then.
    seen: u32,
    /// Whether every waker will notice.
    pub(super) is_heard: bool,
}

/// The waiting side's part before its last look at the ring: `bit` says how it waits.
pub(super) fn announce(flag: &impl Flag, bit: u32) -> Announced {
    let seen = flag.add(bit);
    Announced { seen, is_heard: flag.heavy_fence() }
}

/// The sleeper's part after its last look at the ring.
pub(super) fn sleep(flag: &impl Flag, Announced { seen, .. }: Announced, time: Duration) {
    flag.sleep(seen, time);
}

/// The sleeper's part when it doesn't sleep after all. Only where nobody else sleeps on the
/// flag.
pub(super) fn withdraw(flag: &impl Flag) {
    flag.take(ASLEEP);
}

#[cfg(test)]
mod model {
    //! All schedules: nobody sleeps or polls for ever. Waits have no bound here, so that a
    //! lost wake-up is a deadlock, which the checker finds; both fences are real ones, as
    //! the heavy one makes them.

    use super::{
        ASLEEP, BITS, Flag, POLLED, announce, interrupt, is_rung_for, sleep, wake, withdraw, without,
    };
    use loom::{
        sync::{
            Condvar, Mutex, Notify,
            atomic::{AtomicBool, AtomicU32, AtomicU64, fence},
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
        /// The flag is stored to.
        AddingBits,
        /// What is taken back is everything.
        TakingBits,
        /// Nobody can tell that bits were taken.
        Counting,
        /// Touches are forgotten after the last look.
        ForgettingFirst,
        WakingAll,
        Touching,
    }

    /// Before what a waker is killed. The timers of those who wait fire later.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Killed {
        Swap,
        WakeUp,
        Touch,
    }

    /// Who takes part, besides the waker.
    #[derive(Clone, Copy, Debug, Default)]
    struct Cast {
        messages: u64,
        sleepers: usize,
        pollers: usize,
        /// Somebody announces this and is killed.
        victim: Option<u32>,
        /// The first message's waker.
        killed: Option<Killed>,
        /// The sleeper's wait is cancelled.
        cancelled: bool,
        /// Wake-ups before a sleep are forgotten.
        forgets: bool,
        /// As many switches of threads that need not be are explored; all, if it isn't set.
        switches: Option<usize>,
    }

    /// A descriptor that watches for touches.
    #[derive(Default)]
    struct Watch {
        touched: Mutex<bool>,
        readable: Condvar,
    }

    impl Watch {
        fn touch(&self) {
            *self.touched.lock().unwrap() = true;
            self.readable.notify_all();
        }

        fn forget(&self) {
            *self.touched.lock().unwrap() = false;
        }

        fn poll(&self) {
            let mut touched = self.touched.lock().unwrap();
            while !*touched {
                touched = self.readable.wait(touched).unwrap();
            }
        }
    }

    /// Where sleepers are.
    enum Bell {
        /// A wake-up before the sleep counts: more than a futex does, and little to explore.
        Remembers(Notify),
        /// As a futex, which forgets it.
        Forgets { lock: Mutex<()>, rung: Condvar },
    }

    impl Bell {
        fn new(forgets: bool) -> Self {
            match forgets {
                true => Self::Forgets { lock: Mutex::new(()), rung: Condvar::new() },
                false => Self::Remembers(Notify::new()),
            }
        }

        /// Compares and falls asleep, with no wake-up in between that is lost.
        fn sleep(&self, is_as_it_was: impl FnOnce() -> bool) {
            match self {
                Self::Remembers(notify) => {
                    if is_as_it_was() {
                        notify.wait();
                    }
                }
                Self::Forgets { lock, rung } => {
                    let lock = lock.lock().unwrap();
                    if is_as_it_was() {
                        drop(rung.wait(lock).unwrap());
                    }
                }
            }
        }

        fn wake_all(&self) {
            match self {
                Self::Remembers(notify) => notify.notify(),
                Self::Forgets { lock, rung } => {
                    let _lock = lock.lock().unwrap();
                    rung.notify_all();
                }
            }
        }
    }

    struct Modelled {
        flag: AtomicU32,
        /// Every load of the flag stores to this: `loom` overlooks schedules where a thread
        /// loads a word before it swaps it (see `ring::model`).
        loaded: AtomicU32,
        /// The ring: how many messages were sent.
        sent: AtomicU64,
        cancelled: AtomicBool,
        bell: Bell,
        watches: Vec<Watch>,
        without: Without,
    }

    impl Flag for Modelled {
        fn load(&self) -> u32 {
            self.about_to_load().load(Ordering::Relaxed)
        }

        fn add(&self, bits: u32) -> u32 {
            match self.without {
                Without::AddingBits => {
                    self.flag.store(bits, Ordering::SeqCst);
                    bits
                }
                _ => self.flag.fetch_or(bits, Ordering::SeqCst) | bits,
            }
        }

        fn take(&self, bits: u32) -> u32 {
            let taken = |flag| match self.without {
                Without::TakingBits => without(flag, BITS),
                Without::Counting => flag & !bits,
                _ => without(flag, bits),
            };
            let change = |flag| Some(taken(flag));
            let flag = self.about_to_load().fetch_update(Ordering::SeqCst, Ordering::Relaxed, change);
            super::bits(flag.unwrap_or_else(|flag| flag))
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

        fn sleep(&self, seen: u32, _time: Duration) {
            self.bell.sleep(|| self.load() == seen);
        }

        fn wake_all(&self) {
            if self.without != Without::WakingAll {
                self.bell.wake_all();
            }
        }

        fn touch(&self) {
            if self.without != Without::Touching {
                self.watches.iter().for_each(Watch::touch);
            }
        }
    }

    impl Modelled {
        fn about_to_load(&self) -> &AtomicU32 {
            self.loaded.store(0, Ordering::Relaxed);
            &self.flag
        }

        fn has(&self, messages: u64) -> bool {
            self.sent.load(Ordering::Acquire) >= messages
        }

        fn is_over(&self, messages: u64) -> bool {
            self.has(messages) || self.cancelled.load(Ordering::SeqCst)
        }

        fn send(&self, number: u64, killed: Option<Killed>) {
            self.sent.store(number, Ordering::Release);
            match killed {
                None if is_rung_for(self) => return wake(self),
                None => return,
                Some(Killed::Swap) => {}
                Some(Killed::WakeUp) => {
                    self.take(BITS);
                }
                Some(Killed::Touch) => {
                    self.take(BITS);
                    self.wake_all();
                }
            }
            self.bell.wake_all();
            self.watches.iter().for_each(Watch::touch);
        }
    }

    /// Who is alone takes its announcement back.
    fn receive_asleep(shared: &Modelled, messages: u64, is_alone: bool) {
        while !shared.is_over(messages) {
            let announced = announce(shared, ASLEEP);
            if shared.without != Without::LastLook && shared.is_over(messages) {
                if is_alone {
                    withdraw(shared);
                }
                break;
            }
            sleep(shared, announced, Duration::MAX);
        }
    }

    fn receive_polling(shared: &Modelled, number: usize, messages: u64) {
        let watch = &shared.watches[number];
        while !shared.has(messages) {
            if shared.without != Without::ForgettingFirst {
                watch.forget();
            }
            announce(shared, POLLED);
            if shared.without != Without::LastLook && shared.has(messages) {
                break;
            }
            if shared.without == Without::ForgettingFirst {
                watch.forget();
            }
            watch.poll();
        }
    }

    fn explore(without: Without, cast: Cast) -> usize {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        let mut model = loom::model::Builder::new();
        model.preemption_bound = cast.switches;
        model.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::new(Modelled {
                flag: AtomicU32::new(0),
                loaded: AtomicU32::new(0),
                sent: AtomicU64::new(0),
                cancelled: AtomicBool::new(false),
                bell: Bell::new(cast.forgets),
                watches: (0..cast.pollers).map(|_| Watch::default()).collect(),
                without,
            });
            play(&shared, cast);
        });
        runs.load(Ordering::Relaxed)
    }

    fn play(shared: &Arc<Modelled>, cast: Cast) {
        let mut others = Vec::new();
        let mut start = |part: Box<dyn FnOnce(&Modelled)>| {
            let shared = Arc::clone(shared);
            others.push(thread::spawn(move || part(&shared)));
        };
        if let Some(bit) = cast.victim {
            start(Box::new(move |shared| {
                announce(shared, bit);
            }));
        }
        if cast.cancelled {
            start(Box::new(|shared| {
                shared.cancelled.store(true, Ordering::SeqCst);
                interrupt(shared);
            }));
        }
        for number in 0..cast.pollers {
            start(Box::new(move |shared| receive_polling(shared, number, cast.messages)));
        }
        let is_alone = cast.sleepers == 1;
        if cast.messages > 0 {
            for _ in 0..cast.sleepers {
                start(Box::new(move |shared| receive_asleep(shared, cast.messages, is_alone)));
            }
        }
        for number in 1..=cast.messages {
            shared.send(number, cast.killed.filter(|_| number == 1));
        }
        if cast.messages == 0 {
            receive_asleep(shared, 1, is_alone);
        }
        for other in others {
            other.join().expect("no panic");
        }
    }

    const SLEEPER: Cast = Cast {
        messages: 1,
        sleepers: 1,
        pollers: 0,
        victim: None,
        killed: None,
        cancelled: false,
        forgets: false,
        switches: None,
    };
    const POLLER: Cast = Cast { sleepers: 0, pollers: 1, ..SLEEPER };
    const FORGETFUL: Cast = Cast { forgets: true, switches: Some(3), ..SLEEPER };
    const SLEEPERS: Cast = Cast { sleepers: 2, ..FORGETFUL };
    const BOTH: Cast = Cast { pollers: 1, switches: Some(3), ..SLEEPER };
    const POLLERS: Cast = Cast { pollers: 2, switches: Some(3), ..POLLER };
    const CANCELLED: Cast = Cast { messages: 0, cancelled: true, ..SLEEPER };
    const CANCELLED_BESIDE_A_POLLER: Cast = Cast { cancelled: true, switches: Some(2), ..BOTH };

    #[rstest]
    #[case::a_sleeper(SLEEPER)]
    #[case::a_sleeper_twice(Cast { messages: 2, switches: Some(4), ..SLEEPER })]
    #[case::a_sleeper_whose_wake_up_may_be_forgotten(FORGETFUL)]
    #[case::two_sleepers(SLEEPERS)]
    #[case::two_sleepers_twice(Cast { messages: 2, switches: Some(2), ..SLEEPERS })]
    #[case::a_poller(POLLER)]
    #[case::a_poller_twice(Cast { messages: 2, ..POLLER })]
    #[case::both_on_one_flag(BOTH)]
    #[case::both_twice(Cast { messages: 2, switches: Some(2), ..BOTH })]
    #[case::two_pollers(POLLERS)]
    #[case::a_sleeper_that_is_cancelled(CANCELLED)]
    #[case::a_sleeper_that_is_cancelled_beside_a_poller(CANCELLED_BESIDE_A_POLLER)]
    fn nobody_waits_for_ever(#[case] cast: Cast) {
        let runs = explore(Without::Nothing, cast);
        report("nobody waits for ever", runs);
    }

    #[rstest]
    fn those_who_are_killed_hold_up_nobody(
        #[values(SLEEPER, POLLER)] cast: Cast,
        #[values(ASLEEP, POLLED)] bit: u32,
        #[values(1, 2)] messages: u64,
    ) {
        let runs = explore(Without::Nothing, Cast { victim: Some(bit), messages, switches: Some(3), ..cast });
        report("those who are killed hold up nobody", runs);
    }

    /// They leave a bit behind that isn't the sleeper's.
    #[rstest]
    fn those_who_are_killed_have_no_wake_up_forgotten(
        #[values(FORGETFUL, Cast { switches: Some(2), ..SLEEPERS })] cast: Cast,
        #[values(ASLEEP, POLLED)] bit: u32,
    ) {
        let runs = explore(Without::Nothing, Cast { victim: Some(bit), ..cast });
        report("those who are killed have no wake-up forgotten", runs);
    }

    #[rstest]
    fn after_a_killed_waker_the_next_one_wakes(
        #[values(SLEEPER, POLLER, BOTH)] cast: Cast,
        #[values(Killed::Swap, Killed::WakeUp, Killed::Touch)] killed: Killed,
    ) {
        let runs =
            explore(Without::Nothing, Cast { killed: Some(killed), messages: 2, switches: Some(2), ..cast });
        report("after a killed waker the next one wakes", runs);
    }

    /// In words that `cargo xtask model` understands.
    fn report(case: &str, runs: usize) {
        println!("model waiting: {case}: {runs} schedules");
        assert!(runs > 10);
    }

    #[rstest]
    #[case::a_sleepers_light_fence(Without::LightFence, SLEEPER)]
    #[case::a_sleepers_heavy_fence(Without::HeavyFence, SLEEPER)]
    #[case::a_sleepers_last_look(Without::LastLook, SLEEPER)]
    #[case::counting(Without::Counting, SLEEPERS)]
    #[case::counting_beside_one_who_is_killed(Without::Counting, Cast { victim: Some(ASLEEP), ..FORGETFUL })]
    #[case::waking(Without::WakingAll, SLEEPER)]
    #[case::waking_beside_a_poller(Without::WakingAll, BOTH)]
    #[case::a_pollers_light_fence(Without::LightFence, POLLER)]
    #[case::a_pollers_heavy_fence(Without::HeavyFence, POLLER)]
    #[case::a_pollers_last_look(Without::LastLook, POLLER)]
    #[case::forgetting_before_the_look(Without::ForgettingFirst, POLLER)]
    #[case::touching(Without::Touching, POLLER)]
    #[case::touching_beside_a_sleeper(Without::Touching, BOTH)]
    #[case::bits_beside_each_other(Without::AddingBits, BOTH)]
    #[case::bits_that_stay_when_a_sleeper_withdraws(Without::TakingBits, BOTH)]
    #[case::bits_that_stay_when_a_sleeper_is_cancelled(Without::TakingBits, CANCELLED_BESIDE_A_POLLER)]
    fn every_part_is_needed(#[case] without: Without, #[case] cast: Cast) {
        let noticed = catch_unwind(move || explore(without, cast));
        assert!(noticed.is_err(), "nobody misses {without:?}");
        println!("model waiting: 1 of 1 parts taken away noticed");
    }
}
