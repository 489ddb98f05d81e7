//! Scenes at channels of queues: sending, receiving, waiting, waking, coming and going, and
//! repairing what one who died has left.
//!
//! What was acknowledged is there, in order and once; of what wasn't, all or nothing; the
//! roles are free, and the next ones go on.

use crate::{
    common::{PATIENCE, end_after, eventually, fork, name},
    kinds,
    kinds::{Queue, ROOM_FOR_700},
    scenario::Scenario,
    stage::{Stage, until_asleep},
};
use ipc_shm::{
    Batch, BatchReceiver, EndMark, Message, Pollable, Receiver, RecvError, Role, SendError, Sender,
    ShmChannel, ShmConfig, ShmReceiver, ShmSender, Transport, Wait,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
};
use std::time::{Duration, Instant};

/// What was received: messages, and `None` for an end mark.
type Found = Vec<Option<Vec<u8>>>;

/// Notes of victims.
const SENT: usize = 0;
const RELEASED: usize = 1;

/// A wait that is over soon.
const BRIEFLY: Duration = Duration::from_millis(1);

pub(crate) fn scenarios<K: Queue>() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new(K::KIND.as_str(), name, scene);
    let mut all = vec![
        scene("sender, an empty message", |stage| send::<K>(stage, 0)).short(),
        scene("sender, a short message", |stage| send::<K>(stage, 5)).short(),
        scene("sender, a message over the end of the ring", |stage| send::<K>(stage, 900)).short(),
        scene("sender, to a receiver that is quick", send_to_a_quick_receiver::<K>).short(),
        scene("sender, into the last room", send_into_the_last_room::<K>),
        scene("sender, an end mark", send_end::<K>).short(),
        scene("sender, thinks better of it", send_nothing::<K>).short(),
        scene("sender, waits for room in vain", wait_for_room::<K>).varying(),
        scene("sender, waits for room and is woken", wait_for_room_and_be_woken::<K>).varying(),
        scene("sender, wakes a receiver that is dead", wake_a_dead_receiver::<K>),
        scene("sender, wakes a receiver", wake_a_receiver::<K>).varying(),
        scene("sender, tells a poller", tell_a_poller::<K>),
        scene("sender, comes", |stage| come::<K>(stage, Role::Sender)),
        scene("sender, comes by name", |stage| come_by_name::<K>(stage, Role::Sender)),
        scene("sender, goes", |stage| go::<K>(stage, Role::Sender)),
        scene("sender, goes last from a transient channel", |stage| go_last::<K>(stage, Role::Sender, false)),
        scene("sender, goes last and leaves a message", |stage| go_last::<K>(stage, Role::Sender, true)),
        scene("receiver, one message", |stage| receive::<K>(stage, 1)).short(),
        scene("receiver, a batch", |stage| receive::<K>(stage, 3)).short(),
        scene("receiver, an end mark", receive_end::<K>).short(),
        scene("receiver, waits for a message in vain", wait_for_a_message::<K>).varying(),
        scene("receiver, waits for a message and is woken", wait_for_a_message_and_be_woken::<K>).varying(),
        scene("receiver, wakes a sender that is dead", wake_a_dead_sender::<K>),
        scene("receiver, makes a descriptor to poll", make_a_descriptor::<K>),
        scene("receiver, is about to poll", be_about_to_poll::<K>),
        scene("receiver, comes", |stage| come::<K>(stage, Role::Receiver)),
        scene("receiver, comes by name", |stage| come_by_name::<K>(stage, Role::Receiver)),
        scene("receiver, goes", |stage| go::<K>(stage, Role::Receiver)),
        scene("receiver, goes last from a transient channel", |stage| {
            go_last::<K>(stage, Role::Receiver, false)
        }),
    ];
    // Who dies first has come to at most so many points; then it was done.
    let after = |whom: &str, point: usize, scene: fn(&Stage, usize)| {
        let name = format!("repairer, after a {whom} that died at point {point}");
        let scenario = Scenario::new(K::KIND.as_str(), name, move |stage: &Stage| scene(stage, point));
        scenario.variation(point % (FIRST_DEATHS / 2) == 0)
    };
    for point in 0..FIRST_DEATHS {
        all.push(after("sender", point, repair_a_sender::<K>));
        all.push(after("receiver", point, repair_a_receiver::<K>));
    }
    all.retain(|scenario| Stage::can_lack() || !scenario.name.starts_with("repairer"));
    all
}

