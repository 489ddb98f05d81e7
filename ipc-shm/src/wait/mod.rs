//! Waiting for a peer: spin briefly, yield, then sleep on a word of the segment.
//!
//! How sleeper and waker agree is in `flag`. Every sleep is bounded, because a peer may be
//! killed between its store and its wake-up. Who would rather wait for a descriptor has a
//! `doorbell`; who may only read polls, ever more slowly, in `slow`.

mod doorbell;
mod flag;
pub(crate) mod slow;
mod tries;

pub(crate) use tries::Tries;

use crate::{
    ring::memory::{HalfWord, Memory, Words},
    segment::{Attachment, FenceMode, Reach},
    sys::{fence as barrier, fork, futex, ident, notice::Spot},
};
use crossbeam_utils::Backoff;
use doorbell::Doorbell;
use flag::{Announced, Flag};
use ipc_core::{Cancel, OsError, Unready, Wait};
use parking_lot::Mutex;
use std::{
    hint,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{self, AtomicU64, Ordering},
    },
    task::Wake,
    thread,
    time::{Duration, Instant},
};

/// How an endpoint waits for its peer. It doesn't matter to the peer, nor to what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// Never sleeps: the shortest latency, and a processor of its own.
    Spin,
    /// Spins for some 50 µs, which is about what a wake-up costs, then sleeps.
    #[default]
    Adaptive,
    /// Sleeps at once.
    Block,
}

impl Waiting {
    /// How long it spins, if it does.
    fn spin_time(self) -> Option<Duration> {
        match self {
            Self::Spin => Some(Duration::MAX),
            Self::Adaptive if has_several_processors() => Some(SPIN_TIME),
            Self::Adaptive | Self::Block => None,
        }
    }
}

/// How long an adaptive endpoint spins.
const SPIN_TIME: Duration = Duration::from_micros(50);
/// How long a sleep may last before it looks around.
pub(crate) const SLEEP: Duration = Duration::from_millis(250);
/// How long it may last while another participant stands in the way, who may be dead.
const OBSTRUCTED_SLEEP: Duration = Duration::from_millis(5);
/// How long before its deadline a wait looks around that hasn't yet: some times as long as a
/// look takes, so that it isn't late for the deadline.
const LAST_LOOK: Duration = Duration::from_micros(200);
/// How long it may last if the peer may have overlooked the flag.
pub(crate) const DOUBTFUL_SLEEP: Duration = Duration::from_millis(1);
/// Looks at the ring between two looks at the clock. There is a pause after each: whoever
/// looks without takes the line away from the sender that is just writing to it, and a small
/// message then comes later, not sooner (round trip of 8 bytes 1.43 to 1.23 times the bare
/// cache line's where processors are near, 1.20 to 1.07 where they are far).
const BURST: u32 = 64;
/// Looks of an endpoint that expects an answer soon: some 10 µs.
const GLIMPSES: u32 = 8 * BURST;
/// Pauses of a sender that stands back: some 5 µs, a fraction of what a wake-up costs.
const STAND_BACK: u32 = 128;
/// How long a spinning endpoint goes without a look around.
const SPIN: Duration = Duration::from_millis(50);
/// More words than these take longer to look at than the clock.
const MANY_WORDS: u64 = 64;

/// A role's flag in a segment, as `flag` wants it.
struct SegmentFlag<'a> {
    word: HalfWord<'a>,
    fences: FenceMode,
    spot: &'a Arc<Spot>,
}

impl Flag for SegmentFlag<'_> {
    #[inline]
    fn load(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    fn add(&self, bits: u32) -> u32 {
        self.word.fetch_or(bits, Ordering::SeqCst) | bits
    }

    fn take(&self, bits: u32) -> u32 {
        // SeqCst: a cancellation was stored before; either we see the flag here, or its
        // owner, who announced itself later, sees the cancellation.
        flag::bits(self.word.fetch_update(Ordering::SeqCst, |flag| flag::without(flag, bits)))
    }

    #[inline]
    fn light_fence(&self) {
        match self.fences {
            // The sleeper's fence runs on our processor too; only the compiler must be kept
            // from moving the load up.
            FenceMode::Asymmetric => atomic::compiler_fence(Ordering::SeqCst),
            FenceMode::Full => atomic::fence(Ordering::SeqCst),
        }
    }

    fn heavy_fence(&self) -> bool {
        match self.fences {
            FenceMode::Asymmetric => barrier::everywhere(),
            FenceMode::Full => {
                atomic::fence(Ordering::SeqCst);
                true
            }
        }
    }

    fn sleep(&self, seen: u32, time: Duration) {
        futex::wait(self.word.get(), seen, time);
    }

    fn wake_all(&self) {
        futex::wake_all(self.word.get());
    }

    fn touch(&self) {
        self.spot.touch();
    }
}

