//! Killed anywhere: before and after each system call of what makes, opens, leaves and
//! removes channels, and between the instructions of what sends and receives. Whoever comes
//! next finds the channel whole, the roles free, and nothing to clean up.

mod common;

use common::{
    Arena, end_after, fork, name,
    trace::{Step, killed_after, stay_on_one_processor},
};
use ipc_shm::{
    Batch, BatchReceiver, BatchSender, Channel, ChannelError, EndMark, Loan, Receiver, RecvError, Sender,
    ShmConfig, Spsc, SpscReceiver, SpscSender, Transport, Wait,
};
use nix::libc;
use rstest::rstest;
use std::mem;

/// What became of a victim.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// It was killed, and didn't come to its end.
    killed: bool,
    /// What it did was done all the same.
    done: bool,
}

/// A round for every number of system calls, until the victim comes to its end.
fn at_every_system_call(mut round: impl FnMut(usize) -> bool) {
    let mut steps = 0;
    while round(steps) {
        steps += 1;
        assert!(steps < 10_000, "no end after {steps} steps");
    }
    assert!(steps > 0, "nothing was stepped through");
}

/// A round for every number of instructions: in the long run. Else for some, and for all of
/// those around the one that makes the difference.
fn at_every_instruction(mut round: impl FnMut(usize) -> Outcome) {
    stay_on_one_processor();
    let mut first = round(0);
    assert!(first.killed && !first.done, "nothing happens before the first one: {first:?}");
    let mut total = 1;
    while first.killed {
        total *= 2;
        first = round(total);
    }
    assert!(first.done, "what came to its end is done");
    if std::env::var_os("IPC_SHM_LONG_RUN").is_some() {
        for steps in 0..total {
            round(steps);
        }
        return;
    }
    let (mut before, mut after) = (0, total);
    while after - before > 1 {
        let middle = before.midpoint(after);
        match round(middle).done {
            true => after = middle,
            false => before = middle,
        }
    }
    // Behind it comes what is stored for a successor.
    let near = (before.saturating_sub(15)..after + 15).chain((after + 15..after + 400).step_by(11));
    for steps in near.chain((0..total).step_by(1 + total / 10)) {
        round(steps);
    }
}

fn small() -> ShmConfig {
    ShmConfig::new().capacity_bytes(4096)
}

/// That all is well with the channel: both roles are free, messages pass, and all of the
/// ring can be used.
fn assert_whole(shm: &Spsc) {
    let channel = shm.open(&name("x")).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)), "all was received");
    assert_eq!(shm.stat(&name("x")).unwrap().queued_messages, Some(0));
    for len in [1, 4080, 8, 4080] {
        tx.try_send(&vec![9; len]).unwrap();
        assert!(*rx.try_recv().unwrap() == *vec![9; len]);
    }
}

fn receiver(shm: &Spsc) -> SpscReceiver {
    shm.open(&name("x")).unwrap().receiver().unwrap()
}

fn sender(shm: &Spsc) -> SpscSender {
    shm.open(&name("x")).unwrap().sender().unwrap()
}

