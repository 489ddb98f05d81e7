//! Broadcasts between real processes: everybody gets everything, or is told exactly what is
//! missing; who is killed holds nobody up, who is stopped holds up whom it must, and bytes
//! that no correct peer writes harm nobody.

mod common;

use common::{Arena, Child, Dice, PATIENCE, end_after, eventually, fork, name, say, serve, told};
use ipc_shm::{
    Batch, BatchReceiver, BatchSender, Broadcast, BroadcastChannel, BroadcastPublisher, BroadcastSubscriber,
    Channel, ChannelError, ChannelInfo, EndMark, Loan, Message, Receiver, RecvError, Role, SendError, Sender,
    Sequenced, ShmConfig, Spsc, Transport, Wait, WhenFull,
};
use nix::sys::signal::Signal;
use rstest::rstest;
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let channel = Broadcast::at(&arguments[0]).open(&name("x"));
        match role {
            "publish" => publish_many(&channel.unwrap(), arguments[1].parse().unwrap()),
            "publish until killed" => {
                let mut tx = channel.unwrap().sender().unwrap();
                for number in 0.. {
                    tx.send(&stamped(number)).unwrap();
                    if number % 64 == 0 {
                        say(&number.to_string());
                    }
                }
            }
            "subscribe" => report_all(&channel.unwrap()),
            "hold" => {
                let mut rx = channel.unwrap().receiver().unwrap();
                say("ready");
                let message = rx.recv_timeout(PATIENCE).unwrap();
                say(&read(&message).to_string());
                if told() {
                    drop(message);
                    while rx.try_recv().is_ok() {}
                    say("released");
                }
                told();
            }
            "words" => words_may_be_anything(&arguments[0], &arguments[1]),
            other => panic!("no such child: {other}"),
        }
    });
}

fn publish_many(channel: &BroadcastChannel, count: u64) {
    let mut tx = channel.sender().unwrap();
    say(&tx.id().to_string());
    assert!(told());
    for number in 0..count {
        tx.send(&stamped(number)).unwrap();
    }
    tx.send_end(Wait::Forever).unwrap();
}

