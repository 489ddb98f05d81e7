//! While both ends are awake, messages pass without the kernel: the threads that send and
//! receive are killed for any system call between the first message and the last.

mod common;

use common::{Arena, Child, allow_only, end_after, name, say, serve, told};
use ipc_shm::{Channel, Loan, Message, Receiver, RecvError, Sender, Spsc, Transport, Wait, Waiting};
use nix::libc;
use rstest::rstest;
use std::os::unix::process::ExitStatusExt;

const MESSAGES: u32 = 10_000;

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let shm = Spsc::at(&arguments[0]);
        match role {
            "send" => send(&shm, arguments[1].parse().unwrap()),
            "receive" => receive(&shm),
            other => panic!("no such child: {other}"),
        }
    });
}

/// What it takes to say that all is done, and to end.
const LAST_WORDS: &[libc::c_long] = &[libc::SYS_write, libc::SYS_exit_group];

#[rstest]
#[case::short_ones(8)]
#[case::longer_ones(64)]
fn ten_thousand_messages_pass_without_a_system_call(#[case] len: usize) {
    let arena = Arena::new();
    let path = arena.path().to_str().unwrap();
    // Room for all of them: no sender has to wait, whoever gets the processor.
    drop(arena.shm().create(&name("x"), &Default::default()).unwrap());
    let mut receiver = Child::spawn("receive", &[path]);
    let mut sender = Child::spawn("send", &[path, &len.to_string()]);
    receiver.says("ready");
    sender.says("ready");
    receiver.tell();
    sender.tell();
    sender.says("sent");
    receiver.says("received");
    sender.ends_well();
    receiver.ends_well();
}

fn send(shm: &Spsc, len: usize) {
    let mut tx = shm.open(&name("x")).unwrap().sender().unwrap();
    let message = vec![1; len];
    say("ready");
    assert!(told());
    allow_only(LAST_WORDS);
    for number in 0..MESSAGES {
        if number % 2 == 0 {
            tx.send(&message).unwrap();
        } else {
            let mut loan = tx.loan(len, Wait::Never).unwrap();
            loan.fill(1);
            loan.commit(Wait::Never).unwrap();
        }
    }
    say("sent");
    // At once: destructors and exit handlers make system calls, and may.
    end_after(|| {});
}

fn receive(shm: &Spsc) {
    let mut rx = shm.open(&name("x")).unwrap().receiver().unwrap();
    say("ready");
    assert!(told());
    allow_only(LAST_WORDS);
    let mut received = 0;
    while received < MESSAGES {
        match rx.advance(Wait::Never) {
            Ok(()) => {}
            Err(RecvError::WouldBlock) => {
                std::hint::spin_loop();
                continue;
            }
            Err(error) => panic!("{error:?}"),
        }
        rx.held().keep();
        assert!(rx.held().iter().all(|byte| *byte == 1));
        received += 1;
    }
    say("received");
    end_after(|| {});
}

#[test]
fn the_watch_kept_on_system_calls_would_notice_one() {
    let arena = Arena::new();
    let path = arena.path().to_str().unwrap();
    let channel = arena.shm().create(&name("x"), &Default::default()).unwrap();
    let mut rx = channel.receiver().unwrap();
    rx.set_waiting(Waiting::Block);
    let mut sender = Child::spawn("send", &[path, "8"]);
    sender.says("ready");
    let file = arena.file("x");
    std::thread::scope(|scope| {
        scope.spawn(|| rx.recv().map(drop).unwrap());
        // A receiver that sleeps has to be woken, and that is a system call.
        common::until_asleep(&file, common::layout::RECEIVER);
        sender.tell();
        assert_eq!(sender.ended().signal(), Some(libc::SIGSYS));
    });
}
