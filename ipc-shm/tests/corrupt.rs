//! Bytes that no correct peer writes: every one of them in turn, and many at once while
//! messages pass. The outcome is `Corrupt`, a time-out or service, never a panic, a signal
//! or a hang: it all happens in child processes, whose end tells.

mod common;

use common::{Arena, Child, Dice, layout, name, say, serve};
use ipc_shm::{
    Batch, BatchReceiver, Channel, ChannelError, EndMark, Loan, Message, Receiver, RecvError, SendError,
    Sender, ShmConfig, Spsc, SpscChannel, SpscReceiver, SpscSender, Transport, Wait, Waiting,
};
use rstest::rstest;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let mut spoiled = Spoiled::new(Path::new(&arguments[0]));
        match role {
            "bytes" => spoiled.bytes(&arguments[1]),
            "words" => spoiled.words(&arguments[1]),
            "mutator" => keep_changing(Path::new(&arguments[0])),
            other => panic!("no such child: {other}"),
        }
    });
}

/// When the damage is done.
const WHEN: [&str; 2] = ["before they attach", "while they are attached"];

#[rstest]
fn any_single_byte_may_be_wrong(#[values(0, 1)] when: usize) {
    let arena = Arena::new();
    let mut child = Child::spawn("bytes", &[arena.path().to_str().unwrap(), WHEN[when]]);
    let mut cases = 0;
    loop {
        // It reports now and then, so that a hang is noticed, and where.
        match child.line().as_str() {
            "done" => break,
            _ => cases += 1,
        }
    }
    assert!(cases > 0);
    child.ends_well();
}

#[rstest]
fn any_single_word_may_be_anything(#[values(0, 1)] when: usize) {
    let arena = Arena::new();
    let mut child = Child::spawn("words", &[arena.path().to_str().unwrap(), WHEN[when]]);
    while child.line() != "done" {}
    child.ends_well();
}

// Where the records are in the ring of a `Spoiled`, the long one over its end.
const FIRST_RECORD: u64 = 3 * 1008 + 928;
const END_MARK: u64 = FIRST_RECORD + 24 + 8 + 312 - 4096;
const BEHIND_THE_LAST: u64 = END_MARK + 8 + 16 + 8;

/// A channel that is spoiled, used and restored, again and again.
struct Spoiled {
    shm: Spsc,
    path: PathBuf,
    image: Vec<u8>,
}

impl Spoiled {
    /// A small channel that has been round once, with messages and an end mark in it, and
    /// one message over the end of the ring.
    fn new(directory: &Path) -> Self {
        let shm = Spsc::at(directory);
        let path = directory.join("x");
        let channel = shm.create(&name("x"), &ShmConfig::new().capacity_bytes(4096)).unwrap();
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        for len in [1000, 1000, 1000, 916] {
            tx.try_send(&vec![1; len]).unwrap();
            rx.try_recv().unwrap();
        }
        tx.try_send(b"a message").unwrap();
        tx.try_send(b"").unwrap();
        tx.try_send(&[2; 300]).unwrap();
        tx.send_end(Wait::Never).unwrap();
        tx.try_send(b"the last").unwrap();
        drop((tx, rx, channel));
        let image = fs::read(&path).unwrap();
        assert_eq!(common::read_word(&path, layout::DATA + FIRST_RECORD), 9 << 8 | 1);
        assert_eq!(common::read_word(&path, layout::DATA + END_MARK), 3);
        Self { shm, path, image }
    }

    /// Where there is anything: the header, both role pages as far as they are used and a
    /// little further, and the ring from the first record to behind the last one.
    fn places(&self) -> impl Iterator<Item = u64> + use<> {
        let used = (0..136)
            .chain(layout::SENDER..layout::SENDER + 272)
            .chain(layout::RECEIVER..layout::RECEIVER + 272)
            .chain(layout::DATA + FIRST_RECORD..layout::DATA + 4096)
            .chain(layout::DATA..layout::DATA + BEHIND_THE_LAST);
        let unused = (136..layout::DATA).step_by(251);
        used.chain(unused)
    }

    fn bytes(&mut self, when: &str) {
        let changes: [fn(u8) -> u8; 6] =
            [|_| 0, |_| 0xff, |b| b ^ 1, |b| b ^ 0x80, |b| b.wrapping_add(1), |b| b.wrapping_sub(1)];
        for (number, place) in self.places().enumerate() {
            if number % 50 == 0 {
                say(&format!("at byte {place}"));
            }
            let old = self.image[place as usize];
            for change in changes {
                let new = change(old);
                if new != old {
                    self.spoil(when, place, &[new]);
                }
            }
        }
        say("done");
    }

