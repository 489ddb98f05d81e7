//! `ipc doctor`: every limit with its value, and what is short with the command that changes
//! it.

use crate::support::{Running, World, skip};
use rstest::rstest;
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    process::{Command, Stdio},
};

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
        "IPC_DIR",
        "IPC_DIR room",
        "/dev/shm",
        "RLIMIT_NOFILE",
        "fs.file-max",
        "fs.inotify.max_user_instances",
        "fs.inotify.max_user_watches",
        "RLIMIT_SIGPENDING",
        "RLIMIT_MEMLOCK",
        "membarrier",
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
    let prepare = "umount /dev/mqueue 2>/dev/null; mount -t tmpfs -o size=1m tmpfs /dev/shm && \
                   echo 3 > /proc/sys/fs/mqueue/msg_max && unset IPC_DIR";
    let Some(findings) = examined(&World::new(), prepare) else { return };
    let short = |name, value: &str, command: &str| {
        let finding = finding(&findings, name);
        assert_eq!(finding["verdict"], "short", "{finding}");
        assert!(finding["value"].as_str().unwrap().contains(value), "{finding}");
        assert!(finding["command"].as_str().unwrap().contains(command), "{finding}");
    };
    short("/dev/mqueue", "not mounted", "mount -t mqueue none /dev/mqueue");
    short("fs.mqueue.msg_max", "3", "sysctl fs.mqueue.msg_max=10");
    short("/dev/shm", "tmpfs of 1 MiB", "mount -o remount,size=");
    assert_eq!(finding(&findings, "IPC_DIR")["value"], "not set");
}

/// What the user's own directory has to be for the transports to use it.
#[test]
fn an_own_directory_that_others_can_change_is_no_place_for_channels() {
    let own = |made: &str| {
        let prepare = format!("mount -t tmpfs tmpfs /dev/shm && cd /dev/shm && unset IPC_DIR && {made}");
        examined(&World::new(), &prepare).map(|findings| finding(&findings, "IPC_DIR").clone())
    };
    // In namespaces of its own, a process is root.
    for (made, command) in [
        ("mkdir ipc-0 && chmod 770 ipc-0", "chmod 700 /dev/shm/ipc-0"),
        ("mkdir ipc-mq-0 && chmod 777 ipc-mq-0", "chmod 700 /dev/shm/ipc-mq-0"),
        ("ln -s /tmp ipc-0", "rm -r /dev/shm/ipc-0  or  mkdir -m 700 DIRECTORY && export IPC_DIR=DIRECTORY"),
    ] {
        let Some(finding) = own(made) else { return };
        assert_eq!((&finding["verdict"], &finding["command"]), (&"missing".into(), &command.into()));
    }
    let Some(finding) = own("mkdir -m 700 ipc-0 ipc-mq-0") else { return };
    assert_eq!((&finding["verdict"], &finding["value"]), (&"fine".into(), &"not set".into()));
}

/// What is found in namespaces of one's own, in which `prepare` went well; none where there are
/// no such namespaces.
fn examined(world: &World, prepare: &str) -> Option<Value> {
    let namespaces: &[&str] =
        if nix::unistd::geteuid().is_root() { &["-m", "-i"] } else { &["-r", "-m", "-i"] };
    let script = format!("{prepare} && exec \"$0\" doctor --json");
    let run = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", &script, env!("CARGO_BIN_EXE_ipc")])
        .env("IPC_DIR", world.directory())
        .stdin(Stdio::null())
        .output();
    let Ok(output) = run else {
        skip("there is no unshare(1)");
        return None;
    };
    let why = String::from_utf8_lossy(&output.stderr);
    let findings = serde_json::from_slice(&output.stdout);
    findings.map_err(|_| skip(&format!("this user gets no such namespaces: {why}"))).ok()
}

/// A mount of 1 MiB that is in use, and one that can't be written to.
#[test]
fn the_directory_in_use_is_told_its_room_and_the_mount_that_it_is_on() {
    let world = World::new();
    let mount = "mount -t tmpfs -o size=1m,mode=700 tmpfs \"$IPC_DIR\"";
    let Some(findings) = examined(&world, mount) else { return };
    let path = world.directory().to_str().unwrap();
    let room = finding(&findings, "IPC_DIR room");
    assert_eq!((&room["verdict"], &room["value"]), (&"short".into(), &"tmpfs of 1 MiB, 1 MiB free".into()));
    assert_eq!(room["command"], format!("mount -o remount,size=67108864 {path}"));
    let unused = finding(&findings, "/dev/shm");
    assert_eq!((&unused["verdict"], &unused["command"]), (&"fine".into(), &Value::Null), "{unused}");
    assert_eq!(unused["meaning"], format!("not used: IPC_DIR has the channels in {path}"));

    let read_only = format!("{mount} && mount -o remount,ro \"$IPC_DIR\"");
    let Some(findings) = examined(&world, &read_only) else { return };
    let room = finding(&findings, "IPC_DIR room");
    assert_eq!(room["verdict"], "missing", "{room}");
    assert_eq!(room["command"], format!("mount -o remount,rw {path}  or  export IPC_DIR=…"));
}

