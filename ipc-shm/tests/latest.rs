//! The newest value between real processes: never torn, never older than the one before,
//! and there when everybody is dead; readers cost the writer nothing, whatever becomes of
//! them.

mod common;

use common::{Arena, Child, Dice, PATIENCE, fork_child, layout, name, say, serve, told, within};
use ipc_shm::{
    Batch, BatchReceiver, Cancel, Channel, ChannelError, EndMark, Kind, Latest, LatestChannel, LatestReader,
    Message, Receiver, RecvError, Role, SendError, Sender, Sequenced, Shm, ShmConfig, Transport, Wait,
    Waiting,
};
use rstest::rstest;
use std::{
    fs::{self, OpenOptions},
    hint,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const MOST: usize = 1000;

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let channel = Latest::at(&arguments[0]).open(&name("x")).unwrap();
        match role {
            "send one" => channel.sender().unwrap().send(arguments[1].as_bytes()).unwrap(),
            "loan" => {
                let mut tx = channel.sender().unwrap();
                tx.loan(MOST, Wait::Forever).unwrap().fill(0xee);
                say("written");
                told();
            }
            "write for ever" => {
                let mut tx = channel.sender().unwrap();
                let mut dice = Dice::new(arguments[1].parse().unwrap());
                let mut number: u64 = arguments[2].parse().unwrap();
                say("ready");
                loop {
                    tx.send(&sealed(number, dice.below(MOST as u64 - 24) as usize)).unwrap();
                    number += 1;
                    // A reader that isn't optimised is to have a chance too.
                    (0..dice.below(1000)).for_each(|_| hint::spin_loop());
                }
            }
            "read for ever" => {
                let mut rx = channel.receiver().unwrap();
                let mut last = 0;
                for round in 0_u64.. {
                    let Some(value) = rx.read().unwrap() else { continue };
                    let number = unsealed(&value);
                    assert!(number >= last, "{number} after {last}");
                    last = number;
                    drop(value);
                    if round == 1000 {
                        say("reading");
                    }
                }
            }
            "wait" => {
                let mut rx = channel.receiver().unwrap();
                rx.set_waiting(Waiting::Block);
                say("waiting");
                let value = rx.recv_timeout(PATIENCE).unwrap();
                say(std::str::from_utf8(&value).unwrap());
            }
            #[cfg(feature = "crash-points")]
            "read overtaken" => read_overtaken(&channel),
            other => panic!("no such child: {other}"),
        }
    });
}

/// A value that tells whether it is whole: number, length, checksum, filling.
fn sealed(number: u64, filling: usize) -> Vec<u8> {
    let mut value = vec![number as u8; 24 + filling];
    value[..8].copy_from_slice(&number.to_ne_bytes());
    value[8..16].copy_from_slice(&(filling as u64).to_ne_bytes());
    value[16..24].copy_from_slice(&(number.rotate_left(32) ^ filling as u64).to_ne_bytes());
    value
}

/// The number of a value that is whole.
fn unsealed(value: &[u8]) -> u64 {
    let number = u64::from_ne_bytes(value[..8].try_into().unwrap());
    assert!(value == sealed(number, value.len() - 24), "torn: {value:?}");
    number
}

fn path(arena: &Arena) -> &str {
    arena.path().to_str().unwrap()
}

fn small() -> ShmConfig {
    ShmConfig::new().max_message_len(MOST as u64)
}

fn channel(arena: &Arena, config: &ShmConfig) -> LatestChannel {
    Latest::at(arena.path()).create(&name("x"), config).unwrap()
}

fn next(rx: &mut LatestReader) -> (Vec<u8>, u64) {
    let value = rx.try_recv().unwrap();
    (value.to_vec(), LatestReader::sequence_of(&value))
}

#[test]
fn the_last_value_outlives_its_writer() {
    let arena = Arena::new();
    let channel = channel(&arena, &small());
    Child::spawn("send one", &[path(&arena), "old"]).ends_well();
    Child::spawn("send one", &[path(&arena), "new"]).ends_well();
    let mut rx = channel.receiver().unwrap();
    assert_eq!(next(&mut rx), (b"new".to_vec(), 1));
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)), "it is new once");
    assert_eq!(&*rx.read().unwrap().unwrap(), b"new", "and can be read as often as one likes");
    drop((rx, channel));
    let again = Latest::at(arena.path()).open(&name("x")).unwrap();
    assert_eq!(next(&mut again.receiver().unwrap()).0, b"new", "kept when nobody was there");
}

