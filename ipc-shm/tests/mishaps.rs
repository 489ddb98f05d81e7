//! State that processes share, at moments that are rare: what is forgotten, refused by the
//! system, forked, damaged while somebody waits, or in another namespace.

mod common;

use common::{Arena, Forked, PATIENCE, end_after, fork, fork_child, write_at};
use ipc_shm::{
    Wait, Waiting,
    sync::{Barrier, LockError, Mutex, Primitive, RwLock, Shared, State},
};
use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, raise},
        wait::WaitStatus,
    },
};
use rstest::rstest;
use std::{mem, thread};

fn state(arena: &Arena) -> State {
    State::at(arena.path())
}

/// A process that dies with something.
fn dies_with<P: Primitive>(arena: &Arena, name: &str, act: impl FnOnce(&P)) {
    let child = fork_child(|| {
        let held = state(arena).open::<P>(name).unwrap();
        act(&held);
        mem::forget(held);
        raise(Signal::SIGKILL).unwrap();
    });
    assert_eq!(child.ended(), WaitStatus::Signaled(child.0, Signal::SIGKILL, false));
}

#[test]
fn what_a_forgotten_guard_changed_was_never_there() {
    let arena = Arena::new();
    let mut value = state(&arena).create::<Shared<u64>>("x", || 1).unwrap();
    let mut guard = value.lock().unwrap();
    *guard = 2;
    mem::forget(guard);
    assert_eq!(*value.read().unwrap(), 1);
}

#[test]
fn who_is_told_of_an_error_at_a_barrier_has_not_arrived() {
    let arena = Arena::new();
    let barrier = state(&arena).create::<Barrier>("x", || 2).unwrap();
    // One has arrived, and is dead; nobody knows yet.
    let child = fork_child(|| {
        let barrier = state(&arena).open::<Barrier>("x").unwrap();
        thread::spawn(move || barrier.wait());
        common::eventually("it has arrived", || condition(&arena) == "1 of 2 have arrived");
        raise(Signal::SIGKILL).unwrap();
    });
    assert_eq!(child.ended(), WaitStatus::Signaled(child.0, Signal::SIGKILL, false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Of this thread only: it can't ask whether anybody is dead.
            common::refuse_flag(libc::SYS_fcntl, 1, u32::MAX, libc::ENOLCK);
            assert!(matches!(barrier.wait_until(Wait::Never), Err(LockError::Os(_))));
        });
    });
    assert_eq!(condition(&arena), "1 of 2 have arrived");
    assert!(matches!(barrier.wait_until(Wait::Never), Err(LockError::WouldBlock)));
}

fn condition(arena: &Arena) -> String {
    state(arena).stat("x").unwrap().condition.unwrap_or_default()
}

#[test]
fn a_thread_of_a_forked_child_gives_up_what_it_leaves_as_any_other() {
    let arena = Arena::new();
    drop(state(&arena).create::<Mutex<u64>>("x", || 0).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            // It is known as one that locks before it forks.
            drop(state(&arena).open::<Mutex<u64>>("x").unwrap().lock().unwrap());
            match fork() {
                Some(child) => child.ends_well(),
                None => leave_locked(&arena),
            }
        });
    });
}

/// In a child: this thread forgets a guard and ends; another one goes on, and is told.
fn leave_locked(arena: &Arena) {
    let mutex = Box::leak(Box::new(state(arena).open::<Mutex<u64>>("x").unwrap()));
    mem::forget(mutex.lock().unwrap());
    let mutex = &*mutex;
    thread::spawn(move || {
        end_after(|| {
            let answer = mutex.lock_timeout(PATIENCE / 4).map(drop);
            assert!(matches!(answer, Err(LockError::Forgotten)), "{answer:?}");
        })
    });
}

/// Where the lock's word is, and one that names a participant there can't be.
const LOCK: u64 = common::layout::PAGE + 2048;
const STRANGER: u64 = 0x6c6b << 48 | 4000 << 32 | 1;

#[rstest]
#[case::locks(false)]
#[case::reads(true)]
fn a_lock_that_is_damaged_while_somebody_waits_is_an_error(#[case] reads: bool) {
    let arena = Arena::new();
    let mut lock = state(&arena).create::<RwLock<u64>>("x", || 0).unwrap();
    lock.set_waiting(Waiting::Block);
    let guard = lock.write().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| match reads {
            true => lock.read_timeout(PATIENCE).map(drop),
            false => lock.write_timeout(PATIENCE).map(drop),
        });
        common::until_asleep(&arena.file("x"), common::layout::PAGE + 2048 + 32 - common::layout::ASLEEP);
        write_at(&arena.file("x"), LOCK, &STRANGER.to_ne_bytes());
        let answer = waiter.join().unwrap();
        assert!(matches!(answer, Err(LockError::Corrupt(_))), "{answer:?}");
    });
    drop(guard);
}