/// More than sending or releasing takes.
const FIRST_DEATHS: usize = 24;

pub(super) fn open(stage: &Stage) -> ShmChannel {
    stage.shm().open(&name("x")).expect("it is there")
}

fn create(stage: &Stage, config: &ShmConfig) {
    drop(stage.shm().create(&name("x"), config).expect("it can be made"));
}

fn sender(stage: &Stage) -> ShmSender {
    kinds::sender(&open(stage)).expect("the role is free")
}

fn receiver(stage: &Stage) -> ShmReceiver {
    kinds::receiver(&open(stage)).expect("the role is free")
}

/// Receives all there is.
pub(super) fn drain(rx: &mut impl Receiver) -> Found {
    let mut found = Vec::new();
    loop {
        match rx.try_recv() {
            Ok(message) => found.push(Some(message.to_vec())),
            Err(RecvError::End) => found.push(None),
            Err(RecvError::WouldBlock) => return found,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Sends until there is no room; how many it took.
fn fill(tx: &mut impl Sender, message: &[u8]) -> usize {
    let mut count = 0;
    loop {
        match tx.try_send(message) {
            Ok(()) => count += 1,
            Err(SendError::WouldBlock) => return count,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Goes round the ring until the next record runs over its end, over words of all kinds.
fn go_round(stage: &Stage) {
    let (mut tx, mut rx) = (sender(stage), receiver(stage));
    for _ in 0..3 {
        for len in [1000, 200] {
            tx.try_send(&vec![0xff; len.min(tx.max_message_len())]).expect("there is room");
        }
        assert_eq!(drain(&mut rx).len(), 2);
    }
}

fn text(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

/// All is well with the channel: the roles are free, it is empty, all of it can be used.
/// Then it is removed.
pub(super) fn finish(stage: &Stage) {
    let (mut tx, mut rx) = (sender(stage), receiver(stage));
    assert_eq!(drain(&mut rx), [], "all was received");
    let stat = stage.shm().stat(&name("x")).expect("it is there");
    assert_eq!(stat.queued_messages, Some(0));
    let longest = tx.max_message_len();
    for len in [1, longest, 8, longest] {
        tx.try_send(&vec![9; len]).expect("there is room");
        assert_eq!(drain(&mut rx), [Some(vec![9; len])]);
    }
    drop((tx, rx));
    stage.shm().remove(&name("x")).expect("nobody has it open");
}

/// Asserts that what is found is `must`, or has `may` at that place as well.
fn assert_found(found: &[Option<Vec<u8>>], must: &[Option<Vec<u8>>], at: usize, may: &[Option<Vec<u8>>]) {
    let (before, after) = must.split_at(at);
    let with = [before, may, after].concat();
    assert!(found == must || found == with, "found {found:?}, expected {must:?} and perhaps {may:?} at {at}");
}

/// Asserts that what a dead receiver held, which was the oldest, is found again, or what of
/// it was not released.
fn assert_found_again<K: Queue>(
    found: &[Option<Vec<u8>>],
    rest: &[Option<Vec<u8>>],
    held: &[Option<Vec<u8>>],
) {
    if K::IN_ORDER {
        return assert_found(found, rest, 0, held);
    }
    let mut strange = found.to_vec();
    for message in rest {
        let at = strange.iter().position(|found| found == message);
        strange.remove(at.unwrap_or_else(|| panic!("lost: {message:?}")));
    }
    for message in held {
        if let Some(at) = strange.iter().position(|found| found == message) {
            strange.remove(at);
        }
    }
    assert_eq!(strange, [], "found and not expected");
}

fn send<K: Queue>(stage: &Stage, len: usize) {
    create(stage, &K::config());
    go_round(stage);
    sender(stage).try_send(b"before").unwrap();
    let message = vec![7; len];
    stage.victim(
        || sender(stage),
        |tx| {
            tx.try_send(&message)?;
            stage.note(SENT);
            Ok(())
        },
    );
    sender(stage).try_send(b"after").unwrap();
    let found = drain(&mut receiver(stage));
    let (before, message, after) = (text("before"), Some(message), text("after"));
    if stage.noted(SENT) == 1 {
        assert_eq!(found, [before, message, after], "what was acknowledged is there");
    } else {
        assert_found(&found, &[before, after], 1, &[message]);
    }
    finish(stage);
}

/// The receiver holds what the dead one has just sent: the next sender leaves it alone.
fn send_to_a_quick_receiver<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let mut rx = receiver(stage);
    stage.victim(
        || sender(stage),
        |tx| {
            tx.try_send(&[7; 700])?;
            stage.note(SENT);
            Ok(())
        },
    );
    let is_there = rx.try_recv().map(Message::keep).is_ok();
    assert!(is_there || stage.noted(SENT) == 0, "what was acknowledged is there");
    sender(stage).try_send(&[8; 700]).unwrap();
    if is_there {
        assert_eq!(*rx.try_recv().unwrap(), [7; 700], "it is lent, and nobody else's");
    }
    // Whoever comes next puts the dead one's claim in order, for those who came before, too.
    drop(sender(stage));
    assert_eq!(drain(&mut rx), [Some(vec![8; 700])]);
    drop(rx);
    finish(stage);
}

fn send_into_the_last_room<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let message = [1; 100];
    let count = fill(&mut sender(stage), &message);
    // The receiver has made room, which a sender only learns when it has to look.
    let mut rx = receiver(stage);
    stage.victim(
        || {
            let mut tx = sender(stage);
            assert!(matches!(tx.try_send(&[2; 100]), Err(SendError::WouldBlock)));
            tx
        },
        |tx| match tx.try_send(&[2; 100]) {
            Err(SendError::WouldBlock) => Ok(()),
            other => Ok(other?),
        },
    );
    assert_eq!(rx.try_recv().unwrap().to_vec(), message);
    let mut tx = sender(stage);
    tx.try_send(&[3; 100]).unwrap();
    assert!(matches!(tx.try_send(&[3; 100]), Err(SendError::WouldBlock)), "room for one, and no more");
    let found = drain(&mut rx);
    let mut expected = vec![Some(message.to_vec()); count - 1];
    expected.push(Some(vec![3; 100]));
    assert_eq!(found, expected);
    drop((tx, rx));
    finish(stage);
}

fn send_end<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    stage.victim(
        || sender(stage),
        |tx| {
            tx.send_end(Wait::Never)?;
            stage.note(SENT);
            Ok(())
        },
    );
    sender(stage).try_send(b"after").unwrap();
    let found = drain(&mut receiver(stage));
    if stage.noted(SENT) == 1 {
        assert_eq!(found, [None, text("after")]);
    } else {
        assert_found(&found, &[text("after")], 0, &[None]);
    }
    finish(stage);
}

fn send_nothing<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    stage.victim(
        || sender(stage),
        |tx| {
            tx.loan(700, Wait::Never).map(drop)?;
            Ok(())
        },
    );
    sender(stage).try_send(b"after").unwrap();
    assert_eq!(drain(&mut receiver(stage)), [text("after")]);
    finish(stage);
}

fn wait_for_room<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let count = fill(&mut sender(stage), &[1; 100]);
    stage.victim(
        || sender(stage),
        |tx| match tx.send_timeout(&[2; 100], BRIEFLY) {
            Err(SendError::TimedOut) => Ok(()),
            other => Ok(other?),
        },
    );
    let mut rx = receiver(stage);
    assert_eq!(drain(&mut rx), vec![Some(vec![1; 100]); count], "there was no room for more");
    drop(rx);
    finish(stage);
}

fn wait_for_room_and_be_woken<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let count = fill(&mut sender(stage), &[1; 100]);
    let mut rx = receiver(stage);
    stage.victim_while(
        || sender(stage),
        |tx| {
            tx.send(&[2; 100])?;
            stage.note(SENT);
            Ok(())
        },
        |alive| {
            until_asleep(stage, K::asleep(Role::Sender), alive);
            assert_eq!(rx.try_recv().unwrap().to_vec(), [1; 100]);
        },
    );
    let found = drain(&mut rx);
    let rest = vec![Some(vec![1; 100]); count - 1];
    if stage.noted(SENT) == 1 {
        assert_eq!(found, [rest, vec![Some(vec![2; 100])]].concat());
    } else {
        assert_found(&found, &rest, rest.len(), &[Some(vec![2; 100])]);
    }
    drop(rx);
    finish(stage);
}

/// Somebody dies in its sleep.
fn die_asleep<K: Queue>(stage: &Stage, role: Role) {
    let Some(sleeper) = fork() else {
        end_after(|| match role {
            Role::Sender => sender(stage).send(&[4; 100]).unwrap(),
            _ => drop(receiver(stage).recv().unwrap()),
        })
    };
    until_asleep(stage, K::asleep(role), &|| true);
    kill(sleeper.0, Signal::SIGKILL).expect("our child");
    sleeper.ended();
}

fn wake_a_dead_receiver<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    die_asleep::<K>(stage, Role::Receiver);
    stage.victim(
        || sender(stage),
        |tx| {
            tx.try_send(b"message")?;
            stage.note(SENT);
            Ok(())
        },
    );
    sender(stage).try_send(b"after").unwrap();
    let found = drain(&mut receiver(stage));
    assert!(stage.noted(SENT) == 0 || found.len() == 2, "what was acknowledged is there");
    assert_found(&found, &[text("after")], 0, &[text("message")]);
    finish(stage);
}

