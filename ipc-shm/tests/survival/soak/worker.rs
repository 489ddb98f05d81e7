//! What participants do until they are killed.

use super::{
    Shared,
    log::{Event, Log, Message, Record},
};
use crate::common::{Dice, end_after, fork};
use ipc_shm::{
    Batch, BatchReceiver, BatchSender, Channel, ChannelError, ChannelName, Loan, Message as _, MpmcReceiver,
    Receiver, RecvError, Redelivered, SendError, Sender, Shm, ShmChannel, ShmConfig, ShmMessage, ShmReceiver,
    ShmSender, Transport, Wait, Waiting,
};
use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// What a participant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Sender,
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
const A_WHILE: Duration = Duration::from_millis(50);

impl Worker {
    /// Its life, until it is told to stop.
    pub(super) fn live(&self, shared: &Shared) {
        let mut dice = Dice::new(self.seed);
        let mut log = Log::create(&self.logs, self.id);
        let mut number = 0;
        while !shared.is_over() {
            match self.part {
                Part::Sender => self.send_for_a_while(shared, &mut dice, &mut log, &mut number),
                Part::Receiver => self.receive_for_a_while(shared, &mut dice, &mut log),
                Part::Visitor => self.visit(&mut dice),
            }
        }
    }

    fn open(&self) -> ShmChannel {
        Shm::at(&self.directory).open_or_create(&self.name, &self.config).expect("it can be opened or made")
    }

    /// An endpoint, as soon as there is a place for it. `None` when it is over.
    fn attach<E>(
        &self,
        shared: &Shared,
        attach: impl Fn(&ShmChannel) -> Result<E, ChannelError>,
    ) -> Option<E> {
        let channel = self.open();
        loop {
            match attach(&channel) {
                Ok(endpoint) => return Some(endpoint),
                Err(ChannelError::Busy { .. } | ChannelError::Limit(_)) if !shared.is_over() => {
                    thread::sleep(Duration::from_micros(200));
                }
                Err(ChannelError::Busy { .. } | ChannelError::Limit(_)) => return None,
                Err(error) => panic!("no end of it: {error}"),
            }
        }
    }

    fn send_for_a_while(&self, shared: &Shared, dice: &mut Dice, log: &mut Log, number: &mut u32) {
        let Some(mut tx) = self.attach(shared, ShmChannel::sender) else { return };
        tx.set_waiting(waiting(dice));
        for _ in 0..1 + dice.below(2000) {
            if shared.is_over() {
                return;
            }
            match dice.below(100) {
                0 => in_a_fork(|| assert!(matches!(tx.try_send(&[]), Err(SendError::Forked)))),
                1..10 => self.send_batch(&mut tx, shared, dice, log, number),
                how => self.send_one(&mut tx, shared, log, number, how),
            }
            breathe(dice);
        }
    }

    fn send_one(&self, tx: &mut ShmSender, shared: &Shared, log: &mut Log, number: &mut u32, how: u64) {
        *number += 1;
        let message = Message { sender: self.id, number: *number };
        let bytes = bytes_of(message);
        log.write(Event::Meant, message);
        let answer = match how {
            10..30 => tx.loan(bytes.len(), Wait::Until(Instant::now() + A_WHILE)).map(|mut loan| {
                loan.copy_from_slice(&bytes);
                loan.commit(Wait::Never).map_err(|rejected| rejected.error).expect("reserved");
            }),
            30..40 => tx.loan(bytes.len(), Wait::Never).map(drop).and(Err(SendError::WouldBlock)),
            _ => tx.send_timeout(&bytes, A_WHILE),
        };
        match answer {
            Ok(()) => {
                log.write(Event::Acknowledged, message);
                shared.count_sent(1);
            }
            Err(SendError::TimedOut | SendError::WouldBlock) => log.write(Event::Refused, message),
            Err(error) => panic!("can't send: {error}"),
        }
    }

    fn send_batch(
        &self,
        tx: &mut ShmSender,
        shared: &Shared,
        dice: &mut Dice,
        log: &mut Log,
        number: &mut u32,
    ) {
        // Where the kind has none, one by one is as good.
        let ShmSender::Mpmc(tx) = tx else {
            return self.send_one(tx, shared, log, number, u64::MAX);
        };
        let batch: Vec<_> = (1..=1 + dice.below(4) as u32)
            .map(|offset| Message { sender: self.id, number: *number + offset })
            .collect();
        *number += batch.len() as u32;
        batch.iter().for_each(|&message| log.write(Event::Meant, message));
        let bytes: Vec<_> = batch.iter().map(|&message| bytes_of(message)).collect();
        let sent = match tx.send_batch(&bytes, Wait::Until(Instant::now() + A_WHILE)) {
            Ok(sent) => sent,
            Err(SendError::TimedOut) => 0,
            Err(error) => panic!("can't send: {error}"),
        };
        for (index, &message) in batch.iter().enumerate() {
            log.write(if index < sent { Event::Acknowledged } else { Event::Refused }, message);
        }
        shared.count_sent(sent as u64);
    }

