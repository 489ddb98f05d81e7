//! Which key a name stands for: one symbolic link a name, in this user's own directory, whose
//! text says it.
//!
//! `ftok(3)` makes keys of inode numbers, so that two names may get one key and a file that
//! is replaced gets another. Here the key is drawn at random, from those that `ftok` never
//! makes (its uppermost byte is the project, which isn't 0), and the kernel says whether it
//! is free (`IPC_EXCL`). It is written down *before* the queue is made: a process that is
//! killed in between leaves a name without a queue, which counts as none and is used again,
//! never a queue without a name.
//!
//! A queue whose room isn't the kernel's choice takes two calls to make. Between them it has
//! the mode of [`Queue::half_made`], which permits nothing and which no finished queue has: it
//! counts as none. Makers have a lock, so one that finds such a queue knows that its maker is
//! dead, and removes it.
//!
//! The kernel has queues of its own in each IPC namespace (`ipc_namespaces(7)`), but several may see
//! one directory: a container that shares `/dev/shm`, a chosen `IPC_DIR`. So the namespace's number is
//! a part of the link's name, `sysv.4026531839:orders` in the first one: each has names of its own,
//! and none takes away what leads to another's queues. Nobody outside can tell whether a namespace
//! has ended, so the links of one that has stay; the kernel gives its number to a later one, where
//! they are names without queues. It tells namespaces of one machine apart, not machines: the first one
//! has the same number everywhere. So the directory has to be this machine's own; on a file system that
//! several share, each would take the others' names for ones without queues, and give them anew.
//!
//! To ask for the number takes longer than all else that it takes to open a queue. So it is first
//! supposed that this thread's namespace is the one that the process was last told of, and what is
//! found says whether that holds: the kernel looks for the key in this thread's namespace, and a key
//! that was drawn at random for a queue of this user's, out of fifteen million, is that of no other. By
//! the same, a queue that is there is told from one that is gone. Where nothing is found the number is
//! asked for; and so it is for a key that we didn't draw, which a program may give to its queues in
//! each namespace, and for all that changes names.

use super::{
    alarm::gone_or,
    limits,
    sys::{Queue, Status},
};
use crate::place::{Home, LockedFolder, values};
use ipc_core::{ChannelError, ChannelName, OsError, user};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, readlinkat},
    sys::stat::fstatat,
};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The names of one user's queues in the IPC namespace of this thread.
#[derive(Clone, Debug)]
pub(crate) struct Registry<'a> {
    home: &'a Home,
    /// What the names of the links begin with.
    prefix: String,
}

/// What is written down about a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) key: u32,
    /// Who made the queue: it is believed to be ours only if the kernel says the same.
    pub(crate) creator_uid: u32,
    pub(crate) max_message_len: usize,
    /// Whether the key was drawn for this queue; else it is whatever its maker chose.
    pub(crate) is_drawn: bool,
}

/// How a new queue is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) max_message_len: usize,
    pub(crate) mode: u32,
    /// `None` is the kernel's choice.
    pub(crate) capacity_bytes: Option<u64>,
}

/// What there is of a queue that was written down.
enum State {
    /// It is gone, or was never made, or somebody else has its key now.
    Missing,
    /// Somebody is about to make it, or was killed doing so.
    HalfMade(Queue),
    Made(Queue, Status),
}

impl<'a> Registry<'a> {
    /// Only for what is done at once: a thread can go to another namespace.
    pub(crate) fn new(home: &'a Home) -> Result<Self, ChannelError> {
        let namespace = namespace()?;
        LAST_NAMESPACE.store(namespace, Relaxed);
        Ok(Self::of(home, namespace))
    }

    fn of(home: &'a Home, namespace: u64) -> Self {
        Self { home, prefix: format!("sysv.{namespace}:") }
    }

    /// The queue of this name, where it can be told without asking for the namespace that it is this
    /// thread's. Where it can't, `None`, it is to be asked, and whatever went wrong is met again.
    pub(crate) fn queue_unasked(home: &'a Home, name: &ChannelName) -> Option<(Queue, Registered, Status)> {
        let last = Some(LAST_NAMESPACE.load(Relaxed)).filter(|&last| last != 0)?;
        let found = Self::of(home, last).queue(name).ok()?;
        found.filter(|(_, registered, _)| registered.is_drawn)
    }

    pub(crate) fn path(&self, name: &ChannelName) -> PathBuf {
        self.home.path().join(self.entry(name))
    }

    /// What the link of a name is called.
    fn entry(&self, name: &ChannelName) -> String {
        format!("{}{name}", self.prefix)
    }

    /// All names, those without a queue too.
    pub(crate) fn names(&self) -> Result<Vec<ChannelName>, ChannelError> {
        self.home.open()?.map_or(Ok(Vec::new()), |folder| folder.names(&self.prefix))
    }

