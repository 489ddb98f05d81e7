//! The kernel's limits on queues, `msgget(2)`, `msgop(2)` and `sysctl_kernel(5)`, and the
//! words for reaching one.

use ipc_core::{ChannelError, OsError};
use nix::errno::Errno;
use std::fs;

/// The longest message, in bytes (`kernel.msgmax`).
pub(crate) fn max_message_len() -> usize {
    value("msgmax", 8192)
}

/// The room of a queue, in bytes (`kernel.msgmnb`).
pub(crate) fn capacity_bytes() -> usize {
    value("msgmnb", 16_384)
}

/// Where `/proc` can't be read, it is taken for untouched.
fn value(name: &str, initially: usize) -> usize {
    let text = fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(initially)
}

/// Refuses messages longer than the kernel takes.
pub(crate) fn check_max_message_len(asked: usize) -> Result<(), ChannelError> {
    let value = max_message_len();
    if asked <= value {
        return Ok(());
    }
    Err(ChannelError::Limit(format!(
        "maximum message length {asked} exceeds kernel.msgmax, which is {value}: \
         raise it with `sysctl kernel.msgmax={asked}` or ask for less (see `ipc doctor`)"
    )))
}

/// Why a queue could not be made.
pub(crate) fn explain_create(errno: Errno) -> ChannelError {
    match errno {
        Errno::ENOSPC => {
            let value = value("msgmni", 32_000);
            ChannelError::Limit(format!(
                "the system has its kernel.msgmni queues, which is {value}: remove some (`ipc ls --all` shows them) \
                 or raise it with `sysctl kernel.msgmni={}` (see `ipc doctor`)",
                value + 1
            ))
        }
        Errno::ENOMEM => ChannelError::Limit("the kernel has no memory left for the queue: free some".into()),
        Errno::ENOSYS => ChannelError::Unsupported(
            "this kernel has no System V queues: build it with CONFIG_SYSVIPC or use another kind of channel"
                .into(),
        ),
        Errno::EACCES | Errno::EPERM => {
            ChannelError::NotPermitted("this process may not make queues here".into())
        }
        other => OsError::new("msgget", other).into(),
    }
}

/// Why a queue could not get its room.
pub(crate) fn explain_capacity(errno: Errno, asked_bytes: u64) -> ChannelError {
    match errno {
        Errno::EPERM => ChannelError::Limit(format!(
            "room for {asked_bytes} bytes exceeds kernel.msgmnb, which is {}: \
             raise it with `sysctl kernel.msgmnb={asked_bytes}` or ask for less (see `ipc doctor`)",
            capacity_bytes()
        )),
        other => OsError::new("msgctl", other).into(),
    }
}
