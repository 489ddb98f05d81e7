//! `ipc lock`: one command at a time, whatever becomes of the others.

use crate::support::{Running, World, eventually};
use ipc_shm::sync::{Lock, Mutex, State};
use nix::sys::signal::Signal;
use rstest::rstest;

/// Whether somebody has the lock.
fn is_held(world: &World, address: &str) -> bool {
    world.run(&["stat", address, "--json"]).code() == Some(0) && world.stat(address)["condition"] == "held"
}

fn name(address: &str) -> &str {
    address.strip_prefix("shm:").unwrap()
}

#[rstest]
#[case::well("exit 0", Some(0))]
#[case::ill("exit 7", Some(7))]
#[case::by_a_signal("kill -9 $$", Some(137))]
fn it_ends_as_its_command_does(#[case] script: &str, #[case] code: Option<i32>) {
    let world = World::new();
    let address = world.address("shm");
    assert_eq!(world.run(&["lock", &address, "--", "sh", "-c", script]).code(), code);
    assert_eq!(world.stat(&address)["condition"], "free");
}

/// Children that nobody is told of are gone before they are asked how they ended.
#[test]
fn it_ends_as_its_command_does_where_the_ends_of_children_are_ignored() {
    let world = World::new();
    let address = world.address("shm");
    let arguments = ["lock", &address, "--", "sh", "-c", "exit 7"];
    let ran = Running::start(&mut world.command_ignoring(Signal::SIGCHLD, &arguments)).finish();
    assert_eq!((ran.code(), ran.stderr().as_str()), (Some(7), ""));
    assert_eq!(world.stat(&address)["condition"], "free");
}

#[test]
fn a_second_one_waits_or_is_told_so() {
    let world = World::new();
    let address = world.address("shm");
    let first = world.spawn(&["lock", &address, "--", "cat"]);
    eventually("it has the lock", || is_held(&world, &address));
    let participant = &world.stat(&address)["participants"][0];
    assert_eq!(participant["held"], 1);
    assert!(participant["held_since_unix_ns"].as_u64().unwrap() > 0);
    let text = world.run(&["lock", &address, "--try", "--", "true"]).assert_failed(4);
    assert!(text.contains("ipc stat"), "{text}");
    world.run(&["lock", &address, "--timeout", "10ms", "--", "true"]).assert_failed(4);
    let second = world.spawn(&["lock", &address, "--", "echo", "mine"]);
    first.finish().assert_done();
    assert_eq!(second.finish().assert_done(), b"mine\n");
}

/// All that are at a lock.
fn crowd(world: &World, address: &str) -> usize {
    world.stat(address)["participants"].as_array().unwrap().len()
}

#[test]
fn there_are_places_for_many() {
    const MANY: usize = 100;
    let world = World::new();
    let address = world.address("shm");
    let first = world.spawn(&["lock", &address, "--", "cat"]);
    eventually("it has the lock", || is_held(&world, &address));
    let others: Vec<_> = (1..MANY).map(|_| world.spawn(&["lock", &address, "--", "echo", "mine"])).collect();
    eventually("all wait for it", || crowd(&world, &address) == MANY);
    first.finish().assert_done();
    for other in others {
        assert_eq!(other.finish().assert_done(), b"mine\n");
    }
}

#[test]
fn a_place_is_waited_for_as_the_lock_is() {
    let world = World::new();
    let address = world.address("shm");
    drop(State::at(world.directory()).participants(2).create::<Lock>(name(&address), || ()).unwrap());
    let first = world.spawn(&["lock", &address, "--", "cat"]);
    eventually("it has the lock", || is_held(&world, &address));
    let second = world.spawn(&["lock", &address, "--", "echo", "second"]);
    eventually("it waits", || crowd(&world, &address) == 2);
    for patience in [&["--try"], &["--timeout", "50ms"][..]] {
        let line = world.run(&[&["lock", &address], patience, &["--", "true"]].concat()).assert_failed(4);
        assert!(line.contains("ipc stat") && line.contains("State::participants"), "{line}");
    }
    let given_up = world.spawn(&["lock", &address, "--", "true"]);
    given_up.wait_for_sleep();
    given_up.signal(Signal::SIGTERM);
    assert_eq!(given_up.finish().code(), Some(143));
    let third = world.spawn(&["lock", &address, "--", "echo", "third"]);
    third.wait_for_sleep();
    first.finish().assert_done();
    assert_eq!(second.finish().assert_done(), b"second\n");
    assert_eq!(third.finish().assert_done(), b"third\n");
}

#[test]
fn that_the_last_owner_was_killed_is_said() {
    let world = World::new();
    let address = world.address("shm");
    let owner = world.spawn(&["lock", &address, "--", "cat"]);
    eventually("it has the lock", || is_held(&world, &address));
    owner.kill();
    let next = world.run(&["lock", &address, "--", "true"]);
    assert!(next.stderr().contains("its last owner died with it"), "{}", next.stderr());
    assert_eq!(next.code(), Some(0));
    assert_eq!(world.run(&["lock", &address, "--", "true"]).stderr(), "");
}

#[test]
fn a_value_that_may_be_half_changed_is_left_to_those_who_know_it() {
    let world = World::new();
    let address = world.address("shm");
    let state = State::at(world.directory());
    drop(state.create::<Mutex<[u64; 2]>>(name(&address), || [0; 2]).unwrap());
    let owner = world.spawn(&["lock", &address, "--", "cat"]);
    eventually("it has the lock", || is_held(&world, &address));
    owner.kill();
    let text = world.run(&["lock", &address, "--", "true"]).assert_failed(8);
    assert!(text.contains("16 bytes") && text.contains("--repair"), "{text}");
    assert_eq!(world.run(&["lock", &address, "--repair", "--", "true"]).code(), Some(0));
    assert!(state.open::<Lock>(name(&address)).unwrap().try_lock().is_ok());
}

#[test]
fn it_locks_only_what_is_a_lock() {
    let world = World::new();
    let channel = world.channel("shm");
    let text = world.run(&["lock", &channel, "--", "true"]).assert_failed(5);
    assert!(text.contains("kind mpmc, not mutex"), "{text}");
    world.run(&["lock", "mq:x", "--", "true"]).assert_failed(2);
    let lock = world.address("shm");
    world.run(&["lock", &lock, "--", "true"]).assert_done();
    let text = world.run(&["send", &lock, "x"]).assert_failed(2);
    assert!(text.contains("no channel"), "{text}");
    world.done(&["rm", &lock]);
}

#[test]
fn the_demo_of_locks_loses_nothing_but_without_one() {
    let world = World::new();
    let text = String::from_utf8(world.done(&["demo", "sync"])).unwrap();
    let lost = |way: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(way)).unwrap();
        line[12..].split_whitespace().nth(2).unwrap().replace(',', "").parse::<u64>().unwrap()
    };
    for way in ["mutex", "rwlock", "semaphore", "shared", "condvar", "barrier", "event", "once"] {
        assert_eq!(lost(way), 0, "{way}");
    }
    assert!(lost("no lock") > 0 || std::thread::available_parallelism().is_ok_and(|many| many.get() == 1));
    assert_eq!(std::fs::read_dir(world.directory()).unwrap().count(), 0);
}
