//! Signals, closed pipes and kills: nothing is lost, nobody hangs.

use crate::support::{Running, World, eventually, numbered, pipe, skip};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{Resource, setrlimit},
        signal::Signal,
    },
};
use rstest::rstest;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

#[rstest]
fn a_signal_ends_an_idle_receiver(
    #[values("mq", "shm")] scheme: &str,
    #[values(Signal::SIGINT, Signal::SIGTERM)] signal: Signal,
) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "a"]);
    let receiver = world.spawn(&["recv", &address]);
    eventually("it has taken the message", || world.queued(&address) == 0);
    receiver.signal(signal);
    let ran = receiver.finish();
    assert_eq!((ran.code(), ran.stderr().as_str()), (Some(128 + signal as i32), ""));
    assert_eq!(ran.stdout(), b"a\n");
}

#[rstest]
fn a_signal_ends_a_sender_that_waits_for_input(
    #[values("mq", "shm")] scheme: &str,
    #[values("lines", "chunks")] framing: &str,
    #[values(Signal::SIGINT, Signal::SIGTERM)] signal: Signal,
) {
    let world = World::new();
    let address = world.channel(scheme);
    let mut sender = world.spawn(&["send", &address, "--framing", framing]);
    let mut input = sender.stdin.take().unwrap();
    input.write_all(b"whole\n").unwrap();
    eventually("it is sent", || world.queued(&address) == 1);
    sender.signal(signal);
    let ran = sender.finish();
    drop(input);
    assert_eq!((ran.code(), ran.stderr().as_str()), (Some(128 + signal as i32), ""));
    assert_eq!(world.done(&["recv", &address, "--drain", "--framing", "raw"]).trim_ascii(), b"whole");
}

/// As a shell has it for what runs in the background of a script.
#[rstest]
fn a_signal_that_was_ignored_before_stays_ignored(
    #[values(("INT", Signal::SIGINT, Signal::SIGTERM), ("TERM", Signal::SIGTERM, Signal::SIGINT))]
    (name, ignored, other): (&str, Signal, Signal),
) {
    let world = World::new();
    let address = world.channel("shm");
    let script = format!("trap '' {name}; exec \"$0\" recv {address}");
    let mut asked = Command::new("sh");
    asked.args(["-c", &script, env!("CARGO_BIN_EXE_ipc")]).env("IPC_DIR", world.directory());
    let receiver = Running::start(asked.stdin(Stdio::null()));
    world.done(&["send", &address, "a"]);
    eventually("it has taken the message", || world.queued(&address) == 0);
    receiver.signal(ignored);
    world.done(&["send", &address, "b"]);
    eventually("it has taken the message", || world.queued(&address) == 0);
    receiver.signal(other);
    let ran = receiver.finish();
    assert_eq!((ran.code(), ran.stdout()), (Some(128 + other as i32), b"a\nb\n".as_slice()));
}

/// Its output is a pipe that nobody reads.
#[test]
fn a_signal_ends_a_look_whose_output_is_stuck() {
    let world = World::new();
    let address = world.address("sysv");
    world.done(&["create", &address, "--max-message", "8192"]);
    world.done(&["send", &address, &"x".repeat(8000)]);
    let ran = world.run(&["peek", &address]);
    if ran.stderr().contains("CONFIG_CHECKPOINT_RESTORE") {
        return skip(&ran.stderr());
    }
    let (output, mut theirs) = pipe();
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while theirs.write(&[0; 4096]).is_ok() {}
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let looker = Running::collecting(world.command(&["peek", &address]).stdout(theirs));
    looker.wait_for_sleep();
    looker.signal(Signal::SIGTERM);
    let ran = looker.finish();
    drop(output);
    assert_eq!((ran.code(), ran.stderr().as_str()), (Some(143), ""));
}

