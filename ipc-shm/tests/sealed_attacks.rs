//! Hostile peers of sealed broadcasts and newest values: each row of what `ipc_shm::sealed`
//! promises of them, by an attempt.

#[path = "common/attack.rs"]
mod attack;
mod common;

use attack::{
    ALL, Attacker, PAGE, PUBLISHES, READS, RING, SENDS, SUBSCRIBES, WRITES, attacked, attempts_on, greeting,
    greeting_with, lingering, memfd, refused, soon,
};
use common::{Arena, PATIENCE, fork_child, prove, within};
use ipc_shm::{
    Receiver, RecvError, Sender, Wait, Waiting,
    sealed::{
        self, Guest, LinkError, Listener, Peers, SealedConfig, SealedPublisher, SealedReader,
        SealedSubscriber, SealedWriter,
    },
};
use rstest::rstest;
use std::{
    os::fd::AsRawFd,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// A guest that an attacker is, and its page.
fn hostile_guest(part: u32) -> (Guest, Attacker, NonNull<u8>) {
    let arena = Arena::new();
    let (link, attacker) = attacked(&arena);
    let (file, page) = memfd(PAGE as u64, &ALL);
    attacker.send(&greeting(part, 0), &[file.as_raw_fd()]);
    (link.guest(soon()).unwrap(), attacker, page)
}

/// A subscriber whose publisher is the attacker, which says this of its ring.
fn subscriber_of(more: [u64; 3]) -> (Result<SealedSubscriber, LinkError>, Attacker, NonNull<u8>) {
    subscriber_in(RING, more)
}

/// The same of a ring of `bytes`.
fn subscriber_in(bytes: u64, more: [u64; 3]) -> (Result<SealedSubscriber, LinkError>, Attacker, NonNull<u8>) {
    let arena = Arena::new();
    let (link, attacker) = attacked(&arena);
    let (file, memory) = memfd(PAGE as u64 + bytes, &ALL);
    attacker.send(&greeting_with(PUBLISHES, bytes, more), &[file.as_raw_fd()]);
    (link.subscriber(&SealedConfig::new(), soon()), attacker, memory)
}

/// A reader whose writer is the attacker, which says that this is its longest value.
fn reader_of(longest: u64) -> (Result<SealedReader, LinkError>, Attacker, NonNull<u8>) {
    reader_in(RING, longest)
}

/// The same where the writer has `bytes` of memory for values.
fn reader_in(bytes: u64, longest: u64) -> (Result<SealedReader, LinkError>, Attacker, NonNull<u8>) {
    let arena = Arena::new();
    let (link, attacker) = attacked(&arena);
    let (file, memory) = memfd(PAGE as u64 + bytes, &ALL);
    attacker.send(&greeting_with(WRITES, bytes, [longest, 0, 0]), &[file.as_raw_fd()]);
    (link.reader(&SealedConfig::new(), soon()), attacker, memory)
}

fn small() -> SealedConfig {
    SealedConfig::new().capacity_bytes(RING).max_message_len(1000)
}

/// Another subscriber, which is honest.
fn honest(tx: &mut SealedPublisher) -> SealedSubscriber {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let there = thread::spawn(move || {
        let link = sealed::connect(&path, &Peers::ourselves(), soon()).unwrap();
        link.subscriber(&SealedConfig::new(), soon()).unwrap()
    });
    tx.admit(listener.accept(soon()).unwrap().guest(soon()).unwrap()).unwrap();
    there.join().unwrap()
}

#[test]
fn what_many_are_given_none_of_them_can_change() {
    let mut publisher = SealedPublisher::new(&small()).unwrap();
    let (guest, subscriber, _) = hostile_guest(SUBSCRIBES);
    publisher.admit(guest).unwrap();
    publisher.send(b"for all").unwrap();
    let mut rx = honest(&mut publisher);
    // Four slots of 1,024 bytes: a page.
    let mut writer = SealedWriter::new(&small()).unwrap();
    let (guest, reader, _) = hostile_guest(READS);
    writer.admit(guest).unwrap();
    writer.send(b"newest").unwrap();
    for (kind, file) in [("broadcast", subscriber.receive()), ("newest value", reader.receive())] {
        for (attack, outcome) in attempts_on(&file.expect("the peer's memory")) {
            assert!(outcome.starts_with("refused"), "{kind}: {attack}: {outcome}");
            prove(&format!("attack: {kind}: {attack}: {outcome}"));
        }
    }
    publisher.send(b"on we go").unwrap();
    assert_eq!(&*rx.receive(soon()).unwrap(), b"on we go");
}

#[test]
fn a_subscriber_that_always_pretends_to_sleep_holds_up_nobody() {
    let mut tx = SealedPublisher::new(&small()).unwrap();
    let mut rx = honest(&mut tx);
    let (guest, _attacker, page) = hostile_guest(SUBSCRIBES);
    tx.admit(guest).unwrap();
    let asleep = page.as_ptr().addr() + 384;
    let stop = Arc::new(AtomicBool::new(false));
    let liar = thread::spawn({
        let stop = stop.clone();
        move || {
            let mut number = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                // SAFETY: mapped for good, aligned, and used by atomics only.
                unsafe { &*(asleep as *const AtomicU32) }.store(number, Ordering::Relaxed);
            }
        }
    });
    for number in 0..2000_u32 {
        tx.try_send(&number.to_ne_bytes()).unwrap();
        assert_eq!(*rx.receive(soon()).unwrap(), number.to_ne_bytes());
    }
    stop.store(true, Ordering::Relaxed);
    liar.join().unwrap();
}

