//! Locks and values that processes share: what they promise, in threads and real processes.

mod common;

use common::{Arena, Child, PATIENCE, allow_only, end_after, fork_child, say, serve, told, within};
use ipc_shm::{
    Cancel, ChannelError, Mpmc, Shm, Transport, Wait, Waiting,
    sync::{
        ArenaError, Barrier, Condvar, Event, Lock, LockError, Mutex, Once, RwLock, Semaphore, Shared, State,
        arena,
    },
};
use nix::libc;
use rstest::rstest;
use std::{
    mem,
    os::unix::process::ExitStatusExt,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

ipc_shm::layout! {
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Pair { one: u64, other: u64 }
}

ipc_shm::layout! {
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Swapped { other: u64, one: u64 }
}

fn state(arena: &Arena) -> State {
    State::at(arena.path())
}

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let state = State::at(&arguments[0]);
        match role {
            "add" => add(&state, arguments[1].parse().unwrap()),
            "quietly" => lock_quietly(&state),
            "contended" => lock_contended(&state),
            "hold" => hold(&state, &arguments[1]),
            "ask" => ask(&state),
            "want" => held(&state, &arguments[1], || {}),
            "open" => open_and_do_nothing(&state),
            other => panic!("no such child: {other}"),
        }
    });
}

/// Adds to both halves of a pair, and checks that nobody else is at it.
fn add(state: &State, times: u64) {
    let pair = state.open::<Mutex<Pair>>("x").unwrap();
    say("ready");
    assert!(told());
    for _ in 0..times {
        let mut pair = pair.lock().unwrap();
        pair.one += 1;
        pair.other += 1;
        assert_eq!(pair.one, pair.other, "not alone");
    }
    say("done");
}

/// Has something, until it is killed.
fn hold(state: &State, what: &str) {
    let mutex = (what == "mutex").then(|| state.open::<Mutex<Pair>>("x").unwrap());
    let reader = (what == "reader").then(|| state.open::<RwLock<Pair>>("x").unwrap());
    let permits = (what == "permits").then(|| state.open::<Semaphore>("x").unwrap());
    let _guard = mutex.as_ref().map(|mutex| {
        let mut pair = mutex.lock().unwrap();
        pair.one = 7;
        pair
    });
    let _reading = reader.as_ref().map(|lock| lock.read().unwrap());
    let _permits = permits.as_ref().map(|permits| permits.acquire_many(2, Wait::Forever).unwrap());
    say("held");
    told();
}

#[test]
fn two_processes_count_without_losing_any() {
    const TIMES: u64 = 100_000;
    let arena = Arena::new();
    let pair = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let path = arena.path().to_str().unwrap();
    let mut children = [(); 2].map(|()| Child::spawn("add", &[path, &TIMES.to_string()]));
    children.iter_mut().for_each(|child| child.says("ready"));
    children.iter_mut().for_each(Child::tell);
    children.iter_mut().for_each(|child| child.says("done"));
    children.into_iter().for_each(Child::ends_well);
    assert_eq!(pair.lock().unwrap().one, 2 * TIMES);
}

/// What it takes to say that all is done, and to end.
const LAST_WORDS: &[libc::c_long] = &[libc::SYS_write, libc::SYS_exit_group];

fn lock_quietly(state: &State) {
    let mutex = state.open_or_create::<Mutex<u64>>("mutex", || 0).unwrap();
    let lock = state.open_or_create::<RwLock<u64>>("rwlock", || 0).unwrap();
    let permits = state.open_or_create::<Semaphore>("semaphore", || 2).unwrap();
    let mut shared = state.open_or_create::<Shared<u64>>("shared", || 0).unwrap();
    let condvar = state.open_or_create::<Condvar>("condvar", || ()).unwrap();
    let event = state.open_or_create::<Event>("event", || ()).unwrap();
    let once = state.open_or_create::<Once>("once", || ()).unwrap();
    drop(mutex.lock().unwrap());
    allow_only(LAST_WORDS);
    for _ in 0..1000 {
        *mutex.lock().unwrap() += 1;
        *lock.write().unwrap() += 1;
        assert!(*lock.read().unwrap() > 0);
        drop(permits.acquire().unwrap());
        shared.update(|value| *value += 1).unwrap();
        condvar.notify_all().unwrap();
        event.set().unwrap();
        event.wait().unwrap();
        once.call(|_| {}).unwrap();
    }
    assert_eq!(*shared.read().unwrap(), 1000);
    say("done");
    end_after(|| {});
}

#[test]
fn uncontended_everything_goes_without_a_system_call() {
    let arena = Arena::new();
    let mut child = Child::spawn("quietly", &[arena.path().to_str().unwrap()]);
    child.says("done");
    child.ends_well();
}

fn lock_contended(state: &State) {
    let mut mutex = state.open::<Mutex<Pair>>("x").unwrap();
    mutex.set_waiting(Waiting::Block);
    allow_only(LAST_WORDS);
    let _ = mutex.lock();
    end_after(|| {});
}

