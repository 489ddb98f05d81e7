//! A directory that can't be written to: what would change it is refused as not permitted.

use crate::support::{Running, World, skip};
use nix::unistd::geteuid;
use rstest::rstest;
use std::process::{Command, Stdio};

/// What a script says that was given no file system of its own.
const UNPREPARED: i32 = 99;

#[rstest]
fn in_a_read_only_directory_a_shm_channel_can_be_seen_and_not_used(
    #[values("mpmc", "spsc", "broadcast", "latest", "rpc")] kind: &str,
) {
    let (send, recv) = if kind == "rpc" { ("call", "serve") } else { ("send", "recv") };
    let commands = [
        ("create shm:y --kind KIND", 7),
        ("SEND shm:x message", 7),
        ("SEND shm:y --create --kind KIND message", 7),
        (if kind == "rpc" { "serve shm:x -- cat" } else { "recv shm:x --timeout 0" }, 7),
        ("rm shm:x", 7),
        ("stat shm:x", 0),
        ("ls", 0),
    ];
    let world = World::new();
    for (command, code) in commands {
        let command = command.replace("KIND", kind).replace("SEND", send).replace("RECV", recv);
        let script = format!(
            "{{ mount -t tmpfs -o size=8m tmpfs \"$IPC_DIR\" && \"$0\" create shm:x --kind {kind} && \
             mount -o remount,ro \"$IPC_DIR\"; }} 2>/dev/null || exit {UNPREPARED}; exec \"$0\" {command}"
        );
        let namespaces: &[&str] = if geteuid().is_root() { &["-m"] } else { &["-r", "-m"] };
        let mut asked = Command::new("unshare");
        asked.args(namespaces).args(["sh", "-c", &script, env!("CARGO_BIN_EXE_ipc")]);
        let ran = Running::start(asked.env("IPC_DIR", world.directory()).stdin(Stdio::null())).finish();
        if ran.code() == Some(UNPREPARED) || ran.stderr().starts_with("unshare:") {
            return skip(&format!("this user gets no file system of its own: {}", ran.stderr()));
        }
        match code {
            0 => assert!(String::from_utf8(ran.assert_done()).unwrap().contains("shm:x"), "{command}"),
            code => drop(ran.assert_failed(code)),
        }
    }
}
