//! Channels with every setting there is: what comes of each, and of room that can't be.

use crate::support::{World, eventually, skip};
use rstest::rstest;
use std::{fs, path::Path};

const PAGE: u64 = 4096;
const HUGE_PAGE: u64 = 2 << 20;

/// In memory, where the channels usually are.
fn in_memory() -> Option<World> {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        skip("there is no /dev/shm");
        return None;
    }
    Some(World::within(memory))
}

fn capacity(world: &World, address: &str) -> u64 {
    world.stat(address)["capacity_bytes"].as_u64().unwrap()
}

#[rstest]
fn a_ring_is_whole_pages_and_all_of_it_is_usable(#[values(1, 4095, 4097, 20_000, 1_000_000)] bytes: u64) {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "spsc", "--capacity", &bytes.to_string()]);
    let room = capacity(&world, &address);
    assert_eq!(room, bytes.next_multiple_of(PAGE));
    let longest = "x".repeat(room as usize - 16) + "\n";
    // Each time at another place in it.
    for _ in 0..3 {
        world.done_with(&["send", &address], longest.as_bytes());
        assert!(world.done(&["recv", &address, "--drain"]) == longest.as_bytes());
        world.done(&["send", &address, "in between"]);
        world.done(&["recv", &address, "--drain"]);
    }
}

#[rstest]
fn a_work_queue_takes_as_many_of_the_longest_as_it_says(#[values(32, 4097, 20_000, 1_000_000)] bytes: u64) {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--capacity", &bytes.to_string()]);
    let stat = world.stat(&address);
    let [depth, longest] = ["depth", "max_message_len_bytes"].map(|key| stat[key].as_u64().unwrap() as usize);
    assert!(depth > 0 && longest > 0 && (depth * longest) as u64 <= bytes, "{stat}");
    let lines = ("x".repeat(longest) + "\n").repeat(depth);
    world.done_with(&["send", &address, "--timeout", "0"], lines.as_bytes());
    world.run(&["send", &address, "--timeout", "0", "one more"]).assert_failed(4);
    assert!(world.done(&["recv", &address, "--drain"]) == lines.as_bytes());
}

#[rstest]
fn the_rings_of_a_broadcast_are_whole_pages_too(#[values(1, 20_000)] bytes: u64) {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "broadcast", "--capacity", &bytes.to_string()]);
    assert_eq!(capacity(&world, &address), bytes.next_multiple_of(PAGE));
    let receiver = world.spawn(&["recv", &address, "--count", "1"]);
    eventually("it has subscribed", || world.stat(&address)["participants"] != serde_json::json!([]));
    world.done(&["send", &address, "hello"]);
    assert_eq!(receiver.finish().assert_done(), b"hello\n");
}

#[rstest]
#[case::nothing("0", "give at least ")]
#[case::more_than_can_be("2T", "1 TiB")]
fn room_that_cannot_be_is_a_usage_error(
    #[values("mpmc", "spsc", "broadcast")] kind: &str,
    #[case] capacity: &str,
    #[case] why: &str,
) {
    let world = World::new();
    let line = world.run(&["create", "shm:x", "--kind", kind, "--capacity", capacity]).assert_failed(2);
    assert!(line.contains(why), "{line}");
    assert_eq!(fs::read_dir(world.directory()).unwrap().count(), 0);
}

#[rstest]
#[case("mpmc", &["--capacity", "1T"])]
#[case("spsc", &["--capacity", "1T"])]
#[case("broadcast", &["--capacity", "1T"])]
#[case("latest", &["--depth", "250", "--max-message", "4G"])]
#[case("rpc", &["--depth", "1000", "--max-message", "1G"])]
fn room_that_the_system_has_not_is_1_and_leaves_nothing(#[case] kind: &str, #[case] settings: &[&str]) {
    let Some(world) = in_memory() else { return };
    let line = world.run(&[&["create", "shm:x", "--kind", kind], settings].concat()).assert_failed(1);
    let directory = world.directory().to_str().unwrap();
    for part in ["the channel needs ", directory, "free", "`ipc doctor`"] {
        assert!(line.contains(part), "{line} (expected: {part})");
    }
    assert_eq!(fs::read_dir(world.directory()).unwrap().count(), 0);
}

