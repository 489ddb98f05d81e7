//! Nobody hears what is said on standard error: everything else is as ever.

use crate::support::{Running, World, eventually, numbered};
use ipc_shm::sync::{Lock, State};
use nix::sys::signal::Signal;
use rstest::rstest;
use std::process::Stdio;

#[rstest]
#[case::no_command(&[], 2)]
#[case::usage(&["recv", "no-address"], 2)]
#[case::none_such(&["recv", "mq:cli-test-none"], 3)]
#[case::none_to_send_to(&["send", "shm:none", "x"], 3)]
#[case::none_to_look_at(&["peek", "sysv:none"], 3)]
#[case::none_to_call(&["call", "shm:none", "x"], 3)]
#[case::none_to_serve(&["serve", "shm:none", "--", "cat"], 3)]
#[case::none_to_remove(&["rm", "shm:none"], 3)]
#[case::nothing_came(&["recv", "ADDR", "--timeout", "0"], 4)]
#[case::exists(&["create", "ADDR"], 5)]
#[case::no_lock(&["lock", "ADDR", "--", "true"], 5)]
#[case::no_such_command(&["lock", "shm:new", "--", "/none"], 1)]
fn failures_have_their_codes(#[case] arguments: &[&str], #[case] code: i32) {
    let world = World::new();
    let address = world.channel("shm");
    let arguments: Vec<_> =
        arguments.iter().map(|&argument| if argument == "ADDR" { &*address } else { argument }).collect();
    assert_eq!(world.run_unheard(&arguments).code(), Some(code));
}

/// That the last owner died is told to nobody, and the lock is none the worse for it.
#[test]
fn a_lock_whose_owner_died_is_as_good_as_before() {
    let world = World::new();
    let address = world.address("shm");
    let owner = world.spawn(&["lock", &address, "--", "cat"]);
    eventually("it has the lock", || {
        world.run(&["stat", &address]).code() == Some(0) && world.stat(&address)["condition"] == "held"
    });
    owner.kill();
    assert_eq!(world.run_unheard(&["lock", &address, "--", "sh", "-c", "exit 7"]).code(), Some(7));
    assert_eq!(world.done(&["lock", &address, "--", "echo", "mine"]), b"mine\n");
    let name = address.strip_prefix("shm:").unwrap();
    assert!(State::at(world.directory()).open::<Lock>(name).unwrap().try_lock().is_ok());
}

#[test]
fn a_server_that_declines_goes_on() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "rpc", "--max-message", "64"]);
    let script = "read line; case $line in bad) exit 1;; long) printf %100s;; *) echo yes;; esac";
    let mut asked = world.command(&["serve", &address, "--", "sh", "-c", script]);
    let server = Running::unheard(asked.stdin(Stdio::null()));
    for request in ["bad\n", "long\n"] {
        let line = world.run(&["call", &address, request]).assert_failed(1);
        assert!(line.contains("declined"), "{line}");
    }
    assert_eq!(world.done(&["call", &address, "--raw", "good\n"]), b"yes\n");
    server.kill();
}

#[test]
fn a_subscriber_that_missed_something_goes_on() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "broadcast", "--capacity", "4K"]);
    let mut asked = world.command(&["recv", &address, "--until-end"]);
    let receiver = Running::unheard(asked.stdin(Stdio::null()));
    eventually("it has subscribed", || !world.stat(&address)["participants"].as_array().unwrap().is_empty());
    receiver.signal(Signal::SIGSTOP);
    world.done_with(&["send", &address, "--end"], &numbered(0..10_000));
    receiver.signal(Signal::SIGCONT);
    let ran = receiver.finish();
    assert_eq!(ran.code(), Some(0));
    assert!(ran.stdout().ends_with(b"\nline 9999\n") && ran.stdout().len() < 10_000);
}