/// What an endpoint waits for. A closure that polls is one.
pub trait Awaited {
    /// What comes of it.
    type Answer;
    /// Why nothing will.
    type Error: From<Unready>;

    /// Looks whether it is there.
    fn poll(&mut self) -> Result<Option<Self::Answer>, Self::Error>;

    /// Whether, by the last look, another participant stands in the way, who may be dead.
    fn is_obstructed(&self) -> bool {
        false
    }

    /// Whether the last look, or the next one, may take long: then the clock is looked at after
    /// each. Where it is always false, nothing is made of it.
    #[inline]
    fn takes_long(&self) -> bool {
        false
    }

    /// Nobody woke us for a while: looks whether somebody who should have is dead, and puts
    /// in order what that one left.
    fn look_around(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl<T, E: From<Unready>, F: FnMut() -> Result<Option<T>, E>> Awaited for F {
    type Answer = T;
    type Error = E;

    #[inline]
    fn poll(&mut self) -> Result<Option<T>, E> {
        self()
    }
}

/// Whether it takes long to look at so many words.
#[inline]
pub(crate) fn are_many(words: u64) -> bool {
    words > MANY_WORDS
}

/// Wakes who sleeps on a flag, or polls.
#[derive(Clone, Debug)]
pub(crate) struct Bell {
    flag: usize,
    fences: FenceMode,
    spot: Arc<Spot>,
}

impl Bell {
    /// The bell of those who wait at the flag at this offset.
    pub(crate) fn of(attachment: &Attachment, flag: usize) -> Self {
        Self { flag, fences: attachment.header().fences, spot: Arc::clone(attachment.spot()) }
    }

    /// To be called after each change of the ring that the peer may wait for.
    #[inline]
    pub(crate) fn ring(&self, words: &Words) {
        self.ring_at(words, self.flag);
    }

    /// The same for those who wait at another flag.
    #[inline]
    pub(crate) fn ring_at(&self, words: &Words, flag: usize) {
        if flag::is_rung_for(&self.flag_at(words, flag)) {
            self.wake(words, flag);
        }
    }

    /// Whether it takes no fence of ours, so that [`is_due`](Self::is_due) may be asked first.
    pub(crate) fn is_light(&self) -> bool {
        self.fences == FenceMode::Asymmetric
    }

    /// Whether somebody is to be woken after a change of the ring: then it is to be rung.
    #[inline]
    pub(crate) fn is_due(&self, words: &Words) -> bool {
        debug_assert!(self.is_light(), "a fence is missing");
        flag::is_rung_for(&SegmentFlag { fences: FenceMode::Asymmetric, ..self.flag_at(words, self.flag) })
    }

    // Apart, so that what it takes is put together only then.
    #[cold]
    #[inline(never)]
    fn wake(&self, words: &Words, flag: usize) {
        flag::wake(&self.flag_at(words, flag));
    }

    fn flag<'a>(&'a self, words: &'a Words) -> SegmentFlag<'a> {
        self.flag_at(words, self.flag)
    }

    #[inline]
    fn flag_at<'a>(&'a self, words: &'a Words, flag: usize) -> SegmentFlag<'a> {
        SegmentFlag { word: words.half_word(flag), fences: self.fences, spot: &self.spot }
    }
}

/// Where an endpoint sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bed {
    /// On the flag at this offset, alone.
    Own(usize),
    /// On the flag at this offset, perhaps with others. Who doesn't sleep after all leaves
    /// the flag as it is, which costs a needless wake-up and loses nobody's. Who polls always
    /// does.
    Shared(usize),
}

impl Bed {
    fn flag(self) -> usize {
        match self {
            Self::Own(flag) | Self::Shared(flag) => flag,
        }
    }
}

/// How many messages there were without a wait. After some of them we are behind the senders: the
/// lines to come are written as well, and can be fetched ahead without taking them away from who
/// writes to them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Streak(u32);

impl Streak {
    const BEHIND: u32 = 32;

