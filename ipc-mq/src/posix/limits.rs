//! The kernel's limits on queues, `mq_overview(7)`, and the words for reaching one: which
//! limit, its value, what was asked for, and what raises it.

use super::sys::{self, Geometry};
use crate::limit;
use ipc_core::{ChannelError, OsError};
use nix::errno::Errno;
use std::{fs, mem::size_of};

/// No queue is deeper, whoever makes it (`HARD_MSGMAX`).
const HARD_DEPTH_MAX: usize = 65_536;
/// No message is longer, whoever makes the queue (`HARD_MSGSIZEMAX`).
const HARD_MESSAGE_LEN_MAX: usize = 16_777_216;
/// Priorities below this one exist, and no more (`MQ_PRIO_MAX`).
const PRIORITIES: usize = 32_768;

/// A limit that `/proc/sys/fs/mqueue` shows.
#[derive(Clone, Copy)]
struct Sysctl {
    /// Its file's name.
    name: &'static str,
    /// What the kernel starts with.
    initially: usize,
}

const MSG_MAX: Sysctl = Sysctl { name: "msg_max", initially: 10 };
const MSG_DEFAULT: Sysctl = Sysctl { name: "msg_default", initially: 10 };
const MSGSIZE_MAX: Sysctl = Sysctl { name: "msgsize_max", initially: 8192 };
const MSGSIZE_DEFAULT: Sysctl = Sysctl { name: "msgsize_default", initially: 8192 };
const QUEUES_MAX: Sysctl = Sysctl { name: "queues_max", initially: 256 };

impl Sysctl {
    /// Where `/proc` can't be read, it is taken for untouched.
    fn value(self) -> usize {
        let text = fs::read_to_string(format!("/proc/sys/fs/mqueue/{}", self.name));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(self.initially)
    }
}

/// The depth that the kernel gives to a queue that asks for none.
pub(crate) fn default_depth() -> usize {
    MSG_DEFAULT.value().min(MSG_MAX.value())
}

/// The longest message of a queue that asks for none.
pub(crate) fn default_max_message_len() -> usize {
    MSGSIZE_DEFAULT.value().min(MSGSIZE_MAX.value())
}

/// Why a queue of this geometry could not be made.
pub(crate) fn explain_create(errno: Errno, asked: Geometry) -> ChannelError {
    match errno {
        Errno::EEXIST => ChannelError::AlreadyExists,
        Errno::EINVAL => explain_refused_geometry(asked),
        Errno::EOVERFLOW => ChannelError::Limit(format!(
            "{} messages of {} bytes are more than this system can count: ask for less",
            asked.depth, asked.max_message_len
        )),
        Errno::ENOSPC => ChannelError::Limit(too_many_queues()),
        // The kernel has one error for two limits.
        Errno::EMFILE if !limit::is_out_of_descriptors() => ChannelError::Limit(too_many_bytes(asked)),
        Errno::EACCES | Errno::EPERM => {
            ChannelError::NotPermitted("this process may not make queues here".into())
        }
        other => explain_any("mq_open", other),
    }
}

/// Why a queue could not be opened, where that has nothing to do with its settings.
pub(crate) fn explain_any(call: &'static str, errno: Errno) -> ChannelError {
    if let Some(text) = limit::no_descriptors(errno) {
        return ChannelError::Limit(text);
    }
    match errno {
        Errno::ENOENT => ChannelError::NotFound,
        Errno::ENOMEM => ChannelError::Limit(
            "the kernel has no memory left for the queue: ask for less or free some".into(),
        ),
        Errno::ENOSYS => ChannelError::Unsupported(
            "this kernel has no POSIX message queues: build it with CONFIG_POSIX_MQUEUE \
             or use another kind of channel"
                .into(),
        ),
        other => OsError::new(call, other).into(),
    }
}

/// EINVAL: a figure is above what this process may ask for. CAP_SYS_RESOURCE lifts the
/// sysctls, never the hard maxima, so an answer that names a sysctl is always about a
/// process that is bound by it.
fn explain_refused_geometry(asked: Geometry) -> ChannelError {
    let depth = exceeded("depth", asked.depth, MSG_MAX, HARD_DEPTH_MAX);
    let len = exceeded("maximum message length", asked.max_message_len, MSGSIZE_MAX, HARD_MESSAGE_LEN_MAX);
    let why: Vec<String> = [depth, len].into_iter().flatten().collect();
    if why.is_empty() { explain_any("mq_open", Errno::EINVAL) } else { ChannelError::Limit(why.join("; ")) }
}

fn exceeded(setting: &str, asked: usize, limit: Sysctl, hard_max: usize) -> Option<String> {
    if asked > hard_max {
        return Some(format!(
            "{setting} {asked} exceeds {hard_max}, the most that any queue can have: ask for less"
        ));
    }
    let (name, value) = (limit.name, limit.value());
    (asked > value).then(|| {
        format!(
            "{setting} {asked} exceeds fs.mqueue.{name}, which is {value}: \
             raise it with `sysctl fs.mqueue.{name}={asked}` or ask for less (see `ipc doctor`)"
        )
    })
}

fn too_many_queues() -> String {
    let value = QUEUES_MAX.value();
    format!(
        "the system has its fs.mqueue.queues_max queues, which is {value}: remove some \
         or raise it with `sysctl fs.mqueue.queues_max={}` (see `ipc doctor`)",
        value + 1
    )
}

fn too_many_bytes(asked: Geometry) -> String {
    let needed_bytes = queue_bytes(asked);
    let limit = sys::queue_bytes_limit();
    let value = limit.map_or_else(|| "unknown".into(), |bytes| format!("{bytes} bytes"));
    // What the user's other queues take isn't known, but they fit the limit.
    let enough = limit.unwrap_or(0).saturating_add(needed_bytes);
    format!(
        "the queue needs {needed_bytes} bytes ({} messages of {} bytes and their bookkeeping), which with \
         this user's other queues exceeds RLIMIT_MSGQUEUE, which is {value}: remove some queues, \
         ask for less or raise it with `ulimit -q {enough}` (see `ipc doctor`)",
        asked.depth, asked.max_message_len
    )
}

/// What a queue counts against RLIMIT_MSGQUEUE, by `getrlimit(2)`.
fn queue_bytes(geometry: Geometry) -> u64 {
    // struct msg_msg, struct posix_msg_tree_node: pointers and what is padded to them.
    const MESSAGE_BYTES: usize = 6 * size_of::<usize>();
    const PRIORITY_BYTES: usize = 6 * size_of::<usize>();
    let Geometry { depth, max_message_len } = geometry;
    let payload = depth.saturating_mul(max_message_len);
    let bookkeeping =
        depth.saturating_mul(MESSAGE_BYTES).saturating_add(depth.min(PRIORITIES) * PRIORITY_BYTES);
    payload.saturating_add(bookkeeping) as u64
}

#[cfg(test)]
mod tests {
    use super::{Geometry, queue_bytes};

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_default_queue_counts_as_the_kernel_counts_it() {
        let default = Geometry { depth: 10, max_message_len: 8192 };
        assert_eq!(queue_bytes(default), 82_880);
    }

    #[test]
    fn figures_beyond_all_bounds_are_counted_without_overflow() {
        let endless = Geometry { depth: usize::MAX, max_message_len: usize::MAX };
        assert_eq!(queue_bytes(endless), u64::MAX);
    }
}