#[test]
fn the_watch_kept_on_system_calls_would_notice_one() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let _guard = mutex.lock().unwrap();
    let mut child = Child::spawn("contended", &[arena.path().to_str().unwrap()]);
    assert_eq!(child.ended().signal(), Some(libc::SIGSYS));
}

#[test]
fn a_dead_owner_is_told_and_nobody_gets_the_lock_until_it_is_repaired() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let mut owner = Child::spawn("hold", &[arena.path().to_str().unwrap(), "mutex"]);
    owner.says("held");
    assert!(matches!(mutex.lock_timeout(Duration::from_millis(20)), Err(LockError::TimedOut)));
    owner.kill();
    for _ in 0..3 {
        assert!(matches!(mutex.lock(), Err(LockError::OwnerDied)), "said to everybody");
    }
    drop(mutex.lock_or_repair(|pair| pair.other = pair.one).unwrap());
    let pair = mutex.lock().unwrap();
    assert_eq!((pair.one, pair.other), (7, 7));
}

/// However briefly: less than it takes to go to sleep, or to look whether the owner is alive.
#[rstest]
fn who_waits_briefly_again_and_again_is_told_of_a_dead_owner(
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
    #[values(20, 1000)] wait_us: u64,
) {
    let arena = Arena::new();
    let mut mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    mutex.set_waiting(waiting);
    let mut owner = Child::spawn("hold", &[arena.path().to_str().unwrap(), "mutex"]);
    owner.says("held");
    owner.kill();
    common::eventually("it is told", || match mutex.lock_timeout(Duration::from_micros(wait_us)).map(drop) {
        Err(LockError::TimedOut) => false,
        Err(LockError::OwnerDied) => true,
        other => panic!("{other:?}"),
    });
}

#[test]
fn what_is_not_repaired_is_poisoned_for_good() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let mut owner = Child::spawn("hold", &[arena.path().to_str().unwrap(), "mutex"]);
    owner.says("held");
    owner.kill();
    assert!(matches!(mutex.lock(), Err(LockError::OwnerDied)));
    drop(mutex.recover().unwrap().expect("it is abandoned"));
    assert!(matches!(mutex.lock(), Err(LockError::Poisoned)));
    assert!(matches!(mutex.lock_or_repair(|_| {}), Err(LockError::Poisoned)));
    assert!(matches!(mutex.recover(), Err(LockError::Poisoned)));
    let info = state(&arena).stat("x").unwrap();
    assert!(info.condition.unwrap().starts_with("poisoned"));
}

#[test]
fn a_panic_leaves_the_lock_abandoned_and_so_does_a_forgotten_guard() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            let _guard = mutex.lock().unwrap();
            panic!("within the lock, as the test wants");
        });
        assert!(panicking.join().is_err());
    });
    assert!(matches!(mutex.lock(), Err(LockError::OwnerDied)));
    drop(mutex.recover().unwrap().unwrap().repaired());
    let other = state(&arena).open::<Mutex<Pair>>("x").unwrap();
    mem::forget(other.lock().unwrap());
    drop(other);
    assert!(matches!(mutex.lock(), Err(LockError::OwnerDied)));
}

#[test]
fn locking_twice_is_an_error_by_whatever_handle() {
    let arena = Arena::new();
    let state = state(&arena);
    let one = state.create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let other = state.open::<Mutex<Pair>>("x").unwrap();
    let guard = one.lock().unwrap();
    assert!(matches!(one.lock(), Err(LockError::Recursive)));
    assert!(matches!(other.lock(), Err(LockError::Recursive)));
    drop(guard);
    let lock = state.create::<RwLock<Pair>>("y", Pair::default).unwrap();
    let same = state.open::<RwLock<Pair>>("y").unwrap();
    let reading = lock.read().unwrap();
    assert!(matches!(lock.write(), Err(LockError::Recursive)));
    assert!(matches!(same.write(), Err(LockError::Recursive)));
    drop(reading);
    let writing = lock.write().unwrap();
    assert!(matches!(lock.write(), Err(LockError::Recursive)));
    assert!(matches!(same.read(), Err(LockError::Recursive)));
    drop(writing);
    let mut value = state.create::<Shared<u64>>("z", || 0).unwrap();
    let mut again = state.open::<Shared<u64>>("z").unwrap();
    let guard = value.lock().unwrap();
    assert!(matches!(again.lock(), Err(LockError::Recursive)));
    drop(guard);
    let once = state.create::<Once>("w", || ()).unwrap();
    once.call(|_| assert!(matches!(once.call(|_| {}), Err(LockError::Recursive)))).unwrap();
}

#[test]
fn timeouts_of_zero_and_of_centuries() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let guard = mutex.lock().unwrap();
    thread::scope(|scope| {
        let (asked, is_asked) = std::sync::mpsc::channel();
        let mutex = &mutex;
        let waiting = scope.spawn(move || {
            assert!(matches!(mutex.lock_timeout(Duration::ZERO), Err(LockError::TimedOut)));
            assert!(matches!(mutex.try_lock(), Err(LockError::WouldBlock)));
            let past = Wait::Until(Instant::now());
            assert!(matches!(mutex.lock_wait(past), Err(LockError::TimedOut)));
            let cancel = Cancel::new();
            cancel.cancel();
            assert!(matches!(mutex.lock_wait(Wait::Forever.or_cancel(&cancel)), Err(LockError::Cancelled)));
            asked.send(()).unwrap();
            drop(mutex.lock_timeout(Duration::MAX).unwrap());
        });
        is_asked.recv().unwrap();
        let info = state(&arena).stat("x").unwrap();
        assert!(info.participants[0].held_since_unix_ns.is_some(), "somebody had to wait");
        drop(guard);
        waiting.join().unwrap();
    });
    drop(mutex.lock_timeout(Duration::ZERO).unwrap());
}