    /// There was another one.
    #[inline]
    pub(crate) fn go_on(&mut self, expect_more: impl FnOnce()) {
        self.0 = self.0.saturating_add(1);
        if self.0 >= Self::BEHIND {
            expect_more();
        }
    }
}

/// An endpoint's way to wait for its peers.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) waiting: Waiting,
    bed: Bed,
    /// When it looked around last, in whichever wait.
    looked_around: Option<Instant>,
    /// Of those who don't wait.
    tries: Tries,
    /// Made at the first sleep that can be cancelled, then kept.
    alarm: Option<Arc<Alarm>>,
    /// Made when the endpoint is first polled, then kept.
    doorbell: Option<Box<Doorbell>>,
    /// What wakes us.
    bell: Bell,
}

impl Waiter {
    pub(crate) fn new(attachment: &Attachment, bed: Bed) -> Self {
        let bell = Bell::of(attachment, bed.flag());
        Self {
            waiting: Waiting::default(),
            bed,
            looked_around: None,
            tries: Tries::of_a_newcomer(),
            alarm: None,
            doorbell: None,
            bell,
        }
    }

    /// Whether it is there within the time that a peer takes which is about to answer; at
    /// once false where an endpoint is not to spin. Most of those who wait for such a peer
    /// need no more than this, which has no outcome but one bit.
    #[inline]
    pub(crate) fn glimpses(&self, wait: &Wait<'_>, mut is_there: impl FnMut() -> bool) -> bool {
        if matches!(wait, Wait::Never) || self.waiting.spin_time().is_none() {
            return false;
        }
        for _ in 0..GLIMPSES {
            if is_there() {
                return true;
            }
            hint::spin_loop();
        }
        false
    }

    /// Lets a receiver go ahead that has a ring full of messages; at once false where an
    /// endpoint is not to spin. Who sends each message as soon as there is room for it takes the
    /// line that says so away from the receiver each time that it is written to.
    #[inline(never)]
    pub(crate) fn stands_back(&self, wait: &Wait<'_>) -> bool {
        let may_spin = !matches!(wait, Wait::Never) && self.waiting.spin_time().is_some();
        if may_spin {
            (0..STAND_BACK).for_each(|_| hint::spin_loop());
        }
        may_spin
    }

    /// Waits until what is awaited is there or `wait` is over. The caller has polled once. Who isn't
    /// to wait looks around now and then.
    pub(crate) fn until<A: Awaited>(
        &mut self,
        attachment: &Attachment,
        wait: Wait<'_>,
        mut awaited: A,
    ) -> Result<A::Answer, A::Error> {
        if matches!(wait, Wait::Never) && self.tries.are_to_look() {
            awaited.look_around()?;
            return awaited.poll()?.ok_or(Unready::WouldBlock.into());
        }
        let (is_there, looked_around) = (|| attachment.is_named(), &mut self.looked_around);
        if let Some(answer) = stay_awake(self.waiting, wait, is_there, looked_around, &mut awaited)? {
            return Ok(answer);
        }
        self.sleep(attachment, wait, awaited)
    }