/// Half a request is none: nobody is asked.
#[rstest]
fn a_signal_ends_a_caller_that_waits_for_input(
    #[values("", "half a request")] begin: &str,
    #[values(Signal::SIGINT, Signal::SIGTERM)] signal: Signal,
) {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "rpc"]);
    let mut caller = world.spawn(&["call", &address]);
    let mut input = caller.stdin.take().unwrap();
    input.write_all(begin.as_bytes()).unwrap();
    caller.wait_for_sleep();
    caller.signal(signal);
    let ran = caller.finish();
    drop(input);
    assert_eq!((ran.code(), ran.stderr().as_str()), (Some(128 + signal as i32), ""));
    assert_eq!(world.queued(&address), 0);
}

#[rstest]
fn a_signal_ends_a_sender_that_waits_for_room(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let mut sender = world.spawn(&["send", &address]);
    let mut input = sender.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || input.write_all(&numbered(0..100_000)));
    eventually("it is full", || {
        let before = world.queued(&address);
        sender.wait_for_sleep();
        before > 0 && world.queued(&address) == before
    });
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.finish().code(), Some(143));
    // What it had not read is nobody's.
    let _ = feeding.join().unwrap();
    let sent = world.queued(&address) as u32;
    assert_eq!(world.done(&["recv", &address, "--drain"]), numbered(0..sent));
}

/// Its output is a pipe that nobody reads, so that it can't finish the batch.
/// Until both ends sleep, and there are messages between them.
fn until_nothing_moves(world: &World, address: &str, ends: [&Running; 2]) {
    let mut looks = 0;
    eventually("nothing moves", || {
        let before = world.queued(address);
        ends.iter().for_each(|end| end.wait_for_sleep());
        looks = if before > 0 && world.queued(address) == before { looks + 1 } else { 0 };
        looks > 5
    });
}

fn sockets() -> (File, File) {
    let (reader, writer) = UnixStream::pair().unwrap();
    (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
}

#[rstest]
fn a_signal_ends_a_receiver_whose_output_is_stuck(
    #[values("mq", "shm")] scheme: &str,
    #[values(pipe, sockets)] ends: fn() -> (File, File),
) {
    let world = World::new();
    let address = world.channel(scheme);
    let (mut output, theirs) = ends();
    let receiver = Running::collecting(world.command(&["recv", &address]).stdout(theirs));
    let mut sender = world.spawn(&["send", &address, "--end"]);
    let mut input = sender.stdin.take().unwrap();
    let all = numbered(0..20_000);
    let feed = all.clone();
    let feeding = std::thread::spawn(move || input.write_all(&feed).unwrap());
    until_nothing_moves(&world, &address, [&receiver, &sender]);
    receiver.signal(Signal::SIGTERM);
    assert_eq!(receiver.finish().code(), Some(143));
    let mut seen = Vec::new();
    output.read_to_end(&mut seen).unwrap();
    // A line that was torn is still in the channel.
    seen.truncate(seen.iter().rposition(|&byte| byte == b'\n').unwrap() + 1);
    seen.extend(world.done(&["recv", &address, "--until-end"]));
    feeding.join().unwrap();
    sender.finish().assert_done();
    assert!(seen == all, "nothing is missing, and nothing was there twice");
}

/// A work queue counts who goes away with a message, and drops it in the end; but what could not be
/// printed is put back.
#[rstest]
fn what_could_not_be_printed_was_never_taken(
    #[values("1", "2", "255")] deliveries: &str,
    #[values(false, true)] by_signal: bool,
) {
    let world = World::new();
    let address = world.address("shm");
    world.done(&["create", &address, "--max-deliveries", deliveries]);
    let all: Vec<u8> = (0..100).flat_map(|number| format!("{number:08000}\n").into_bytes()).collect();
    world.done_with(&["send", &address], &all);
    let (mut output, theirs) = pipe();
    let receiver = Running::collecting(world.command(&["recv", &address]).stdout(theirs));
    until_nothing_moves(&world, &address, [&receiver, &receiver]);
    let mut seen = Vec::new();
    if by_signal {
        receiver.signal(Signal::SIGTERM);
        // In time: part of the batch is printed, and then it ends.
        output.read_to_end(&mut seen).unwrap();
        assert_eq!(receiver.finish().code(), Some(143));
    } else {
        drop(output);
        receiver.finish().assert_done();
    }
    let stat = world.stat(&address);
    assert_eq!((&stat["lost_messages"], &stat["redelivered_messages"]), (&0.into(), &0.into()));
    let rest = world.done(&["recv", &address, "--drain"]);
    assert_eq!(rest.len() as u64 / 8001, stat["queued_messages"].as_u64().unwrap());
    if by_signal {
        // How much is seen depends on how soon the signal comes.
        assert!([seen, rest].concat() == all);
    } else {
        assert!(all.ends_with(&rest) && rest.len() > all.len() / 2, "{} of {}", rest.len(), all.len());
    }
}

#[rstest]
fn a_closed_pipe_ends_a_receiver_quietly_with_the_rest_in_the_channel(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let (output, theirs) = pipe();
    let receiver = Running::collecting(world.command(&["recv", &address]).stdout(theirs));
    world.done(&["send", &address, "a"]);
    let mut line = String::new();
    let mut output = BufReader::new(output);
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "a\n");
    eventually("it is released", || world.queued(&address) == 0);
    drop(output);
    // It is idle, and notices all the same.
    receiver.finish().assert_done();
    world.done(&["send", &address, "b"]);
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"b\n");
}

