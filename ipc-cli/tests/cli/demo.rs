//! `ipc demo`: it shows both models, fits a terminal, and leaves nothing behind.

use crate::support::{Running, World, eventually};
use nix::sys::{
    signal::Signal,
    statfs::{TMPFS_MAGIC, statfs},
};
use rstest::rstest;
use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

fn is_left(world: &World) -> bool {
    fs::read_dir(world.directory()).unwrap().count() > 0
}

#[test]
fn the_demo_shows_both_models_and_leaves_nothing() {
    let world = World::new();
    let begin = Instant::now();
    let text = String::from_utf8(world.done(&["demo"])).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(20));
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(!text.contains('\x1b'), "plain when piped");
    for expected in ["Message passing", "Shared memory", "P1 pid", "P2 pid", "Side by side", "round trip"] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    let row = |label: &str| text.lines().find(|line| line.contains(label)).unwrap();
    assert!(row("last words").ends_with("delivered          delivered"), "{text}");
    assert!(row("killed receiver held").ends_with("lost    delivered again"), "{text}");
    assert!(!is_left(&world));
}

#[test]
fn the_demo_cleans_up_when_it_is_interrupted() {
    let world = World::new();
    let path = world.directory().join("-output");
    let segments = world.directory().join("segments");
    fs::create_dir(&segments).unwrap();
    let output = fs::File::create(&path).unwrap();
    let mut asked = world.command(&["demo"]);
    asked.env("IPC_DIR", &segments).stdin(Stdio::null()).stdout(output);
    let demo = Running::collecting(&mut asked);
    eventually("the second model is shown", || fs::read_dir(&segments).unwrap().count() >= 2);
    eventually("it runs", || fs::read_to_string(&path).unwrap().matches("They measure").count() == 2);
    demo.signal(Signal::SIGINT);
    assert_eq!(demo.finish().code(), Some(130));
    assert_eq!(fs::read_dir(&segments).unwrap().count(), 0);
}

/// What they make is in one of the two directories, wherever they make it.
#[rstest]
fn a_scene_cleans_up_when_it_is_interrupted(
    #[values("durable", "sync", "protect")] scene: &str,
    #[values(Signal::SIGINT, Signal::SIGTERM)] signal: Signal,
) {
    let world = World::new();
    let directories = ["channels", "temporary"].map(|name| world.directory().join(name));
    directories.iter().for_each(|directory| fs::create_dir(directory).unwrap());
    let made = || directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap()).count();
    // One that is over before the signal comes is no answer.
    let code = std::iter::repeat_with(|| {
        let mut asked = world.command(&["demo", scene]);
        asked.env("IPC_DIR", &directories[0]).env("TMPDIR", &directories[1]).stdin(Stdio::null());
        let mut demo = Running::start(&mut asked);
        eventually("it has made something", || made() > 0 || demo.has_ended());
        if !demo.has_ended() {
            demo.signal(signal);
        }
        let ran = demo.finish();
        assert_eq!(ran.stderr(), "");
        ran.code()
    });
    let code = code.take(20).find(|&code| code != Some(0));
    // What finds sockets and queues stays with its directory.
    let _ = fs::remove_dir(directories[0].join(".mq"));
    assert_eq!((code, made()), (Some(Some(128 + signal as i32)), 0));
}

/// The limit counts all of the user's queues, those of other tests too, so it may leave no
/// room at all; then the other model is shown, and that one was not is a failure.
#[test]
fn the_demo_makes_do_with_little_room_for_queues() {
    let world = World::new();
    let script = "ulimit -q 4000 && exec \"$0\" demo";
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", script, env!("CARGO_BIN_EXE_ipc")]).env("IPC_DIR", world.directory());
    let ran = Running::start(limited.stdin(Stdio::null())).finish();
    let text = String::from_utf8(ran.stdout().to_vec()).unwrap();
    if text.contains("message passing      shared memory") {
        assert_eq!((ran.code(), ran.stderr()), (Some(0), String::new()));
    } else {
        assert!(text.contains("can't be shown here"), "{text}");
        assert!(ran.assert_failed(1).contains("RLIMIT_MSGQUEUE"));
    }
    assert!(text.contains("Side by side") && text.contains("delivered again"), "{text}");
}

#[test]
fn the_demo_of_protection_shows_what_happens_without_and_with_it() {
    let world = World::new();
    let text = String::from_utf8(world.done(&["demo", "protect"])).unwrap();
    let outcomes = [
        ("without: a subscriber", "all see the byte"),
        ("with: an observer", "SIGSEGV ends it"),
        ("without: a sender", "all see the byte"),
        ("with: a guarded one", "SIGSEGV ends it"),
        ("without: a named channel", "SIGBUS ends the receiver"),
        ("with: a sealed one", "refused (EPERM)"),
        ("without: a named channel", "nobody sent this"),
        ("with: a sealed one", "refused (EPERM)"),
        ("without: a plain flag", "still raised after 200 ms: a waiter hangs"),
        ("with: a mutex", "the next one is told of it, and repairs"),
    ];
    let mut lines = text.lines().filter(|line| line.starts_with("  "));
    for (protection, outcome) in outcomes {
        let line = lines.next().unwrap_or_default();
        assert!(line.contains(protection) && line.contains(outcome), "{protection}: {outcome}:\n{text}");
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(lines.next().is_none(), "{text}");
}

#[test]
fn the_demo_of_protection_is_the_same_where_the_ends_of_children_are_ignored() {
    let world = World::new();
    let ran = Running::start(&mut world.command_ignoring(Signal::SIGCHLD, &["demo", "protect"])).finish();
    assert!(ran.assert_done().ends_with(b"the next one is told of it, and repairs\n"));
}

/// Of the last column, only what a restart leaves depends on where the files are.
#[rstest]
#[case::in_memory(Path::new("/dev/shm"), "lost")]
#[case::on_a_disk(Path::new(env!("CARGO_TARGET_TMPDIR")), "kept")]
fn the_demo_of_durability_shows_what_is_left_of_each_channels_messages(
    #[case] parent: &Path,
    #[case] restarted: &str,
) {
    let restarted = match statfs(parent).unwrap().filesystem_type() == TMPFS_MAGIC {
        true => "lost",
        false => restarted,
    };
    let world = World::within(parent);
    let demo = world.command(&["demo", "durable"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let demo = demo.unwrap();
    let pid = demo.id();
    let output = demo.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let rows = [
        ("", ["mq:", "sysv:", "unix:", "shm:"]),
        ("sent to nobody; sender dies", ["delivered", "delivered", "not sent", "delivered"]),
        ("sent to somebody; sender dies", ["delivered"; 4]),
        ("held; its receiver dies", ["lost", "lost", "lost, told", "redelivered"]),
        ("not yet taken; receiver dies", ["delivered", "delivered", "lost, told", "delivered"]),
        ("not yet taken; both die", ["delivered", "delivered", "lost", "delivered"]),
        ("the machine restarts", ["lost", "lost", "lost", restarted]),
    ];
    for (row, (event, fates)) in text.lines().skip(2).zip(rows) {
        let cells: String = fates.iter().map(|fate| format!("{fate:>12}")).collect();
        assert_eq!(row, format!("  {event:<30}{cells}"), "{text}");
    }
    for scheme in ["mq:", "sysv:", "unix:", "shm:"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(scheme)), "{scheme}\n{text}");
    }
    let left = String::from_utf8(world.done(&["ls"])).unwrap();
    assert!(!left.contains(&format!("demo-{pid}-")), "{left}");
}