#[test]
fn a_subscriber_that_talks_is_hung_up_on_and_the_others_are_not() {
    let mut tx = SealedPublisher::new(&small()).unwrap();
    let mut rx = honest(&mut tx);
    let (guest, attacker, _) = hostile_guest(SUBSCRIBES);
    tx.admit(guest).unwrap();
    assert_eq!(tx.subscribers(), 2);
    attacker.send(b"blah blah", &[]);
    assert_eq!(tx.subscribers(), 1);
    tx.send(b"on we go").unwrap();
    assert_eq!(&*rx.receive(soon()).unwrap(), b"on we go");
}

/// What one end does with another one that has left, unread, a descriptor that can't be closed.
#[rstest]
#[case::counted(|tx: &mut SealedPublisher, _: &Attacker| assert_eq!(tx.subscribers(), 1))]
#[case::sent_to(|tx: &mut SealedPublisher, attacker: &Attacker| {
    while !attacker.is_hung_up_on() {
        (0..256).for_each(|_| tx.send(b"x").unwrap());
    }
})]
fn what_a_subscriber_leaves_in_its_socket_holds_up_nobody(
    #[case] find_out: fn(&mut SealedPublisher, &Attacker),
) {
    let mut tx = SealedPublisher::new(&small()).unwrap();
    let (guest, attacker, _) = hostile_guest(SUBSCRIBES);
    tx.admit(guest).unwrap();
    let mut rx = honest(&mut tx);
    let (stream, _never_reads) = lingering();
    attacker.send(b"blah", &[stream.as_raw_fd()]);
    drop(stream);
    attacker.receive().expect("the publisher's memory");
    within(PATIENCE, move || {
        find_out(&mut tx, &attacker);
        assert!(attacker.is_hung_up_on());
        // Nor who forks.
        fork_child(|| {}).ends_well();
        while !matches!(rx.try_recv().map(drop), Err(RecvError::WouldBlock)) {}
        tx.send(b"on we go").unwrap();
        assert_eq!(&*rx.receive(soon()).unwrap(), b"on we go");
    });
}

/// Whom nobody is permitted to be.
fn nobody() -> Peers {
    Peers::new().user(12_345)
}