fn wake_a_dead_sender<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let count = fill(&mut sender(stage), &[1; 100]);
    die_asleep::<K>(stage, Role::Sender);
    stage.victim(
        || receiver(stage),
        |rx| {
            rx.try_recv().map(drop)?;
            stage.note(RELEASED);
            Ok(())
        },
    );
    let found = drain(&mut receiver(stage));
    assert!(stage.noted(RELEASED) == 0 || found.len() == count - 1, "what was released is gone");
    assert_found(&found, &vec![Some(vec![1; 100]); count - 1], 0, &[Some(vec![1; 100])]);
    finish(stage);
}

/// The sender may die between its store and its wake-up: the receiver sees the message all
/// the same, since no sleep is without bound.
fn wake_a_receiver<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let Some(sleeper) = fork() else {
        end_after(|| {
            let mut rx = receiver(stage);
            let message = rx.recv_timeout(Duration::from_secs(2));
            if message.is_ok_and(|message| *message == *b"message") {
                stage.note(RELEASED);
            }
        })
    };
    until_asleep(stage, K::asleep(Role::Receiver), &|| true);
    stage.victim(
        || sender(stage),
        |tx| {
            tx.try_send(b"message")?;
            stage.note(SENT);
            Ok(())
        },
    );
    // A look around is due every quarter of a second.
    let enough = Instant::now() + Duration::from_millis(700);
    eventually("it sees the message, or there is none", || {
        stage.noted(RELEASED) == 1 || Instant::now() > enough
    });
    assert!(stage.noted(RELEASED) == 1 || stage.noted(SENT) == 0, "what was acknowledged has arrived");
    let _ = kill(sleeper.0, Signal::SIGKILL);
    sleeper.ended();
    let rest = drain(&mut receiver(stage));
    assert!(rest.is_empty() || stage.noted(RELEASED) == 1, "there was a message that nobody saw");
    finish(stage);
}

