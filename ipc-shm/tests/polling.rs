//! Receivers that are waited for by `poll(2)` and `epoll(7)`: whoever polls is told of each
//! change, without its timer's help; nobody pays for that while nobody polls; and the timer
//! makes up for those who are killed before they tell.

mod common;

use common::{
    Arena, Child, Dice, PATIENCE, allow_only, end_after, forbid, fork, name, refuse_flag, say, serve, told,
};
use ipc_shm::{
    Channel, ChannelError, Client, EndMark, Kind, Message, MpmcMessage, MpmcReceiver, Pollable, Receiver,
    RecvError, Redelivered, Request, Rpc, Sender, Server, Shm, ShmConfig, ShmReceiver, ShmSender, Transport,
    Wait, Waiting, WhenFull,
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        resource::{Resource, setrlimit},
    },
};
use rstest::rstest;
use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    thread,
    time::{Duration, Instant},
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let shm = Shm::at(&arguments[0]);
        match role {
            "send at random moments" => send_at_random_moments(&shm, arguments[1].parse().unwrap()),
            "echo at random moments" => echo_at_random_moments(&shm),
            "poll for a share" => poll_for_a_share(&shm),
            "die before the touch" => die_before_the_touch(&shm),
            "die with a claim" => die_with_a_claim(&shm),
            "send, then send without a system call" => send_without_a_system_call(&shm),
            "fork while polling" => fork_while_polling(&shm, &arguments[0]),
            "poll without instances" => poll_without_instances(&shm),
            "poll without descriptors" => poll_without_descriptors(&shm),
            other => panic!("no such child: {other}"),
        }
    });
}

/// The kinds whose receivers are polled.
const KINDS: [Kind; 4] = [Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest];

fn small(kind: Kind) -> ShmConfig {
    let config = ShmConfig::new().kind(kind);
    match kind {
        Kind::Mpmc => config.depth(64).max_message_len(64),
        Kind::Latest => config.max_message_len(64),
        // Reliable, for those who want to have everything.
        Kind::Broadcast => config.capacity_bytes(4096).when_full(WhenFull::Wait),
        _ => config.capacity_bytes(4096),
    }
}

fn shm(arena: &Arena) -> Shm {
    Shm::at(arena.path())
}

fn path(arena: &Arena) -> &str {
    arena.path().to_str().unwrap()
}

fn ends(arena: &Arena, kind: Kind) -> (ShmSender, ShmReceiver) {
    let channel = shm(arena).create(&name("x"), &small(kind)).unwrap();
    (channel.sender().unwrap(), channel.receiver().unwrap())
}

/// Polls one descriptor; fails if it takes too long.
fn until_readable(fd: BorrowedFd<'_>) {
    assert!(is_readable(fd, PATIENCE), "not readable within {PATIENCE:?}");
}

fn is_readable(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let give_up = Instant::now() + time;
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap();
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) if !left.is_zero() => {}
            Ok(ready) => return ready > 0,
            Err(errno) => panic!("poll: {errno}"),
        }
    }
}

/// The part of a receiver's descriptor that is told by others, without the timer: what
/// doesn't become readable by itself.
fn without_timer(descriptor: BorrowedFd<'_>) -> BorrowedFd<'_> {
    let parts = parts(descriptor);
    let watches = |fd: &&RawFd| {
        let what = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        what.to_str().unwrap() == "anon_inode:inotify"
    };
    let watch = *parts.iter().find(watches).expect("something that watches");
    // SAFETY: open as long as the descriptor that it is a part of.
    unsafe { BorrowedFd::borrow_raw(watch) }
}

/// What an epoll descriptor is made of.
fn parts(descriptor: BorrowedFd<'_>) -> Vec<RawFd> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())).unwrap();
    let targets = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
    targets.map(|line| line.split_ascii_whitespace().next().unwrap().parse().unwrap()).collect()
}

/// The next message, as a poll loop gets it.
fn polled(rx: &mut ShmReceiver) -> Result<Vec<u8>, RecvError> {
    loop {
        match rx.try_recv() {
            Ok(message) => return Ok(message.to_vec()),
            Err(RecvError::WouldBlock) => {}
            Err(error) => return Err(error),
        }
        if !rx.arm()? {
            until_readable(rx.descriptor().unwrap());
        }
    }
}

fn pause(dice: &mut Dice) {
    let pause = Duration::from_nanos(dice.below(60_000));
    let started = Instant::now();
    while started.elapsed() < pause {
        std::hint::spin_loop();
    }
}

#[rstest]
fn a_poll_loop_gets_everything_that_is_sent_at_random_moments(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast)] kind: Kind,
) {
    let arena = Arena::new();
    let channel = shm(&arena).create(&name("x"), &small(kind)).unwrap();
    let mut rx = channel.receiver().unwrap();
    const MESSAGES: u64 = 5000;
    let sender = Child::spawn("send at random moments", &[path(&arena), &MESSAGES.to_string()]);
    for number in 0..MESSAGES {
        assert_eq!(polled(&mut rx).unwrap(), number.to_ne_bytes());
    }
    assert!(matches!(polled(&mut rx), Err(RecvError::End)));
    sender.ends_well();
}

