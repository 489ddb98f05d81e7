//! A standard stream that is closed when a command is started: Rust's runtime opens `/dev/null` in
//! its place, which isn't to be taken for somebody who reads, or for an input that is empty.

use crate::support::{Ran, Running, World, eventually};
use rstest::rstest;
use std::process::{Command, Stdio};

/// Runs to the end, with what a shell makes of `redirection`.
fn run(world: &World, redirection: &str, arguments: &[&str]) -> Ran {
    let script = format!("exec \"$0\" \"$@\" {redirection}");
    let mut asked = Command::new("sh");
    asked.args(["-c", &script, env!("CARGO_BIN_EXE_ipc")]).args(arguments);
    Running::start(asked.env("IPC_DIR", world.directory()).stdin(Stdio::null())).finish()
}

#[rstest]
#[case::drained("--drain")]
#[case::awaited("--until-end")]
fn nothing_is_received_that_can_not_be_printed(
    #[values("mq", "sysv", "shm")] scheme: &str,
    #[case] option: &str,
) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done_with(&["send", &address], b"a\nb\nc\n");
    let line = run(&world, ">&-", &["recv", &address, option]).assert_failed(1);
    assert_eq!(line, "standard output is closed: redirect it, to /dev/null if nothing is to be kept");
    assert_eq!(world.queued(&address), 3);
    run(&world, ">/dev/null", &["recv", &address, "--drain"]).assert_done();
    assert_eq!(world.queued(&address), 0, "that is somebody's wish");
}

#[test]
fn nobody_connects_to_a_socket_who_can_not_print() {
    let world = World::new();
    let address = world.channel("unix");
    let sender = world.spawn(&["send", &address, "a"]);
    sender.wait_for_sleep();
    run(&world, ">&-", &["recv", &address]).assert_failed(1);
    assert_eq!(world.done(&["recv", &address, "--count", "1"]), b"a\n");
    sender.finish().assert_done();
}

#[test]
fn what_is_closed_is_closed_for_the_command_of_a_lock() {
    let world = World::new();
    let address = world.channel("mq");
    world.done(&["send", &address, "a"]);
    let ipc = env!("CARGO_BIN_EXE_ipc");
    let arguments = ["lock", &world.address("shm"), "--", ipc, "recv", &address, "--drain"];
    let line = run(&world, ">&-", &arguments).assert_failed(1);
    assert!(line.starts_with("standard output is closed"), "{line}");
    assert_eq!(world.queued(&address), 1);
}

/// Their pipes take the places of what is closed.
#[test]
fn a_server_needs_no_streams() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "rpc"]);
    let caller = world.spawn(&["call", &address, "a"]);
    run(&world, "<&- >&-", &["serve", &address, "--count", "1", "--", "cat"]).assert_done();
    assert_eq!(caller.finish().assert_done(), b"a\n");
}

#[rstest]
#[case::peek("peek")]
#[case::stat("stat")]
#[case::ls("ls")]
#[case::help("--help")]
#[case::demo("demo")]
fn what_is_shown_is_shown_to_somebody(#[case] command: &str) {
    let world = World::new();
    let address = world.channel("sysv");
    let arguments = if matches!(command, "peek" | "stat") { vec![command, &address] } else { vec![command] };
    let line = run(&world, ">&-", &arguments).assert_failed(1);
    assert!(line.starts_with("standard output is closed"), "{line}");
}

#[rstest]
fn an_input_that_is_not_there_has_no_end(
    #[values("mq", "sysv", "unix", "shm")] scheme: &str,
    #[values("lines", "chunks", "prefixed")] framing: &str,
) {
    let world = World::new();
    let address = world.channel(scheme);
    let receiver = world.spawn(&["recv", &address, "--until-end"]);
    let line = run(&world, "<&-", &["send", &address, "--end", "--framing", framing]).assert_failed(1);
    assert_eq!(line, "standard input is closed: redirect it, from /dev/null if there is nothing to read");
    run(&world, "<&-", &["send", &address, "--end", "a"]).assert_done();
    assert_eq!(receiver.finish().assert_done(), b"a\n");
}

#[test]
fn no_call_is_made_whose_request_or_response_has_no_place() {
    let world = World::new();
    let address = world.address("shm");
    let server =
        world.spawn(&["serve", &address, "--create", "--kind", "rpc", "--", "tee", "-a", "/dev/stderr"]);
    eventually("it serves", || world.run(&["stat", &address]).code() == Some(0));
    run(&world, ">&-", &["call", &address, "unheard"]).assert_failed(1);
    run(&world, "<&-", &["call", &address]).assert_failed(1);
    assert_eq!(run(&world, "<&-", &["call", &address, "heard"]).assert_done(), b"heard\n");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.finish().stderr(), "heard");
}
