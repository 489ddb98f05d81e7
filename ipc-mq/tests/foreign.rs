//! Programs that know nothing of this crate at the other end: one in C, compiled here, and one
//! in Python, by `ctypes`. Both directions, priorities and types kept.
#![cfg(target_os = "linux")]

mod common;

use common::{Removed, fresh_name, skip, small};
use ipc_mq::{
    Channel, Mq, MqReceiver, PriorityReceiver, PrioritySender, Receiver, Sender, Sysv, SysvConfig, Transport,
    TypeSender, Wait,
};
use rstest::rstest;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

/// Receives two messages and sends them back with what makes them differ one higher, the
/// first last. Arguments: `mq NAME` or `sysv KEY`.
const C_PROGRAM: &str = r#"
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
struct message { long type; char text[4096]; };
int main(int argc, char **argv) {
    if (argc != 3) return 2;
    if (!strcmp(argv[1], "mq")) {
        char texts[2][4096]; ssize_t lens[2]; unsigned priorities[2];
        mqd_t queue = mq_open(argv[2], O_RDWR);
        if (queue == (mqd_t)-1) { perror("mq_open"); return 1; }
        for (int i = 0; i < 2; i++) {
            lens[i] = mq_receive(queue, texts[i], sizeof texts[i], &priorities[i]);
            if (lens[i] < 0) { perror("mq_receive"); return 1; }
        }
        for (int i = 1; i >= 0; i--)
            if (mq_send(queue, texts[i], lens[i], priorities[i] + 1)) { perror("mq_send"); return 1; }
        return 0;
    }
    struct message messages[2]; ssize_t lens[2];
    int queue = msgget((key_t)strtoul(argv[2], 0, 10), 0);
    if (queue < 0) { perror("msgget"); return 1; }
    for (int i = 0; i < 2; i++) {
        lens[i] = msgrcv(queue, &messages[i], sizeof messages[i].text, -1000, 0);
        if (lens[i] < 0) { perror("msgrcv"); return 1; }
    }
    for (int i = 1; i >= 0; i--) {
        messages[i].type++;
        if (msgsnd(queue, &messages[i], lens[i], 0)) { perror("msgsnd"); return 1; }
    }
    return 0;
}
"#;

/// The same in Python.
const PYTHON_PROGRAM: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mq_receive.restype = libc.msgrcv.restype = ctypes.c_ssize_t
def checked(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
scheme, name = sys.argv[1:]
taken = []
if scheme == "mq":
    queue = checked(libc.mq_open(name.encode(), os.O_RDWR))
    for _ in range(2):
        text, priority = ctypes.create_string_buffer(4096), ctypes.c_uint()
        length = checked(libc.mq_receive(queue, text, ctypes.c_size_t(4096), ctypes.byref(priority)))
        taken.append((text.raw[:length], priority.value))
    for text, priority in reversed(taken):
        checked(libc.mq_send(queue, text, ctypes.c_size_t(len(text)), ctypes.c_uint(priority + 1)))
else:
    class Message(ctypes.Structure):
        _fields_ = [("type", ctypes.c_long), ("text", ctypes.c_char * 4096)]
    queue = checked(libc.msgget(ctypes.c_int(int(name)), 0))
    for _ in range(2):
        message = Message()
        length = checked(libc.msgrcv(queue, ctypes.byref(message), ctypes.c_size_t(4096), ctypes.c_long(-1000), 0))
        taken.append((message, length))
    for message, length in reversed(taken):
        message.type += 1
        checked(libc.msgsnd(queue, ctypes.byref(message), ctypes.c_size_t(length), 0))
"#;

/// What runs one of the programs; `None`, with a message, where the system can't.
fn foreigner(language: &str) -> Option<(Command, PathBuf)> {
    let place = std::env::temp_dir().join(fresh_name().as_str());
    fs::create_dir(&place).unwrap();
    let tool = if language == "c" { "cc" } else { "python3" };
    if Command::new(tool).arg("--version").output().is_err() {
        skip(&format!("there is no {tool}"));
        fs::remove_dir_all(place).unwrap();
        return None;
    }
    if language == "python" {
        let program = place.join("program.py");
        fs::write(&program, PYTHON_PROGRAM).unwrap();
        let mut command = Command::new(tool);
        command.arg(program);
        return Some((command, place));
    }
    let (source, program) = (place.join("program.c"), place.join("program"));
    fs::write(&source, C_PROGRAM).unwrap();
    // Old C libraries have the queues in a library apart.
    let compiled = Command::new(tool).arg("-o").arg(&program).arg(&source).arg("-lrt").output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Some((Command::new(program), place))
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn patiently() -> Wait<'static> {
    Wait::timeout(Duration::from_secs(20))
}

#[rstest]
fn a_posix_queue_is_shared_with_other_languages(#[values("c", "python")] language: &str) {
    let Some((mut command, place)) = foreigner(language) else { return };
    let name = Removed::fresh();
    let channel = Mq::new().create(&name.0, &small()).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"low, and binary: \0\xff").unwrap();
    tx.set_priority(7).unwrap();
    tx.send(b"high").unwrap();
    assert_done(&command.args(["mq", &name.path()]).output().unwrap());
    for (text, priority) in [(&b"high"[..], 8), (b"low, and binary: \0\xff", 1)] {
        let message = rx.receive(patiently()).unwrap();
        assert_eq!((&*message, MqReceiver::priority_of(&message)), (text, priority));
    }
    fs::remove_dir_all(place).unwrap();
}

#[rstest]
fn a_system_v_queue_is_shared_with_other_languages(#[values("c", "python")] language: &str) {
    let Some((mut command, place)) = foreigner(language) else { return };
    let name = fresh_name();
    let config = SysvConfig::new().depth(4).max_message_len(128);
    let channel = Sysv::new().create(&name, &config).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for (message_type, text) in [(9, &b"nine, and binary: \0\xff"[..]), (2, b"two")] {
        tx.set_message_type(message_type).unwrap();
        tx.send(text).unwrap();
    }
    assert_done(&command.args(["sysv", &channel.key().to_string()]).output().unwrap());
    // It takes the lowest type first, and sends that last.
    for (message_type, text) in [(10, &b"nine, and binary: \0\xff"[..]), (3, b"two")] {
        let message = rx.receive(patiently()).unwrap();
        assert_eq!((&*message, message.message_type()), (text, message_type));
    }
    Sysv::new().remove(&name).unwrap();
    fs::remove_dir_all(place).unwrap();
}
