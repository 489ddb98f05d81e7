//! Work queues between real processes: who is killed loses nobody else's messages and holds
//! nobody up, who is stopped is never taken for dead, and what is dropped is counted.

mod common;

use common::{Arena, Child, PATIENCE, eventually, fork_child, is_waited_at, layout, name, say, serve, told};
use ipc_shm::{
    Batch, BatchReceiver, BatchSender, Channel, ChannelError, EndMark, Loan, Message, Mpmc, MpmcReceiver,
    Receiver, RecvError, Redelivered, Rejected, SendError, Sender, Sequenced, Shm, ShmConfig, Spsc,
    Transport, Wait, WhenFull,
};
use nix::sys::signal::Signal;
use rstest::rstest;
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let queue = Mpmc::at(&arguments[0]).open(&name("x")).unwrap();
        match role {
            "claim" => {
                let mut tx = queue.sender().unwrap();
                let mut loan = tx.loan(8, Wait::Forever).unwrap();
                loan.copy_from_slice(b"unsaid..");
                say("claimed");
                if told() {
                    loan.send().unwrap();
                    say("sent");
                }
                told();
            }
            "hold" => {
                let mut rx = queue.receiver().unwrap();
                let message = rx.recv_timeout(PATIENCE).unwrap();
                say(&text(&message));
                if told() {
                    drop(message);
                    say("released");
                }
                told();
            }
            "send many" => {
                let mut tx = queue.sender().unwrap();
                let (sender, count): (u64, u64) =
                    (arguments[1].parse().unwrap(), arguments[2].parse().unwrap());
                for number in 0..count {
                    tx.send(format!("{sender} {number}").as_bytes()).unwrap();
                }
            }
            "receive for ever" => {
                let mut rx = queue.receiver().unwrap();
                loop {
                    let message = rx.recv().unwrap();
                    say(&text(&message));
                }
            }
            other => panic!("no such child: {other}"),
        }
    });
}

fn text(message: &[u8]) -> String {
    String::from_utf8(message.to_vec()).unwrap()
}

fn path(arena: &Arena) -> &str {
    arena.path().to_str().unwrap()
}

/// Slots of a few bytes.
fn slots(depth: u64) -> ShmConfig {
    ShmConfig::new().depth(depth).max_message_len(16)
}

fn queue(arena: &Arena, config: &ShmConfig) -> ipc_shm::MpmcChannel {
    Mpmc::at(arena.path()).create(&name("x"), config).unwrap()
}

/// What comes, as long as something does.
fn drain(rx: &mut MpmcReceiver) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(message) = rx.try_recv() {
        all.push(text(&message));
    }
    all
}

#[rstest]
#[case::one_slot(1)]
#[case::few_slots(3)]
#[case::many_slots(64)]
fn each_message_goes_to_one_receiver_in_its_senders_order(#[case] depth: u64) {
    const SENDERS: u64 = 3;
    const COUNT: u64 = 2_000;
    let arena = Arena::new();
    let queue = queue(&arena, &slots(depth));
    let mut receivers: Vec<_> = (0..3).map(|_| queue.receiver().unwrap()).collect();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| Child::spawn("send many", &[path(&arena), &sender.to_string(), &COUNT.to_string()]))
        .collect();
    let mut received: Vec<Vec<(u64, u64)>> = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = receivers.iter_mut().map(|rx| scope.spawn(|| receive_until_idle(rx))).collect();
        senders.into_iter().for_each(Child::ends_well);
        received = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    });
    let mut all: Vec<_> = received.iter().flatten().copied().collect();
    all.sort_unstable();
    let expected: Vec<_> =
        (0..SENDERS).flat_map(|sender| (0..COUNT).map(move |number| (sender, number))).collect();
    assert!(all == expected, "{} of {} messages, or some twice", all.len(), expected.len());
    for one in received {
        let mut last = BTreeMap::new();
        for (sender, number) in one {
            let before = last.insert(sender, number);
            assert!(before.is_none_or(|before| before < number), "{sender}: {number} after {before:?}");
        }
    }
}

