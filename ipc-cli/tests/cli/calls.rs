//! `call` and `serve`.

use crate::support::{Running, World, eventually, pipe};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::Signal,
};
use rstest::rstest;
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
};

fn service(world: &World) -> String {
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "rpc"]);
    address
}

#[test]
fn a_command_answers_calls() {
    let world = World::new();
    let address = service(&world);
    let server = world.spawn(&["serve", &address, "--", "tr", "a-z", "A-Z"]);
    assert_eq!(world.done(&["call", &address, "one", "two"]), b"ONE\nTWO\n");
    assert_eq!(world.done_with(&["call", &address, "--raw"], b"from input"), b"FROM INPUT");
    server.kill();
}

#[test]
fn a_call_that_nobody_answers_times_out() {
    let world = World::new();
    let address = service(&world);
    let line = world.run(&["call", &address, "--timeout", "50ms", "x"]).assert_failed(4);
    assert!(line.contains("request 1"), "{line}");
}

#[test]
fn a_command_that_fails_declines_and_the_server_goes_on() {
    let world = World::new();
    let address = service(&world);
    let server =
        world.spawn(&["serve", &address, "--", "sh", "-c", "read line; test $line = good && echo yes"]);
    let line = world.run(&["call", &address, "bad\n"]).assert_failed(1);
    assert!(line.contains("declined"), "{line}");
    assert_eq!(world.done(&["call", &address, "--raw", "good\n"]), b"yes\n");
    server.kill();
}

#[rstest]
#[case::by_its_path("/none")]
#[case::by_its_name("none-such-anywhere")]
fn a_command_that_there_is_not_serves_nobody(#[case] command: &str) {
    let world = World::new();
    let address = service(&world);
    let caller = world.spawn(&["call", &address, "a"]);
    eventually("it has called", || world.queued(&address) == 1);
    let line = world.run(&["serve", &address, "--", command]).assert_failed(1);
    assert!(line.starts_with(command) && line.contains("No such file"), "{line}");
    world.done(&["serve", &address, "--count", "1", "--", "cat"]);
    assert_eq!(caller.finish().assert_done(), b"a\n");
}

