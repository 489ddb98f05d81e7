//! Waiting: who waits is woken promptly, learns in bounded time what nobody woke it for,
//! keeps to its deadline, and leaves the machine alone meanwhile.

mod common;

use common::{
    Arena, Child, Dice, PATIENCE, forbid,
    kinds::{Ends, make},
    layout, name, say, serve, told, until_asleep, within, write_at,
};
use ipc_shm::{
    Broadcast, Cancel, Channel, ChannelError, Kind, Latest, Receiver, RecvError, Role, Rpc, RpcServer,
    SendError, Sender, Server, ShmConfig, Spsc, SpscReceiver, SpscSender, Transport, Wait, Waiting, WhenFull,
};
use nix::{
    libc,
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
};
use rstest::rstest;
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The longest message of the channels used here: one of them fills the ring.
const FULL: usize = 4096 - 16;

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let shm = Spsc::at(&arguments[0]);
        let waiting = arguments.get(1).map_or(Waiting::Adaptive, |text| waiting_named(text));
        match role {
            "send when told" => send_when_told(&shm),
            "echo" => echo(&shm, waiting),
            "die before the wake-up of a receiver" => die_before_waking_a_receiver(&shm),
            "die before the wake-up of a sender" => die_before_waking_a_sender(&shm),
            "receive" => receive(&shm, waiting),
            "be idle" => be_idle(Path::new(&arguments[0]), waiting),
            "receive when told" => receive_when_told(&shm),
            "wait without descriptors" => wait_without_descriptors(&shm),
            "wait elsewhere" => wait_elsewhere(&arguments[0]),
            other => panic!("no such child: {other}"),
        }
    });
}

fn waiting_named(text: &str) -> Waiting {
    let all = [Waiting::Spin, Waiting::Adaptive, Waiting::Block];
    all.into_iter().find(|waiting| format!("{waiting:?}") == text).unwrap()
}

fn small() -> ShmConfig {
    ShmConfig::new().capacity_bytes(4096)
}

fn channel(arena: &Arena, waiting: Waiting) -> (SpscSender, SpscReceiver) {
    let channel = arena.shm().open_or_create(&name("x"), &small()).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.set_waiting(waiting);
    rx.set_waiting(waiting);
    (tx, rx)
}

fn path(arena: &Arena) -> &str {
    arena.path().to_str().unwrap()
}

/// Half of what it would take on average if nobody woke whom we wait for.
const PROMPTLY: Duration = Duration::from_millis(60);

#[rstest]
#[case(Waiting::Spin)]
#[case(Waiting::Adaptive)]
#[case(Waiting::Block)]
fn a_waiting_receiver_is_woken_promptly_by_another_process(#[case] waiting: Waiting) {
    let arena = Arena::new();
    drop(arena.shm().create(&name("x"), &small()).unwrap());
    let mut receiver = Child::spawn("receive", &[path(&arena), &format!("{waiting:?}")]);
    let mut tx = arena.shm().open(&name("x")).unwrap().sender().unwrap();
    receiver.says("waiting");
    let mut taken = Duration::ZERO;
    const ROUNDS: u32 = 25;
    for _ in 0..ROUNDS {
        if waiting != Waiting::Spin {
            until_asleep(&arena.file("x"), layout::RECEIVER);
        }
        let started = Instant::now();
        tx.send(b"wake up").unwrap();
        receiver.says("7 bytes");
        taken += started.elapsed();
    }
    assert!(taken < ROUNDS * PROMPTLY, "{ROUNDS} wake-ups took {taken:?}");
}

fn receive(shm: &Spsc, waiting: Waiting) {
    let mut rx = shm.open(&name("x")).unwrap().receiver().unwrap();
    rx.set_waiting(waiting);
    say("waiting");
    loop {
        let len = rx.recv().unwrap().len();
        say(&format!("{len} bytes"));
    }
}

