//! Bytes that no correct peer writes: every one of them in turn, and many at once while
//! messages pass. The outcome is `Corrupt`, a time-out or service, never a panic, a signal
//! or a hang: it all happens in child processes, whose end tells.
//!
//! In every kind of channel there is, in every [state](State), before it is opened and
//! [while it is used](When). By default a sample of the bytes is changed; all of them with
//! `IPC_SHM_LONG_RUN` set (`cargo xtask hostile`), which takes a quarter of an hour for a kind
//! with a processor to itself.

#[path = "../common/mod.rs"]
mod common;
mod mutator;
mod scenes;
mod users;

use common::{Arena, Child, name, prove, say, serve};
use ipc_shm::{
    BatchReceiver, Channel, Client, Kind, Mpmc, Request, Rpc, SendError, Sender, Server, ShmConfig,
    Transport, Wait,
};
use scenes::{Stage, State, When, variants};
use std::{
    env,
    fs::File,
    ops::{AddAssign, Range},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};
use users::{Found, Users, opened};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let directory = Path::new(&arguments[0]);
        let number = |at: usize| arguments[at].parse::<u64>().unwrap();
        let (_, config) = variants(kind(&arguments[1])).swap_remove(number(2) as usize);
        match role {
            "mutator" => mutator::keep_changing(directory, &config, number(3)),
            damage => {
                let damage = Damage::ALL.into_iter().find(|known| known.role() == damage).unwrap();
                let mut stage = Stage::new(directory, &config);
                damage.all_over(&mut stage, directory, number(3)..number(4), number(5) as usize);
            }
        }
    });
}

fn kind(text: &str) -> Kind {
    text.parse().unwrap()
}

fn is_long_run() -> bool {
    env::var_os("IPC_SHM_LONG_RUN").is_some()
}

/// What is changed at a time.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Byte,
    Word,
}

impl Damage {
    const ALL: [Self; 2] = [Self::Byte, Self::Word];

    fn role(self) -> &'static str {
        match self {
            Self::Byte => "bytes",
            Self::Word => "words",
        }
    }

    fn len_bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 8,
        }
    }

    /// What is put in the place of what is there.
    fn changes(self, old: &[u8]) -> Vec<Vec<u8>> {
        let mut changes: Vec<Vec<u8>> = match self {
            Self::Byte => {
                let byte = old[0];
                let flips = (0..8).map(|bit| byte ^ 1 << bit);
                let all = [0, 0xff, byte.wrapping_add(1), byte.wrapping_sub(1)].into_iter().chain(flips);
                all.map(|new| vec![new]).collect()
            }
            Self::Word => words(old.try_into().unwrap()).into_iter().map(Vec::from).collect(),
        };
        changes.sort();
        changes.dedup();
        changes.retain(|new| new != old);
        changes
    }

    /// In a child: spoils this part of a channel in every state, at `most` places each time.
    fn all_over(self, stage: &mut Stage, directory: &Path, part: Range<u64>, most: usize) {
        let images = State::ALL.map(|state| stage.image(state));
        let mut tally = Tally::default();
        let mut case = File::create(directory.join(CASE)).unwrap();
        for (number, (state, image)) in State::ALL.into_iter().zip(&images).enumerate() {
            for (turn, when) in When::ALL.into_iter().enumerate() {
                // Others in each turn, so that all together they leave out little.
                let places = self.places(&images, &part, most, number * When::ALL.len() + turn);
                tally.bytes += (places.len() * self.len_bytes()) as u64;
                for (count, place) in places.into_iter().enumerate() {
                    if count % 50 == 0 {
                        say(&format!("at byte {place}, {state:?}, {when:?}"));
                    }
                    for new in self.changes(&image[place as usize..][..self.len_bytes()]) {
                        note(&mut case, &format!("byte {place} becomes {new:?}, {state:?}, {when:?}"));
                        let polls = tally.changes % 64 == 0;
                        tally.add(spoil(stage, image, when, (place, &new), polls));
                    }
                }
            }
        }
        say(&format!("done {} {} {}", tally.bytes, tally.changes, tally.corrupt));
    }

    /// At most so many places of this part, four fifths of them where anything was ever
    /// written in any state; other ones with another `offset`.
    fn places(self, images: &[Vec<u8>], part: &Range<u64>, most: usize, offset: usize) -> Vec<u64> {
        let is_used = |place: &u64| {
            // The whole word counts: its other bytes may be written some time.
            let word = *place as usize / 8 * 8;
            images.iter().any(|image| image[word..word + 8] != [0; 8])
        };
        let (used, unused): (Vec<u64>, Vec<u64>) = part.clone().step_by(self.len_bytes()).partition(is_used);
        let sample = |places: Vec<u64>, most: usize| {
            let step = places.len().div_ceil(most).max(1);
            // Odd, so that it isn't always the same byte of a word.
            let step = if step == 1 { 1 } else { step | 1 };
            places.into_iter().skip(offset * 7 % step).step_by(step)
        };
        let rarely = match self {
            Self::Word if most == EVERYWHERE => unused.len().div_ceil(7),
            _ => most.div_ceil(5),
        };
        sample(used, most - rarely + 1).chain(sample(unused, rarely.max(1))).collect()
    }
}

