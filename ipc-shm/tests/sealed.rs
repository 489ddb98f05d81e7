//! Sealed channels between honest peers: what is sent arrives, whoever goes is missed, and
//! nobody waits longer than it said.

mod common;

use common::{
    Arena, Child, PATIENCE, eventually, fork, fork_child, is_root, mode_of, say, serve, told, within,
};
use ipc_shm::{
    Cancel, EndMark, Loan, Message, Receiver, RecvError, SendError, Sender, Sequenced, Wait, Waiting,
    sealed::{self, Link, LinkError, Listener, Peers, SealedConfig, SealedReceiver, SealedSender},
};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
    unistd::{Gid, Uid, setgid, setuid},
};
use rstest::rstest;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let path = Path::new(&arguments[0]);
        match role {
            "receive all" => receive_all(path),
            "send and go" => send_and_go(path),
            "send and stay" => send_and_stay(path),
            "hold on" => hold_on(path),
            "connect as another" => connect_as_another(path, arguments[1].parse().unwrap()),
            other => panic!("no such child: {other}"),
        }
    });
}

fn soon() -> Wait<'static> {
    Wait::timeout(PATIENCE)
}

fn connect(path: &Path) -> Link {
    sealed::connect(path, &Peers::ourselves(), soon()).expect("somebody listens")
}

fn small() -> SealedConfig {
    SealedConfig::new().capacity_bytes(4096)
}

/// Both ends in this process.
fn pair(config: &SealedConfig) -> (SealedSender, SealedReceiver) {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let receiver = thread::spawn(move || connect(&path).receiver(&SealedConfig::new(), soon()).unwrap());
    let tx = listener.accept(soon()).unwrap().sender(config, soon()).unwrap();
    (tx, receiver.join().unwrap())
}

/// A payload that is told from others.
fn payload(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at) as u8).collect()
}

fn lengths() -> impl Iterator<Item = (usize, usize)> {
    (0..3000).map(|number| (number, (number * 7919) % 1500))
}

fn receive_all(path: &Path) {
    let mut rx = connect(path).receiver(&SealedConfig::new(), soon()).unwrap();
    for (number, len) in lengths() {
        let message = rx.receive(soon()).unwrap();
        assert_eq!(SealedReceiver::sequence_of(&message), number as u64);
        assert_eq!(*message, *payload(number, len), "message {number}");
    }
    assert!(matches!(rx.receive(soon()), Err(RecvError::End)));
    say("all");
    assert!(matches!(rx.receive(soon()), Err(RecvError::Closed)));
}

#[test]
fn messages_of_all_lengths_go_from_one_process_to_another() {
    let arena = Arena::new();
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    let mut child = Child::spawn("receive all", &[arena.file("s").to_str().unwrap()]);
    let link = listener.accept(soon()).unwrap();
    assert_eq!(link.peer().pid, child.pid());
    let mut tx = link.sender(&small(), soon()).unwrap();
    for (number, len) in lengths() {
        match number % 2 {
            0 => tx.send_wait(&payload(number, len), soon()).unwrap(),
            _ => {
                let mut loan = tx.loan(len + 3, soon()).unwrap();
                loan[..len].copy_from_slice(&payload(number, len));
                loan.truncate(len);
                loan.send().unwrap();
            }
        }
    }
    tx.send_end(soon()).unwrap();
    child.says("all");
    drop(tx);
    child.ends_well();
}

#[rstest]
fn sleepers_are_woken(#[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting) {
    let (mut tx, mut rx) = pair(&small());
    tx.set_waiting(waiting);
    rx.set_waiting(waiting);
    let (mut back, mut answers) = pair(&small());
    back.set_waiting(waiting);
    answers.set_waiting(waiting);
    let echo = thread::spawn(move || {
        while let Ok(message) = rx.recv() {
            back.send(&message).unwrap();
        }
    });
    let started = Instant::now();
    for round in 0..300_u32 {
        tx.send(&round.to_ne_bytes()).unwrap();
        assert_eq!(*answers.receive(soon()).unwrap(), round.to_ne_bytes());
    }
    // Each that wasn't woken would take 250 ms.
    assert!(started.elapsed() < PATIENCE, "they aren't woken");
    drop(tx);
    echo.join().unwrap();
}