#[test]
fn a_directory_that_anybody_may_change_is_short_of_the_sticky_bit() {
    let world = World::new();
    let path = world.directory().to_str().unwrap().to_owned();
    let examined = |mode| {
        fs::set_permissions(world.directory(), Permissions::from_mode(mode)).unwrap();
        let findings = serde_json::from_slice(world.run(&["doctor", "--json"]).stdout()).unwrap();
        finding(&findings, "IPC_DIR").clone()
    };
    let open = examined(0o777);
    assert_eq!((&open["verdict"], &open["command"]), (&"short".into(), &format!("chmod +t {path}").into()));
    assert!(open["value"].as_str().unwrap().ends_with("mode 0777"), "{open}");
    for (mode, meaning) in [(0o1777, "instead of"), (0o770, "its group"), (0o700, "instead of")] {
        let fine = examined(mode);
        assert_eq!((&fine["verdict"], &fine["command"]), (&"fine".into(), &Value::Null), "{fine}");
        assert!(fine["meaning"].as_str().unwrap().contains(meaning), "{fine}");
    }
}

#[test]
fn what_is_no_directory_has_no_channels_and_that_is_a_failure() {
    let world = World::new();
    let (missing, link) = (world.directory().join("missing"), world.directory().join("link"));
    symlink(world.directory(), &link).unwrap();
    for (path, command) in [(&missing, "mkdir -m 700 "), (&link, "export IPC_DIR=")] {
        let mut asked = world.command(&["doctor", "--json"]);
        let ran = Running::start(asked.env("IPC_DIR", path).stdin(Stdio::null())).finish();
        ran.assert_failed(1);
        let findings = serde_json::from_slice(ran.stdout()).unwrap();
        let finding = finding(&findings, "IPC_DIR");
        assert_eq!(finding["verdict"], "missing", "{finding}");
        assert!(finding["meaning"].as_str().unwrap().starts_with(path.to_str().unwrap()), "{finding}");
        assert!(finding["command"].as_str().unwrap().contains(command), "{finding}");
    }
}

#[test]
fn lowered_limits_of_the_process_are_short_with_what_raises_them() {
    let world = World::new();
    let limits = "ulimit -S -n 100 && ulimit -S -i 3 && ulimit -S -l 16 && exec \"$0\" doctor --json";
    let mut limited = Command::new("bash");
    limited.args(["-c", limits, env!("CARGO_BIN_EXE_ipc")]).env("IPC_DIR", world.directory());
    let findings: Value = serde_json::from_slice(&limited.output().unwrap().stdout).unwrap();
    for (name, value, flag, option) in [
        ("RLIMIT_NOFILE", "100", "ulimit -n ", "--nofile="),
        ("RLIMIT_SIGPENDING", "3, of which ", "ulimit -i ", "--sigpending="),
        ("RLIMIT_MEMLOCK", "16 KiB", "ulimit -l ", "--memlock="),
    ] {
        let finding = finding(&findings, name);
        assert_eq!(finding["verdict"], "short", "{finding}");
        assert!(finding["value"].as_str().unwrap().starts_with(value), "{finding}");
        let command = finding["command"].as_str().unwrap();
        assert!(command.contains(flag) || command.contains(option), "{finding}");
    }
    let locked = finding(&findings, "RLIMIT_MEMLOCK")["meaning"].as_str().unwrap();
    assert!(locked.contains("`unswapped`"), "{locked}");
}

/// What is recommended is possible: up to the hard limit it is anybody's to raise.
#[rstest]
#[case::short("4000", "short", "--msgqueue=745920:745920")]
#[case::fine("700000", "fine", "--msgqueue=1400000:1400000")]
fn beyond_the_hard_limit_root_is_to_raise_the_bytes_of_queues(
    #[case] bytes: &str,
    #[case] verdict: &str,
    #[case] option: &str,
) {
    let world = World::new();
    let mut limited = Command::new("bash");
    let limits = format!("ulimit -q {bytes} && exec \"$0\" doctor --json");
    limited.args(["-c", &limits, env!("CARGO_BIN_EXE_ipc")]).env("IPC_DIR", world.directory());
    let findings: Value = serde_json::from_slice(&limited.output().unwrap().stdout).unwrap();
    let finding = finding(&findings, "RLIMIT_MSGQUEUE");
    assert_eq!((&finding["verdict"], &finding["value"]), (&verdict.into(), &format!("{bytes} bytes").into()));
    assert_eq!(finding["command"], format!("sudo prlimit --pid $$ {option}"));
}

/// Where nobody may watch files any more: in a user namespace, whose limit is its own.
#[test]
fn a_user_without_inotify_instances_left_is_told_so() {
    let world = World::new();
    let none = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" doctor --json";
    let mut asked = Command::new("unshare");
    asked.args(["-r", "sh", "-c", none, env!("CARGO_BIN_EXE_ipc")]).env("IPC_DIR", world.directory());
    let Ok(output) = asked.output() else { return skip("there is no unshare(1)") };
    let Ok(findings) = serde_json::from_slice::<Value>(&output.stdout) else {
        let why = String::from_utf8_lossy(&output.stderr);
        return skip(&format!("this user gets no such namespaces: {why}"));
    };
    let finding = finding(&findings, "fs.inotify.max_user_instances");
    assert_eq!(finding["verdict"], "short", "{finding}");
    assert!(finding["meaning"].as_str().unwrap().contains("none left"), "{finding}");
    assert!(finding["command"].as_str().unwrap().contains("sysctl fs.inotify.max_user_instances="));
}