fn send_at_random_moments(shm: &Shm, messages: u64) {
    let mut tx = shm.open(&name("x")).unwrap().sender().unwrap();
    let mut dice = Dice::new(7);
    for number in 0..messages {
        pause(&mut dice);
        tx.send(&number.to_ne_bytes()).unwrap();
    }
    tx.send_end(Wait::Forever).unwrap();
}

/// Each message is answered, so none can make up for a wake-up that the one before it lost;
/// and it is waited for without the timer.
#[rstest]
fn no_wake_up_needs_the_timer(#[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest)] kind: Kind) {
    let arena = Arena::new();
    let there = shm(&arena).create(&name("there"), &small(kind)).unwrap();
    let back = shm(&arena).create(&name("back"), &small(kind)).unwrap();
    let (mut tx, mut rx) = (there.sender().unwrap(), back.receiver().unwrap());
    let mut echo = Child::spawn("echo at random moments", &[path(&arena)]);
    echo.says("listening");
    let mut dice = Dice::new(8);
    let mut waited = 0;
    const ROUNDS: u32 = 5000;
    for round in 0..ROUNDS {
        tx.send(&round.to_ne_bytes()).unwrap();
        pause(&mut dice);
        loop {
            match rx.try_recv() {
                Ok(message) => break assert_eq!(*message, round.to_ne_bytes()),
                Err(RecvError::WouldBlock) => {}
                Err(error) => panic!("{error:?}"),
            }
            if !rx.arm().unwrap() {
                waited += 1;
                until_readable(without_timer(rx.descriptor().unwrap()));
            }
        }
    }
    assert!(waited > ROUNDS / 100, "hardly ever waited: {waited} times");
}

fn echo_at_random_moments(shm: &Shm) {
    let mut rx = shm.open(&name("there")).unwrap().receiver().unwrap();
    let mut tx = shm.open(&name("back")).unwrap().sender().unwrap();
    let mut dice = Dice::new(9);
    say("listening");
    loop {
        let message = rx.recv().unwrap();
        pause(&mut dice);
        tx.send(&message).unwrap();
    }
}

#[rstest]
#[case::level_triggered(EpollFlags::empty())]
#[case::edge_triggered(EpollFlags::EPOLLET)]
fn receivers_and_other_things_are_waited_for_by_one_epoll(#[case] trigger: EpollFlags) {
    let arena = Arena::new();
    let channels = KINDS.map(|kind| shm(&arena).create(&name(&kind.to_string()), &small(kind)).unwrap());
    let mut senders = channels.each_ref().map(|channel| channel.sender().unwrap());
    let mut receivers = channels.each_ref().map(|channel| channel.receiver().unwrap());
    let (mut near, mut far) = UnixStream::pair().unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let event = |number| EpollEvent::new(EpollFlags::EPOLLIN | trigger, number);
    for (number, rx) in (0..).zip(&mut receivers) {
        epoll.add(rx.descriptor().unwrap(), event(number)).unwrap();
    }
    const OTHER: u64 = KINDS.len() as u64;
    epoll.add(&near, event(OTHER)).unwrap();
    let mut dice = Dice::new(10);
    thread::scope(|scope| {
        const ROUNDS: u32 = 1000;
        let (answered, answers) = std::sync::mpsc::channel();
        scope.spawn(move || {
            for _ in 0..ROUNDS {
                pause(&mut dice);
                match dice.below(OTHER + 1) {
                    OTHER => far.write_all(b"x").unwrap(),
                    which => senders[which as usize].send(b"x").unwrap(),
                }
                answers.recv_timeout(2 * PATIENCE).unwrap();
            }
        });
        let mut received = 0;
        while received < ROUNDS {
            for rx in &mut receivers {
                // Until there is nothing left, as it is to be done with edges.
                while rx.try_recv().is_ok() || rx.arm().unwrap() && rx.try_recv().is_ok() {
                    received += 1;
                    answered.send(()).unwrap();
                }
            }
            if received == ROUNDS {
                break;
            }
            let mut events = [EpollEvent::empty(); KINDS.len() + 1];
            let count = match epoll.wait(&mut events, EpollTimeout::try_from(PATIENCE).unwrap()) {
                Err(Errno::EINTR) => 0,
                Ok(0) => panic!("nothing within {PATIENCE:?}"),
                answer => answer.unwrap(),
            };
            if events[..count].iter().any(|event| event.data() == OTHER) {
                near.read_exact(&mut [0]).unwrap();
                received += 1;
                answered.send(()).unwrap();
            }
        }
    });
}

