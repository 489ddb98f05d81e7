//! The namespace of the kernel's queues: made, opened, removed by `mq_open(3)` and
//! `mq_unlink(3)`.

use super::{
    MqChannel, MqConfig, limits, list,
    sys::{self, Access, Attributes, Queue},
};
use ipc_core::{Capabilities, ChannelError, ChannelInfo, ChannelName, OsError, Transport, user};
use nix::{errno::Errno, sys::stat::FileStat, unistd::geteuid};
use std::{
    ffi::{CStr, CString},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The POSIX queues of this machine (of this IPC namespace, in a container).
///
/// The kernel has one set of names for all users, and whoever is the first to make a queue has the
/// name. So only this user's queues are opened, root's, and those of users that are
/// [trusted](Self::trusting); whose it is, is asked of the queue that was opened.
#[derive(Clone, Debug, Default)]
pub struct Mq {
    /// Users besides this one and root whose queues are opened.
    trusted_uids: Arc<[u32]>,
}

impl Mq {
    /// The kernel has one set of queues; this stands for it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, where these users' queues are opened besides our own, if their modes permit it: who
    /// owns a queue can hear and say whatever goes through it.
    #[must_use]
    pub fn trusting(self, uids: impl IntoIterator<Item = u32>) -> Self {
        Self { trusted_uids: uids.into_iter().collect() }
    }

    /// Opens the queue for whatever is permitted, if its owner is trusted, and says what for.
    fn open_trusted(&self, name: &ChannelName) -> Result<(Queue, Access), ChannelError> {
        let (queue, access) = open_any(name)?;
        let (owner, uid) = (queue.status()?.st_uid, || geteuid().as_raw());
        if owner == 0 || user::is_same(owner, uid()) || self.trusted_uids.contains(&owner) {
            return Ok((queue, access));
        }
        Err(ChannelError::NotPermitted(format!(
            "the queue belongs to user {owner}, we are user {}: only one's own queues are opened, root's, \
             and those of users that one is told to trust{}",
            uid(),
            user::likeness(owner, uid())
        )))
    }
}

impl Transport for Mq {
    type Config = MqConfig;
    type Channel = MqChannel;

    const SCHEME: &'static str = "mq";
    const CAPABILITIES: Capabilities = Capabilities::NONE.with_stores().with_cross_process();

    fn create(&self, name: &ChannelName, config: &MqConfig) -> Result<MqChannel, ChannelError> {
        config.validate()?;
        let (path, mode) = (queue_path(name), config.mode_or_default());
        let queue = Queue::create(&path, mode, config.geometry())
            .map_err(|errno| limits::explain_create(errno, config.geometry_or_default()))?;
        set_exact_mode(&queue, mode).inspect_err(|_| {
            // Without its mode it is not the queue that was asked for.
            let _ = sys::unlink(&path);
        })?;
        let access = match mode & 0o600 {
            0o600 => Some(Access::Both),
            // The maker's descriptor can do more than its queue's mode permits.
            _ => permitted(&path).ok().map(|(_, access)| access),
        };
        Ok(MqChannel::new(name.clone(), queue, access))
    }

    fn open(&self, name: &ChannelName) -> Result<MqChannel, ChannelError> {
        let (queue, access) = self.open_trusted(name)?;
        Ok(MqChannel::new(name.clone(), queue, Some(access)))
    }

    fn open_or_create(&self, name: &ChannelName, config: &MqConfig) -> Result<MqChannel, ChannelError> {
        config.validate()?;
        loop {
            match self.open_trusted(name) {
                Ok((queue, access)) => return matching(name, config, queue, access),
                Err(ChannelError::NotFound) => {}
                Err(error) => return Err(error),
            }
            match self.create(name, config) {
                Err(ChannelError::AlreadyExists) => {}
                answer => return answer,
            }
        }
    }

    /// Takes the name away. Who has the queue open keeps it, with what is in it, and
    /// nobody is told; the last one to close it ends it.
    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        sys::unlink(&queue_path(name)).map_err(|errno| match errno {
            Errno::ENOENT => ChannelError::NotFound,
            Errno::EACCES | Errno::EPERM => {
                not_permitted(name, "only its owner or root may remove the queue")
            }
            other => OsError::new("mq_unlink", other).into(),
        })
    }

    /// Needs `/dev/mqueue` to be mounted, with the queues of this IPC namespace, or CAP_SYS_ADMIN.
    /// Whose are mounted can't be told where there are none, or none that we may open. Queues of other programs whose
    /// names are no [`ChannelName`]s are left out.
    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        list::names()
    }

    /// Needs the permission to receive or to send, whoever made the queue.
    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let (queue, _) = open_any(name)?;
        let Attributes { geometry, queued_messages } = queue.attributes()?;
        let status = queue.status()?;
        let (depth, max_message_len) = (geometry.depth as u64, geometry.max_message_len as u64);
        let mut info = ChannelInfo::new("posix-queue");
        info.path = list::visible_path(name, &status);
        info.capacity_bytes = Some(depth.saturating_mul(max_message_len));
        info.depth = Some(depth);
        info.max_message_len_bytes = Some(max_message_len);
        info.queued_messages = Some(queued_messages);
        info.mode = Some(permission_bits(&status));
        info.uid = Some(status.st_uid);
        Ok(info)
    }
}