fn receive_until_idle(rx: &mut MpmcReceiver) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    loop {
        match rx.recv_timeout(Duration::from_secs(2)) {
            Ok(message) => {
                let text = text(&message);
                let (sender, number) = text.split_once(' ').unwrap();
                all.push((sender.parse().unwrap(), number.parse().unwrap()));
            }
            Err(RecvError::TimedOut) => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_sender_killed_with_a_claim_holds_nobody_up() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let mut rx = queue.receiver().unwrap();
    let mut victim = Child::spawn("claim", &[path(&arena)]);
    victim.says("claimed");
    queue.sender().unwrap().send(b"behind it").unwrap();
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)), "what was claimed first comes first");
    victim.kill();
    assert_eq!(text(&rx.recv_timeout(PATIENCE).unwrap()), "behind it");
    // The slot is as good as before.
    let mut tx = queue.sender().unwrap();
    for round in 0..10 {
        tx.send_timeout(format!("{round}").as_bytes(), PATIENCE).unwrap();
        assert_eq!(text(&rx.recv_timeout(PATIENCE).unwrap()), format!("{round}"));
    }
}

#[rstest]
#[case::all_the_time(Duration::ZERO, usize::MAX)]
#[case::now_and_then(Duration::from_millis(20), 10)]
fn a_receiver_that_only_tries_finds_the_dead_as_well(#[case] pause: Duration, #[case] most_tries: usize) {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let mut rx = queue.receiver().unwrap();
    let mut victim = Child::spawn("claim", &[path(&arena)]);
    victim.says("claimed");
    queue.sender().unwrap().send(b"behind it").unwrap();
    victim.kill();
    let give_up = Instant::now() + PATIENCE;
    for tries in 1.. {
        thread::sleep(pause);
        match rx.try_recv() {
            Ok(message) => {
                assert_eq!(text(&message), "behind it");
                break;
            }
            Err(RecvError::WouldBlock) if tries < most_tries => {
                assert!(Instant::now() < give_up, "it never looked");
            }
            Err(error) => panic!("{error} after {tries} tries"),
        }
    }
}

#[test]
fn a_sender_stopped_with_a_claim_is_never_taken_for_dead() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let mut rx = queue.receiver().unwrap();
    let mut stopped = Child::spawn("claim", &[path(&arena)]);
    stopped.says("claimed");
    stopped.stop();
    queue.sender().unwrap().send(b"behind it").unwrap();
    let answer = rx.recv_timeout(Duration::from_millis(300));
    assert!(matches!(answer, Err(RecvError::TimedOut)), "the call keeps to its deadline");
    drop(answer);
    stopped.signal(Signal::SIGCONT);
    stopped.tell();
    stopped.says("sent");
    assert_eq!(text(&rx.recv_timeout(PATIENCE).unwrap()), "unsaid..");
    assert_eq!(text(&rx.recv_timeout(PATIENCE).unwrap()), "behind it");
}

#[test]
fn what_a_killed_receiver_held_is_delivered_again_and_counted() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let mut tx = queue.sender().unwrap();
    tx.send(b"first").unwrap();
    tx.send(b"second").unwrap();
    for deaths in 0..3 {
        let mut victim = Child::spawn("hold", &[path(&arena)]);
        victim.says("first");
        victim.kill();
        // The next one that comes puts it in order.
        let mut rx = queue.receiver().unwrap();
        rx.advance(Wait::timeout(PATIENCE)).unwrap();
        let message = rx.held();
        assert_eq!(text(&message), "first");
        // Given back by the one before, too.
        assert_eq!(MpmcReceiver::attempts_of(&message), 2 * deaths + 1);
        message.keep();
    }
    let info = Mpmc::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!((info.redelivered_messages, info.lost_messages), (Some(6), Some(0)));
    let mut rx = queue.receiver().unwrap();
    assert_eq!(drain(&mut rx), ["first", "second"]);
}

#[rstest]
#[case::at_once(1)]
#[case::after_two_more_tries(3)]
fn a_message_that_kills_its_receivers_is_dropped_and_counted(#[case] deliveries: u32) {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4).max_deliveries(deliveries));
    let mut tx = queue.sender().unwrap();
    tx.send(b"poison").unwrap();
    tx.send(b"water").unwrap();
    for _ in 0..deliveries {
        let mut victim = Child::spawn("hold", &[path(&arena)]);
        victim.says("poison");
        victim.kill();
    }
    let mut rx = queue.receiver().unwrap();
    assert_eq!(text(&rx.recv_timeout(PATIENCE).unwrap()), "water");
    let info = Mpmc::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!(info.lost_messages, Some(1));
    assert_eq!(info.redelivered_messages, Some(u64::from(deliveries) - 1));
    assert_eq!(info.queued_messages, Some(0));
}