#[rstest]
#[case(Waiting::Spin)]
#[case(Waiting::Adaptive)]
#[case(Waiting::Block)]
fn a_waiting_sender_is_woken_promptly_by_another_process(#[case] waiting: Waiting) {
    let arena = Arena::new();
    drop(arena.shm().create(&name("x"), &small()).unwrap());
    let mut receiver = Child::spawn("receive when told", &[path(&arena)]);
    let mut tx = arena.shm().open(&name("x")).unwrap().sender().unwrap();
    tx.set_waiting(waiting);
    receiver.says("ready");
    tx.send(&[0; FULL]).unwrap();
    let mut taken = Duration::ZERO;
    const ROUNDS: u32 = 25;
    for _ in 0..ROUNDS {
        let file = arena.file("x");
        let (waker, started) = (&mut receiver, AtomicU64::new(0));
        let origin = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                if waiting != Waiting::Spin {
                    until_asleep(&file, layout::SENDER);
                }
                started.store(origin.elapsed().as_nanos() as u64, Ordering::Relaxed);
                waker.tell();
                waker.says("received");
            });
            tx.send_timeout(&[0; FULL], PATIENCE).unwrap();
            let done = origin.elapsed();
            taken += done.saturating_sub(Duration::from_nanos(started.load(Ordering::Relaxed)));
        });
    }
    assert!(taken < ROUNDS * PROMPTLY, "{ROUNDS} wake-ups took {taken:?}");
}

fn receive_when_told(shm: &Spsc) {
    let mut rx = shm.open(&name("x")).unwrap().receiver().unwrap();
    say("ready");
    while told() {
        drop(rx.try_recv().unwrap());
        say("received");
    }
}

#[rstest]
fn no_wake_up_is_lost_in_many_round_trips(
    #[values(Waiting::Adaptive, Waiting::Block)] ours: Waiting,
    #[values(Waiting::Adaptive, Waiting::Block)] theirs: Waiting,
) {
    let arena = Arena::new();
    let there = arena.shm().create(&name("there"), &small()).unwrap();
    let back = arena.shm().create(&name("back"), &small()).unwrap();
    let (mut tx, mut rx) = (there.sender().unwrap(), back.receiver().unwrap());
    tx.set_waiting(ours);
    rx.set_waiting(ours);
    let mut echo = Child::spawn("echo", &[path(&arena), &format!("{theirs:?}")]);
    echo.says("listening");
    let started = Instant::now();
    const ROUNDS: u32 = 2000;
    for round in 0..ROUNDS {
        tx.send(&round.to_ne_bytes()).unwrap();
        assert_eq!(*rx.recv_timeout(PATIENCE).unwrap(), round.to_ne_bytes());
    }
    let taken = started.elapsed();
    // One that is lost costs up to a quarter of a second.
    assert!(taken < ROUNDS * Duration::from_millis(5), "{ROUNDS} round trips took {taken:?}");
}

fn echo(shm: &Spsc, waiting: Waiting) {
    let mut rx = shm.open(&name("there")).unwrap().receiver().unwrap();
    let mut tx = shm.open(&name("back")).unwrap().sender().unwrap();
    rx.set_waiting(waiting);
    tx.set_waiting(waiting);
    say("listening");
    loop {
        tx.send(&rx.recv().unwrap()).unwrap();
    }
}

/// How long a sleeper may overlook what it wasn't woken for: 250 ms, and a busy machine.
const AT_THE_LATEST: Duration = Duration::from_secs(2);

#[rstest]
#[case(Waiting::Spin)]
#[case(Waiting::Adaptive)]
#[case(Waiting::Block)]
fn a_message_whose_sender_was_killed_before_the_wake_up_arrives(#[case] waiting: Waiting) {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &small()).unwrap();
    let mut rx = channel.receiver().unwrap();
    rx.set_waiting(waiting);
    let mut sender = Child::spawn("die before the wake-up of a receiver", &[path(&arena)]);
    sender.says("ready");
    let file = arena.file("x");
    let taken = thread::scope(|scope| {
        let kill = scope.spawn(|| {
            if waiting != Waiting::Spin {
                until_asleep(&file, layout::RECEIVER);
            }
            sender.tell();
            if waiting != Waiting::Spin {
                assert_eq!(
                    std::os::unix::process::ExitStatusExt::signal(&sender.ended()),
                    Some(libc::SIGSYS)
                );
            }
            Instant::now()
        });
        assert_eq!(&*rx.recv_timeout(PATIENCE).unwrap(), b"the last");
        let got = Instant::now();
        got.saturating_duration_since(kill.join().unwrap())
    });
    assert!(taken < AT_THE_LATEST, "it took {taken:?}");
    drop(channel.sender().expect("the role is free"));
}

