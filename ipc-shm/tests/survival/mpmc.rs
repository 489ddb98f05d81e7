//! Scenes that only work queues have: dropping the oldest, last deliveries, batches that
//! are sent, damage that is left for somebody else.

use crate::{
    common::{end_after, fork, layout, name, write_at},
    kinds::{Mpmc, Queue, ROOM_FOR_700, receiver, sender},
    queues::{drain, finish, open},
    scenario::Scenario,
    stage::Stage,
};
use ipc_shm::{
    BatchReceiver, BatchSender, Channel, Message, MpmcReceiver, MpmcSender, Receiver, RecvError, SendError,
    Sender, ShmConfig, Transport, Wait, WhenFull,
};

/// A note of victims.
const SENT: usize = 0;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new(Mpmc::KIND.as_str(), name, scene);
    vec![
        scene("sender, drops the oldest", drop_the_oldest).short(),
        scene("sender, a batch", send_a_batch),
        scene("receiver, of the message after", receive_the_next_one).short(),
        scene("receiver, of a last delivery", deliver_for_the_last_time),
        scene("receiver, puts a batch back", put_a_batch_back),
        scene("receiver, of a damaged message", receive_what_is_damaged),
        scene("repairer, for a receiver that has gone ahead", repair_for_another),
        scene("repairer, of a drop that was not done", repair_a_drop),
    ]
}

fn create(stage: &Stage, config: &ShmConfig) {
    let channel = stage.shm().create(&name("x"), config).expect("it can be made");
    let mut tx = sender(&channel).expect("there is room");
    for number in 0..ROOM_FOR_700 as u8 {
        tx.try_send(&[number; 700]).expect("there is room");
    }
}

fn lost(stage: &Stage) -> u64 {
    stage.shm().stat(&name("x")).expect("it is there").lost_messages.expect("it is counted")
}

/// What is dropped is counted, and what isn't, isn't.
fn drop_the_oldest(stage: &Stage) {
    create(stage, &Mpmc::config().when_full(WhenFull::DropOldest));
    stage.victim(
        || sender(&open(stage)).unwrap(),
        |tx| {
            tx.try_send(&[99; 700])?;
            stage.note(SENT);
            Ok(())
        },
    );
    let mut found = drain(&mut receiver(&open(stage)).unwrap());
    let was_sent = found.last() == Some(&Some(vec![99; 700]));
    if was_sent {
        found.pop();
    }
    assert!(was_sent || stage.noted(SENT) == 0, "what was acknowledged is there");
    let dropped = ROOM_FOR_700 - found.len();
    assert!(dropped <= 1 && dropped >= usize::from(was_sent), "one at the most, to make room");
    for (number, message) in (dropped as u8..).zip(found) {
        assert_eq!(message, Some(vec![number; 700]));
    }
    assert_eq!(lost(stage), dropped as u64);
    finish(stage);
}

/// Each message is there or not, in order; the last ones are there first, so that all of
/// them become visible together.
fn send_a_batch(stage: &Stage) {
    drop(stage.shm().create(&name("x"), &Mpmc::config()).unwrap());
    let batch: Vec<Vec<u8>> = (0..3_u8).map(|number| vec![number; 700]).collect();
    let come = || -> MpmcSender {
        ipc_shm::Mpmc::at(stage.arena().path()).open(&name("x")).unwrap().sender().unwrap()
    };
    stage.victim(come, |tx| {
        assert_eq!(tx.send_batch(&batch, Wait::Never)?, batch.len());
        stage.note(SENT);
        Ok(())
    });
    let found = drain(&mut receiver(&open(stage)).unwrap());
    assert!(found.len() == batch.len() || stage.noted(SENT) == 0, "what was acknowledged is there");
    assert_eq!(found, batch[batch.len() - found.len()..].iter().cloned().map(Some).collect::<Vec<_>>());
    finish(stage);
}

/// Who knows where the next message is takes it without looking for it.
fn receive_the_next_one(stage: &Stage) {
    create(stage, &Mpmc::config());
    stage.victim(
        || {
            let mut rx = receiver(&open(stage)).unwrap();
            rx.try_recv().map(drop).unwrap();
            rx
        },
        |rx| {
            assert_eq!(*rx.try_recv()?, [1; 700]);
            stage.note(SENT);
            Ok(())
        },
    );
    let found = drain(&mut receiver(&open(stage)).unwrap());
    let missing = ROOM_FOR_700 - found.len();
    assert!(missing == 2 || missing == 1 && stage.noted(SENT) == 0, "released, or it comes again");
    for (number, message) in (missing as u8..).zip(found) {
        assert_eq!(message, Some(vec![number; 700]));
    }
    finish(stage);
}

