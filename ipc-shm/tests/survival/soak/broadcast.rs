//! Broadcasts, in a crowd: each message to everybody who has subscribed.
//!
//! What a subscriber got and what it was told that it missed make up all that was published
//! since it subscribed, by the channel's own count: taken before and after it subscribed, and
//! when nobody publishes any more. Where nobody published in between, that is exact.

use super::{
    Shared,
    check::Account,
    log::{Event, Message, Record},
    worker::{A_WHILE, Life, MAX_LEN, Part, Worker, for_a_while, in_a_fork, message_of},
};
use crate::common::{Dice, layout};
use ipc_shm::{
    Batch, BatchReceiver, Broadcast, BroadcastChannel, BroadcastSubscriber, Channel, Kind, Message as _,
    Receiver, RecvError, Sender, Sequenced, ShmConfig, Transport, WhenFull,
};
use std::collections::{HashMap, HashSet};

const PUBLISHERS: u32 = 3;
const PARTICIPANTS: u32 = 16;

pub(super) fn config(dice: &mut Dice, policy: WhenFull) -> ShmConfig {
    ShmConfig::new()
        .kind(Kind::Broadcast)
        .publishers(PUBLISHERS)
        .participants(PARTICIPANTS)
        .capacity_bytes(layout::PAGE << dice.below(4))
        .when_full(policy)
}

pub(super) fn live(worker: &Worker, shared: &Shared) {
    let mut life = Life::begin(worker, shared);
    while !shared.is_over() {
        match worker.part {
            Part::Sender => publish(&mut life),
            _ => subscribe(&mut life),
        }
    }
}

fn open(worker: &Worker) -> BroadcastChannel {
    Broadcast::at(&worker.directory)
        .open_or_create(&worker.name, &worker.config)
        .expect("it can be opened or made")
}

/// All that was ever published, by the channel's account.
fn published(worker: &Worker) -> u64 {
    let info = Broadcast::at(&worker.directory).stat(&worker.name).expect("somebody has it open");
    info.sent_messages.expect("it is counted")
}

fn publish(life: &mut Life<'_>) {
    let channel = open(life.worker);
    let Some(mut tx) = life.attach(|| channel.sender()) else { return };
    // Its next place may be another one, and subscribers take the places by turns.
    life.become_another();
    tx.set_waiting(life.waiting());
    life.send(&mut tx, |life, tx| life.send_batch(tx));
}

fn subscribe(life: &mut Life<'_>) {
    let channel = open(life.worker);
    let before = published(life.worker);
    let Some(mut rx) = life.attach(|| channel.receiver()) else { return };
    let after = published(life.worker);
    rx.set_waiting(life.waiting());
    life.note(Event::Began, Message { sender: before as u32, number: after as u32 }, None);
    for _ in 0..1 + life.dice.below(1000) {
        if life.shared.is_over() {
            break;
        }
        match life.dice.below(100) {
            0 => in_a_fork(|| assert!(matches!(rx.try_recv().map(drop), Err(RecvError::Forked)))),
            1..10 => receive_batch(life, &mut rx),
            how => drop(receive_one(life, &mut rx, how)),
        }
        life.breathe();
    }
    if !life.shared.is_over() {
        return;
    }
    while !life.shared.is_quiet() {
        receive_one(life, &mut rx, u64::MAX);
    }
    while receive_one(life, &mut rx, u64::MAX) {}
    let all = published(life.worker);
    life.log.record(Record {
        event: Event::Ended,
        message: Message { sender: 0, number: 0 },
        attempts: None,
        order: all,
    });
}

/// False if there was nothing.
fn receive_one(life: &mut Life<'_>, rx: &mut BroadcastSubscriber, how: u64) -> bool {
    let received = match rx.recv_timeout(A_WHILE) {
        Ok(received) => received,
        Err(RecvError::TimedOut) => return false,
        Err(RecvError::Lagged { missed }) => {
            life.log.record(Record {
                event: Event::Missed,
                message: Message { sender: 0, number: 0 },
                attempts: None,
                order: missed,
            });
            return true;
        }
        Err(error) => panic!("can't receive: {error}"),
    };
    let message = message_of(&received);
    match how {
        // It comes again.
        10..15 => received.keep(),
        _ => {
            let publisher = BroadcastSubscriber::publisher_of(&received);
            let number = BroadcastSubscriber::sequence_of(&received);
            life.log.record(Record { event: Event::Got, message, attempts: Some(publisher), order: number });
            drop(received);
            life.shared.count_received(1);
        }
    }
    true
}

