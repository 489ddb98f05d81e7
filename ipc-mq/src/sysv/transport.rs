//! The namespace of this user's System V queues.

use super::{
    SysvChannel, SysvConfig,
    config::Found,
    limits,
    registry::{Registered, Registry, unseen},
    sys::{self, Queue, Status, TYPE_MAX, Wanted},
};
use crate::place::Home;
use ipc_core::{Capabilities, ChannelError, ChannelInfo, ChannelName, PrioritySender, Transport, user};
use nix::{errno::Errno, libc::c_long};
use std::marker::PhantomData;

/// What becomes of a message's type. Sealed: there are [`ByAge`] and [`ByPriority`].
pub trait Discipline: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The type of a sender's messages at first.
    #[doc(hidden)]
    const FIRST_TYPE: c_long;

    /// What a receiver takes at first.
    #[doc(hidden)]
    const FIRST_WANTED: c_long;
}

/// Messages have types, to select by; they are delivered by age.
#[derive(Clone, Copy, Debug)]
pub struct ByAge;

/// Messages have priorities; they are delivered the highest first, equals by age.
#[derive(Clone, Copy, Debug)]
pub struct ByPriority;

impl Discipline for ByAge {
    const FIRST_TYPE: c_long = 1;
    const FIRST_WANTED: c_long = 0;
}

impl Discipline for ByPriority {
    const FIRST_TYPE: c_long = super::sender::type_of_priority(0);
    /// The lowest type first, up to the highest that there is.
    const FIRST_WANTED: c_long = -TYPE_MAX;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ByAge {}
    impl Sealed for super::ByPriority {}
}

/// The System V queues that this user's names stand for.
///
/// Each IPC namespace has names of its own, as it has queues of its own, even where a container
/// shares its directory of names with the system. Which one a thread is in, is asked at each call
/// here, unless it is to open a queue that is found there; it takes `/proc`. The directory has to be
/// this machine's own (it is `/dev/shm/ipc-mq-UID`, or `.mq` in the one that `IPC_DIR` names): nothing
/// tells the names of two machines apart that share a file system.
///
/// Once the directory was found it stays open as long as this or a copy of it lives.
#[derive(Clone, Debug)]
pub struct Sysv<D: Discipline = ByAge> {
    home: Home,
    discipline: PhantomData<fn() -> D>,
}

impl Sysv<ByAge> {
    /// Types to select by, and delivery by age.
    pub fn new() -> Self {
        Self { home: Home::of_user(), discipline: PhantomData }
    }

    /// The signal that ends waits with a deadline or a cancellation on these queues:
    /// `SIGRTMAX - 3`. It is of no concern to programs that don't use this signal, nor are sent it: a
    /// wait that has taken one of somebody else's ends with an error that says so.
    pub fn signal() -> i32 {
        sys::alarm_signal()
    }
}

impl Sysv<ByPriority> {
    /// The message type that a priority is, for a sender that has types. Priorities above
    /// 32767 count as that.
    pub fn type_of_priority(priority: u32) -> u64 {
        let priority = priority.min(<super::SysvSender<ByPriority> as PrioritySender>::MAX_PRIORITY);
        sys::type_number(super::sender::type_of_priority(priority))
    }

    /// Priorities, and delivery of the highest first. These are the same queues: priority 0
    /// is type 32768, 1 is type 32767 and so on, and what has a higher type counts as of
    /// priority 0.
    pub fn by_priority() -> Self {
        Self { home: Home::of_user(), discipline: PhantomData }
    }
}

impl Default for Sysv<ByAge> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D: Discipline> Sysv<D> {
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Of the namespace that this thread is in.
    fn registry(&self) -> Result<Registry<'_>, ChannelError> {
        Registry::new(&self.home)
    }

    /// Gives a name to a queue that another program made.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`] if there is no queue with this key,
    /// [`ChannelError::AlreadyExists`] if the name is taken, [`ChannelError::NotPermitted`]
    /// if we may not look at it, or can't tell whose it is, [`ChannelError::InvalidConfig`] for
    /// key 0, which stands for none.
    pub fn adopt(&self, name: &ChannelName, key: u32) -> Result<SysvChannel<D>, ChannelError> {
        if key == 0 {
            // IPC_PRIVATE: the kernel would make a queue that nobody asked for.
            return Err(ChannelError::InvalidConfig(
                "key 0 stands for no queue that others can find: give the key that it was made with".into(),
            ));
        }
        let queue = Queue::find(key).map_err(|errno| match errno {
            Errno::ENOENT => ChannelError::NotFound,
            other => limits::explain_create(other),
        })?;
        let status = queue.status().map_err(unseen)?;
        if status.is_half_made() {
            return Err(ChannelError::NotFound);
        }
        let creator_uid = status.creator_uid;
        if !user::is_somebody(creator_uid) {
            return Err(ChannelError::NotPermitted(format!(
                "the queue was made by user {creator_uid}, and whoever has its key later might be another one{}",
                user::likeness(creator_uid, creator_uid)
            )));
        }
        let max_message_len = limits::current()?.max_message_len;
        let registered = Registered { key, creator_uid, max_message_len, is_drawn: false };
        self.registry()?.adopt(name, registered)?;
        Ok(channel(name, queue, registered, Some(&status)))
    }
}