#[test]
fn those_who_poll_and_those_who_sleep_share_a_queue_and_nothing_is_left_in_it() {
    let arena = Arena::new();
    let channel = shm(&arena).create(&name("x"), &small(Kind::Mpmc)).unwrap();
    let mut pollers = [(); 3].map(|()| Child::spawn("poll for a share", &[path(&arena)]));
    pollers.iter_mut().for_each(|poller| poller.says("polling"));
    let mut sleeper = channel.receiver().unwrap();
    sleeper.set_waiting(Waiting::Block);
    const MESSAGES: u64 = 3000;
    let by_sleeper = thread::scope(|scope| {
        let sleeper = scope.spawn(move || {
            let mut count = 0;
            while let Ok(message) = sleeper.recv() {
                drop(message);
                count += 1;
            }
            count
        });
        let mut tx = channel.sender().unwrap();
        let mut dice = Dice::new(11);
        for number in 0..MESSAGES {
            pause(&mut dice);
            tx.send(&number.to_ne_bytes()).unwrap();
        }
        for _ in 0..pollers.len() + 1 {
            tx.send_end(Wait::Forever).unwrap();
        }
        sleeper.join().unwrap()
    });
    let by_pollers = pollers.iter_mut().map(|poller| poller.line().parse::<u64>().unwrap()).sum::<u64>();
    assert_eq!(by_sleeper + by_pollers, MESSAGES);
    pollers.into_iter().for_each(Child::ends_well);
}

fn poll_for_a_share(shm: &Shm) {
    let mut rx = shm.open(&name("x")).unwrap().receiver().unwrap();
    say("polling");
    let mut count = 0;
    let end = loop {
        match polled(&mut rx) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(end, RecvError::End), "{end:?}");
    say(&format!("{count}"));
}

#[rstest]
fn a_message_whose_sender_was_killed_before_the_touch_arrives(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest)] kind: Kind,
) {
    let arena = Arena::new();
    let channel = shm(&arena).create(&name("x"), &small(kind)).unwrap();
    let mut rx = channel.receiver().unwrap();
    let mut sender = Child::spawn("die before the touch", &[path(&arena)]);
    sender.says("ready");
    assert!(!rx.arm().unwrap());
    sender.tell();
    assert_eq!(sender.ended().signal(), Some(libc::SIGSYS), "it was about to touch");
    until_readable(rx.descriptor().unwrap());
    assert!(!is_readable(without_timer(rx.descriptor().unwrap()), Duration::ZERO), "nobody touched");
    assert_eq!(polled(&mut rx).unwrap(), b"the last");
    // It is free to the next one, who touches.
    let mut tx = channel.sender().unwrap();
    assert!(!rx.arm().unwrap());
    tx.send(b"the next").unwrap();
    until_readable(without_timer(rx.descriptor().unwrap()));
    assert_eq!(polled(&mut rx).unwrap(), b"the next");
}

fn die_before_the_touch(shm: &Shm) {
    let mut tx = shm.open(&name("x")).unwrap().sender().unwrap();
    say("ready");
    assert!(told());
    forbid(&[libc::SYS_utimensat]);
    tx.send(b"the last").unwrap();
}