/// What ends a connection on which such a descriptor came.
#[rstest]
#[case::dropped(Peers::ourselves(), 1, |listener: Listener| drop(listener.accept(soon()).unwrap()))]
#[case::not_permitted(nobody(), 1, |listener: Listener| {
    assert!(matches!(listener.accept(soon()), Err(LinkError::NotPermitted(_))));
})]
#[case::not_accepted(Peers::ourselves(), 1, |listener: Listener| drop(listener))]
#[case::one_of_many(Peers::ourselves(), 6, |listener: Listener| {
    refused(&listener.accept(soon()).unwrap().guest(soon()).unwrap_err(), "6 descriptors");
})]
#[case::with_a_capacity_that_is_none(Peers::ourselves(), 1, |listener: Listener| {
    let link = listener.accept(soon()).unwrap();
    refused(&link.receiver(&SealedConfig::new(), soon()).unwrap_err(), "whole pages");
})]
fn a_descriptor_that_can_not_be_closed_holds_up_nobody(
    #[case] peers: Peers,
    #[case] count: usize,
    #[case] end: fn(Listener),
) {
    let arena = Arena::new();
    let listener = Listener::bind(arena.file("s"), peers).unwrap();
    let attacker = Attacker::connect(&arena.file("s"));
    let (stream, _never_reads) = lingering();
    let (file, _) = memfd(PAGE as u64, &ALL);
    let mut descriptors = vec![file.as_raw_fd(); count];
    descriptors[count - 1] = stream.as_raw_fd();
    let part = if count == 1 { SENDS } else { SUBSCRIBES };
    attacker.send(&greeting_with(part, 1, [0; 3]), &descriptors);
    drop(stream);
    within(PATIENCE, move || {
        end(listener);
        assert!(attacker.is_hung_up_on());
        fork_child(|| {}).ends_well();
    });
}

#[test]
fn a_guest_that_does_not_do_its_part_is_refused_when_time_is_over() {
    let briefly = || Wait::timeout(Duration::from_millis(30));
    let guest = |bytes: &[u8], len: u64, seals: &[i32]| {
        let arena = Arena::new();
        let (link, attacker) = attacked(&arena);
        let (file, _) = memfd(len, seals);
        if !bytes.is_empty() {
            attacker.send(bytes, &[file.as_raw_fd()]);
        }
        link.guest(briefly()).map(drop).unwrap_err()
    };
    let silent = guest(b"", PAGE as u64, &ALL);
    assert!(matches!(silent, LinkError::TimedOut), "{silent:?}");
    refused(&guest(b"hello", PAGE as u64, &ALL), "5 bytes");
    refused(&guest(&greeting(SUBSCRIBES, 0), 2 * PAGE as u64, &ALL), "has 8192 bytes");
    refused(&guest(&greeting(READS, 0), PAGE as u64, &ALL[..3]), "written to by others");
    refused(&guest(&greeting(PUBLISHES, RING), PAGE as u64 + RING, &ALL), "one of the two has to subscribe");
}

#[test]
fn what_a_publisher_or_writer_says_of_its_memory_is_checked() {
    for more in [[0, 1 << 63, 0], [0, 4, 0], [0, u64::MAX, 0], [0, 0, 1], [0, 160, 11]] {
        refused(&subscriber_of(more).0.unwrap_err(), "publisher 1's");
    }
    for longest in [RING, u64::MAX, 1 << 40, RING - 8] {
        refused(&reader_of(longest).0.unwrap_err(), "no room");
    }
}

/// What a call came to: a message, corrupt, nothing.
fn count(answers: &mut [u64; 3], answer: Result<usize, RecvError>) {
    match answer {
        Ok(len) => {
            assert!(len <= RING as usize);
            answers[0] += 1;
        }
        Err(RecvError::Corrupt(_)) => answers[1] += 1,
        Err(RecvError::WouldBlock | RecvError::End | RecvError::Lagged { .. }) => answers[2] += 1,
        Err(other) => panic!("{other:?}"),
    }
}

const CHANGES: [fn(u8) -> u8; 4] = [|_| 0, |_| 0xff, |byte| byte ^ 1, |byte| byte.wrapping_sub(1)];

