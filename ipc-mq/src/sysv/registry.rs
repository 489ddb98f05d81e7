//! Which key a name stands for: one small text file a name, in this user's own directory.
//!
//! `ftok(3)` makes keys of inode numbers, so that two names may get one key and a file that
//! is replaced gets another. Here the key is drawn at random, from those that `ftok` never
//! makes (its uppermost byte is the project, which isn't 0), and the kernel says whether it
//! is free (`IPC_EXCL`). It is written down *before* the queue is made: a process that is
//! killed in between leaves a name without a queue, which counts as none and is used again,
//! never a queue without a name.

use super::{limits, sys::Queue};
use crate::place::{Folder, Home};
use ipc_core::{ChannelError, ChannelName, OsError};
use nix::errno::Errno;
use std::{fs::File, io::Read, path::PathBuf};

const FOLDER: &str = "sysv";

/// The names of one user's queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registry<'a> {
    home: &'a Home,
}

/// What is written down about a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) key: u32,
    /// Who made the queue: it is believed to be ours only if the kernel says the same.
    pub(crate) creator_uid: u32,
    pub(crate) max_message_len: usize,
}

impl<'a> Registry<'a> {
    pub(crate) fn new(home: &'a Home) -> Self {
        Self { home }
    }

    pub(crate) fn path(&self, name: &ChannelName) -> PathBuf {
        self.home.folder_path(FOLDER).join(name.as_str())
    }

    /// All names, those without a queue too.
    pub(crate) fn names(&self) -> Result<Vec<ChannelName>, ChannelError> {
        self.home.open(FOLDER)?.map_or(Ok(Vec::new()), |folder| folder.names())
    }

    /// What is written down under this name.
    pub(crate) fn find(&self, name: &ChannelName) -> Result<Option<Registered>, ChannelError> {
        self.home.open(FOLDER)?.map_or(Ok(None), |folder| read(&folder, name))
    }

    /// The queue of this name, if there is one.
    pub(crate) fn queue(&self, name: &ChannelName) -> Result<Option<(Queue, Registered)>, ChannelError> {
        match self.find(name)? {
            Some(registered) => Ok(existing(registered)?.map(|queue| (queue, registered))),
            None => Ok(None),
        }
    }

    /// The same, not before a creator that is at it has settled the queue.
    pub(crate) fn settled_queue(
        &self,
        name: &ChannelName,
    ) -> Result<Option<(Queue, Registered)>, ChannelError> {
        let Some(folder) = self.home.open(FOLDER)? else { return Ok(None) };
        let _lock = folder.lock()?;
        self.queue(name)
    }

    /// Makes a queue under this name. `settle` is what is to be done with it before it
    /// counts as made; if that fails, the queue is removed.
    pub(crate) fn create(
        &self,
        name: &ChannelName,
        (max_message_len, mode): (usize, u32),
        settle: impl FnOnce(Queue) -> Result<(), ChannelError>,
    ) -> Result<(Queue, Registered), ChannelError> {
        let folder = self.home.open_or_make(FOLDER)?;
        let lock = folder.lock()?;
        make_way(&folder, name)?;
        let creator_uid = nix::unistd::geteuid().as_raw();
        loop {
            let registered = Registered { key: random_key()?, creator_uid, max_message_len };
            write(&folder, name, registered)?;
            match Queue::create(registered.key, mode) {
                Ok(queue) => {
                    if let Err(error) = settle(queue) {
                        let _ = queue.remove();
                        let _ = folder.unlink(name.as_str());
                        return Err(error);
                    }
                    drop(lock);
                    return Ok((queue, registered));
                }
                // Somebody else has this key: draw another one.
                Err(Errno::EEXIST) => folder.unlink(name.as_str())?,
                Err(errno) => {
                    folder.unlink(name.as_str())?;
                    return Err(limits::explain_create(errno));
                }
            }
        }
    }

