//! What the logs of all participants must come to.

use super::log::{Event, Message, Record};
use std::collections::{HashMap, HashSet};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Messages that `send` acknowledged.
    pub(super) acknowledged: usize,
    /// Messages that were received.
    pub(super) delivered: usize,
    /// Received though never acknowledged, because the sender was killed first.
    pub(super) unacknowledged: usize,
    /// Received more than once because the receiver hadn't given it back: as promised.
    pub(super) redelivered: usize,
    /// Acknowledged and never received.
    pub(super) lost: usize,
    /// Received after it had been given back for good.
    pub(super) duplicated: usize,
    /// Received before one that the same sender had sent earlier.
    pub(super) reordered: usize,
    /// Received though `send` had refused it, or though nobody had meant to send it.
    pub(super) invented: usize,
    /// Those who subscribed or came to read; those who stayed until nobody published any
    /// more; and of those, the ones of whom it is known exactly what was published for them.
    pub(super) sessions: usize,
    pub(super) whole_sessions: usize,
    pub(super) exact_sessions: usize,
    /// Messages that subscribers were told that they missed.
    pub(super) missed: usize,
    /// Calls that ended with the news of the server's death, with nothing, or that their
    /// clients gave up; and those of whose end a client wasn't told.
    pub(super) told: usize,
    pub(super) declined: usize,
    pub(super) given_up: usize,
    pub(super) unended: usize,
}

impl Account {
    /// Nothing that isn't promised.
    pub(super) fn is_balanced(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.invented + self.unended == 0
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.unacknowledged += other.unacknowledged;
        self.redelivered += other.redelivered;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.invented += other.invented;
        self.sessions += other.sessions;
        self.whole_sessions += other.whole_sessions;
        self.exact_sessions += other.exact_sessions;
        self.missed += other.missed;
        self.told += other.told;
        self.declined += other.declined;
        self.given_up += other.given_up;
        self.unended += other.unended;
    }

    pub(super) fn of_queue(&self) -> String {
        format!(
            "{} acknowledged, {} delivered ({} never acknowledged), {} redelivered as promised",
            self.acknowledged, self.delivered, self.unacknowledged, self.redelivered
        )
    }

    pub(super) fn of_broadcast(&self) -> String {
        format!(
            "{} acknowledged, {} delivered to {} subscribers ({} never acknowledged), {} missed and told of; \
             counted to the end for {}, exactly for {}",
            self.acknowledged,
            self.delivered,
            self.sessions,
            self.unacknowledged,
            self.missed,
            self.whole_sessions,
            self.exact_sessions
        )
    }

    pub(super) fn of_latest(&self) -> String {
        format!(
            "{} acknowledged, {} read by {} readers ({} values never acknowledged)",
            self.acknowledged, self.delivered, self.sessions, self.unacknowledged
        )
    }

    pub(super) fn of_rpc(&self) -> String {
        format!(
            "{} called, {} answered, {} told of their server's death, {} declined, {} given up, {} killed in a call",
            self.acknowledged, self.delivered, self.told, self.declined, self.given_up, self.unacknowledged
        )
    }
}