/// The sender may die between its store and its touch: the descriptor becomes readable all
/// the same.
fn tell_a_poller<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let mut rx = receiver(stage);
    assert!(!rx.arm().unwrap(), "there is nothing yet");
    stage.victim(
        || sender(stage),
        |tx| {
            tx.try_send(b"message")?;
            stage.note(SENT);
            Ok(())
        },
    );
    let is_sent = stage.shm().stat(&name("x")).unwrap().queued_messages != Some(0);
    if is_sent || stage.noted(SENT) == 1 {
        until_readable(&mut rx);
        assert!(rx.arm().unwrap(), "what was acknowledged is there");
    }
    let found = drain(&mut rx);
    assert!(stage.noted(SENT) == 0 || found.len() == 1);
    assert_found(&found, &[], 0, &[text("message")]);
    // And the next one is told of as well.
    assert!(!rx.arm().unwrap());
    sender(stage).try_send(b"after").unwrap();
    until_readable(&mut rx);
    assert_eq!(drain(&mut rx), [text("after")]);
    drop(rx);
    finish(stage);
}

fn until_readable(rx: &mut ShmReceiver) {
    let descriptor = rx.descriptor().expect("made before");
    let ready =
        poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], PollTimeout::try_from(PATIENCE).unwrap());
    assert_eq!(ready, Ok(1), "readable within {PATIENCE:?}");
}