/// Values at the edges of what positions, records and slots' words can be.
fn words(old: [u8; 8]) -> Vec<[u8; 8]> {
    let old = u64::from_ne_bytes(old);
    let positions = [0, 8, 4096, 1 << 32, (1 << 63) - 8, 1 << 63, u64::MAX - 4095, u64::MAX - 7, u64::MAX];
    let records = [1, 2, 3, 7, 4080 << 8 | 1, 4081 << 8 | 1, u64::MAX << 8 | 1];
    // Beside a position, a length, an attempt, an owner, a turn.
    let steps = [8, 4088, 4096, 1 << 8, 1 << 24, 1 << 25, 1 << 62];
    let beside = steps.into_iter().flat_map(|by| [old.wrapping_add(by), old.wrapping_sub(by)]);
    positions.into_iter().chain(records).chain(beside).map(u64::to_ne_bytes).collect()
}

/// What was tried, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    bytes: u64,
    changes: u64,
    corrupt: u64,
}

impl Tally {
    fn add(&mut self, found: Found) {
        self.changes += 1;
        self.corrupt += u64::from(found.is_corrupt);
    }

    /// What a child has said at its end.
    fn parse(words: &str) -> Self {
        let mut numbers = words.split(' ').map(|word| word.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Self { bytes: next(), changes: next(), corrupt: next() }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.changes += other.changes;
        self.corrupt += other.corrupt;
    }
}

/// Nothing that is tried takes more than milliseconds; but the machine may be busy.
const HANG: Duration = Duration::from_secs(15);

/// Restores the channel, changes some bytes of it and uses it in every way there is.
fn spoil(stage: &mut Stage, image: &[u8], when: When, (place, new): (u64, &[u8]), polls: bool) -> Found {
    stage.restore(image);
    let mut users = (when != When::Before).then(|| Users::attach(stage.open().unwrap()));
    if let Some(users) = users.as_mut().filter(|_| when == When::Holding) {
        users.hold();
    }
    let started = Instant::now();
    stage.spoil(place, new);
    let mut found = stage.look();
    match users.or_else(|| opened(stage.open()).map(Users::attach)) {
        Some(mut users) => {
            if polls {
                users.poll();
            }
            found = found.and(users.use_both());
        }
        None => found.is_corrupt = true,
    }
    found = found.and(stage.look());
    let taken = started.elapsed();
    assert!(taken < HANG, "it took {taken:?}");
    found
}

/// The file in which a child notes what it is about to try, for when it doesn't survive that.
const CASE: &str = "case";

fn note(file: &mut File, case: &str) {
    file.write_all_at(format!("{case:<100}").as_bytes(), 0).unwrap();
}

/// Has children do the damage: at `most` places of the channel each time, or everywhere, each
/// child in a part of it.
fn everywhere(damage: Damage, kind: Kind, most: Option<usize>) {
    let mut parts = Vec::new();
    let mut len_bytes = 0;
    for (number, (variant, config)) in variants(kind).into_iter().enumerate() {
        let arena = Arena::new();
        let len = Stage::new(arena.path(), &config).image(State::Fresh).len() as u64;
        len_bytes += len;
        let part_len = if most.is_some() { len } else { 128 * damage.len_bytes() as u64 };
        let starts = (0..len).step_by(part_len as usize);
        parts.extend(starts.map(|start| (number, variant.clone(), start..len.min(start + part_len))));
    }
    let tally = by_workers(&parts, |(number, variant, part)| {
        in_a_child(damage, (kind, *number, variant), part.clone(), most.unwrap_or(EVERYWHERE))
    });
    assert!(tally.corrupt > 0 && tally.corrupt < tally.changes, "{tally:?}");
    prove(&format!(
        "hostile {}: {kind}: {len_bytes} bytes, in {} states, at {} times: {} of {} tried, {} changes: {} found corrupt, {} served",
        damage.role(),
        State::ALL.len(),
        When::ALL.len(),
        tally.bytes,
        len_bytes * (State::ALL.len() * When::ALL.len()) as u64,
        tally.changes,
        tally.corrupt,
        tally.changes - tally.corrupt
    ));
}

/// What came of all parts: a worker takes the next one when it is done with one. A long run
/// has a worker for each processor; by default the kinds are side by side already.
fn by_workers<T: Sync>(parts: &[T], work: impl Fn(&T) -> Tally + Sync) -> Tally {
    let workers = if is_long_run() { thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let next = AtomicUsize::new(0);
    let take = || parts.get(next.fetch_add(1, Ordering::Relaxed));
    let one_by_one = || {
        let mut tally = Tally::default();
        while let Some(part) = take() {
            tally += work(part);
        }
        tally
    };
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(one_by_one)).collect();
        for worker in workers {
            tally += worker.join().expect("a part failed, see above");
        }
    });
    tally
}

/// More places than a part has.
const EVERYWHERE: usize = 1 << 16;