impl<D: Discipline> Transport for Sysv<D> {
    type Config = SysvConfig;
    type Channel = SysvChannel<D>;

    const SCHEME: &'static str = "sysv";
    const CAPABILITIES: Capabilities = Capabilities::NONE.with_stores().with_cross_process();

    fn create(&self, name: &ChannelName, config: &SysvConfig) -> Result<SysvChannel<D>, ChannelError> {
        config.validate()?;
        create(&self.registry()?, name, config)
    }

    fn open(&self, name: &ChannelName) -> Result<SysvChannel<D>, ChannelError> {
        let (queue, registered, status) = match Registry::queue_unasked(&self.home, name) {
            Some(found) => found,
            None => found(&self.registry()?, name)?,
        };
        Ok(channel(name, queue, registered, Some(&status)))
    }

    fn open_or_create(
        &self,
        name: &ChannelName,
        config: &SysvConfig,
    ) -> Result<SysvChannel<D>, ChannelError> {
        config.validate()?;
        let matching = |(queue, registered, status)| {
            config.check(settings_of(registered, &status))?;
            Ok(channel(name, queue, registered, Some(&status)))
        };
        if let Some(found) = Registry::queue_unasked(&self.home, name) {
            return matching(found);
        }
        let registry = self.registry()?;
        loop {
            if let Some(found) = registry.queue(name)? {
                return matching(found);
            }
            match create(&registry, name, config) {
                Err(ChannelError::AlreadyExists) => {}
                answer => return answer,
            }
        }
    }

    /// Removes the queue at once, with what is in it: who waits in it is told
    /// [`Closed`](ipc_core::RecvError::Closed).
    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        self.registry()?.remove(name)
    }

    /// Those that have a name of this user's; [`all_queues`](Self::all_queues) has the
    /// others.
    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        let registry = self.registry()?;
        let mut names = registry.names()?;
        // What can't be read is listed too, so that it is seen.
        names.retain(|name| !matches!(registry.queue(name), Ok(None)));
        Ok(names)
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let registry = self.registry()?;
        let (_, registered, status) = found(&registry, name)?;
        let max_message_len = max_message_len(registered, Some(&status)) as u64;
        let mut info = ChannelInfo::new("sysv-queue");
        info.path = Some(registry.path(name));
        info.key = Some(status.key);
        info.capacity_bytes = Some(status.capacity_bytes);
        info.depth = Some(status.capacity_bytes / max_message_len.max(1));
        info.max_message_len_bytes = Some(max_message_len);
        info.queued_messages = Some(status.queued_messages);
        info.mode = Some(status.mode);
        info.uid = Some(status.uid);
        Ok(info)
    }
}

fn create<D: Discipline>(
    registry: &Registry<'_>,
    name: &ChannelName,
    config: &SysvConfig,
) -> Result<SysvChannel<D>, ChannelError> {
    let wish = config.wish(limits::current()?)?;
    let (queue, registered) = registry.create(name, wish)?;
    Ok(channel(name, queue, registered, None))
}

fn found(registry: &Registry<'_>, name: &ChannelName) -> Result<(Queue, Registered, Status), ChannelError> {
    registry.queue(name)?.ok_or(ChannelError::NotFound)
}

fn channel<D: Discipline>(
    name: &ChannelName,
    queue: Queue,
    registered: Registered,
    status: Option<&Status>,
) -> SysvChannel<D> {
    SysvChannel::new(name.clone(), queue, registered.key, max_message_len(registered, status))
}

/// A message longer than the queue's room would wait for ever.
fn max_message_len(registered: Registered, status: Option<&Status>) -> usize {
    let room =
        status.map_or(usize::MAX, |status| usize::try_from(status.capacity_bytes).unwrap_or(usize::MAX));
    registered.max_message_len.min(room)
}

fn settings_of(registered: Registered, status: &Status) -> Found {
    Found {
        capacity_bytes: status.capacity_bytes,
        max_message_len: max_message_len(registered, Some(status)),
        mode: status.mode,
    }
}

impl Wanted {
    pub(crate) fn first<D: Discipline>() -> Self {
        Self { message_type: D::FIRST_WANTED, except: false }
    }
}