#[rstest]
#[case::delivered_again(2)]
#[case::dropped(1)]
fn an_end_mark_of_a_killed_receiver_counts_as_no_message(#[case] deliveries: u32) {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(1).max_deliveries(deliveries));
    queue.sender().unwrap().send(b"x").unwrap();
    let mut victim = Child::spawn("hold", &[path(&arena)]);
    victim.says("x");
    // No receiver holds a mark for long: what this one holds becomes one.
    const COMMITTED_END: u64 = 3;
    let file = OpenOptions::new().write(true).open(arena.file("x")).unwrap();
    let slot = file.metadata().unwrap().len() - layout::PAGE;
    file.write_all_at(&COMMITTED_END.to_ne_bytes(), slot + 8).unwrap();
    victim.kill();
    let found = queue.receiver().unwrap().try_recv().map(|message| text(&message));
    match deliveries {
        1 => assert!(matches!(found, Err(RecvError::WouldBlock)), "{found:?}"),
        _ => assert!(matches!(found, Err(RecvError::End)), "{found:?}"),
    }
    let info = Mpmc::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!((info.lost_messages, info.redelivered_messages), (Some(0), Some(0)));
}

#[test]
fn a_waiting_receiver_gets_what_a_killed_one_held() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    queue.sender().unwrap().send(b"x").unwrap();
    let mut victim = Child::spawn("hold", &[path(&arena)]);
    victim.says("x");
    let mut waiting = Child::spawn("receive for ever", &[path(&arena)]);
    eventually("it waits", || {
        let info = Mpmc::at(arena.path()).stat(&name("x")).unwrap();
        info.participants.iter().any(|one| one.pid == waiting.pid())
    });
    victim.kill();
    waiting.says("x");
}

#[test]
fn who_takes_a_dead_ones_place_wakes_those_who_wait_for_what_it_held() {
    // Where receivers say that they sleep: in the page of shared words.
    const RECEIVERS_ASLEEP: u64 = layout::PAGE + 128;
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4).participants(2));
    queue.sender().unwrap().send(b"x").unwrap();
    let mut victim = Child::spawn("hold", &[path(&arena)]);
    victim.says("x");
    let mut waiting = Child::spawn("receive for ever", &[path(&arena)]);
    let is_announced = || is_waited_at(&arena.file("x"), RECEIVERS_ASLEEP);
    eventually("it sleeps", is_announced);
    // So that it can't find out by itself.
    waiting.stop();
    victim.kill();
    let _in_its_place = queue.sender().unwrap();
    assert!(!is_announced(), "nobody was woken");
    waiting.signal(Signal::SIGCONT);
    waiting.says("x");
}

#[test]
fn a_stopped_receiver_keeps_its_message_and_the_others_go_on() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    tx.send(b"held").unwrap();
    let mut stopped = Child::spawn("hold", &[path(&arena)]);
    stopped.says("held");
    stopped.stop();
    for message in ["a", "b", "c"] {
        tx.send_timeout(message.as_bytes(), PATIENCE).unwrap();
    }
    assert_eq!(drain(&mut rx), ["a", "b", "c"]);
    // One lap later its slot is in the way.
    let answer = tx.send_timeout(b"d", Duration::from_millis(300));
    assert!(matches!(answer, Err(SendError::TimedOut)), "{answer:?}");
    stopped.signal(Signal::SIGCONT);
    stopped.tell();
    stopped.says("released");
    tx.send_timeout(b"d", PATIENCE).unwrap();
    assert_eq!(drain(&mut rx), ["d"]);
}

#[test]
fn a_sender_waits_for_a_receiver_that_is_killed() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(1).max_deliveries(1));
    let mut tx = queue.sender().unwrap();
    tx.send(b"held").unwrap();
    let mut victim = Child::spawn("hold", &[path(&arena)]);
    victim.says("held");
    thread::scope(|scope| {
        let sending = scope.spawn(|| tx.send_timeout(b"next", PATIENCE));
        victim.kill();
        sending.join().unwrap().unwrap();
    });
}

#[test]
fn when_full_a_sender_fails_at_once_if_it_is_to() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(2).when_full(WhenFull::Fail));
    let mut tx = queue.sender().unwrap();
    tx.send(b"a").unwrap();
    tx.send(b"b").unwrap();
    assert!(matches!(tx.send(b"c"), Err(SendError::WouldBlock)));
    assert_eq!(drain(&mut queue.receiver().unwrap()), ["a", "b"]);
}