#[test]
fn a_greedy_one_starves_nobody() {
    let arena = Arena::new();
    let count = state(&arena).create::<Mutex<u64>>("x", || 0).unwrap();
    let (done, seen) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut between: Vec<u64> = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(Ordering::Relaxed) == 0 {
                let mut count = count.lock().unwrap();
                *count += 1;
                seen.store(*count, Ordering::Relaxed);
            }
        });
        for _ in 0..300 {
            let start = seen.load(Ordering::Relaxed);
            while seen.load(Ordering::Relaxed) < start + 3 {
                std::hint::spin_loop();
            }
            let before = seen.load(Ordering::Relaxed);
            between.push(*count.lock().unwrap() - before);
        }
        done.store(1, Ordering::Relaxed);
    });
    between.sort_unstable();
    let [p50, p99, max] =
        [50, 99, 100].map(|percent| between[(between.len() * percent / 100).min(between.len() - 1)]);
    common::prove(&format!(
        "lock fairness: acquisitions by a greedy thread while another waits: p50 {p50}, p99 {p99}, max {max}"
    ));
    // The others have those in it that were made before it asked, while it wasn't running.
    assert!(p50 <= MOST_PASSES, "half of the waits took more than {p50} acquisitions by another");
}

/// After so many acquisitions by others, who has asked for a lock is to have it.
const MOST_PASSES: u64 = 256;

#[test]
fn who_has_asked_for_a_lock_has_it_reserved_in_time_and_nobody_waits_for_one_that_is_stopped() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let guard = mutex.lock().unwrap();
    let mut polite = Child::spawn("ask", &[arena.path().to_str().unwrap()]);
    let asker = LOCK + 8;
    common::eventually("it has asked", || common::read_word(&arena.file("x"), asker) != 0);
    polite.stop();
    drop(guard);
    let (mut passes, mut given_back) = (1, Instant::now());
    let refused = loop {
        match mutex.try_lock() {
            // A reservation lapses while the machine looks elsewhere.
            Ok(_) if passes == MOST_PASSES && given_back.elapsed() > Duration::from_millis(4) => return,
            Ok(guard) => {
                given_back = Instant::now();
                drop(guard);
            }
            Err(error) => break error,
        }
        passes += 1;
        assert!(passes <= MOST_PASSES, "{passes} acquisitions since it asked");
    };
    assert!(matches!(refused, LockError::WouldBlock), "{refused:?}");
    // It is not for ever: who waits finds that it doesn't come.
    drop(mutex.lock_timeout(PATIENCE).unwrap());
    polite.signal(nix::sys::signal::Signal::SIGCONT);
    polite.says("got it");
    polite.ends_well();
}

/// Waits for the lock.
fn ask(state: &State) {
    let mutex = state.open::<Mutex<Pair>>("x").unwrap();
    drop(mutex.lock_timeout(PATIENCE).unwrap());
    say("got it");
}

/// Where it is said who has asked for the lock.
const ASKER: u64 = LOCK + 8;

fn asker(arena: &Arena) -> u64 {
    common::read_word(&arena.file("x"), ASKER)
}

/// Makes what has a lock of this form.
fn make_form(state: &State, form: &str) {
    match form {
        "mutex" => drop(state.create::<Mutex<Pair>>("x", Pair::default).unwrap()),
        "rwlock" => drop(state.create::<RwLock<Pair>>("x", Pair::default).unwrap()),
        "shared" => drop(state.create::<Shared<Pair>>("x", Pair::default).unwrap()),
        _ => drop(state.create::<arena::Arena<Pair>>("x", contents).unwrap()),
    }
}

fn contents() -> arena::Contents<Pair> {
    arena::Contents { capacity_bytes: 4096, root: Pair::default() }
}

/// Does something with the lock held, after a wait for it.
fn held(state: &State, form: &str, body: impl FnOnce()) {
    match form {
        "mutex" => {
            let lock = state.open::<Mutex<Pair>>("x").unwrap();
            let _guard = lock.lock().unwrap();
            body();
        }
        "rwlock" => {
            let lock = state.open::<RwLock<Pair>>("x").unwrap();
            let _guard = lock.write().unwrap();
            body();
        }
        "shared" => {
            let mut lock = state.open::<Shared<Pair>>("x").unwrap();
            let _guard = lock.lock().unwrap();
            body();
        }
        _ => {
            let lock = state.open::<arena::Arena<Pair>>("x").unwrap();
            let done = lock.with(|_, _| {
                body();
                Ok(())
            });
            done.unwrap();
        }
    }
}

