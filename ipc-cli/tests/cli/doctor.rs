//! `ipc doctor`: every limit with its value, and what is short with the command that changes
//! it.

use crate::support::World;
use serde_json::Value;
use std::process::{Command, Stdio};

fn finding<'a>(findings: &'a Value, name: &str) -> &'a Value {
    let mut all = findings.as_array().unwrap().iter();
    all.find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("{name} is missing: {findings}"))
}

#[test]
fn every_limit_is_named_with_what_it_means() {
    let world = World::new();
    let ran = world.run(&["doctor", "--json"]);
    let findings: Value = serde_json::from_slice(ran.stdout()).unwrap();
    for name in [
        "fs.mqueue.msg_max",
        "fs.mqueue.queues_max",
        "RLIMIT_MSGQUEUE",
        "/dev/mqueue",
        "kernel.msgmax",
        "kernel.msgmni",
        "net.core.wmem_default",
        "seals",
        "transparent_hugepage/shmem_enabled",
        "/dev/shm",
        "membarrier",
        "RLIMIT_MEMLOCK",
        "user.max_user_namespaces",
    ] {
        let finding = finding(&findings, name);
        assert!(["fine", "short", "missing"].contains(&finding["verdict"].as_str().unwrap()), "{finding}");
        assert!(!finding["meaning"].as_str().unwrap().is_empty());
        assert!(finding["verdict"] == "fine" || finding["command"].is_string(), "{finding}");
    }
    let text = String::from_utf8(world.run(&["doctor"]).stdout().to_vec()).unwrap();
    assert!(text.contains("kernel.msgmnb"), "{text}");
}

/// In namespaces of its own: no `/dev/mqueue`, `msg_max` at 3, `/dev/shm` of 1 MiB.
#[test]
fn a_poor_system_is_told_what_it_lacks_and_how_to_get_it() {
    let world = World::new();
    let prepare = "umount /dev/mqueue 2>/dev/null; mount -t tmpfs -o size=1m tmpfs /dev/shm && \
                   echo 3 > /proc/sys/fs/mqueue/msg_max && exec \"$0\" doctor --json";
    let namespaces: &[&str] =
        if nix::unistd::geteuid().is_root() { &["-m", "-i"] } else { &["-r", "-m", "-i"] };
    let run = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", prepare, env!("CARGO_BIN_EXE_ipc")])
        .env("IPC_DIR", world.directory())
        .stdin(Stdio::null())
        .output();
    let Ok(output) = run else { return println!("not tested: there is no unshare(1)") };
    let Ok(findings) = serde_json::from_slice::<Value>(&output.stdout) else {
        let why = String::from_utf8_lossy(&output.stderr);
        return println!("not tested: this user gets no such namespaces: {why}");
    };
    let short = |name, value: &str, command: &str| {
        let finding = finding(&findings, name);
        assert_eq!(finding["verdict"], "short", "{finding}");
        assert!(finding["value"].as_str().unwrap().contains(value), "{finding}");
        assert!(finding["command"].as_str().unwrap().contains(command), "{finding}");
    };
    short("/dev/mqueue", "not mounted", "mount -t mqueue none /dev/mqueue");
    short("fs.mqueue.msg_max", "3", "sysctl fs.mqueue.msg_max=10");
    short("/dev/shm", "tmpfs of 1 MiB", "mount -o remount,size=");
}