fn die_before_waking_a_receiver(shm: &Spsc) {
    let mut tx = shm.open(&name("x")).unwrap().sender().unwrap();
    say("ready");
    assert!(told());
    // The record is stored, then the bell is rung by this call.
    forbid(&[libc::SYS_futex]);
    tx.send(b"the last").unwrap();
}

#[test]
fn room_whose_receiver_was_killed_before_the_wake_up_is_found() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &small()).unwrap();
    let mut tx = channel.sender().unwrap();
    tx.set_waiting(Waiting::Block);
    tx.send(&[0; FULL]).unwrap();
    let mut receiver = Child::spawn("die before the wake-up of a sender", &[path(&arena)]);
    receiver.says("ready");
    let file = arena.file("x");
    let taken = thread::scope(|scope| {
        let kill = scope.spawn(|| {
            until_asleep(&file, layout::SENDER);
            receiver.tell();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&receiver.ended()), Some(libc::SIGSYS));
            Instant::now()
        });
        tx.send_timeout(&[0; FULL], PATIENCE).unwrap();
        Instant::now().saturating_duration_since(kill.join().unwrap())
    });
    assert!(taken < AT_THE_LATEST, "it took {taken:?}");
}

fn die_before_waking_a_sender(shm: &Spsc) {
    let mut rx = shm.open(&name("x")).unwrap().receiver().unwrap();
    say("ready");
    assert!(told());
    forbid(&[libc::SYS_futex]);
    drop(rx.try_recv().unwrap());
}

#[test]
fn a_flag_that_a_killed_sleeper_left_set_misleads_nobody() {
    let arena = Arena::new();
    drop(arena.shm().create(&name("x"), &small()).unwrap());
    let mut sleeper = Child::spawn("receive", &[path(&arena), "Block"]);
    sleeper.says("waiting");
    until_asleep(&arena.file("x"), layout::RECEIVER);
    sleeper.kill();
    let (mut tx, mut rx) = channel(&arena, Waiting::Block);
    tx.send(b"one").unwrap();
    assert!(!common::is_waited_at(&arena.file("x"), layout::RECEIVER + layout::ASLEEP));
    assert_eq!(&*rx.recv_timeout(PATIENCE).unwrap(), b"one");
}

#[test]
fn a_peer_that_hears_no_fence_is_noticed_in_time() {
    // As a sender marks itself where the system refuses to fence for it.
    let arena = Arena::new();
    let (mut tx, mut rx) = channel(&arena, Waiting::Block);
    common::write_at(&arena.file("x"), layout::SENDER + layout::REACH, &1_u64.to_ne_bytes());
    let started = Instant::now();
    assert!(matches!(rx.recv_timeout(Duration::from_millis(50)), Err(RecvError::TimedOut)));
    assert!(started.elapsed() >= Duration::from_millis(50));
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(&*rx.recv_timeout(PATIENCE).unwrap(), b"one"));
        tx.send(b"one").unwrap();
    });
}

#[rstest]
fn a_wait_is_cancelled_promptly_whenever_it_is_cancelled(
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
    #[values(Role::Sender, Role::Receiver)] role: Role,
) {
    let arena = Arena::new();
    let (mut tx, mut rx) = channel(&arena, waiting);
    tx.send(&[0; FULL]).unwrap();
    if role == Role::Receiver {
        drop(rx.try_recv().unwrap());
    }
    let mut dice = Dice::new(4);
    let mut taken = Duration::ZERO;
    const ROUNDS: u32 = 200;
    for _ in 0..ROUNDS {
        let (cancel, entered) = (Cancel::new(), AtomicBool::new(false));
        let delay = Duration::from_nanos(dice.below(300_000));
        taken += thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                entered.store(true, Ordering::Relaxed);
                let wait = Wait::timeout(PATIENCE).or_cancel(&cancel);
                match role {
                    Role::Sender => matches!(tx.send_wait(b"x", wait), Err(SendError::Cancelled)),
                    _ => matches!(rx.advance(wait), Err(RecvError::Cancelled)),
                }
            });
            while !entered.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            let started = Instant::now();
            while started.elapsed() < delay {
                std::hint::spin_loop();
            }
            let started = Instant::now();
            cancel.cancel();
            assert!(waiter.join().unwrap(), "not cancelled");
            started.elapsed()
        });
    }
    assert!(taken < ROUNDS * Duration::from_millis(20), "{ROUNDS} cancellations took {taken:?}");
    // The endpoint is as good as before.
    match role {
        Role::Sender => {
            drop(rx.try_recv().unwrap());
            tx.try_send(b"x").unwrap();
        }
        _ => {
            tx.try_send(b"x").unwrap();
            assert_eq!(&*rx.try_recv().unwrap(), b"x");
        }
    }
}