#[rstest]
fn a_command_that_may_not_be_run_serves_nobody(#[values(true, false)] by_its_path: bool) {
    let world = World::new();
    let address = service(&world);
    let (name, path) = ("a-command", world.directory().join("bin"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join(name), "#!/bin/sh\nexec cat\n").unwrap();
    let caller = world.spawn(&["call", &address, "a"]);
    eventually("it has called", || world.queued(&address) == 1);
    let command = if by_its_path { path.join(name) } else { name.into() };
    let command = command.to_str().unwrap();
    let serve = || {
        let mut serve = world.command(&["serve", &address, "--count", "1", "--", command]);
        let directories = format!("{}:{}", path.display(), std::env::var("PATH").unwrap());
        Running::start(serve.env("PATH", directories).stdin(Stdio::null())).finish()
    };
    let line = serve().assert_failed(1);
    assert!(line.starts_with(command) && line.contains("Permission denied"), "{line}");
    assert_eq!(world.queued(&address), 1, "it waits for one who can answer");
    fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    serve().assert_done();
    assert_eq!(caller.finish().assert_done(), b"a\n");
}

/// What it leaves behind has its output open; it is the command that answers.
#[test]
fn a_command_that_leaves_another_one_running_has_answered() {
    let world = World::new();
    let address = service(&world);
    let script = "cat; sleep 1000 & echo $!";
    let server = world.spawn(&["serve", &address, "--", "sh", "-c", script]);
    let request = "x".repeat(5000);
    let response = String::from_utf8(world.done(&["call", &address, "--timeout", "50s", &request])).unwrap();
    let left: i32 = response.trim_start_matches('x').trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(response.starts_with(&request));
    server.kill();
}

#[test]
fn a_command_answers_where_the_ends_of_children_are_ignored() {
    let world = World::new();
    let address = service(&world);
    let arguments = ["serve", &address, "--count", "1", "--", "cat"];
    let server = Running::start(&mut world.command_ignoring(Signal::SIGCHLD, &arguments));
    assert_eq!(world.done(&["call", &address, "a"]), b"a\n");
    server.finish().assert_done();
}

/// Its output is closed before it reads, so that its input is all that is left to wait for.
#[rstest]
#[case::a_few_bytes(6)]
#[case::more_than_a_pipe_takes(500_000)]
fn a_command_that_prints_nothing_gets_all_of_its_input(#[case] len: usize) {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "rpc", "--depth", "4", "--max-message", "1M"]);
    let script = "exec >/dev/null; sleep 0.05; cat > \"$IPC_DIR/-got\"";
    let server = world.spawn(&["serve", &address, "--", "sh", "-c", script]);
    for round in 0..20_u8 {
        let request = vec![b'a' + round; len];
        assert_eq!(world.done_with(&["call", &address, "--raw"], &request), b"");
        let got = fs::read(world.directory().join("-got")).unwrap();
        assert!(got == request, "{} of {len} bytes in round {round}", got.len());
    }
    server.kill();
}

#[test]
fn a_command_that_prints_without_end_declines_and_the_server_goes_on() {
    let world = World::new();
    let address = service(&world);
    let script = "read line; test $line = good && echo yes || exec yes";
    let server = world.spawn(&["serve", &address, "--count", "2", "--", "sh", "-c", script]);
    let line = world.run(&["call", &address, "bad\n"]).assert_failed(1);
    assert!(line.contains("declined"), "{line}");
    assert_eq!(world.done(&["call", &address, "--raw", "good\n"]), b"yes\n");
    let ran = server.finish();
    assert_eq!(ran.code(), Some(0));
    assert!(ran.stderr().contains("printed more than"), "{}", ran.stderr());
}

#[test]
fn the_death_of_a_server_is_told_to_its_caller() {
    let world = World::new();
    let address = service(&world);
    let server = world.spawn(&["serve", &address, "--", "sleep", "30"]);
    let caller = world.spawn(&["call", &address, "x"]);
    eventually("the server has the request", || {
        let participants = world.stat(&address)["participants"].clone();
        participants.as_array().unwrap().iter().any(|one| one["role"] == "server" && one["held"] == 1)
    });
    server.kill();
    let line = caller.finish().assert_failed(1);
    assert!(line.contains("server died"), "{line}");
}

#[test]
fn what_serves_only_some_requests_ends_after_them() {
    let world = World::new();
    let address = service(&world);
    let server = world.spawn(&["serve", &address, "--count", "2", "--", "cat"]);
    assert_eq!(world.done(&["call", &address, "a", "b"]), b"a\nb\n");
    assert_eq!(server.finish().code(), Some(0));
}

#[test]
fn calls_and_messages_are_not_mixed_up() {
    let world = World::new();
    let (rpc, queue) = (service(&world), world.channel("shm"));
    assert!(world.run(&["send", &rpc, "x"]).assert_failed(1).contains("clients and servers"));
    for command in [&["call", &queue, "x"][..], &["serve", &queue, "--", "cat"]] {
        let line = world.run(command).assert_failed(5);
        assert!(line.contains("kind mpmc, not rpc: use it as what it is"), "{line}");
    }
    world.run(&["call", "mq:x", "x"]).assert_failed(2);
    world.run(&["serve", &rpc]).assert_failed(2);
    world.run(&["serve", &rpc, "--count", "1", "--timeout", "1ms", "--", "cat"]).assert_failed(4);
}

/// A channel that is made without its kind is none for calls.
#[test]
fn who_finds_no_service_is_told_how_to_make_one() {
    let world = World::new();
    let address = world.address("shm");
    for command in [&["call", &address, "x"][..], &["serve", &address, "--", "cat"]] {
        let line = world.run(command).assert_failed(3);
        assert!(line.contains(&format!("ipc create {address} --kind rpc")), "{line}");
    }
}

/// Counts what it serves, and gives it back.
fn counting(world: &World, address: &str) -> Running {
    let script = "echo served >> \"$IPC_DIR/-served\"; exec cat";
    world.spawn(&["serve", address, "--", "sh", "-c", script])
}

fn served(world: &World) -> usize {
    fs::read_to_string(world.directory().join("-served")).map_or(0, |text| text.lines().count())
}

/// What nobody reads isn't asked for: a request may be an order.
#[test]
fn who_has_no_reader_any_more_makes_no_other_request() {
    let world = World::new();
    let address = service(&world);
    let server = counting(&world, &address);
    let (output, theirs) = pipe();
    drop(output);
    let mut call = world.command(&["call", &address, "a", "b", "c"]);
    let ran = Running::collecting(call.stdin(Stdio::null()).stdout(theirs)).finish();
    assert_eq!(served(&world), 1);
    let line = ran.assert_failed(1);
    assert!(line.contains("request 2"), "{line}");
    // Nothing is left to be asked for.
    let (output, theirs) = pipe();
    drop(output);
    let mut call = world.command(&["call", &address, "a"]);
    Running::collecting(call.stdin(Stdio::null()).stdout(theirs)).finish().assert_done();
    assert_eq!(served(&world), 2);
    server.kill();
}

#[test]
fn a_response_waits_for_room_in_an_output_that_does_not_block() {
    let world = World::new();
    let address = service(&world);
    let (mut output, mut theirs) = pipe();
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut filled = 0;
    while let Ok(len) = theirs.write(&[b'.'; 4096]) {
        filled += len;
    }
    let server = world.spawn(&["serve", &address, "--count", "1", "--", "cat"]);
    let mut call = world.command(&["call", &address, "hello"]);
    let caller = Running::collecting(call.stdin(Stdio::null()).stdout(theirs));
    drop(call);
    server.finish().assert_done();
    caller.wait_for_rest();
    let mut said = Vec::new();
    output.read_to_end(&mut said).unwrap();
    caller.finish().assert_done();
    assert_eq!(&said[filled..], b"hello\n");
}
