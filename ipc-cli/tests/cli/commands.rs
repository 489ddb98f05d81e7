//! What `lock` and `serve` run: signals reach it as if nobody stood in between.

use crate::support::{Running, World, eventually};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    pty::openpty,
    sys::signal::Signal,
};
use rstest::rstest;
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// A shell script that notes the signals of these names that come to it, a line each, and goes on
/// until it is told to end: when the file is removed.
fn noting(signals: &str, file: &Path) -> String {
    let traps: String = signals
        .split(' ')
        .map(|signal| format!("trap 'echo {signal} >> {}' {signal}; ", file.display()))
        .collect();
    format!("{traps} echo ready > {0}; while test -e {0}; do sleep 0.01; done; exit 7", file.display())
}

fn notes(world: &World) -> PathBuf {
    world.directory().join("-notes")
}

fn wait_for_note(file: &Path, number: usize, note: &str) {
    eventually(note, || fs::read_to_string(file).is_ok_and(|text| text.lines().nth(number) == Some(note)));
}

fn service(world: &World) -> String {
    let address = world.address("shm");
    world.done(&["create", &address, "--kind", "rpc", "--max-message", "4K"]);
    address
}

/// Which signals a command blocks and ignores that runs without `ipc`.
fn signals_without_us() -> Vec<u8> {
    Command::new("grep").args(["^Sig[BI]", "/proc/self/status"]).output().unwrap().stdout
}

#[test]
fn a_lock_leaves_its_command_the_signals_as_they_were() {
    let world = World::new();
    let address = world.address("shm");
    let signals = world.done(&["lock", &address, "--", "grep", "^Sig[BI]", "/proc/self/status"]);
    assert_eq!(String::from_utf8(signals), String::from_utf8(signals_without_us()));
}

#[test]
fn a_server_leaves_its_command_the_signals_as_they_were() {
    let world = World::new();
    let address = service(&world);
    let server = world.spawn(&["serve", &address, "--", "grep", "^Sig[BI]", "/proc/self/status"]);
    let signals = world.done(&["call", &address, "--raw", "x"]);
    assert_eq!(String::from_utf8(signals), String::from_utf8(signals_without_us()));
    server.kill();
}

#[rstest]
fn a_signal_to_a_lock_ends_its_command(
    #[values(Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM)] signal: Signal,
) {
    let world = World::new();
    let address = world.address("shm");
    let file = notes(&world);
    let script = format!("ulimit -c 0; echo ready > {}; exec sleep 90", file.display());
    let owner = world.spawn(&["lock", &address, "--", "sh", "-c", &script]);
    wait_for_note(&file, 0, "ready");
    owner.signal(signal);
    let ran = owner.finish();
    assert_eq!((ran.code(), ran.stderr().as_str()), (Some(128 + signal as i32), ""));
    assert_eq!(world.stat(&address)["condition"], "free");
}

/// And the lock is had as long as the command lives, however often somebody is in a hurry.
#[test]
fn a_lock_hands_on_one_signal_after_the_other() {
    let world = World::new();
    let address = world.address("shm");
    let file = notes(&world);
    let owner = world.spawn(&["lock", &address, "--", "sh", "-c", &noting("HUP INT QUIT TERM", &file)]);
    wait_for_note(&file, 0, "ready");
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
    for (signal, number) in signals.into_iter().zip(1..) {
        owner.signal(signal);
        wait_for_note(&file, number, signal.as_str().strip_prefix("SIG").unwrap());
    }
    world.run(&["lock", &address, "--try", "--", "true"]).assert_failed(4);
    fs::remove_file(&file).unwrap();
    assert_eq!(owner.finish().code(), Some(7));
}