/// A message that mustn't be delivered again is delivered once, or counted as lost.
fn deliver_for_the_last_time(stage: &Stage) {
    create(stage, &Mpmc::config().max_deliveries(1));
    stage.victim(
        || receiver(&open(stage)).unwrap(),
        |rx| {
            rx.try_recv().map(drop)?;
            stage.note(SENT);
            Ok(())
        },
    );
    let found = drain(&mut receiver(&open(stage)).unwrap());
    let missing = ROOM_FOR_700 - found.len();
    assert!(missing <= 1);
    // Released, and the victim had no time to say so; or lost, and counted.
    assert!(lost(stage) <= missing as u64);
    assert!(stage.noted(SENT) == 0 || (missing, lost(stage)) == (1, 0), "what was released isn't lost");
    for (number, message) in (missing as u8..).zip(found) {
        assert_eq!(message, Some(vec![number; 700]));
    }
    finish(stage);
}

/// All of it comes again to a receiver that has gone past it, whatever becomes of who took it.
fn put_a_batch_back(stage: &Stage) {
    create(stage, &Mpmc::config());
    let mut ahead = receiver(&open(stage)).unwrap();
    stage.victim(
        || -> MpmcReceiver {
            let queue = ipc_shm::Mpmc::at(stage.arena().path()).open(&name("x")).unwrap();
            let mut rx = queue.receiver().unwrap();
            assert_eq!(rx.advance_batch(ROOM_FOR_700 - 1, Wait::Never).unwrap(), ROOM_FOR_700 - 1);
            rx
        },
        |rx| {
            rx.put_back();
            stage.note(SENT);
            Ok(())
        },
    );
    // If it wasn't done, it is done now.
    drop(sender(&open(stage)).unwrap());
    let mut found = drain(&mut ahead);
    found.sort();
    assert_eq!(found, (0..ROOM_FOR_700 as u8).map(|number| Some(vec![number; 700])).collect::<Vec<_>>());
    assert_eq!(lost(stage), 0);
    drop(ahead);
    finish(stage);
}

/// What a dead one held comes to a receiver that was past it already.
fn repair_for_another(stage: &Stage) {
    create(stage, &Mpmc::config());
    let mut ahead = receiver(&open(stage)).unwrap();
    let Some(holder) = fork() else {
        end_after(|| {
            let mut rx = receiver(&open(stage)).unwrap();
            rx.try_recv().unwrap().keep();
            std::mem::forget(rx);
        })
    };
    holder.ends_well();
    assert_eq!(drain(&mut ahead).len(), ROOM_FOR_700 - 1);
    stage.victim(
        || (open(stage), None),
        |(channel, rx)| {
            *rx = Some(receiver(channel)?);
            Ok(())
        },
    );
    // If it wasn't done, it is done now.
    drop(sender(&open(stage)).unwrap());
    assert_eq!(drain(&mut ahead), [Some(vec![0; 700])]);
    drop(ahead);
    finish(stage);
}

/// A sender that died when it was about to drop a message has dropped none.
fn repair_a_drop(stage: &Stage) {
    create(stage, &Mpmc::config().when_full(WhenFull::DropOldest));
    let Some(dropper) = fork() else { end_after(|| std::mem::forget(sender(&open(stage)).unwrap())) };
    dropper.ends_well();
    // What it writes before it tries: which slot's message, and that it is at it.
    let file = stage.arena().file("x");
    write_at(&file, DROPS, &0_u64.to_ne_bytes());
    write_at(&file, DROPS + 8, &1_u64.to_ne_bytes());
    stage.victim(
        || (open(stage), None),
        |(channel, rx)| {
            *rx = Some(receiver(channel)?);
            Ok(())
        },
    );
    // If it wasn't done, it is done now.
    let mut rx = receiver(&open(stage)).unwrap();
    assert_eq!(lost(stage), 0);
    assert_eq!(drain(&mut rx).len(), ROOM_FOR_700);
    drop(rx);
    finish(stage);
}

/// Where the first participant's words about what it drops are.
const DROPS: u64 = 2 * layout::PAGE + 128;

/// Where the data of a queue with the default number of participants begins.
const DATA: u64 = 2 * layout::PAGE + 64 * 256;

fn receive_what_is_damaged(stage: &Stage) {
    create(stage, &Mpmc::config());
    let file = stage.arena().file("x");
    // The word behind the first slot's: what its message is like.
    let good = 700_u64 << 8 | 1;
    assert_eq!(crate::common::read_word(&file, DATA + 8), good);
    write_at(&file, DATA + 8, &u64::MAX.to_ne_bytes());
    stage.victim(
        || receiver(&open(stage)).unwrap(),
        |rx| match rx.try_recv().map(Message::keep) {
            Err(RecvError::Corrupt(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => panic!("it is damaged"),
        },
    );
    // Somebody can make sense of it.
    write_at(&file, DATA + 8, &good.to_ne_bytes());
    let mut rx = receiver(&open(stage)).unwrap();
    assert_eq!(drain(&mut rx).len(), ROOM_FOR_700);
    assert!(!matches!(sender(&open(stage)).unwrap().try_send(&[]), Err(SendError::Corrupt(_))));
    assert_eq!(drain(&mut rx).len(), 1);
    drop(rx);
    finish(stage);
}
