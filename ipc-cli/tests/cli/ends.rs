//! The end of a stream, and what is not to be taken for it.

use crate::support::World;
use rstest::rstest;

#[test]
fn empty_messages_are_messages_in_shared_memory() {
    let world = World::new();
    let address = world.channel("shm");
    world.done_with(&["send", &address, "--end"], b"\na\n\n");
    world.done(&["send", &address, "behind the end"]);
    assert_eq!(world.done(&["recv", &address, "--until-end"]), b"\na\n\n");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"behind the end\n");
}

#[rstest]
#[case::line(&["--framing", "lines"], b"a\n\nb\n", "line 2")]
#[case::record(&["--framing", "prefixed"], b"\x01\0\0\0a\0\0\0\0\x01\0\0\0b", "record 2")]
fn an_empty_message_before_the_end_is_refused_on_a_queue(
    #[case] framing: &[&str],
    #[case] input: &[u8],
    #[case] named: &str,
) {
    let world = World::new();
    let address = world.channel("mq");
    let line = world.run_with(&[&["send", &address, "--end"], framing].concat(), input).assert_failed(2);
    assert!(line.contains(named), "{line}");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"a\n", "it was not sent, nor what follows it");
}

#[test]
fn an_empty_argument_before_the_end_is_refused_on_a_queue() {
    let world = World::new();
    let address = world.channel("mq");
    world.run(&["send", &address, "--end", "a", ""]).assert_failed(2);
    assert_eq!(world.queued(&address), 0, "the arguments are known, so none is sent");
}

#[test]
fn without_end_an_empty_message_may_be_sent_to_a_queue() {
    let world = World::new();
    let address = world.channel("mq");
    world.done_with(&["send", &address], b"a\n\nb\n");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"a\n\nb\n");
}

#[rstest]
fn until_end_stops_there_and_leaves_the_rest(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "--end", "a"]);
    world.done(&["send", &address, "b"]);
    assert_eq!(world.done(&["recv", &address, "--until-end"]), b"a\n");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"b\n");
}

#[test]
fn without_until_end_marks_are_ignored() {
    let world = World::new();
    let address = world.channel("shm");
    world.done(&["send", &address, "--end", "a"]);
    world.done(&["send", &address, "--end", "b"]);
    assert_eq!(world.done(&["recv", &address, "--count", "2"]), b"a\nb\n");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"");
}

#[rstest]
fn an_empty_input_has_an_end_too(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done_with(&["send", &address, "--end"], b"");
    assert_eq!(world.done(&["recv", &address, "--until-end"]), b"");
}
