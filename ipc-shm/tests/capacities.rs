//! Room of every size: none, the least there can be, sizes that are no power of two, and one
//! of which neither a position nor an offset fits 32 bits.

mod common;

use common::{
    Arena,
    kinds::{Ends, make},
    name,
};
use ipc_shm::{
    Channel, ChannelError, Client, Kind, Latest, Loan, Receiver, Request, Rpc, Sender, Server, Shm,
    ShmConfig, Transport, Wait, WhenFull,
};
use rstest::rstest;
use std::{env, fs};

fn of(kind: Kind) -> ShmConfig {
    let config = ShmConfig::new().kind(kind);
    // Reliable: what doesn't fit is refused.
    if kind == Kind::Broadcast { config.when_full(WhenFull::Wait) } else { config }
}

#[rstest]
#[case::spsc(of(Kind::Spsc).capacity_bytes(0), "at least 1")]
#[case::mpmc(of(Kind::Mpmc).capacity_bytes(0), "at least")]
#[case::mpmc_of_one_byte(of(Kind::Mpmc).capacity_bytes(1), "at least 32")]
#[case::mpmc_without_a_slot(of(Kind::Mpmc).depth(0), "at least 1")]
#[case::mpmc_with_too_few_bytes(of(Kind::Mpmc).capacity_bytes(100).depth(7), "don't fit")]
#[case::mpmc_for_nobody(of(Kind::Mpmc).participants(0), "1 to 4096")]
#[case::broadcast(of(Kind::Broadcast).capacity_bytes(0), "at least 1")]
#[case::broadcast_of_nobody(of(Kind::Broadcast).publishers(0), "1 to 256")]
#[case::broadcast_to_nobody(of(Kind::Broadcast).publishers(4).participants(4), "at least 5")]
#[case::latest(of(Kind::Latest).depth(0), "2 to 256")]
#[case::rpc(of(Kind::Rpc).depth(0), "1 to 4096")]
#[case::spsc_beyond(of(Kind::Spsc).capacity_bytes(ShmConfig::MAX_CAPACITY_BYTES + 1), "1 TiB")]
#[case::mpmc_beyond(of(Kind::Mpmc).depth(u64::MAX).max_message_len(8), "1 TiB")]
#[case::broadcast_beyond(of(Kind::Broadcast).capacity_bytes(u64::MAX), "1 TiB")]
#[case::latest_beyond(of(Kind::Latest).max_message_len(ShmConfig::MAX_CAPACITY_BYTES / 2), "1 TiB")]
#[case::rpc_beyond(of(Kind::Rpc).max_message_len(u64::MAX), "1 TiB")]
fn no_room_and_too_much_are_refused_with_advice(#[case] config: ShmConfig, #[case] advice: &str) {
    let arena = Arena::new();
    let error = make(arena.path(), &config).unwrap_err();
    assert!(matches!(error, ChannelError::InvalidConfig(_)), "{error:?}");
    assert!(error.to_string().contains(advice), "{error} (expected: {advice})");
    assert_eq!(arena.entries(), [""; 0]);
}