/// Receives all there is: messages, and `None` for an end mark.
fn drain(rx: &mut SpscReceiver) -> Vec<Option<Vec<u8>>> {
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

#[rstest]
#[case::a_short_message(5)]
#[case::an_empty_message(0)]
#[case::one_over_the_end_of_the_ring(900)]
fn a_sender_killed_between_any_two_instructions_has_sent_all_or_nothing(#[case] len: usize) {
    let arena = Arena::new();
    let shm = arena.shm();
    at_every_instruction(|steps| {
        drop(shm.create(&name("x"), &small()).unwrap());
        // Its last lap left words of all kinds behind, and the next one starts near the end.
        let (mut tx, mut rx) = (sender(&shm), receiver(&shm));
        for _ in 0..3 {
            tx.send(&[0xff; 1000]).unwrap();
            tx.send(&[0xff; 200]).unwrap();
            drain(&mut rx);
        }
        tx.send(b"before").unwrap();
        drop((tx, rx));
        let message = vec![7; len];
        let killed = killed_after(
            steps,
            Step::Instruction,
            || {
                let mut tx = sender(&shm);
                tx.reserve(len, Wait::Never).unwrap();
                tx.reserved().copy_from_slice(&message);
                tx
            },
            |mut tx| {
                tx.reserved().commit(Wait::Never).unwrap();
                mem::forget(tx);
            },
        );
        sender(&shm).try_send(b"after").unwrap();
        let mut found = drain(&mut receiver(&shm)).into_iter().flatten();
        assert_eq!(found.next().as_deref(), Some(&b"before"[..]));
        let mut next = found.next().unwrap();
        let sent = next == message;
        if sent {
            next = found.next().unwrap();
        }
        assert_eq!((next.as_slice(), found.next()), (&b"after"[..], None), "after {steps} instructions");
        assert!(sent || killed, "what was acknowledged is there");
        assert_whole(&shm);
        shm.remove(&name("x")).unwrap();
        Outcome { killed, done: sent }
    });
}

#[test]
fn a_sender_killed_in_a_batch_has_sent_all_of_it_or_nothing() {
    let arena = Arena::new();
    let shm = arena.shm();
    // An empty one, and one over the end of the ring.
    let messages = [vec![1; 8], vec![], vec![2; 600], vec![3; 5]];
    at_every_instruction(|steps| {
        drop(shm.create(&name("x"), &small()).unwrap());
        // As above, and the sender's ledger is due soon: after two more messages.
        let (mut tx, mut rx) = (sender(&shm), receiver(&shm));
        for _ in 0..62 {
            tx.send(&[0xff; 248]).unwrap();
            drain(&mut rx);
        }
        drop((tx, rx));
        let act = |mut tx: SpscSender| {
            assert_eq!(tx.send_batch(&messages, Wait::Never).unwrap(), messages.len());
            mem::forget(tx);
        };
        let killed = killed_after(steps, Step::Instruction, || sender(&shm), act);
        let queued = shm.stat(&name("x")).unwrap().queued_messages;
        sender(&shm).try_send(b"after").unwrap();
        let found: Vec<_> = drain(&mut receiver(&shm)).into_iter().flatten().collect();
        let (after, batch) = found.split_last().unwrap();
        assert_eq!(after, b"after");
        assert!(batch.is_empty() || batch == messages, "{} after {steps} instructions", batch.len());
        assert_eq!(queued, Some(batch.len() as u64));
        assert!(!batch.is_empty() || killed, "what was acknowledged is there");
        assert_whole(&shm);
        shm.remove(&name("x")).unwrap();
        Outcome { killed, done: !batch.is_empty() }
    });
}

#[test]
fn a_sender_killed_while_it_marks_the_end_has_marked_it_or_not() {
    let arena = Arena::new();
    let shm = arena.shm();
    at_every_instruction(|steps| {
        drop(shm.create(&name("x"), &small()).unwrap());
        let act = |mut tx: SpscSender| {
            tx.send_end(Wait::Never).unwrap();
            mem::forget(tx);
        };
        let killed = killed_after(steps, Step::Instruction, || sender(&shm), act);
        sender(&shm).try_send(b"after").unwrap();
        let found = drain(&mut receiver(&shm));
        let after = Some(b"after".to_vec());
        assert!(found == [after.clone()] || found == [None, after], "{found:?}");
        assert_whole(&shm);
        shm.remove(&name("x")).unwrap();
        Outcome { killed, done: found.len() == 2 }
    });
}

#[rstest]
#[case::one_message(false)]
#[case::a_batch(true)]
fn a_receiver_killed_between_any_two_instructions_has_released_all_or_nothing(#[case] batch: bool) {
    let arena = Arena::new();
    let shm = arena.shm();
    let sent: Vec<_> = (0..4_u8).map(|number| Some(vec![number; 700])).collect();
    let taken = if batch { 3 } else { 1 };
    at_every_instruction(|steps| {
        drop(shm.create(&name("x"), &small()).unwrap());
        let mut tx = sender(&shm);
        for message in sent.iter().flatten() {
            tx.send(message).unwrap();
        }
        let prepare = || {
            let mut rx = receiver(&shm);
            rx.advance_batch(taken, Wait::Never).unwrap();
            rx
        };
        let act = |mut rx: SpscReceiver| {
            match batch {
                true => rx.held_batch().release_all(),
                false => drop(rx.held()),
            }
            mem::forget(rx);
        };
        let killed = killed_after(steps, Step::Instruction, prepare, act);
        // The sender that was there all the time sees the room that there is, and no more.
        let mut room = 0;
        let released = {
            let mut rx = receiver(&shm);
            while tx.try_send(&[99; 700]).is_ok() {
                room += 1;
            }
            let found = drain(&mut rx);
            let (old, new) = found.split_at(found.len() - room);
            assert!(new.iter().all(|message| *message == Some(vec![99; 700])));
            assert!(old == sent || *old == sent[taken..], "{} of {}", old.len(), sent.len());
            sent.len() - old.len()
        };
        assert_eq!(room, 1 + released, "after {steps} instructions");
        assert!(released == taken || killed, "what was released is released");
        drop(tx);
        assert_whole(&shm);
        shm.remove(&name("x")).unwrap();
        Outcome { killed, done: released > 0 }
    });
}

#[rstest]
#[case::the_sender(true)]
#[case::the_receiver(false)]
fn whoever_is_killed_while_coming_or_going_leaves_the_role_free(#[case] is_sender: bool) {
    let arena = Arena::new();
    let shm = arena.shm();
    drop(shm.create(&name("x"), &small()).unwrap());
    at_every_system_call(|steps| {
        let mut tx = sender(&shm);
        tx.try_send(b"there").unwrap();
        drop(tx);
        let killed = killed_after(
            steps,
            Step::SystemCall,
            || (),
            |()| match is_sender {
                true => drop(sender(&shm)),
                false => drop(receiver(&shm)),
            },
        );
        assert_eq!(drain(&mut receiver(&shm)), [Some(b"there".to_vec())]);
        assert_whole(&shm);
        assert_eq!(arena.entries(), ["x"]);
        killed
    });
}

#[rstest]
#[case::left_empty(false)]
#[case::with_a_message_in_it(true)]
fn a_transient_channel_whose_user_is_killed_anywhere_is_gone_unless_it_holds_something(#[case] full: bool) {
    let arena = Arena::new();
    let shm = arena.shm();
    at_every_system_call(|steps| {
        // A kill at the very end of what makes it, uses it and leaves it, or on the way.
        let killed = killed_after(
            steps,
            Step::SystemCall,
            || (),
            |()| {
                let channel = shm.create(&name("x"), &small().transient()).unwrap();
                let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
                tx.try_send(b"something").unwrap();
                if !full {
                    rx.try_recv().unwrap();
                }
            },
        );
        match shm.open(&name("x")) {
            Err(ChannelError::NotFound) => assert!(killed || !full),
            Ok(channel) => {
                let mut rx = channel.receiver().unwrap();
                assert_eq!(drain(&mut rx), [Some(b"something".to_vec())], "an empty one isn't opened");
            }
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(arena.entries(), [""; 0], "after {steps} steps");
        killed
    });
}

/// How a file system or a sandbox may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacking {
    Nothing,
    /// `O_TMPFILE`: the file has a temporary name at first.
    UnnamedFiles,
}

impl Lacking {
    fn arrange(self) {
        if self == Self::UnnamedFiles {
            const O_TMPFILE_BIT: u32 = 0o20_000_000;
            common::refuse_flag(libc::SYS_openat, 2, O_TMPFILE_BIT, libc::EOPNOTSUPP);
        }
    }
}

#[rstest]
fn a_creator_killed_anywhere_has_made_the_whole_channel_or_none(
    #[values(Lacking::Nothing, Lacking::UnnamedFiles)] lacking: Lacking,
    #[values(true, false)] or_opens: bool,
) {
    let arena = Arena::new();
    let shm = arena.shm();
    let mut outcomes = [0, 0];
    at_every_system_call(|steps| {
        let make = |()| {
            mem::forget(match or_opens {
                true => shm.open_or_create(&name("x"), &small()).unwrap(),
                false => shm.create(&name("x"), &small()).unwrap(),
            });
        };
        let killed = killed_after(steps, Step::SystemCall, || lacking.arrange(), make);
        let made = match shm.open(&name("x")) {
            Ok(_) => true,
            Err(ChannelError::NotFound) => false,
            Err(error) => panic!("half-made: {error:?}"),
        };
        assert!(made || killed);
        outcomes[usize::from(made)] += 1;
        if made {
            assert_whole(&shm);
            shm.remove(&name("x")).unwrap();
        }
        if lacking == Lacking::UnnamedFiles {
            // A temporary name may be left, until the next one that needs one.
            assert!(arena.entries().iter().all(|entry| entry.starts_with('.')), "{:?}", arena.entries());
            assert!(!killed_after(usize::MAX, Step::SystemCall, || lacking.arrange(), make));
            shm.remove(&name("x")).unwrap();
        }
        assert_eq!(arena.entries(), [""; 0], "after {steps} steps");
        killed
    });
    assert!(outcomes.iter().all(|&count| count > 0), "made or not, both happen: {outcomes:?}");
}

#[test]
fn a_remover_killed_anywhere_has_removed_the_channel_or_not() {
    let arena = Arena::new();
    let shm = arena.shm();
    at_every_system_call(|steps| {
        drop(shm.create(&name("x"), &small()).unwrap());
        let remove = |()| shm.remove(&name("x")).unwrap();
        let killed = killed_after(steps, Step::SystemCall, || (), remove);
        match shm.open(&name("x")) {
            Ok(_) => assert!(killed),
            Err(ChannelError::NotFound) => drop(shm.create(&name("x"), &small()).unwrap()),
            Err(error) => panic!("{error:?}"),
        }
        assert_whole(&shm);
        shm.remove(&name("x")).unwrap();
        assert_eq!(arena.entries(), [""; 0]);
        killed
    });
}

#[test]
fn a_sweeper_killed_anywhere_leaves_the_sweeping_to_the_next_one() {
    let arena = Arena::new();
    let shm = arena.shm();
    at_every_system_call(|steps| {
        // Nobody's any more.
        let Some(user) = fork() else {
            end_after(|| mem::forget(shm.create(&name("x"), &small().transient()).unwrap()))
        };
        user.ends_well();
        assert_eq!(arena.entries(), ["x"]);
        let open = |()| assert!(matches!(shm.open(&name("x")), Err(ChannelError::NotFound)));
        let killed = killed_after(steps, Step::SystemCall, || (), open);
        assert!(matches!(shm.open(&name("x")), Err(ChannelError::NotFound)));
        assert_eq!(arena.entries(), [""; 0]);
        killed
    });
}

#[test]
fn without_proc_a_channel_is_made_all_the_same() {
    if !common::is_root() {
        common::skip("only root can take /proc away");
        return;
    }
    let arena = Arena::new();
    let shm = arena.shm();
    let Some(child) = fork() else {
        end_after(|| {
            common::take_proc_away();
            // As for users without privileges before Linux 6.10.
            common::refuse_flag(libc::SYS_linkat, 4, libc::AT_EMPTY_PATH as u32, libc::ENOENT);
            drop(shm.create(&name("x"), &small()).unwrap());
            assert_whole(&shm);
        })
    };
    child.ends_well();
    assert_eq!(arena.entries(), ["x"]);
}
