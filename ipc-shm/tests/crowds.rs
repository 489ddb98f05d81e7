//! Channels of many participants: who waits for nothing in particular leaves the machine alone
//! however many there are, and the dead are found among them all the same.

mod common;

use common::{
    Arena, Child, PATIENCE, eventually, fork_child, name, say, serve, told,
    trace::{calls_of, stay_on_one_processor},
};
use ipc_shm::{
    Broadcast, BroadcastSubscriber, CallError, Channel, Client, Mpmc, MpmcReceiver, Receiver, RecvError, Rpc,
    SendError, Sender, Server, ShmConfig, Transport, Wait, Waiting, WhenFull,
    sync::{LockError, RwLock, Semaphore, State},
};
use nix::libc;
use rstest::rstest;
use std::{fmt::Debug, sync::mpsc, thread, time::Duration};

/// More than are asked about at once.
const CROWD: u32 = 200;
/// As many as are asked about in one look.
const AT_ONCE: usize = 64;

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let queue = Mpmc::at(&arguments[0]).open(&name("x"));
        match role {
            "claim" => {
                let mut tx = queue.unwrap().sender().unwrap();
                let _loan = tx.loan(8, Wait::Forever).unwrap();
                say("claimed");
                told();
            }
            "hold" => {
                let mut rx = queue.unwrap().receiver().unwrap();
                let _message = rx.recv_timeout(PATIENCE).unwrap();
                say("held");
                told();
            }
            "permit" => {
                let permits = State::at(&arguments[0]).open::<Semaphore>("x").unwrap();
                let _permit = permits.acquire().unwrap();
                say("had");
                told();
            }
            "serve" => {
                let mut server = Rpc::at(&arguments[0]).open(&name("x")).unwrap().server().unwrap();
                let _request = server.next(Wait::timeout(PATIENCE)).unwrap();
                say("taken");
                told();
            }
            "call" => {
                let mut client = Rpc::at(&arguments[0]).open(&name("x")).unwrap().client().unwrap();
                let _ticket = client.submit(b"", Wait::Never).unwrap();
                say("called");
                told();
            }
            other => panic!("no such child: {other}"),
        }
    });
}

fn path(arena: &Arena) -> &str {
    arena.path().to_str().unwrap()
}

fn config() -> ShmConfig {
    ShmConfig::new().depth(4).max_message_len(16).participants(CROWD + 8)
}

fn queue(arena: &Arena) -> ipc_shm::MpmcChannel {
    Mpmc::at(arena.path()).create(&name("x"), &config()).unwrap()
}

/// Participants who do nothing.
fn crowd(queue: &ipc_shm::MpmcChannel) -> Vec<MpmcReceiver> {
    (0..CROWD).map(|_| queue.receiver().unwrap()).collect()
}

/// The same, and one who waits, in a child of ours.
fn crowd_and_one(arena: &Arena) -> (Vec<MpmcReceiver>, MpmcReceiver) {
    let queue = Mpmc::at(arena.path()).open(&name("x")).unwrap();
    (crowd(&queue), blocking(queue.receiver().unwrap()))
}

fn blocking(mut rx: MpmcReceiver) -> MpmcReceiver {
    rx.set_waiting(Waiting::Block);
    rx
}

/// Looks around twice: once when its sleep is over, and once when its time is.
const IDLE: Duration = Duration::from_millis(400);

/// The most that so many looks may ask, and some calls for what is opened and closed.
fn most_of(looks: usize) -> usize {
    looks * (AT_ONCE + 8)
}

/// How often the lock of a byte is asked for while `wait` is made, which comes to nothing, and
/// how often anything is opened.
fn asked_during<P>(prepare: impl FnOnce() -> P, wait: impl FnOnce(&mut P)) -> [usize; 2] {
    stay_on_one_processor();
    calls_of([libc::SYS_fcntl, libc::SYS_openat], prepare, |mut prepared| {
        wait(&mut prepared);
        // What it takes to leave isn't counted.
        std::mem::forget(prepared);
    })
}

fn timed_out<T: Debug>(answer: Result<T, RecvError>) {
    assert!(matches!(answer, Err(RecvError::TimedOut)), "{answer:?}");
}