/// Tries to have it, by a handle of its own.
fn try_once(state: &State, form: &str) -> Result<(), LockError> {
    match form {
        "mutex" => state.open::<Mutex<Pair>>("x").unwrap().try_lock().map(drop),
        "rwlock" => state.open::<RwLock<Pair>>("x").unwrap().try_write().map(drop),
        "shared" => state.open::<Shared<Pair>>("x").unwrap().try_lock().map(drop),
        _ => {
            let lock = state.open::<arena::Arena<Pair>>("x").unwrap();
            lock.with_wait(Wait::Never, |_, _| Ok(())).map_err(|error| match error {
                ArenaError::Lock(error) => error,
                other => panic!("{other}"),
            })
        }
    }
}

/// Has a child ask for the lock, and does something to it before the lock is given back.
fn while_one_asks(arena: &Arena, form: &str, body: impl FnOnce(&mut Child)) -> Child {
    let mut child = None;
    held(&state(arena), form, || {
        let asking = child.insert(Child::spawn("want", &[arena.path().to_str().unwrap(), form]));
        common::eventually("it has asked", || asker(arena) != 0);
        body(asking);
    });
    child.unwrap()
}

#[rstest]
fn one_that_died_while_it_waited_keeps_nobody_from_trying(
    #[values("mutex", "rwlock", "shared", "arena")] form: &str,
) {
    let arena = Arena::new();
    make_form(&state(&arena), form);
    while_one_asks(&arena, form, Child::kill);
    for number in 0..MOST_PASSES + 50 {
        let answer = try_once(&state(&arena), form);
        assert!(answer.is_ok(), "try {number}: {answer:?}");
    }
    assert_eq!(asker(&arena), 0);
}

#[test]
fn nor_one_who_had_it_open_before() {
    let arena = Arena::new();
    make_form(&state(&arena), "mutex");
    let mutex = state(&arena).open::<Mutex<Pair>>("x").unwrap();
    while_one_asks(&arena, "mutex", Child::kill);
    for number in 0..MOST_PASSES + 50 {
        let answer = mutex.try_lock().map(drop);
        assert!(answer.is_ok(), "try {number}: {answer:?}");
    }
    assert_eq!(asker(&arena), 0);
}

#[rstest]
fn one_that_is_stopped_while_it_waits_keeps_nobody_from_trying_for_long(
    #[values("mutex", "rwlock", "shared", "arena")] form: &str,
) {
    let arena = Arena::new();
    make_form(&state(&arena), form);
    let child = while_one_asks(&arena, form, |child| child.stop());
    let mut refused = 0;
    for number in 0..MOST_PASSES + 50 {
        if try_once(&state(&arena), form).is_err() {
            refused += 1;
            thread::sleep(Duration::from_millis(6));
            let answer = try_once(&state(&arena), form);
            assert!(answer.is_ok(), "try {number}: {answer:?}");
        }
    }
    assert!(refused <= 1, "it was refused {refused} times");
    assert_eq!(asker(&arena), 0);
    child.signal(nix::sys::signal::Signal::SIGCONT);
    child.ends_well();
}

#[test]
fn who_is_told_why_it_never_gets_the_lock_asks_for_it_no_more() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let guard = mutex.lock().unwrap();
    assert!(matches!(mutex.lock(), Err(LockError::Recursive)));
    assert_eq!(asker(&arena), 0, "it would wait for itself");
    drop(guard);
    let mut owner = Child::spawn("hold", &[arena.path().to_str().unwrap(), "mutex"]);
    owner.says("held");
    owner.kill();
    for _ in 0..2 {
        assert!(matches!(mutex.lock(), Err(LockError::OwnerDied)));
        assert_eq!(asker(&arena), 0, "its owner died");
    }
    drop(mutex.recover().unwrap().expect("it is abandoned"));
    assert!(matches!(mutex.lock(), Err(LockError::Poisoned)));
    assert_eq!(asker(&arena), 0, "it is poisoned");
}

/// How often a thread has gone to sleep.
fn sleeps_of(thread: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

#[rstest]
fn who_only_tries_wakes_nobody_who_waits(#[values("to write", "to read")] tries: &str) {
    const TRIES: usize = 10_000;
    let arena = Arena::new();
    let mut lock = state(&arena).create::<RwLock<Pair>>("x", Pair::default).unwrap();
    lock.set_waiting(Waiting::Block);
    let trying = state(&arena).open::<RwLock<Pair>>("x").unwrap();
    let try_once = || match tries {
        "to write" => trying.try_write().map(drop),
        _ => trying.try_read().map(drop),
    };
    let guard = lock.write().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            drop(lock.write().unwrap());
        });
        let waiter_thread = told.recv().unwrap();
        common::until_asleep(&arena.file("x"), LOCK + 32 - common::layout::ASLEEP);
        let (before, started) = (sleeps_of(waiter_thread), Instant::now());
        let refused =
            scope.spawn(|| (0..TRIES).filter(|_| matches!(try_once(), Err(LockError::WouldBlock))).count());
        assert_eq!(refused.join().unwrap(), TRIES);
        // It looks around by itself every 5 ms.
        let looks = started.elapsed().as_millis() as u64 / 5 + 1;
        let sleeps = sleeps_of(waiter_thread) - before;
        assert!(sleeps <= 24 + 2 * looks, "it was woken {sleeps} times, and looked {looks} times");
        drop(guard);
        waiter.join().unwrap();
    });
}

