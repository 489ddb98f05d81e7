//! Scenes at broadcasts: publishing and subscribing, waiting, overtaking, coming and going.
//!
//! What was acknowledged comes to everybody, in order and once; of what wasn't, all or
//! nothing; gaps are exact; nobody waits for the dead, and the next ones go on.

use crate::{
    common::{PATIENCE, end_after, fork, name},
    queues::drain,
    scenario::Scenario,
    stage::Stage,
};
use ipc_shm::{
    Batch, BatchReceiver, BatchSender, Broadcast, BroadcastChannel, BroadcastPublisher, BroadcastSubscriber,
    Channel, EndMark, Kind, Message, Receiver, RecvError, SendError, Sender, ShmConfig, Transport, Wait,
    Waiting, WhenFull,
};
use std::time::Duration;

/// Notes of victims.
const SENT: usize = 0;
const RELEASED: usize = 1;

/// A wait that is over soon.
const BRIEFLY: Duration = Duration::from_millis(1);

const POLICIES: [WhenFull; 2] = [WhenFull::DropOldest, WhenFull::Wait];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scene = |name: &str, policy: WhenFull, scene: fn(&Stage, WhenFull)| {
        let name = format!("{name} ({policy})");
        Scenario::new(Kind::Broadcast.as_str(), name, move |stage: &Stage| scene(stage, policy))
    };
    let mut all = Vec::new();
    for policy in POLICIES {
        all.extend([
            scene("publisher, a short message", policy, |stage, policy| publish(stage, policy, 5)).short(),
            scene("publisher, a message over the end of the ring", policy, |stage, policy| {
                publish(stage, policy, 500);
            }),
            scene("publisher, an end mark", policy, publish_end).short(),
            scene("publisher, a batch", policy, publish_a_batch),
            scene("publisher, comes", policy, publisher_comes),
            scene("publisher, comes after one that died in a batch", policy, succeed),
            scene("publisher, goes", policy, publisher_goes),
            scene("subscriber, one message", policy, |stage, policy| receive(stage, policy, 1)).short(),
            scene("subscriber, a batch", policy, |stage, policy| receive(stage, policy, 3)),
            scene("subscriber, an end mark", policy, receive_end).short(),
            scene("subscriber, waits in vain", policy, wait_for_a_message).varying(),
            scene("subscriber, comes", policy, subscriber_comes),
            scene("subscriber, goes", policy, subscriber_goes),
            scene("onlooker", policy, look),
        ]);
    }
    all.extend([
        scene("publisher, waits for room in vain", WhenFull::Wait, wait_for_room).varying(),
        scene("publisher, finds a dead subscriber in the way", WhenFull::Wait, bury).varying(),
        scene("subscriber, was overtaken", WhenFull::DropOldest, lag),
    ]);
    all
}

fn create(stage: &Stage, policy: WhenFull) {
    let config = ShmConfig::new().capacity_bytes(4096).publishers(2).participants(5).when_full(policy);
    drop(Broadcast::at(stage.arena().path()).create(&name("x"), &config).expect("it can be made"));
}

fn open(stage: &Stage) -> BroadcastChannel {
    Broadcast::at(stage.arena().path()).open(&name("x")).expect("it is there")
}

fn publisher(stage: &Stage) -> BroadcastPublisher {
    let mut tx = open(stage).sender().expect("there is a place");
    tx.set_waiting(Waiting::Block);
    tx
}

fn subscriber(stage: &Stage) -> BroadcastSubscriber {
    let mut rx = open(stage).receiver().expect("there is a place");
    rx.set_waiting(Waiting::Block);
    rx
}

/// A channel that has been round, and one that has subscribed to it.
fn begin(stage: &Stage, policy: WhenFull) -> BroadcastSubscriber {
    create(stage, policy);
    let (mut tx, mut rx) = (publisher(stage), subscriber(stage));
    for _ in 0..5 {
        tx.try_send(&[0xff; 700]).expect("there is room");
        assert_eq!(drain(&mut rx).len(), 1);
    }
    tx.try_send(&[0xff; 200]).expect("there is room");
    assert_eq!(drain(&mut rx).len(), 1);
    rx
}

/// All is well with the channel: there are places, all of it can be used, and nobody is
/// waited for. Then it is removed.
fn finish(stage: &Stage) {
    let publishers: Vec<_> = (0..2).map(|_| publisher(stage)).collect();
    let mut subscribers: Vec<_> = (0..3).map(|_| subscriber(stage)).collect();
    for mut tx in publishers {
        for len in [1, tx.max_message_len(), 8, tx.max_message_len()] {
            tx.send_timeout(&vec![9; len], PATIENCE).expect("nobody is in the way");
            subscribers.iter_mut().for_each(|rx| assert_eq!(drain(rx), [Some(vec![9; len])]));
        }
    }
    drop(subscribers);
    stage.shm().remove(&name("x")).expect("nobody has it open");
}

