//! The kernel's queues, `mq_overview(7)` and `sysctl_kernel(5)`.

use super::{
    Finding, at_least,
    limits::{Raise, is_nearly_all},
    sysctl,
};
use ipc_core::Transport;
use ipc_mq::{Mq, Sysv};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::path::Path;

/// What a POSIX queue of 10 messages of 8 KiB counts against RLIMIT_MSGQUEUE.
const DEFAULT_QUEUE_BYTES: u64 = 82_880;
/// So many queues a user should have.
const ENOUGH_QUEUES: u64 = 8;

pub(super) fn posix() -> Vec<Finding> {
    if !Path::new("/proc/sys/fs/mqueue").is_dir() && ipc_mq_is_missing() {
        return vec![Finding::missing(
            "POSIX message queues",
            "this kernel has none, so there are no mq: channels; sysv: and unix: ones may do",
            "build the kernel with CONFIG_POSIX_MQUEUE",
        )];
    }
    vec![
        at_least("fs.mqueue.msg_max", 10, "the greatest --depth of a mq: channel for an ordinary user"),
        at_least(
            "fs.mqueue.msgsize_max",
            8192,
            "the greatest --max-message of a mq: channel for an ordinary user, in bytes",
        ),
        at_least("fs.mqueue.msg_default", 1, "the depth of a mq: channel that asks for none"),
        at_least("fs.mqueue.msgsize_default", 1, "the longest message of one that asks for none, in bytes"),
        queues_max(),
        bytes_of_user(),
        mount_point(),
    ]
}

/// Whether the kernel says that it has no such thing.
fn ipc_mq_is_missing() -> bool {
    let name = ipc_core::ChannelName::new("ipc-doctor").ok();
    name.is_some_and(|name| matches!(Mq::new().open(&name), Err(ipc_core::ChannelError::Unsupported(_))))
}

fn queues_max() -> Finding {
    const NAME: &str = "fs.mqueue.queues_max";
    let meaning = "how many mq: channels the system can have (this IPC namespace, in a container)";
    let Some(most) = sysctl(NAME) else {
        return Finding::unknown(NAME, format!("/proc doesn't show it; {meaning}"));
    };
    let used = Mq::new().list().ok().map(|names| names.len() as u64);
    let shown = used.map_or_else(|| most.to_string(), |used| format!("{most}, of which {used} are used"));
    let finding = Finding::fine(NAME, shown, meaning);
    match used {
        Some(used) if is_nearly_all(used, most) => {
            finding.short(format!("ipc rm mq:NAME  or  sysctl {NAME}={}", most.saturating_mul(2)))
        }
        _ => finding,
    }
}

fn bytes_of_user() -> Finding {
    const NAME: &str = "RLIMIT_MSGQUEUE";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MSGQUEUE) else {
        return Finding::unknown(NAME, "the bytes in all mq: channels of a user can't be told");
    };
    if soft == RLIM_INFINITY {
        return Finding::fine(NAME, "unlimited", "the bytes in all mq: channels of a user");
    }
    let fit = soft / DEFAULT_QUEUE_BYTES;
    let meaning = format!(
        "the bytes in all mq: channels of a user, bookkeeping included: {fit} of 10 messages of 8 KiB fit"
    );
    let finding = Finding::fine(NAME, format!("{soft} bytes"), meaning);
    let raise = Raise::new("-q", "msgqueue");
    if fit >= ENOUGH_QUEUES {
        return finding.with_command(raise.to(soft.saturating_mul(2), hard));
    }
    finding.short(raise.to((ENOUGH_QUEUES + 1) * DEFAULT_QUEUE_BYTES, hard))
}

fn mount_point() -> Finding {
    const NAME: &str = "/dev/mqueue";
    const MOUNT: &str = "mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue";
    if super::mounts::find(NAME).is_some_and(|mount| mount.kind == "mqueue") {
        return Finding::fine(
            NAME,
            "mounted",
            "`ipc ls` shows mq: channels, and `ls -l /dev/mqueue` all queues",
        );
    }
    let listed = match Mq::new().list() {
        Ok(_) => "this user sees the queues without it, others don't",
        Err(_) => "`ipc ls` can't show mq: channels",
    };
    let meaning = format!("it isn't mounted: channels work, but {listed}");
    Finding::fine(NAME, "not mounted", meaning).short(MOUNT)
}

pub(super) fn system_v() -> Vec<Finding> {
    let queues = match Sysv::new().all_queues() {
        Err(error @ ipc_core::ChannelError::Unsupported(_)) => {
            let command = "build the kernel with CONFIG_SYSVIPC";
            return vec![Finding::missing("System V message queues", error.to_string(), command)];
        }
        answer => answer.ok().map(|queues| queues.len() as u64),
    };
    vec![
        at_least("kernel.msgmax", 8192, "the longest message of a sysv: channel, in bytes"),
        at_least("kernel.msgmnb", 16_384, "the room of a sysv: channel for an ordinary user, in bytes"),
        system_v_queues(queues),
    ]
}

fn system_v_queues(used: Option<u64>) -> Finding {
    const NAME: &str = "kernel.msgmni";
    let meaning = "how many System V queues the system can have; who leaves them shows `ipc ls --all`";
    let Some(most) = sysctl(NAME) else {
        return Finding::unknown(NAME, format!("/proc doesn't show it; {meaning}"));
    };
    let shown = used.map_or_else(|| most.to_string(), |used| format!("{most}, of which {used} are used"));
    let finding = Finding::fine(NAME, shown, meaning);
    match used {
        Some(used) if is_nearly_all(used, most) => {
            let more = most.saturating_mul(2).max(64);
            finding.short(format!("ipc rm --sysv-id ID  or  sysctl {NAME}={more}"))
        }
        _ => finding,
    }
}