#[rstest]
fn a_pipe_that_was_closed_before_takes_nothing_from_the_channel(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    world.done(&["send", &address, "a", "b", "c"]);
    for _ in 0..20 {
        let (output, theirs) = pipe();
        drop(output);
        Running::collecting(world.command(&["recv", &address]).stdout(theirs)).finish().assert_done();
    }
    let mut rest: Vec<_> = world.done(&["recv", &address, "--drain"]);
    rest.sort_unstable();
    // On a queue they may have gone to its end.
    assert_eq!(rest, b"\n\n\nabc");
}

/// Its reader is slow and then gone, while a sender fills the queue as soon as it has room: there
/// is no way back for a message of which a part only is written. So none is taken before the
/// whole of it can be written.
#[rstest]
fn a_reader_that_goes_away_loses_no_long_message_of_a_full_queue(
    #[values("mq", "sysv")] scheme: &str,
    #[values(4096, 6000, 8192)] len: usize,
) {
    let world = World::new();
    let address = world.address(scheme);
    world.done(&["create", &address, "--depth", "2", "--max-message", "8192"]);
    let mut sender = world.spawn(&["send", &address, "--end"]);
    let mut input = sender.stdin.take().unwrap();
    let all: Vec<u8> = (0..100).flat_map(|number| format!("{number:0len$}\n").into_bytes()).collect();
    let feed = all.clone();
    let feeding = std::thread::spawn(move || input.write_all(&feed).unwrap());
    let (mut output, theirs) = pipe();
    let watched = theirs.try_clone().unwrap();
    let receiver = Running::collecting(world.command(&["recv", &address]).stdout(theirs));
    until_nothing_moves(&world, &address, [&receiver, &sender]);
    // It writes no more while the pipe is emptied.
    receiver.signal(Signal::SIGSTOP);
    receiver.wait_for_stop();
    let mut seen = Vec::new();
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    assert_eq!(output.read_to_end(&mut seen).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(output);
    // A child that another test is forking has it for a moment, too.
    eventually("nobody reads", || {
        let mut watched = [PollFd::new(watched.as_fd(), PollFlags::empty())];
        poll(&mut watched, PollTimeout::ZERO).unwrap() == 1
    });
    receiver.signal(Signal::SIGCONT);
    receiver.finish().assert_done();
    seen.extend(world.done(&["recv", &address, "--until-end"]));
    feeding.join().unwrap();
    sender.finish().assert_done();
    assert!(seen == all, "{} of {} bytes", seen.len(), all.len());
}

/// A sender fills the queue again as soon as it has room, mostly before what can't be written is put
/// back. That waits until somebody else receives.
#[rstest]
fn what_could_not_be_written_goes_back_to_a_full_queue_when_it_has_room(
    #[values("mq", "sysv")] scheme: &str,
) {
    let world = World::new();
    let address = world.channel(scheme);
    let mut sender = world.spawn(&["send", &address, "--end"]);
    // A pipe takes it all, so that the sender sleeps for want of room only.
    sender.stdin.take().unwrap().write_all(&numbered(0..1000)).unwrap();
    eventually("something is sent", || world.queued(&address) > 0);
    sender.wait_for_sleep();
    let failing: Vec<_> = (0..10)
        .map(|_| {
            let full = File::options().write(true).open("/dev/full").unwrap();
            Running::collecting(world.command(&["recv", &address, "--drain"]).stdout(full))
        })
        .collect();
    failing.iter().for_each(Running::wait_for_rest);
    let mut seen = BTreeSet::new();
    see(&mut seen, &world.done(&["recv", &address, "--until-end"]));
    for receiver in failing {
        let ran = receiver.finish();
        // It may have come too late to take one.
        assert!(ran.code() == Some(0) || !ran.assert_failed(1).contains("lost"), "{}", ran.stderr());
    }
    sender.finish().assert_done();
    see(&mut seen, &world.done(&["recv", &address, "--drain"]));
    assert!(seen.into_iter().eq(0..1000));
}

/// Likewise, but nobody receives, and two signals end the wait. Whether a message is on its way back
/// when they come depends on who is faster: so the account of all of them is looked at.
#[rstest]
fn what_a_second_signal_keeps_from_going_back_is_lost_and_that_is_said(#[values("mq", "sysv")] scheme: &str) {
    const ALL: usize = 1000;
    let world = World::new();
    let address = world.address(scheme);
    world.done(&["create", &address, "--depth", "1", "--max-message", "16"]);
    let mut sender = world.spawn(&["send", &address, "--end"]);
    sender.stdin.take().unwrap().write_all(&numbered(0..ALL as u32)).unwrap();
    let mut lost = 0;
    eventually("some are lost", || {
        let failing: Vec<_> = (0..4)
            .map(|_| {
                let full = File::options().write(true).open("/dev/full").unwrap();
                Running::collecting(world.command(&["recv", &address]).stdout(full))
            })
            .collect();
        for mut receiver in failing {
            receiver.wait_for_rest();
            while !receiver.has_ended() {
                receiver.signal(Signal::SIGTERM);
                std::thread::sleep(Duration::from_millis(10));
            }
            let ran = receiver.finish();
            match ran.code() {
                Some(1) => lost += usize::from(ran.assert_failed(1).contains("it is lost")),
                code => assert_eq!((code, ran.stderr().as_str()), (Some(143), ""), "it had taken nothing"),
            }
        }
        lost > 0
    });
    let mut seen = BTreeSet::new();
    see(&mut seen, &world.done(&["recv", &address, "--until-end"]));
    sender.finish().assert_done();
    see(&mut seen, &world.done(&["recv", &address, "--drain"]));
    assert_eq!(seen.len() + lost, ALL, "{lost} are said to be lost");
}

#[test]
fn a_full_disk_is_an_error_and_the_message_stays() {
    let world = World::new();
    let address = world.channel("shm");
    world.done(&["send", &address, "a"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let line = Running::collecting(world.command(&["recv", &address]).stdout(full)).finish().assert_failed(1);
    assert!(line.contains("standard output"), "{line}");
    assert_eq!(world.done(&["recv", &address, "--drain"]), b"a\n");
}

/// As on a full disk; the kernel would end us with SIGXFSZ first.
#[rstest]
fn a_file_that_may_not_grow_is_an_error_and_the_message_stays(#[values("mq", "sysv")] scheme: &str) {
    const LIMIT: u64 = 4096;
    let world = World::new();
    let address = world.address(scheme);
    world.done(&["create", &address, "--depth", "2", "--max-message", "3000"]);
    let (first, second) = ("a".repeat(3000), "b".repeat(3000));
    world.done(&["send", &address, &first, &second]);
    let path = world.directory().join("-output");
    let mut asked = world.command(&["recv", &address]);
    // SAFETY: setrlimit(2) is a system call, which a child may make after a fork.
    unsafe { asked.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_FSIZE, LIMIT, LIMIT)?)) };
    let line = Running::collecting(asked.stdout(File::create(&path).unwrap())).finish().assert_failed(1);
    assert!(line.contains("standard output"), "{line}");
    assert!(fs::read(&path).unwrap().starts_with((first + "\n").as_bytes()));
    assert_eq!(world.done(&["recv", &address, "--drain", "--framing", "raw"]), second.as_bytes());
}