/// What comes behind: what was acknowledged, whole, then what the next one sends.
fn assert_sent(stage: &Stage, rx: &mut BroadcastSubscriber, sent: &[Option<Vec<u8>>]) {
    publisher(stage).try_send(b"after").unwrap();
    let mut found = drain(rx);
    // The next one may have another ring, which may come first.
    let after = found.iter().position(|message| *message == Some(b"after".to_vec()));
    found.remove(after.expect("the next one's message"));
    assert!(found == sent || found.is_empty() && stage.noted(SENT) == 0, "found {found:?}");
}

fn publish(stage: &Stage, policy: WhenFull, len: usize) {
    let mut rx = begin(stage, policy);
    let message = vec![7; len];
    stage.victim(
        || publisher(stage),
        |tx| {
            tx.try_send(&message)?;
            stage.note(SENT);
            Ok(())
        },
    );
    assert_sent(stage, &mut rx, &[Some(message)]);
    drop(rx);
    finish(stage);
}

fn publish_end(stage: &Stage, policy: WhenFull) {
    let mut rx = begin(stage, policy);
    stage.victim(
        || publisher(stage),
        |tx| {
            tx.send_end(Wait::Never)?;
            stage.note(SENT);
            Ok(())
        },
    );
    assert_sent(stage, &mut rx, &[None]);
    drop(rx);
    finish(stage);
}

fn batch() -> Vec<Vec<u8>> {
    (0..3_u8).map(|number| vec![number; 20]).collect()
}

/// All of it or nothing.
fn publish_a_batch(stage: &Stage, policy: WhenFull) {
    let mut rx = begin(stage, policy);
    stage.victim(
        || publisher(stage),
        |tx| {
            assert_eq!(tx.send_batch(&batch(), Wait::Never)?, 3);
            stage.note(SENT);
            Ok(())
        },
    );
    assert_sent(stage, &mut rx, &batch().into_iter().map(Some).collect::<Vec<_>>());
    drop(rx);
    finish(stage);
}

/// An endpoint to come.
type Visitor<T> = (BroadcastChannel, Option<T>);

fn publisher_comes(stage: &Stage, policy: WhenFull) {
    let mut rx = begin(stage, policy);
    let come = || -> Visitor<BroadcastPublisher> { (open(stage), None) };
    stage.victim(come, |(channel, tx)| {
        *tx = Some(channel.sender()?);
        Ok(())
    });
    assert_sent(stage, &mut rx, &[]);
    drop(rx);
    finish(stage);
}

/// Who dies first has published, and perhaps not recorded it.
fn succeed(stage: &Stage, policy: WhenFull) {
    let mut rx = begin(stage, policy);
    let Some(first) = fork() else {
        end_after(|| {
            let mut tx = publisher(stage);
            tx.send_batch(&batch(), Wait::Never).unwrap();
            // Its position is behind what it has published.
            let file = stage.arena().file("x");
            let place = HEAD + 256 * u64::from(tx.id() - 1);
            let position = crate::common::read_word(&file, place);
            let size: usize = batch().iter().map(|message| 16 + message.len().next_multiple_of(8)).sum();
            crate::common::write_at(&file, place, &(position - size as u64).to_ne_bytes());
            std::mem::forget(tx);
        })
    };
    first.ends_well();
    let come = || -> Visitor<BroadcastPublisher> { (open(stage), None) };
    stage.victim(come, |(channel, tx)| {
        *tx = Some(channel.sender()?);
        Ok(())
    });
    stage.note(SENT);
    assert_sent(stage, &mut rx, &batch().into_iter().map(Some).collect::<Vec<_>>());
    drop(rx);
    finish(stage);
}

/// Where the first publisher says how far it has come.
const HEAD: u64 = 2 * 4096 + 128;

fn publisher_goes(stage: &Stage, policy: WhenFull) {
    let mut rx = begin(stage, policy);
    stage.victim(
        || Some(publisher(stage)),
        |tx| {
            drop(tx.take());
            Ok(())
        },
    );
    assert_sent(stage, &mut rx, &[]);
    drop(rx);
    finish(stage);
}

fn receive(stage: &Stage, policy: WhenFull, count: usize) {
    let mut other = begin(stage, policy);
    let sent: Vec<_> = (0..4_u8).map(|number| vec![number; 20]).collect();
    stage.victim(
        || {
            let rx = subscriber(stage);
            let mut tx = publisher(stage);
            sent.iter().for_each(|message| tx.try_send(message).unwrap());
            rx
        },
        |rx| {
            rx.advance_batch(count, Wait::Never)?;
            match count {
                1 => assert_eq!(*rx.held(), *sent[0]),
                _ => rx.held_batch().release_all(),
            }
            stage.note(RELEASED);
            Ok(())
        },
    );
    // What it held, nobody else misses.
    assert_eq!(drain(&mut other), sent.into_iter().map(Some).collect::<Vec<_>>());
    drop(other);
    finish(stage);
}

