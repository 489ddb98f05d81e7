//! The newest value, in a crowd: one writer at a time, readers who look and who wait.
//!
//! Each version is one value for everybody; a reader's versions only grow, and never lie
//! behind what was acknowledged when it looked; the last one outlives its writer, and there
//! are as many versions as were written.

use super::{
    Shared,
    check::Account,
    log::{Event, Message, Record},
    worker::{A_WHILE, Life, MAX_LEN, Part, Worker, in_a_fork, message_of},
};
use crate::common::Dice;
use ipc_shm::{
    Channel, Kind, Latest, LatestChannel, LatestReader, Receiver, RecvError, Sender, Sequenced, ShmConfig,
    Transport,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    thread,
    time::Duration,
};

const PARTICIPANTS: u32 = 16;

pub(super) fn config(dice: &mut Dice) -> ShmConfig {
    ShmConfig::new()
        .kind(Kind::Latest)
        .depth(2 + dice.below(6))
        .max_message_len(MAX_LEN)
        .participants(PARTICIPANTS)
}

pub(super) fn live(worker: &Worker, shared: &Shared) {
    let mut life = Life::begin(worker, shared);
    while !shared.is_over() {
        match worker.part {
            Part::Sender => write(&mut life),
            _ => read(&mut life),
        }
    }
}

fn open(worker: &Worker) -> LatestChannel {
    Latest::at(&worker.directory)
        .open_or_create(&worker.name, &worker.config)
        .expect("it can be opened or made")
}

fn write(life: &mut Life<'_>) {
    let channel = open(life.worker);
    let Some(mut tx) = life.attach(|| channel.sender()) else { return };
    life.send(&mut tx, |life, tx| {
        // As fast as it can, so that readers are overtaken.
        for _ in 0..=life.dice.below(8) {
            life.send_one(tx, u64::MAX);
        }
    });
}

fn read(life: &mut Life<'_>) {
    let channel = open(life.worker);
    let Some(mut rx) = life.attach(|| channel.receiver()) else { return };
    rx.set_waiting(life.waiting());
    life.note(Event::Began, NOTHING, None);
    for _ in 0..1 + life.dice.below(1000) {
        if life.shared.is_over() {
            return;
        }
        // What is acknowledged by now, is old enough to be seen.
        let order = life.shared.next_order();
        let (event, received) = match life.dice.below(100) {
            0 => {
                in_a_fork(|| assert!(matches!(rx.try_recv().map(drop), Err(RecvError::Forked))));
                continue;
            }
            1..30 => (Event::Looked, rx.read()),
            _ => (Event::Got, rx.recv_timeout(A_WHILE).map(Some)),
        };
        match received {
            Ok(Some(value)) => {
                let message = message_of(&value);
                let version = LatestReader::sequence_of(&value) as u32;
                life.log.record(Record { event, message, attempts: Some(version), order });
                life.shared.count_received(1);
            }
            Ok(None) | Err(RecvError::TimedOut | RecvError::WouldBlock) => {}
            Err(error) => panic!("can't receive: {error}"),
        }
        if event == Event::Looked {
            thread::sleep(Duration::from_micros(life.dice.below(300)));
        }
    }
}

const NOTHING: Message = Message { sender: 0, number: 0 };

/// The last value is there; then there is a place for everybody, and each slot can be used.
pub(super) fn clear_up(pattern: &Worker, id: u32, shared: &Shared) {
    let worker = Worker { id, ..pattern.clone() };
    let mut life = Life::begin(&worker, shared);
    let channel = open(&worker);
    let stat = Latest::at(&worker.directory).stat(&worker.name).expect("it is there");
    let (versions, depth) = (stat.sent_messages.expect("it is counted"), stat.depth.expect("it is known"));
    let mut readers: Vec<_> =
        (1..PARTICIPANTS).map(|_| channel.receiver().expect("there is a place")).collect();
    for rx in &mut readers {
        let last = rx.read().expect("nobody is in the way").map(|value| message_of(&value));
        life.log.record(Record {
            event: Event::Ended,
            message: last.unwrap_or(NOTHING),
            attempts: None,
            order: versions,
        });
    }
    let mut tx = channel.sender().expect("the role is free");
    for number in 0..=depth {
        tx.try_send(&number.to_ne_bytes()).expect("a writer never waits");
        for rx in &mut readers {
            let value = rx.try_recv().expect("it is new");
            assert_eq!(
                (&*value, LatestReader::sequence_of(&value)),
                (&number.to_ne_bytes()[..], versions + number)
            );
        }
    }
}