    /// For [`Pollable::descriptor`](ipc_core::Pollable::descriptor).
    pub(crate) fn descriptor(&mut self, attachment: &Attachment) -> Result<BorrowedFd<'_>, OsError> {
        Ok(doorbell(&mut self.doorbell, attachment)?.descriptor())
    }

    /// For [`Pollable::arm`](ipc_core::Pollable::arm), of an endpoint that is ours and holds
    /// nothing. What is awaited is that there is something: it isn't to be taken, since who
    /// arms may never come for it.
    pub(crate) fn arm<A: Awaited<Answer = ()>>(
        &mut self,
        attachment: &Attachment,
        awaited: A,
    ) -> Result<bool, A::Error> {
        doorbell(&mut self.doorbell, attachment).map_err(Unready::Os)?.arm(attachment, &self.bell, awaited)
    }

    fn sleep<A: Awaited>(
        &mut self,
        attachment: &Attachment,
        wait: Wait<'_>,
        mut awaited: A,
    ) -> Result<A::Answer, A::Error> {
        let words = attachment.words();
        let mine = self.bell.flag(&words);
        let withdraw = || {
            if matches!(self.bed, Bed::Own(_)) {
                flag::withdraw(&mine);
            }
        };
        let _armed = wait.cancel().map(|cancel| arm(&mut self.alarm, &self.bell, &words, cancel));
        let began = Instant::now();
        loop {
            let announced = announce(attachment, &words, &mine, flag::ASLEEP);
            let answer = awaited.poll();
            if !matches!(answer, Ok(None)) {
                withdraw();
                return answer.map(|answer| answer.expect("matched above"));
            }
            if let Some(unready) = overdue(wait) {
                withdraw();
                return last_look(unready, || attachment.is_named(), &mut self.looked_around, &mut awaited);
            }
            let bound = longest_sleep(announced.is_heard, awaited.is_obstructed());
            let due = next_look(self.looked_around, began, bound, wait);
            let until = wait.deadline().map_or(due, |deadline| deadline.min(due));
            let time = until.saturating_duration_since(Instant::now());
            if !time.is_zero() {
                flag::sleep(&mine, announced, time);
            }
            // By the clock: we may be woken all the time for nothing.
            let now = Instant::now();
            if now >= due {
                self.looked_around = Some(now);
                if !attachment.is_named() {
                    return awaited.poll()?.ok_or(Unready::Closed.into());
                }
                awaited.look_around()?;
            }
        }
    }
}

/// The doorbell, made at need.
fn doorbell<'a>(
    made: &'a mut Option<Box<Doorbell>>,
    attachment: &Attachment,
) -> Result<&'a mut Doorbell, OsError> {
    if made.is_none() {
        *made = Some(Box::new(Doorbell::new(attachment)?));
    }
    Ok(made.as_mut().expect("made above"))
}

/// When a wait that began then is to look around: when `bound` is over since the last look, in
/// whichever wait, or since it began, if that look was longer ago. In the latter case it does so
/// before it ends, however brief it is, and shortly before its deadline rather than after.
fn next_look(last: Option<Instant>, began: Instant, bound: Duration, wait: Wait<'_>) -> Instant {
    match last.map(|last| last + bound).filter(|&due| due > began) {
        Some(due) => due,
        None => {
            let late = began + bound;
            let shortly_before =
                |deadline: Instant| deadline - LAST_LOOK.min(deadline.saturating_duration_since(began) / 2);
            wait.deadline().map_or(late, |deadline| late.min(shortly_before(deadline)))
        }
    }
}

/// How long we may wait without a look around.
fn longest_sleep(is_heard: bool, is_obstructed: bool) -> Duration {
    match (is_heard, is_obstructed) {
        (false, _) => DOUBTFUL_SLEEP,
        (true, true) => OBSTRUCTED_SLEEP,
        (true, false) => SLEEP,
    }
}

/// Says how we wait, and is told whether every peer notices.
fn announce(attachment: &Attachment, words: &Words, mine: &SegmentFlag<'_>, bit: u32) -> Announced {
    // Reach is looked at after the fence: a peer that came without hearing it, and fenced
    // when it came, has seen the flag, or is seen here.
    let layout = attachment.layout();
    let hears = |id| words.load(layout.entry(id).reach(), Ordering::Relaxed) == Reach::Reached as u64;
    let mut announced = flag::announce(mine, bit);
    announced.is_heard &= mine.fences == FenceMode::Full || layout.ids().all(hears);
    announced
}

/// Has a cancellation ring `bell`, until the guard is dropped.
fn arm<'c>(alarm: &mut Option<Arc<Alarm>>, bell: &Bell, words: &Words, cancel: &'c Cancel) -> Armed<'c> {
    let alarm = alarm.get_or_insert_with(|| Arc::new(Alarm::new(bell.clone())));
    *alarm.target.lock() = Some(words.clone());
    let registration = cancel.register(Arc::clone(alarm).into());
    Armed { alarm: Arc::clone(alarm), _registration: registration }
}

/// Wakes an endpoint of this process when its wait is cancelled.
#[derive(Debug)]
struct Alarm {
    bell: Bell,
    /// Which process waits: a fork of it has neither the memory nor, perhaps, the lock.
    generation: u32,
    /// The memory to ring in, while its owner is in the wait. Used under the lock only, so
    /// that it is never what keeps a mapping alive.
    target: Mutex<Option<Words>>,
}