#[test]
fn when_full_the_oldest_message_is_dropped_and_counted_and_its_number_is_missing() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(3).when_full(WhenFull::DropOldest));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let sequence = |rx: &mut MpmcReceiver| {
        let message = rx.try_recv().unwrap();
        (text(&message), MpmcReceiver::sequence_of(&message))
    };
    tx.send(b"0").unwrap();
    assert_eq!(sequence(&mut rx), ("0".into(), 0));
    for number in 1..=7 {
        tx.send(format!("{number}").as_bytes()).unwrap();
    }
    for number in 5..=7 {
        assert_eq!(sequence(&mut rx), (number.to_string(), number));
    }
    let info = Mpmc::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!((info.sent_messages, info.lost_messages), (Some(8), Some(4)));
}

#[test]
fn an_end_mark_that_is_dropped_is_no_message_that_is_lost() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(2).when_full(WhenFull::DropOldest));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let lost = || Mpmc::at(arena.path()).stat(&name("x")).unwrap().lost_messages;
    tx.send(b"a").unwrap();
    tx.send_end(Wait::Never).unwrap();
    tx.send(b"b").unwrap();
    assert_eq!(lost(), Some(1), "a message");
    tx.send(b"c").unwrap();
    assert_eq!(lost(), Some(1), "the mark");
    tx.send(b"d").unwrap();
    assert_eq!(lost(), Some(2), "another message");
    assert_eq!(drain(&mut rx), ["c", "d"]);
}

#[test]
fn a_message_in_hand_is_never_dropped() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(2).when_full(WhenFull::DropOldest));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    tx.send(b"in hand").unwrap();
    let message = rx.try_recv().unwrap();
    tx.send(b"a").unwrap();
    assert!(matches!(tx.send_timeout(b"b", Duration::from_millis(20)), Err(SendError::TimedOut)));
    assert_eq!(text(&message), "in hand");
    drop(message);
    tx.send(b"b").unwrap();
    assert_eq!(drain(&mut rx), ["a", "b"]);
}

#[test]
fn a_loan_that_is_dropped_gives_its_slot_up_and_its_number_is_missing() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(2));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for round in 0..5 {
        drop(tx.loan(16, Wait::Never).unwrap());
        tx.send(b"x").unwrap();
        let message = rx.try_recv().unwrap();
        assert_eq!(MpmcReceiver::sequence_of(&message), 2 * round + 1);
    }
}

#[test]
fn a_reservation_whose_slot_was_given_up_waits_for_room_at_its_commit() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(2));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    tx.reserve(4, Wait::Never).unwrap();
    tx.reserved().fill(b'x');
    for message in [b"a", b"b"] {
        queue.sender().unwrap().send(message).unwrap();
    }
    let mut loan = tx.reserved();
    loan.copy_from_slice(b"late");
    let Rejected { loan, error } = loan.commit(Wait::Never).expect_err("the queue is full");
    assert!(matches!(error, SendError::WouldBlock));
    assert_eq!(&*loan, b"late");
    assert_eq!(text(&rx.try_recv().unwrap()), "a");
    loan.commit(Wait::Never).map_err(|rejected| rejected.error).unwrap();
    assert_eq!(drain(&mut rx), ["b", "late"]);
    // Of a loan that was shortened, as much is left.
    tx.reserve(4, Wait::Never).unwrap();
    tx.reserved().truncate(2);
    assert_eq!(tx.reserved().len(), 2);
}

#[test]
fn what_is_refused_leaves_no_claim_that_would_hold_others_up() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    type Refused = fn(&mut ipc_shm::MpmcSender) -> Result<(), SendError>;
    let refused: [Refused; 3] = [
        |tx| tx.reserve(17, Wait::Never),
        |tx| tx.try_send(&[0; 17]),
        |tx| tx.send_batch(&[[0; 17]], Wait::Never).map(drop),
    ];
    for refuse in refused {
        tx.reserve(8, Wait::Never).unwrap();
        assert!(matches!(refuse(&mut tx), Err(SendError::TooLong { len: 17, max: 16 })));
        queue.sender().unwrap().send(b"x").unwrap();
        assert_eq!(drain(&mut rx), ["x"]);
    }
}

#[test]
fn an_endpoint_that_leaves_gives_back_what_it_claimed_and_what_it_holds() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let mut claimed = queue.sender().unwrap();
    claimed.reserve(8, Wait::Never).unwrap();
    queue.sender().unwrap().send(b"x").unwrap();
    let mut rx = queue.receiver().unwrap();
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    drop(claimed);
    rx.try_recv().unwrap().keep();
    drop(rx);
    let mut rx = queue.receiver().unwrap();
    let message = rx.try_recv().unwrap();
    assert_eq!((text(&message), MpmcReceiver::attempts_of(&message)), ("x".into(), 1));
}

