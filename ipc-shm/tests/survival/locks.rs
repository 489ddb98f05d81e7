//! Killed at a random instruction, with a lock or waiting for one: nobody hangs, nobody takes
//! over in silence, and how long it takes until the next one knows.
//!
//! The victim is a fork that does the same thing over and over, and has set a timer that
//! sends it SIGKILL, at a time nobody knows. It says in a page of its own when it is *inside*,
//! and spends most of its time there. The survivor is this process, which wants the same and
//! sleeps when it can't have it. Its time is taken from the signal, so that the kernel's for
//! ending the process is part of it; that of a mutex from when the kernel released the dead
//! owner's byte.

use crate::{
    arena::{self, Twofold},
    common::{Arena, Dice, Forked, end_after, fork},
    report::Tally,
};
use ipc_shm::{
    Wait, Waiting,
    sync::{Barrier, Condvar, Event, LockError, Mutex, Once, Primitive, RwLock, Semaphore, Shared, State},
};
use nix::{
    libc,
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    time::{ClockId, clock_gettime},
};
use std::{
    hint,
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// What is taken for a hang.
const HANG: Duration = Duration::from_secs(10);
/// A wait of which nothing is expected.
const BRIEFLY: Duration = Duration::from_millis(2);

/// What a victim leaves.
#[repr(C)]
struct Page {
    /// Not 0 once it is at it.
    ready: AtomicU64,
    /// When it is killed, by the monotonic clock, or when the kernel was seen to have released
    /// its lock.
    killed_ns: AtomicU64,
    /// Not 0 as long as its death matters.
    inside: AtomicU64,
}

/// A round of one role: what both sides have.
struct Round {
    state: State,
    page: &'static Page,
    dice: Dice,
    victim: Option<Forked>,
}

/// What a round came to.
enum Found {
    /// It wasn't inside.
    Outside,
    /// It was, and this was known after so many nanoseconds.
    Inside(u64),
}

/// Somebody to be killed.
struct Role {
    name: &'static str,
    /// How many of its deaths are wanted for each thousand of the first one's ten.
    kills_in_ten: u64,
    play: fn(&mut Round) -> Result<Found, String>,
}

const ROLES: &[Role] = &[
    Role { name: "mutex, its owner", kills_in_ten: 10, play: mutex_owner },
    Role { name: "mutex, a waiter", kills_in_ten: 1, play: mutex_waiter },
    Role { name: "rwlock, its writer", kills_in_ten: 1, play: writer },
    Role { name: "rwlock, a reader", kills_in_ten: 1, play: reader },
    Role { name: "semaphore, a holder", kills_in_ten: 1, play: holder },
    Role { name: "condvar, a notifier", kills_in_ten: 1, play: notifier },
    Role { name: "condvar, a waiter", kills_in_ten: 1, play: condition_waiter },
    Role { name: "shared, its writer", kills_in_ten: 1, play: shared_writer },
    Role { name: "shared, a reader", kills_in_ten: 1, play: shared_reader },
    Role { name: "arena, who changes it", kills_in_ten: 1, play: arena_changer },
    Role { name: "barrier, a waiter", kills_in_ten: 1, play: barrier_waiter },
    Role { name: "event, who sets it", kills_in_ten: 1, play: event_setter },
    Role { name: "once, who does it", kills_in_ten: 1, play: once_runner },
];

/// Kills so many mutex owners inside, and a tenth as many of each other role.
pub(crate) fn run(kills: u64, seed: u64, only: Option<&str>) -> Tally {
    let len = NonZeroUsize::new(size_of::<Page>()).expect("it isn't empty");
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: fresh pages, shared with the children, that are never unmapped.
    let page = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) };
    let page = page.expect("there is memory").cast::<Page>();
    // SAFETY: mapped for good, aligned and long enough; all zeros is a `Page` of atomics.
    let page: &'static Page = unsafe { page.as_ref() };
    let mut tally = Tally::default();
    let mut dice = Dice::new(seed);
    let is_chosen = |role: &&Role| only.is_none_or(|part| role.name.contains(part));
    tally.check(ROLES.iter().any(|role| is_chosen(&role)), || "no role has such a name".into());
    for role in ROLES.iter().filter(is_chosen) {
        let wanted = (kills * role.kills_in_ten / 10).max(1);
        let mut recoveries_ns = Vec::new();
        let (mut rounds, mut problems) = (0_u64, 0);
        while (recoveries_ns.len() as u64) < wanted && rounds < 20 * wanted + 100 && problems < 10 {
            let arena = Arena::new();
            let state = State::at(arena.path()).participants(4);
            for word in [&page.ready, &page.killed_ns, &page.inside] {
                word.store(0, Ordering::Relaxed);
            }
            let mut round = Round { state, page, dice: Dice::new(dice.roll()), victim: None };
            rounds += 1;
            match (role.play)(&mut round) {
                Ok(Found::Outside) => {}
                Ok(Found::Inside(ns)) => recoveries_ns.push(ns),
                Err(problem) => {
                    problems += 1;
                    tally.check(false, || format!("{}, round {rounds}: {problem}", role.name));
                }
            }
            round.bury();
        }
        recoveries_ns.sort_unstable();
        let inside = recoveries_ns.len();
        tally.check(inside as u64 >= wanted, || format!("{}: only {inside} of {wanted} inside", role.name));
        let at = |percent: usize| recoveries_ns.get((inside * percent / 100).min(inside.max(1) - 1)).copied();
        let ms = |ns: Option<u64>| ns.map_or("-".into(), |ns| format!("{:.2}", ns as f64 / 1e6));
        println!(
            "proof: killed inside {inside} times in {rounds} rounds: {}: {problems} hangs or silent takeovers; \
             next one after p50 {} ms, p99 {} ms, max {} ms",
            role.name,
            ms(at(50)),
            ms(at(99)),
            ms(at(100)),
        );
    }
    tally
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Has this process killed in so many nanoseconds.
fn die_in(ns: u64) {
    // SAFETY: all zeros is a `sigevent`.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer = std::ptr::null_mut();
    // SAFETY: both are ours, and valid during the call.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    assert_eq!(made, 0, "timer_create: {}", std::io::Error::last_os_error());
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let at = libc::timespec { tv_sec: 0, tv_nsec: ns as libc::c_long };
    let time = libc::itimerspec { it_interval: never, it_value: at };
    // SAFETY: a timer made above, and a time that is valid during the call.
    let set = unsafe { libc::timer_settime(timer, 0, &raw const time, std::ptr::null_mut()) };
    assert_eq!(set, 0, "timer_settime: {}", std::io::Error::last_os_error());
}