/// Balances the logs, of a kind of channel with one receiver at a time or with many.
pub(super) fn balance(logs: &[Vec<Record>], one_receiver: bool) -> Account {
    let mut sent: HashMap<Message, Event> = HashMap::new();
    let mut got: Vec<(usize, Record)> = Vec::new();
    let mut released: HashMap<Message, usize> = HashMap::new();
    for (participant, log) in logs.iter().enumerate() {
        for record in log {
            match record.event {
                Event::Meant | Event::Acknowledged | Event::Refused => {
                    sent.insert(record.message, record.event);
                }
                Event::Got => got.push((participant, *record)),
                Event::Released => *released.entry(record.message).or_default() += 1,
                other => unreachable!("nothing of a queue: {other:?}"),
            }
        }
    }
    got.sort_by_key(|(_, record)| record.order);
    let delivered: HashSet<Message> = got.iter().map(|(_, record)| record.message).collect();
    let acknowledged = |message: &&Message| sent.get(*message) == Some(&Event::Acknowledged);
    Account {
        acknowledged: sent.keys().filter(acknowledged).count(),
        delivered: delivered.len(),
        unacknowledged: delivered.iter().filter(|message| sent.get(*message) == Some(&Event::Meant)).count(),
        redelivered: got.len() - delivered.len(),
        lost: sent.keys().filter(acknowledged).filter(|message| !delivered.contains(message)).count(),
        duplicated: duplicated(logs, &released),
        reordered: if one_receiver { reordered_in_all(&got) } else { reordered_in_each(&got) },
        invented: delivered
            .iter()
            .filter(|message| !matches!(sent.get(*message), Some(Event::Meant | Event::Acknowledged)))
            .count(),
        ..Account::default()
    }
}

/// Given back twice, or received by somebody who came after it had been given back.
fn duplicated(logs: &[Vec<Record>], released: &HashMap<Message, usize>) -> usize {
    let twice = released.values().filter(|&&count| count > 1).count();
    let released_at: HashMap<Message, u64> = logs
        .iter()
        .flatten()
        .filter(|record| record.event == Event::Released)
        .map(|record| (record.message, record.order))
        .collect();
    let late = logs.iter().flatten().filter(|record| record.event == Event::Got);
    twice
        + late.filter(|record| released_at.get(&record.message).is_some_and(|&at| at < record.order)).count()
}

/// One receives at a time: what comes for the first time is later than all that came
/// before from that sender.
fn reordered_in_all(got: &[(usize, Record)]) -> usize {
    let mut newest: HashMap<u32, u32> = HashMap::new();
    let mut seen = HashSet::new();
    let mut count = 0;
    for (_, record) in got {
        let message = record.message;
        let newest = newest.entry(message.sender).or_default();
        if seen.insert(message) {
            count += usize::from(message.number <= *newest);
            *newest = (*newest).max(message.number);
        }
    }
    count
}

/// Many receive: each gets what is delivered for the first time in its sender's order.
fn reordered_in_each(got: &[(usize, Record)]) -> usize {
    let mut newest: HashMap<(usize, u32), u32> = HashMap::new();
    let mut count = 0;
    for (participant, record) in got.iter().filter(|(_, record)| record.attempts == Some(0)) {
        let newest = newest.entry((*participant, record.message.sender)).or_default();
        // The same again is one that the receiver had kept.
        count += usize::from(record.message.number < *newest);
        *newest = (*newest).max(record.message.number);
    }
    count
}

/// Whether what is wrong would be noticed.
pub(super) fn notices_what_is_wrong() -> bool {
    let record = |event, number, order| Record {
        event,
        message: Message { sender: 1, number },
        attempts: (event == Event::Got).then_some(0),
        order,
    };
    let sent = |number| [record(Event::Meant, number, 0), record(Event::Acknowledged, number, 0)];
    let received =
        |number, order| [record(Event::Got, number, order), record(Event::Released, number, order)];
    let of = |received: &[[Record; 2]]| {
        let logs = [[sent(1), sent(2)].concat(), received.concat()];
        [balance(&logs, true), balance(&logs, false)]
    };
    let all = |accounts: [Account; 2], holds: fn(&Account) -> bool| accounts.iter().all(holds);
    all(of(&[received(1, 1), received(2, 2)]), Account::is_balanced)
        && all(of(&[received(1, 1)]), |account| account.lost == 1)
        && all(of(&[received(2, 1), received(1, 2)]), |account| account.reordered == 1)
        && all(of(&[received(1, 1), received(2, 2), received(2, 3)]), |account| account.duplicated > 0)
        && all(of(&[received(1, 1), received(2, 2), received(3, 3)]), |account| account.invented == 1)
}
