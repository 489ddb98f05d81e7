//! Scenes at channels that hold the newest value: writing, ending, reading, waiting, coming
//! and going.
//!
//! What was acknowledged is read by everybody, until something newer is; of what wasn't, all
//! or nothing; nothing is ever torn. The value outlives its writer, and versions go on where
//! the dead one was. Readers' deaths are nobody's business.

use crate::{
    common::{PATIENCE, end_after, fork, layout, name, read_word, write_at},
    queues::drain,
    scenario::Scenario,
    stage::{Stage, until_asleep},
};
use ipc_shm::{
    Channel, ChannelError, EndMark, Kind, Latest, LatestChannel, LatestReader, LatestWriter, Loan, Message,
    Pollable, Receiver, RecvError, Sender, Sequenced, ShmConfig, Transport, Wait, Waiting,
};
use nix::sys::signal::{Signal, kill};
use std::time::Duration;

/// Notes of victims.
const SENT: usize = 0;
const SEEN: usize = 1;

/// A wait that is over soon.
const BRIEFLY: Duration = Duration::from_millis(1);

const DEPTH: u64 = 2;
const LONGEST: usize = 48;
const PARTICIPANTS: u32 = 4;

/// Where the sleeping readers' flag is, and the first slot.
const READERS_ASLEEP: u64 = layout::PAGE + 128;
const DATA: u64 = 3 * layout::PAGE;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new(Kind::Latest.as_str(), name, scene);
    let mut all = vec![
        scene("writer, the first value", |stage| write(stage, 0)).short(),
        scene("writer, a value over an old one", |stage| write(stage, DEPTH + 1)).short(),
        scene("writer, thinks better of it", write_nothing).short(),
        scene("writer, an end mark before any value", |stage| write_end(stage, 0, 0)).short(),
        scene("writer, an end mark", |stage| write_end(stage, DEPTH + 1, 0)).short(),
        scene("writer, an end mark behind another", |stage| write_end(stage, 1, 1)).short(),
        scene("writer, wakes a reader", wake_a_reader).varying(),
        scene("writer, wakes a reader that is dead", wake_a_dead_reader),
        scene("writer, comes", writer_comes),
        scene("writer, goes", writer_goes),
        scene("writer, comes second", second_writer).varying(),
        scene("reader, looks", look).short(),
        scene("reader, looks where there is nothing", look_at_nothing).short(),
        scene("reader, receives", receive).short(),
        scene("reader, receives an end mark", receive_end).short(),
        scene("reader, of a slot that was taken away", read_what_is_damaged),
        scene("reader, waits in vain", wait_for_a_value).varying(),
        scene("reader, waits and is woken", wait_for_a_value_and_be_woken).varying(),
        scene("reader, is about to poll", be_about_to_poll),
        scene("reader, comes", reader_comes),
        scene("reader, goes", reader_goes),
        scene("onlooker", stat),
    ];
    for point in (0..FIRST_DEATHS).filter(|_| Stage::can_lack()) {
        let name = format!("writer, after one that died at point {point}");
        let after = Scenario::new(Kind::Latest.as_str(), name, move |stage: &Stage| succeed(stage, point));
        all.push(after.variation(point == FIRST_DEATHS / 2));
    }
    all
}

/// More than writing takes.
const FIRST_DEATHS: usize = 16;

fn open(stage: &Stage) -> LatestChannel {
    Latest::at(stage.arena().path()).open(&name("x")).expect("it is there")
}

fn writer(stage: &Stage) -> LatestWriter {
    open(stage).sender().expect("the role is free")
}

fn reader(stage: &Stage) -> LatestReader {
    let mut rx = open(stage).receiver().expect("there is a place");
    rx.set_waiting(Waiting::Block);
    rx
}

/// The value of this number, each of another length and all of its bytes like its number.
fn value(number: u64) -> Vec<u8> {
    vec![number as u8 + 1; LONGEST - 7 * number as usize]
}

/// A channel to which so many values were written, and one that has received the last.
fn begin(stage: &Stage, values: u64) -> LatestReader {
    let config = ShmConfig::new().depth(DEPTH).max_message_len(LONGEST as u64).participants(PARTICIPANTS);
    drop(Latest::at(stage.arena().path()).create(&name("x"), &config).expect("it can be made"));
    let (mut tx, mut rx) = (writer(stage), reader(stage));
    (0..values).for_each(|number| tx.try_send(&value(number)).expect("a writer never waits"));
    assert_eq!(drain(&mut rx).len(), usize::from(values > 0));
    rx
}