#[rstest]
#[case::spsc_of_a_byte(of(Kind::Spsc).capacity_bytes(1))]
#[case::spsc_of_three_pages(of(Kind::Spsc).capacity_bytes(3 * 4096))]
#[case::spsc_of_five_pages_nearly(of(Kind::Spsc).capacity_bytes(5 * 4096 - 7))]
#[case::mpmc_of_a_slot(of(Kind::Mpmc).depth(1).max_message_len(1))]
#[case::mpmc_of_the_least_bytes(of(Kind::Mpmc).capacity_bytes(32))]
#[case::mpmc_of_three(of(Kind::Mpmc).depth(3).max_message_len(100))]
#[case::mpmc_of_seven(of(Kind::Mpmc).depth(7).max_message_len(1000))]
#[case::mpmc_of_bytes(of(Kind::Mpmc).capacity_bytes(12_345).max_message_len(77))]
#[case::broadcast_of_a_byte(of(Kind::Broadcast).capacity_bytes(1))]
#[case::broadcast_of_three_pages(of(Kind::Broadcast).capacity_bytes(3 * 4096).publishers(3))]
#[case::latest_of_two(of(Kind::Latest).depth(2).max_message_len(1))]
#[case::latest_of_three(of(Kind::Latest).depth(3).max_message_len(1000))]
#[case::latest_of_most(of(Kind::Latest).depth(255).max_message_len(9))]
#[case::rpc_of_one(of(Kind::Rpc).depth(1).max_message_len(1))]
#[case::rpc_of_three(of(Kind::Rpc).depth(3).max_message_len(1000))]
fn room_of_any_other_size_is_used_to_the_last_byte_lap_after_lap(#[case] config: ShmConfig) {
    let arena = Arena::new();
    make(arena.path(), &config).unwrap();
    let mut ends = Ends::open(arena.path()).unwrap();
    let max = ends.max_message_len();
    for number in 0..600_usize {
        // Each length near the least and the most, and some between.
        let len = [number % 9, max - number % 9 % (max + 1), number * 37 % (max + 1)][number % 3].min(max);
        ends.pass(&vec![number as u8; len]);
    }
    let info = Shm::at(arena.path()).stat(&name("x")).unwrap();
    for lap in 0..5 {
        let fitted = fill_and_drain(&mut ends, lap) as u64;
        match info.kind {
            "mpmc" | "rpc" => assert_eq!(Some(fitted), info.depth),
            _ => assert!(fitted > 0),
        }
    }
}

/// Sends as much as there is room for, and receives it. How much it was.
fn fill_and_drain(ends: &mut Ends, lap: usize) -> usize {
    let message = |number: usize| [(lap * 7 + number) as u8];
    let mut count = 0;
    match ends {
        Ends::Queue(tx, rx) if matches!(tx, ipc_shm::ShmSender::Latest(_)) => {
            for number in 0..300 {
                tx.try_send(&message(number)).unwrap();
                count += 1;
            }
            assert_eq!(*rx.try_recv().unwrap(), message(count - 1));
        }
        Ends::Queue(tx, rx) => {
            while tx.try_send(&message(count)).is_ok() {
                count += 1;
            }
            (0..count).for_each(|number| assert_eq!(*rx.try_recv().unwrap(), message(number)));
            assert!(rx.try_recv().is_err());
        }
        Ends::Service(client, server) => {
            let mut tickets = Vec::new();
            while let Ok(ticket) = client.submit(&message(count), Wait::Never) {
                tickets.push(ticket);
                count += 1;
            }
            for _ in 0..count {
                let request = server.next(Wait::Never).unwrap();
                let number = request.to_vec();
                request.respond(&number).unwrap();
            }
            for (number, ticket) in tickets.into_iter().enumerate() {
                assert_eq!(*client.collect(ticket, Wait::Never).unwrap(), message(number));
            }
        }
    }
    count
}

const GIB: u64 = 1 << 30;
/// A ring, or five slots, beyond what 32 bits count.
const LARGE: u64 = 5 * GIB;
/// Three fit a ring of this size and four don't, so each lap begins elsewhere.
const PIECE: usize = 3 * (GIB as usize / 2);