#[test]
fn who_had_it_open_before_its_owner_died_can_recover_it_at_once() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let mut owner = Child::spawn("hold", &[arena.path().to_str().unwrap(), "mutex"]);
    owner.says("held");
    assert!(mutex.recover().unwrap().is_none(), "it lives");
    owner.kill();
    let recovery = mutex.recover().unwrap().expect("its owner died");
    assert_eq!(recovery.one, 7);
    drop(recovery.repaired());
}

/// Has the mutex open, until it is killed.
fn open_and_do_nothing(state: &State) {
    let _mutex = state.open::<Mutex<Pair>>("x").unwrap();
    say("open");
    told();
}

#[test]
fn users_that_died_with_nothing_are_not_listed_for_ever() {
    let arena = Arena::new();
    let state = state(&arena);
    drop(state.create::<Mutex<Pair>>("x", Pair::default).unwrap());
    let mut idle = [(); 3].map(|()| Child::spawn("open", &[arena.path().to_str().unwrap()]));
    idle.iter_mut().for_each(|child| child.says("open"));
    idle.iter_mut().for_each(Child::kill);
    assert_eq!(state.stat("x").unwrap().participants.len(), 3, "nobody has looked yet");
    let _mutex = state.open::<Mutex<Pair>>("x").unwrap();
    let participants = state.stat("x").unwrap().participants;
    assert!(participants.len() == 1 && participants[0].alive, "{participants:?}");
}

#[test]
fn what_is_refused_says_what_to_do() {
    for (error, what) in [
        (LockError::Closed, "open it anew"),
        (LockError::Recursive, "drop its guard"),
        (LockError::WouldBlock, "try again"),
    ] {
        assert!(error.to_string().contains(what), "{error}");
    }
}

/// How long anybody may wait for what a dead one had: 5 ms, and a busy machine.
const AT_THE_LATEST: Duration = Duration::from_secs(2);

#[test]
fn a_dead_reader_is_taken_back_and_nobody_else() {
    let arena = Arena::new();
    let lock = state(&arena).create::<RwLock<Pair>>("x", Pair::default).unwrap();
    let path = arena.path().to_str().unwrap().to_owned();
    let mut dead = Child::spawn("hold", &[&path, "reader"]);
    let mut alive = Child::spawn("hold", &[&path, "reader"]);
    dead.says("held");
    alive.says("held");
    dead.kill();
    assert!(matches!(lock.write_timeout(Duration::from_millis(50)), Err(LockError::TimedOut)));
    drop(lock.read().unwrap());
    alive.tell();
    alive.ends_well();
    lock.write_timeout(PATIENCE).unwrap().one = 1;
    // And one that dies while somebody waits for it.
    let mut last = Child::spawn("hold", &[&path, "reader"]);
    last.says("held");
    let taken = thread::scope(|scope| {
        let writer = scope.spawn(|| lock.write_timeout(PATIENCE).map(|_| Instant::now()).unwrap());
        common::until_asleep(&arena.file("x"), LOCK + 32 - common::layout::ASLEEP);
        last.kill();
        let killed = Instant::now();
        writer.join().unwrap().saturating_duration_since(killed)
    });
    assert!(taken < AT_THE_LATEST, "it took {taken:?}");
}

#[test]
fn permits_of_the_dead_are_free_again() {
    let arena = Arena::new();
    let permits = state(&arena).create::<Semaphore>("x", || 3).unwrap();
    let mut holder = Child::spawn("hold", &[arena.path().to_str().unwrap(), "permits"]);
    holder.says("held");
    let one = permits.acquire().unwrap();
    assert!(matches!(permits.try_acquire(), Err(LockError::WouldBlock)));
    assert_eq!(state(&arena).stat("x").unwrap().condition.unwrap(), "0 of 3 permits free");
    holder.kill();
    let killed = Instant::now();
    let two = permits.acquire_many(2, Wait::timeout(PATIENCE)).unwrap();
    assert!(killed.elapsed() < AT_THE_LATEST, "it took {:?}", killed.elapsed());
    drop((one, two));
    assert_eq!(permits.available().unwrap(), 3);
}

#[test]
fn permits_beyond_the_most_are_refused() {
    let arena = Arena::new();
    let state = state(&arena);
    let too_many = state.create::<Semaphore>("x", || Semaphore::MAX_PERMITS + 1);
    assert!(matches!(too_many, Err(ChannelError::InvalidConfig(_))));
    let permits = state.create::<Semaphore>("x", || Semaphore::MAX_PERMITS - 1).unwrap();
    permits.add_permits(1).unwrap();
    assert!(matches!(permits.add_permits(1), Err(LockError::TooMany { .. })));
    let asked = permits.acquire_many(u64::MAX, Wait::Forever);
    assert!(matches!(asked, Err(LockError::TooMany { .. })));
    assert!(matches!(state.create::<Barrier>("b", || 0), Err(ChannelError::InvalidConfig(_))));
    assert!(matches!(state.create::<Barrier>("b", || 65_536), Err(ChannelError::InvalidConfig(_))));
}