impl Round {
    fn create<P: Primitive>(&self, name: &str, initial: impl FnOnce() -> P::Initial) -> P {
        self.state.create(name, initial).expect("it can be made")
    }

    /// Starts a victim that opens `P` and does `act` over and over, until it is killed.
    fn victim<P>(&mut self, open: impl Fn(&State) -> P, act: impl Fn(&P, &Page)) {
        let delay_ns = 20_000 + self.dice.below(300_000);
        match fork() {
            Some(child) => self.victim = Some(child),
            None => end_after(|| {
                let opened = open(&self.state);
                self.page.killed_ns.store(now_ns() + delay_ns, Ordering::Relaxed);
                die_in(delay_ns);
                loop {
                    act(&opened, self.page);
                    self.page.ready.store(1, Ordering::Relaxed);
                }
            }),
        }
    }

    /// The segment, to look at.
    fn arena_file(&self) -> std::fs::File {
        let info = self.state.stat("x").expect("it is there");
        std::fs::File::open(info.path.expect("it is a file")).expect("it is there")
    }

    fn until_ready(&mut self) {
        while self.page.ready.load(Ordering::Relaxed) == 0 && !self.is_dead() {
            hint::spin_loop();
        }
    }

    /// Whether the victim has ended: killed, as it was meant.
    fn is_dead(&mut self) -> bool {
        let Some(victim) = &self.victim else { return true };
        match waitpid(victim.0, Some(WaitPidFlag::WNOHANG)).expect("our child") {
            WaitStatus::StillAlive => return false,
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => {}
            other => panic!("the victim came to another end: {other:?}"),
        }
        self.victim = None;
        true
    }