/// All of it in one test: the channels are large one after the other. To make one takes some
/// seconds, so a ring is tried, and the others where there is time (`IPC_SHM_LONG_RUN`).
#[test]
fn positions_and_offsets_beyond_four_gibibytes_are_right() {
    let arena = Arena::new();
    if room_bytes(&arena) < 2 * LARGE {
        common::skip(&format!(
            "it takes {} GiB of free memory in {}",
            2 * LARGE / GIB,
            arena.path().display()
        ));
        return;
    }
    let slots = |kind| of(kind).depth(5).max_message_len(GIB - 64);
    large_pieces(&arena, &of(Kind::Spsc).capacity_bytes(LARGE), PIECE, 3);
    if env::var_os("IPC_SHM_LONG_RUN").is_some() {
        large_pieces(&arena, &slots(Kind::Mpmc), GIB as usize - 64, 5);
        large_pieces(&arena, &of(Kind::Broadcast).publishers(1).capacity_bytes(LARGE), PIECE, 3);
        large_slots_of_the_newest(&arena, &slots(Kind::Latest));
        large_slots_of_calls(&arena, &slots(Kind::Rpc));
    }
}

/// What is free of the file system, and of the memory.
fn room_bytes(arena: &Arena) -> u64 {
    let found = nix::sys::statvfs::statvfs(arena.path()).unwrap();
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    let kib: u64 = available.split_ascii_whitespace().next().unwrap().parse().unwrap();
    (found.blocks_available() * found.fragment_size()).min(kib << 10)
}

/// Lends pieces of which only both ends are touched: as many as there is room for, lap after
/// lap.
fn large_pieces(arena: &Arena, config: &ShmConfig, len: usize, fit: u64) {
    let shm = Shm::at(arena.path());
    let channel = shm.create(&name("x"), config).unwrap();
    let (mut rx, mut tx) = (channel.receiver().unwrap(), channel.sender().unwrap());
    let mark = |number: u64| (number + 1).to_ne_bytes();
    for lap in 0..4 {
        for number in 0..fit {
            let mut piece = tx.loan(len, Wait::Never).unwrap();
            piece[..8].copy_from_slice(&mark(lap * 10 + number));
            piece[len - 8..].copy_from_slice(&mark(lap * 10 + number));
            piece.send().unwrap();
        }
        assert!(tx.loan(len, Wait::Never).is_err(), "no room for one more");
        for number in 0..fit {
            let piece = rx.try_recv().unwrap();
            assert_eq!(piece.len(), len);
            assert_eq!(
                (&piece[..8], &piece[len - 8..]),
                (&mark(lap * 10 + number)[..], &mark(lap * 10 + number)[..])
            );
        }
        assert!(rx.try_recv().is_err());
        // What is short follows, wherever that is, and so the next lap begins elsewhere.
        tx.try_send(&mark(lap)).unwrap();
        assert_eq!(*rx.try_recv().unwrap(), mark(lap));
    }
    drop((tx, rx, channel));
    shm.remove(&name("x")).unwrap();
}

fn large_slots_of_the_newest(arena: &Arena, config: &ShmConfig) {
    let latest = Latest::at(arena.path());
    let channel = latest.create(&name("x"), config).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for number in 0..20_u64 {
        tx.send(&number.to_ne_bytes()).unwrap();
        assert_eq!(*rx.try_recv().unwrap(), number.to_ne_bytes());
    }
    drop((tx, rx, channel));
    latest.remove(&name("x")).unwrap();
}

fn large_slots_of_calls(arena: &Arena, config: &ShmConfig) {
    let rpc = Rpc::at(arena.path());
    let service = rpc.create(&name("x"), config).unwrap();
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    let len = client.max_message_len();
    for lap in 0..3_u8 {
        let tickets: Vec<_> = (0..5).map(|_| client.submit(&[lap; 100], Wait::Never).unwrap()).collect();
        for _ in 0..5 {
            let request = server.next(Wait::Never).unwrap();
            assert_eq!(*request, [lap; 100]);
            request.respond_in_place(len, |bytes| bytes[len - 8..].fill(lap)).unwrap();
        }
        for ticket in tickets {
            let answer = client.collect(ticket, Wait::Never).unwrap();
            assert_eq!((answer.len(), &answer[len - 8..]), (len, &[lap; 8][..]));
        }
    }
    drop((client, server, service));
    rpc.remove(&name("x")).unwrap();
}
