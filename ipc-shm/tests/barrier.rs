//! A barrier counts the living, whoever is just putting in order what a dead one left, or is
//! about to come in its place.

mod common;

use common::{Arena, Child, PATIENCE, say, serve, told};
use ipc_shm::sync::{Barrier, LockError, State};
use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};
use std::{
    fs::{self, File},
    time::Duration,
};

/// A wait that is to be in vain.
const WHILE: Duration = Duration::from_millis(50);

fn state(arena: &Arena) -> State {
    State::at(arena.path()).participants(2)
}

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let state = State::at(&arguments[0]).participants(2);
        match role {
            "arrive" => arrive(&state),
            #[cfg(feature = "crash-points")]
            "come" => come(&state),
            other => panic!("no such child: {other}"),
        }
    });
}

/// Arrives, and goes on when the others have.
fn arrive(state: &State) {
    let barrier = state.open::<Barrier>("x").unwrap();
    say("here");
    barrier.wait().unwrap();
    say("through");
    told();
}

/// A child that waits at the barrier.
fn arrived(arena: &Arena) -> Child {
    let mut child = Child::spawn("arrive", &[arena.path().to_str().unwrap()]);
    child.says("here");
    common::eventually("it has arrived", || {
        state(arena).stat("x").unwrap().condition.unwrap() == "1 of 2 have arrived"
    });
    child
}

#[track_caller]
fn assert_alone(barrier: &Barrier) {
    let answer = barrier.wait_timeout(WHILE);
    assert!(matches!(answer, Err(LockError::TimedOut)), "{answer:?}");
}

/// The place of a participant, taken: by whoever puts in order what the last one there left, or
/// comes to do so.
fn take_place(arena: &Arena, id: i64) -> File {
    let file = File::options().read(true).write(true).open(arena.file("x")).unwrap();
    let byte = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: id,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)).expect("nobody else has it");
    file
}

#[test]
fn the_dead_have_not_arrived_while_somebody_has_their_place() {
    let arena = Arena::new();
    let barrier = state(&arena).create::<Barrier>("x", || 2).unwrap();
    let mut dead = arrived(&arena);
    dead.kill();
    let place = take_place(&arena, 2);
    assert_alone(&barrier);
    drop(place);
    assert_alone(&barrier);
    let mut other = arrived(&arena);
    assert!(barrier.wait_timeout(PATIENCE).unwrap(), "two of them are alive");
    other.says("through");
    other.tell();
    other.ends_well();
}

#[test]
fn nothing_opens_when_nobody_can_tell_who_lives() {
    let arena = Arena::new();
    let barrier = state(&arena).create::<Barrier>("x", || 2).unwrap();
    let mut dead = arrived(&arena);
    dead.kill();
    fs::rename(arena.file("x"), arena.file("y")).unwrap();
    for _ in 0..2 {
        let answer = barrier.wait_timeout(WHILE);
        assert!(matches!(answer, Err(LockError::Closed)), "{answer:?}");
    }
    fs::rename(arena.file("y"), arena.file("x")).unwrap();
    assert_alone(&barrier);
    let _other = arrived(&arena);
    assert!(barrier.wait_timeout(PATIENCE).unwrap(), "two of them are alive");
}

#[test]
fn a_process_meets_itself_by_two_of_its_barriers() {
    let arena = Arena::new();
    let one = state(&arena).create::<Barrier>("x", || 2).unwrap();
    let two = state(&arena).open::<Barrier>("x").unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| two.wait_timeout(PATIENCE).unwrap());
        assert_ne!(one.wait_timeout(PATIENCE).unwrap(), other.join().unwrap());
    });
}

/// Comes, and stops when it has a place and nothing else.
#[cfg(feature = "crash-points")]
fn come(state: &State) {
    ipc_shm::hooks::observe(|point| {
        if point.what == "mmap" {
            say("stopped");
            told();
        }
        None
    });
    let _ = state.open::<Barrier>("x");
    unreachable!("killed before");
}

#[cfg(feature = "crash-points")]
#[test]
fn the_dead_have_not_arrived_while_their_successor_comes() {
    let arena = Arena::new();
    let barrier = state(&arena).create::<Barrier>("x", || 2).unwrap();
    let mut dead = arrived(&arena);
    dead.kill();
    let mut next = Child::spawn("come", &[arena.path().to_str().unwrap()]);
    next.says("stopped");
    assert_alone(&barrier);
    next.kill();
    let _other = arrived(&arena);
    assert!(barrier.wait_timeout(PATIENCE).unwrap(), "two of them are alive");
}