#[test]
fn nothing_is_read_before_something_is_written() {
    let arena = Arena::new();
    let channel = channel(&arena, &small());
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    assert!(rx.read().unwrap().is_none());
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    tx.loan(10, Wait::Never).unwrap().fill(1);
    assert!(rx.read().unwrap().is_none(), "what is given up isn't written");
    tx.send(b"").unwrap();
    assert_eq!(rx.read().unwrap().unwrap().len(), 0, "an empty value is one");
}

#[rstest]
#[case::two_slots(2)]
#[case::four_slots(4)]
#[case::as_many_as_there_can_be(256)]
fn versions_are_skipped_and_their_numbers_tell(#[case] depth: u64) {
    let arena = Arena::new();
    let channel = channel(&arena, &small().depth(depth));
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut dice = Dice::new(depth);
    let mut sent = 0;
    for _ in 0..500 {
        for _ in 0..=dice.below(5) {
            tx.send(&sealed(sent, dice.below(MOST as u64 - 24) as usize)).unwrap();
            sent += 1;
        }
        let (value, number) = next(&mut rx);
        assert_eq!((unsealed(&value), number), (sent - 1, sent - 1));
    }
    assert_eq!(Shm::at(arena.path()).stat(&name("x")).unwrap().sent_messages, Some(sent));
}

#[test]
fn a_value_that_is_held_stays_as_it_is() {
    let arena = Arena::new();
    let channel = channel(&arena, &small().depth(2));
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"first").unwrap();
    let held = rx.recv().unwrap();
    for number in 0..10 {
        tx.send(&sealed(number, 100)).unwrap();
        assert_eq!(&*held, b"first");
    }
    held.keep();
    assert_eq!(&*rx.recv().unwrap(), b"first");
    assert_eq!(rx.advance_batch(10, Wait::Never).unwrap(), 1);
    assert!(rx.held_batch().iter().map(unsealed).eq([9]), "held until it is released");
    rx.held_batch().release_all();
    assert_eq!(rx.held_batch().len(), 0);
}

#[test]
fn there_is_one_writer_and_the_role_of_a_dead_one_is_free_at_once() {
    let arena = Arena::new();
    let channel = channel(&arena, &small());
    let mut writer = Child::spawn("loan", &[path(&arena)]);
    writer.says("written");
    match channel.sender() {
        Err(ChannelError::Busy { role: Role::Writer, pid }) => assert_eq!(pid, Some(writer.pid())),
        other => panic!("{other:?}"),
    }
    writer.kill();
    channel.sender().unwrap().send(b"next").unwrap();
    assert_eq!(next(&mut channel.receiver().unwrap()), (b"next".to_vec(), 0));
}

#[test]
fn a_writer_killed_in_mid_write_leaves_the_value_before() {
    let arena = Arena::new();
    let channel = channel(&arena, &small().depth(2));
    let mut rx = channel.receiver().unwrap();
    for round in 0..20 {
        channel.sender().unwrap().send(&sealed(round, 900)).unwrap();
        let mut writer = Child::spawn("loan", &[path(&arena)]);
        writer.says("written");
        assert_eq!(unsealed(&rx.read().unwrap().unwrap()), round);
        writer.kill();
        assert_eq!(unsealed(&rx.read().unwrap().unwrap()), round);
        assert_eq!(next(&mut channel.receiver().unwrap()).1, round, "no version was used up");
    }
}

#[rstest]
fn values_are_whole_and_in_order_while_writers_are_killed(#[values(2, 4)] depth: u64) {
    let arena = Arena::new();
    let channel = channel(&arena, &small().depth(depth));
    let mut dice = Dice::new(depth);
    let mut rx = channel.receiver().unwrap();
    let mut last = 0;
    for round in 1..=12 {
        // Each writer's numbers are higher than those of the one before.
        let first = (round * 1_000_000_000_u64).to_string();
        let mut writer = Child::spawn("write for ever", &[path(&arena), &round.to_string(), &first]);
        writer.says("ready");
        let reads = 20 + dice.below(150);
        for _ in 0..reads {
            let value = rx.recv_timeout(PATIENCE).unwrap();
            let number = unsealed(&value);
            assert!(number > last, "{number} after {last}");
            last = number;
        }
        writer.kill();
        // The last one it wrote, and the same for whoever comes.
        let newest = rx.read().unwrap().map(|value| unsealed(&value)).unwrap();
        assert!(newest >= last);
        last = newest;
        assert_eq!(unsealed(&next(&mut channel.receiver().unwrap()).0), newest);
    }
}