impl Alarm {
    fn new(bell: Bell) -> Self {
        Self { bell, generation: fork::generation(), target: Mutex::new(None) }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if self.generation != fork::generation() {
            // What a child cancels is its own copy; nobody waits there.
            return;
        }
        if let Some(words) = &*self.target.lock() {
            flag::interrupt(&self.bell.flag(words));
        }
    }
}

struct Armed<'c> {
    alarm: Arc<Alarm>,
    _registration: ipc_core::CancelRegistration<'c>,
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        *self.alarm.target.lock() = None;
    }
}

/// What a wait comes to that is over as `unready` says: who waits briefly again and again, and so
/// never long enough to look around, does so at the end of one of these waits.
#[cold]
fn last_look<A: Awaited>(
    unready: Unready,
    is_there: impl Fn() -> bool,
    looked_around: &mut Option<Instant>,
    awaited: &mut A,
) -> Result<A::Answer, A::Error> {
    let bound = longest_sleep(true, awaited.is_obstructed());
    let is_due = looked_around.is_none_or(|looked| looked.elapsed() >= bound);
    if !is_due || !matches!(unready, Unready::TimedOut) {
        return Err(unready.into());
    }
    *looked_around = Some(Instant::now());
    if !is_there() {
        return awaited.poll()?.ok_or(Unready::Closed.into());
    }
    awaited.look_around()?;
    awaited.poll()?.ok_or(unready.into())
}

/// The first part of any wait: spins and yields, as far as `waiting` says. `None` if it is
/// time to sleep. The caller has polled once; `is_there` says whether the channel still is, and
/// `looked_around` when that was asked last, in whichever wait.
pub(crate) fn stay_awake<A: Awaited>(
    waiting: Waiting,
    wait: Wait<'_>,
    is_there: impl Fn() -> bool,
    looked_around: &mut Option<Instant>,
    awaited: &mut A,
) -> Result<Option<A::Answer>, A::Error> {
    if matches!(wait, Wait::Never) {
        return Err(Unready::WouldBlock.into());
    }
    if let Some(unready) = overdue_after(wait, awaited) {
        return last_look(unready, is_there, looked_around, awaited).map(Some);
    }
    if let Some(spin_time) = waiting.spin_time() {
        if let Some(answer) = spin(&is_there, wait, spin_time, looked_around, awaited)? {
            return Ok(Some(answer));
        }
    }
    match waiting {
        Waiting::Adaptive => yield_briefly(is_there, wait, looked_around, awaited),
        Waiting::Spin | Waiting::Block => Ok(None),
    }
}

/// Polls for at most `spin_time`.
fn spin<A: Awaited>(
    is_there: impl Fn() -> bool,
    wait: Wait<'_>,
    spin_time: Duration,
    looked_around: &mut Option<Instant>,
    awaited: &mut A,
) -> Result<Option<A::Answer>, A::Error> {
    let started = Instant::now();
    let (mut looked, mut looked_at_it) = (started, started);
    loop {
        for _ in 0..BURST {
            if let Some(answer) = awaited.poll()? {
                return Ok(Some(answer));
            }
            if awaited.takes_long() {
                break;
            }
            hint::spin_loop();
        }
        if let Some(unready) = overdue(wait) {
            return last_look(unready, is_there, looked_around, awaited).map(Some);
        }
        let now = Instant::now();
        if now - started >= spin_time {
            return Ok(None);
        }
        if awaited.is_obstructed() && now - looked_at_it >= OBSTRUCTED_SLEEP {
            looked_at_it = now;
            awaited.look_around()?;
        }
        if now - looked >= SPIN {
            looked = now;
            *looked_around = Some(now);
            thread::yield_now();
            if !is_there() {
                return awaited.poll()?.map(Some).ok_or(Unready::Closed.into());
            }
            awaited.look_around()?;
        }
    }
}

/// Lets others run on this processor a few times: the peer may be among them.
fn yield_briefly<A: Awaited>(
    is_there: impl Fn() -> bool,
    wait: Wait<'_>,
    looked_around: &mut Option<Instant>,
    awaited: &mut A,
) -> Result<Option<A::Answer>, A::Error> {
    let backoff = Backoff::new();
    while !backoff.is_completed() {
        backoff.snooze();
        if let Some(answer) = awaited.poll()? {
            return Ok(Some(answer));
        }
        if let Some(unready) = overdue_after(wait, awaited) {
            return last_look(unready, is_there, looked_around, awaited).map(Some);
        }
    }
    Ok(None)
}