/// The queue of a channel is called `/` and the channel's name.
pub(crate) fn queue_path(name: &ChannelName) -> CString {
    CString::new(format!("/{name}")).expect("a channel name holds no NUL")
}

/// Opens the queue for whatever is permitted, and says what for.
fn open_any(name: &ChannelName) -> Result<(Queue, Access), ChannelError> {
    permitted(&queue_path(name)).map_err(|errno| match errno {
        Errno::EACCES => {
            not_permitted(name, "this process may neither receive from the queue nor send to it")
        }
        other => limits::explain_any("mq_open", other),
    })
}

fn permitted(path: &CStr) -> Result<(Queue, Access), Errno> {
    for access in [Access::Both, Access::Receive] {
        match Queue::open(path, access) {
            Err(Errno::EACCES) => {}
            answer => return Ok((answer?, access)),
        }
    }
    Queue::open(path, Access::Send).map(|queue| (queue, Access::Send))
}

/// The channel of an existing queue, if it is what `config` asks for.
fn matching(
    name: &ChannelName,
    config: &MqConfig,
    queue: Queue,
    access: Access,
) -> Result<MqChannel, ChannelError> {
    if config.geometry().is_some() {
        config.check_geometry(queue.geometry()?)?;
    }
    if config.asks_for_a_mode() {
        check_settled_mode(config, &queue)?;
    }
    Ok(MqChannel::new(name.clone(), queue, Some(access)))
}

/// Between a creator's `mq_open` and its `fchmod`, the queue has less than its mode, so a
/// wrong one is looked at again for a moment.
fn check_settled_mode(config: &MqConfig, queue: &Queue) -> Result<(), ChannelError> {
    const SETTLING: Duration = Duration::from_millis(20);
    let until = Instant::now() + SETTLING;
    loop {
        let answer = config.check_mode(permission_bits(&queue.status()?));
        if answer.is_ok() || Instant::now() >= until {
            return answer;
        }
        thread::sleep(SETTLING / 20);
    }
}

/// Gives back what the umask took. Until then the queue has less than it was meant to have,
/// never more.
fn set_exact_mode(queue: &Queue, mode: u32) -> Result<(), OsError> {
    if permission_bits(&queue.status()?) == mode { Ok(()) } else { queue.set_mode(mode) }
}

fn permission_bits(status: &FileStat) -> u32 {
    status.st_mode & 0o7777
}

/// The refusal, and whose queue it is as far as that can be seen from outside.
pub(crate) fn not_permitted(name: &ChannelName, refusal: &str) -> ChannelError {
    let whose = list::status(name).map_or_else(String::new, |status| {
        let (uid, mode) = (status.st_uid, permission_bits(&status));
        format!(" (it belongs to user {uid} and has mode {mode:04o})")
    });
    ChannelError::NotPermitted(format!("{refusal}{whose}"))
}