    fn receive_for_a_while(&self, shared: &Shared, dice: &mut Dice, log: &mut Log) {
        let Some(mut rx) = self.attach(shared, ShmChannel::receiver) else { return };
        rx.set_waiting(waiting(dice));
        for _ in 0..1 + dice.below(2000) {
            if shared.is_over() {
                return;
            }
            match dice.below(100) {
                0 => in_a_fork(|| assert!(matches!(rx.try_recv().map(drop), Err(RecvError::Forked)))),
                1..10 => receive_batch(&mut rx, shared, dice, log),
                how => receive_one(&mut rx, shared, log, how),
            }
            breathe(dice);
        }
    }

    fn visit(&self, dice: &mut Dice) {
        let shm = Shm::at(&self.directory);
        let channel = self.open();
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

/// Receives what is left; for who clears up.
pub(super) fn receive_the_rest(rx: &mut ShmReceiver, shared: &Shared, log: &mut Log) {
    let mut fruitless = 0;
    while fruitless < 3 {
        let before = shared.received();
        receive_one(rx, shared, log, u64::MAX);
        fruitless = if shared.received() == before { fruitless + 1 } else { 0 };
    }
}

fn receive_one(rx: &mut ShmReceiver, shared: &Shared, log: &mut Log, how: u64) {
    let received = match rx.recv_timeout(A_WHILE) {
        Ok(received) => received,
        Err(RecvError::TimedOut) => return,
        Err(error) => panic!("can't receive: {error}"),
    };
    let message = message_of(&received);
    let attempts = match &received {
        ShmMessage::Mpmc(received) => Some(MpmcReceiver::attempts_of(received)),
        _ => None,
    };
    log.record(Record { event: Event::Got, message, attempts, order: shared.next_order() });
    match how {
        // It comes again, to us or to the next one.
        10..15 => received.keep(),
        _ => {
            drop(received);
            log.record(Record { event: Event::Released, message, attempts, order: shared.next_order() });
            shared.count_received(1);
        }
    }
}

fn receive_batch(rx: &mut ShmReceiver, shared: &Shared, dice: &mut Dice, log: &mut Log) {
    let max = 1 + dice.below(5) as usize;
    match rx.advance_batch(max, Wait::Until(Instant::now() + A_WHILE)) {
        Ok(_) => {}
        Err(RecvError::TimedOut) => return,
        Err(error) => panic!("can't receive: {error}"),
    }
    let batch = rx.held_batch();
    let messages: Vec<_> = batch.iter().map(message_of).collect();
    for &message in &messages {
        log.record(Record { event: Event::Got, message, attempts: None, order: shared.next_order() });
    }
    let count = dice.below(messages.len() as u64 + 1) as usize;
    batch.release(count);
    for &message in &messages[..count] {
        log.record(Record { event: Event::Released, message, attempts: None, order: shared.next_order() });
    }
    shared.count_received(count as u64);
}

fn waiting(dice: &mut Dice) -> Waiting {
    if dice.below(2) == 0 { Waiting::Block } else { Waiting::Adaptive }
}

/// A child that can't use its parent's endpoint, and lives on for a while without keeping
/// its parent alive.
fn in_a_fork(body: impl FnOnce()) {
    if fork().is_none() {
        end_after(|| {
            body();
            thread::sleep(Duration::from_millis(30));
        });
    }
    // Whoever conducts this reaps it when we are gone; before, it doesn't matter.
}

/// So that the logs stay of a size that can be checked.
fn breathe(dice: &mut Dice) {
    if dice.below(4) == 0 {
        thread::sleep(Duration::from_micros(dice.below(300)));
    }
}

/// A message says what it is, and every byte of it follows from that.
fn bytes_of(message: Message) -> Vec<u8> {
    let mut dice = Dice::new(u64::from(message.sender) << 32 | u64::from(message.number));
    let len = dice.below(MAX_LEN - 8);
    let head = message.sender.to_ne_bytes().into_iter().chain(message.number.to_ne_bytes());
    head.chain((0..len).map(|_| dice.roll() as u8)).collect()
}

fn message_of(bytes: &[u8]) -> Message {
    let word = |at: usize| {
        bytes.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four")))
    };
    let message = Message { sender: word(0), number: word(4) };
    assert!(bytes == bytes_of(message), "torn: {message:?}, {} bytes", bytes.len());
    message
}