/// Why the wait is over, if it is, where a look takes long; elsewhere nobody asks the clock that
/// often.
#[inline]
fn overdue_after<A: Awaited>(wait: Wait<'_>, awaited: &A) -> Option<Unready> {
    awaited.takes_long().then(|| overdue(wait)).flatten()
}

/// Why the wait is over, if it is.
pub(crate) fn overdue(wait: Wait<'_>) -> Option<Unready> {
    if wait.is_cancelled() {
        return Some(Unready::Cancelled);
    }
    time_left(wait).is_some_and(|left| left.is_zero()).then_some(Unready::TimedOut)
}

/// What is left until the deadline, if there is one.
pub(crate) fn time_left(wait: Wait<'_>) -> Option<Duration> {
    wait.deadline().map(|until| until.saturating_duration_since(Instant::now()))
}

pub(crate) fn has_several_processors() -> bool {
    // Asked twice rather than waited for: a forked child may not have the thread that asks.
    static ONLINE: AtomicU64 = AtomicU64::new(0);
    if ONLINE.load(Ordering::Relaxed) == 0 {
        ONLINE.store(ident::online_processors(), Ordering::Relaxed);
    }
    ONLINE.load(Ordering::Relaxed) > 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, ChannelName, Latest, LatestReader, ShmConfig, Transport, latest::readers_asleep};
    use rstest::rstest;
    use std::{env, fs, process};

    /// What never comes: it notes when somebody looked around meanwhile.
    struct Nothing<'a>(&'a mut Vec<Instant>);

    impl Awaited for Nothing<'_> {
        type Answer = ();
        type Error = Unready;

        fn poll(&mut self) -> Result<Option<()>, Unready> {
            Ok(None)
        }

        fn look_around(&mut self) -> Result<(), Unready> {
            self.0.push(Instant::now());
            Ok(())
        }
    }

    /// What one does who waits in a channel for nothing.
    fn wait_for_nothing(test: &str, body: impl FnOnce(&Attachment, &dyn Fn() -> Waiter)) {
        let directory = env::temp_dir().join(format!("ipc-shm-{test}-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let config = ShmConfig::new().transient();
        let channel = Latest::at(&directory).create(&ChannelName::new("x").unwrap(), &config).unwrap();
        let rx: LatestReader = channel.receiver().unwrap();
        let attachment = rx.attachment();
        body(attachment, &|| {
            let mut waiter = Waiter::new(attachment, Bed::Shared(readers_asleep(attachment.layout())));
            waiter.waiting = Waiting::Block;
            waiter
        });
        drop((rx, channel));
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn who_looks_around_before_its_time_is_over_is_not_late_for_it() {
        wait_for_nothing("deadlines", |attachment, waiter| {
            // A busy machine may wake it too late for that, but not always.
            let in_time = (0..50).filter(|_| {
                let (mut looks, deadline) = (Vec::new(), Instant::now() + Duration::from_millis(5));
                let answer = waiter().until(attachment, Wait::Until(deadline), Nothing(&mut looks));
                assert!(matches!(answer, Err(Unready::TimedOut)), "{answer:?}");
                looks.first().expect("it looks around") < &deadline
            });
            assert!(in_time.count() > 0);
        });
    }

    #[rstest]
    fn who_waits_briefly_again_and_again_looks_around_now_and_then(
        #[values(Waiting::Block, Waiting::Adaptive, Waiting::Spin)] waiting: Waiting,
    ) {
        wait_for_nothing(&format!("brief-waits-{waiting:?}"), |attachment, waiter| {
            let (mut looks, mut waits, mut waiter) = (Vec::new(), 0, waiter());
            waiter.waiting = waiting;
            let started = Instant::now();
            while started.elapsed() < 3 * SLEEP {
                let wait = Wait::timeout(Duration::from_millis(1));
                let answer = waiter.until(attachment, wait, Nothing(&mut looks));
                assert!(matches!(answer, Err(Unready::TimedOut)), "{answer:?}");
                waits += 1;
            }
            let most = started.elapsed().div_duration_f64(SLEEP) as usize + 1;
            assert!(looks.len() >= 3 && looks.len() <= most, "{} looks in {waits} waits", looks.len());
        });
    }
}