#[test]
fn readers_that_are_stopped_or_killed_hold_nobody_up_and_leave_their_place() {
    let arena = Arena::new();
    // The writer and two readers.
    let channel = channel(&arena, &small().participants(3));
    let mut tx = channel.sender().unwrap();
    tx.send(&sealed(1, 0)).unwrap();
    let mut number = 1;
    let mut keep_writing = |tx: &mut ipc_shm::LatestWriter| {
        for _ in 0..5000 {
            number += 1;
            tx.send(&sealed(number, (number % 900) as usize)).unwrap();
        }
        number
    };
    let mut stopped = Child::spawn("read for ever", &[path(&arena)]);
    stopped.says("reading");
    keep_writing(&mut tx);
    stopped.stop();
    for _ in 0..5 {
        let mut killed = Child::spawn("read for ever", &[path(&arena)]);
        killed.says("reading");
        assert!(matches!(channel.receiver(), Err(ChannelError::Limit(_))), "every place is taken");
        keep_writing(&mut tx);
        killed.kill();
        let newest = keep_writing(&mut tx);
        assert_eq!(unsealed(&next(&mut channel.receiver().unwrap()).0), newest);
    }
}

#[cfg(feature = "crash-points")]
thread_local! {
    /// Who writes whenever this thread comes by shared memory.
    static WRITER: std::cell::RefCell<Option<ipc_shm::LatestWriter>> = const { std::cell::RefCell::new(None) };
}

/// Reads while somebody writes at each of the reader's accesses.
#[cfg(feature = "crash-points")]
fn read_overtaken(channel: &LatestChannel) {
    ipc_shm::hooks::observe(|_| {
        // Not at its own accesses.
        if let Some(mut tx) = WRITER.take() {
            for value in [b"one", b"two"] {
                tx.send(value).unwrap();
            }
            WRITER.set(Some(tx));
        }
        None
    });
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"first").unwrap();
    WRITER.set(Some(tx));
    assert!(matches!(rx.read(), Err(RecvError::WouldBlock)));
    say("overtaken");
    let tx = WRITER.take();
    assert_eq!(&*rx.read().unwrap().unwrap(), b"two");
    drop(tx);
}

/// What it takes for that: a writer that is never slower than a copy.
#[cfg(feature = "crash-points")]
#[test]
fn a_reader_that_is_overtaken_at_every_copy_is_told_so_and_goes_on() {
    let arena = Arena::new();
    let _channel = channel(&arena, &small().depth(2));
    let mut reader = Child::spawn("read overtaken", &[arena.path().to_str().unwrap()]);
    reader.says("overtaken");
    reader.ends_well();
}