/// What a reader finds, and the number of its version.
fn read(rx: &mut LatestReader) -> Option<(Vec<u8>, u64)> {
    let message = rx.read().expect("nothing is ever in its way")?;
    Some((message.to_vec(), LatestReader::sequence_of(&message)))
}

/// The newest value is the last of `before`, or `may` behind it: to one that was there
/// before and to one that comes now. How many there are now.
fn assert_newest(stage: &Stage, rx: &mut LatestReader, before: u64, may: bool) -> u64 {
    let found = read(rx);
    assert_eq!(found, read(&mut reader(stage)), "all see the same");
    let at = |count: u64| count.checked_sub(1).map(|last| (value(last), last));
    let count = if may && found == at(before + 1) { before + 1 } else { before };
    assert_eq!(found, at(count), "whole, and the newest");
    assert!(count > before || stage.noted(SENT) == 0, "what was acknowledged is there");
    count
}

/// All is well with the channel: the next writer's versions follow those that there are,
/// there are places for readers, and every slot can be used. Then it is removed.
fn finish(stage: &Stage, mut rx: LatestReader) {
    let versions =
        || stage.shm().stat(&name("x")).expect("it is there").sent_messages.expect("it is counted");
    let before = versions();
    let mut tx = writer(stage);
    let mut readers: Vec<_> = (2..PARTICIPANTS).map(|_| reader(stage)).collect();
    drain(&mut rx);
    for number in 0..2 * DEPTH + 1 {
        tx.try_send(&[number as u8; LONGEST]).expect("a writer never waits");
        let expected = Some((vec![number as u8; LONGEST], before + number));
        readers.iter_mut().for_each(|rx| assert_eq!(read(rx), expected));
        assert_eq!(drain(&mut rx).len(), 1, "it is new");
    }
    assert_eq!(versions(), before + 2 * DEPTH + 1);
    drop((tx, rx, readers));
    stage.shm().remove(&name("x")).expect("nobody has it open");
}

fn write(stage: &Stage, before: u64) {
    let mut rx = begin(stage, before);
    stage.victim(
        || writer(stage),
        |tx| {
            tx.try_send(&value(before))?;
            stage.note(SENT);
            Ok(())
        },
    );
    assert_newest(stage, &mut rx, before, true);
    finish(stage, rx);
}

/// A slot that was taken away and not written is one that nobody looks at.
fn write_nothing(stage: &Stage) {
    let mut rx = begin(stage, 3);
    stage.victim(
        || writer(stage),
        |tx| {
            tx.loan(LONGEST, Wait::Never)?.fill(0xee);
            Ok(())
        },
    );
    assert_newest(stage, &mut rx, 3, false);
    finish(stage, rx);
}

/// The last value comes before the end, also to who comes after it.
fn write_end(stage: &Stage, values: u64, ends: usize) {
    let mut rx = begin(stage, values);
    for _ in 0..ends {
        writer(stage).send_end(Wait::Never).unwrap();
        assert_eq!(drain(&mut rx), [None]);
    }
    stage.victim(
        || writer(stage),
        |tx| {
            tx.send_end(Wait::Never)?;
            stage.note(SENT);
            Ok(())
        },
    );
    let found = drain(&mut rx);
    assert!(found == [None] || found.is_empty() && stage.noted(SENT) == 0, "{found:?}");
    let mut late: Vec<_> = values.checked_sub(1).map(|last| Some(value(last))).into_iter().collect();
    if ends > 0 || !found.is_empty() {
        late.push(None);
    }
    assert_eq!(drain(&mut reader(stage)), late);
    let versions = stage.shm().stat(&name("x")).unwrap().sent_messages;
    assert_eq!(versions, Some(values + (ends + found.len()) as u64), "an end is a version");
    finish(stage, rx);
}

/// The writer may die between its store and its wake-up: the reader sees the value all the
/// same, since no sleep is without bound.
fn wake_a_reader(stage: &Stage) {
    let mut rx = begin(stage, 1);
    let Some(sleeper) = fork() else {
        end_after(|| {
            let mut rx = reader(stage);
            assert_eq!(drain(&mut rx), [Some(value(0))]);
            assert_eq!(*rx.recv_timeout(PATIENCE).expect("it is written in time"), *value(1));
            stage.note(SEEN);
        })
    };
    until_asleep(stage, READERS_ASLEEP, &|| true);
    stage.victim(
        || writer(stage),
        |tx| {
            tx.try_send(&value(1))?;
            stage.note(SENT);
            Ok(())
        },
    );
    let count = assert_newest(stage, &mut rx, 1, true);
    if count == 1 {
        // There is nothing to see for it.
        kill(sleeper.0, Signal::SIGKILL).expect("our child");
        sleeper.ended();
    } else {
        sleeper.ends_well();
        assert_eq!(stage.noted(SEEN), 1, "it saw what there was");
    }
    finish(stage, rx);
}