/// The claim of a dead sender is given up by whoever looks around, and what lies behind it
/// is received.
#[rstest]
#[case::who_polls(true)]
#[case::who_is_woken_by_other_things_all_the_time(false)]
fn a_dead_senders_claim_does_not_hold_up(#[case] polls: bool) {
    let arena = Arena::new();
    let channel = shm(&arena).create(&name("x"), &small(Kind::Mpmc)).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut sender = Child::spawn("die with a claim", &[path(&arena)]);
    sender.says("claimed");
    tx.send(b"behind it").unwrap();
    assert!(!rx.arm().unwrap(), "the claim is in the way");
    sender.kill();
    let give_up = Instant::now() + PATIENCE;
    while !rx.arm().unwrap() {
        assert!(Instant::now() < give_up, "not given up within {PATIENCE:?}");
        if polls {
            until_readable(rx.descriptor().unwrap());
        }
    }
    assert_eq!(&*rx.try_recv().unwrap(), b"behind it");
}

fn die_with_a_claim(shm: &Shm) {
    let mut tx = shm.open(&name("x")).unwrap().sender().unwrap();
    let _loan = tx.loan(8, Wait::Never).unwrap();
    say("claimed");
    told();
}

#[rstest]
fn messages_pass_without_a_system_call_while_nobody_polls(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest)] kind: Kind,
) {
    let arena = Arena::new();
    let room = match kind {
        // Room for all of them: no sender has to wait, whoever gets the processor.
        Kind::Mpmc => ShmConfig::new().depth(2 * u64::from(MESSAGES)).max_message_len(16),
        Kind::Latest => small(kind),
        _ => ShmConfig::new(),
    };
    let channel = shm(&arena).create(&name("x"), &room.kind(kind)).unwrap();
    let mut rx = channel.receiver().unwrap();
    let mut sender = Child::spawn("send, then send without a system call", &[path(&arena)]);
    // Somebody polled; but that is over.
    assert!(!rx.arm().unwrap());
    sender.says("ready");
    sender.tell();
    assert_eq!(polled(&mut rx).unwrap(), b"first");
    sender.tell();
    let (mut received, give_up) = (0, Instant::now() + PATIENCE);
    loop {
        while matches!(rx.advance(Wait::Never), Err(RecvError::WouldBlock)) {
            assert!(Instant::now() < give_up, "{received} came, and its sender makes a system call");
        }
        received += 1;
        match &*rx.held() {
            b"last" => break,
            message => assert_eq!(message, b"later"),
        }
    }
    // The newest value skips those that nobody saw in time.
    assert!(received == MESSAGES || kind == Kind::Latest, "{received} of {MESSAGES}");
    sender.says("sent");
    sender.ends_well();
}

const MESSAGES: u32 = 10_000;

fn send_without_a_system_call(shm: &Shm) {
    let mut tx = shm.open(&name("x")).unwrap().sender().unwrap();
    say("ready");
    assert!(told());
    tx.send(b"first").unwrap();
    assert!(told());
    // On a busy machine the receiver may have armed once more just before it found the first one.
    tx.send(b"later").unwrap();
    // What it takes to say that all is done, and to end.
    allow_only(&[libc::SYS_write, libc::SYS_exit_group]);
    for _ in 2..MESSAGES {
        tx.send(b"later").unwrap();
    }
    tx.send(b"last").unwrap();
    say("sent");
    end_after(|| {});
}

#[rstest]
#[case::removed(false)]
#[case::removed_and_made_anew(true)]
fn who_polls_learns_that_the_channel_was_removed(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest)] kind: Kind,
    #[case] anew: bool,
) {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena, kind);
    assert!(!rx.arm().unwrap());
    // Nobody does that properly while it is in use.
    fs::remove_file(arena.file("x")).unwrap();
    let _other = anew.then(|| shm(&arena).create(&name("x"), &small(kind)).unwrap());
    until_readable(without_timer(rx.descriptor().unwrap()));
    assert!(matches!(rx.try_recv().map(drop), Err(RecvError::WouldBlock)));
    assert!(matches!(rx.arm(), Err(RecvError::Closed)));
    // What is there is still delivered.
    tx.try_send(b"the last").unwrap();
    assert_eq!(polled(&mut rx).unwrap(), b"the last");
    assert!(matches!(polled(&mut rx), Err(RecvError::Closed)));
}

