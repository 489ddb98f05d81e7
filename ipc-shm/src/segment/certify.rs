//! Asking the kernel whether a participant is dead, and putting in order what it left.
//!
//! A participant's byte is locked as long as its process can store. Whoever gets the lock
//! of a byte whose entry isn't in order knows that its owner is dead, and keeps it from
//! coming back until the repair is done. The lock is asked for by a description of its own:
//! one's own byte would seem free to the description that holds it.

use super::{Attachment, Reach, byte_of};
use crate::{
    ring::memory::Memory,
    sys::{
        file::{self, Directory},
        fork::Window,
        lock::{self, Mode},
    },
};
use ipc_core::ChannelError;
use std::{fs::File, sync::atomic::Ordering};

impl Attachment {
    /// Calls `repair` for each of these participants that is dead, while its place is kept
    /// from being taken. Returns how many there were. Our own id is left out.
    ///
    /// Nothing happens if the name doesn't lead to this segment any more, or if nobody can be
    /// asked from here: no descriptor is left, the rights to open the file are given up, paths
    /// lead elsewhere. Then the dead stay until somebody can; that is no reason to end a wait.
    pub(crate) fn bury<E: From<ChannelError>>(
        &self,
        ids: impl IntoIterator<Item = u32>,
        mut repair: impl FnMut(u32) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut ids = ids.into_iter().filter(|&id| id != self.id()).peekable();
        if ids.peek().is_none() {
            return Ok(0);
        }
        let _window = Window::open();
        let Some(file) = self.open_to_ask() else { return Ok(0) };
        let mut dead = 0;
        for id in ids {
            if lock::try_lock(&file, byte_of(id), Mode::Exclusive).map_err(ChannelError::from)? {
                let repaired = repair(id).map(|()| self.clear(id));
                lock::unlock(&file, byte_of(id)).map_err(ChannelError::from)?;
                repaired?;
                dead += 1;
            }
        }
        Ok(dead)
    }

    /// A description of its own to ask by, if there can be one.
    fn open_to_ask(&self) -> Option<File> {
        let directory = Directory::open(&self.place.home.path).ok()?;
        let file = directory.open_file(self.place.name.as_str(), true).ok()?;
        let is_same = file::metadata(&file).is_ok_and(|found| found.identity == self.target.identity);
        is_same.then_some(file)
    }

    /// What is said of a participant that isn't there any more.
    pub(super) fn clear(&self, id: u32) {
        let (entry, words) = (self.layout().entry(id), self.words());
        words.store(entry.reach(), Reach::Reached as u64, Ordering::Relaxed);
        words.store(entry.pid(), 0, Ordering::Release);
    }
}