#[test]
fn a_full_channel_waits_for_room_and_says_so() {
    let (mut tx, mut rx) = pair(&small());
    let longest = tx.max_message_len();
    assert_eq!(longest, 4096 - 16);
    assert!(matches!(tx.try_send(&vec![0; longest + 1]), Err(SendError::TooLong { .. })));
    tx.try_send(&vec![7; longest]).unwrap();
    assert!(matches!(tx.try_send(b""), Err(SendError::WouldBlock)));
    assert!(matches!(tx.send_timeout(b"", Duration::from_millis(5)), Err(SendError::TimedOut)));
    tx.set_waiting(Waiting::Block);
    let sender = thread::spawn(move || {
        tx.send_wait(&vec![8; longest], soon()).unwrap();
        tx
    });
    assert_eq!(*rx.receive(soon()).unwrap(), *vec![7; longest]);
    assert_eq!(*rx.receive(soon()).unwrap(), *vec![8; longest]);
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    drop(sender.join().unwrap());
}

#[test]
fn a_kept_message_comes_again_and_a_dropped_loan_sends_nothing() {
    let (mut tx, mut rx) = pair(&small());
    let _ = tx.loan(5, soon()).unwrap();
    tx.send(b"one").unwrap();
    tx.send(b"two").unwrap();
    rx.recv().unwrap().keep();
    assert_eq!(&*rx.recv().unwrap(), b"one");
    assert_eq!(&*rx.recv().unwrap(), b"two");
    assert!(matches!(rx.recv_timeout(Duration::from_millis(1)), Err(RecvError::TimedOut)));
}

#[test]
fn a_wait_can_be_cancelled() {
    static STOP: Cancel = Cancel::new();
    let (tx, mut rx) = pair(&small());
    let waiter = thread::spawn(move || rx.advance(Wait::Forever.or_cancel(&STOP)).unwrap_err());
    STOP.cancel();
    assert!(matches!(within(PATIENCE, || waiter.join().unwrap()), RecvError::Cancelled));
    drop(tx);
}

fn send_and_go(path: &Path) {
    let mut tx = connect(path).sender(&small(), soon()).unwrap();
    tx.send(b"before I go").unwrap();
}

fn send_and_stay(path: &Path) {
    let mut tx = connect(path).sender(&small(), soon()).unwrap();
    tx.send(b"before I go").unwrap();
    say("sent");
    told();
}

/// Receives nothing, and stays.
fn hold_on(path: &Path) {
    let rx = connect(path).receiver(&SealedConfig::new(), soon()).unwrap();
    say("here");
    told();
    drop(rx);
}

#[rstest]
fn who_goes_is_missed_after_what_it_has_sent(
    #[values(false, true)] killed: bool,
    #[values(Waiting::Spin, Waiting::Block)] waiting: Waiting,
    #[values(false, true)] polled: bool,
) {
    let arena = Arena::new();
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    let role = if killed { "send and stay" } else { "send and go" };
    let mut child = Child::spawn(role, &[arena.file("s").to_str().unwrap()]);
    let mut rx = listener.accept(soon()).unwrap().receiver(&SealedConfig::new(), soon()).unwrap();
    rx.set_waiting(waiting);
    if killed {
        child.says("sent");
        child.kill();
    }
    assert_eq!(&*rx.receive(soon()).unwrap(), b"before I go");
    let mut error = RecvError::WouldBlock;
    eventually("it is missed", || {
        error = rx.receive(if polled { Wait::Never } else { soon() }).map(drop).unwrap_err();
        !matches!(error, RecvError::WouldBlock)
    });
    match killed {
        true => assert!(matches!(error, RecvError::PeerDied), "{error:?}"),
        false => assert!(matches!(error, RecvError::Closed), "{error:?}"),
    }
}

