//! The kernel's limits on queues, `msgget(2)`, `msgop(2)`, `msgctl(2)` and
//! `sysctl_kernel(5)`, and the words for reaching one.

use super::sys::{self, Limits};
use ipc_core::{ChannelError, OsError};
use nix::errno::Errno;

/// What they are now.
pub(crate) fn current() -> Result<Limits, ChannelError> {
    sys::limits().map_err(|errno| match errno {
        Errno::ENOSYS => explain_create(errno),
        other => OsError::new("msgctl", other).into(),
    })
}

impl Limits {
    /// The longest message of a queue that asks for none: one that fits.
    pub(crate) fn default_max_message_len(self) -> usize {
        self.max_message_len.min(self.capacity_bytes)
    }

    /// Refuses messages longer than the kernel takes.
    pub(crate) fn check_max_message_len(self, asked: usize) -> Result<(), ChannelError> {
        let value = self.max_message_len;
        if asked <= value {
            return Ok(());
        }
        Err(ChannelError::Limit(format!(
            "maximum message length {asked} exceeds kernel.msgmax, which is {value}: \
             raise it with `sysctl kernel.msgmax={asked}` or ask for less (see `ipc doctor`)"
        )))
    }
}

/// Why a queue could not be made.
pub(crate) fn explain_create(errno: Errno) -> ChannelError {
    match errno {
        Errno::ENOSPC => ChannelError::Limit(too_many_queues()),
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

fn too_many_queues() -> String {
    let known = sys::limits().map(|limits| (limits.queues.to_string(), (limits.queues + 1).to_string()));
    let (value, more) = known.unwrap_or_else(|_| ("unknown".into(), "N".into()));
    format!(
        "the system has its kernel.msgmni queues, which is {value}: remove some (`ipc ls --all` shows them) \
         or raise it with `sysctl kernel.msgmni={more}` (see `ipc doctor`)"
    )
}

/// Why a queue could not get its room.
pub(crate) fn explain_capacity(errno: Errno, asked_bytes: u64) -> ChannelError {
    match errno {
        Errno::EPERM => {
            let known = sys::limits().map(|limits| limits.capacity_bytes.to_string());
            ChannelError::Limit(format!(
                "room for {asked_bytes} bytes exceeds kernel.msgmnb, which is {}: \
                 raise it with `sysctl kernel.msgmnb={asked_bytes}` or ask for less (see `ipc doctor`)",
                known.unwrap_or_else(|_| "unknown".into())
            ))
        }
        other => OsError::new("msgctl", other).into(),
    }
}

/// Why the kernel takes a message no more that it took before. `None` if it would take it now.
pub(crate) fn explain_refused_message(len: usize) -> Result<Option<OsError>, Errno> {
    let value = sys::limits()?.max_message_len;
    Ok((len > value).then(|| {
        OsError::new(
            "msgsnd",
            std::io::Error::other(format!(
                "a message of {len} bytes exceeds kernel.msgmax, which was lowered to {value}: \
                 raise it with `sysctl kernel.msgmax={len}` or send shorter ones (see `ipc doctor`)"
            )),
        )
    }))
}

/// Why the kernel shows no copy of a message of up to `most` bytes. `None` if it would show it now.
pub(crate) fn explain_refused_copy(most: usize) -> Result<Option<OsError>, Errno> {
    let value = sys::limits()?.max_message_len;
    Ok((most > value).then(|| {
        OsError::new(
            "msgrcv",
            std::io::Error::other(format!(
                "the message exceeds kernel.msgmax, which was lowered to {value}, and can't be looked at: \
                 raise it with `sysctl kernel.msgmax={most}` or receive the message (see `ipc doctor`)"
            )),
        )
    }))
}