    /// Gives a name to a queue that exists, whoever made it.
    pub(crate) fn adopt(&self, name: &ChannelName, registered: Registered) -> Result<(), ChannelError> {
        let folder = self.home.open_or_make(FOLDER)?;
        let _lock = folder.lock()?;
        make_way(&folder, name)?;
        write(&folder, name, registered)
    }

    /// Removes the queue and its name.
    pub(crate) fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        let folder = self.home.open(FOLDER)?.ok_or(ChannelError::NotFound)?;
        let _lock = folder.lock()?;
        let registered = read(&folder, name)?.ok_or(ChannelError::NotFound)?;
        let queue = existing(registered)?;
        if let Some(queue) = queue {
            match queue.remove() {
                Ok(()) | Err(Errno::EIDRM | Errno::EINVAL) => {}
                Err(Errno::EPERM | Errno::EACCES) => {
                    return Err(ChannelError::NotPermitted(
                        "only the queue's owner or root may remove it".into(),
                    ));
                }
                Err(errno) => return Err(OsError::new("msgctl", errno).into()),
            }
        }
        folder.unlink(name.as_str())?;
        queue.map(drop).ok_or(ChannelError::NotFound)
    }
}

/// Sees to it that nothing is under this name; what a killed process left is taken away.
fn make_way(folder: &Folder, name: &ChannelName) -> Result<(), ChannelError> {
    match read(folder, name)? {
        Some(registered) if existing(registered)?.is_some() => Err(ChannelError::AlreadyExists),
        Some(_) => folder.unlink(name.as_str()),
        None => Ok(()),
    }
}

/// The queue that was written down, unless it is gone or somebody else has its key now.
fn existing(registered: Registered) -> Result<Option<Queue>, ChannelError> {
    let queue = match Queue::find(registered.key) {
        Ok(queue) => queue,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(limits::explain_create(errno)),
    };
    match queue.status() {
        Ok(status) if status.creator_uid == registered.creator_uid => Ok(Some(queue)),
        Ok(_) | Err(Errno::EIDRM | Errno::EINVAL) => Ok(None),
        // Whose it is can't be seen by who may only send.
        Err(Errno::EACCES) => Ok(Some(queue)),
        Err(errno) => Err(OsError::new("msgctl", errno).into()),
    }
}

fn write(folder: &Folder, name: &ChannelName, registered: Registered) -> Result<(), ChannelError> {
    let Registered { key, creator_uid, max_message_len } = registered;
    let text = format!(
        "ipc-sysv 1\nkey {key}\ncreator-uid {creator_uid}\nmax-message-len-bytes {max_message_len}\n"
    );
    folder.publish(name.as_str(), &text, 0o600)
}

fn read(folder: &Folder, name: &ChannelName) -> Result<Option<Registered>, ChannelError> {
    let Some(entry) = folder.read(name.as_str())? else { return Ok(None) };
    let registered = || {
        (entry.value::<u32>("ipc-sysv")? == 1).then_some(())?;
        Some(Registered {
            key: entry.value("key").filter(|&key| key != 0)?,
            creator_uid: entry.value("creator-uid")?,
            max_message_len: entry.value("max-message-len-bytes").filter(|&len| len != 0)?,
        })
    };
    match registered() {
        Some(registered) => Ok(Some(registered)),
        None => Err(ChannelError::Corrupt(format!(
            "{} doesn't say which queue it is: remove it",
            folder.path().join(name.as_str()).display()
        ))),
    }
}

/// A key that `ftok` doesn't make, nor people who number theirs from 1 on.
fn random_key() -> Result<u32, OsError> {
    const LEAST: u32 = 0x0010_0000;
    const COUNT: u32 = 0x0100_0000 - LEAST;
    let mut bytes = [0; 4];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.map_err(|error| OsError::new("read", error))?;
    Ok(LEAST + u32::from_ne_bytes(bytes) % COUNT)
}