#[test]
fn all_who_wait_for_a_condition_an_event_or_a_barrier_go_on() {
    let arena = Arena::new();
    let state = state(&arena);
    let number = state.create::<Mutex<u64>>("number", || 0).unwrap();
    let changed = state.create::<Condvar>("changed", || ()).unwrap();
    let event = state.create::<Event>("event", || ()).unwrap();
    let barrier = state.create::<Barrier>("barrier", || 3).unwrap();
    let leaders = AtomicU64::new(0);
    assert!(matches!(barrier.wait_timeout(Duration::ZERO), Err(LockError::TimedOut)));
    assert!(matches!(event.wait_timeout(Duration::ZERO), Err(LockError::TimedOut)));
    let (guard, timed_out) = changed.wait_timeout(number.lock().unwrap(), Duration::ZERO).unwrap();
    assert!(timed_out);
    drop(guard);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                drop(changed.wait_while(number.lock().unwrap(), |number| *number == 0).unwrap());
                event.wait().unwrap();
                for _ in 0..100 {
                    leaders.fetch_add(u64::from(barrier.wait().unwrap()), Ordering::Relaxed);
                }
            });
        }
        *number.lock().unwrap() = 1;
        changed.notify_all().unwrap();
        event.set().unwrap();
    });
    assert_eq!(leaders.load(Ordering::Relaxed), 100);
    event.reset().unwrap();
    assert!(!event.is_set().unwrap());
}

#[rstest]
fn an_event_that_is_taken_back_at_once_has_happened(
    #[values(Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
) {
    let arena = Arena::new();
    let event = state(&arena).create::<Event>("x", || ()).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut event = state(&arena).open::<Event>("x").unwrap();
            event.set_waiting(waiting);
            event.wait_timeout(PATIENCE)
        });
        common::until_asleep(&arena.file("x"), LOCK + 32 - common::layout::ASLEEP);
        event.set().unwrap();
        event.reset().unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert!(!event.is_set().unwrap());
    assert!(matches!(event.wait_timeout(Duration::ZERO), Err(LockError::TimedOut)));
}

#[test]
fn who_waits_for_a_condition_does_so_in_time_and_until_it_is_cancelled() {
    let arena = Arena::new();
    let state = state(&arena);
    let number = state.create::<Mutex<u64>>("number", || 0).unwrap();
    let changed = state.create::<Condvar>("changed", || ()).unwrap();
    let brief = Duration::from_millis(5);
    let (guard, holds) =
        changed.wait_timeout_while(number.lock().unwrap(), brief, |number| *number == 0).unwrap();
    assert!(holds && *guard == 0);
    let (guard, is_over) = changed.wait_until(guard, Wait::Never).unwrap();
    assert!(is_over);
    drop(guard);
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let wait = Wait::Forever.or_cancel(&cancel);
            changed.wait_while_until(number.lock().unwrap(), wait, |number| *number < 2).map(drop)
        });
        for by in [1, 2] {
            common::until_asleep(&arena.file("changed"), LOCK + 32 - common::layout::ASLEEP);
            match by {
                1 => *number.lock().unwrap() += 1,
                _ => cancel.cancel(),
            }
            changed.notify_all().unwrap();
        }
        let answer = waiter.join().unwrap();
        assert!(matches!(answer, Err(LockError::Cancelled)), "{answer:?}");
        drop(number.try_lock().expect("who gives up doesn't have it"));
        let waiter = scope.spawn(|| {
            let guard = number.lock().unwrap();
            changed
                .wait_timeout_while(guard, PATIENCE, |number| *number < 2)
                .map(|(guard, holds)| (*guard, holds))
        });
        *number.lock().unwrap() = 2;
        changed.notify_all().unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), (2, false));
    });
}

#[test]
fn what_is_done_once_is_done_once_and_again_after_a_panic() {
    let arena = Arena::new();
    let once = state(&arena).create::<Once>("x", || ()).unwrap();
    thread::scope(|scope| {
        let panicking = scope.spawn(|| once.call(|_| panic!("as the test wants")));
        assert!(panicking.join().is_err());
    });
    let mut told = None;
    once.call(|again| told = Some(again)).unwrap();
    once.call(|_| panic!("it is done")).unwrap();
    assert_eq!(told, Some(true));
    assert!(once.is_done().unwrap());
}

#[test]
fn a_value_is_changed_at_once_or_not_at_all() {
    let arena = Arena::new();
    let state = state(&arena);
    let mut one = state.create::<Shared<Pair>>("x", || Pair { one: 1, other: 1 }).unwrap();
    let mut two = state.open::<Shared<Pair>>("x").unwrap();
    let mut guard = one.lock().unwrap();
    guard.one = 2;
    assert_eq!(two.read().unwrap().one, 1);
    drop(guard);
    assert_eq!(one.read().unwrap().one, 1, "dropped, not committed");
    one.update(|pair| *pair = Pair { one: 3, other: 3 }).unwrap();
    assert_eq!(two.read().unwrap(), &Pair { one: 3, other: 3 });
    for number in 4..100 {
        two.update(|pair| *pair = Pair { one: number, other: number }).unwrap();
        assert_eq!(one.read().unwrap().one, number);
    }
}