fn make_a_descriptor<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    stage.victim(|| receiver(stage), |rx| Ok(rx.descriptor().map(drop)?));
    finish(stage);
}

fn be_about_to_poll<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    stage.victim(
        || {
            let mut rx = receiver(stage);
            rx.descriptor().expect("it can be made");
            rx
        },
        |rx| {
            // The first time it looks around, the second it doesn't.
            assert!(!rx.arm()? && !rx.arm()?, "there is nothing");
            Ok(())
        },
    );
    // What it announced misleads nobody.
    sender(stage).try_send(b"after").unwrap();
    assert_eq!(drain(&mut receiver(stage)), [text("after")]);
    finish(stage);
}

fn receive<K: Queue>(stage: &Stage, count: usize) {
    create(stage, &K::config());
    go_round(stage);
    let sent: Found = (0..4_u8).map(|number| Some(vec![number; 700])).collect();
    let mut tx = sender(stage);
    for message in sent.iter().flatten() {
        tx.try_send(message).unwrap();
    }
    stage.victim(
        || receiver(stage),
        |rx| {
            rx.advance_batch(count, Wait::Never)?;
            match count {
                1 => drop(rx.held()),
                _ => rx.held_batch().release_all(),
            }
            stage.note(RELEASED);
            Ok(())
        },
    );
    // The sender that was there all the time sees the room that there is, and no more.
    let mut rx = receiver(stage);
    let room = fill(&mut tx, &[99; 700]);
    let found = drain(&mut rx);
    let (new, old): (Found, Found) = found.into_iter().partition(|message| *message == Some(vec![99; 700]));
    assert_eq!(new.len(), room);
    if stage.noted(RELEASED) == 1 {
        assert_eq!(old, sent[count..], "what was released is gone");
    } else {
        assert_found_again::<K>(&old, &sent[count..], &sent[..count]);
    }
    assert_eq!(room, ROOM_FOR_700 - old.len());
    drop((tx, rx));
    finish(stage);
}

fn receive_end<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let mut tx = sender(stage);
    tx.send_end(Wait::Never).unwrap();
    tx.try_send(b"after").unwrap();
    drop(tx);
    stage.victim(
        || receiver(stage),
        |rx| match rx.try_recv().map(drop) {
            Err(RecvError::End) => {
                stage.note(RELEASED);
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(()) => panic!("there is no message"),
        },
    );
    let found = drain(&mut receiver(stage));
    assert!(stage.noted(RELEASED) == 0 || found.len() == 1);
    assert_found(&found, &[text("after")], 0, &[None]);
    finish(stage);
}

fn wait_for_a_message<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    stage.victim(
        || receiver(stage),
        |rx| match rx.recv_timeout(BRIEFLY).map(drop) {
            Err(RecvError::TimedOut) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => panic!("there is no message"),
        },
    );
    sender(stage).try_send(b"after").unwrap();
    assert_eq!(drain(&mut receiver(stage)), [text("after")]);
    finish(stage);
}

/// The one that was woken is killed before it takes the message: the next one has it.
fn wait_for_a_message_and_be_woken<K: Queue>(stage: &Stage) {
    create(stage, &K::config());
    let mut tx = sender(stage);
    stage.victim_while(
        || receiver(stage),
        |rx| {
            rx.recv().map(Message::keep)?;
            Ok(())
        },
        |alive| {
            until_asleep(stage, K::asleep(Role::Receiver), alive);
            tx.try_send(b"message").unwrap();
        },
    );
    assert_eq!(drain(&mut receiver(stage)), [text("message")]);
    drop(tx);
    finish(stage);
}

/// A channel, and one endpoint of it at the most.
struct Visitor {
    channel: Option<ShmChannel>,
    tx: Option<ShmSender>,
    rx: Option<ShmReceiver>,
}

impl Visitor {
    fn of(channel: ShmChannel) -> Self {
        Self { channel: Some(channel), tx: None, rx: None }
    }

    fn take(&mut self, role: Role) -> Result<(), ipc_shm::ChannelError> {
        let channel = self.channel.as_ref().expect("not gone yet");
        match role {
            Role::Sender => self.tx = Some(kinds::sender(channel)?),
            _ => self.rx = Some(kinds::receiver(channel)?),
        }
        Ok(())
    }
}

