//! What participants of every kind have in common: coming, sending, looking, and what their
//! messages are like.

use super::{
    Game, Shared,
    log::{Event, Log, Message, Record},
};
use crate::common::{Dice, end_after, fork};
use ipc_shm::{
    BatchSender, ChannelError, ChannelName, Loan, SendError, Sender, Shm, ShmConfig, Transport, Wait, Waiting,
};
use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// What a participant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Or a publisher, a writer, a client.
    Sender,
    /// Or a subscriber, a reader, a server.
    Receiver,
    /// Opens, looks, collects, and goes again.
    Visitor,
}

/// A participant, before it is a process.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) id: u32,
    pub(super) part: Part,
    pub(super) directory: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) name: ChannelName,
    pub(super) config: ShmConfig,
    pub(super) seed: u64,
}

/// The longest payload, in bytes; the channels take it.
pub(super) const MAX_LEN: u64 = 900;

/// A wait that is over before anybody thinks of a hang.
pub(super) const A_WHILE: Duration = Duration::from_millis(50);

/// Until then.
pub(super) fn for_a_while() -> Wait<'static> {
    Wait::Until(Instant::now() + A_WHILE)
}

impl Worker {
    /// Its life, until it is told to stop.
    pub(super) fn live(&self, game: &Game, shared: &Shared) {
        if self.part != Part::Visitor {
            return (game.live)(self, shared);
        }
        let mut dice = Dice::new(self.seed);
        while !shared.is_over() {
            self.visit(&mut dice);
        }
    }

    fn visit(&self, dice: &mut Dice) {
        let shm = Shm::at(&self.directory);
        let channel = shm.open_or_create(&self.name, &self.config).expect("it can be opened or made");
        match shm.stat(&self.name) {
            Ok(_) | Err(ChannelError::NotFound) => {}
            Err(error) => panic!("can't be looked at: {error}"),
        }
        drop(channel);
        for (_, verdict) in shm.gc().expect("the directory can be read") {
            match verdict {
                Ok(_) | Err(ChannelError::NotFound) => {}
                Err(error) => panic!("can't be collected: {error}"),
            }
        }
        thread::sleep(Duration::from_micros(200 + dice.below(2000)));
    }
}

/// There are fewer participants in a round.
const NEXT_SELF: u32 = 1 << 16;

/// A participant at work.
pub(super) struct Life<'a> {
    pub(super) worker: &'a Worker,
    pub(super) shared: &'a Shared,
    pub(super) dice: Dice,
    pub(super) log: Log,
    /// As whom it sends, and how many messages it meant to send as that one.
    sender: u32,
    number: u32,
}

impl<'a> Life<'a> {
    pub(super) fn begin(worker: &'a Worker, shared: &'a Shared) -> Self {
        let log = Log::create(&worker.logs, worker.id);
        Self { worker, shared, dice: Dice::new(worker.seed), log, sender: worker.id, number: 0 }
    }

    /// An endpoint, as soon as there is a place for it. `None` when it is over.
    pub(super) fn attach<E>(&self, attach: impl Fn() -> Result<E, ChannelError>) -> Option<E> {
        loop {
            match attach() {
                Ok(endpoint) => return Some(endpoint),
                Err(ChannelError::Busy { .. } | ChannelError::Limit(_)) if !self.shared.is_over() => {
                    thread::sleep(Duration::from_micros(200));
                }
                Err(ChannelError::Busy { .. } | ChannelError::Limit(_)) => return None,
                Err(error) => panic!("no end of it: {error}"),
            }
        }
    }

    pub(super) fn waiting(&mut self) -> Waiting {
        if self.dice.below(2) == 0 { Waiting::Block } else { Waiting::Adaptive }
    }

    /// So that the logs stay of a size that can be checked.
    pub(super) fn breathe(&mut self) {
        if self.dice.below(4) == 0 {
            thread::sleep(Duration::from_micros(self.dice.below(300)));
        }
    }