#[rstest]
fn huge_pages_are_had_or_the_channel_is_not_made(#[values("mpmc", "spsc")] kind: &str) {
    let Some(world) = in_memory() else { return };
    let address = world.address("shm");
    let ran = world.run(&["create", &address, "--kind", kind, "--capacity", "3M", "--huge-pages"]);
    if ran.code() != Some(0) {
        let line = ran.assert_failed(1);
        assert!(line.contains("no huge pages") && line.contains("or make the channel without"), "{line}");
        assert_eq!(fs::read_dir(world.directory()).unwrap().count(), 0);
        return skip(&line);
    }
    if kind == "spsc" {
        assert_eq!(capacity(&world, &address), 2 * HUGE_PAGE);
    }
    let receiver = world.spawn(&["recv", &address]);
    eventually("it receives", || world.stat(&address)["participants"] != serde_json::json!([]));
    // It touches them when it looks for a message.
    let has_huge_pages = || mapped(&world, receiver.id(), "ShmemPmdMapped:") >= HUGE_PAGE / 1024;
    eventually("a huge page is mapped as one", has_huge_pages);
}

/// Of what a process has mapped of the world's channels, in KiB: a line of `/proc/PID/smaps`.
fn mapped(world: &World, pid: u32, what: &str) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let directory = world.directory().to_str().unwrap();
    let (mut is_ours, mut sum) = (false, 0);
    for line in smaps.lines() {
        if let Some(value) = line.strip_prefix(what).filter(|_| is_ours) {
            sum += value.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        } else if !line.split(' ').next().unwrap_or_default().ends_with(':') {
            is_ours = line.contains(directory) && line.contains("rw-s");
        }
    }
    sum
}

#[rstest]
#[case("mpmc", &["--depth", "10", "--max-message", "110K"])]
#[case("spsc", &["--capacity", "1M"])]
#[case("broadcast", &["--capacity", "1M"])]
fn prefaulted_pages_are_there_before_the_first_message(#[case] kind: &str, #[case] room: &[&str]) {
    let world = World::new();
    let resident = |settings: &[&str]| {
        let address = world.address("shm");
        world.done(&[&["create", &address, "--kind", kind], room, settings].concat());
        let receiver = world.spawn(&["recv", &address]);
        receiver.wait_for_sleep();
        eventually("it receives", || world.stat(&address)["participants"] != serde_json::json!([]));
        let figures = ["Rss:", "Size:"].map(|what| mapped(&world, receiver.id(), what));
        receiver.kill();
        figures
    };
    let [there, all] = resident(&["--prefault"]);
    assert!(there == all && all >= 1024, "{there} of {all} KiB");
    let [there, all] = resident(&[]);
    assert!(there < all && all >= 1024, "{there} of {all} KiB");
}

#[rstest]
fn where_a_sender_is_to_fail_a_full_channel_is_4_at_once(#[values("mpmc", "spsc")] kind: &str) {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", kind, "--capacity", "16K", "--when-full", "fail"]);
    let line = world.run_with(&["send", &address], &b"line\n".repeat(10_000)).assert_failed(4);
    assert!(line.contains("the channel is full"), "{line}");
    let sent = world.queued(&address);
    assert!(sent > 0 && sent < 10_000, "{sent}");
    assert_eq!(world.done(&["recv", &address, "--drain"]).len() as u64, 5 * sent);
    world.done(&["send", &address, "there is room again"]);
}

#[test]
fn where_the_oldest_are_dropped_the_newest_are_there_and_the_others_counted() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--depth", "4", "--max-message", "8", "--when-full", "drop-oldest"]);
    world.done(&["send", &address, "1", "2", "3", "4", "5", "6"]);
    assert_eq!(world.stat(&address)["lost_messages"], 2);
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"3\n4\n5\n6\n");
}

/// Its owner could neither use it nor remove it. A queue without them may have others that use it.
#[rstest]
fn a_mode_without_its_owners_bits_is_a_usage_error(
    #[values("shm", "unix")] scheme: &str,
    #[values("000", "060", "200", "466")] mode: &str,
) {
    let world = World::new();
    let line = world.run(&["create", &world.address(scheme), "--mode", mode]).assert_failed(2);
    assert!(line.contains(&format!("mode {mode} ")) && line.contains("give 600 or more"), "{line}");
    assert_eq!(fs::read_dir(world.directory()).unwrap().count(), 0, "something was made of it");
}