const ROUNDS: u32 = 100;

#[test]
fn receivers_killed_mid_stream_lose_nothing() {
    let world = World::new();
    let address = world.channel("shm");
    let mut sender = world.spawn(&["send", &address, "--end"]);
    let mut input = sender.stdin.take().unwrap();
    let (killed_all, enough) = mpsc::channel::<()>();
    let feeding = std::thread::spawn(move || {
        const STEP: u32 = 1000;
        let mut sent = 0;
        while enough.try_recv() == Err(mpsc::TryRecvError::Empty) {
            input.write_all(&numbered(sent..sent + STEP)).unwrap();
            sent += STEP;
        }
        sent
    });
    let path = world.directory().join("-output");
    let mut seen = BTreeSet::new();
    for round in 0..ROUNDS {
        let output = File::create(&path).unwrap();
        let receiver = Running::collecting(world.command(&["recv", &address, "--until-end"]).stdout(output));
        let wanted = u64::from(round) * 500;
        eventually("it has written something", || fs::metadata(&path).unwrap().len() > wanted);
        receiver.kill();
        see(&mut seen, &fs::read(&path).unwrap());
    }
    drop(killed_all);
    see(&mut seen, &world.done(&["recv", &address, "--until-end"]));
    let sent = feeding.join().unwrap();
    sender.finish().assert_done();
    assert!(seen.iter().copied().eq(0..sent), "{} of {sent}", seen.len());
}

