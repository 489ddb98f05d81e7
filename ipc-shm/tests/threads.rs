//! Threads that end with a lock: whatever still refers to the value has it to itself, and nobody
//! waits in vain.

mod common;

use common::{Arena, Child, PATIENCE, say, serve, told};
use ipc_shm::sync::{
    Lock, LockError, Mutex, MutexGuard, ReadGuard, RwLock, Shared, SharedGuard, State, WriteGuard,
};
use rstest::rstest;
use std::{cell::RefCell, fmt::Debug, mem, sync::mpsc, thread, time::Duration};

/// A wait that is to be in vain.
const WHILE: Duration = Duration::from_millis(50);

fn state(arena: &Arena) -> State {
    State::at(arena.path())
}

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let state = State::at(&arguments[0]);
        match role {
            "forget" => forget(&state, &arguments[1]),
            other => panic!("no such child: {other}"),
        }
    });
}

/// A thread of this process forgets what it has; the process goes on, until it is killed.
fn forget(state: &State, what: &str) {
    let mutex = (what == "mutex").then(|| state.open::<Mutex<u64>>("x").unwrap());
    let lock = (what != "mutex").then(|| state.open::<RwLock<u64>>("x").unwrap());
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            mutex.iter().for_each(|mutex| mem::forget(mutex.lock().unwrap()));
            lock.iter().for_each(|lock| match what {
                "reader" => mem::forget(lock.read().unwrap()),
                _ => mem::forget(lock.write().unwrap()),
            });
        });
        thread.join().unwrap();
    });
    say("forgotten");
    told();
}

#[track_caller]
fn assert_forgotten<T: Debug>(answer: Result<T, LockError>) {
    assert!(matches!(answer, Err(LockError::Forgotten)), "{answer:?}");
}

#[track_caller]
fn assert_owner_died<T: Debug>(answer: Result<T, LockError>) {
    assert!(matches!(answer, Err(LockError::OwnerDied)), "{answer:?}");
}

fn assert_mutex_is_forgotten(mutex: &Mutex<u64>) {
    assert_forgotten(mutex.lock());
    assert_forgotten(mutex.try_lock());
    assert_forgotten(mutex.lock_timeout(PATIENCE));
    assert_forgotten(mutex.lock_or_repair(|_| {}));
    assert_forgotten(mutex.recover());
}

#[test]
fn what_a_forgotten_guard_refers_to_is_nobody_elses_while_it_may_be_referred_to() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<u64>>("x", || 1).unwrap();
    let other = state(&arena).open::<Mutex<u64>>("x").unwrap();
    thread::scope(|scope| {
        let value: &mut u64 =
            scope.spawn(|| &mut **Box::leak(Box::new(mutex.lock().unwrap()))).join().unwrap();
        assert_mutex_is_forgotten(&mutex);
        assert_mutex_is_forgotten(&other);
        let said = state(&arena).stat("x").unwrap().condition.unwrap();
        assert!(said.starts_with("forgotten"), "{said}");
        *value += 1;
    });
    assert_mutex_is_forgotten(&mutex);
    // Nothing refers to it any more.
    drop(mutex);
    assert_owner_died(other.lock());
    let recovery = other.recover().unwrap().expect("it is abandoned");
    assert_eq!(*recovery, 2);
    drop(recovery.repaired());
    drop(other.lock().unwrap());
}

#[test]
fn what_a_forgotten_reader_refers_to_is_not_written() {
    let arena = Arena::new();
    let lock = state(&arena).create::<RwLock<u64>>("x", || 1).unwrap();
    let other = state(&arena).open::<RwLock<u64>>("x").unwrap();
    thread::scope(|scope| {
        let value: &u64 = scope.spawn(|| &**Box::leak(Box::new(lock.read().unwrap()))).join().unwrap();
        for lock in [&lock, &other] {
            assert_forgotten(lock.write());
            assert_forgotten(lock.try_write());
            assert_forgotten(lock.write_timeout(PATIENCE));
            assert_forgotten(lock.write_or_repair(|_| {}));
            assert_eq!(*lock.read().unwrap(), 1, "others read");
        }
        let said = state(&arena).stat("x").unwrap();
        assert!(said.condition.unwrap().starts_with("forgotten"));
        assert_eq!(said.participants[0].held, Some(1));
        assert_eq!(*value, 1);
    });
    drop(lock);
    *other.write().unwrap() += 1;
}