fn receive_end(stage: &Stage, policy: WhenFull) {
    let mut other = begin(stage, policy);
    stage.victim(
        || {
            let rx = subscriber(stage);
            publisher(stage).send_end(Wait::Never).unwrap();
            rx
        },
        |rx| match rx.try_recv().map(drop) {
            Err(RecvError::End) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => panic!("there is no message"),
        },
    );
    assert_eq!(drain(&mut other), [None]);
    drop(other);
    finish(stage);
}

fn wait_for_a_message(stage: &Stage, policy: WhenFull) {
    create(stage, policy);
    stage.victim(
        || subscriber(stage),
        |rx| match rx.recv_timeout(BRIEFLY).map(drop) {
            Err(RecvError::TimedOut) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => panic!("there is no message"),
        },
    );
    finish(stage);
}

fn subscriber_comes(stage: &Stage, policy: WhenFull) {
    create(stage, policy);
    publisher(stage).try_send(b"before").unwrap();
    let come = || -> Visitor<BroadcastSubscriber> { (open(stage), None) };
    stage.victim(come, |(channel, rx)| {
        *rx = Some(channel.receiver()?);
        Ok(())
    });
    let mut rx = subscriber(stage);
    assert_sent(stage, &mut rx, &[]);
    drop(rx);
    finish(stage);
}

fn subscriber_goes(stage: &Stage, policy: WhenFull) {
    let mut other = begin(stage, policy);
    stage.victim(
        || Some(subscriber(stage)),
        |rx| {
            drop(rx.take());
            Ok(())
        },
    );
    assert_sent(stage, &mut other, &[]);
    drop(other);
    finish(stage);
}

fn look(stage: &Stage, policy: WhenFull) {
    let rx = begin(stage, policy);
    let tx = publisher(stage);
    stage.victim(
        || (),
        |()| {
            let info = stage.shm().stat(&name("x"))?;
            // What couldn't be read isn't made up.
            assert!(
                info.sent_messages.is_some_and(|sent| sent == 6 || sent == 0) && info.participants.len() <= 2
            );
            Ok(())
        },
    );
    drop((tx, rx));
    finish(stage);
}

/// Publishes until there is no room; how many it took.
fn fill(stage: &Stage) -> usize {
    let mut tx = publisher(stage);
    (0..).find(|_| tx.try_send(&[1; 100]).is_err()).expect("it is full some time")
}

fn wait_for_room(stage: &Stage, policy: WhenFull) {
    let mut rx = begin(stage, policy);
    let count = fill(stage);
    stage.victim(
        || publisher(stage),
        |tx| match tx.send_timeout(&[2; 100], BRIEFLY) {
            Err(SendError::TimedOut) => Ok(()),
            other => Ok(other?),
        },
    );
    assert_eq!(drain(&mut rx), vec![Some(vec![1; 100]); count], "there was no room for more");
    drop(rx);
    finish(stage);
}

fn bury(stage: &Stage, policy: WhenFull) {
    drop(begin(stage, policy));
    let Some(dead) = fork() else { end_after(|| std::mem::forget(subscriber(stage))) };
    dead.ends_well();
    fill(stage);
    stage.victim(
        || publisher(stage),
        |tx| {
            tx.send_timeout(&[2; 100], PATIENCE)?;
            Ok(())
        },
    );
    let mut tx = publisher(stage);
    tx.send_timeout(&[3; 100], PATIENCE).expect("nobody is waited for who is dead");
    drop(tx);
    finish(stage);
}

/// Gaps are exact, and counted in the channel whatever becomes of who was overtaken.
fn lag(stage: &Stage, policy: WhenFull) {
    const COUNT: u64 = 300;
    let lost = || stage.shm().stat(&name("x")).expect("it is there").lost_messages;
    let other = begin(stage, policy);
    stage.victim(
        || {
            let rx = subscriber(stage);
            let mut tx = publisher(stage);
            (0..COUNT).for_each(|number| tx.try_send(&number.to_ne_bytes()).unwrap());
            rx
        },
        |rx| {
            let missed = match rx.try_recv().map(Message::keep) {
                Err(RecvError::Lagged { missed }) => missed,
                // A call that failed came first.
                Ok(()) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            assert_eq!(*rx.try_recv()?, missed.to_ne_bytes());
            Ok(())
        },
    );
    assert!(lost().is_some_and(|lost| lost < COUNT));
    drop(other);
    finish(stage);
}