/// Balances the logs.
pub(super) fn balance(logs: &[Vec<Record>]) -> Account {
    let mut account = Account::default();
    let (mut meant, mut acknowledged, mut refused) = (HashMap::new(), HashMap::new(), HashSet::new());
    let mut versions: BTreeMap<u32, Message> = BTreeMap::new();
    let is_read = |record: &&Record| matches!(record.event, Event::Got | Event::Looked);
    for record in logs.iter().flatten() {
        match record.event {
            Event::Meant => drop(meant.insert(record.message, record.order)),
            Event::Acknowledged => drop(acknowledged.insert(record.message, record.order)),
            Event::Refused => drop(refused.insert(record.message)),
            _ => {}
        }
    }
    for record in logs.iter().flatten().filter(is_read) {
        let version = record.attempts.expect("versions are known");
        // One version is one value.
        let first = *versions.entry(version).or_insert(record.message);
        account.invented += usize::from(first != record.message);
    }
    let unacknowledged = |message: &Message| !acknowledged.contains_key(message);
    let is_invented = |message: &&Message| !meant.contains_key(*message) || refused.contains(*message);
    account.acknowledged = acknowledged.len();
    account.delivered = logs.iter().flatten().filter(is_read).count();
    account.unacknowledged = versions.values().filter(|message| unacknowledged(message)).count();
    account.invented += versions.values().filter(is_invented).count();
    account.duplicated += versions.len() - versions.values().collect::<HashSet<_>>().len();
    account.reordered += written_out_of_order(&versions);
    let known = newest_by_order(&versions, &acknowledged);
    for log in logs {
        let mut newest: Option<u32> = None;
        for record in log {
            if record.event == Event::Began {
                (newest, account.sessions) = (None, account.sessions + 1);
            }
            if !is_read(&record) {
                continue;
            }
            let version = record.attempts.expect("versions are known");
            account.reordered += usize::from(newest.is_some_and(|newest| version < newest));
            // What is waited for is new.
            let is_again = record.event == Event::Got && newest == Some(version);
            account.duplicated += usize::from(is_again);
            newest = newest.max(Some(version));
            // The last that was acknowledged before it looked, of those that anybody saw.
            let due = known[..known.partition_point(|(order, _)| *order < record.order)].last();
            account.reordered += usize::from(due.is_some_and(|(_, due)| version < *due));
        }
    }
    let last = acknowledged.iter().max_by_key(|(_, order)| **order);
    for end in logs.iter().flatten().filter(|record| record.event == Event::Ended) {
        let is_last = last.is_none_or(|(last, acknowledged)| {
            let is_later = meant.get(&end.message).is_some_and(|meant| meant > acknowledged);
            end.message == *last || is_later && unacknowledged(&end.message)
        });
        account.lost += usize::from(!is_last);
        let (least, most) = (acknowledged.len() as u64, (meant.len() - refused.len()) as u64);
        account.lost += least.saturating_sub(end.order) as usize;
        account.invented += end.order.saturating_sub(most) as usize;
    }
    account
}

/// Versions of one writer that aren't in the order in which it wrote.
fn written_out_of_order(versions: &BTreeMap<u32, Message>) -> usize {
    let mut newest: HashMap<u32, u32> = HashMap::new();
    let mut count = 0;
    for message in versions.values() {
        let last = newest.insert(message.sender, message.number);
        count += usize::from(last.is_some_and(|last| last > message.number));
    }
    count
}

/// The newest version that was acknowledged by then, of those that anybody saw.
fn newest_by_order(
    versions: &BTreeMap<u32, Message>,
    acknowledged: &HashMap<Message, u64>,
) -> Vec<(u64, u32)> {
    let seen = versions.iter().filter_map(|(version, message)| Some((*acknowledged.get(message)?, *version)));
    let mut known: Vec<_> = seen.collect();
    known.sort_unstable();
    let mut newest = 0;
    for (_, version) in &mut known {
        newest = newest.max(*version);
        *version = newest;
    }
    known
}

/// Whether what is wrong would be noticed.
pub(super) fn notices_what_is_wrong() -> bool {
    let record = |event, number, attempts, order| Record {
        event,
        message: Message { sender: 1, number },
        attempts,
        order,
    };
    let sent: Vec<_> = (1..=3)
        .flat_map(|number| {
            let order = u64::from(number) * 10;
            [record(Event::Meant, number, None, order), record(Event::Acknowledged, number, None, order + 1)]
        })
        .collect();
    let of = |read: &[(u32, u32, u64)], (last, versions): (u32, u64)| {
        let began = record(Event::Began, 0, None, 0);
        let read =
            read.iter().map(|&(number, version, order)| record(Event::Got, number, Some(version), order));
        let reader: Vec<_> = std::iter::once(began).chain(read).collect();
        balance(&[sent.clone(), reader, vec![record(Event::Ended, last, None, versions)]])
    };
    let end = (3, 3);
    of(&[(1, 0, 15), (3, 2, 35)], end).is_balanced()
        && of(&[(1, 0, 15), (2, 0, 25)], end).invented > 0
        && of(&[(4, 3, 50)], end).invented > 0
        && of(&[(2, 1, 25), (1, 0, 26)], end).reordered > 0
        && of(&[(2, 1, 25), (2, 1, 26)], end).duplicated > 0
        && of(&[(3, 2, 35), (2, 3, 36)], end).reordered > 0
        && of(&[(3, 2, 35)], end).is_balanced()
        && of(&[(3, 2, 35), (1, 0, 36)], end).reordered > 0
        && of(&[], (2, 3)).lost > 0
        && of(&[], (3, 2)).lost > 0
        && of(&[], (3, 4)).invented > 0
}
