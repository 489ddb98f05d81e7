//! Wrong input: each has its exit code and one line that says what to do.

use crate::support::{Running, World, eventually, skip};
use nix::sys::signal::Signal;
use rstest::rstest;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

#[rstest]
#[case::empty("mq:")]
#[case::slash("mq:a/b")]
#[case::dots("shm:..")]
#[case::space("shm:a b")]
#[case::newline("shm:a\nb")]
#[case::dash("shm:-rf")]
#[case::no_scheme("orders")]
#[case::unknown_scheme("tcp:orders")]
#[case::nothing("")]
fn bad_addresses_are_usage_errors(
    #[case] address: &str,
    #[values("create", "send", "recv", "stat", "rm")] command: &str,
) {
    World::new().run(&[command, address]).assert_failed(2);
}

#[rstest]
fn names_of_201_bytes_are_usage_errors(#[values("mq", "shm")] scheme: &str) {
    let line = World::new().run(&["create", &format!("{scheme}:{}", "x".repeat(201))]).assert_failed(2);
    assert!(line.contains("201"), "{line}");
}

#[test]
fn an_unknown_scheme_is_answered_with_the_known_ones() {
    let line = World::new().run(&["recv", "tcp:x"]).assert_failed(2);
    assert!(line.contains("mq:NAME") && line.contains("shm:NAME"), "{line}");
}

#[rstest]
#[case(&["create", "shm:x", "--kind", "spsc", "--depth", "4"])]
#[case(&["create", "shm:x", "--kind", "spsc", "--max-message", "4"])]
#[case(&["create", "shm:x", "--kind", "spsc", "--when-full", "drop-oldest"])]
#[case(&["create", "shm:x", "--depth", "4", "--max-message", "4", "--capacity", "4096"])]
#[case(&["create", "shm:x", "--depth", "0"])]
#[case(&["create", "shm:x", "--when-full", "panic"])]
#[case(&["create", "shm:x", "--max-deliveries", "256"])]
#[case(&["create", "shm:x", "--participants", "0"])]
#[case(&["create", "shm:x", "--publishers", "2"])]
#[case(&["create", "shm:x", "--max-message", "2T"])]
#[case(&["create", "shm:x", "--kind", "carrier-pigeon"])]
#[case(&["create", "shm:x", "--capacity", "0"])]
#[case(&["create", "mq:x", "--capacity", "4096"])]
#[case(&["create", "mq:x", "--kind", "spsc"])]
#[case(&["create", "mq:x", "--depth", "0"])]
#[case(&["create", "mq:x", "--mode", "rw"])]
#[case(&["create", "unix:x", "--max-message", "2T"])]
#[case(&["create", "unix:x", "--max-message", "18446744073709551615"])]
#[case(&["send", "shm:x", "--create", "--priority", "1", "m"])]
#[case(&["send", "mq:x", "--create", "--capacity", "1", "m"])]
#[case(&["recv", "mq:x", "--timeout", "soon"])]
#[case(&["recv", "mq:x", "--framing", "chunks"])]
#[case(&["recv", "shm:x", "--capacity", "4096"])]
#[case(&["send", "mq:x", "--framing", "raw"])]
#[case(&["send", "mq:x", "--create", "--framing", "prefixed", "m"])]
#[case(&["send", "shm:x", "--create", "--framing", "lines", "m"])]
#[case(&["frobnicate"])]
#[case(&[])]
fn options_that_make_no_sense_are_usage_errors(#[case] arguments: &[&str]) {
    let world = World::new();
    world.run(arguments).assert_failed(2);
    assert_eq!(fs::read_dir(world.directory()).unwrap().count(), 0, "something was made of it");
}

#[test]
fn too_high_a_priority_is_a_usage_error() {
    let world = World::new();
    let address = world.channel("mq");
    world.run(&["send", &address, "--priority", "4000000000", "m"]).assert_failed(2);
    assert_eq!(world.queued(&address), 0);
}

#[rstest]
fn a_missing_channel_is_3_and_says_how_to_make_it(
    #[values("mq", "shm")] scheme: &str,
    #[values("send", "recv", "stat")] command: &str,
) {
    let world = World::new();
    let address = world.address(scheme);
    let line = world.run(&[command, &address]).assert_failed(3);
    assert_eq!(line, format!("{address}: no such channel; create it with: ipc create {address}"));
}

