//! What the kernel's channels can do on the command line, and what each can't.

use crate::support::{World, skip};
use rstest::rstest;

#[test]
fn a_system_v_queue_keeps_what_is_sent_until_it_is_received() {
    let world = World::new();
    let address = world.channel("sysv");
    world.done(&["send", &address, "one", "two"]);
    assert_eq!(world.queued(&address), 2);
    assert_eq!(world.done(&["recv", &address, "--count", "1"]), b"one\n");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"two\n");
    world.done(&["rm", &address]);
    world.run(&["recv", &address]).assert_failed(3);
}

#[test]
fn messages_are_received_by_type_and_by_priority() {
    let world = World::new();
    let address = world.channel("sysv");
    world.done(&["send", &address, "--type", "3", "three"]);
    world.done(&["send", &address, "--type", "2", "two"]);
    world.done(&["send", &address, "--type", "3", "three again"]);
    assert_eq!(world.done(&["recv", &address, "--type", "2", "--drain"]), b"two\n");
    assert_eq!(world.done(&["recv", &address, "--type", "3", "--drain"]), b"three\nthree again\n");
    world.done(&["send", &address, "--priority", "1", "low"]);
    world.done(&["send", &address, "--priority", "9", "high"]);
    assert_eq!(world.done(&["recv", &address, "--priority", "--drain"]), b"high\nlow\n");
}

#[rstest]
fn without_a_priority_a_message_has_the_lowest(#[values("mq", "sysv")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "later"]);
    world.done(&["send", &address, "--priority", "0", "last"]);
    world.done(&["send", &address, "--priority", "9", "urgent"]);
    assert_eq!(world.done(&["recv", &address, "--priority", "--drain"]), b"urgent\nlater\nlast\n");
}

#[rstest]
fn the_end_is_behind_all_priorities(#[values("mq", "sysv")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "--priority", "1", "low"]);
    world.done(&["send", &address, "--end"]);
    world.done(&["send", &address, "--priority", "9", "high"]);
    assert_eq!(world.done(&["recv", &address, "--priority", "--until-end"]), b"high\nlow\n");
}

#[test]
fn a_look_takes_nothing() {
    let world = World::new();
    let address = world.channel("sysv");
    world.done(&["send", &address, "one", "two"]);
    let ran = world.run(&["peek", &address, "--count", "9"]);
    if ran.stderr().contains("CONFIG_CHECKPOINT_RESTORE") {
        return skip(&ran.stderr());
    }
    assert_eq!(ran.assert_done(), b"one\ntwo\n");
    assert_eq!(world.done(&["peek", &address]), b"one\n");
    assert_eq!(world.queued(&address), 2);
}

#[rstest]
fn who_cant_show_a_message_says_what_to_do_instead(#[values("mq", "unix", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let line = world.run(&["peek", &address]).assert_failed(1);
    assert!(line.contains("can't be looked at without taking it: receive it"), "{line}");
    world.done(&["rm", &address]);
}

#[rstest]
#[case::type_on_a_posix_queue("mq", &["send", "--type", "1", "x"])]
#[case::receiving_by_type("unix", &["recv", "--type", "1"])]
#[case::priority_over_a_socket("unix", &["send", "--priority", "1", "x"])]
#[case::receiving_by_priority("shm", &["recv", "--priority"])]
#[case::no_such_type("sysv", &["send", "--type", "0", "x"])]
#[case::no_such_priority("sysv", &["send", "--priority", "32768", "x"])]
fn what_a_scheme_lacks_is_a_usage_error(#[case] scheme: &str, #[case] command: &[&str]) {
    let world = World::new();
    let address = world.channel(scheme);
    let arguments = [&command[..1], &[&*address], &command[1..]].concat();
    world.run(&arguments).assert_failed(2);
    world.done(&["rm", &address]);
}

#[test]
fn a_socket_carries_messages_in_either_start_order() {
    let world = World::new();
    let address = world.channel("unix");
    let receiver = world.spawn(&["recv", &address, "--count", "2"]);
    world.done(&["send", &address, "receiver first"]);
    world.done(&["send", &address, "again"]);
    assert_eq!(receiver.finish().assert_done(), b"receiver first\nagain\n");
    let sender = world.spawn(&["send", &address, "sender first"]);
    assert_eq!(world.done(&["recv", &address, "--count", "1"]), b"sender first\n");
    sender.finish().assert_done();
    world.run(&["send", &address, "nobody there", "--timeout", "50ms"]).assert_failed(4);
    world.done(&["rm", &address]);
    let listed = String::from_utf8(world.done(&["ls"])).unwrap();
    assert!(!listed.contains(&address), "{listed}");
}

#[rstest]
#[case::that_was_cleaned_up_the_wrong_way(None)]
#[case::that_says_that_it_is_somebody_elses(Some("creator-uid 1"))]
fn a_queue_without_a_name_is_listed_and_removed_by_its_number(#[case] says: Option<&str>) {
    let world = World::new();
    let address = world.channel("sysv");
    let key = world.stat(&address)["key"].as_u64().unwrap();
    let registered = world.stat(&address)["path"].as_str().unwrap().to_owned();
    let text = std::fs::read_link(&registered).unwrap().into_os_string().into_string().unwrap();
    std::fs::remove_file(&registered).unwrap();
    if let Some(says) = says {
        std::os::unix::fs::symlink(text.replace("creator-uid ", says), &registered).unwrap();
    }
    let listed: serde_json::Value = serde_json::from_slice(&world.done(&["ls", "--all", "--json"])).unwrap();
    let found = listed.as_array().unwrap().iter().find(|queue| queue["key"].as_u64() == Some(key)).unwrap();
    let id = found["address"].as_str().unwrap().strip_prefix("--sysv-id ").unwrap();
    world.done(&["rm", "--sysv-id", id]);
    let line = world.run(&["rm", "--sysv-id", id]).assert_failed(3);
    assert!(line.contains("ipc ls --all"), "{line}");
}