#[rstest]
#[case(Waiting::Spin)]
#[case(Waiting::Adaptive)]
#[case(Waiting::Block)]
fn deadlines_are_kept(#[case] waiting: Waiting) {
    let arena = Arena::new();
    let (mut tx, mut rx) = channel(&arena, waiting);
    for timeout in [0, 1, 20, 300].map(Duration::from_millis) {
        let started = Instant::now();
        assert!(matches!(rx.recv_timeout(timeout), Err(RecvError::TimedOut)));
        let taken = started.elapsed();
        assert!(taken >= timeout && taken < timeout + Duration::from_secs(1), "{timeout:?}: {taken:?}");
    }
    // One that is over still tries once.
    let past = Instant::now();
    tx.send_wait(&[0; FULL], Wait::Until(past)).unwrap();
    assert!(matches!(tx.send_wait(b"", Wait::Until(past)), Err(SendError::TimedOut)));
    rx.receive(Wait::Until(past)).unwrap();
}

/// A server that looks at so many slots, far from each other, that each look takes a while.
fn busy_server(arena: &Arena, waiting: Waiting) -> RpcServer {
    let config = ShmConfig::new().depth(4096).max_message_len(8 << 10);
    let mut server = Rpc::at(arena.path()).create(&name("x"), &config).unwrap().server().unwrap();
    server.set_waiting(waiting);
    server
}

/// What a busy machine takes of a thread's time doesn't count.
fn processor_time(body: impl FnOnce()) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let before = now();
    body();
    now() - before
}

#[rstest]
#[case(Waiting::Spin)]
#[case(Waiting::Adaptive)]
fn who_spins_looks_at_the_clock_however_long_each_look_takes(#[case] waiting: Waiting) {
    let arena = Arena::new();
    let mut server = busy_server(&arena, waiting);
    let mut next = |wait| assert!(server.next(wait).is_err());
    let look = (0..100).map(|_| processor_time(|| next(Wait::Never))).min().unwrap();
    const ROUNDS: u32 = 50;
    let timeout = Duration::from_micros(100);
    let taken = processor_time(|| (0..ROUNDS).for_each(|_| next(Wait::timeout(timeout))));
    // Two at first, and one that ends after the deadline; not dozens.
    let most = ROUNDS * (timeout + 10 * look);
    assert!(taken < most, "{ROUNDS} waits of {timeout:?} took {taken:?}, with looks of {look:?}");
}

#[rstest]
#[case(Waiting::Spin)]
#[case(Waiting::Adaptive)]
fn a_publisher_looks_at_the_clock_however_many_it_looks_at(#[case] waiting: Waiting) {
    let arena = Arena::new();
    let config = small().publishers(1).participants(4096).when_full(WhenFull::Wait);
    let channel = Broadcast::at(arena.path()).create(&name("x"), &config).unwrap();
    let (_slow, mut tx) = (channel.receiver().unwrap(), channel.sender().unwrap());
    tx.set_waiting(waiting);
    // As if so many had been there.
    write_at(&arena.file("x"), layout::HIGHEST_SUBSCRIBER, &4096_u64.to_ne_bytes());
    while tx.try_send(&[0; 100]).is_ok() {}
    let mut send = |wait| assert!(tx.send_wait(&[0; 100], wait).is_err());
    let look = (0..100).map(|_| processor_time(|| send(Wait::Never))).min().unwrap();
    const ROUNDS: u32 = 50;
    let timeout = Duration::from_micros(100);
    let taken = processor_time(|| (0..ROUNDS).for_each(|_| send(Wait::timeout(timeout))));
    let most = ROUNDS * (timeout + 10 * look);
    assert!(taken < most, "{ROUNDS} waits of {timeout:?} took {taken:?}, with looks of {look:?}");
}

