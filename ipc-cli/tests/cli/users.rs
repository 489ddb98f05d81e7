//! Several users on one channel: who may come in says its maker, whom to believe says each of
//! the others.

use crate::support::{Ran, Running, World, skip};
use nix::unistd::geteuid;
use rstest::rstest;
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

const OTHER: u32 = 65_533;
const THIRD: u32 = 65_534;

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        skip("only root can act as two users");
    }
    is_root
}

#[track_caller]
fn assert_refused(ran: &Ran, why: &str) {
    let line = ran.assert_failed(7);
    assert!(line.contains(why), "{line}");
}

#[test]
fn a_channel_of_a_group_is_used_by_its_members_that_trust_its_owner() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--mode", "660", "--group", &OTHER.to_string()]);
    let send = |uid, trust: &[&str]| world.run_as(uid, &[&["send", &address], trust, &["hello"]].concat());
    assert_refused(&send(OTHER, &[]), "told to trust");
    assert_refused(&send(OTHER, &["--trust-uid", "1"]), "told to trust");
    assert_refused(&send(THIRD, &["--trust-uid", "0"]), "group 65533");
    send(OTHER, &["--trust-uid", "1,0"]).assert_done();
    let stat = |trust: &[&str]| world.run_as(OTHER, &[&["stat", &address, "--json"], trust].concat());
    assert_refused(&stat(&[]), "told to trust");
    let stat: serde_json::Value = serde_json::from_slice(&stat(&["--trust-uid", "0"]).assert_done()).unwrap();
    assert_eq!((&stat["uid"], &stat["mode"]), (&0.into(), &"0660".into()));
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"hello\n");
    world.done(&["send", &address, "back"]);
    let received = world.run_as(OTHER, &["recv", &address, "--drain", "--trust-uid", "0"]);
    assert_eq!(received.assert_done(), b"back\n");
}

#[test]
fn a_service_answers_the_members_of_its_group() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "rpc", "--mode", "660", "--group", &OTHER.to_string()]);
    let server = world.spawn(&["serve", &address, "--count", "1", "--", "cat"]);
    assert_refused(&world.run_as(OTHER, &["call", &address, "hello"]), "told to trust");
    let called = world.run_as(OTHER, &["call", &address, "--trust-uid", "0", "hello"]);
    assert_eq!(called.assert_done(), b"hello\n");
    server.finish().assert_done();
}

#[test]
fn a_socket_takes_the_messages_of_those_on_its_list_who_trust_its_owner() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (open, own) = (world.address("unix"), world.address("unix"));
    world.done(&["create", &open, "--mode", "666", "--allow-uid", &format!("0,{OTHER}")]);
    world.done(&["create", &own, "--mode", "666"]);
    fs::set_permissions(world.directory().join(".mq"), Permissions::from_mode(0o711)).unwrap();
    let receiver = world.spawn(&["recv", &open, "--count", "2"]);
    let send = |uid, address: &str, trust: &[&str]| {
        world.run_as(uid, &[&["send", address, "--timeout", "30s"], trust, &["hello"]].concat())
    };
    assert_refused(&send(OTHER, &open, &[]), "belongs to user 0");
    assert_refused(&send(THIRD, &open, &["--trust-uid", "0"]), "takes messages of users [0, 65533]");
    assert_refused(&send(OTHER, &own, &["--trust-uid", "0"]), "takes messages of users [0]");
    send(OTHER, &open, &["--trust-uid", "0"]).assert_done();
    world.done(&["send", &open, "and ours"]);
    assert_eq!(receiver.finish().assert_done(), b"hello\nand ours\n");
    // Who makes it if it is missing may ask for the same.
    let again = ["recv", &open, "--create", "--timeout", "0", "--allow-uid"];
    world.run(&[&again[..], &["0,65533"]].concat()).assert_failed(4);
    world.run(&[&again[..], &["0"]].concat()).assert_failed(5);
}

/// To put a message back is to send it.
#[test]
fn who_may_only_read_is_told_why_a_message_is_lost() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let address = world.address("mq");
    world.done(&["create", &address, "--mode", "644", "--depth", "2", "--max-message", "64"]);
    world.done(&["send", &address, "printed", "lost"]);
    let command = world.run_as(OTHER, &["recv", &address, "--count", "1"]);
    assert_eq!(command.assert_done(), b"printed\n");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = world.command_as(OTHER, &["recv", &address, "--count", "1"]);
    let line = Running::collecting(command.stdin(Stdio::null()).stdout(full)).finish().assert_failed(1);
    assert!(line.contains("may not send") && line.contains("lost"), "{line}");
}

#[test]
fn a_queue_of_another_user_is_used_by_those_that_trust_it() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (theirs, roots) = (world.address("mq"), world.address("mq"));
    let make = ["--mode", "666", "--depth", "2", "--max-message", "64"];
    world.run_as(OTHER, &[&["create", &*theirs], &make[..]].concat()).assert_done();
    world.done(&[&["create", &*roots], &make[..]].concat());
    let send = |options: &[&str]| world.run_as(THIRD, &[&["send", &*theirs], options, &["secret"]].concat());
    for options in [&[][..], &["--create"], &["--trust-uid", "0"]] {
        assert_refused(&send(options), "belongs to user 65533");
    }
    assert_eq!(world.queued(&theirs), 0);
    send(&["--trust-uid", &OTHER.to_string()]).assert_done();
    assert_eq!(world.run_as(OTHER, &["recv", &theirs, "--drain"]).assert_done(), b"secret\n");
    world.run_as(THIRD, &["send", &roots, "to root"]).assert_done();
}

#[rstest]
#[case(&["create", "shm:x", "--allow-uid", "0"], "--mode")]
#[case(&["create", "mq:x", "--allow-uid", "0"], "--mode")]
#[case(&["create", "mq:x", "--group", "0"], "leave it out")]
#[case(&["create", "unix:x", "--group", "0"], "leave it out")]
#[case(&["create", "shm:x", "--group", "wheel"], "getent group NAME")]
#[case(&["create", "unix:x", "--allow-uid", "0,-1"], "write its number")]
#[case(&["recv", "shm:x", "--trust-uid", "root"], "id NAME")]
#[case(&["recv", "sysv:x", "--trust-uid", "0"], "unix or shm")]
fn what_a_scheme_has_not_is_a_usage_error_that_says_what_it_has(
    #[case] arguments: &[&str],
    #[case] instead: &str,
) {
    let world = World::new();
    let line = world.run(arguments).assert_failed(2);
    assert!(line.contains(instead), "{line}");
    assert_eq!(fs::read_dir(world.directory()).unwrap().count(), 0, "something was made of it");
}
