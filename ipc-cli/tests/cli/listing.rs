//! `stat`, `ls` and `rm`.

use crate::support::{World, eventually};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;

const KEYS: [&str; 15] = [
    "address",
    "capacity_bytes",
    "condition",
    "depth",
    "key",
    "kind",
    "lost_messages",
    "max_message_len_bytes",
    "mode",
    "participants",
    "path",
    "queued_messages",
    "redelivered_messages",
    "sent_messages",
    "uid",
];

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn stat_tells_a_queue() {
    let world = World::new();
    let address = world.address("mq");
    world.done(&["create", &address, "--depth", "3", "--max-message", "64", "--mode", "0640"]);
    world.done(&["send", &address, "a", "b"]);
    let stat = world.stat(&address);
    assert_eq!(keys(&stat), KEYS);
    assert_eq!(stat["address"], address);
    assert_eq!(stat["depth"], 3);
    assert_eq!(stat["max_message_len_bytes"], 64);
    assert_eq!(stat["queued_messages"], 2);
    assert_eq!(stat["mode"], "0640");
    assert_eq!(stat["uid"], nix::unistd::geteuid().as_raw());
    assert_eq!(stat["participants"], json!([]));
}

#[test]
fn stat_tells_a_segment_and_who_uses_it() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--capacity", "64K", "--kind", "spsc", "--mode", "660"]);
    let stat = world.stat(&address);
    assert_eq!(keys(&stat), KEYS);
    assert_eq!(stat["kind"], "spsc");
    assert_eq!(stat["capacity_bytes"], 65536);
    assert_eq!(stat["depth"], Value::Null);
    assert_eq!(stat["mode"], "0660");
    assert!(fs::exists(stat["path"].as_str().unwrap()).unwrap());
    let receiver = world.spawn(&["recv", &address]);
    eventually("the receiver is listed", || {
        let participants = world.stat(&address)["participants"].clone();
        participants.as_array().unwrap().iter().any(|one| {
            assert_eq!(
                keys(one),
                ["alive", "held", "held_since_unix_ns", "lag", "lost", "pid", "position", "role"]
            );
            one["role"] == "receiver" && one["alive"] == true
        })
    });
    receiver.kill();
}

#[test]
fn stat_tells_a_work_queue_and_what_it_lost() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--depth", "2", "--max-message", "8", "--when-full", "drop-oldest"]);
    world.done(&["send", &address, "a", "b", "c"]);
    let stat = world.stat(&address);
    assert_eq!(stat["kind"], "mpmc");
    assert_eq!(stat["depth"], 2);
    assert_eq!(stat["max_message_len_bytes"], 8);
    assert_eq!(stat["queued_messages"], 2);
    assert_eq!(stat["sent_messages"], 3);
    assert_eq!(stat["lost_messages"], 1);
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"b\nc\n");
}

#[rstest]
fn stat_for_people_is_short_lines(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let text = String::from_utf8(world.done(&["stat", &address])).unwrap();
    assert!(text.lines().next().unwrap().ends_with(&address), "{text}");
    assert!(text.lines().all(|line| line.split_once("  ").is_some()), "{text}");
}

#[test]
fn ls_lists_what_stat_tells() {
    let world = World::new();
    let address = world.channel("shm");
    let ran = world.run(&["ls", "--json"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let list: Value = serde_json::from_slice(ran.stdout()).unwrap();
    let found = list.as_array().unwrap().iter().find(|one| one["address"] == address.as_str()).unwrap();
    assert_eq!(found, &world.stat(&address));
    let ran = world.run(&["ls"]);
    assert!(String::from_utf8_lossy(ran.stdout()).contains(&address));
}

#[test]
fn ls_lists_a_damaged_segment_with_its_problem() {
    let world = World::new();
    let address = world.channel("shm");
    fs::write(world.directory().join("damaged"), b"noise").unwrap();
    let ran = world.run(&["ls", "--json"]);
    assert_eq!(ran.code(), Some(0));
    let list: Value = serde_json::from_slice(ran.stdout()).unwrap();
    let find = |address: &str| list.as_array().unwrap().iter().find(|one| one["address"] == address).unwrap();
    assert!(find("shm:damaged")["problem"].is_string());
    assert!(KEYS.iter().all(|key| find("shm:damaged").get(key).is_some()));
    assert_eq!(keys(find(&address)), KEYS);
    let ran = world.run(&["ls"]);
    let table = String::from_utf8_lossy(ran.stdout()).into_owned();
    assert!(table.contains("shm:damaged: ") && table.contains(&address), "{table}");
}

/// What finds the channels of both isn't to be had; the others are listed all the same.
#[test]
fn ls_reports_every_transport_that_cant_be_listed() {
    let world = World::new();
    let address = world.channel("shm");
    fs::write(world.directory().join(".mq"), b"in the way").unwrap();
    for options in [&["ls"][..], &["ls", "--json"], &["ls", "--all"]] {
        let ran = world.run(options);
        assert_eq!(ran.code(), Some(7));
        assert!(String::from_utf8_lossy(ran.stdout()).contains(&address));
        let stderr = ran.stderr();
        // Where the kernel shows no list of them, that is said besides.
        let lines: Vec<_> = stderr.lines().filter(|line| !line.starts_with("ipc: mq: ")).collect();
        assert!(lines.len() == 2 && lines[0].starts_with("ipc: sysv: "), "{stderr}");
        assert!(lines[1].starts_with("ipc: unix: "), "{stderr}");
    }
}

#[rstest]
fn rm_removes(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "a"]);
    world.done(&["rm", &address]);
    world.run(&["stat", &address]).assert_failed(3);
}