/// A victim for each change, since what one took to be corrupt stays so.
#[rstest]
#[case::of_a_ring(true)]
#[case::of_values(false)]
fn whatever_each_byte_is_changed_to_every_call_answers(#[case] is_ring: bool) {
    let put = |memory: NonNull<u8>, at: usize, byte: u8| {
        // SAFETY: within our own mapping, which the victim only reads, by atomics.
        unsafe { memory.as_ptr().wrapping_add(at).write_volatile(byte) };
    };
    let mut image = vec![0_u8; PAGE + RING as usize];
    let mut word = |at: usize, word: u64| image[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    if is_ring {
        // Three messages of 8 bytes, by a publisher that has a generation and is entered.
        [(512, 1), (640, 1), (768, 72), (896, 512)].into_iter().for_each(|(at, value)| word(at, value));
        for number in 0..3_usize {
            word(PAGE + 24 * number, 8 << 8 | 1);
            word(PAGE + 24 * number + 8, number as u64);
        }
        word(PAGE + 80, 3);
    } else {
        // Version 1 in slot 0: 8 bytes.
        [(512, 1 << 8), (PAGE, 1), (PAGE + 8, 8 << 8 | 1)]
            .into_iter()
            .for_each(|(at, value)| word(at, value));
    }
    let mut answers = [0; 3];
    let words = (256..264).chain(384..392).chain(512..1088).chain(PAGE..PAGE + 96);
    for at in words.filter(|at| at % 8 < 2 || at % 8 == 7) {
        for change in CHANGES {
            let fill = |memory| image.iter().enumerate().for_each(|(at, &byte)| put(memory, at, byte));
            if is_ring {
                let (rx, _attacker, memory) = subscriber_of([0; 3]);
                let mut rx = rx.unwrap();
                fill(memory);
                count(&mut answers, rx.try_recv().map(|message| message.len()));
                put(memory, at, change(image[at]));
                (0..4).for_each(|_| count(&mut answers, rx.try_recv().map(|message| message.len())));
            } else {
                let (rx, _attacker, memory) = reader_of(1000);
                let mut rx = rx.unwrap();
                fill(memory);
                put(memory, at, change(image[at]));
                count(&mut answers, rx.try_recv().map(|value| value.len()));
                count(&mut answers, rx.read().map(|value| value.map_or(0, |value| value.len())));
            }
        }
    }
    let [messages, corrupt, nothing] = answers;
    prove(&format!(
        "sealed: bytes changed (ring: {is_ring}): {messages} messages, {corrupt} times corrupt, {nothing} nothing"
    ));
    assert!(corrupt > 0 && messages > 0 && nothing > 0);
}

#[rstest]
#[case::subscriber(true)]
#[case::reader(false)]
fn who_waits_is_not_held_up_by_a_peer_that_rings_all_the_time(#[case] is_subscriber: bool) {
    let (subscriber, _one, ring) = subscriber_of([0; 3]);
    let (reader, _other, slots) = reader_of(1000);
    let memory = if is_subscriber { ring } else { slots };
    let bell = memory.as_ptr().addr() + 256;
    let stop = Arc::new(AtomicBool::new(false));
    let peer = thread::spawn({
        let stop = stop.clone();
        move || {
            let mut number = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                // SAFETY: mapped for good, aligned, and used by atomics only.
                unsafe { &*(bell as *const AtomicU32) }.store(number, Ordering::Relaxed);
            }
        }
    });
    let (mut subscriber, mut reader) = (subscriber.unwrap(), reader.unwrap());
    subscriber.set_waiting(Waiting::Block);
    reader.set_waiting(Waiting::Block);
    let answer = within(PATIENCE, move || match is_subscriber {
        true => subscriber.recv_timeout(Duration::from_millis(50)).map(drop),
        false => reader.recv_timeout(Duration::from_millis(50)).map(drop),
    });
    assert!(matches!(answer, Err(RecvError::TimedOut)), "{answer:?}");
    stop.store(true, Ordering::Relaxed);
    peer.join().unwrap();
}

#[test]
fn a_publisher_that_talks_on_the_socket_is_corrupt() {
    let (rx, attacker, _) = subscriber_of([0; 3]);
    attacker.send(b"blah blah", &[]);
    assert!(matches!(rx.unwrap().receive(soon()).map(drop), Err(RecvError::Corrupt(_))));
}

/// What the peers have that make one copy in vain: as much as takes a while to copy.
const MUCH: u64 = 16 << 20;
/// Some copies of that, and a busy machine: a fraction of what it takes to copy it all the time.
const A_FEW_COPIES: Duration = Duration::from_secs(3);

/// The attacker's memory, whose words it stores to as it likes.
#[derive(Clone, Copy)]
struct Theirs(usize);

impl Theirs {
    fn store(self, at: usize, word: u64) {
        // SAFETY: mapped for good, aligned, and used by atomics only.
        unsafe { &*((self.0 + at) as *const AtomicU64) }.store(word, Ordering::SeqCst);
    }
}