    fn bury(&mut self) {
        if let Some(victim) = self.victim.take() {
            let _ = nix::sys::signal::kill(victim.0, Signal::SIGKILL);
            let _ = victim.ended();
        }
    }

    fn was_inside(&self) -> bool {
        self.page.inside.load(Ordering::Relaxed) != 0
    }

    /// How long ago the victim was killed.
    fn since_death(&self) -> u64 {
        now_ns().saturating_sub(self.page.killed_ns.load(Ordering::Relaxed))
    }

    /// What it comes to when the survivor goes on, however that turned out.
    fn survived(&self) -> Found {
        if self.was_inside() { Found::Inside(self.since_death()) } else { Found::Outside }
    }
}

/// Waits until nobody has the byte of the second participant, and notes when that was, to some
/// 20 µs.
fn until_released(file: &std::fs::File, page: &Page) {
    use nix::fcntl::{FcntlArg, fcntl};
    loop {
        let mut asked = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 2,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).expect("the kernel answers");
        if asked.l_type == libc::F_UNLCK as libc::c_short {
            break page.killed_ns.store(now_ns(), Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Changes both halves, with time to be killed in between.
fn change(pair: &mut [u64; 2], page: &Page) {
    page.inside.store(1, Ordering::SeqCst);
    pair[0] += 1;
    (0..100).for_each(|_| hint::spin_loop());
    pair[1] += 1;
    page.inside.store(0, Ordering::SeqCst);
}

fn linger(page: &Page) {
    page.inside.store(1, Ordering::SeqCst);
    (0..100).for_each(|_| hint::spin_loop());
    page.inside.store(0, Ordering::SeqCst);
}

fn text(error: LockError) -> String {
    error.to_string()
}

fn sound(pair: [u64; 2]) -> Result<(), String> {
    if pair[0] == pair[1] { Ok(()) } else { Err(format!("taken over in silence: {pair:?}")) }
}

/// Its time is taken from when the kernel has released the lock of its byte, which is watched.
fn mutex_owner(round: &mut Round) -> Result<Found, String> {
    let mut mutex = round.create::<Mutex<[u64; 2]>>("x", || [0; 2]);
    mutex.set_waiting(Waiting::Block);
    round.victim(
        |state| state.open::<Mutex<[u64; 2]>>("x").expect("it is there"),
        |mutex, page| change(&mut mutex.lock().expect("ours"), page),
    );
    round.until_ready();
    let file = round.arena_file();
    let page = round.page;
    let watch = std::thread::spawn(move || until_released(&file, page));
    loop {
        let is_dead = round.is_dead();
        match mutex.lock_timeout(HANG) {
            Ok(pair) => sound(*pair)?,
            Err(LockError::OwnerDied) => {
                watch.join().expect("it watches");
                break;
            }
            Err(error) => return Err(text(error)),
        }
        if is_dead {
            return if round.was_inside() { Err("taken over in silence".into()) } else { Ok(Found::Outside) };
        }
    }
    let found = round.since_death();
    let Some(mut recovery) = mutex.recover().map_err(text)? else { return Err("nothing to recover".into()) };
    recovery[0] = recovery[1];
    drop(recovery.repaired());
    mutex.lock_timeout(HANG).map_err(text).and_then(|pair| sound(*pair))?;
    // Before its first note it has the lock, but hasn't changed anything.
    Ok(Found::Inside(found))
}

/// It is killed while it asks, sleeps, or is reserved the lock.
fn mutex_waiter(round: &mut Round) -> Result<Found, String> {
    let mutex = round.create::<Mutex<[u64; 2]>>("x", || [0; 2]);
    let guard = mutex.lock().map_err(text)?;
    round.victim(
        |state| {
            let mut mutex = state.open::<Mutex<[u64; 2]>>("x").expect("it is there");
            mutex.set_waiting(Waiting::Block);
            mutex
        },
        |mutex, page| {
            page.inside.store(1, Ordering::SeqCst);
            drop(mutex.lock());
        },
    );
    while !round.was_inside() && !round.is_dead() {
        hint::spin_loop();
    }
    drop(guard);
    while !round.is_dead() {
        match mutex.lock_timeout(HANG) {
            Ok(_) | Err(LockError::OwnerDied) => {}
            Err(error) => return Err(text(error)),
        }
    }
    drop(mutex.lock_or_repair(|_| {}).map_err(text)?);
    drop(mutex.lock_timeout(HANG).map_err(text)?);
    Ok(Found::Inside(round.since_death()))
}

fn writer(round: &mut Round) -> Result<Found, String> {
    let mut lock = round.create::<RwLock<[u64; 2]>>("x", || [0; 2]);
    lock.set_waiting(Waiting::Block);
    round.victim(
        |state| state.open::<RwLock<[u64; 2]>>("x").expect("it is there"),
        |lock, page| change(&mut lock.write().expect("ours"), page),
    );
    round.until_ready();
    loop {
        let is_dead = round.is_dead();
        match lock.read_timeout(HANG) {
            Ok(pair) => sound(*pair)?,
            Err(LockError::OwnerDied) => break,
            Err(error) => return Err(text(error)),
        }
        if is_dead {
            return if round.was_inside() { Err("taken over in silence".into()) } else { Ok(Found::Outside) };
        }
    }
    let found = round.since_death();
    drop(lock.write_or_repair(|pair| pair[0] = pair[1]).map_err(text)?);
    lock.read_timeout(HANG).map_err(text).and_then(|pair| sound(*pair))?;
    Ok(Found::Inside(found))
}

fn reader(round: &mut Round) -> Result<Found, String> {
    let mut lock = round.create::<RwLock<[u64; 2]>>("x", || [0; 2]);
    lock.set_waiting(Waiting::Block);
    round.victim(
        |state| state.open::<RwLock<[u64; 2]>>("x").expect("it is there"),
        |lock, page| {
            let pair = lock.read().expect("ours");
            assert_eq!(pair[0], pair[1]);
            linger(page);
        },
    );
    round.until_ready();
    loop {
        let is_dead = round.is_dead();
        let mut pair = lock.write_timeout(HANG).map_err(text)?;
        pair[0] += 1;
        pair[1] += 1;
        if is_dead || round.since_death() > 0 && round.was_inside() && round.is_dead() {
            return Ok(round.survived());
        }
    }
}

fn holder(round: &mut Round) -> Result<Found, String> {
    let mut permits = round.create::<Semaphore>("x", || 1);
    permits.set_waiting(Waiting::Block);
    round.victim(
        |state| state.open::<Semaphore>("x").expect("it is there"),
        |permits, page| {
            let _permit = permits.acquire().expect("ours");
            linger(page);
        },
    );
    round.until_ready();
    loop {
        let is_dead = round.is_dead();
        drop(permits.acquire_timeout(HANG).map_err(text)?);
        if is_dead || round.since_death() > 0 && round.was_inside() && round.is_dead() {
            let found = round.survived();
            return match permits.available().map_err(text)? {
                1 => Ok(found),
                other => Err(format!("{other} permits of 1")),
            };
        }
    }
}

/// A number that is counted up, and the notification of it.
fn numbers(state: &State) -> (Mutex<[u64; 2]>, Condvar) {
    let mutex = state.open_or_create("x", || [0; 2]).expect("it can be made");
    (mutex, state.open_or_create("y", || ()).expect("it can be made"))
}

fn notifier(round: &mut Round) -> Result<Found, String> {
    let (mut mutex, condvar) = numbers(&round.state);
    mutex.set_waiting(Waiting::Block);
    round.victim(numbers, |(mutex, condvar), page| {
        page.inside.store(1, Ordering::SeqCst);
        mutex.lock().expect("ours")[0] += 1;
        condvar.notify_all().expect("ours");
    });
    round.until_ready();
    let mut last = 0;
    while !round.is_dead() {
        let guard = match mutex.lock_timeout(HANG) {
            Err(LockError::OwnerDied) => mutex.lock_or_repair(|_| {}).map_err(text)?,
            other => other.map_err(text)?,
        };
        match condvar.wait_timeout(guard, BRIEFLY) {
            Ok((guard, _)) if guard[0] >= last => last = guard[0],
            Ok((guard, _)) => return Err(format!("{} after {last}", guard[0])),
            Err(LockError::OwnerDied) => drop(mutex.lock_or_repair(|_| {}).map_err(text)?),
            Err(error) => return Err(text(error)),
        }
    }
    drop(mutex.lock_or_repair(|_| {}).map_err(text)?);
    Ok(Found::Inside(round.since_death()))
}

fn condition_waiter(round: &mut Round) -> Result<Found, String> {
    let (mut mutex, condvar) = numbers(&round.state);
    mutex.set_waiting(Waiting::Block);
    round.victim(numbers, |(mutex, condvar), page| {
        page.inside.store(1, Ordering::SeqCst);
        let guard = mutex.lock().expect("ours");
        let seen = guard[0];
        drop(condvar.wait_while(guard, |pair| pair[0] == seen));
    });
    loop {
        let is_dead = round.is_dead();
        match mutex.lock_timeout(HANG) {
            Ok(mut pair) => pair[0] += 1,
            Err(LockError::OwnerDied) => mutex.lock_or_repair(|_| {}).map_err(text)?[0] += 1,
            Err(error) => return Err(text(error)),
        }
        condvar.notify_all().map_err(text)?;
        if is_dead {
            return Ok(Found::Inside(round.since_death()));
        }
    }
}

fn shared_writer(round: &mut Round) -> Result<Found, String> {
    let mut value = round.create::<Shared<[u64; 2]>>("x", || [0; 2]);
    value.set_waiting(Waiting::Block);
    let page = round.page;
    round.victim(
        |state| std::cell::RefCell::new(state.open::<Shared<[u64; 2]>>("x").expect("it is there")),
        |value, _| value.borrow_mut().update(|pair| change(pair, page)).expect("ours"),
    );
    round.until_ready();
    let mut last = 0;
    loop {
        let is_dead = round.is_dead();
        let read = *value.read().map_err(text)?;
        sound(read)?;
        if read[0] < last {
            return Err(format!("{} after {last}", read[0]));
        }
        let mut guard = value.lock_timeout(HANG).map_err(text)?;
        sound(*guard)?;
        guard[0] += 1;
        guard[1] += 1;
        last = guard[0];
        guard.commit().map_err(text)?;
        if is_dead || round.since_death() > 0 && round.was_inside() && round.is_dead() {
            return Ok(round.survived());
        }
    }
}

fn shared_reader(round: &mut Round) -> Result<Found, String> {
    let mut value = round.create::<Shared<[u64; 2]>>("x", || [0; 2]);
    round.victim(
        |state| std::cell::RefCell::new(state.reader::<[u64; 2]>("x").expect("it is there")),
        |value, page| {
            page.inside.store(1, Ordering::SeqCst);
            let mut value = value.borrow_mut();
            let pair = value.read().expect("a reader is never in the way");
            assert_eq!(pair[0], pair[1]);
        },
    );
    round.until_ready();
    loop {
        let is_dead = round.is_dead();
        value.update(|pair| *pair = [pair[0] + 1; 2]).map_err(text)?;
        if is_dead {
            return Ok(Found::Inside(round.since_death()));
        }
    }
}

/// Turns of an arena's transaction.
const TURNS: u64 = 10;

/// Each transaction is whole, or isn't there.
fn arena_changer(round: &mut Round) -> Result<Found, String> {
    let mut arena = round.create::<Twofold>("x", arena::contents);
    arena.set_waiting(Waiting::Block);
    round.victim(
        |state| state.open::<Twofold>("x").expect("it is there"),
        |arena, page| {
            let changed = arena.with(|twice, heap| {
                page.inside.store(1, Ordering::SeqCst);
                (0..TURNS).try_for_each(|_| arena::turn(twice, heap))
            });
            changed.expect("there is room");
            page.inside.store(0, Ordering::SeqCst);
        },
    );
    round.until_ready();
    while !round.is_dead() {
        let looked = arena.with_wait(Wait::timeout(HANG), |_, _| Ok(()));
        looked.map_err(|error| error.to_string())?;
    }
    let looked = arena.with_wait(Wait::timeout(HANG), |_, _| Ok(()));
    looked.map_err(|error| error.to_string())?;
    let found = round.survived();
    let turns = arena::check(&arena)?;
    arena::check(&arena)?;
    if turns % TURNS != 0 {
        return Err(format!("a transaction in part: {turns} turns"));
    }
    Ok(found)
}

fn barrier_waiter(round: &mut Round) -> Result<Found, String> {
    let barrier = round.create::<Barrier>("x", || 2);
    round.victim(
        |state| {
            let mut barrier = state.open::<Barrier>("x").expect("it is there");
            barrier.set_waiting(Waiting::Block);
            barrier
        },
        |barrier, page| {
            page.inside.store(1, Ordering::SeqCst);
            drop(barrier.wait());
        },
    );
    while !round.is_dead() {
        match barrier.wait_timeout(BRIEFLY) {
            Ok(_) | Err(LockError::TimedOut) => {}
            Err(error) => return Err(text(error)),
        }
    }
    let found = Found::Inside(round.since_death());
    // Whoever is dead hasn't arrived.
    match barrier.wait_timeout(BRIEFLY) {
        Err(LockError::TimedOut) => Ok(found),
        other => Err(format!("the dead were counted: {other:?}")),
    }
}

fn event_setter(round: &mut Round) -> Result<Found, String> {
    let mut event = round.create::<Event>("x", || ());
    event.set_waiting(Waiting::Block);
    round.victim(
        |state| state.open::<Event>("x").expect("it is there"),
        |event, page| {
            page.inside.store(1, Ordering::SeqCst);
            event.set().expect("ours");
            event.reset().expect("ours");
        },
    );
    while !round.is_dead() {
        match event.wait_timeout(BRIEFLY) {
            Ok(()) | Err(LockError::TimedOut) => {}
            Err(error) => return Err(text(error)),
        }
    }
    event.set().map_err(text)?;
    event.wait_timeout(HANG).map_err(text)?;
    Ok(Found::Inside(round.since_death()))
}

fn once_runner(round: &mut Round) -> Result<Found, String> {
    let mut once = round.create::<Once>("x", || ());
    once.set_waiting(Waiting::Block);
    round.victim(
        |state| state.open::<Once>("x").expect("it is there"),
        |once, page| {
            let act = |_| {
                page.inside.store(1, Ordering::SeqCst);
                page.ready.store(1, Ordering::SeqCst);
                while once.is_done().is_ok_and(|done| !done) {
                    hint::spin_loop();
                }
            };
            once.call(act).expect("ours");
        },
    );
    round.until_ready();
    let mut told = None;
    once.call(|again| told = Some(again)).map_err(text)?;
    let found = round.survived();
    match (told, &found) {
        (Some(true), Found::Inside(_)) | (Some(_), Found::Outside) => Ok(found),
        other => Err(format!("it wasn't done again, or nobody was told: {:?}", other.0)),
    }
}