/// More tries than it takes until one looks for the dead.
const TRIES: usize = 600;

#[rstest]
#[case::dead_first(true)]
#[case::dead_last(false)]
fn tries_at_one_lock_find_its_owner_dead_whatever_is_tried_beside(#[case] dead_first: bool) {
    let arena = Arena::new();
    let (dead, alive) = ["x", "y"].map(|name| state(&arena).create::<Mutex<u64>>(name, || 0).unwrap()).into();
    dies_with(&arena, "x", |mutex: &Mutex<u64>| mem::forget(mutex.lock()));
    let _guard = alive.lock().unwrap();
    thread::scope(|scope| {
        let tries = scope.spawn(|| {
            (0..TRIES).any(|_| {
                let before = dead_first && is_owner_dead(&dead);
                let _ = alive.try_lock();
                before || !dead_first && is_owner_dead(&dead)
            })
        });
        assert!(tries.join().unwrap(), "nobody has looked");
    });
}

fn is_owner_dead(mutex: &Mutex<u64>) -> bool {
    matches!(mutex.try_lock(), Err(LockError::OwnerDied))
}

#[test]
fn who_only_tries_to_read_learns_that_the_writer_has_died() {
    let arena = Arena::new();
    let lock = state(&arena).create::<RwLock<u64>>("x", || 0).unwrap();
    dies_with(&arena, "x", |lock: &RwLock<u64>| mem::forget(lock.write()));
    assert!((0..TRIES).any(|_| matches!(lock.try_read(), Err(LockError::OwnerDied))), "nobody has looked");
}

#[test]
fn a_mutex_works_across_pid_namespaces_and_so_does_the_death_of_its_owner() {
    let arena = Arena::new();
    let mutex = state(&arena).create::<Mutex<u64>>("x", || 0).unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let mut child = Some(fork_child(|| {
        let namespaces = CloneFlags::CLONE_NEWPID;
        let uid = nix::unistd::geteuid();
        let done = unshare(namespaces).or_else(|_| {
            unshare(namespaces | CloneFlags::CLONE_NEWUSER)?;
            // Without a number of our own, nothing would be ours there.
            let map = std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"));
            map.map_err(|_| nix::errno::Errno::EPERM)
        });
        if done.is_err() {
            nix::unistd::write(&writer, b"-").unwrap();
            return;
        }
        // It is the first one there.
        let grandchild = fork_child(|| {
            assert_eq!(nix::unistd::getpid().as_raw(), 1);
            let mutex = state(&arena).open::<Mutex<u64>>("x").unwrap();
            for _ in 0..1000 {
                *mutex.lock().unwrap() += 1;
            }
            mem::forget(mutex.lock().unwrap());
            nix::unistd::write(&writer, b"+").unwrap();
            loop {
                nix::unistd::pause();
            }
        });
        wait_for_word(&grandchild);
    }));
    drop(writer);
    let mut answer = [0];
    assert_eq!(nix::unistd::read(&reader, &mut answer).unwrap(), 1, "it has ended without a word");
    if answer == *b"-" {
        child.take().unwrap().ends_well();
        common::skip("this system makes no pid namespaces for us");
        return;
    }
    assert!(matches!(mutex.try_lock(), Err(LockError::WouldBlock)), "it lives");
    // Whoever is first in a namespace isn't killed by those in it, but by us.
    kill_children(child.as_ref().unwrap());
    let answer = mutex.lock_timeout(PATIENCE).map(drop);
    assert!(matches!(answer, Err(LockError::OwnerDied)), "{answer:?}");
    assert_eq!(*mutex.lock_or_repair(|_| {}).unwrap(), 1000);
    child.take().unwrap().ends_well();
}

/// Until its child is killed.
fn wait_for_word(child: &Forked) {
    let ended = nix::sys::wait::waitpid(child.0, None).unwrap();
    assert_eq!(ended, WaitStatus::Signaled(child.0, Signal::SIGKILL, false));
}

fn kill_children(of: &Forked) {
    let path = format!("/proc/{0}/task/{0}/children", of.0);
    for pid in std::fs::read_to_string(path).unwrap().split_whitespace() {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    }
}