#[test]
fn another_layout_is_refused_and_both_are_named() {
    let arena = Arena::new();
    let state = state(&arena);
    drop(state.create::<Shared<Pair>>("x", Pair::default).unwrap());
    let error = state.open::<Shared<Swapped>>("x").unwrap_err().to_string();
    assert!(error.contains("{one: u64, other: u64} (16 bytes"), "{error}");
    assert!(error.contains("{other: u64, one: u64} (16 bytes"), "{error}");
    assert!(matches!(state.open::<Shared<[u64; 2]>>("x"), Err(ChannelError::Mismatch { .. })));
    assert!(matches!(state.open::<Shared<u64>>("x"), Err(ChannelError::Mismatch { .. })));
    let error = state.open::<Mutex<Pair>>("x").unwrap_err().to_string();
    assert!(error.contains("kind shared, not mutex"), "{error}");
}

#[test]
fn state_and_channels_are_refused_in_each_others_place() {
    let arena = Arena::new();
    let state = state(&arena);
    drop(state.create::<Mutex<u64>>("lock", || 0).unwrap());
    drop(Mpmc::at(arena.path()).create(&common::name("queue"), &Default::default()).unwrap());
    let error = Mpmc::at(arena.path()).open(&common::name("lock")).unwrap_err().to_string();
    assert!(error.contains("kind mutex, not mpmc"), "{error}");
    let error = state.open::<Mutex<u64>>("queue").unwrap_err().to_string();
    assert!(error.contains("kind mpmc, not mutex"), "{error}");
    let shm = Shm::at(arena.path());
    assert_eq!(shm.list().unwrap().len(), 2);
    assert_eq!(shm.stat(&common::name("lock")).unwrap().kind, "mutex");
    shm.remove(&common::name("lock")).unwrap();
}

#[test]
fn an_untyped_lock_is_that_of_the_mutex() {
    let arena = Arena::new();
    let state = state(&arena);
    let mutex = state.create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let lock = state.open::<Lock>("x").unwrap();
    assert_eq!(lock.value_bytes(), 16);
    let guard = lock.lock().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(mutex.try_lock(), Err(LockError::WouldBlock))));
    });
    drop(guard);
    drop(mutex.lock().unwrap());
}

#[test]
fn a_forked_child_neither_locks_nor_unlocks() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let permits = state(&arena).create::<Semaphore>("y", || 1).unwrap();
    let guard = mutex.lock().unwrap();
    let permit = permits.acquire().unwrap();
    let mut held = Some((guard, permit));
    fork_child(|| {
        assert!(matches!(mutex.lock(), Err(LockError::Forked)));
        assert!(matches!(permits.acquire(), Err(LockError::Forked)));
        drop(held.take());
    })
    .ends_well();
    thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(mutex.try_lock(), Err(LockError::WouldBlock))));
    });
    assert_eq!(permits.available().unwrap(), 0);
}