fn wake_a_dead_reader(stage: &Stage) {
    let mut rx = begin(stage, 1);
    let Some(sleeper) = fork() else {
        end_after(|| {
            let mut rx = reader(stage);
            drain(&mut rx);
            drop(rx.recv_timeout(PATIENCE));
        })
    };
    until_asleep(stage, READERS_ASLEEP, &|| true);
    kill(sleeper.0, Signal::SIGKILL).expect("our child");
    sleeper.ended();
    stage.victim(
        || writer(stage),
        |tx| {
            tx.try_send(&value(1))?;
            stage.note(SENT);
            Ok(())
        },
    );
    assert_newest(stage, &mut rx, 1, true);
    finish(stage, rx);
}

/// An endpoint to come.
type Visitor<T> = (LatestChannel, Option<T>);

fn writer_comes(stage: &Stage) {
    let mut rx = begin(stage, 3);
    let come = || -> Visitor<LatestWriter> { (open(stage), None) };
    stage.victim(come, |(channel, tx)| {
        *tx = Some(channel.sender()?);
        Ok(())
    });
    assert_newest(stage, &mut rx, 3, false);
    finish(stage, rx);
}

/// Half-way through a value, or with one that nobody has looked at.
fn writer_goes(stage: &Stage) {
    let mut rx = begin(stage, 3);
    let come = || {
        let mut tx = writer(stage);
        tx.reserve(LONGEST, Wait::Never).expect("a writer never waits");
        tx.reserved().fill(0xee);
        Some(tx)
    };
    stage.victim(come, |tx| {
        drop(tx.take());
        Ok(())
    });
    assert_newest(stage, &mut rx, 3, false);
    finish(stage, rx);
}

