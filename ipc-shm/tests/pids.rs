//! Process ids are never identities: two processes that are both number 1, each in a pid
//! namespace of its own, are told apart, and the death of one isn't the other's.

mod common;

use common::{Arena, Child, end_after, fork, name, say, serve, told};
use ipc_shm::{
    Channel, ChannelError, Kind, Loan, Mpmc, MpmcReceiver, Receiver, RecvError, Redelivered, Role, Sender,
    Shm, ShmConfig, Spsc, Transport, Wait,
};
use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Pid, getpid},
};
use std::{path::Path, time::Duration};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        // Only what is forked later is in the new namespace.
        let Some(middle) = fork() else {
            end_after(|| {
                end_with_parent();
                if unshare(CloneFlags::CLONE_NEWPID).is_err() {
                    return say("skipped");
                }
                let Some(first) = fork() else {
                    end_after(|| {
                        end_with_parent();
                        be_number_one(Path::new(&arguments[0]), role);
                    })
                };
                say(&first.0.to_string());
                let _ = waitpid(first.0, None);
            })
        };
        middle.ends_well();
    });
}

fn end_with_parent() {
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }, 0);
}

/// Has an end of the ring, a message of one queue, and room in another one.
fn be_number_one(directory: &Path, role: &str) {
    assert!(told());
    assert_eq!(getpid().as_raw(), 1);
    let ring = Spsc::at(directory).open(&name("ring")).unwrap();
    let _sender = (role == "sender").then(|| ring.sender().unwrap());
    let _receiver = (role == "receiver").then(|| ring.receiver().unwrap());
    let queues = Mpmc::at(directory);
    let mut rx = queues.open(&name("held")).unwrap().receiver().unwrap();
    let message = rx.try_recv().unwrap();
    assert_eq!(*message, *role.as_bytes());
    let mut tx = queues.open(&name("claimed")).unwrap().sender().unwrap();
    let mut loan = tx.loan(role.len(), Wait::Never).unwrap();
    loan.copy_from_slice(role.as_bytes());
    say("has it");
    assert!(told());
    loan.send().unwrap();
    drop(message);
    say("done with it");
    told();
}

/// The number of a namespace's first process, as we know it; `None` if there are no namespaces.
fn number_one(child: &mut Child) -> Option<Pid> {
    let line = child.line();
    if line == "skipped" {
        return None;
    }
    child.tell();
    child.says("has it");
    Some(Pid::from_raw(line.parse().unwrap()))
}

#[test]
fn of_two_with_the_same_pid_only_the_one_that_was_killed_is_taken_for_dead_and_once() {
    let arena = Arena::new();
    let path = arena.path().to_str().unwrap();
    let shm = Shm::at(path);
    let ring = shm.create(&name("ring"), &ShmConfig::new().kind(Kind::Spsc)).unwrap();
    let queues = Mpmc::at(path);
    let small = ShmConfig::new().depth(16).max_message_len(64);
    let held = queues.create(&name("held"), &small).unwrap();
    let claimed = queues.create(&name("claimed"), &small).unwrap();
    for role in ["sender", "receiver"] {
        held.sender().unwrap().send(role.as_bytes()).unwrap();
    }
    let mut dead = Child::spawn("sender", &[path]);
    let Some(victim) = number_one(&mut dead) else {
        common::skip("this system makes no pid namespaces for us");
        return;
    };
    let mut alive = Child::spawn("receiver", &[path]);
    number_one(&mut alive).expect("another namespace");
    let (mut at_held, mut at_claimed) = (held.receiver().unwrap(), claimed.receiver().unwrap());
    claimed.sender().unwrap().send(b"behind").unwrap();
    let of_number_one = |channel: &str| {
        let participants = shm.stat(&name(channel)).unwrap().participants;
        let ones = participants.into_iter().filter(|one| one.pid == 1);
        ones.map(|one| one.alive).collect::<Vec<_>>()
    };
    for channel in ["ring", "held", "claimed"] {
        assert_eq!(of_number_one(channel), [true, true], "{channel}");
    }
    let soon = Duration::from_millis(50);
    assert!(matches!(at_held.recv_timeout(soon).map(drop), Err(RecvError::TimedOut)));
    assert!(matches!(at_claimed.recv_timeout(soon).map(drop), Err(RecvError::TimedOut)));

    kill(victim, Signal::SIGKILL).unwrap();
    dead.ends_well();
    assert_eq!(of_number_one("ring").into_iter().filter(|alive| *alive).count(), 1);
    drop(ring.sender().expect("the dead one's role is free"));
    match ring.receiver().map(drop) {
        Err(ChannelError::Busy { role: Role::Receiver, pid }) => assert_eq!(pid, Some(1)),
        other => panic!("the living one's is not: {other:?}"),
    }
    let again = at_held.recv_timeout(common::PATIENCE).unwrap();
    assert_eq!((&*again, MpmcReceiver::attempts_of(&again)), (&b"sender"[..], 1));
    drop(again);
    for _ in 0..3 {
        assert!(matches!(at_held.recv_timeout(soon).map(drop), Err(RecvError::TimedOut)), "once");
        assert!(
            matches!(at_claimed.recv_timeout(soon).map(drop), Err(RecvError::TimedOut)),
            "it claims still"
        );
    }
    alive.tell();
    alive.says("done with it");
    for expected in [&b"receiver"[..], b"behind"] {
        assert_eq!(*at_claimed.recv_timeout(common::PATIENCE).unwrap(), *expected);
    }
    assert!(matches!(at_claimed.try_recv().map(drop), Err(RecvError::WouldBlock)));
    assert!(
        matches!(at_held.recv_timeout(soon).map(drop), Err(RecvError::TimedOut)),
        "the living one had it"
    );
    let info = queues.stat(&name("held")).unwrap();
    assert_eq!((info.redelivered_messages, info.lost_messages), (Some(1), Some(0)));
    alive.tell();
    alive.ends_well();
}
