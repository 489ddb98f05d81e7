//! Settings: refused with advice where they make no sense or differ from what was found, and as they
//! were found where they aren't given.

mod common;

use common::{Arena, name};
use ipc_shm::{Channel, ChannelError, Kind, Sender, Shm, ShmConfig, Transport};
use rstest::rstest;
use std::fs;

const PAGE: u64 = 4096;

fn one_page() -> ShmConfig {
    ShmConfig::new().capacity_bytes(PAGE)
}

#[rstest]
#[case::one_byte(1, PAGE)]
#[case::one_page(PAGE, PAGE)]
#[case::one_byte_more_than_a_page(PAGE + 1, 2 * PAGE)]
#[case::nearly_two_pages(2 * PAGE - 1, 2 * PAGE)]
fn a_capacity_is_rounded_up_to_whole_pages(#[case] asked: u64, #[case] expected: u64) {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &ShmConfig::new().capacity_bytes(asked)).unwrap();
    let info = arena.shm().stat(&name("x")).unwrap();
    assert_eq!(info.capacity_bytes, Some(expected));
    assert_eq!(info.max_message_len_bytes, Some(expected - 16));
    assert_eq!(channel.sender().unwrap().max_message_len() as u64, expected - 16);
    let len = fs::metadata(arena.file("x")).unwrap().len();
    assert_eq!(len, 3 * PAGE + expected, "control pages and data");
}

#[rstest]
#[case::nothing(0, "at least 1")]
#[case::one_byte_over_the_limit(ShmConfig::MAX_CAPACITY_BYTES + 1, "1 TiB")]
#[case::all_there_is(u64::MAX, "1 TiB")]
fn a_capacity_that_makes_no_sense_is_refused_with_advice(#[case] bytes: u64, #[case] advice: &str) {
    let arena = Arena::new();
    let config = ShmConfig::new().capacity_bytes(bytes);
    for answer in [arena.shm().create(&name("x"), &config), arena.shm().open_or_create(&name("x"), &config)] {
        let error = answer.unwrap_err();
        assert!(matches!(error, ChannelError::InvalidConfig(_)), "{error:?}");
        assert!(error.to_string().contains(advice), "{error}");
    }
    assert!(arena.entries().is_empty());
}

#[rstest]
#[case(0o400, "600 or more")]
#[case(0o066, "600 or more")]
#[case(0o4755, "0 to 777")]
fn a_mode_that_makes_no_sense_is_refused_with_advice(#[case] mode: u32, #[case] advice: &str) {
    let arena = Arena::new();
    let error = arena.shm().create(&name("x"), &one_page().mode(mode)).unwrap_err();
    assert!(matches!(error, ChannelError::InvalidConfig(_)), "{error:?}");
    assert!(error.to_string().contains(advice), "{error}");
}

#[test]
fn settings_that_differ_are_refused_and_both_are_named() {
    let arena = Arena::new();
    let _kept = arena.shm().create(&name("x"), &one_page().mode(0o640)).unwrap();
    for (config, both) in [
        (ShmConfig::new().capacity_bytes(PAGE + 1), ["4096 bytes", "8192 bytes"]),
        (ShmConfig::new().mode(0o600), ["640", "600"]),
    ] {
        let error = arena.shm().open_or_create(&name("x"), &config).unwrap_err();
        assert!(matches!(error, ChannelError::Mismatch { .. }), "{error:?}");
        let text = error.to_string();
        assert!(both.iter().all(|one| text.contains(one)), "{text}");
    }
    // What isn't asked for doesn't matter, nor how it rounds.
    arena.shm().open_or_create(&name("x"), &ShmConfig::new().transient()).unwrap();
    arena.shm().open_or_create(&name("x"), &ShmConfig::new().capacity_bytes(1)).unwrap();
}

#[rstest]
#[case::room_without_length(
    Kind::Mpmc,
    ShmConfig::new().capacity_bytes(1 << 20).max_message_len(100_000),
    ShmConfig::new().capacity_bytes(1 << 20)
)]
#[case::room_without_depth(
    Kind::Mpmc,
    ShmConfig::new().capacity_bytes(1 << 20).depth(1000),
    ShmConfig::new().capacity_bytes(1 << 20)
)]
#[case::room_and_how_many_that_comes_to(
    Kind::Mpmc,
    ShmConfig::new().capacity_bytes(1 << 20).max_message_len(100_000),
    ShmConfig::new().capacity_bytes(1 << 20).depth(10)
)]
#[case::length_of_few(
    Kind::Mpmc,
    ShmConfig::new().depth(3).max_message_len(1 << 20),
    ShmConfig::new().max_message_len(1 << 20)
)]
#[case::participants_of_few_publishers(
    Kind::Broadcast,
    ShmConfig::new().publishers(2).participants(3),
    ShmConfig::new().participants(3)
)]
#[case::publishers_of_many(
    Kind::Broadcast,
    ShmConfig::new().publishers(2).participants(3).capacity_bytes(PAGE),
    ShmConfig::new().publishers(2)
)]
#[case::depth_of_short_values(
    Kind::Latest,
    ShmConfig::new().depth(8).max_message_len(8),
    ShmConfig::new().depth(8)
)]
#[case::length_of_few_calls(
    Kind::Rpc,
    ShmConfig::new().depth(2).max_message_len(100_000),
    ShmConfig::new().max_message_len(100_000)
)]
fn settings_that_are_not_given_are_as_found(
    #[case] kind: Kind,
    #[case] made: ShmConfig,
    #[case] asked: ShmConfig,
) {
    let arena = Arena::new();
    let shm = Shm::at(arena.path());
    let _kept = shm.create(&name("x"), &made.kind(kind)).unwrap();
    shm.open_or_create(&name("x"), &asked).unwrap();
}

#[rstest]
#[case::room(
    Kind::Mpmc,
    ShmConfig::new().capacity_bytes(1 << 20).max_message_len(100_000),
    ShmConfig::new().capacity_bytes(1 << 10)
)]
#[case::depth(
    Kind::Mpmc,
    ShmConfig::new().depth(2).max_message_len(1 << 20),
    ShmConfig::new().depth(1 << 32)
)]
#[case::participants(
    Kind::Broadcast,
    ShmConfig::new().publishers(4),
    ShmConfig::new().participants(3)
)]
#[case::publishers(
    Kind::Broadcast,
    ShmConfig::new().publishers(2).participants(3),
    ShmConfig::new().publishers(3)
)]
fn a_setting_that_differs_is_not_blamed_on_one_that_was_not_given(
    #[case] kind: Kind,
    #[case] made: ShmConfig,
    #[case] asked: ShmConfig,
) {
    let arena = Arena::new();
    let shm = Shm::at(arena.path());
    let _kept = shm.create(&name("x"), &made.kind(kind)).unwrap();
    let error = shm.open_or_create(&name("x"), &asked).unwrap_err();
    assert!(matches!(error, ChannelError::Mismatch { .. }), "{error:?}");
}