#[test]
fn an_idle_receiver_asks_about_a_few_of_a_crowd_at_a_time() {
    let arena = Arena::new();
    let _queue = queue(&arena);
    let [asked, _] =
        asked_during(|| crowd_and_one(&arena), |(_, rx)| timed_out(rx.recv_timeout(IDLE).map(drop)));
    assert!((AT_ONCE..=most_of(2)).contains(&asked), "it asked {asked} times");
}

#[test]
fn an_idle_server_asks_about_a_few_of_a_crowd_at_a_time() {
    let arena = Arena::new();
    let _rpc = Rpc::at(arena.path()).create(&name("x"), &config()).unwrap();
    let [asked, _] = asked_during(
        || {
            let rpc = Rpc::at(arena.path()).open(&name("x")).unwrap();
            let clients: Vec<_> = (0..CROWD).map(|_| rpc.client().unwrap()).collect();
            let mut server = rpc.server().unwrap();
            server.set_waiting(Waiting::Block);
            (clients, server)
        },
        |(_, server)| timed_out(server.next(Wait::timeout(IDLE)).map(drop)),
    );
    assert!((AT_ONCE..=most_of(2)).contains(&asked), "it asked {asked} times");
}

fn state(arena: &Arena) -> State {
    State::at(arena.path()).participants(CROWD + 8)
}

/// A semaphore, all of whose permits are had by a crowd.
fn permits_and_holders(arena: &Arena) -> (Semaphore, Vec<Semaphore>) {
    let open = || state(arena).open::<Semaphore>("x").unwrap();
    let holders: Vec<_> = (0..CROWD).map(|_| open()).collect();
    holders.iter().for_each(|permits| std::mem::forget(permits.acquire().unwrap()));
    let mut permits = open();
    permits.set_waiting(Waiting::Block);
    (permits, holders)
}

#[test]
fn who_waits_for_a_permit_asks_about_a_few_of_a_crowd_at_a_time() {
    let arena = Arena::new();
    let _permits = state(&arena).create::<Semaphore>("x", || u64::from(CROWD)).unwrap();
    let [asked, opened] = asked_during(
        || permits_and_holders(&arena),
        |(permits, _)| {
            let answer = permits.acquire_timeout(IDLE).map(drop);
            assert!(matches!(answer, Err(LockError::TimedOut)), "{answer:?}");
        },
    );
    // Each look opens a directory for the name, and some of them again with the file to ask by.
    let looks = opened / 3;
    assert!((AT_ONCE..=most_of(looks)).contains(&asked), "it looked {looks} times, and asked {asked}");
}

#[test]
fn who_only_tries_for_a_permit_asks_now_and_then() {
    const TRIES: usize = 1000;
    let arena = Arena::new();
    let _permits = state(&arena).create::<Semaphore>("x", || u64::from(CROWD)).unwrap();
    let [asked, opened] = asked_during(
        || permits_and_holders(&arena),
        |(permits, _)| {
            for _ in 0..TRIES {
                let answer = permits.try_acquire().map(drop);
                assert!(matches!(answer, Err(LockError::WouldBlock)), "{answer:?}");
            }
        },
    );
    let looks = opened / 2;
    assert!((AT_ONCE..=most_of(looks)).contains(&asked), "it looked {looks} times, and asked {asked}");
    assert!(looks < TRIES / 2, "it looked {looks} times");
}

#[test]
fn a_writer_asks_about_a_few_of_a_crowd_of_readers_at_a_time() {
    let arena = Arena::new();
    let _lock = state(&arena).create::<RwLock<u64>>("x", || 0).unwrap();
    let open = |directory: &std::path::Path| State::at(directory).open::<RwLock<u64>>("x").unwrap();
    let [asked, opened] = asked_during(
        || {
            let (read, are_reading) = mpsc::channel();
            let directory = arena.path().to_owned();
            thread::spawn(move || {
                let locks: Vec<_> = (0..CROWD).map(|_| open(&directory)).collect();
                let _guards: Vec<_> = locks.iter().map(|lock| lock.read().unwrap()).collect();
                read.send(()).unwrap();
                loop {
                    thread::park();
                }
            });
            are_reading.recv().unwrap();
            let mut lock = open(arena.path());
            lock.set_waiting(Waiting::Block);
            lock
        },
        |lock| {
            let answer = lock.write_timeout(IDLE).map(drop);
            assert!(matches!(answer, Err(LockError::TimedOut)), "{answer:?}");
        },
    );
    // About the one that it waits for each time, and about others not more often than 25 ms pass.
    let looks = opened / 3;
    assert!((AT_ONCE..=most_of(looks)).contains(&asked), "it looked {looks} times, and asked {asked}");
    let rounds = IDLE.as_millis() as usize / 25 + 2;
    assert!(asked <= looks + most_of(rounds), "it looked {looks} times, and asked {asked}");
}