/// One copy of such a value is as much as is made between two looks at the clock.
#[rstest]
fn long_values_of_a_writer_that_never_rests_are_received(
    #[values(Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
    #[values(true, false)] only_looks_on: bool,
) {
    const LEN: usize = 1 << 20;
    let arena = Arena::new();
    let channel = channel(&arena, &small().depth(8).max_message_len(LEN as u64));
    let mut tx = channel.sender().unwrap();
    let mut rx = channel.receiver().unwrap();
    let mut observer = Latest::at(arena.path()).observe(&name("x")).unwrap();
    rx.set_waiting(waiting);
    observer.set_waiting(waiting);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let give_up = Instant::now() + 2 * PATIENCE;
            for number in (0..).take_while(|_| !stop.load(Ordering::Relaxed) && Instant::now() < give_up) {
                tx.send(&sealed(number, LEN - 24)).unwrap();
            }
        });
        let mut last = None;
        for _ in 0..10 {
            let number = match only_looks_on {
                true => observer.recv_timeout(PATIENCE).map(|value| unsealed(&value)),
                false => rx.recv_timeout(PATIENCE).map(|value| unsealed(&value)),
            };
            let number = Some(number.unwrap());
            assert!(number > last, "{number:?} after {last:?}");
            last = number;
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[rstest]
fn a_reader_that_waits_is_woken(#[values(1, 3)] readers: usize) {
    let arena = Arena::new();
    let channel = channel(&arena, &small());
    let mut waiting: Vec<_> = (0..readers).map(|_| Child::spawn("wait", &[path(&arena)])).collect();
    for reader in &mut waiting {
        reader.says("waiting");
    }
    common::until_asleep(&arena.file("x"), layout::RECEIVERS_ASLEEP - layout::ASLEEP);
    channel.sender().unwrap().send(b"good morning").unwrap();
    for mut reader in waiting {
        reader.says("good morning");
        reader.ends_well();
    }
}

#[test]
fn waits_end_as_they_were_told_to() {
    static CANCEL: Cancel = Cancel::new();
    let arena = Arena::new();
    let channel = channel(&arena, &small());
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"x").unwrap();
    rx.recv().unwrap();
    assert!(matches!(rx.recv_timeout(Duration::from_millis(5)), Err(RecvError::TimedOut)));
    let waiter = thread::spawn(move || rx.advance(Wait::Forever.or_cancel(&CANCEL)).map(drop));
    CANCEL.cancel();
    let answer = within(PATIENCE, move || waiter.join().unwrap());
    assert!(matches!(answer, Err(RecvError::Cancelled)));
    assert!(matches!(tx.send(&[0; MOST + 1]), Err(SendError::TooLong { len: 1001, max: MOST })));
}

#[test]
fn the_end_of_a_stream_comes_after_its_last_value_however_late_one_is() {
    let arena = Arena::new();
    let channel = channel(&arena, &small().depth(2));
    let (mut tx, mut quick) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut slow = channel.receiver().unwrap();
    tx.send_end(Wait::Never).unwrap();
    assert!(matches!(quick.try_recv(), Err(RecvError::End)), "an end with nothing before it");
    assert!(quick.read().unwrap().is_none());
    tx.send(b"older").unwrap();
    tx.send(b"last").unwrap();
    assert_eq!(next(&mut quick), (b"last".to_vec(), 2));
    tx.send_end(Wait::Never).unwrap();
    assert!(matches!(quick.try_recv(), Err(RecvError::End)));
    assert!(matches!(quick.try_recv(), Err(RecvError::WouldBlock)), "once");
    // A second one, and the writer is gone.
    drop(tx);
    channel.sender().unwrap().send_end(Wait::Never).unwrap();
    assert!(matches!(quick.try_recv(), Err(RecvError::End)));
    for rx in [&mut slow, &mut channel.receiver().unwrap()] {
        assert_eq!(next(rx), (b"last".to_vec(), 2), "its own number, not the mark's");
        assert!(matches!(rx.try_recv(), Err(RecvError::End)));
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
        assert_eq!(&*rx.read().unwrap().unwrap(), b"last");
    }
    channel.sender().unwrap().send(b"begun anew").unwrap();
    assert_eq!(next(&mut quick).0, b"begun anew");
}

#[test]
fn a_transient_channel_ends_with_its_last_user_whatever_it_holds() {
    let arena = Arena::new();
    let latest = Latest::at(arena.path());
    let channel = latest.create(&name("x"), &small().transient()).unwrap();
    channel.sender().unwrap().send(b"nobody's").unwrap();
    assert_eq!(arena.entries(), ["x"]);
    drop(channel);
    assert_eq!(arena.entries(), [""; 0]);
}

