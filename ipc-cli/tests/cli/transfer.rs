//! What is sent is what is received.

use crate::support::{World, eventually, numbered};
use rstest::rstest;
use std::io::Write;

#[rstest]
fn arguments_are_messages(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "42 apples", "", "-5", "--", "--pears"]);
    assert_eq!(world.done(&["recv", &address, "--count", "4"]), b"42 apples\n\n-5\n--pears\n");
}

#[rstest]
fn bytes_are_bytes(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let input = b"\xff\xfe\0\x80 not UTF-8\r\n\xc3\x28\n";
    world.done_with(&["send", &address], input);
    assert_eq!(world.done(&["recv", &address, "--drain"]), input);
}

#[rstest]
fn a_last_line_without_newline_is_a_message_and_gets_one(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done_with(&["send", &address], b"a\n\nb");
    assert_eq!(world.queued(&address), 3);
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"a\n\nb\n");
}

#[rstest]
fn records_come_back_as_records(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let input = b"\x02\0\0\0a\n\0\0\0\0\x01\0\0\0\xff";
    world.done_with(&["send", &address, "--framing", "prefixed"], input);
    assert_eq!(world.done(&["recv", &address, "--drain", "--framing", "prefixed"]), input);
}

#[rstest]
fn count_takes_no_more_than_that(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "a", "b", "c"]);
    assert_eq!(world.done(&["recv", &address, "--count", "0"]), b"");
    assert_eq!(world.done(&["recv", &address, "--count", "2"]), b"a\nb\n");
    assert_eq!(world.queued(&address), 1);
    assert_eq!(world.done(&["recv", &address, "--count", "9", "--drain"]), b"c\n");
}

#[rstest]
fn higher_priorities_come_first() {
    let world = World::new();
    let address = world.channel("mq");
    world.done(&["send", &address, "low"]);
    world.done(&["send", &address, "--priority", "7", "high"]);
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"high\nlow\n");
}

#[rstest]
fn a_message_is_printed_when_it_comes(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let path = world.directory().join("-output");
    let output = std::fs::File::create(&path).unwrap();
    let receiver = crate::support::Running::collecting(world.command(&["recv", &address]).stdout(output));
    receiver.wait_for_sleep();
    let mut sender = world.spawn(&["send", &address]);
    let mut input = sender.stdin.take().unwrap();
    for expected in ["a\n", "a\nb\n"] {
        input.write_all(&expected.as_bytes()[expected.len() - 2..]).unwrap();
        eventually("it is printed", || std::fs::read(&path).unwrap() == expected.as_bytes());
    }
    drop(input);
    sender.finish().assert_done();
    receiver.kill();
}

#[rstest]
fn a_stream_arrives_as_it_was(
    #[values("mq", "shm")] scheme: &str,
    #[values("lines", "chunks", "prefixed")] framing: &str,
    #[values(true, false)] sender_first: bool,
) {
    let world = World::new();
    let address = world.channel(scheme);
    let (input, printed) = match framing {
        "lines" => (numbered(0..20_000), "lines"),
        "chunks" => ((0..1_000_000_u32).flat_map(|n| [(n >> 8) as u8, n as u8]).collect(), "raw"),
        _ => ((0..100_u8).cycle().take(20_000).flat_map(record).collect(), "prefixed"),
    };
    let send = ["send", &address, "--framing", framing, "--end"];
    let recv = ["recv", &address, "--framing", printed, "--until-end"];
    // A record or chunk is never empty here, so that the queue takes it with --end.
    if sender_first {
        let mut sender = world.spawn(&send);
        let mut stdin = sender.stdin.take().unwrap();
        let feed = input.clone();
        let feeding = std::thread::spawn(move || stdin.write_all(&feed).unwrap());
        eventually("something is sent", || world.queued(&address) > 0);
        let received = world.done(&recv);
        feeding.join().unwrap();
        sender.finish().assert_done();
        assert!(received == input, "{} of {} bytes", received.len(), input.len());
    } else {
        let receiver = world.spawn(&recv);
        receiver.wait_for_sleep();
        world.done_with(&send, &input);
        let received = receiver.finish().assert_done();
        assert!(received == input, "{} of {} bytes", received.len(), input.len());
    }
}

fn record(len: u8) -> Vec<u8> {
    let len = len.max(1);
    [&u32::from(len).to_le_bytes(), vec![len; len.into()].as_slice()].concat()
}

#[test]
fn a_log_with_empty_and_long_lines_arrives_as_it_was() {
    let world = World::new();
    let address = world.address("shm");
    let mut log = Vec::new();
    for number in 0..30_000_u32 {
        match number % 100 {
            0 => {}
            1 => log.extend(std::iter::repeat_n(b'x', 8192)),
            _ => log.extend(format!("{number} something happened").into_bytes()),
        }
        log.push(b'\n');
    }
    log.extend(b"the end");
    let receiver = world.spawn(&["recv", &address, "--create", "--until-end"]);
    world.done_with(&["send", &address, "--create", "--end"], &log);
    let received = receiver.finish().assert_done();
    log.push(b'\n');
    assert!(received == log, "{} of {} bytes", received.len(), log.len());
    eventually("the transient channel is gone", || world.run(&["stat", &address]).code() == Some(3));
}

/// The ring is nearly full, and what is left of the input fits: it is sent although no whole
/// chunk would have room.
#[test]
fn the_last_chunk_needs_only_its_own_room() {
    let world = World::new();
    let address = world.ring();
    let input = vec![b'x'; 60 * 1024];
    world.done_with(&["send", &address, "--framing", "chunks", "--timeout", "0"], &input);
    assert_eq!(world.done(&["recv", &address, "--framing", "raw", "--drain"]), input);
}

#[test]
fn without_a_receiver_messages_stay_in_the_channel() {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["send", &address, "--create", "a"]);
    world.done(&["send", &address, "--create", "b"]);
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"a\nb\n");
}
