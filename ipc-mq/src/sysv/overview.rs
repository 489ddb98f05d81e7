//! All queues of the system, ours and others': what was leaked can be found and removed.

use super::{
    alarm::gone_or,
    registry::Registry,
    sys::{self, Queue},
    transport::{Discipline, Sysv},
};
use ipc_core::{ChannelError, ChannelName, OsError};
use nix::errno::Errno;

/// A System V queue as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SysvQueue {
    /// The kernel's number for it.
    pub id: i32,
    /// Its key; 0 for a private one.
    pub key: u32,
    /// The channel that it belongs to, if it is one of ours: not if its maker was killed before it was
    /// done.
    pub name: Option<ChannelName>,
    /// Its owner.
    pub uid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Messages in it.
    pub queued_messages: u64,
    /// Bytes in it.
    pub queued_bytes: u64,
    /// Room, in bytes.
    pub capacity_bytes: u64,
    /// The process that sent last, 0 if none did. For people to read.
    pub last_sender_pid: u32,
    /// The process that received last, 0 if none did. For people to read.
    pub last_receiver_pid: u32,
}

impl<D: Discipline> Sysv<D> {
    /// Every queue of the system (of this IPC namespace, in a container), whoever made it,
    /// by number.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Unsupported`] where the kernel has no such queues.
    pub fn all_queues(&self) -> Result<Vec<SysvQueue>, ChannelError> {
        let registry = Registry::new(self.home())?;
        let all = sys::all().map_err(|errno| match errno {
            Errno::ENOSYS => super::limits::explain_create(errno),
            other => OsError::new("msgctl", other).into(),
        })?;
        let names = registry.names()?;
        // By number: under a key of ours there may be what its maker was killed over, or a stranger's.
        let id_of = |name: &ChannelName| registry.queue(name).ok().flatten().map(|(queue, ..)| queue.0);
        let ours: Vec<(i32, &ChannelName)> =
            names.iter().filter_map(|name| Some((id_of(name)?, name))).collect();
        let named = |id: i32| ours.iter().find(|(ours, _)| *ours == id).map(|(_, name)| (*name).clone());
        let mut queues: Vec<SysvQueue> = all
            .into_iter()
            .map(|(queue, status)| SysvQueue {
                id: queue.0,
                key: status.key,
                name: named(queue.0),
                uid: status.uid,
                mode: status.mode,
                queued_messages: status.queued_messages,
                queued_bytes: status.queued_bytes,
                capacity_bytes: status.capacity_bytes,
                last_sender_pid: status.last_sender_pid,
                last_receiver_pid: status.last_receiver_pid,
            })
            .collect();
        queues.sort_by_key(|queue| queue.id);
        Ok(queues)
    }

    /// Removes a queue by its number, named or not. Who waits in it is told.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; [`ChannelError::NotPermitted`] if it is somebody else's.
    pub fn remove_queue(&self, id: i32) -> Result<(), ChannelError> {
        Queue(id).remove().map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => ChannelError::NotPermitted(format!(
                "queue {id} belongs to somebody else: only its owner or root may remove it"
            )),
            other => gone_or("msgctl", other),
        })
    }
}