#[rstest]
fn a_sender_learns_that_nobody_receives_any_more(#[values(false, true)] killed: bool) {
    let arena = Arena::new();
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    let mut child = Child::spawn("hold on", &[arena.file("s").to_str().unwrap()]);
    let mut tx = listener.accept(soon()).unwrap().sender(&small(), soon()).unwrap();
    child.says("here");
    let sender = thread::spawn(move || {
        loop {
            if let Err(error) = tx.send_wait(&[1; 100], soon()) {
                return error;
            }
        }
    });
    match killed {
        true => child.kill(),
        false => child.tell(),
    }
    let error = sender.join().unwrap();
    match killed {
        true => assert!(matches!(error, SendError::PeerDied), "{error:?}"),
        false => assert!(matches!(error, SendError::Closed), "{error:?}"),
    }
}

#[test]
fn a_stopped_peer_is_not_taken_for_dead() {
    let arena = Arena::new();
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    let mut child = Child::spawn("send and stay", &[arena.file("s").to_str().unwrap()]);
    let mut rx = listener.accept(soon()).unwrap().receiver(&SealedConfig::new(), soon()).unwrap();
    child.says("sent");
    child.stop();
    drop(rx.receive(soon()).unwrap());
    assert!(matches!(rx.recv_timeout(Duration::from_millis(400)), Err(RecvError::TimedOut)));
    child.signal(Signal::SIGCONT);
}

#[test]
fn a_forked_child_has_no_part_in_it_and_keeps_nobody_alive() {
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    let Some(peer) = fork() else {
        common::end_after(|| {
            let mut tx = connect(&path).sender(&small(), soon()).unwrap();
            tx.send(b"hello").unwrap();
            // A child of the peer, which lives on.
            let _child = fork_child(|| {
                assert!(matches!(tx.try_send(b"no"), Err(SendError::Forked)));
                thread::sleep(PATIENCE / 4);
            });
            // Killed, so that it takes no leave.
            nix::sys::signal::raise(Signal::SIGKILL).unwrap();
        })
    };
    let mut rx = listener.accept(soon()).unwrap().receiver(&SealedConfig::new(), soon()).unwrap();
    assert_eq!(&*rx.receive(soon()).unwrap(), b"hello");
    let started = Instant::now();
    let error = rx.receive(soon()).map(drop).unwrap_err();
    assert!(matches!(error, RecvError::PeerDied), "{error:?}");
    assert!(started.elapsed() < PATIENCE / 4, "the child keeps its parent alive");
    peer.ended();
    fork_child(|| {
        assert!(matches!(rx.try_recv(), Err(RecvError::Forked)));
        assert!(matches!(listener.accept(Wait::Never), Err(LinkError::Forked)));
    })
    .ends_well();
}