/// What a receiver can't use is as it was, even where nothing is delivered twice.
#[test]
fn what_is_put_back_was_never_delivered() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4).max_deliveries(1));
    let mut tx = queue.sender().unwrap();
    ["a", "b", "c", "d"].iter().for_each(|text| tx.send(text.as_bytes()).unwrap());
    let (mut rx, mut other) = (queue.receiver().unwrap(), queue.receiver().unwrap());
    assert_eq!(rx.max_deliveries(), 1);
    rx.put_back();
    assert_eq!(rx.advance_batch(3, Wait::Never).unwrap(), 3);
    rx.held_batch().release(1);
    assert_eq!(text(&other.try_recv().unwrap()), "d");
    assert!(matches!(other.try_recv(), Err(RecvError::WouldBlock)));
    rx.put_back();
    assert!(rx.held_batch().is_empty());
    {
        let message = rx.try_recv().unwrap();
        assert_eq!((text(&message), MpmcReceiver::attempts_of(&message)), ("b".into(), 0));
        message.keep();
    }
    rx.put_back();
    tx.send(b"e").unwrap();
    assert_eq!(rx.advance_batch(9, Wait::Never).unwrap(), 2, "those that follow each other");
    rx.put_back();
    drop(rx);
    assert_eq!(drain(&mut queue.receiver().unwrap()), ["b", "c", "e"]);
    let info = Mpmc::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!((info.lost_messages, info.redelivered_messages), (Some(0), Some(0)));
}

#[test]
fn what_is_put_back_wakes_those_who_have_gone_past_it() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    queue.sender().unwrap().send(b"x").unwrap();
    let mut rx = queue.receiver().unwrap();
    rx.try_recv().unwrap().keep();
    let mut waiting = Child::spawn("receive for ever", &[path(&arena)]);
    let is_announced = || is_waited_at(&arena.file("x"), layout::RECEIVERS_ASLEEP);
    eventually("it sleeps", is_announced);
    // So that it can't find out by itself.
    waiting.stop();
    rx.put_back();
    assert!(!is_announced(), "nobody was woken");
    waiting.signal(Signal::SIGCONT);
    waiting.says("x");
}

#[test]
fn batches_are_sent_as_far_as_there_is_room() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let letters = ["a", "b", "c", "d", "e", "f"];
    assert_eq!(tx.send_batch(&letters, Wait::Never).unwrap(), 4);
    assert!(matches!(tx.send_batch(&letters[4..], Wait::Never), Err(SendError::WouldBlock)));
    assert_eq!(rx.advance_batch(10, Wait::Never).unwrap(), 4);
    rx.held_batch().release(3);
    assert_eq!(rx.held_batch().iter().collect::<Vec<_>>(), [b"d"]);
    assert_eq!(tx.send_batch(&letters[4..], Wait::Never).unwrap(), 2);
    rx.held_batch().release_all();
    assert_eq!(drain(&mut rx), ["e", "f"]);
    let long = "x".repeat(17);
    assert!(matches!(
        tx.send_batch(&[long.as_str()], Wait::Never),
        Err(SendError::TooLong { len: 17, max: 16 })
    ));
    assert_eq!(tx.send_batch(&["short", &long, "short"], Wait::Never).unwrap(), 1);
    assert_eq!(drain(&mut rx), ["short"]);
    assert_eq!(tx.send_batch::<&str>(&[], Wait::Never).unwrap(), 0);
}

#[test]
fn places_are_limited_and_those_of_the_dead_are_free() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4).participants(3));
    let mut victim = Child::spawn("claim", &[path(&arena)]);
    victim.says("claimed");
    let (_tx, rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let error = queue.receiver().unwrap_err();
    assert!(matches!(&error, ChannelError::Limit(text) if text.contains("all 3 places")), "{error}");
    drop(rx);
    drop(queue.receiver().unwrap());
    victim.kill();
    let (_one, _another) = (queue.receiver().unwrap(), queue.sender().unwrap());
}