    /// What is written down under this name.
    pub(crate) fn find(&self, name: &ChannelName) -> Result<Option<Registered>, ChannelError> {
        let Some(folder) = self.home.open()? else { return Ok(None) };
        folder.text(&self.entry(name))?.map(|text| parse(&text).ok_or_else(|| self.corrupt(name))).transpose()
    }

    /// The queue of this name, if there is one, and how it is.
    pub(crate) fn queue(
        &self,
        name: &ChannelName,
    ) -> Result<Option<(Queue, Registered, Status)>, ChannelError> {
        let Some(registered) = self.find(name)? else { return Ok(None) };
        match look(registered)? {
            State::Made(queue, status) => Ok(Some((queue, registered, status))),
            State::HalfMade(_) | State::Missing => Ok(None),
        }
    }

    /// Makes a queue under this name.
    pub(crate) fn create(&self, name: &ChannelName, wish: Wish) -> Result<(Queue, Registered), ChannelError> {
        let folder = self.home.lock_or_make()?;
        let Wish { max_message_len, .. } = wish;
        loop {
            let (key, creator_uid) = (random_key()?, folder.uid());
            let registered = Registered { key, creator_uid, max_message_len, is_drawn: true };
            match self.write(&folder, name, registered) {
                Ok(()) => {}
                Err(ChannelError::AlreadyExists) => {
                    self.make_way(&folder, name)?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            match make(registered.key, wish) {
                Ok(Some(queue)) => return Ok((queue, registered)),
                // Somebody else has this key: draw another one.
                Ok(None) => folder.unlink(&self.entry(name))?,
                Err(error) => {
                    folder.unlink(&self.entry(name))?;
                    return Err(error);
                }
            }
        }
    }

    /// Gives a name to a queue that exists, whoever made it.
    pub(crate) fn adopt(&self, name: &ChannelName, registered: Registered) -> Result<(), ChannelError> {
        let folder = self.home.lock_or_make()?;
        match self.write(&folder, name, registered) {
            Err(ChannelError::AlreadyExists) => {
                self.make_way(&folder, name)?;
                self.write(&folder, name, registered)
            }
            answer => answer,
        }
    }

    /// Removes the queue and its name, or neither.
    pub(crate) fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        let folder = self.home.lock()?.ok_or(ChannelError::NotFound)?;
        let state = self.state(&folder, name);
        if matches!(state, Ok(Some(_))) {
            folder.check_removable(&self.entry(name))?;
        }
        let found = match state {
            Ok(Some(State::Made(queue, _))) => remove(queue).map(|()| true)?,
            Ok(Some(State::HalfMade(queue))) => remove(queue).map(|()| false)?,
            Ok(Some(State::Missing)) => false,
            // It leads to no queue.
            Err(ChannelError::Corrupt(_)) => true,
            Ok(None) => return Err(ChannelError::NotFound),
            Err(error) => return Err(error),
        };
        folder.unlink(&self.entry(name))?;
        if found { Ok(()) } else { Err(ChannelError::NotFound) }
    }

    /// Sees to it that nothing is under this name; what a killed process left is taken away.
    fn make_way(&self, folder: &LockedFolder, name: &ChannelName) -> Result<(), ChannelError> {
        match self.state(folder, name)? {
            Some(State::Made(..)) => return Err(ChannelError::AlreadyExists),
            Some(State::HalfMade(queue)) => remove(queue)?,
            Some(State::Missing) | None => {}
        }
        folder.unlink(&self.entry(name))
    }

    fn state(&self, folder: &LockedFolder, name: &ChannelName) -> Result<Option<State>, ChannelError> {
        let Some(text) = folder.text(&self.entry(name))? else { return Ok(None) };
        look(parse(&text).ok_or_else(|| self.corrupt(name))?).map(Some)
    }

    fn write(
        &self,
        folder: &LockedFolder,
        name: &ChannelName,
        registered: Registered,
    ) -> Result<(), ChannelError> {
        folder.publish_text(&self.entry(name), &text_of(registered))
    }

    fn corrupt(&self, name: &ChannelName) -> ChannelError {
        let path = self.path(name);
        ChannelError::Corrupt(format!("{} doesn't say which queue it is: remove it", path.display()))
    }
}

/// Looks for the queue that was written down.
fn look(registered: Registered) -> Result<State, ChannelError> {
    let queue = match Queue::find(registered.key) {
        Ok(queue) => queue,
        Err(Errno::ENOENT) => return Ok(State::Missing),
        Err(errno) => return Err(limits::explain_create(errno)),
    };
    let status = match queue.status() {
        Ok(status) => status,
        Err(Errno::EIDRM | Errno::EINVAL) => return Ok(State::Missing),
        Err(errno) => return Err(unseen(errno)),
    };
    Ok(match user::is_same(status.creator_uid, registered.creator_uid) {
        true if status.is_half_made() => State::HalfMade(queue),
        true => State::Made(queue, status),
        false => State::Missing,
    })
}

/// Why a queue can't be looked at.
pub(crate) fn unseen(errno: Errno) -> ChannelError {
    match errno {
        Errno::EACCES => ChannelError::NotPermitted(
            "before Linux 4.17 only who may receive from a queue sees whose it is, and we may not".into(),
        ),
        other => gone_or("msgctl", other),
    }
}

/// Makes a queue; `None` if the key is taken.
fn make(key: u32, wish: Wish) -> Result<Option<Queue>, ChannelError> {
    let made = match wish.capacity_bytes {
        None => Queue::create(key, wish.mode),
        Some(_) => Queue::half_made(key),
    };
    let queue = match made {
        Ok(queue) => queue,
        Err(Errno::EEXIST) => return Ok(None),
        Err(errno) => return Err(limits::explain_create(errno)),
    };
    let Some(bytes) = wish.capacity_bytes else { return Ok(Some(queue)) };
    match queue.settle(wish.mode, bytes) {
        Ok(()) => Ok(Some(queue)),
        Err(errno) => {
            remove(queue)?;
            Err(limits::explain_capacity(errno, bytes))
        }
    }
}

fn remove(queue: Queue) -> Result<(), ChannelError> {
    match queue.remove() {
        Ok(()) | Err(Errno::EIDRM | Errno::EINVAL) => Ok(()),
        Err(Errno::EPERM | Errno::EACCES) => {
            Err(ChannelError::NotPermitted("only the queue's owner or root may remove it".into()))
        }
        Err(errno) => Err(OsError::new("msgctl", errno).into()),
    }
}

/// What the last thread that asked was told. Nobody says when a thread's namespace changes
/// (`unshare(2)`, `setns(2)`), nor is it all threads': it is a supposition. 0 is none.
static LAST_NAMESPACE: AtomicU64 = AtomicU64::new(0);

/// The number of the IPC namespace that this thread is in: what it calls a queue by is one of that
/// namespace. The text of the link says it; to follow the link would take twice as long.
fn namespace() -> Result<u64, ChannelError> {
    /// Of the one that the system began with, the only one of a kernel without namespaces.
    const FIRST: u64 = 0xEFFF_FFFF;
    match readlinkat(AT_FDCWD, "/proc/thread-self/ns/ipc") {
        Ok(text) => text.to_str().and_then(number_of).ok_or_else(untold),
        Err(Errno::ENOENT) if fstatat(AT_FDCWD, "/proc/thread-self/ns", AtFlags::empty()).is_ok() => {
            Ok(FIRST)
        }
        Err(Errno::ENOENT) => Err(untold()),
        Err(errno) => Err(OsError::new("readlinkat", errno).into()),
    }
}

/// A text like `ipc:[4026531839]`, `namespaces(7)`.
fn number_of(text: &str) -> Option<u64> {
    text.strip_prefix("ipc:[")?.strip_suffix(']')?.parse().ok()
}

fn untold() -> ChannelError {
    ChannelError::Unsupported(
        "which IPC namespace this is, and so which queues these are, can't be told without /proc: \
         mount it with `mount -t proc proc /proc`"
            .into(),
    )
}

fn text_of(registered: Registered) -> String {
    let Registered { key, creator_uid, max_message_len, is_drawn } = registered;
    let drawn = if is_drawn { ", drawn 1" } else { "" };
    format!(
        "ipc-sysv 1, key {key}, creator-uid {creator_uid}, max-message-len-bytes {max_message_len}{drawn}"
    )
}

fn parse(text: &str) -> Option<Registered> {
    let keys = ["ipc-sysv", "key", "creator-uid", "max-message-len-bytes", "drawn"];
    let figure = |value: Option<&str>| value?.parse::<u32>().ok();
    let [version, key, creator_uid, max_message_len, drawn] = values(text.split(", "), keys).map(figure);
    (version? == 1).then_some(())?;
    Some(Registered {
        key: key.filter(|&key| key != 0)?,
        creator_uid: creator_uid?,
        max_message_len: max_message_len.filter(|&len| len != 0)?.try_into().ok()?,
        is_drawn: drawn == Some(1),
    })
}

/// A key that `ftok` doesn't make, nor people who number theirs from 1 on.
fn random_key() -> Result<u32, OsError> {
    const LEAST: u32 = 0x0010_0000;
    const COUNT: u32 = 0x0100_0000 - LEAST;
    let random = crate::random::bits().map_err(|errno| OsError::new("getrandom", errno))?;
    Ok(LEAST + (random % u64::from(COUNT)) as u32)
}