/// Has the attacker do this with ever larger numbers, until the answer is there.
fn while_it<T: Send + 'static>(
    step: impl Fn(u64) + Send + 'static,
    victim: impl FnOnce() -> T + Send + 'static,
) -> T {
    let stop = Arc::new(AtomicBool::new(false));
    let (started, is_started) = std::sync::mpsc::channel();
    let attacker = thread::spawn({
        let stop = stop.clone();
        move || {
            for number in 1.. {
                step(number);
                let _ = started.send(());
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_micros(100));
            }
        }
    });
    is_started.recv().unwrap();
    let answer = within(A_FEW_COPIES, victim);
    stop.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    answer
}

/// A reader of one slot, to which nothing was ever written, and whose number of the newest version
/// is another one all the time.
fn reader_of_what_never_settles() -> (SealedReader, Attacker, impl Fn(u64) + Send + 'static) {
    let (rx, attacker, memory) = reader_in(MUCH, MUCH - 128);
    let memory = Theirs(memory.as_ptr().addr());
    memory.store(PAGE + 8, (MUCH - 128) << 8 | 1);
    (rx.unwrap(), attacker, move |version| memory.store(512, version << 8))
}

/// A subscriber whose publisher has one long message, and is about to overwrite it all the time.
fn subscriber_that_is_always_overtaken() -> (SealedSubscriber, Attacker, impl Fn(u64) + Send + 'static) {
    let (rx, attacker, memory) = subscriber_in(MUCH, [0; 3]);
    let memory = Theirs(memory.as_ptr().addr());
    memory.store(PAGE, (MUCH - 32) << 8 | 1);
    [(512, 1), (640, 1), (896, MUCH)].into_iter().for_each(|(at, word)| memory.store(at, word));
    let step = move |lap| {
        memory.store(1024, lap * MUCH);
        memory.store(896, (lap + 1) * MUCH);
    };
    (rx.unwrap(), attacker, step)
}

#[rstest]
fn who_waits_is_not_held_up_by_a_peer_that_has_it_copy_in_vain(
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
    #[values(true, false)] is_subscriber: bool,
) {
    let briefly = Duration::from_millis(50);
    let answer = if is_subscriber {
        let (mut rx, _attacker, step) = subscriber_that_is_always_overtaken();
        rx.set_waiting(waiting);
        while_it(step, move || rx.recv_timeout(briefly).map(drop))
    } else {
        let (mut rx, _attacker, step) = reader_of_what_never_settles();
        rx.set_waiting(waiting);
        while_it(step, move || rx.recv_timeout(briefly).map(drop))
    };
    assert!(matches!(answer, Err(RecvError::TimedOut)), "{answer:?}");
}

#[rstest]
#[case::subscriber_that_tries(true, false)]
#[case::reader_that_tries(false, false)]
#[case::reader_that_reads(false, true)]
fn who_does_not_wait_is_not_held_up_by_it_either(#[case] is_subscriber: bool, #[case] reads: bool) {
    let answer = if is_subscriber {
        let (mut rx, _attacker, step) = subscriber_that_is_always_overtaken();
        while_it(step, move || rx.try_recv().map(drop))
    } else {
        let (mut rx, _attacker, step) = reader_of_what_never_settles();
        while_it(step, move || if reads { rx.read().map(drop) } else { rx.try_recv().map(drop) })
    };
    assert!(matches!(answer, Err(RecvError::WouldBlock)), "{answer:?}");
}

#[rstest]
fn who_waits_briefly_again_and_again_is_told_that_the_peer_is_gone(
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
    // It does something else meanwhile: then the time to look falls between two waits.
    #[values(0, 20)] busy_ms: u64,
) {
    let (rx, attacker, _) = subscriber_of([0; 3]);
    let mut rx = rx.unwrap();
    rx.set_waiting(waiting);
    drop(attacker);
    let answer = within(PATIENCE, move || {
        loop {
            match rx.recv_timeout(Duration::from_millis(5)).map(drop) {
                Err(RecvError::TimedOut) => thread::sleep(Duration::from_millis(busy_ms)),
                answer => return answer,
            }
        }
    });
    assert!(matches!(answer, Err(RecvError::PeerDied)), "{answer:?}");
}