#[test]
fn rm_reports_every_failure_in_its_turn_and_ends_as_the_first() {
    let world = World::new();
    let [missing, there, used] = ["mq", "mq", "shm"].map(|scheme| world.address(scheme));
    world.done(&["create", &there, "--depth", "1", "--max-message", "8"]);
    world.done(&["create", &used, "--capacity", "4K"]);
    let receiver = world.spawn(&["recv", &used]);
    eventually("it receives", || world.stat(&used)["participants"] != serde_json::json!([]));
    let ran = world.run(&["rm", &missing, &there, &used]);
    assert_eq!(ran.code(), Some(3));
    let lines: Vec<String> = ran.stderr().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], format!("ipc: {missing}: no such channel; see what there is with: ipc ls"));
    assert!(
        lines[1].starts_with(&format!("ipc: {used}: the channel is in use by its receiver")),
        "{lines:?}"
    );
    assert_eq!(world.run(&["stat", &there]).code(), Some(3));
    receiver.kill();
}

#[test]
fn what_squats_on_a_name_is_no_channel_that_exists_already() {
    let world = World::new();
    fs::write(world.directory().join("x"), b"squatter").unwrap();
    let line = world.run(&["create", "shm:x"]).assert_failed(8);
    assert!(line.contains("remove it"), "{line}");
}

#[rstest]
fn creating_what_exists_is_5(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.run(&["create", &address]).assert_failed(5);
}

#[rstest]
#[case("mq", &["--depth", "3"])]
#[case("mq", &["--max-message", "64"])]
#[case("mq", &["--mode", "660"])]
#[case("shm", &["--capacity", "1M"])]
#[case("shm", &["--mode", "660"])]
fn asking_for_other_settings_than_there_are_is_5(#[case] scheme: &str, #[case] settings: &[&str]) {
    let world = World::new();
    let address = world.channel(scheme);
    for command in ["send", "recv"] {
        world.run(&[&[command, &address, "--create"], settings].concat()).assert_failed(5);
    }
}

#[rstest]
fn asking_for_nothing_in_particular_takes_what_there_is(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "--create", "m"]);
    assert_eq!(world.done(&["recv", &address, "--create", "--drain"]), b"m\n");
}

#[rstest]
fn a_message_one_byte_too_long_is_1_and_named(
    #[values("mq", "shm")] scheme: &str,
    #[values(true, false)] as_argument: bool,
) {
    let world = World::new();
    let address = world.channel(scheme);
    let max = world.stat(&address)["max_message_len_bytes"].as_u64().unwrap() as usize;
    let (longest, too_long) = ("x".repeat(max), "y".repeat(max + 1));
    let ran = if as_argument {
        world.run(&["send", &address, "a", &too_long, "b"])
    } else {
        world.run_with(&["send", &address], format!("a\n{too_long}\nb\n").as_bytes())
    };
    let line = ran.assert_failed(1);
    assert!(line.contains(if as_argument { "message 2" } else { "line 2" }), "{line}");
    assert!(line.contains(&max.to_string()), "{line}");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"a\n", "the earlier ones are sent");
    world.done(&["send", &address, &longest]);
    assert_eq!(world.done(&["recv", &address, "--drain", "--framing", "raw"]), longest.as_bytes());
}

#[rstest]
#[case::too_long(b"\x01\0\0\0a\xff\xff\xff\xffb", "record 2")]
#[case::cut_short(b"\x01\0\0\0a\x05\0\0\0bc", "record 2")]
#[case::cut_short_in_the_length(b"\x01\0\0\0a\x05\0", "record 2")]
fn a_wrong_record_is_1_and_named(
    #[values("mq", "shm")] scheme: &str,
    #[case] input: &[u8],
    #[case] named: &str,
) {
    let world = World::new();
    let address = world.channel(scheme);
    let line = world.run_with(&["send", &address, "--framing", "prefixed"], input).assert_failed(1);
    assert!(line.contains(named), "{line}");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"a\n");
}

#[test]
fn an_endless_line_is_refused_without_reading_it_all() {
    let world = World::new();
    let address = world.channel("shm");
    let mut sender = Running::start(
        world.command(&["send", &address]).stdin(fs::File::open("/dev/zero").map(Stdio::from).unwrap()),
    );
    assert!(sender.stdin.take().is_none());
    let line = sender.finish().assert_failed(1);
    assert!(line.contains("line 1"), "{line}");
}