#[test]
fn what_a_dead_listener_left_is_replaced_and_what_a_live_one_has_is_not() {
    let arena = Arena::new();
    let path = arena.file("s");
    fork_child(|| std::mem::forget(Listener::bind(&path, Peers::ourselves()).unwrap())).ends_well();
    assert_eq!(arena.entries(), ["s"]);
    assert!(matches!(sealed::connect(&path, &Peers::ourselves(), soon()), Err(LinkError::NotFound)));
    let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
    assert!(matches!(Listener::bind(&path, Peers::ourselves()), Err(LinkError::AlreadyExists)));
    drop(listener);
    assert_eq!(arena.entries(), [""; 0]);
    std::fs::write(arena.file("s"), "a file").unwrap();
    assert!(Listener::bind(&path, Peers::ourselves()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
}

/// Whoever may read a directory can keep its lock.
#[test]
fn a_locked_directory_keeps_nobody_from_listening() {
    let arena = Arena::new();
    let directory = std::fs::File::open(arena.path()).unwrap();
    let _locked = Flock::lock(directory, FlockArg::LockExclusive).unwrap();
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    assert!(sealed::connect(arena.file("s"), &Peers::ourselves(), soon()).is_ok());
    drop(listener);
    assert_eq!(arena.entries(), [""; 0]);
}

#[test]
fn who_may_connect_is_what_was_said_whatever_is_masked() {
    let arena = Arena::new();
    fork_child(|| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let ours = Listener::bind(arena.file("ours"), Peers::ourselves()).unwrap();
        let all = Listener::bind(arena.file("all"), Peers::new().user(1001)).unwrap();
        assert_eq!([mode_of(&arena.file("ours")), mode_of(&arena.file("all"))], [0o600, 0o666]);
        drop((ours, all));
    })
    .ends_well();
}

#[test]
fn one_who_is_killed_before_its_socket_has_its_name_leaves_it_to_the_next() {
    let arena = Arena::new();
    let dead = arena.file(".ipc-sealed-1-0");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert_eq!(arena.entries(), [".ipc-sealed-1-0"]);
    let _listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    assert_eq!(arena.entries(), ["s"]);
}

#[test]
fn of_many_who_want_the_same_name_at_once_one_gets_it() {
    let arena = Arena::new();
    for _ in 0..20 {
        // What a dead one left is in the way of all.
        fork_child(|| std::mem::forget(Listener::bind(arena.file("s"), Peers::ourselves()).unwrap()))
            .ends_well();
        let listeners: Vec<_> = thread::scope(|scope| {
            let bind = || Listener::bind(arena.file("s"), Peers::ourselves());
            let binding: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
            binding.into_iter().filter_map(|one| one.join().unwrap().ok()).collect()
        });
        assert_eq!(listeners.len(), 1);
        assert!(sealed::connect(arena.file("s"), &Peers::ourselves(), soon()).is_ok());
        assert_eq!(arena.entries(), ["s"]);
    }
}

/// Each of them sweeps away what others have bound and don't listen at yet.
#[test]
fn processes_that_listen_in_one_directory_at_once_do_not_disturb_each_other() {
    let arena = Arena::new();
    let children: Vec<_> = (0..4)
        .map(|number| {
            fork_child(|| {
                for _ in 0..300 {
                    Listener::bind(arena.file(&format!("s{number}")), Peers::ourselves()).unwrap();
                }
            })
        })
        .collect();
    children.into_iter().for_each(|child| child.ends_well());
    assert_eq!(arena.entries(), [""; 0]);
}

#[test]
fn a_directory_may_be_reached_by_a_symbolic_link() {
    let arena = Arena::new();
    std::fs::create_dir(arena.file("real")).unwrap();
    std::os::unix::fs::symlink(arena.file("real"), arena.file("link")).unwrap();
    let listener = Listener::bind(arena.file("link/s"), Peers::ourselves()).unwrap();
    assert!(sealed::connect(arena.file("real/s"), &Peers::ourselves(), soon()).is_ok());
    drop(listener);
    assert!(!arena.file("real/s").exists());
}

#[rstest]
#[case::too_long("x".repeat(200))]
#[case::a_zero("a\0b".into())]
fn a_path_that_no_socket_can_have_is_refused(#[case] name: String) {
    let arena = Arena::new();
    let path = arena.file(&name);
    let error = Listener::bind(&path, Peers::ourselves()).unwrap_err();
    assert!(matches!(error, LinkError::InvalidConfig(_)), "{error:?}");
    let error = sealed::connect(&path, &Peers::ourselves(), Wait::Never).unwrap_err();
    assert!(matches!(error, LinkError::InvalidConfig(_)), "{error:?}");
}

#[test]
fn a_wait_for_a_peer_is_over_when_it_is_over() {
    let arena = Arena::new();
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    assert!(matches!(listener.accept(Wait::Never), Err(LinkError::WouldBlock)));
    assert!(matches!(listener.accept(Wait::timeout(Duration::from_millis(20))), Err(LinkError::TimedOut)));
    static STOP: Cancel = Cancel::new();
    STOP.cancel();
    assert!(matches!(listener.accept(Wait::Forever.or_cancel(&STOP)), Err(LinkError::Cancelled)));
    let centuries = Wait::timeout(Duration::from_secs(u64::MAX / 4)).or_cancel(&STOP);
    assert!(matches!(listener.accept(centuries), Err(LinkError::Cancelled)));
}

#[rstest]
#[case::nothing(SealedConfig::new().capacity_bytes(0))]
#[case::too_much(SealedConfig::new().capacity_bytes(u64::MAX))]
fn a_capacity_that_makes_no_sense_is_refused(#[case] config: SealedConfig) {
    let arena = Arena::new();
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    let _link = connect(&arena.file("s"));
    let error = listener.accept(soon()).unwrap().sender(&config, soon()).unwrap_err();
    assert!(matches!(error, LinkError::InvalidConfig(_)), "{error:?}");
}

#[test]
fn two_senders_find_out_and_two_receivers_time_out() {
    let arena = Arena::new();
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    let other = connect(&arena.file("s"));
    let other = thread::spawn(move || other.sender(&small(), soon()).unwrap_err());
    let error = listener.accept(soon()).unwrap().sender(&small(), soon()).unwrap_err();
    assert!(error.to_string().contains("one of the two has to receive"), "{error}");
    assert!(other.join().unwrap().to_string().contains("one of the two has to receive"));

    let briefly = || Wait::timeout(Duration::from_millis(30));
    let other = connect(&arena.file("s"));
    let link = listener.accept(soon()).unwrap();
    let error = link.receiver(&SealedConfig::new(), briefly()).unwrap_err();
    assert!(matches!(error, LinkError::TimedOut), "{error:?}");
    drop(other);
}

#[test]
fn who_is_not_on_the_list_is_refused_by_name() {
    let arena = Arena::new();
    let path = arena.file("s");
    let us = nix::unistd::geteuid().as_raw();
    let group = nix::unistd::getegid().as_raw();
    for (peers, allowed) in [
        (Peers::new(), false),
        (Peers::new().user(us + 1), false),
        (Peers::new().user(us + 1).user(us), true),
        (Peers::new().group(group), true),
        (Peers::new().group(group + 1), false),
        (Peers::ourselves().only_process(std::process::id()), true),
        (Peers::ourselves().only_process(std::process::id() + 1), false),
    ] {
        let listener = Listener::bind(&path, peers.clone()).unwrap();
        let connected = sealed::connect(&path, &peers, soon());
        assert_eq!(connected.is_ok(), allowed, "{peers}");
        let accepted = listener.accept(soon());
        assert_eq!(accepted.is_ok(), allowed, "{peers}");
        if let Err(error) = accepted {
            assert!(matches!(error, LinkError::NotPermitted(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&format!("user {us}")) && text.contains(&peers.to_string()), "{text}");
        }
    }
}

#[test]
fn another_user_is_refused_and_one_on_the_list_is_not() {
    if !is_root() {
        common::skip("only root can act as two users");
        return;
    }
    let uid = 100_000 + std::process::id();
    let arena = Arena::new();
    std::fs::set_permissions(arena.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = arena.file("s");
    let run = |peers: Peers| {
        let listener = Listener::bind(&path, peers).unwrap();
        let child = Child::spawn("connect as another", &[path.to_str().unwrap(), &uid.to_string()]);
        let mut answer = Err(LinkError::HungUp);
        // The child hangs up first, since it doesn't trust us.
        while matches!(answer, Err(LinkError::HungUp)) {
            answer = listener
                .accept(soon())
                .and_then(|link| link.sender(&small(), soon()))
                .map(|mut tx| tx.send(b"for you").unwrap());
        }
        drop(listener);
        child.ends_well();
        answer
    };
    let error = run(Peers::ourselves().group(4_000_000)).unwrap_err();
    assert!(matches!(error, LinkError::NotPermitted(_)), "{error:?}");
    assert!(error.to_string().contains(&format!("user {uid}")), "{error}");
    run(Peers::new().user(uid)).unwrap();
}

fn connect_as_another(path: &Path, uid: u32) {
    setgid(Gid::from_raw(uid)).unwrap();
    setuid(Uid::from_raw(uid)).unwrap();
    // It doesn't trust root, unless told to.
    let error = sealed::connect(path, &Peers::ourselves(), soon()).unwrap_err();
    assert!(matches!(error, LinkError::NotPermitted(_)), "{error:?}");
    let Ok(link) = sealed::connect(path, &Peers::new().user(0), soon()) else { return };
    if let Ok(mut rx) = link.receiver(&SealedConfig::new(), soon()) {
        assert_eq!(&*rx.receive(soon()).unwrap(), b"for you");
    }
}