pub(super) fn come<K: Queue>(stage: &Stage, role: Role) {
    create(stage, &K::config());
    sender(stage).try_send(b"there").unwrap();
    stage.victim(|| Visitor::of(open(stage)), |visitor| Ok(visitor.take(role)?));
    assert_eq!(drain(&mut receiver(stage)), [text("there")]);
    finish(stage);
}

/// The same without opening the channel.
pub(super) fn come_by_name<K: Queue>(stage: &Stage, role: Role) {
    create(stage, &K::config());
    sender(stage).try_send(b"there").unwrap();
    let shm = stage.shm();
    stage.victim(
        || (None, None),
        |(tx, rx)| {
            match role {
                Role::Receiver => *rx = Some(shm.open_receiver(&name("x"))?),
                _ => *tx = Some(shm.open_sender(&name("x"))?),
            }
            Ok(())
        },
    );
    assert_eq!(drain(&mut receiver(stage)), [text("there")]);
    finish(stage);
}

pub(super) fn go<K: Queue>(stage: &Stage, role: Role) {
    create(stage, &K::config());
    sender(stage).try_send(b"there").unwrap();
    let come = || {
        let mut visitor = Visitor::of(open(stage));
        visitor.take(role).unwrap();
        visitor
    };
    stage.victim(come, |visitor| {
        drop((visitor.tx.take(), visitor.rx.take(), visitor.channel.take()));
        Ok(())
    });
    assert_eq!(drain(&mut receiver(stage)), [text("there")]);
    finish(stage);
}

fn go_last<K: Queue>(stage: &Stage, role: Role, full: bool) {
    let come = || {
        let channel = stage.shm().create(&name("x"), &K::config().transient()).unwrap();
        if full {
            kinds::sender(&channel).unwrap().try_send(b"there").unwrap();
        }
        let mut visitor = Visitor::of(channel);
        visitor.take(role).unwrap();
        visitor
    };
    stage.victim(come, |visitor| {
        drop((visitor.tx.take(), visitor.rx.take(), visitor.channel.take()));
        Ok(())
    });
    // The next one to come sweeps it away, unless something is in it.
    match stage.shm().open(&name("x")) {
        Err(ipc_shm::ChannelError::NotFound) => assert!(!full, "what holds something stays"),
        Ok(channel) => {
            assert!(full, "what is empty is gone");
            let mut rx = kinds::receiver(&channel).unwrap();
            assert_eq!(drain(&mut rx), [text("there")]);
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn repair_a_sender<K: Queue>(stage: &Stage, point: usize) {
    create(stage, &K::config());
    go_round(stage);
    stage.dies_at(point, || sender(stage), |tx| Ok(tx.try_send(&[7; 900])?));
    let message = Some(vec![7; 900]);
    let was_sent = {
        // Looked at without taking part: the repair is the victim's.
        stage.victim(|| Visitor::of(open(stage)), |visitor| Ok(visitor.take(Role::Sender)?));
        sender(stage).try_send(b"after").unwrap();
        let found = drain(&mut receiver(stage));
        assert_found(&found, &[text("after")], 0, &[message]);
        found.len() == 2
    };
    assert!(was_sent || point > 0 || stage.noted(SENT) == 0);
    finish(stage);
}

fn repair_a_receiver<K: Queue>(stage: &Stage, point: usize) {
    create(stage, &K::config());
    go_round(stage);
    let sent: Found = (0..4_u8).map(|number| Some(vec![number; 700])).collect();
    let mut tx = sender(stage);
    for message in sent.iter().flatten() {
        tx.try_send(message).unwrap();
    }
    let release = |rx: &mut ShmReceiver| {
        rx.advance_batch(2, Wait::Never)?;
        rx.held_batch().release_all();
        Ok(())
    };
    stage.dies_at(point, || receiver(stage), release);
    stage.victim(|| Visitor::of(open(stage)), |visitor| Ok(visitor.take(Role::Receiver)?));
    let mut rx = receiver(stage);
    let room = fill(&mut tx, &[99; 700]);
    let found = drain(&mut rx);
    let (new, old): (Found, Found) = found.into_iter().partition(|message| *message == Some(vec![99; 700]));
    assert_eq!(new.len(), room);
    assert_found_again::<K>(&old, &sent[2..], &sent[..2]);
    assert_eq!(room, ROOM_FOR_700 - old.len());
    drop((tx, rx));
    finish(stage);
}
