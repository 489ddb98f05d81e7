//! Asking the kernel whether a participant is dead, and putting in order what it left.
//!
//! A participant's byte is locked as long as its process can store. Whoever gets the lock
//! of a byte whose entry isn't in order knows that its owner is dead, and keeps it from
//! coming back until the repair is done. The lock is asked for by a description of its own:
//! one's own byte would seem free to the description that holds it.

use super::{Attachment, Layout, Reach, byte_of};
use crate::{
    ring::memory::{Memory, Words},
    sys::{
        file::{self, Directory},
        fork::Window,
        ident,
        lock::{self, Mode},
    },
};
use ipc_core::ChannelError;
use std::{fs::File, sync::atomic::Ordering};

/// How many are asked about at once, besides the one in the way. Each takes the kernel a walk
/// over the locks of all.
const AT_ONCE: usize = 64;

/// How long it takes until the next ones are asked about, where there are more.
const APART_MS: u64 = 25;

/// Those who are signed, besides `us` who come, and aren't there any more. Of a crowd, a few are
/// asked about, wherever that begins: not always the same ones, if many come and nobody waits.
/// What isn't met now is found by those who wait, or try.
pub(super) fn meet_dead(words: &Words, layout: &Layout, file: &File, us: u32) -> Vec<u32> {
    let is_signed = |&id: &u32| id != us && words.load(layout.entry(id).pid(), Ordering::Relaxed) != 0;
    let is_crowd = layout.participants as usize > AT_ONCE;
    let next = is_crowd.then(|| (ident::unix_time_ns() % u64::from(layout.participants)) as u32 + 1);
    let asked = Round { at_ms: 0, next }.ids(layout).filter(is_signed).take(AT_ONCE);
    asked.filter(|&id| !lock::is_locked(file, byte_of(id)).unwrap_or(true)).collect()
}

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
        self.ask(ids, &mut repair).map(Option::unwrap_or_default)
    }

    /// The same for the one who is in the way, if anybody is, and for some of the others. Where
    /// more are `entered` than are asked about at once, they take turns, and whoever looks goes
    /// on where the last one stopped, who may be another one, and not so soon: so it takes the
    /// machine no longer however many wait.
    pub(crate) fn bury_in_turn<E: From<ChannelError>>(
        &self,
        in_the_way: Option<u32>,
        entered: impl Fn(u32) -> bool,
        mut repair: impl FnMut(u32) -> Result<(), E>,
    ) -> Result<usize, E> {
        let (words, at) = (self.words(), self.layout().round());
        // Relaxed, here and below: a hint. Whatever it says, everybody's turn comes.
        let round = Round::of(words.load(at, Ordering::Relaxed));
        let in_the_way = in_the_way.filter(|&id| entered(id));
        let now_ms = || ident::coarse_unix_time_ns() / 1_000_000;
        if round.is_fresh(now_ms()) {
            return self.bury(in_the_way, repair);
        }
        let is_another = |&id: &u32| id != self.id() && entered(id);
        let mut turn: Vec<_> = round.ids(self.layout()).filter(is_another).take(AT_ONCE + 1).collect();
        let next = if turn.len() > AT_ONCE { turn.pop() } else { None };
        let first = in_the_way.filter(|id| !turn.contains(id));
        let dead = self.ask(first.into_iter().chain(turn), &mut repair)?;
        if dead.is_some() {
            // Afterwards: whoever can't ask, or is stopped or killed, leaves it to the others.
            words.store(at, Round { at_ms: now_ms(), next }.word(), Ordering::Relaxed);
        }
        Ok(dead.unwrap_or_default())
    }

    /// How many of these are dead; `None` if nobody can be asked.
    fn ask<E: From<ChannelError>>(
        &self,
        ids: impl IntoIterator<Item = u32>,
        repair: &mut impl FnMut(u32) -> Result<(), E>,
    ) -> Result<Option<usize>, E> {
        let mut ids = ids.into_iter().filter(|&id| id != self.id()).peekable();
        if ids.peek().is_none() {
            return Ok(Some(0));
        }
        let _window = Window::open();
        let Some(file) = self.open_to_ask() else { return Ok(None) };
        let mut dead = 0;
        for id in ids {
            if lock::try_lock(&file, byte_of(id), Mode::Exclusive).map_err(ChannelError::from)? {
                let repaired = repair(id).map(|()| self.clear(id));
                lock::unlock(&file, byte_of(id)).map_err(ChannelError::from)?;
                repaired?;
                dead += 1;
            }
        }
        Ok(Some(dead))
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

/// When somebody last looked for the dead, and who was left for the next look, if anybody was. A
/// word that anybody writes, and that says nothing of who is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Round {
    at_ms: u64,
    next: Option<u32>,
}

impl Round {
    fn of(word: u64) -> Self {
        Self { at_ms: word >> 16, next: Some(word as u32 & 0xffff).filter(|&next| next != 0) }
    }

    fn word(self) -> u64 {
        self.at_ms << 16 | u64::from(self.next.unwrap_or(0))
    }

    /// Whether others are to be asked about, and it isn't time yet. A clock that was set may
    /// bring that time forward.
    fn is_fresh(self, now_ms: u64) -> bool {
        self.next.is_some() && now_ms.checked_sub(self.at_ms).is_some_and(|since| since < APART_MS)
    }

    /// All participants there can be, from the next one on.
    fn ids(self, layout: &Layout) -> impl Iterator<Item = u32> {
        let next = self.next.filter(|next| layout.ids().contains(next)).unwrap_or(1);
        (next..=layout.participants).chain(1..next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_read_as_it_is_written() {
        for next in [None, Some(1), Some(4096)] {
            let round = Round { at_ms: 1_800_000_000_000, next };
            assert_eq!(Round::of(round.word()), round);
        }
    }

    #[test]
    fn it_is_fresh_only_for_a_while_and_where_somebody_was_left_out() {
        let round = Round { at_ms: 1000, next: Some(7) };
        let fresh: Vec<_> = [999, 1000, 1024, 1025].map(|now_ms| round.is_fresh(now_ms)).to_vec();
        assert_eq!(fresh, [false, true, true, false]);
        assert!(!Round { next: None, ..round }.is_fresh(1000));
    }

    #[test]
    fn everybody_has_a_turn_wherever_it_begins() {
        let layout = Layout::of_many(4096, 5, 4096);
        for next in [None, Some(1), Some(4), Some(5), Some(6), Some(0xffff)] {
            let mut ids: Vec<_> = Round { at_ms: 0, next }.ids(&layout).collect();
            assert!(next.is_none_or(|next| next > 5 || ids[0] == next));
            ids.sort_unstable();
            assert_eq!(ids, [1, 2, 3, 4, 5]);
        }
    }
}