    fn words(&mut self, when: &str) {
        let pages = [layout::SENDER, layout::RECEIVER].map(|page| (page..page + 272).step_by(8));
        let first = (layout::DATA + FIRST_RECORD..layout::DATA + FIRST_RECORD + 48).step_by(8);
        let last = (layout::DATA + END_MARK..layout::DATA + BEHIND_THE_LAST).step_by(8);
        for place in pages.into_iter().flatten().chain(first).chain(last) {
            say(&format!("at word {place}"));
            let old = u64::from_ne_bytes(self.image[place as usize..][..8].try_into().unwrap());
            let positions = [0, 8, 4096, 1 << 32, (1 << 63) - 8, 1 << 63, u64::MAX - 7, u64::MAX];
            let records = [1, 2, 3, 7, 4080 << 8 | 1, 4081 << 8 | 1, u64::MAX << 8 | 1];
            let beside = [8_u64, 4088, 4096].into_iter();
            let beside = beside.flat_map(|by| [old.wrapping_add(by), old.wrapping_sub(by)]);
            for new in positions.into_iter().chain(records).chain(beside).filter(|&new| new != old) {
                self.spoil(when, place, &new.to_ne_bytes());
            }
        }
        say("done");
    }

    /// Restores the channel, changes some bytes of it and uses it in every way there is.
    fn spoil(&mut self, when: &str, place: u64, bytes: &[u8]) {
        fs::write(&self.path, &self.image).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&self.path).unwrap();
        let endpoints = (when == WHEN[1]).then(|| {
            let channel = self.shm.open(&name("x")).unwrap();
            (channel.sender().unwrap(), channel.receiver().unwrap(), channel)
        });
        let started = Instant::now();
        file.write_all_at(bytes, place).unwrap();
        self.look();
        match endpoints {
            Some((tx, rx, _channel)) => use_both(tx, rx),
            None => match self.shm.open(&name("x")) {
                Ok(channel) => attach_and_use(&channel),
                // A lifetime may have turned into the other one, of a channel that seems empty.
                Err(ChannelError::Corrupt(_) | ChannelError::NotFound) => {}
                Err(error) => panic!("{place}, {bytes:?}: {error:?}"),
            },
        }
        self.look();
        let taken = started.elapsed();
        assert!(taken < Duration::from_secs(5), "{place}, {bytes:?}: it took {taken:?}");
    }

    fn look(&self) {
        match self.shm.stat(&name("x")) {
            Ok(_) | Err(ChannelError::Corrupt(_) | ChannelError::NotFound) => {}
            Err(error) => panic!("stat: {error:?}"),
        }
    }
}

/// Each end alone: the one that is corrupt mustn't hide the other one.
fn attach_and_use(channel: &SpscChannel) {
    let receiver = channel.receiver();
    let sender = channel.sender();
    match (sender, receiver) {
        (Ok(tx), Ok(rx)) => use_both(tx, rx),
        (Ok(tx), Err(ChannelError::Corrupt(_))) => drop(send_some(tx)),
        (Err(ChannelError::Corrupt(_)), Ok(rx)) => drop(receive_some(rx)),
        (Err(ChannelError::Corrupt(_)), Err(ChannelError::Corrupt(_))) => {}
        // What was opened was of another instance.
        (Err(ChannelError::NotFound), _) | (_, Err(ChannelError::NotFound)) => {}
        (sender, receiver) => panic!("{:?}, {:?}", sender.map(drop), receiver.map(drop)),
    }
}

fn use_both(tx: SpscSender, rx: SpscReceiver) {
    let tx = send_some(tx);
    let rx = receive_some(rx);
    // Room was made, and perhaps it is found.
    send_some(tx);
    receive_some(rx);
}