#[rstest]
fn a_full_channel_is_4(#[values("mq", "shm")] scheme: &str, #[values("0", "20ms")] timeout: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let line = "x".repeat(100) + "\n";
    let ran = world.run_with(&["send", &address, "--timeout", timeout], line.repeat(10_000).as_bytes());
    ran.assert_failed(4);
    let sent = world.queued(&address);
    assert!(sent > 0);
    assert_eq!(world.done(&["recv", &address, "--drain"]).len() as u64, sent * line.len() as u64);
}

#[rstest]
fn an_empty_channel_is_4(#[values("mq", "shm")] scheme: &str, #[values("0", "20ms")] timeout: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.run(&["recv", &address, "--timeout", timeout]).assert_failed(4);
    world.done(&["send", &address, "a", "b"]);
    let ran = world.run(&["recv", &address, "--timeout", timeout]);
    assert_eq!(ran.stdout(), b"a\nb\n");
    ran.assert_failed(4);
}

#[rstest]
#[case("send", "sender")]
#[case("recv", "receiver")]
fn a_second_one_in_a_role_is_6(#[case] command: &str, #[case] role: &str) {
    let world = World::new();
    let address = world.ring();
    let first = world.spawn(&[command, &address]);
    crate::support::eventually(role, || {
        let participants = world.stat(&address)["participants"].clone();
        participants.as_array().unwrap().iter().any(|one| one["role"] == role && one["alive"] == true)
    });
    let line = world.run(&[command, &address]).assert_failed(6);
    assert!(line.contains(role), "{line}");
    first.kill();
    let mut next = world.spawn(&[command, &address]);
    next.wait_for_signals_blocked();
    drop(next.stdin.take());
}

/// How many take part in the channel.
fn crowd(world: &World, address: &str) -> usize {
    world.stat(address)["participants"].as_array().unwrap().len()
}

#[test]
fn a_channel_whose_places_are_all_taken_is_6_and_one_is_waited_for_as_long_as_one_says() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--participants", "2"]);
    let receivers = [(); 2].map(|()| world.spawn(&["recv", &address]));
    eventually("both receive", || crowd(&world, &address) == 2);
    for arguments in [&["send", &address, "x"][..], &["recv", &address], &["recv", &address, "--drain"]] {
        for patience in [&[][..], &["--timeout", "20ms"]] {
            let line = world.run(&[arguments, patience].concat()).assert_failed(6);
            assert!(line.contains("all 2 places") && line.contains("ipc stat"), "{line}");
        }
    }
    let given_up = world.spawn(&["send", &address, "--timeout", "1h", "x"]);
    given_up.wait_for_sleep();
    given_up.signal(Signal::SIGTERM);
    assert_eq!(given_up.finish().code(), Some(143));
    let sender = world.spawn(&["send", &address, "--timeout", "1h", "a"]);
    sender.wait_for_sleep();
    let [one, other] = receivers;
    one.kill();
    sender.finish().assert_done();
    eventually("it is received", || world.queued(&address) == 0);
    other.signal(Signal::SIGINT);
    assert_eq!(other.finish().stdout(), b"a\n");
}

#[test]
fn a_service_whose_places_are_all_taken_is_6_and_one_is_waited_for_as_long_as_one_says() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "rpc", "--participants", "2"]);
    let servers = [(); 2].map(|()| world.spawn(&["serve", &address, "--", "cat"]));
    eventually("both serve", || crowd(&world, &address) == 2);
    for arguments in [&["call", &address, "x"][..], &["call", &address, "--timeout", "20ms", "x"]] {
        let line = world.run(arguments).assert_failed(6);
        assert!(line.contains("all 2 places") && line.contains("ipc stat"), "{line}");
    }
    let third = ["serve", &address, "--timeout", "20ms", "--", "cat"];
    world.run(&third).assert_failed(6);
    let caller = world.spawn(&["call", &address, "--timeout", "1h", "a"]);
    caller.wait_for_sleep();
    let [one, other] = servers;
    one.kill();
    assert_eq!(caller.finish().assert_done(), b"a\n");
    other.kill();
}

#[rstest]
#[case::empty("empty")]
#[case::truncated("truncated")]
#[case::random("random")]
#[case::directory("directory")]
#[case::symlink("symlink")]
#[case::fifo("fifo")]
fn a_damaged_segment_is_8(#[case] damage: &str, #[values("send", "recv", "stat")] command: &str) {
    let world = World::new();
    damage_segment(world.directory(), damage, &world);
    world.run(&[command, "shm:x"]).assert_failed(8);
    if command != "stat" {
        world.run(&[command, "shm:x", "--create"]).assert_failed(8);
    }
}