#[test]
fn what_a_forgotten_writer_refers_to_is_neither_read_nor_written() {
    let arena = Arena::new();
    let lock = state(&arena).create::<RwLock<u64>>("x", || 1).unwrap();
    let other = state(&arena).open::<RwLock<u64>>("x").unwrap();
    thread::scope(|scope| {
        let value: &mut u64 =
            scope.spawn(|| &mut **Box::leak(Box::new(lock.write().unwrap()))).join().unwrap();
        for lock in [&lock, &other] {
            assert_forgotten(lock.write());
            assert_forgotten(lock.try_write());
            assert_forgotten(lock.write_or_repair(|_| {}));
            assert_forgotten(lock.read());
            assert_forgotten(lock.try_read());
            assert_forgotten(lock.read_timeout(PATIENCE));
        }
        *value += 1;
    });
    drop(lock);
    assert_owner_died(other.read());
    assert_eq!(*other.write_or_repair(|value| *value *= 10).unwrap(), 20);
}

/// Where those sleep who wait for a lock.
const BED: u64 = common::layout::PAGE + 2048 + 32 - common::layout::ASLEEP;

#[derive(Clone, Copy)]
enum Had {
    Mutex,
    Reader,
    Writer,
}

#[rstest]
#[case::for_a_mutex(Had::Mutex, false)]
#[case::to_write_what_is_read(Had::Reader, true)]
#[case::to_read_what_is_written(Had::Writer, false)]
#[case::to_write_what_is_written(Had::Writer, true)]
fn who_waits_for_what_is_then_forgotten_is_told(#[case] had: Had, #[case] writes: bool) {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<u64>>("x", || 0).unwrap();
    let lock = state(&arena).create::<RwLock<u64>>("y", || 0).unwrap();
    let file = arena.file(if matches!(had, Had::Mutex) { "x" } else { "y" });
    let (locked, is_locked) = mpsc::channel();
    thread::scope(|scope| {
        let (mutex, lock) = (&mutex, &lock);
        scope.spawn(move || {
            match had {
                Had::Mutex => mem::forget(mutex.lock().unwrap()),
                Had::Reader => mem::forget(lock.read().unwrap()),
                Had::Writer => mem::forget(lock.write().unwrap()),
            }
            locked.send(()).unwrap();
            common::until_asleep(&file, BED);
        });
        is_locked.recv().unwrap();
        match had {
            Had::Mutex => assert_forgotten(mutex.lock()),
            _ if writes => assert_forgotten(lock.write()),
            _ => assert_forgotten(lock.read()),
        }
    });
}

#[rstest]
#[case::mutex("mutex")]
#[case::reader("reader")]
#[case::writer("writer")]
fn what_a_process_forgot_is_recovered_when_it_is_gone(#[case] what: &str) {
    let arena = Arena::new();
    let path = arena.path().to_str().unwrap();
    if what == "mutex" {
        let mutex = state(&arena).create::<Mutex<u64>>("x", || 0).unwrap();
        let mut child = Child::spawn("forget", &[path, what]);
        child.says("forgotten");
        assert_mutex_is_forgotten(&mutex);
        child.kill();
        assert_owner_died(mutex.try_lock());
        return drop(mutex.lock_or_repair(|_| {}).unwrap());
    }
    let lock = state(&arena).create::<RwLock<u64>>("x", || 0).unwrap();
    let mut child = Child::spawn("forget", &[path, what]);
    child.says("forgotten");
    assert_forgotten(lock.write());
    child.kill();
    if what == "writer" {
        assert_owner_died(lock.try_read());
        assert_owner_died(lock.write());
    } else {
        drop(lock.try_write().unwrap());
    }
    drop(lock.write_or_repair(|_| {}).unwrap());
}