/// The first one doesn't notice.
fn second_writer(stage: &Stage) {
    let mut rx = begin(stage, 2);
    let mut first = writer(stage);
    first.reserve(LONGEST, Wait::Never).expect("a writer never waits");
    stage.victim(
        || open(stage),
        |channel| match channel.sender() {
            Err(ChannelError::Busy { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => panic!("there is one already"),
        },
    );
    let mut loan = first.reserved();
    loan.truncate(value(2).len());
    loan.copy_from_slice(&value(2));
    loan.commit(Wait::Never).map_err(|rejected| rejected.error).expect("it was reserved");
    assert_eq!(assert_newest(stage, &mut rx, 2, true), 3);
    drop(first);
    finish(stage, rx);
}

/// Whatever the first one has left, and then the second.
fn succeed(stage: &Stage, point: usize) {
    let mut rx = begin(stage, DEPTH + 1);
    stage.dies_at(
        point,
        || writer(stage),
        |tx| {
            tx.try_send(&value(DEPTH + 1))?;
            stage.note(SENT);
            Ok(())
        },
    );
    let before = assert_newest(stage, &mut rx, DEPTH + 1, true);
    let acknowledged = stage.noted(SENT);
    let come = || -> Visitor<LatestWriter> { (open(stage), None) };
    stage.victim(come, |(channel, tx)| {
        let tx = tx.insert(channel.sender()?);
        tx.try_send(&value(before))?;
        stage.note(SEEN);
        Ok(())
    });
    let count = read(&mut rx).map_or(0, |(_, number)| number + 1);
    assert!(count == before + 1 || stage.noted(SEEN) == 0, "what was acknowledged is there");
    assert!(acknowledged == 0 || before == DEPTH + 2);
    assert!(count == before || count == before + 1, "no version is left out");
    assert_eq!(read(&mut rx), Some((value(count - 1), count - 1)));
    finish(stage, rx);
}

fn look(stage: &Stage) {
    let mut rx = begin(stage, 3);
    stage.victim(
        || reader(stage),
        |rx| {
            assert_eq!(read(rx), Some((value(2), 2)));
            // The copy is still the newest.
            assert_eq!(read(rx), Some((value(2), 2)));
            Ok(())
        },
    );
    assert_newest(stage, &mut rx, 3, false);
    finish(stage, rx);
}

fn look_at_nothing(stage: &Stage) {
    let mut rx = begin(stage, 0);
    stage.victim(
        || reader(stage),
        |rx| {
            assert_eq!(read(rx), None);
            Ok(())
        },
    );
    assert_newest(stage, &mut rx, 0, false);
    finish(stage, rx);
}

fn receive(stage: &Stage) {
    let mut rx = begin(stage, 3);
    stage.victim(
        || reader(stage),
        |rx| {
            assert_eq!(*rx.try_recv()?, *value(2));
            Ok(())
        },
    );
    // New to everybody else.
    assert_eq!(drain(&mut reader(stage)), [Some(value(2))]);
    assert_newest(stage, &mut rx, 3, false);
    finish(stage, rx);
}

fn receive_end(stage: &Stage) {
    let mut rx = begin(stage, 3);
    writer(stage).send_end(Wait::Never).unwrap();
    stage.victim(
        || reader(stage),
        |rx| {
            assert_eq!(drain(rx), [Some(value(2)), None]);
            Ok(())
        },
    );
    assert_eq!(drain(&mut reader(stage)), [Some(value(2)), None]);
    assert_eq!(drain(&mut rx), [None]);
    finish(stage, rx);
}

/// A copy of what isn't what it was is never shown.
fn read_what_is_damaged(stage: &Stage) {
    let mut rx = begin(stage, 3);
    let file = stage.arena().file("x");
    // The third version is in the first of two slots, and its word says so.
    assert_eq!(read_word(&file, DATA), 3);
    write_at(&file, DATA, &0_u64.to_ne_bytes());
    stage.victim(
        || reader(stage),
        |rx| match rx.read().map(|found| found.map(Message::keep)) {
            Err(RecvError::Corrupt(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(found) => panic!("it isn't there: {found:?}"),
        },
    );
    write_at(&file, DATA, &3_u64.to_ne_bytes());
    assert_newest(stage, &mut rx, 3, false);
    finish(stage, rx);
}

fn wait_for_a_value(stage: &Stage) {
    let mut rx = begin(stage, 1);
    let come = || {
        let mut rx = reader(stage);
        drain(&mut rx);
        rx
    };
    stage.victim(come, |rx| match rx.recv_timeout(BRIEFLY).map(drop) {
        Err(RecvError::TimedOut) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => panic!("there is nothing new"),
    });
    assert_newest(stage, &mut rx, 1, false);
    finish(stage, rx);
}

fn wait_for_a_value_and_be_woken(stage: &Stage) {
    let mut rx = begin(stage, 1);
    let mut tx = writer(stage);
    let come = || {
        let mut rx = reader(stage);
        drain(&mut rx);
        rx
    };
    stage.victim_while(
        come,
        |rx| {
            assert_eq!(*rx.recv()?, *value(1));
            Ok(())
        },
        |alive| {
            until_asleep(stage, READERS_ASLEEP, alive);
            tx.try_send(&value(1)).expect("a writer never waits");
        },
    );
    drop(tx);
    assert_eq!(assert_newest(stage, &mut rx, 1, true), 2);
    finish(stage, rx);
}

fn be_about_to_poll(stage: &Stage) {
    let mut rx = begin(stage, 1);
    let come = || {
        let mut rx = reader(stage);
        drain(&mut rx);
        rx.descriptor().expect("it can be made");
        rx
    };
    stage.victim(come, |rx| {
        assert!(!rx.arm()?, "there is nothing new");
        Ok(())
    });
    // What it announced misleads nobody.
    assert_newest(stage, &mut rx, 1, false);
    finish(stage, rx);
}

fn reader_comes(stage: &Stage) {
    let mut rx = begin(stage, 3);
    let come = || -> Visitor<LatestReader> { (open(stage), None) };
    stage.victim(come, |(channel, rx)| {
        *rx = Some(channel.receiver()?);
        Ok(())
    });
    assert_newest(stage, &mut rx, 3, false);
    finish(stage, rx);
}

fn reader_goes(stage: &Stage) {
    let mut rx = begin(stage, 3);
    stage.victim(
        || Some(reader(stage)),
        |rx| {
            drop(rx.take());
            Ok(())
        },
    );
    assert_newest(stage, &mut rx, 3, false);
    finish(stage, rx);
}

fn stat(stage: &Stage) {
    let rx = begin(stage, 3);
    stage.victim(
        || (),
        |()| {
            let info = stage.shm().stat(&name("x"))?;
            // What couldn't be read isn't made up.
            assert!(info.sent_messages.is_none_or(|sent| sent == 3));
            Ok(())
        },
    );
    finish(stage, rx);
}