fn expected_of_a_sender<T>(answer: Result<T, SendError>) -> Option<T> {
    match answer {
        Ok(done) => Some(done),
        Err(SendError::WouldBlock | SendError::TimedOut | SendError::Corrupt(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn expected_of_a_receiver<T>(answer: Result<T, RecvError>) -> Option<T> {
    match answer {
        Ok(done) => Some(done),
        Err(RecvError::WouldBlock | RecvError::TimedOut | RecvError::Corrupt(_) | RecvError::End) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn send_some(mut tx: SpscSender) -> SpscSender {
    for len in [0, 1, 8, 100, 3000, 4080] {
        if let Some(mut loan) = expected_of_a_sender(tx.loan(len, Wait::Never)) {
            assert_eq!(loan.len(), len);
            loan.fill(3);
            if len == 100 {
                loan.truncate(50);
            }
            expected_of_a_sender(loan.commit(Wait::Never).map_err(|rejected| rejected.error));
        }
    }
    expected_of_a_sender(tx.send_end(Wait::Never));
    tx.set_waiting(Waiting::Block);
    expected_of_a_sender(tx.send_timeout(b"x", Duration::ZERO));
    tx
}

fn receive_some(mut rx: SpscReceiver) -> SpscReceiver {
    let touch = |message: &[u8]| message.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    if let Some(message) = expected_of_a_receiver(rx.try_recv()) {
        touch(&message);
        message.keep();
    }
    for max in [1, 3, 1000] {
        if expected_of_a_receiver(rx.advance_batch(max, Wait::Never)).is_some() {
            let batch = rx.held_batch();
            batch.iter().map(touch).for_each(|_sum| {});
            batch.release(2);
        }
    }
    // As often as there can be records in it, and more.
    for _ in 0..600 {
        match rx.try_recv() {
            Ok(message) => assert!(touch(&message) < u64::MAX),
            Err(RecvError::End) => {}
            other => {
                expected_of_a_receiver(other);
                break;
            }
        }
    }
    rx.set_waiting(Waiting::Block);
    expected_of_a_receiver(rx.recv_timeout(Duration::ZERO).map(drop));
    rx
}

#[test]
fn a_mutator_that_changes_words_all_the_time_is_borne() {
    let arena = Arena::new();
    let mut child = Child::spawn("mutator", &[arena.path().to_str().unwrap()]);
    let told = child.line();
    let figures: Vec<u64> = told.split(' ').map(|figure| figure.parse().unwrap()).collect();
    assert!(figures.iter().all(|&figure| figure > 100), "changes, sent, received: {told}");
    child.ends_well();
}

/// Two seconds of traffic, with a thread that knows nothing of Rust's rules: it writes to
/// the file.
fn keep_changing(directory: &Path) {
    let path = directory.join("x");
    let image = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let over = AtomicBool::new(false);
    let (changed, sent, received) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let shm = Spsc::at(directory);
    thread::scope(|scope| {
        let threads = [
            scope.spawn(|| change(&file, &image, &changed, &over)),
            scope.spawn(|| keep_sending(&shm, &sent, &over)),
            scope.spawn(|| keep_receiving(&shm, &received, &over)),
        ];
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && threads.iter().all(|thread| !thread.is_finished()) {
            thread::sleep(Duration::from_millis(5));
        }
        over.store(true, Ordering::Relaxed);
    });
    let figures = [changed, sent, received].map(|figure| figure.into_inner().to_string());
    say(&figures.join(" "));
}

fn change(file: &File, image: &[u8], changed: &AtomicU64, over: &AtomicBool) {
    let mut dice = Dice::new(5);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..1 + dice.below(8) {
            let place = match dice.below(4) {
                0 => layout::SENDER + 8 * dice.below(34),
                1 => layout::RECEIVER + 8 * dice.below(34),
                _ => layout::DATA + 8 * dice.below(512),
            };
            let value = match dice.below(4) {
                0 => dice.roll(),
                1 => dice.below(4096) << 8 | 1,
                2 => dice.below(1 << 20) * 8,
                _ => 0,
            };
            file.write_all_at(&value.to_ne_bytes(), place).unwrap();
            changed.fetch_add(1, Ordering::Relaxed);
        }
        if dice.below(4) == 0 {
            // Whatever was kept of it: as it was, or nobody could attach any more.
            file.write_all_at(&image[4096..], 4096).unwrap();
        }
        thread::sleep(Duration::from_micros(dice.below(100)));
    }
}

fn keep_sending(shm: &Spsc, sent: &AtomicU64, over: &AtomicBool) {
    let mut dice = Dice::new(6);
    while !over.load(Ordering::Relaxed) {
        let mut tx = match shm.open(&name("x")).unwrap().sender() {
            Ok(tx) => tx,
            Err(ChannelError::Corrupt(_)) => continue,
            Err(error) => panic!("{error:?}"),
        };
        for _ in 0..100 {
            let wait = Wait::timeout(Duration::from_micros(dice.below(300)));
            match tx.send_wait(&vec![4; dice.below(300) as usize], wait) {
                Ok(()) => drop(sent.fetch_add(1, Ordering::Relaxed)),
                Err(SendError::TimedOut) => {}
                Err(SendError::Corrupt(_)) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

fn keep_receiving(shm: &Spsc, received: &AtomicU64, over: &AtomicBool) {
    let mut dice = Dice::new(7);
    while !over.load(Ordering::Relaxed) {
        let mut rx = match shm.open(&name("x")).unwrap().receiver() {
            Ok(rx) => rx,
            Err(ChannelError::Corrupt(_)) => continue,
            Err(error) => panic!("{error:?}"),
        };
        for _ in 0..100 {
            let wait = Wait::timeout(Duration::from_micros(dice.below(300)));
            match rx.advance_batch(5, wait) {
                Ok(_) => {
                    let batch = rx.held_batch();
                    received.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    batch.release_all();
                }
                Err(RecvError::TimedOut | RecvError::End) => {}
                Err(RecvError::Corrupt(_)) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