/// The numbers of the lines; none of them is torn, except the last one: its message is still
/// in the channel.
fn see(seen: &mut BTreeSet<u32>, written: &[u8]) {
    let whole = written.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    for line in std::str::from_utf8(&written[..whole]).unwrap().lines() {
        seen.insert(line.strip_prefix("line ").and_then(|number| number.parse().ok()).unwrap());
    }
}

#[rstest]
fn senders_killed_mid_stream_leave_whole_messages_in_order(#[values("mq", "shm")] scheme: &str) {
    let world = World::new();
    let address = world.channel(scheme);
    let path = world.directory().join("-output");
    let output = File::create(&path).unwrap();
    let receiver = Running::collecting(world.command(&["recv", &address, "--until-end"]).stdout(output));
    let input_path = world.directory().join("-input");
    for round in 0..ROUNDS {
        let input: Vec<u8> =
            (0..100_000).flat_map(|number| format!("{round} {number}\n").into_bytes()).collect();
        fs::write(&input_path, input).unwrap();
        let before = fs::metadata(&path).unwrap().len();
        let mut asked = world.command(&["send", &address]);
        let sender = Running::start(asked.stdin(File::open(&input_path).map(Stdio::from).unwrap()));
        eventually("it has sent something", || fs::metadata(&path).unwrap().len() > before + 100);
        sender.kill();
    }
    world.done(&["send", &address, "--end", "done"]);
    receiver.finish().assert_done();
    let received = String::from_utf8(fs::read(&path).unwrap()).unwrap();
    let received = received.strip_suffix("done\n").unwrap();
    let mut next = (0, 0);
    for line in received.lines() {
        let (round, number) = line.split_once(' ').unwrap();
        let found: (u32, u32) = (round.parse().unwrap(), number.parse().unwrap());
        assert!(found == next || found == (next.0 + 1, 0), "{found:?} instead of {next:?}");
        next = (found.0, found.1 + 1);
    }
    assert_eq!(next.0, ROUNDS - 1);
}

/// As timeout(1) does it: to the process, and again to its group.
#[test]
fn two_signals_close_together_are_one_and_nothing_stays_behind() {
    let world = World::new();
    let receiver = world.spawn(&["recv", &world.address("shm"), "--create"]);
    receiver.wait_for_sleep();
    receiver.signal(Signal::SIGTERM);
    receiver.signal(Signal::SIGTERM);
    assert_eq!(receiver.finish().code(), Some(143));
    assert_eq!(std::fs::read_dir(world.directory()).unwrap().count(), 0);
}