#[test]
fn a_publisher_asks_about_a_few_of_a_crowd_of_slow_subscribers_at_a_time() {
    let arena = Arena::new();
    let config = ShmConfig::new().capacity_bytes(4096).when_full(WhenFull::Wait).participants(CROWD + 8);
    let channel = Broadcast::at(arena.path()).create(&name("x"), &config).unwrap();
    let [asked, opened] = asked_during(
        || {
            let channel = Broadcast::at(arena.path()).open(&name("x")).unwrap();
            let slow: Vec<BroadcastSubscriber> = (0..CROWD).map(|_| channel.receiver().unwrap()).collect();
            let mut tx = channel.sender().unwrap();
            tx.set_waiting(Waiting::Block);
            while tx.try_send(&[0; 64]).is_ok() {}
            (slow, tx)
        },
        |(_, tx)| {
            let answer = tx.send_timeout(&[0; 64], IDLE);
            assert!(matches!(answer, Err(SendError::TimedOut)), "{answer:?}");
        },
    );
    drop(channel);
    let looks = opened / 3;
    assert!((AT_ONCE..=most_of(looks)).contains(&asked), "it looked {looks} times, and asked {asked}");
}

#[rstest]
fn who_comes_asks_about_a_few_of_a_crowd(#[values("queue", "service", "state")] what: &str) {
    let arena = Arena::new();
    let [asked, _] = match what {
        "queue" => {
            let _queue = queue(&arena);
            let come = || Mpmc::at(arena.path()).open(&name("x")).unwrap().receiver().unwrap();
            asked_during(|| (0..CROWD).map(|_| come()).collect::<Vec<_>>(), |crowd| crowd.push(come()))
        }
        "service" => {
            let _rpc = Rpc::at(arena.path()).create(&name("x"), &config()).unwrap();
            let come = || Rpc::at(arena.path()).open(&name("x")).unwrap().client().unwrap();
            asked_during(|| (0..CROWD).map(|_| come()).collect::<Vec<_>>(), |crowd| crowd.push(come()))
        }
        _ => {
            let _permits = state(&arena).create::<Semaphore>("x", || 1).unwrap();
            let come = || state(&arena).open::<Semaphore>("x").unwrap();
            asked_during(|| (0..CROWD).map(|_| come()).collect::<Vec<_>>(), |crowd| crowd.push(come()))
        }
    };
    assert!((AT_ONCE..=most_of(1)).contains(&asked), "it asked {asked} times");
}

#[test]
fn permits_of_dead_ones_of_a_crowd_are_free_again() {
    let arena = Arena::new();
    let permits = state(&arena).create::<Semaphore>("x", || u64::from(CROWD)).unwrap();
    let (waiting, _holders) = {
        let (waiting, mut holders) = permits_and_holders(&arena);
        holders.truncate(CROWD as usize - 1);
        (waiting, holders)
    };
    let mut dead = Child::spawn("permit", &[path(&arena)]);
    dead.says("had");
    let answer = waiting.acquire_timeout(Duration::from_millis(20)).map(drop);
    assert!(matches!(answer, Err(LockError::TimedOut)), "{answer:?}");
    dead.kill();
    drop(waiting.acquire_timeout(PATIENCE).unwrap());
    drop(permits);
}

#[test]
fn who_is_obstructed_asks_about_the_one_in_the_way() {
    let arena = Arena::new();
    let _queue = queue(&arena);
    let mut owner = Child::spawn("claim", &[path(&arena)]);
    owner.says("claimed");
    let [asked, opened] = asked_during(
        || crowd_and_one(&arena),
        |(_, rx)| timed_out(rx.recv_timeout(Duration::from_millis(250)).map(drop)),
    );
    // Each look opens a directory for the name, and again with the file to ask by. It asks about
    // that one; and, not more often than 25 ms pass, about others.
    let looks = opened / 3;
    assert!(looks >= 1 && asked >= looks, "it looked {looks} times, and asked {asked}");
    assert!(asked <= most_of(looks), "it looked {looks} times, and asked {asked}");
}