#[rstest]
#[case::removed(false)]
#[case::removed_and_made_anew(true)]
fn a_channel_that_was_removed_before_anybody_polled_is_closed(#[case] anew: bool) {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena, Kind::Spsc);
    tx.send(b"the last").unwrap();
    fs::remove_file(arena.file("x")).unwrap();
    let _other = anew.then(|| shm(&arena).create(&name("x"), &small(Kind::Spsc)).unwrap());
    assert!(rx.descriptor().is_ok());
    assert_eq!(polled(&mut rx).unwrap(), b"the last");
    assert!(matches!(polled(&mut rx), Err(RecvError::Closed)));
}

#[rstest]
fn arming_takes_nothing(#[values(Kind::Spsc, Kind::Mpmc)] kind: Kind) {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena, kind);
    tx.send(b"one").unwrap();
    tx.send_end(Wait::Never).unwrap();
    drop(tx);
    assert!(rx.arm().unwrap() && rx.arm().unwrap());
    drop(rx);
    let mut next = shm(&arena).open(&name("x")).unwrap().receiver().unwrap();
    assert!(next.arm().unwrap());
    if let ShmReceiver::Mpmc(next) = &mut next {
        let message: MpmcMessage<'_> = next.try_recv().unwrap();
        assert_eq!(MpmcReceiver::attempts_of(&message), 0, "nobody had it");
        message.keep();
    }
    assert_eq!(&*next.try_recv().unwrap(), b"one");
    assert!(next.arm().unwrap(), "the end is there to be learnt of");
    assert!(matches!(next.try_recv().map(drop), Err(RecvError::End)));
    assert!(!next.arm().unwrap());
}

#[rstest]
fn who_armed_may_sleep_instead_and_poll_again(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest)] kind: Kind,
) {
    let arena = Arena::new();
    let (mut tx, mut rx) = ends(&arena, kind);
    rx.set_waiting(Waiting::Block);
    for _ in 0..20 {
        assert!(!rx.arm().unwrap());
        let timed_out = rx.recv_timeout(Duration::from_millis(1)).map(drop);
        assert!(matches!(timed_out, Err(RecvError::TimedOut)), "{timed_out:?}");
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(&*rx.recv_timeout(PATIENCE).unwrap(), b"to a sleeper"));
            tx.send(b"to a sleeper").unwrap();
        });
        assert!(!rx.arm().unwrap());
        tx.send(b"to a poller").unwrap();
        until_readable(without_timer(rx.descriptor().unwrap()));
        assert_eq!(polled(&mut rx).unwrap(), b"to a poller");
    }
}

#[rstest]
fn an_idle_poller_wakes_at_most_five_times_a_second(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest)] kind: Kind,
) {
    let arena = Arena::new();
    let (_tx, mut rx) = ends(&arena, kind);
    assert!(!rx.arm().unwrap());
    // It is the time itself that is measured here.
    let started = Instant::now();
    let mut woken = 0;
    while started.elapsed() < Duration::from_secs(1) {
        until_readable(rx.descriptor().unwrap());
        assert!(!rx.arm().unwrap());
        woken += 1;
    }
    assert!(woken <= 5, "{woken} times in a second");
}

#[test]
fn a_forked_child_can_not_spoil_its_parents_polling() {
    let arena = Arena::new();
    Child::spawn("fork while polling", &[path(&arena)]).ends_well();
}