#[test]
fn rm_tries_all_and_ends_as_the_first_failure() {
    let world = World::new();
    let (queue, segment) = (world.channel("mq"), world.channel("shm"));
    fs::create_dir(world.directory().join("directory")).unwrap();
    let ran = world.run(&["rm", "shm:missing", &queue, "shm:directory", &segment]);
    assert_eq!(ran.code(), Some(3));
    let stderr = ran.stderr();
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.contains("ipc: shm:missing: ") && stderr.contains("ipc: shm:directory: "), "{stderr}");
    for address in [queue, segment] {
        world.run(&["stat", &address]).assert_failed(3);
    }
}

#[test]
fn rm_of_a_damaged_segment_cleans_up() {
    let world = World::new();
    fs::write(world.directory().join("damaged"), b"noise").unwrap();
    world.done(&["rm", "shm:damaged"]);
    assert!(!fs::exists(world.directory().join("damaged")).unwrap());
}

#[test]
fn help_is_printed_on_standard_output() {
    let world = World::new();
    for arguments in [&["--help"][..], &["send", "--help"], &["--version"]] {
        assert!(!world.done(arguments).is_empty());
    }
}

#[test]
fn gc_removes_what_the_killed_left_and_says_why_the_rest_stays() {
    let world = World::new();
    let addresses: Vec<String> = (0..4).map(|_| world.address("shm")).collect();
    let [left, holding, used, kept] = addresses.as_slice() else { unreachable!() };
    world.done(&["create", kept, "--capacity", "64K"]);
    world.done(&["send", holding, "--create", "a message"]);
    let user = world.spawn(&["recv", used, "--create"]);
    let victim = world.spawn(&["recv", left, "--create"]);
    eventually("both receive", || {
        let listed = [used, left].map(|address| world.run(&["stat", address, "--json"]).stdout().to_vec());
        listed.iter().all(|stat| String::from_utf8_lossy(stat).contains("receiver"))
    });
    victim.kill();
    let said = String::from_utf8(world.done(&["gc"])).unwrap();
    let about = |address: &str| said.lines().find(|line| line.starts_with(address)).unwrap().to_string();
    assert!(about(left).contains("removed"), "{said}");
    assert!(about(holding).contains("messages are in it"), "{said}");
    assert!(about(used).contains("somebody has it open"), "{said}");
    assert!(about(kept).contains("kept"), "{said}");
    assert_eq!(world.run(&["stat", left]).code(), Some(3));
    // What was left is as good as before.
    assert_eq!(world.done(&["recv", holding, "--drain"]), b"a message\n");
    drop(user);
}

#[test]
fn recover_has_a_channel_served_again_that_was_in_use_when_the_machine_went_down() {
    use std::os::unix::fs::FileExt;
    let world = World::new();
    // Where this very program is: what is built is kept on a disk.
    let built = std::env::current_exe().unwrap();
    let disk = built.parent().unwrap().join(format!("ipc-cli-disk-{}", std::process::id()));
    fs::create_dir(&disk).unwrap();
    let on_disk = |arguments: &[&str]| world.command(arguments).env("IPC_DIR", &disk).output().unwrap();
    assert!(on_disk(&["create", "shm:x"]).status.success());
    let mut receiver = world.command(&["recv", "shm:x"]).env("IPC_DIR", &disk).spawn().unwrap();
    eventually("it receives", || {
        String::from_utf8_lossy(&on_disk(&["stat", "shm:x"]).stdout).contains("receiver")
    });
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    // What a reboot changes: the mark in the first page is of another boot.
    fs::OpenOptions::new().write(true).open(disk.join("x")).unwrap().write_all_at(&[0xee; 16], 1024).unwrap();
    let refused = on_disk(&["send", "shm:x", "a"]);
    assert_eq!(refused.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ipc recover"));
    assert!(on_disk(&["recover", "shm:x"]).status.success());
    assert!(on_disk(&["send", "shm:x", "a"]).status.success());
    assert_eq!(on_disk(&["recv", "shm:x", "--drain"]).stdout, b"a\n");
    fs::remove_dir_all(&disk).unwrap();
    world.run(&["recover", "mq:x"]).assert_failed(2);
}