#[test]
fn a_lock_is_had_as_long_as_its_command_ignores_signals() {
    let world = World::new();
    let address = world.address("shm");
    let file = notes(&world);
    let script = format!("trap '' INT TERM; echo ready > {}; exec cat", file.display());
    let owner = world.spawn(&["lock", &address, "--", "sh", "-c", &script]);
    wait_for_note(&file, 0, "ready");
    for signal in [Signal::SIGINT, Signal::SIGINT, Signal::SIGTERM] {
        owner.signal(signal);
        // Longer than two signals are taken for one.
        thread::sleep(Duration::from_millis(400));
        world.run(&["lock", &address, "--try", "--", "true"]).assert_failed(4);
    }
    // Its input ends.
    owner.finish().assert_done();
}

/// A terminal with `ipc` in its foreground.
struct Terminal(File);

impl Terminal {
    fn start(world: &World, arguments: &[&str]) -> (Self, Running) {
        let pty = openpty(None, None).unwrap();
        // Ours alone: the terminal hangs up when the test ends.
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        let ipc = world.command(arguments);
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(ipc.get_program()).args(ipc.get_args());
        setsid.env("IPC_DIR", world.directory()).stdin(Stdio::from(pty.slave));
        let running = Running::start(&mut setsid);
        (Self(pty.master.into()), running)
    }

    /// Presses Ctrl-C. The terminal shows it when the signal is sent.
    fn interrupt(&mut self) {
        self.0.write_all(b"\x03").unwrap();
        let mut shown = [0; 2];
        self.0.read_exact(&mut shown).unwrap();
        assert_eq!(&shown, b"^C");
    }
}

#[test]
fn at_a_terminal_an_interrupt_ends_the_command_and_the_lock_with_it() {
    let world = World::new();
    let address = world.address("shm");
    let file = notes(&world);
    let script = format!("echo ready > {}; exec sleep 90", file.display());
    let (mut terminal, owner) = Terminal::start(&world, &["lock", &address, "--", "sh", "-c", &script]);
    wait_for_note(&file, 0, "ready");
    terminal.interrupt();
    assert_eq!(owner.finish().code(), Some(130));
    assert_eq!(world.stat(&address)["condition"], "free");
}

/// A terminal interrupts all who are in the foreground by itself. Seen where the command isn't.
#[test]
fn at_a_terminal_an_interrupt_is_not_handed_on_to_come_twice() {
    let world = World::new();
    let address = world.address("shm");
    let file = notes(&world);
    let script = noting("INT TERM", &file);
    let (mut terminal, owner) =
        Terminal::start(&world, &["lock", &address, "--", "setsid", "sh", "-c", &script]);
    wait_for_note(&file, 0, "ready");
    terminal.interrupt();
    terminal.interrupt();
    owner.signal(Signal::SIGTERM);
    wait_for_note(&file, 1, "TERM");
    fs::remove_file(&file).unwrap();
    assert_eq!(owner.finish().code(), Some(7));
}

#[rstest]
fn a_signal_to_a_server_ends_the_command_that_hangs_and_then_the_server(
    #[values(Signal::SIGINT, Signal::SIGTERM)] signal: Signal,
) {
    let world = World::new();
    let address = service(&world);
    let file = notes(&world);
    let script = format!("echo ready > {}; exec sleep 90", file.display());
    let server = world.spawn(&["serve", &address, "--", "sh", "-c", &script]);
    let caller = world.spawn(&["call", &address, "x"]);
    wait_for_note(&file, 0, "ready");
    server.signal(signal);
    assert_eq!(server.finish().code(), Some(128 + signal as i32));
    assert!(caller.finish().assert_failed(1).contains("declined"));
}

#[test]
fn a_command_may_finish_its_answer_before_a_signal_ends_its_server() {
    let world = World::new();
    let address = service(&world);
    let file = notes(&world);
    let script = noting("TERM", &file).replace("exit 7", "echo finished");
    let server = world.spawn(&["serve", &address, "--", "sh", "-c", &script]);
    let caller = world.spawn(&["call", &address, "--raw", "x"]);
    wait_for_note(&file, 0, "ready");
    server.signal(Signal::SIGTERM);
    wait_for_note(&file, 1, "TERM");
    fs::remove_file(&file).unwrap();
    assert_eq!(caller.finish().assert_done(), b"finished\n");
    assert_eq!(server.finish().code(), Some(143));
}
