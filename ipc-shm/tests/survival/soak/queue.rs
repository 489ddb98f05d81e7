//! Queues, in a crowd: each message to one receiver.

use super::{
    Shared,
    log::Event,
    worker::{A_WHILE, Life, MAX_LEN, Part, Worker, for_a_while, in_a_fork, message_of},
};
use ipc_shm::{
    Batch, BatchReceiver, Channel, Message as _, MpmcReceiver, Receiver, RecvError, Redelivered, SendError,
    Sender, Shm, ShmChannel, ShmMessage, ShmReceiver, ShmSender, Transport,
};

pub(super) fn live(worker: &Worker, shared: &Shared) {
    let mut life = Life::begin(worker, shared);
    while !shared.is_over() {
        match worker.part {
            Part::Sender => send(&mut life),
            _ => receive(&mut life),
        }
    }
}

fn open(worker: &Worker) -> ShmChannel {
    Shm::at(&worker.directory).open_or_create(&worker.name, &worker.config).expect("it can be opened or made")
}

fn send(life: &mut Life<'_>) {
    let channel = open(life.worker);
    let Some(mut tx) = life.attach(|| channel.sender()) else { return };
    tx.set_waiting(life.waiting());
    life.send(&mut tx, |life, tx| match tx {
        ShmSender::Spsc(tx) => life.send_batch(tx),
        ShmSender::Mpmc(tx) => life.send_batch(tx),
        other => life.send_one(other, u64::MAX),
    });
}

fn receive(life: &mut Life<'_>) {
    let channel = open(life.worker);
    let Some(mut rx) = life.attach(|| channel.receiver()) else { return };
    rx.set_waiting(life.waiting());
    for _ in 0..1 + life.dice.below(2000) {
        if life.shared.is_over() {
            return;
        }
        match life.dice.below(100) {
            0 => in_a_fork(|| assert!(matches!(rx.try_recv().map(drop), Err(RecvError::Forked)))),
            1..10 => receive_batch(life, &mut rx),
            how => receive_one(life, &mut rx, how),
        }
        life.breathe();
    }
}

fn receive_one(life: &mut Life<'_>, rx: &mut ShmReceiver, how: u64) {
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
    life.note(Event::Got, message, attempts);
    match how {
        // It comes again, to us or to the next one.
        10..15 => received.keep(),
        _ => {
            drop(received);
            life.note(Event::Released, message, attempts);
            life.shared.count_received(1);
        }
    }
}

fn receive_batch(life: &mut Life<'_>, rx: &mut ShmReceiver) {
    let max = 1 + life.dice.below(5) as usize;
    match rx.advance_batch(max, for_a_while()) {
        Ok(_) => {}
        Err(RecvError::TimedOut) => return,
        Err(error) => panic!("can't receive: {error}"),
    }
    let batch = rx.held_batch();
    let messages: Vec<_> = batch.iter().map(message_of).collect();
    messages.iter().for_each(|&message| life.note(Event::Got, message, None));
    let count = life.dice.below(messages.len() as u64 + 1) as usize;
    batch.release(count);
    messages[..count].iter().for_each(|&message| life.note(Event::Released, message, None));
    life.shared.count_received(count as u64);
}

fn receive_the_rest(life: &mut Life<'_>, rx: &mut ShmReceiver) {
    let mut fruitless = 0;
    while fruitless < 3 {
        let before = life.shared.received();
        receive_one(life, rx, u64::MAX);
        fruitless = if life.shared.received() == before { fruitless + 1 } else { 0 };
    }
}

/// Takes out what is left; then there is a place for everybody, and room for everything.
pub(super) fn clear_up(pattern: &Worker, id: u32, shared: &Shared) {
    let worker = Worker { id, ..pattern.clone() };
    let mut life = Life::begin(&worker, shared);
    let channel = open(&worker);
    let mut rx = channel.receiver().expect("there is a place for a receiver");
    receive_the_rest(&mut life, &mut rx);
    let mut tx = channel.sender().expect("there is a place for a sender");
    let stat = Shm::at(&worker.directory).stat(&worker.name).expect("it is there");
    assert_eq!(stat.queued_messages, Some(0));
    assert_eq!(stat.lost_messages.unwrap_or(0), 0);
    // All of it can be used: as many go in as come out, twice over.
    let counts = [(); 2].map(|()| {
        let mut count = 0;
        loop {
            match tx.try_send(&[1; MAX_LEN as usize]) {
                Ok(()) => count += 1,
                Err(SendError::WouldBlock) => break,
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..count {
            drop(rx.try_recv().expect("what was sent is there"));
        }
        count
    });
    if let Some(depth) = stat.depth {
        assert_eq!(counts, [depth; 2], "every slot is free");
    }
    assert!(counts[0] > 0 && counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");
}