#[test]
fn in_a_forked_child_every_call_says_whose_it_is() {
    let arena = Arena::new();
    let state = state(&arena);
    let mutex = state.create::<Mutex<u64>>("mutex", || 0).unwrap();
    let lock = state.create::<RwLock<u64>>("rwlock", || 0).unwrap();
    let condvar = state.create::<Condvar>("condvar", || ()).unwrap();
    let permits = state.create::<Semaphore>("semaphore", || 3).unwrap();
    let barrier = state.create::<Barrier>("barrier", || 2).unwrap();
    let event = state.create::<Event>("event", || ()).unwrap();
    let once = state.create::<Once>("once", || ()).unwrap();
    let mut shared = state.create::<Shared<u64>>("shared", || 0).unwrap();
    let mut reader = state.reader::<u64>("shared").unwrap();
    let untyped = state.create::<Lock>("lock", || ()).unwrap();
    let heap = state.create::<arena::Arena<Pair>>("arena", contents).unwrap();
    let mut guard = Some(mutex.lock().unwrap());
    let mut permit = Some(permits.acquire().unwrap());
    let soon = Duration::from_millis(1);
    fork_child(|| {
        fn forked<T>(answer: Result<T, LockError>) {
            assert!(matches!(answer, Err(LockError::Forked)), "{:?}", answer.err());
        }
        // Before the guard goes: it isn't the child's to give back.
        let own = State::at(arena.path()).create::<Mutex<u64>>("own", || 0).unwrap();
        forked(condvar.wait(own.lock().unwrap()));
        forked(condvar.wait_timeout(own.lock().unwrap(), soon));
        forked(condvar.wait_while(own.lock().unwrap(), |_| true));
        forked(condvar.wait_until(own.lock().unwrap(), Wait::Never));
        forked(condvar.wait_timeout_while(own.lock().unwrap(), soon, |_| true));
        drop(own.try_lock().expect("who isn't let wait gives it back"));
        forked(condvar.wait(guard.take().unwrap()));
        forked(condvar.notify_one());
        forked(condvar.notify_all());
        forked(mutex.lock());
        forked(mutex.try_lock());
        forked(mutex.lock_timeout(soon));
        forked(mutex.lock_or_repair(|_| {}));
        forked(mutex.recover());
        forked(untyped.lock());
        forked(lock.read());
        forked(lock.try_read());
        forked(lock.read_timeout(soon));
        forked(lock.write());
        forked(lock.try_write());
        forked(lock.write_timeout(soon));
        forked(lock.write_or_repair(|_| {}));
        forked(permits.acquire());
        forked(permits.try_acquire());
        forked(permits.acquire_timeout(soon));
        forked(permits.acquire_many(2, Wait::Never));
        forked(permits.add_permits(1));
        forked(permits.available());
        drop(permit.take());
        forked(barrier.wait());
        forked(barrier.wait_timeout(soon));
        forked(event.set());
        forked(event.reset());
        forked(event.is_set());
        forked(event.wait());
        forked(event.wait_timeout(soon));
        forked(once.is_done());
        forked(once.call(|_| {}));
        forked(shared.read());
        forked(shared.update(|_| {}));
        forked(shared.lock());
        forked(shared.try_lock());
        forked(shared.lock_timeout(soon));
        forked(reader.read());
        forked(reader.changed(Wait::timeout(soon)));
        let answers = [heap.with(|_, _| Ok(())), heap.stats().map(drop)];
        for answer in answers {
            assert!(matches!(answer, Err(ArenaError::Lock(LockError::Forked))), "{answer:?}");
        }
    })
    .ends_well();
    drop(guard);
    drop(mutex.lock().unwrap());
    assert_eq!(permits.available().unwrap(), 2);
}

#[rstest]
#[case::ones(u64::MAX)]
#[case::text(u64::from_ne_bytes(*b"corrupt!"))]
#[case::marked(0x6c6b << 48)]
#[case::all_flags(0x6c6b << 48 | 7 << 45)]
#[case::nobody(0x6c6b << 48 | 9 << 32 | 1)]
#[case::beyond(0x6c6b << 48 | 4000 << 32 | 1)]
fn a_lock_word_of_stray_bytes_is_an_error_and_no_hang(#[case] word: u64) {
    let arena = Arena::new();
    let state = state(&arena);
    let mutex = state.create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let lock = state.create::<RwLock<Pair>>("y", Pair::default).unwrap();
    let permits = state.create::<Semaphore>("z", || 1).unwrap();
    for name in ["x", "y", "z"] {
        common::write_at(&arena.file(name), LOCK, &word.to_ne_bytes());
    }
    within(PATIENCE, move || {
        // Of one who isn't there: it is taken for dead.
        let is_damage = |error| matches!(error, LockError::Corrupt(_) | LockError::OwnerDied);
        assert!(is_damage(mutex.lock().map(drop).unwrap_err()));
        assert!(is_damage(lock.write().map(drop).unwrap_err()));
        assert!(is_damage(lock.read().map(drop).unwrap_err()));
        let permit = permits.acquire().map(drop);
        assert!(permit.is_ok() || permit.is_err_and(is_damage));
    });
}

/// Where the lock's word is.
const LOCK: u64 = common::layout::PAGE + 2048;

#[test]
fn stray_counts_are_an_error_or_nobodys() {
    let arena = Arena::new();
    let state = state(&arena);
    let lock = state.create::<RwLock<Pair>>("y", Pair::default).unwrap();
    let permits = state.create::<Semaphore>("z", || 1).unwrap();
    let share = |id: u64| 2 * common::layout::PAGE + (id - 1) * 256 + 64;
    for word in [u64::MAX, 5] {
        common::write_at(&arena.file("y"), share(2), &word.to_ne_bytes());
        common::write_at(&arena.file("z"), share(2), &word.to_ne_bytes());
        let write = lock.write_timeout(PATIENCE).map(drop);
        assert!(write.is_ok() || matches!(write, Err(LockError::Corrupt(_))));
        let acquired = permits.acquire_timeout(PATIENCE).map(drop);
        assert!(acquired.is_ok() || matches!(acquired, Err(LockError::Corrupt(_))));
    }
}

#[test]
fn a_transient_one_is_gone_with_its_last_user_unless_somebody_died_with_it() {
    let arena = Arena::new();
    let state = state(&arena).transient();
    drop(state.create::<Mutex<Pair>>("x", Pair::default).unwrap());
    assert_eq!(arena.entries(), [""; 0]);
    let mutex = state.create::<Mutex<Pair>>("x", Pair::default).unwrap();
    let mut owner = Child::spawn("hold", &[arena.path().to_str().unwrap(), "mutex"]);
    owner.says("held");
    drop(mutex);
    owner.kill();
    let mutex = state.open::<Mutex<Pair>>("x").unwrap();
    assert!(matches!(mutex.lock(), Err(LockError::OwnerDied)));
}