fn damage_segment(directory: &Path, damage: &str, world: &World) {
    let path = directory.join("x");
    world.done(&["create", "shm:x"]);
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    match damage {
        "empty" => fs::write(&path, b"").unwrap(),
        "truncated" => fs::write(&path, &whole[..whole.len() / 2]).unwrap(),
        "random" => {
            let noise = (0..whole.len() as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8);
            fs::write(&path, noise.collect::<Vec<_>>()).unwrap();
        }
        "directory" => fs::create_dir(&path).unwrap(),
        "symlink" => {
            fs::write(directory.join("elsewhere"), &whole).unwrap();
            symlink("elsewhere", &path).unwrap();
        }
        "fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        other => unreachable!("{other}"),
    }
}

/// As another user if this one is root, else by taking the permission away.
#[rstest]
fn what_is_not_permitted_is_7(#[values("mq", "shm")] scheme: &str, #[values("send", "recv")] command: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let arguments = [command, &*address, "--timeout", "0"];
    let mut asked = if nix::unistd::geteuid().is_root() {
        world.command_as(65534, &arguments)
    } else {
        if let Some(name) = address.strip_prefix("shm:") {
            fs::set_permissions(world.directory().join(name), fs::Permissions::from_mode(0o000)).unwrap();
        } else {
            world.done(&["rm", &address]);
            world.done(&["create", &address, "--depth", "4", "--max-message", "128", "--mode", "000"]);
        }
        world.command(&arguments)
    };
    Running::start(asked.stdin(Stdio::null())).finish().assert_failed(7);
}

/// As another user if this one is root.
#[test]
fn a_look_that_is_not_permitted_is_7() {
    let world = World::new();
    let ran = world.run(&["peek", &world.channel("sysv")]);
    if ran.stderr().contains("CONFIG_CHECKPOINT_RESTORE") {
        return skip(&ran.stderr());
    }
    let other = World::new();
    let run = |arguments: &[&str]| match nix::unistd::geteuid().is_root() {
        true => {
            let mut asked = other.command_as(65534, arguments);
            fs::set_permissions(other.directory(), fs::Permissions::from_mode(0o1777)).unwrap();
            Running::start(asked.stdin(Stdio::null())).finish()
        }
        false => other.run(arguments),
    };
    let address = other.address("sysv");
    run(&["create", &address, "--mode", "222"]).assert_done();
    let looked = run(&["peek", &address]);
    run(&["rm", &address]).assert_done();
    let line = looked.assert_failed(7);
    assert!(line.contains("Permission denied"), "{line}");
}

#[test]
fn a_depth_beyond_the_kernels_limit_is_1_and_names_it() {
    let world = World::new();
    let line = world.run(&["create", &world.address("mq"), "--depth", "100000"]).assert_failed(1);
    assert!(line.contains("msg_max") || line.contains("65536"), "{line}");
}

#[test]
fn queues_beyond_the_users_limit_are_1_and_name_it() {
    let world = World::new();
    let address = world.address("mq");
    let script = "ulimit -q 1000 && exec \"$0\" create \"$1\"";
    let mut limited = Command::new("bash");
    limited.args(["-c", script, env!("CARGO_BIN_EXE_ipc"), &address]).stdin(Stdio::null());
    let line = Running::start(&mut limited).finish().assert_failed(1);
    assert!(line.contains("RLIMIT_MSGQUEUE"), "{line}");
}

#[test]
fn a_full_memory_file_system_is_1() {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return skip("there is no /dev/shm");
    }
    let world = World::within(memory);
    let line = world.run(&["create", "shm:x", "--capacity", "1024G"]).assert_failed(1);
    assert!(line.contains("free"), "{line}");
    assert_eq!(fs::read_dir(world.directory()).unwrap().count(), 0);
}

#[test]
fn a_missing_directory_is_one_line() {
    let world = World::new();
    let mut asked = world.command(&["create", "shm:x"]);
    let ran = Running::start(asked.env("IPC_DIR", world.directory().join("missing"))).finish();
    assert_ne!(ran.code(), Some(0));
    ran.assert_failed(ran.code().unwrap());
}

#[test]
fn unreadable_input_is_1() {
    let world = World::new();
    let address = world.channel("shm");
    let directory = fs::File::open(world.directory()).unwrap();
    for framing in ["lines", "chunks"] {
        let mut asked = world.command(&["send", &address, "--framing", framing]);
        let line = Running::start(asked.stdin(directory.try_clone().unwrap())).finish().assert_failed(1);
        assert!(line.contains("standard input"), "{line}");
    }
}