fn fork_while_polling(shm: &Shm, directory: &str) {
    let channel = shm.create(&name("x"), &small(Kind::Spsc)).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    assert!(!rx.arm().unwrap());
    let (mut waits, mut stop) = UnixStream::pair().unwrap();
    let Some(idle) = fork() else {
        // Keeps what it inherited.
        drop(stop);
        end_after(|| drop(waits.read(&mut [0])))
    };
    let Some(child) = fork() else {
        end_after(|| {
            assert!(matches!(rx.arm(), Err(RecvError::Forked)));
            assert!(rx.descriptor().is_ok());
            assert!(matches!(rx.arm(), Err(RecvError::Forked)));
            drop(rx);
            let own = Shm::at(directory).create(&name("y"), &small(Kind::Spsc).transient()).unwrap();
            assert!(!own.receiver().unwrap().arm().unwrap(), "it may have its own");
        })
    };
    child.ends_well();
    let watch = without_timer(rx.descriptor().unwrap());
    assert!(!is_readable(watch, Duration::ZERO), "nothing happened to the parent");
    tx.send(b"one").unwrap();
    until_readable(watch);
    assert_eq!(polled(&mut rx).unwrap(), b"one");
    // What would go to a program that is executed: nothing.
    let descriptor = rx.descriptor().unwrap();
    for fd in parts(descriptor).into_iter().chain([descriptor.as_raw_fd()]) {
        // SAFETY: open as long as `rx` lives.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC), "{fd:?}");
    }
    // The child that lives on has the descriptors and not the role.
    drop(rx);
    drop(channel.receiver().expect("the role is free at once"));
    drop((tx, channel));
    shm.remove(&name("x")).expect("nobody has it open");
    stop.write_all(b"x").unwrap();
    idle.ends_well();
}

#[test]
fn a_limit_of_the_system_is_named_with_what_raises_it() {
    let arena = Arena::new();
    Child::spawn("poll without instances", &[path(&arena)]).ends_well();
}

fn poll_without_instances(shm: &Shm) {
    let channel = shm.create(&name("x"), &small(Kind::Spsc)).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    // As when all of the user's instances are taken.
    refuse_flag(libc::SYS_inotify_init1, 0, libc::IN_CLOEXEC as u32, libc::EMFILE);
    let refused = [rx.descriptor().map(drop).unwrap_err().to_string(), rx.arm().unwrap_err().to_string()];
    for text in refused {
        assert!(text.contains("fs.inotify.max_user_instances") && text.contains("raise it"), "{text}");
    }
    tx.send(b"one").unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"one", "it receives as before");
}

#[test]
fn a_process_without_a_free_descriptor_is_told_so_and_polls_when_it_has_one() {
    let arena = Arena::new();
    Child::spawn("poll without descriptors", &[path(&arena)]).ends_well();
}

fn poll_without_descriptors(shm: &Shm) {
    let channel = shm.create(&name("x"), &small(Kind::Spsc)).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let free = fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    for left in 0..3 {
        setrlimit(Resource::RLIMIT_NOFILE, free + left, 1024).unwrap();
        let RecvError::Os(refused) = rx.arm().unwrap_err() else { panic!("another error") };
        let text = refused.to_string();
        assert!(text.contains("RLIMIT_NOFILE") && text.contains(&(free + left).to_string()), "{text}");
    }
    tx.send(b"one").unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"one", "it receives as before");
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 1024).unwrap();
    assert!(!rx.arm().unwrap());
    tx.send(b"two").unwrap();
    until_readable(without_timer(rx.descriptor().unwrap()));
    assert!(matches!(channel.receiver(), Err(ChannelError::Busy { .. })));
    drop(rx);
    assert_eq!(fs::File::open("/dev/null").unwrap().as_raw_fd() as u64, free, "all were closed");
}

#[test]
fn a_server_is_waited_for_as_receivers_are() {
    let arena = Arena::new();
    let config = ShmConfig::new().depth(4).max_message_len(64);
    let service = Rpc::at(arena.path()).create(&name("x"), &config).unwrap();
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    for round in 0..3_u8 {
        assert!(!server.arm().unwrap(), "nothing is asked");
        assert!(!is_readable(without_timer(server.descriptor().unwrap()), Duration::ZERO));
        let ticket = client.submit(&[round], Wait::Never).unwrap();
        until_readable(without_timer(server.descriptor().unwrap()));
        server.next(Wait::Never).unwrap().respond(&[round, round]).unwrap();
        assert_eq!(*client.collect(ticket, Wait::timeout(PATIENCE)).unwrap(), [round, round]);
    }
    // What is there already is held, and nobody else's.
    let ticket = client.submit(b"early", Wait::Never).unwrap();
    assert!(server.arm().unwrap());
    let mut other = service.server().unwrap();
    assert!(matches!(other.advance(Wait::Never), Err(RecvError::WouldBlock)));
    assert!(!other.arm().unwrap());
    server.next(Wait::Never).unwrap().respond(b"yes").unwrap();
    assert_eq!(*client.collect(ticket, Wait::timeout(PATIENCE)).unwrap(), *b"yes");
}