#[test]
fn who_spins_looks_around_however_long_each_look_takes() {
    let arena = Arena::new();
    let mut server = busy_server(&arena, Waiting::Spin);
    fs::remove_file(arena.file("x")).unwrap();
    let error = within(PATIENCE, move || server.next(Wait::Forever).map(drop).unwrap_err());
    assert!(matches!(error, RecvError::Closed), "{error:?}");
}

/// What a call came to that is made again and again, and waits briefly each time.
fn at_last<R: Receiver>(mut rx: R, each: Duration) -> RecvError {
    at_last_of(|| rx.recv_timeout(each).map(drop))
}

fn at_last_of(mut call: impl FnMut() -> Result<(), RecvError>) -> RecvError {
    loop {
        match call() {
            Err(RecvError::TimedOut) => {}
            answer => return answer.unwrap_err(),
        }
    }
}

#[rstest]
fn who_waits_briefly_again_and_again_is_told_that_the_channel_was_removed(
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
    #[values(true, false)] only_looks_on: bool,
    #[values(Duration::ZERO, Duration::from_millis(5))] each: Duration,
) {
    let arena = Arena::new();
    let latest = Latest::at(arena.path());
    let channel = latest.create(&name("x"), &ShmConfig::new()).unwrap();
    let (mut rx, mut observer) = (channel.receiver().unwrap(), latest.observe(&name("x")).unwrap());
    rx.set_waiting(waiting);
    observer.set_waiting(waiting);
    fs::remove_file(arena.file("x")).unwrap();
    let error =
        within(PATIENCE, move || if only_looks_on { at_last(observer, each) } else { at_last(rx, each) });
    assert!(matches!(error, RecvError::Closed), "{error:?}");
}

#[rstest]
fn who_has_no_time_but_for_a_look_is_told_that_the_channel_was_removed(
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
) {
    let arena = Arena::new();
    let mut server = busy_server(&arena, waiting);
    fs::remove_file(arena.file("x")).unwrap();
    let each = Duration::from_micros(10);
    let error = within(PATIENCE, move || at_last_of(|| server.next(Wait::timeout(each)).map(drop)));
    assert!(matches!(error, RecvError::Closed), "{error:?}");
}

#[test]
fn a_stopped_receiver_keeps_its_role_and_sends_time_out() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &small()).unwrap();
    let mut receiver = Child::spawn("receive", &[path(&arena), "Block"]);
    receiver.says("waiting");
    let mut tx = channel.sender().unwrap();
    tx.send(b"first").unwrap();
    receiver.says("5 bytes");
    receiver.stop();
    while tx.try_send(&[0; 1000]).is_ok() {}
    let started = Instant::now();
    assert!(matches!(tx.send_timeout(&[0; 1000], Duration::from_millis(400)), Err(SendError::TimedOut)));
    assert!(started.elapsed() >= Duration::from_millis(400));
    match channel.receiver().map(drop) {
        Err(ChannelError::Busy { role: Role::Receiver, pid }) => assert_eq!(pid, Some(receiver.pid())),
        other => panic!("{other:?}"),
    }
    assert!(matches!(arena.shm().remove(&name("x")), Err(ChannelError::Busy { .. })));
    receiver.signal(Signal::SIGCONT);
    tx.send_timeout(&[0; 1000], PATIENCE).unwrap();
    for _ in 0..5 {
        receiver.says("1000 bytes");
    }
}

#[test]
fn a_stopped_sender_keeps_its_role_and_what_it_sent_is_received() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &small()).unwrap();
    let mut sender = Child::spawn("send when told", &[path(&arena)]);
    sender.says("ready");
    sender.tell();
    sender.says("sent");
    sender.stop();
    let mut rx = channel.receiver().unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"told");
    assert!(matches!(rx.recv_timeout(Duration::from_millis(100)), Err(RecvError::TimedOut)));
    assert!(matches!(channel.sender(), Err(ChannelError::Busy { role: Role::Sender, .. })));
    sender.signal(Signal::SIGCONT);
    sender.tell();
    assert_eq!(&*rx.recv_timeout(PATIENCE).unwrap(), b"told");
}

fn send_when_told(shm: &Spsc) {
    let mut tx = shm.open(&name("x")).unwrap().sender().unwrap();
    say("ready");
    while told() {
        tx.send(b"told").unwrap();
        say("sent");
    }
}