    /// Writes down what happened now.
    pub(super) fn note(&mut self, event: Event, message: Message, attempts: Option<u32>) {
        self.log.record(Record { event, message, attempts, order: self.shared.next_order() });
    }

    pub(super) fn next_message(&mut self) -> Message {
        self.number += 1;
        Message { sender: self.sender, number: self.number }
    }

    /// From now on it sends as somebody else: nothing is said of the order of what it sends
    /// and what it sent.
    pub(super) fn become_another(&mut self) {
        self.sender += NEXT_SELF;
        self.number = 0;
    }

    /// Sends for a while, some of it as batches.
    pub(super) fn send<S: Sender>(&mut self, tx: &mut S, batch: impl Fn(&mut Self, &mut S)) {
        for _ in 0..1 + self.dice.below(2000) {
            if self.shared.is_over() {
                return;
            }
            match self.dice.below(100) {
                0 => in_a_fork(|| assert!(matches!(tx.try_send(&[]), Err(SendError::Forked)))),
                1..10 => batch(self, tx),
                how => self.send_one(tx, how),
            }
            self.breathe();
        }
    }

    pub(super) fn send_one(&mut self, tx: &mut impl Sender, how: u64) {
        let message = self.next_message();
        let bytes = bytes_of(message);
        self.note(Event::Meant, message, None);
        let answer = match how {
            10..30 => tx.loan(bytes.len(), for_a_while()).map(|mut loan| {
                loan.copy_from_slice(&bytes);
                loan.commit(Wait::Never).map_err(|rejected| rejected.error).expect("reserved");
            }),
            30..40 => tx.loan(bytes.len(), Wait::Never).map(drop).and(Err(SendError::WouldBlock)),
            _ => tx.send_timeout(&bytes, A_WHILE),
        };
        match answer {
            Ok(()) => {
                self.note(Event::Acknowledged, message, None);
                self.shared.count_sent(1);
            }
            Err(SendError::TimedOut | SendError::WouldBlock) => self.note(Event::Refused, message, None),
            Err(error) => panic!("can't send: {error}"),
        }
    }

    pub(super) fn send_batch(&mut self, tx: &mut impl BatchSender) {
        let batch: Vec<_> = (0..=self.dice.below(4)).map(|_| self.next_message()).collect();
        batch.iter().for_each(|&message| self.note(Event::Meant, message, None));
        let bytes: Vec<_> = batch.iter().map(|&message| bytes_of(message)).collect();
        let sent = match tx.send_batch(&bytes, for_a_while()) {
            Ok(sent) => sent,
            Err(SendError::TimedOut) => 0,
            Err(error) => panic!("can't send: {error}"),
        };
        for (index, &message) in batch.iter().enumerate() {
            self.note(if index < sent { Event::Acknowledged } else { Event::Refused }, message, None);
        }
        self.shared.count_sent(sent as u64);
    }
}

/// A child that can't use its parent's endpoint, and lives on for a while without keeping
/// its parent alive.
pub(super) fn in_a_fork(body: impl FnOnce()) {
    if fork().is_none() {
        end_after(|| {
            body();
            thread::sleep(Duration::from_millis(30));
        });
    }
    // Whoever conducts this reaps it when we are gone; before, it doesn't matter.
}

/// A message says what it is, and every byte of it follows from that.
pub(super) fn bytes_of(message: Message) -> Vec<u8> {
    let mut dice = Dice::new(u64::from(message.sender) << 32 | u64::from(message.number));
    let len = dice.below(MAX_LEN - 8);
    let head = message.sender.to_ne_bytes().into_iter().chain(message.number.to_ne_bytes());
    head.chain((0..len).map(|_| dice.roll() as u8)).collect()
}

pub(super) fn message_of(bytes: &[u8]) -> Message {
    let word = |at: usize| {
        bytes.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four")))
    };
    let message = Message { sender: word(0), number: word(4) };
    assert!(bytes == bytes_of(message), "torn: {message:?}, {} bytes", bytes.len());
    message
}
