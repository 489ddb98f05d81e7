//! Scenes that only channels of one sender and one receiver have: batches that are sent and
//! appear whole, counts that are recorded now and then.

use crate::{
    common::name,
    kinds::{Queue, Spsc, receiver},
    queues::{drain, finish, open},
    scenario::Scenario,
    stage::Stage,
};
use ipc_shm::{
    BatchSender, Channel, Receiver, Sender, Sequenced, SpscChannel, SpscReceiver, SpscSender, Transport, Wait,
};

/// A note of victims.
const SENT: usize = 0;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new(Spsc::KIND.as_str(), name, scene);
    vec![
        scene("sender, a batch", send_a_batch).short(),
        scene("sender, a count that is due", send_the_64th).short(),
    ]
}

/// The sender's ledger is written at every so manyth message.
const RECORD_EVERY: u64 = 64;

fn sender(stage: &Stage) -> SpscSender {
    channel(stage).sender().expect("the role is free")
}

fn channel(stage: &Stage) -> SpscChannel {
    ipc_shm::Spsc::at(stage.arena().path()).open(&name("x")).expect("it is there")
}

/// A channel that so many messages went through, over words of all kinds, with the next
/// record 256 bytes before the end of the ring.
fn create(stage: &Stage, messages: u64) {
    drop(stage.shm().create(&name("x"), &Spsc::config()).expect("it can be made"));
    let mut tx = sender(stage);
    let mut rx = receiver(&open(stage)).expect("the role is free");
    for number in 0..messages {
        // Records of 256 bytes, sixteen to a lap; the first one makes up for the rest.
        let record = if number == 0 { 256 * (15 - (messages as usize - 1) % 16) } else { 256 };
        tx.try_send(&vec![0xff; record - 8]).expect("there is room");
        assert_eq!(drain(&mut rx).len(), 1);
    }
}

/// How many messages are in the channel, by its own account; it doesn't matter who is dead.
fn queued(stage: &Stage) -> u64 {
    stage.shm().stat(&name("x")).expect("it is there").queued_messages.expect("it is counted")
}

/// All or nothing, counted right, and the next one goes on.
fn assert_sent_whole(stage: &Stage, before: u64, messages: &[Vec<u8>]) {
    let queued = queued(stage);
    assert!(queued == 0 || queued == messages.len() as u64, "{queued} of {}", messages.len());
    assert!(queued > 0 || stage.noted(SENT) == 0, "what was acknowledged is there");
    sender(stage).try_send(b"after").unwrap();
    let mut rx = channel(stage).receiver().expect("the role is free");
    for (number, message) in (before..).zip(&messages[..queued as usize]) {
        let found = rx.try_recv().expect("it is counted");
        assert_eq!((&*found, SpscReceiver::sequence_of(&found)), (&**message, number));
    }
    let after = rx.try_recv().expect("it was sent");
    assert_eq!((&*after, SpscReceiver::sequence_of(&after)), (&b"after"[..], before + queued));
    drop(after);
    drop(rx);
    finish(stage);
}

/// An empty message among them, and one over the end of the ring; and the ledger is due.
fn send_a_batch(stage: &Stage) {
    create(stage, RECORD_EVERY - 2);
    let batch = [vec![1; 8], vec![], vec![2; 700], vec![3; 5]];
    stage.victim(
        || sender(stage),
        |tx| {
            assert_eq!(tx.send_batch(&batch, Wait::Never)?, batch.len());
            stage.note(SENT);
            Ok(())
        },
    );
    assert_sent_whole(stage, RECORD_EVERY - 2, &batch);
}

fn send_the_64th(stage: &Stage) {
    create(stage, RECORD_EVERY - 1);
    stage.victim(
        || sender(stage),
        |tx| {
            tx.try_send(&[1; 700])?;
            stage.note(SENT);
            Ok(())
        },
    );
    assert_sent_whole(stage, RECORD_EVERY - 1, &[vec![1; 700]]);
}