#[rstest]
fn an_idle_receiver_wakes_at_most_five_times_a_second(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
    #[values(Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
) {
    let arena = Arena::new();
    make(arena.path(), &ShmConfig::new().kind(kind)).unwrap();
    let mut receiver = Child::spawn("be idle", &[path(&arena), &format!("{waiting:?}")]);
    receiver.says("waiting");
    let flag = if kind == Kind::Spsc { layout::RECEIVER + layout::ASLEEP } else { layout::RECEIVERS_ASLEEP };
    until_asleep(&arena.file("x"), flag - layout::ASLEEP);
    // All its threads; the harness's own one waits in a system call.
    let switches = || -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", receiver.pid())).unwrap();
        let of = |status: String| -> u64 {
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
        };
        tasks.map(|task| of(fs::read_to_string(task.unwrap().path().join("status")).unwrap())).sum()
    };
    // It is the time itself that is measured here.
    let (before, started) = (switches(), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let woken = switches() - before;
    let most = 5 * started.elapsed().as_millis() as u64 / 1000 + 1;
    assert!(woken >= 4, "bounded sleeps look around: {woken} times in 2 s");
    assert!(woken <= most, "{woken} times in {:?}", started.elapsed());
}

/// Waits for what doesn't come.
fn be_idle(directory: &Path, waiting: Waiting) {
    let mut ends = Ends::open(directory).unwrap();
    ends.set_waiting(waiting);
    say("waiting");
    let error = ends.await_nothing(Wait::Forever);
    panic!("{error:?}");
}

#[test]
fn a_wait_without_a_free_descriptor_is_no_different() {
    let arena = Arena::new();
    Child::spawn("wait without descriptors", &[path(&arena)]).ends_well();
}

fn wait_without_descriptors(shm: &Spsc) {
    let channel = shm.create(&name("x"), &small()).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(&[0; FULL]).unwrap();
    drop(rx.try_recv().unwrap());
    tx.send(&[0; FULL]).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 0, 1024).unwrap();
    assert!(fs::File::open("/dev/null").is_err(), "no descriptor is left");
    for waiting in [Waiting::Block, Waiting::Adaptive, Waiting::Spin] {
        tx.set_waiting(waiting);
        let answer = tx.send_timeout(b"no room", Duration::from_millis(350));
        assert!(matches!(answer, Err(SendError::TimedOut)), "{waiting:?}: {answer:?}");
    }
    assert!(matches!(channel.sender(), Err(ChannelError::Os(_))), "that is said as it is");
    let answer = shm.create(&name("y"), &small()).map(drop);
    assert!(matches!(answer, Err(ChannelError::Os(_))), "{answer:?}");
    assert_eq!(rx.try_recv().unwrap().len(), FULL);
}

#[test]
fn a_process_that_changes_its_working_directory_keeps_its_channels() {
    let arena = Arena::new();
    Child::spawn("wait elsewhere", &[path(&arena)]).ends_well();
}

fn wait_elsewhere(directory: &str) {
    std::env::set_current_dir(directory).unwrap();
    let channel = Spsc::at(".").create(&name("x"), &small()).unwrap();
    let mut rx = channel.receiver().unwrap();
    rx.set_waiting(Waiting::Block);
    std::env::set_current_dir("/").unwrap();
    let answer = rx.recv_timeout(Duration::from_millis(350)).map(drop);
    assert!(matches!(answer, Err(RecvError::TimedOut)), "{answer:?}");
    channel.sender().unwrap().send(b"here").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"here");
}

#[test]
fn an_endpoint_waits_as_well_in_another_thread() {
    let arena = Arena::new();
    let (mut tx, mut rx) = channel(&arena, Waiting::Block);
    let sent = Arc::new(AtomicU64::new(0));
    let receiver = thread::spawn({
        let sent = Arc::clone(&sent);
        move || {
            for number in 0..10_000_u64 {
                assert_eq!(*rx.recv_timeout(PATIENCE).unwrap(), number.to_ne_bytes());
                assert!(sent.load(Ordering::Relaxed) <= number + 1 + 4096 / 16);
            }
        }
    });
    within(PATIENCE, move || {
        for number in 0..10_000_u64 {
            tx.send(&number.to_ne_bytes()).unwrap();
            sent.store(number, Ordering::Relaxed);
        }
    });
    receiver.join().unwrap();
}