/// Reports what comes and what was missed, in runs, until a publisher has ended.
fn report_all(channel: &BroadcastChannel) {
    let mut rx = channel.receiver().unwrap();
    say("ready");
    let (mut received, mut missed, mut next) = (0, 0, 0);
    loop {
        match rx.recv_timeout(PATIENCE) {
            Ok(message) => {
                assert_eq!(read(&message), next, "and not told of a gap");
                received += 1;
                next += 1;
                if received == 1 {
                    say("begun");
                }
            }
            Err(RecvError::Lagged { missed: more }) => {
                missed += more;
                next += more;
            }
            Err(RecvError::End) => return say(&format!("{received} received, {missed} missed")),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A message that says its number in every word, and whose length is its own.
fn stamped(number: u64) -> Vec<u8> {
    number.to_ne_bytes().repeat(1 + (number % 7) as usize)
}

fn read(message: &[u8]) -> u64 {
    let number = u64::from_ne_bytes(message[..8].try_into().unwrap());
    assert!(*message == *stamped(number), "torn or spoiled: {message:?}");
    number
}

fn path(arena: &Arena) -> &str {
    arena.path().to_str().unwrap()
}

fn lossy() -> ShmConfig {
    ShmConfig::new().capacity_bytes(4096)
}

fn reliable() -> ShmConfig {
    lossy().when_full(WhenFull::Wait)
}

fn channel(arena: &Arena, config: &ShmConfig) -> BroadcastChannel {
    Broadcast::at(arena.path()).create(&name("x"), config).unwrap()
}

fn stat(arena: &Arena) -> ChannelInfo {
    Broadcast::at(arena.path()).stat(&name("x")).unwrap()
}

/// Publishes until there is no room; the number of the message that doesn't fit.
fn fill(tx: &mut BroadcastPublisher) -> u64 {
    (0..).find(|&number| tx.try_send(&stamped(number)).is_err()).unwrap()
}

#[test]
fn every_process_gets_every_message_of_every_publisher() {
    const COUNT: u64 = 3_000;
    let arena = Arena::new();
    let channel = channel(&arena, &reliable());
    let mut receivers: Vec<_> = (0..3).map(|_| channel.receiver().unwrap()).collect();
    let mut publishers: Vec<_> =
        (0..3).map(|_| Child::spawn("publish", &[path(&arena), &COUNT.to_string()])).collect();
    let ids: Vec<u32> = publishers.iter_mut().map(|child| child.line().parse().unwrap()).collect();
    publishers.iter_mut().for_each(Child::tell);
    thread::scope(|scope| {
        for rx in &mut receivers {
            scope.spawn(|| {
                let mut next = [0; 5];
                let mut ends = 0;
                while ends < ids.len() {
                    match rx.recv_timeout(PATIENCE) {
                        Ok(message) => {
                            let from = BroadcastSubscriber::publisher_of(&message);
                            assert!(ids.contains(&from));
                            let expected = &mut next[from as usize];
                            assert_eq!(BroadcastSubscriber::sequence_of(&message), *expected);
                            assert_eq!(read(&message), *expected, "from publisher {from}");
                            *expected += 1;
                        }
                        Err(RecvError::End) => ends += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                assert!(ids.iter().all(|&id| next[id as usize] == COUNT), "{next:?}");
            });
        }
    });
    publishers.into_iter().for_each(Child::ends_well);
}

#[rstest]
#[case::lossy(lossy())]
#[case::reliable(reliable())]
fn a_killed_publisher_leaves_whole_messages_and_the_next_goes_on(#[case] config: ShmConfig) {
    let arena = Arena::new();
    let channel = channel(&arena, &config.publishers(1));
    let mut rx = channel.receiver().unwrap();
    let mut dice = Dice::new(3);
    let mut next_number = 0;
    for _ in 0..12 {
        let mut victim = Child::spawn("publish until killed", &[path(&arena)]);
        victim.says("0");
        let until = Instant::now() + Duration::from_micros(dice.below(8_000));
        let (mut next, mut acknowledged) = (0, 0);
        while Instant::now() < until {
            receive_one(&mut rx, &mut next, &mut next_number);
        }
        victim.signal(Signal::SIGKILL);
        // What it still said. It said no more than what it was done with.
        victim.kill();
        while let Some(line) = victim.last_words() {
            acknowledged = line.parse().unwrap();
        }
        while receive_one(&mut rx, &mut next, &mut next_number) {}
        assert!(next > acknowledged, "{acknowledged} was acknowledged, {next} comes next");
        // The next one has its place, and goes on with its numbers.
        let mut tx = channel.sender().unwrap();
        assert_eq!(tx.id(), 1);
        tx.try_send(&stamped(77)).unwrap();
        let message = rx.try_recv().unwrap();
        assert_eq!((BroadcastSubscriber::sequence_of(&message), read(&message)), (next_number, 77));
        next_number += 1;
    }
}

/// Receives what is there: a message with the next number, or a gap. False if nothing is.
fn receive_one(rx: &mut BroadcastSubscriber, next: &mut u64, next_number: &mut u64) -> bool {
    let count = match rx.try_recv() {
        Ok(message) => {
            assert_eq!(read(&message), *next, "and not told of a gap");
            assert_eq!(BroadcastSubscriber::sequence_of(&message), *next_number);
            1
        }
        Err(RecvError::Lagged { missed }) => missed,
        Err(RecvError::WouldBlock) => return false,
        Err(error) => panic!("{error}"),
    };
    *next += count;
    *next_number += count;
    true
}

#[test]
fn a_killed_subscriber_holds_no_publisher_up() {
    let arena = Arena::new();
    let channel = channel(&arena, &reliable());
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for _ in 0..3 {
        let mut victim = Child::spawn("hold", &[path(&arena)]);
        victim.says("ready");
        let count = fill(&mut tx);
        victim.says("0");
        (0..count).for_each(|number| assert_eq!(read(&rx.try_recv().unwrap()), number));
        assert!(matches!(tx.try_send(&stamped(count)), Err(SendError::WouldBlock)));
        victim.kill();
        let started = Instant::now();
        tx.send_timeout(&stamped(count), PATIENCE).unwrap();
        // Asked of the kernel every 5 ms.
        assert!(started.elapsed() < Duration::from_secs(2), "it took {:?}", started.elapsed());
        assert_eq!(read(&rx.try_recv().unwrap()), count);
    }
}

#[rstest]
#[case::all_the_time(WhenFull::Wait, Duration::ZERO, usize::MAX)]
#[case::now_and_then(WhenFull::Wait, Duration::from_millis(20), 10)]
#[case::since_it_is_to_fail(WhenFull::Fail, Duration::from_millis(20), 10)]
fn a_publisher_that_only_tries_finds_the_dead_too(
    #[case] when_full: WhenFull,
    #[case] pause: Duration,
    #[case] most_tries: usize,
) {
    let arena = Arena::new();
    let channel = channel(&arena, &lossy().when_full(when_full));
    let mut tx = channel.sender().unwrap();
    let mut victim = Child::spawn("hold", &[path(&arena)]);
    victim.says("ready");
    let count = fill(&mut tx);
    victim.says("0");
    victim.kill();
    let wait = if when_full == WhenFull::Fail { Wait::Forever } else { Wait::Never };
    let mut tries = 0;
    eventually("there is room", || {
        thread::sleep(pause);
        tries += 1;
        assert!(tries <= most_tries, "nobody has looked");
        tx.send_wait(&stamped(count), wait).is_ok()
    });
}

#[rstest]
#[case::and_goes_on(Signal::SIGCONT)]
#[case::and_is_killed(Signal::SIGKILL)]
fn a_stopped_subscriber_is_waited_for_until_it_goes_on_or_is_dead(#[case] signal: Signal) {
    let arena = Arena::new();
    let channel = channel(&arena, &reliable());
    let mut tx = channel.sender().unwrap();
    let mut stopped = Child::spawn("hold", &[path(&arena)]);
    stopped.says("ready");
    let count = fill(&mut tx);
    stopped.says("0");
    stopped.stop();
    for _ in 0..3 {
        let late = tx.send_timeout(&stamped(count), Duration::from_millis(30));
        assert!(matches!(late, Err(SendError::TimedOut)), "{late:?}");
    }
    stopped.signal(signal);
    if signal == Signal::SIGCONT {
        stopped.tell();
        stopped.says("released");
    }
    tx.send_timeout(&stamped(count), PATIENCE).unwrap();
}

#[test]
fn a_stopped_subscriber_costs_a_lossy_publisher_nothing_and_learns_exactly_what_it_missed() {
    const COUNT: u64 = 100_000;
    let arena = Arena::new();
    let channel = channel(&arena, &lossy());
    let mut tx = channel.sender().unwrap();
    let mut stopped = Child::spawn("subscribe", &[path(&arena)]);
    stopped.says("ready");
    tx.try_send(&stamped(0)).unwrap();
    stopped.says("begun");
    stopped.stop();
    for number in 1..COUNT {
        tx.try_send(&stamped(number)).unwrap();
    }
    tx.send_end(Wait::Never).unwrap();
    stopped.signal(Signal::SIGCONT);
    let told = stopped.line();
    let figures: Vec<u64> = told.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(figures.iter().sum::<u64>(), COUNT, "{told}");
    assert!(figures[1] > COUNT / 2, "a ring holds few: {told}");
    stopped.ends_well();
}

#[rstest]
#[case::lossy(lossy())]
#[case::reliable(reliable())]
fn subscribers_come_late_and_get_exactly_what_follows(#[case] config: ShmConfig) {
    let arena = Arena::new();
    let channel = channel(&arena, &config);
    let (mut one, mut other) = (channel.sender().unwrap(), channel.sender().unwrap());
    for round in 0..300 {
        let mut rx = channel.receiver().unwrap();
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)), "what came before is not for it");
        one.try_send(&stamped(2 * round)).unwrap();
        other.try_send(&stamped(round)).unwrap();
        one.try_send(&stamped(2 * round + 1)).unwrap();
        let mut found = Vec::new();
        while let Ok(message) = rx.try_recv() {
            let number = read(&message);
            assert_eq!(BroadcastSubscriber::sequence_of(&message), number);
            found.push((BroadcastSubscriber::publisher_of(&message), number));
        }
        found.sort_unstable();
        assert_eq!(found, [(one.id(), 2 * round), (one.id(), 2 * round + 1), (other.id(), round)]);
    }
}

#[rstest]
#[case::lossy(lossy())]
#[case::reliable(reliable())]
fn messages_of_all_lengths_pass_at_all_places(#[case] config: ShmConfig) {
    let arena = Arena::new();
    let channel = channel(&arena, &config);
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let max = tx.max_message_len();
    assert_eq!(max, 4096 - 32);
    let too_long = tx.try_send(&vec![1; max + 1]);
    assert!(matches!(too_long, Err(SendError::TooLong { len, max: most }) if len == max + 1 && most == max));
    let mut dice = Dice::new(7);
    for turn in 0..4_000_u64 {
        let len = match turn % 4 {
            0 => dice.below(9),
            1 => dice.below(max as u64 + 1),
            2 => max as u64 - dice.below(9),
            _ => dice.below(100),
        };
        let bytes: Vec<u8> = (0..len).map(|at| (turn + at) as u8).collect();
        if turn % 3 == 0 {
            let mut loan = tx.loan(max, Wait::Never).unwrap();
            loan[..bytes.len()].copy_from_slice(&bytes);
            loan.truncate(bytes.len());
            loan.send().unwrap();
        } else {
            tx.try_send(&bytes).unwrap();
        }
        let message = rx.try_recv().unwrap();
        assert!(*message == *bytes, "message {turn} of {len} bytes");
    }
}

#[test]
fn a_dropped_loan_is_nothing() {
    let arena = Arena::new();
    for (number, config) in [lossy(), reliable()].iter().enumerate() {
        let name = name(&format!("x{number}"));
        let channel = Broadcast::at(arena.path()).create(&name, config).unwrap();
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        for turn in 0..500 {
            tx.loan(300, Wait::Never).unwrap().fill(0xff);
            tx.try_send(&stamped(turn)).unwrap();
            let message = rx.try_recv().unwrap();
            assert_eq!((read(&message), BroadcastSubscriber::sequence_of(&message)), (turn, turn));
        }
    }
}

#[test]
fn a_gap_is_told_behind_what_is_held_and_before_what_follows() {
    let arena = Arena::new();
    let channel = channel(&arena, &lossy());
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    (0..3).for_each(|number| tx.try_send(&stamped(number)).unwrap());
    assert_eq!(rx.advance_batch(2, Wait::Never).unwrap(), 2);
    (3..1000).for_each(|number| tx.try_send(&stamped(number)).unwrap());
    // What is held is a copy, and stays what it was.
    assert_eq!(rx.advance_batch(1000, Wait::Never).unwrap(), 2);
    let held: Vec<u64> = rx.held_batch().iter().map(read).collect();
    assert_eq!(held, [0, 1]);
    rx.held_batch().release(1);
    assert_eq!(read(&rx.try_recv().unwrap()), 1);
    let Err(RecvError::Lagged { missed }) = rx.advance(Wait::Never) else { panic!("a gap was due") };
    let held = rx.advance_batch(10_000, Wait::Never).unwrap() as u64;
    assert_eq!(2 + missed + held, 1000);
    assert!(rx.held_batch().iter().map(read).eq(2 + missed..1000));
    // About half a ring of the newest.
    let size: u64 = (2 + missed..1000).map(|number| 16 + stamped(number).len() as u64).sum();
    assert!((1024..3072).contains(&size), "{held} messages of {size} bytes");
}

#[test]
fn a_batch_released_in_part_keeps_the_rest_whatever_comes() {
    let arena = Arena::new();
    let channel = channel(&arena, &lossy());
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let (mut sent, mut released, mut dice) = (0, 0, Dice::new(11));
    for _ in 0..2_000 {
        for _ in 0..1 + dice.below(8) {
            tx.try_send(&stamped(sent)).unwrap();
            sent += 1;
        }
        let held = rx.advance_batch(sent as usize, Wait::Never).unwrap() as u64;
        assert!(rx.held_batch().iter().map(read).eq(released..sent), "{held} held");
        let count = if dice.below(8) == 0 { held } else { dice.below(held + 1) };
        rx.held_batch().release(count as usize);
        released += count;
        if held - count > 40 {
            rx.held_batch().release_all();
            released = sent;
        }
    }
}

#[test]
fn a_batch_that_is_published_appears_whole() {
    let arena = Arena::new();
    for (number, config) in [lossy(), reliable()].iter().enumerate() {
        let name = name(&format!("x{number}"));
        let channel = Broadcast::at(arena.path()).create(&name, config).unwrap();
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        let batch: Vec<Vec<u8>> = (0..200).map(stamped).collect();
        let (mut sent, mut received) = (0, 0);
        while sent < batch.len() {
            let more = tx.send_batch(&batch[sent..], Wait::Never).unwrap();
            let held = rx.advance_batch(1000, Wait::Never).unwrap();
            assert_eq!(held, more);
            assert!(rx.held_batch().iter().map(read).eq(received..received + held as u64));
            rx.held_batch().release_all();
            sent += more;
            received += held as u64;
        }
    }
}

#[test]
fn who_must_not_wait_is_told_at_once_and_nobody_waits_for_nobody() {
    let arena = Arena::new();
    let channel = channel(&arena, &lossy().when_full(WhenFull::Fail));
    let mut tx = channel.sender().unwrap();
    (0..1000).for_each(|number| tx.send(&stamped(number)).unwrap());
    let rx = channel.receiver().unwrap();
    let count = fill(&mut tx);
    assert!(matches!(tx.send(&stamped(count)), Err(SendError::WouldBlock)));
    drop(rx);
    tx.send(b"nobody is there again").unwrap();
}

#[test]
fn there_are_as_many_publishers_and_subscribers_as_the_channel_was_made_for() {
    let arena = Arena::new();
    let channel = channel(&arena, &lossy().publishers(2).participants(5));
    let publishers: Vec<_> = (0..2).map(|_| channel.sender().unwrap()).collect();
    let subscribers: Vec<_> = (0..3).map(|_| channel.receiver().unwrap()).collect();
    for (error, words) in [
        (channel.sender().err().unwrap(), "2 places for a publisher"),
        (channel.receiver().err().unwrap(), "3 places for a subscriber"),
    ] {
        assert!(matches!(error, ChannelError::Limit(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    drop((publishers, subscribers));
    drop((channel.sender().unwrap(), channel.receiver().unwrap()));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let arena = Arena::new();
    let shm = Broadcast::at(arena.path());
    for config in [
        lossy().publishers(0),
        lossy().publishers(257),
        lossy().publishers(4).participants(4),
        lossy().depth(5),
        lossy().max_message_len(5),
        lossy().max_deliveries(2),
        lossy().capacity_bytes(0),
        lossy().capacity_bytes(u64::MAX),
    ] {
        let answer = shm.create(&name("x"), &config);
        assert!(matches!(answer, Err(ChannelError::InvalidConfig(_))), "{config:?}: {answer:?}");
    }
    assert!(arena.entries().is_empty());
    drop(channel(&arena, &lossy().publishers(3)));
    let other = shm.open_or_create(&name("x"), &lossy().publishers(2));
    assert!(matches!(other, Err(ChannelError::Mismatch { .. })), "{other:?}");
    drop(shm.open_or_create(&name("x"), &lossy().publishers(3)).unwrap());
    drop(shm.open_or_create(&name("x"), &ShmConfig::new()).unwrap());
    assert!(matches!(Spsc::at(arena.path()).open(&name("x")), Err(ChannelError::Mismatch { .. })));
}

#[test]
fn a_channel_takes_up_what_its_formula_says() {
    let arena = Arena::new();
    for (publishers, participants) in [(1, 2), (4, 64), (3, 100), (256, 512)] {
        let config = ShmConfig::new().capacity_bytes(8192).publishers(publishers).participants(participants);
        drop(channel(&arena, &config));
        let pages = |bytes: u64| bytes.next_multiple_of(4096);
        let (publishers, participants) = (u64::from(publishers), u64::from(participants));
        let rows = (participants - publishers) * (16 * publishers).next_multiple_of(128);
        let expected = 8192 + pages(256 * participants) + pages(rows) + publishers * 8192;
        assert_eq!(fs::metadata(arena.file("x")).unwrap().len(), expected);
        Broadcast::at(arena.path()).remove(&name("x")).unwrap();
    }
}

#[test]
fn stat_says_how_far_everybody_is() {
    let arena = Arena::new();
    let channel = channel(&arena, &lossy());
    let (mut one, mut other) = (channel.sender().unwrap(), channel.sender().unwrap());
    let (mut quick, slow) = (channel.receiver().unwrap(), channel.receiver().unwrap());
    for number in 0..1000 {
        one.try_send(&stamped(number)).unwrap();
        read(&quick.try_recv().unwrap());
    }
    (0..3).for_each(|number| other.try_send(&stamped(number)).unwrap());
    let of = |info: &ChannelInfo, role| {
        let all = info.participants.iter().filter(|one| one.role == role);
        all.map(|one| (one.position, one.lag, one.lost)).collect::<Vec<_>>()
    };
    let info = stat(&arena);
    assert_eq!((info.kind, info.sent_messages, info.lost_messages), ("broadcast", Some(1003), Some(0)));
    assert_eq!(of(&info, Role::Publisher), [(Some(1000), None, None), (Some(3), None, None)]);
    let lags = [(None, Some(3), Some(0)), (None, Some(1003), Some(0))];
    assert_eq!(of(&info, Role::Subscriber), lags);
    let mut slow = slow;
    let Err(RecvError::Lagged { missed }) = slow.try_recv().map(Message::keep) else { panic!("a gap") };
    let info = stat(&arena);
    assert_eq!(info.lost_messages, Some(missed));
    assert_eq!(of(&info, Role::Subscriber)[1], (None, Some(1003 - missed), Some(missed)));
    // What the departed lost stays counted; who has its place begins with nothing.
    drop((quick, slow));
    let _next = (channel.receiver().unwrap(), channel.receiver().unwrap());
    let info = stat(&arena);
    assert_eq!(info.lost_messages, Some(missed));
    assert_eq!(of(&info, Role::Subscriber), [(None, Some(0), Some(0)); 2]);
}

#[test]
fn a_transient_broadcast_ends_with_its_last_user_read_or_not() {
    let arena = Arena::new();
    let channel = channel(&arena, &reliable().transient());
    let (mut tx, rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    fill(&mut tx);
    drop((channel, tx));
    assert_eq!(arena.entries(), ["x"]);
    drop(rx);
    assert!(arena.entries().is_empty(), "nobody is left to whom the messages belong");
}

#[test]
fn a_forked_child_can_do_nothing_with_its_parents_ends() {
    let arena = Arena::new();
    for (number, config) in [lossy(), reliable()].iter().enumerate() {
        let name = name(&format!("x{number}"));
        let channel = Broadcast::at(arena.path()).create(&name, config).unwrap();
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        tx.try_send(&stamped(0)).unwrap();
        let Some(child) = fork() else {
            end_after(|| {
                assert!(matches!(tx.try_send(b"x"), Err(SendError::Forked)));
                assert!(matches!(tx.send_batch(&[b"x"], Wait::Never), Err(SendError::Forked)));
                assert!(matches!(rx.try_recv().map(Message::keep), Err(RecvError::Forked)));
                drop((channel, tx, rx));
            })
        };
        child.ends_well();
        tx.try_send(&stamped(1)).unwrap();
        assert_eq!(read(&rx.try_recv().unwrap()), 0);
        assert_eq!(read(&rx.try_recv().unwrap()), 1);
    }
}

#[rstest]
#[case::lossy("lossy")]
#[case::reliable("reliable")]
fn any_word_may_be_anything(#[case] which: &str) {
    let arena = Arena::new();
    let mut child = Child::spawn("words", &[path(&arena), which]);
    while child.line() != "done" {}
    child.ends_well();
}

/// Spoils every word that is used, with both ends there and before they come, and uses the
/// channel: service, `Corrupt` or a time-out.
fn words_may_be_anything(directory: &str, which: &str) {
    let shm = Broadcast::at(directory);
    let config = if which == "lossy" { lossy() } else { reliable() };
    let config = config.publishers(1).participants(3);
    let channel = shm.create(&name("x"), &config).unwrap();
    {
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        for number in 0..100 {
            tx.try_send(&stamped(number)).unwrap();
            rx.try_recv().unwrap();
        }
    }
    drop(channel);
    let path = std::path::Path::new(directory).join("x");
    let image = fs::read(&path).unwrap();
    let (shared, entries, rows, data) = (4096, 8192, 12288, 16384);
    assert_eq!(image.len(), 20480);
    // The page of shared words, the three entries, the rows, and the ring around its end.
    let head = u64::from_ne_bytes(image[entries + 128..][..8].try_into().unwrap());
    let place = data + head as usize % 4096;
    let places = (shared..shared + 16)
        .chain(entries..entries + 768)
        .chain(rows..rows + 256)
        .chain(place - 64..place + 96)
        .step_by(8)
        .filter(|place| place % 8 == 0);
    for place in places {
        say(&format!("at {place}"));
        let old = u64::from_ne_bytes(image[place..][..8].try_into().unwrap());
        let values = [0, 1, 3, 7, 8, 24, 4096, 1 << 32, (1 << 63) - 8, 1 << 63, u64::MAX - 7, u64::MAX];
        let beside = [8, 24, 4096].into_iter().flat_map(|by| [old.wrapping_add(by), old.wrapping_sub(by)]);
        for new in values.into_iter().chain(beside).chain([8 << 8 | 1, 4064 << 8 | 1, u64::MAX << 8 | 1]) {
            for is_attached in [false, true] {
                fs::write(&path, &image).unwrap();
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                let ends = is_attached.then(|| {
                    let channel = shm.open(&name("x")).unwrap();
                    (channel.sender().unwrap(), channel.receiver().unwrap())
                });
                file.write_all_at(&new.to_ne_bytes(), place as u64).unwrap();
                let started = Instant::now();
                shm.stat(&name("x")).unwrap();
                match ends {
                    Some((tx, rx)) => use_both(Some(tx), Some(rx)),
                    None => {
                        let channel = shm.open(&name("x")).unwrap();
                        use_both(attached(channel.sender()), attached(channel.receiver()));
                    }
                }
                shm.stat(&name("x")).unwrap();
                let taken = started.elapsed();
                assert!(taken < Duration::from_secs(5), "{new:#x} at {place}: it took {taken:?}");
            }
        }
    }
    say("done");
}

fn attached<T>(answer: Result<T, ChannelError>) -> Option<T> {
    match answer {
        Ok(end) => Some(end),
        Err(ChannelError::Corrupt(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn use_both(mut tx: Option<BroadcastPublisher>, mut rx: Option<BroadcastSubscriber>) {
    for _ in 0..2 {
        if let Some(tx) = &mut tx {
            for len in [0, 8, 100, 4064, 1000] {
                match tx.send_timeout(&vec![3; len], Duration::from_micros(100)) {
                    Ok(()) | Err(SendError::TimedOut | SendError::Corrupt(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            let _ = tx.send_batch(&[[1; 50]; 3], Wait::Never);
        }
        let Some(rx) = &mut rx else { continue };
        for round in 0..600 {
            let answer = match round % 3 {
                0 => rx.advance_batch(5, Wait::Never).map(|_| rx.held_batch().release(3)),
                _ => rx.try_recv().map(|message| assert!(message.len() <= 4064)),
            };
            match answer {
                Ok(()) | Err(RecvError::Lagged { .. } | RecvError::End) => {}
                Err(RecvError::WouldBlock | RecvError::Corrupt(_)) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