fn receive_batch(life: &mut Life<'_>, rx: &mut BroadcastSubscriber) {
    let max = 1 + life.dice.below(5) as usize;
    match rx.advance_batch(max, for_a_while()) {
        Ok(_) => {}
        Err(RecvError::TimedOut) => return,
        Err(RecvError::Lagged { missed }) => {
            life.log.record(Record {
                event: Event::Missed,
                message: Message { sender: 0, number: 0 },
                attempts: None,
                order: missed,
            });
            return;
        }
        Err(error) => panic!("can't receive: {error}"),
    }
    let batch = rx.held_batch();
    let messages: Vec<_> = batch.iter().map(message_of).collect();
    let count = life.dice.below(messages.len() as u64 + 1) as usize;
    messages[..count].iter().for_each(|&message| life.log.write(Event::Got, message));
    batch.release(count);
    life.shared.count_received(count as u64);
}

/// A dead publisher may have published what it hadn't recorded; its successor records it.
pub(super) fn hush(worker: &Worker) {
    let channel = open(worker);
    let publishers: Vec<_> = (0..PUBLISHERS).map(|_| channel.sender().expect("there is a place")).collect();
    drop(publishers);
}

/// There is a place for everybody, and nobody is in the way.
pub(super) fn clear_up(pattern: &Worker, _id: u32, _shared: &Shared) {
    let channel = open(pattern);
    let publishers: Vec<_> = (0..PUBLISHERS).map(|_| channel.sender().expect("there is a place")).collect();
    let mut subscribers: Vec<_> =
        (PUBLISHERS..PARTICIPANTS).map(|_| channel.receiver().expect("there is a place")).collect();
    for mut tx in publishers {
        for _ in 0..20 {
            tx.try_send(&[1; MAX_LEN as usize]).expect("there is room");
            for rx in &mut subscribers {
                assert_eq!(*rx.try_recv().expect("it was published"), [1; MAX_LEN as usize]);
            }
        }
    }
}

/// What one subscriber found, from when it subscribed.
#[derive(Debug, Default)]
struct Session {
    /// All that was published just before it subscribed, and just after.
    began: (u64, u64),
    /// When that was.
    order: u64,
    got: Vec<Record>,
    missed: u64,
    /// All that was published when nobody published any more.
    ended: Option<u64>,
}

fn sessions(log: &[Record]) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    for record in log {
        if record.event == Event::Began {
            let Message { sender: before, number: after } = record.message;
            let began = (before.into(), after.into());
            sessions.push(Session { began, order: record.order, ..Session::default() });
            continue;
        }
        let Some(session) = sessions.last_mut() else { continue };
        match record.event {
            Event::Got => session.got.push(*record),
            Event::Missed => session.missed += record.order,
            Event::Ended => session.ended = Some(record.order),
            _ => {}
        }
    }
    sessions
}

/// Balances the logs of a channel that loses nothing, or of a lossy one.
pub(super) fn balance(logs: &[Vec<Record>], lossy: bool) -> Account {
    let mut sent: HashMap<Message, Event> = HashMap::new();
    let mut meant: HashMap<Message, u64> = HashMap::new();
    for record in logs.iter().flatten() {
        if record.event == Event::Meant {
            meant.insert(record.message, record.order);
        }
        if matches!(record.event, Event::Meant | Event::Acknowledged | Event::Refused) {
            sent.insert(record.message, record.event);
        }
    }
    let acknowledged: Vec<_> = sent
        .iter()
        .filter(|(_, event)| **event == Event::Acknowledged)
        .map(|(message, _)| *message)
        .collect();
    let mut account = Account { acknowledged: acknowledged.len(), ..Account::default() };
    for session in logs.iter().flat_map(|log| sessions(log)) {
        let found: HashSet<Message> = session.got.iter().map(|record| record.message).collect();
        account.sessions += 1;
        account.delivered += found.len();
        account.missed += session.missed as usize;
        account.duplicated += session.got.len() - found.len();
        account.reordered += reordered(&session.got);
        for message in &found {
            match sent.get(message) {
                Some(Event::Acknowledged) => {}
                Some(Event::Meant) => account.unacknowledged += 1,
                _ => account.invented += 1,
            }
        }
        // What lies between two messages of a publisher was missed, and told.
        let unseen = gaps(&session.got).saturating_sub(session.missed);
        account.lost += unseen as usize;
        if !lossy {
            account.lost += session.missed as usize;
            account.lost += unreceived(&session, &acknowledged, &meant, &found);
        }
        if let Some(all) = session.ended {
            let known = found.len() as u64 + session.missed;
            let (least, most) = (all - session.began.1, all - session.began.0);
            account.lost += least.saturating_sub(known) as usize;
            account.invented += known.saturating_sub(most) as usize;
            account.whole_sessions += 1;
            account.exact_sessions += usize::from(least == most);
        }
    }
    account
}

