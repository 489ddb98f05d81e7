//! While both ends are awake, messages pass without the kernel: the threads that send and
//! receive are killed for any system call between the first message and the last.

mod common;

use common::{Arena, Child, allow_only, end_after, kinds::make, name, say, serve, told};
use ipc_shm::{
    Channel, Client, Kind, Loan, Message, Receiver, RecvError, Request, Rpc, Sender, Server, Shm, ShmConfig,
    ShmReceiver, Spsc, Transport, Wait, Waiting,
};
use nix::libc;
use rstest::rstest;
use std::{os::unix::process::ExitStatusExt, path::Path};

const MESSAGES: u32 = 10_000;

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let shm = Spsc::at(&arguments[0]);
        match role {
            "send" => send(&shm, arguments[1].parse().unwrap()),
            "receive" => receive(&shm),
            "send of any kind" => send_of_any_kind(Path::new(&arguments[0])),
            "receive of any kind" => receive_of_any_kind(Path::new(&arguments[0])),
            "call" => call(Path::new(&arguments[0])),
            "sleep" => sleep(Path::new(&arguments[0])),
            "answer" => answer(Path::new(&arguments[0])),
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

/// What it takes to be told that it is one's turn, and to say that it is over.
const TURNS: &[libc::c_long] = &[libc::SYS_read, libc::SYS_write, libc::SYS_exit_group];
const TURN: u64 = 2000;

/// In turns, so that whoever asks finds what it asks for: who finds nothing looks for the dead now and
/// then. Nobody announces that it sleeps, as those who are awake don't.
#[rstest]
fn whatever_the_kind_messages_pass_without_a_system_call(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    let arena = Arena::new();
    let path = arena.path().to_str().unwrap();
    let config = ShmConfig::new().kind(kind);
    let config = match kind {
        Kind::Mpmc | Kind::Rpc => config.depth(TURN).max_message_len(64),
        _ => config,
    };
    make(arena.path(), &config).unwrap();
    let roles =
        if kind == Kind::Rpc { ["answer", "call"] } else { ["receive of any kind", "send of any kind"] };
    let mut children = roles.map(|role| Child::spawn(role, &[path]));
    children.iter_mut().for_each(|child| child.says("ready"));
    for _ in 0..5 {
        let [receiver, sender] = &mut children;
        sender.tell();
        sender.says("sent");
        receiver.tell();
        receiver.says("received");
        if kind == Kind::Rpc {
            sender.tell();
            sender.says("collected");
        }
        if kind == Kind::Mpmc {
            let queued = Shm::at(arena.path()).stat(&name("x")).unwrap().queued_messages;
            assert_eq!(queued, Some(0));
        }
    }
    for child in &mut children {
        child.tell();
        child.says("done");
        assert!(child.ended().success());
    }
}

/// Takes turns until it is told that there are no more, which takes some of them.
fn in_turns(mut turn: impl FnMut(u64)) {
    say("ready");
    for number in 0..5 {
        assert!(told());
        if number == 0 {
            allow_only(TURNS);
        }
        turn(number);
    }
    assert!(told());
    say("done");
    end_after(|| {});
}

fn send_of_any_kind(directory: &Path) {
    let mut tx = Shm::at(directory).open(&name("x")).unwrap().sender().unwrap();
    in_turns(|_| {
        for number in 0..TURN {
            if number % 2 == 0 {
                tx.send(&number.to_ne_bytes()).unwrap();
            } else {
                let mut loan = tx.loan(8, Wait::Never).unwrap();
                loan.copy_from_slice(&number.to_ne_bytes());
                loan.send().unwrap();
            }
        }
        say("sent");
    });
}

fn receive_of_any_kind(directory: &Path) {
    let mut rx = Shm::at(directory).open(&name("x")).unwrap().receiver().unwrap();
    in_turns(|_| {
        // Of the newest value there is the last one, as often as one likes.
        let is_latest = matches!(rx, ShmReceiver::Latest(_));
        for number in 0..TURN {
            let expected = if is_latest { TURN - 1 } else { number };
            if let ShmReceiver::Latest(rx) = &mut rx {
                assert_eq!(*rx.read().unwrap().unwrap(), expected.to_ne_bytes());
                continue;
            }
            assert_eq!(*rx.recv().unwrap(), expected.to_ne_bytes());
        }
        if !matches!(rx, ShmReceiver::Mpmc(_)) {
            assert!(rx.try_recv().is_err());
        }
        say("received");
    });
}

fn call(directory: &Path) {
    let mut client = Rpc::at(directory).open(&name("x")).unwrap().client().unwrap();
    let mut tickets = Vec::with_capacity(TURN as usize);
    in_turns(|_| {
        tickets.extend((0..TURN).map(|number| client.submit(&number.to_ne_bytes(), Wait::Never).unwrap()));
        say("sent");
        assert!(told());
        for (number, ticket) in (0..TURN).zip(tickets.drain(..)) {
            assert_eq!(*client.collect(ticket, Wait::Forever).unwrap(), number.to_ne_bytes());
        }
        say("collected");
    });
}

fn answer(directory: &Path) {
    let mut server = Rpc::at(directory).open(&name("x")).unwrap().server().unwrap();
    in_turns(|_| {
        for _ in 0..TURN {
            let request = server.next(Wait::Forever).unwrap();
            let mut number = [0; 8];
            number.copy_from_slice(&request);
            assert!(request.respond(&number).unwrap());
        }
        say("received");
    });
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

/// And of each kind: whoever sleeps has to be woken.
#[rstest]
fn the_watch_would_notice_one_whatever_the_kind(
    #[values(Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    let arena = Arena::new();
    let path = arena.path().to_str().unwrap();
    make(arena.path(), &ShmConfig::new().kind(kind)).unwrap();
    let mut sleeper = Child::spawn("sleep", &[path]);
    sleeper.says("ready");
    let mut sender = Child::spawn(if kind == Kind::Rpc { "call" } else { "send of any kind" }, &[path]);
    sender.says("ready");
    common::until_asleep(&arena.file("x"), common::layout::RECEIVERS_ASLEEP - common::layout::ASLEEP);
    sender.tell();
    assert_eq!(sender.ended().signal(), Some(libc::SIGSYS));
}

/// Receives, or serves, one.
fn sleep(directory: &Path) {
    if let Ok(service) = Rpc::at(directory).open(&name("x")) {
        let mut server = service.server().unwrap();
        server.set_waiting(Waiting::Block);
        say("ready");
        server.next(Wait::Forever).map(drop).unwrap();
    } else {
        let mut rx = Shm::at(directory).open(&name("x")).unwrap().receiver().unwrap();
        rx.set_waiting(Waiting::Block);
        say("ready");
        rx.recv().map(drop).unwrap();
    }
}