#[test]
fn a_channel_of_another_kind_is_refused_and_both_kinds_are_named() {
    let arena = Arena::new();
    drop(queue(&arena, &slots(4)));
    let spsc = Spsc::at(arena.path());
    let refusals =
        [spsc.open(&name("x")).unwrap_err(), spsc.open_or_create(&name("x"), &ShmConfig::new()).unwrap_err()];
    for error in refusals {
        let text = error.to_string();
        assert!(matches!(error, ChannelError::Mismatch { setting: "kind", .. }), "{text}");
        assert!(text.contains("spsc") && text.contains("mpmc"), "{text}");
    }
    assert_eq!(Shm::at(arena.path()).open(&name("x")).unwrap().kind(), ipc_shm::Kind::Mpmc);
    let config = ShmConfig::new().kind(ipc_shm::Kind::Spsc);
    let error = Mpmc::at(arena.path()).create(&name("y"), &config).unwrap_err();
    assert!(matches!(error, ChannelError::InvalidConfig(_)), "{error}");
}

#[rstest]
#[case::no_slots(ShmConfig::new().depth(0), "depth of 0")]
#[case::no_participants(ShmConfig::new().participants(0), "0 participants")]
#[case::too_many_participants(ShmConfig::new().participants(4097), "1 to 4096")]
#[case::no_delivery(ShmConfig::new().max_deliveries(0), "0 deliveries")]
#[case::too_many_deliveries(ShmConfig::new().max_deliveries(256), "1 to 255")]
#[case::one_too_many(ShmConfig::new().depth(1).max_message_len(1).capacity_bytes(1), "two of them")]
#[case::no_capacity(ShmConfig::new().capacity_bytes(0), "no room")]
#[case::a_message_that_does_not_fit(ShmConfig::new().max_message_len(5000).capacity_bytes(4096), "doesn't fit")]
#[case::messages_that_do_not_fit(ShmConfig::new().depth(1000).capacity_bytes(4096), "don't fit")]
#[case::too_long(ShmConfig::new().max_message_len(u64::MAX), "too large")]
#[case::too_many(ShmConfig::new().depth(u64::MAX), "too large")]
#[case::too_large(ShmConfig::new().capacity_bytes(u64::MAX), "too large")]
#[case::publishers(ShmConfig::new().publishers(1), "have no number of publishers")]
fn settings_that_make_no_sense_are_refused(#[case] config: ShmConfig, #[case] what: &str) {
    let arena = Arena::new();
    let error = Mpmc::at(arena.path()).create(&name("x"), &config).unwrap_err();
    assert!(matches!(&error, ChannelError::InvalidConfig(text) if text.contains(what)), "{error}");
    assert!(arena.entries().is_empty());
}

#[rstest]
#[case::one_page(ShmConfig::new().capacity_bytes(4096), 1, 4080)]
#[case::by_capacity_and_length(ShmConfig::new().capacity_bytes(8192).max_message_len(8), 256, 8)]
#[case::by_capacity_and_depth(ShmConfig::new().capacity_bytes(8192).depth(4), 4, 2032)]
#[case::by_depth_and_length(ShmConfig::new().depth(3).max_message_len(100), 3, 100)]
#[case::by_length(ShmConfig::new().max_message_len(2 << 20), 1, 2 << 20)]
#[case::by_depth(ShmConfig::new().depth(2), 2, 8192)]
fn any_two_of_capacity_depth_and_length_make_a_queue(
    #[case] config: ShmConfig,
    #[case] depth: u64,
    #[case] len: u64,
) {
    let arena = Arena::new();
    let mut tx = queue(&arena, &config).sender().unwrap();
    let info = Mpmc::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!((info.depth, info.max_message_len_bytes), (Some(depth), Some(len)));
    for _ in 0..depth {
        tx.try_send(&vec![1; len as usize]).unwrap();
    }
    assert!(matches!(tx.try_send(b""), Err(SendError::WouldBlock)));
    assert!(matches!(tx.try_send(&vec![1; len as usize + 1]), Err(SendError::TooLong { .. })));
}

#[test]
fn a_forked_child_can_use_neither_end_and_leaves_the_parents_alone() {
    let arena = Arena::new();
    let queue = queue(&arena, &slots(4));
    let (mut tx, mut rx) = (queue.sender().unwrap(), queue.receiver().unwrap());
    tx.send(b"x").unwrap();
    rx.try_recv().unwrap().keep();
    tx.reserve(1, Wait::Never).unwrap();
    fork_child(|| {
        assert!(matches!(tx.send(b"y"), Err(SendError::Forked)));
        assert!(matches!(tx.reserved().send(), Err(SendError::Forked)));
        assert!(matches!(rx.try_recv(), Err(RecvError::Forked)));
        assert!(matches!(queue.receiver(), Err(ChannelError::Forked)));
        drop((tx, rx, queue));
    })
    .ends_well();
}