#[rstest]
#[case::one_slot(ShmConfig::new().depth(1), "give 2 to 256")]
#[case::too_many_slots(ShmConfig::new().depth(257), "give 2 to 256")]
#[case::alone(ShmConfig::new().participants(1), "at least 2")]
#[case::capacity(ShmConfig::new().capacity_bytes(1 << 20), "capacity")]
#[case::policy(ShmConfig::new().when_full(ipc_shm::WhenFull::Wait), "policy")]
#[case::too_large(ShmConfig::new().max_message_len(1 << 40), "too large")]
#[case::far_too_large(ShmConfig::new().max_message_len(u64::MAX), "too large")]
#[case::another_kind(ShmConfig::new().kind(Kind::Mpmc), "kind latest")]
fn settings_that_make_no_sense_are_refused(#[case] config: ShmConfig, #[case] says: &str) {
    let arena = Arena::new();
    match Latest::at(arena.path()).create(&name("x"), &config) {
        Err(ChannelError::InvalidConfig(text)) => assert!(text.contains(says), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(arena.entries(), [""; 0]);
}

#[test]
fn what_is_known_of_a_channel_names_its_kind_and_roles() {
    let arena = Arena::new();
    let channel = channel(&arena, &ShmConfig::new());
    let (mut tx, _rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"1").unwrap();
    let info = Shm::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!((info.kind, info.depth, info.max_message_len_bytes), ("latest", Some(4), Some(4096)));
    assert_eq!(info.sent_messages, Some(1));
    let known: Vec<_> = info.participants.iter().map(|one| (one.role, one.alive, one.position)).collect();
    assert_eq!(known, [(Role::Writer, true, Some(1)), (Role::Reader, true, None)]);
    assert!(matches!(ipc_shm::Mpmc::at(arena.path()).open(&name("x")), Err(ChannelError::Mismatch { .. })));
    let any = Shm::at(arena.path()).open(&name("x")).unwrap();
    assert_eq!(&*any.receiver().unwrap().try_recv().unwrap(), b"1");
}

#[test]
fn a_forked_child_is_told_that_the_endpoints_are_its_parents() {
    let arena = Arena::new();
    let channel = channel(&arena, &small());
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"parent's").unwrap();
    fork_child(|| {
        assert!(matches!(tx.send(b"x"), Err(SendError::Forked)));
        assert!(matches!(tx.send_end(Wait::Never), Err(SendError::Forked)));
        assert!(matches!(rx.try_recv(), Err(RecvError::Forked)));
        assert!(matches!(rx.read(), Err(RecvError::Forked)));
    })
    .ends_well();
    assert_eq!(next(&mut rx).0, b"parent's");
}

/// Every word that is used, in turn, as anything.
#[test]
fn wrong_words_are_reported_or_read_as_something_never_worse() {
    let arena = Arena::new();
    let channel = channel(&arena, &ShmConfig::new().max_message_len(40).depth(3));
    let mut tx = channel.sender().unwrap();
    tx.send(b"a").unwrap();
    tx.send(&[7; 40]).unwrap();
    tx.send_end(Wait::Never).unwrap();
    drop(tx);
    let image = fs::read(arena.file("x")).unwrap();
    let file = OpenOptions::new().write(true).open(arena.file("x")).unwrap();
    let data = image.len() as u64 - 4096;
    let places = [4096].into_iter().chain((data..data + 3 * 128).step_by(8));
    let mut corrupt = 0;
    for place in places {
        let old = u64::from_ne_bytes(image[place as usize..][..8].try_into().unwrap());
        let anything =
            [0, 1, u64::MAX, old ^ 1, old ^ 0xff, old ^ 1 << 63, old + 1, old.wrapping_sub(1), old << 8];
        for new in anything {
            file.write_all_at(&new.to_ne_bytes(), place).unwrap();
            let mut rx = channel.receiver().unwrap();
            let read = rx.read().map(|value| value.map(|value| value.to_vec()));
            let received = rx.recv_timeout(Duration::ZERO).map(|value| value.to_vec());
            corrupt += u64::from(matches!(read, Err(RecvError::Corrupt(_))));
            assert!(!matches!(received, Err(RecvError::Os(_) | RecvError::Closed)), "{received:?}");
            match channel.sender().map(|mut tx| (tx.send_end(Wait::Never), tx.send(b"b"))) {
                Ok((ended, sent)) => {
                    assert!(matches!(ended, Ok(()) | Err(SendError::Corrupt(_))), "{ended:?}");
                    assert!(matches!(sent, Ok(()) | Err(SendError::Corrupt(_))), "{sent:?}");
                }
                Err(error) => assert!(matches!(error, ChannelError::Corrupt(_)), "{error:?}"),
            }
            file.write_all_at(&image[4096..4096 + 8], 4096).unwrap();
            file.write_all_at(&image[data as usize..], data).unwrap();
        }
    }
    assert!(corrupt > 10, "{corrupt}");
}