#[test]
fn what_a_dead_one_of_a_crowd_held_is_delivered_again() {
    let arena = Arena::new();
    let queue = queue(&arena);
    let _before: Vec<_> = crowd(&queue).drain(..CROWD as usize / 2).collect();
    let mut holder = Child::spawn("hold", &[path(&arena)]);
    queue.sender().unwrap().send(b"held").unwrap();
    holder.says("held");
    let _after: Vec<_> = (0..CROWD / 4).map(|_| queue.receiver().unwrap()).collect();
    let mut rx = blocking(queue.receiver().unwrap());
    timed_out(rx.recv_timeout(Duration::from_millis(20)).map(drop));
    holder.kill();
    assert_eq!(&*rx.recv_timeout(PATIENCE).unwrap(), b"held");
}

#[rstest]
fn a_dead_one_of_a_crowd_stands_in_nobodys_way(#[values(true, false)] waits: bool) {
    let arena = Arena::new();
    let queue = queue(&arena);
    let _crowd = crowd(&queue);
    let mut rx = blocking(queue.receiver().unwrap());
    let mut owner = Child::spawn("claim", &[path(&arena)]);
    owner.says("claimed");
    queue.sender().unwrap().send(b"behind it").unwrap();
    owner.kill();
    let wait = if waits { Wait::timeout(PATIENCE) } else { Wait::Never };
    let give_up = std::time::Instant::now() + PATIENCE;
    loop {
        match rx.receive(wait) {
            Ok(message) => break assert_eq!(&*message, b"behind it"),
            Err(RecvError::WouldBlock) => assert!(std::time::Instant::now() < give_up, "it never looked"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_dead_ones_of_a_crowd_had_of_a_service_is_free_again() {
    let arena = Arena::new();
    let rpc = Rpc::at(arena.path()).create(&name("x"), &config()).unwrap();
    let _crowd: Vec<_> = (0..CROWD).map(|_| rpc.client().unwrap()).collect();
    let mut callers: Vec<_> = (0..4).map(|_| Child::spawn("call", &[path(&arena)])).collect();
    callers.iter_mut().for_each(|caller| caller.says("called"));
    let mut client = rpc.client().unwrap();
    let answer = client.submit(b"for room", Wait::timeout(Duration::from_millis(20))).map(drop);
    assert!(matches!(answer, Err(CallError::TimedOut)), "{answer:?}");
    callers.iter_mut().for_each(Child::kill);
    let ticket = client.submit(b"in its place", Wait::timeout(PATIENCE)).unwrap();
    let mut server = Child::spawn("serve", &[path(&arena)]);
    server.says("taken");
    server.kill();
    let answer = client.collect(ticket, Wait::timeout(PATIENCE)).map(drop);
    assert!(matches!(answer, Err(CallError::ServerDied)), "{answer:?}");
}

#[test]
fn one_who_cannot_ask_does_not_keep_the_others_from_it() {
    let arena = Arena::new();
    let queue = queue(&arena);
    let _crowd = crowd(&queue);
    let mut holder = Child::spawn("hold", &[path(&arena)]);
    queue.sender().unwrap().send(b"held").unwrap();
    holder.says("held");
    let mut asker = blocking(queue.receiver().unwrap());
    let blind = fork_child(|| {
        let queue = Mpmc::at(arena.path()).open(&name("x")).unwrap();
        let mut rx = queue.receiver().unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 0, 1024).unwrap();
        // Looks around as often as anybody can.
        while matches!(rx.try_recv(), Err(RecvError::WouldBlock)) {}
    });
    holder.kill();
    eventually("the dead one is found", || {
        // The other one may be faster to take what it held.
        let _ = asker.recv_timeout(Duration::from_millis(300));
        Mpmc::at(arena.path()).stat(&name("x")).unwrap().redelivered_messages == Some(1)
    });
    queue.sender().unwrap().send(b"that is all").unwrap();
    blind.ends_well();
}