fn in_a_child(damage: Damage, variant: (Kind, usize, &str), part: Range<u64>, most: usize) -> Tally {
    let arena = Arena::new();
    let (kind, number, name) = variant;
    let numbers = [number as u64, part.start, part.end, most as u64].map(|number| number.to_string());
    let mut arguments = vec![arena.path().to_str().unwrap(), kind.as_str()];
    arguments.extend(numbers.iter().map(String::as_str));
    let mut child = Child::spawn(damage.role(), &arguments);
    let told = thread::scope(|scope| {
        let done = scope.spawn(move || {
            let told = last_line(&mut child);
            child.ends_well();
            told
        });
        done.join()
    });
    let Ok(told) = told else {
        let case = std::fs::read_to_string(arena.file(CASE)).unwrap_or_default();
        panic!("{name}: {}: it didn't survive this", case.trim_end());
    };
    Tally::parse(&told)
}

/// A child reports now and then, so that a hang is noticed, and where.
fn last_line(child: &mut Child) -> String {
    loop {
        if let Some(told) = child.line().strip_prefix("done ") {
            return told.to_owned();
        }
    }
}

/// Every kind there is, or the one that `IPC_SHM_KIND` names, each in a thread of its own.
fn for_every_kind(test: impl Fn(Kind) + Sync) {
    let test = &test;
    let only = env::var("IPC_SHM_KIND").ok().map(|name| kind(&name));
    let kinds = Kind::ALL.iter().filter(|&&kind| only.is_none_or(|only| only == kind));
    thread::scope(|scope| {
        let threads: Vec<_> = kinds.map(|&kind| scope.spawn(move || test(kind))).collect();
        let failed = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        assert_eq!(failed, 0, "kinds that failed, see above");
    });
}

#[test]
fn any_single_byte_may_be_wrong() {
    let most = (!is_long_run()).then_some(15);
    for_every_kind(|kind| everywhere(Damage::Byte, kind, most));
}

#[test]
fn any_single_word_may_be_anything() {
    let most = (!is_long_run()).then_some(8);
    for_every_kind(|kind| everywhere(Damage::Word, kind, most));
}

#[test]
fn a_mutator_that_changes_words_all_the_time_is_borne() {
    let changes = if is_long_run() { 200_000 } else { 10_000 };
    for_every_kind(|kind| {
        for (number, (variant, _)) in variants(kind).iter().enumerate() {
            let arena = Arena::new();
            let directory = arena.path().to_str().unwrap();
            let (number, changes) = (number.to_string(), changes.to_string());
            let mut child = Child::spawn("mutator", &[directory, kind.as_str(), &number, &changes]);
            let told = last_line(&mut child);
            child.ends_well();
            let figures: Vec<u64> = told.split(' ').map(|figure| figure.parse().unwrap()).collect();
            let [changed, sent, received, corrupt] = figures[..] else { panic!("{told}") };
            assert!(sent > 0 && received > 0, "{told}");
            prove(&format!(
                "mutator: {variant}: {changed} words changed, {sent} sent, {received} received, {corrupt} times found corrupt"
            ));
        }
    });
}

#[test]
fn a_receiver_before_the_first_byte_is_corrupt() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &ShmConfig::new().capacity_bytes(4096)).unwrap();
    let mut tx = channel.sender().unwrap();
    tx.try_send(&[0; 1000]).unwrap();
    // As far behind the sender as the ring is long, if numbers went round.
    let released = (-8_i64).to_ne_bytes();
    common::write_at(&arena.file("x"), common::layout::RECEIVER + common::layout::RELEASED, &released);
    assert!(matches!(tx.try_send(&[0; 4000]), Err(SendError::Corrupt(_))));
}

#[test]
fn no_more_messages_are_held_than_there_are_slots() {
    let arena = Arena::new();
    let config = ShmConfig::new().participants(4).depth(4).max_message_len(100);
    let channel = Mpmc::at(arena.path()).create(&name("x"), &config).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for _ in 0..4 {
        tx.try_send(b"a message").unwrap();
    }
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), 4);
    // All slots are ready again, in the next lap.
    for slot in 0..4 {
        let ready_in_lap_1 = (1_u64 << 1 | 1) << 24;
        common::write_at(&arena.file("x"), common::layout::DATA + slot * 128, &ready_in_lap_1.to_ne_bytes());
    }
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), 4);
}

#[test]
fn a_response_that_was_found_can_be_read_whatever_becomes_of_its_slot() {
    let arena = Arena::new();
    let config = ShmConfig::new().participants(4).depth(1).max_message_len(100);
    let service = Rpc::at(arena.path()).create(&name("x"), &config).unwrap();
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    let ticket = client.submit(b"a request", Wait::Never).unwrap();
    server.next(Wait::Never).unwrap().respond(b"an answer").unwrap();
    client.advance(&ticket, Wait::Never).unwrap();
    // The slot's word and the length.
    common::write_at(&arena.file("x"), common::layout::DATA, &[0xff; 16]);
    assert_eq!(*client.response(ticket), *b"an answer");
}