/// Received before one that the same publisher, or another one in its place, had sent earlier.
fn reordered(got: &[Record]) -> usize {
    let (mut newest, mut newest_of_place) = (HashMap::new(), HashMap::new());
    let mut count = 0;
    for record in got {
        let newest = newest.entry(record.message.sender).or_insert(0);
        count += usize::from(record.message.number < *newest);
        *newest = record.message.number.max(*newest);
        let Some(place) = record.attempts else { continue };
        let last = newest_of_place.insert(place, record.order);
        count += usize::from(last.is_some_and(|last| last > record.order));
    }
    count
}

/// Messages whose numbers lie between those that were received, less those whose numbers
/// weren't looked at.
fn gaps(got: &[Record]) -> u64 {
    let mut newest: HashMap<u32, u64> = HashMap::new();
    let mut count = 0;
    for record in got {
        let Some(place) = record.attempts else { continue };
        if let Some(last) = newest.insert(place, record.order) {
            count += record.order.saturating_sub(last + 1);
        }
    }
    count.saturating_sub(got.iter().filter(|record| record.attempts.is_none()).count() as u64)
}

/// Acknowledged by a publisher between two that were received, or at any time since the
/// subscriber came if it stayed to the end; and not received.
fn unreceived(
    session: &Session,
    acknowledged: &[Message],
    meant: &HashMap<Message, u64>,
    found: &HashSet<Message>,
) -> usize {
    let mut range: HashMap<u32, (u32, u32)> = HashMap::new();
    for Message { sender, number } in found {
        let (first, last) = range.entry(*sender).or_insert((*number, *number));
        (*first, *last) = ((*first).min(*number), (*last).max(*number));
    }
    let is_due = |message: &&Message| {
        let between = |&(first, last): &(u32, u32)| (first..=last).contains(&message.number);
        range.get(&message.sender).is_some_and(between)
            || session.ended.is_some() && meant.get(*message).is_some_and(|&order| order > session.order)
    };
    acknowledged.iter().filter(is_due).filter(|message| !found.contains(message)).count()
}

/// Whether what is wrong would be noticed.
pub(super) fn notices_what_is_wrong() -> bool {
    let record = |event, number, attempts, order| Record {
        event,
        message: Message { sender: 1, number },
        attempts,
        order,
    };
    // Three messages, the first of them before anybody subscribed.
    let sent: Vec<_> = (1..=3)
        .flat_map(|number| {
            let order = u64::from(number) * 10;
            [record(Event::Meant, number, None, order), record(Event::Acknowledged, number, None, order)]
        })
        .collect();
    let of = |lossy: bool, found: &[Record]| {
        let began = Record { message: Message { sender: 1, number: 1 }, ..record(Event::Began, 0, None, 15) };
        let ended = record(Event::Ended, 0, None, 3);
        balance(&[sent.clone(), [&[began], found, &[ended]].concat()], lossy)
    };
    let got = |number: u32| record(Event::Got, number, Some(1), u64::from(number) - 1);
    let missed = |count| record(Event::Missed, 0, None, count);
    let both = |found: &[Record], holds: fn(&Account) -> bool| {
        [true, false].iter().all(|&lossy| holds(&of(lossy, found)))
    };
    both(&[got(2), got(3)], Account::is_balanced)
        && both(&[got(3)], |account| account.lost > 0)
        && both(&[got(2)], |account| account.lost > 0)
        && both(&[got(3), got(2)], |account| account.reordered > 0)
        && both(&[got(2), got(2), got(3)], |account| account.duplicated == 1)
        && both(&[got(2), got(3), got(4)], |account| account.invented > 0)
        && both(&[got(2), got(3), missed(1)], |account| !account.is_balanced())
        && of(true, &[missed(1), got(3)]).is_balanced()
        && of(false, &[missed(1), got(3)]).lost > 0
}