/// Has a thread keep something in a thread-local whose destructor runs when all else of the
/// thread is over, since it was the first to be registered.
macro_rules! keep_beyond_the_end {
    ($what:ty, $take:expr) => {{
        thread_local! {
            static KEPT: RefCell<Option<$what>> = const { RefCell::new(None) };
        }
        let thread = thread::spawn(move || {
            KEPT.with(|kept| *kept.borrow_mut() = None);
            let guard = $take;
            KEPT.with(|kept| *kept.borrow_mut() = Some(guard));
        });
        thread.join().unwrap();
    }};
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

#[test]
fn a_guard_that_outlives_what_its_thread_has_to_say_gives_the_lock_back() {
    let arena = Arena::new();
    let mutex = leak(state(&arena).create::<Mutex<u64>>("x", || 0).unwrap());
    keep_beyond_the_end!(MutexGuard<'static, u64>, mutex.lock().unwrap());
    drop(mutex.lock_timeout(PATIENCE).unwrap());
    let lock = leak(state(&arena).create::<RwLock<u64>>("y", || 0).unwrap());
    keep_beyond_the_end!(WriteGuard<'static, u64>, lock.write().unwrap());
    drop(lock.write_timeout(PATIENCE).unwrap());
}

#[test]
fn a_reader_that_outlives_what_its_thread_has_to_say_leaves_once() {
    let arena = Arena::new();
    let lock = leak(state(&arena).create::<RwLock<u64>>("x", || 0).unwrap());
    keep_beyond_the_end!(ReadGuard<'static, u64>, lock.read().unwrap());
    drop(lock.write_timeout(PATIENCE).unwrap());
    let (reading, is_reading) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        let _guard = lock.read().unwrap();
        reading.send(()).unwrap();
        let _ = is_done.recv();
    });
    is_reading.recv().unwrap();
    keep_beyond_the_end!(ReadGuard<'static, u64>, lock.read().unwrap());
    assert!(matches!(lock.write_timeout(WHILE), Err(LockError::TimedOut)), "somebody reads");
    drop(done);
    reader.join().unwrap();
    drop(lock.write_timeout(PATIENCE).unwrap());
}

/// Locks when all else of its thread is over.
struct Late(&'static Mutex<u64>, &'static RwLock<u64>);

impl Drop for Late {
    fn drop(&mut self) {
        *self.0.lock().unwrap() += 1;
        let value = *self.1.read().unwrap();
        *self.1.write().unwrap() = value + 1;
    }
}

#[test]
fn who_locks_when_its_thread_has_nothing_more_to_say_gives_back_what_it_has() {
    let arena = Arena::new();
    let mutex = leak(state(&arena).create::<Mutex<u64>>("x", || 0).unwrap());
    let lock = leak(state(&arena).create::<RwLock<u64>>("y", || 0).unwrap());
    keep_beyond_the_end!(Late, {
        drop(mutex.lock().unwrap());
        Late(mutex, lock)
    });
    assert_eq!((*mutex.lock().unwrap(), *lock.write().unwrap()), (1, 1));
}

/// Commits when all else of its thread is over.
struct LateCommit(Option<SharedGuard<'static, u64>>, mpsc::Sender<Result<(), LockError>>);

impl Drop for LateCommit {
    fn drop(&mut self) {
        let mut guard = self.0.take().unwrap();
        *guard = 7;
        self.1.send(guard.commit()).unwrap();
    }
}

#[test]
fn nothing_is_committed_by_a_thread_whose_turn_others_have_already() {
    let arena = Arena::new();
    let shared = Box::leak(Box::new(state(&arena).create::<Shared<u64>>("x", || 0).unwrap()));
    let mut other = state(&arena).open::<Shared<u64>>("x").unwrap();
    let (committed, answer) = mpsc::channel();
    keep_beyond_the_end!(LateCommit, LateCommit(Some(shared.lock().unwrap()), committed));
    assert_owner_died(answer.recv().unwrap());
    assert_eq!(*other.read().unwrap(), 0);
}

#[test]
fn what_refers_to_nothing_shared_is_abandoned_when_its_thread_ends() {
    let arena = Arena::new();
    let state = state(&arena);
    let lock = state.create::<Lock>("x", || ()).unwrap();
    let value = state.create::<RwLock<()>>("y", || ()).unwrap();
    let mut shared = state.create::<Shared<u64>>("z", || 0).unwrap();
    let mut other = state.open::<Shared<u64>>("z").unwrap();
    thread::scope(|scope| {
        let forgetful = scope.spawn(|| {
            mem::forget(lock.lock().unwrap());
            mem::forget(value.read().unwrap());
            let mut guard = shared.lock().unwrap();
            *guard = 1;
            mem::forget(guard);
        });
        forgetful.join().unwrap();
    });
    assert_owner_died(lock.lock());
    drop(lock.recover().unwrap().expect("it is abandoned").repaired());
    drop(value.write_timeout(PATIENCE).unwrap());
    assert_eq!(other.update(|value| *value).unwrap(), 0);
}
