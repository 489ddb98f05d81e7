//! A lock in one word: taken by one compare-and-swap, given back by one addition.
//!
//! ```text
//! word   0                                   free
//!        mark 16 · flags 3 · id 13 · thread 32   held by this thread of this participant, or
//!                                            free with a flag: nobody is named then, and
//!                                            where it is reserved, since when, in ms;
//!                                            or forgotten by it, abandoned with a name
//! next   who asks to have it next; 0 if nobody
//! passes how often it was given back to anybody while somebody asked
//! since  when it was taken or first stood in somebody's way, for people to read
//! ```
//!
//! Only the owner changes a word that names it, so giving back could be a plain store. It is an
//! addition because a compare-and-swap of a word that was just stored to takes either 5 or 10 ns
//! here, and of one that was added to 6. The two
//! exceptions are certain that it won't: who has certified its death, and its own process,
//! when all that could refer to what it protects is gone. They leave the lock *abandoned*:
//! nobody has it, and only who takes it to repair what it protects gets it, and gives it back
//! free, or *poisoned* for good. A repairer that dies leaves it abandoned again.
//!
//! A thread that ends with the lock leaves it *forgotten*, if references may have outlived it:
//! it is still its own, and nobody else's until it is given back after all, or abandoned by the
//! same two; but who comes can be told.
//!
//! Whoever finds it free takes it, in no order: that is what makes it fast. So that nobody
//! starves, a waiter asks (`next`), and when the lock was given back [`MOST_PASSES`] times
//! since, it is *reserved*: only who asked takes it, or anybody when it hasn't within
//! [`RESERVED_MS`], whether it only tries or waits. A reservation isn't ownership: whoever
//! gives up waiting takes back that it asked; that a dead one did is taken back by whoever is
//! refused, or comes, or takes the lock in its place. (Hand-off after a bound as in
//! `WTF::Lock` and `parking_lot`, by acquisitions instead of time.)
//!
//! The mark tells a word that was written by a lock from stray bytes.

use super::{Corrupt, memory::Memory};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Releases to others after which a lock is reserved for who asks for it.
pub(crate) const MOST_PASSES: u64 = if cfg!(test) { 2 } else { 256 };

/// How long a lock is reserved: as long as a sleep that looks for the dead.
pub(crate) const RESERVED_MS: u64 = 5;

const MARK: u64 = 0x6c6b << 48;
const MARK_MASK: u64 = 0xffff << 48;
const RESERVED: u64 = 1 << 47;
const ABANDONED: u64 = 1 << 46;
const POISONED: u64 = 1 << 45;
const FLAGS: u64 = RESERVED | ABANDONED | POISONED;
const ID_SHIFT: u32 = 32;
const OWNER_MASK: u64 = (1 << 45) - 1;

/// A thread of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl Owner {
    /// Ids are 1 to 4096, and threads have any number but 0.
    #[inline]
    pub(crate) fn new(id: u32, thread: u32) -> Self {
        debug_assert!((1..=4096).contains(&id) && thread != 0, "nobody");
        Self(u64::from(id) << ID_SHIFT | u64::from(thread))
    }

    pub(crate) fn id(self) -> u32 {
        (self.0 >> ID_SHIFT) as u32
    }

    pub(crate) fn thread(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    fn word(self) -> u64 {
        MARK | self.0
    }

    /// The word of a lock that it has forgotten.
    fn forgotten(self) -> u64 {
        MARK | ABANDONED | self.0
    }
}

/// Where a lock's words are, as byte offsets in the segment: on one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    word: usize,
    next: usize,
    passes: usize,
    since: usize,
    /// Where waiters sleep.
    pub(crate) flag: usize,
}

impl Place {
    pub(crate) const fn at(offset: usize) -> Self {
        Self { word: offset, next: offset + 8, passes: offset + 16, since: offset + 24, flag: offset + 32 }
    }
}

/// What a lock's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    /// Free for who asked for it, since then, in milliseconds since 1970.
    Reserved {
        since_ms: u64,
    },
    Held(Owner),
    /// By a thread that has ended.
    Forgotten(Owner),
    /// Its last owner is gone, and what it protects was not put in order.
    Abandoned,
    /// And never will be.
    Poisoned,
}

impl State {
    /// Whether readers stay out.
    pub(crate) fn keeps_out(self) -> bool {
        !matches!(self, Self::Free | Self::Reserved { .. })
    }

    /// Whether it is reserved for one that had its time. So it is where the clock was set back:
    /// nobody waits for that.
    pub(crate) fn has_lapsed(self, now_ms: impl FnOnce() -> u64) -> bool {
        match self {
            Self::Reserved { since_ms } => {
                now_ms().checked_sub(since_ms).is_none_or(|since| since >= RESERVED_MS)
            }
            _ => false,
        }
    }

    /// Who has it.
    pub(crate) fn owner(self) -> Option<Owner> {
        match self {
            Self::Held(owner) | Self::Forgotten(owner) => Some(owner),
            Self::Free | Self::Reserved { .. } | Self::Abandoned | Self::Poisoned => None,
        }
    }
}

fn parse(word: u64) -> Result<State, Corrupt> {
    if word == 0 {
        return Ok(State::Free);
    }
    let owner = Owner(word & OWNER_MASK);
    let is_owner = (1..=4096).contains(&owner.id()) && owner.thread() != 0;
    match (word & MARK_MASK == MARK, word & FLAGS) {
        (true, 0) if is_owner => Ok(State::Held(owner)),
        (true, ABANDONED) if is_owner => Ok(State::Forgotten(owner)),
        // Whatever time that is: it lapses.
        (true, RESERVED) => Ok(State::Reserved { since_ms: owner.0 }),
        (true, ABANDONED) if owner.0 == 0 => Ok(State::Abandoned),
        (true, POISONED) if owner.0 == 0 => Ok(State::Poisoned),
        _ => Err(Corrupt(format!("the word of its lock is {word:#x}"))),
    }
}

/// How somebody wants to have a lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Has it reserved in time, for itself.
    pub(crate) asks: bool,
    /// Takes one that is reserved like this for somebody else, who had its time, or is dead.
    pub(crate) overrides: Option<State>,
    /// Takes one that is abandoned.
    pub(crate) repairs: bool,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It is ours; whether it was abandoned before.
    Taken { to_repair: bool },
    /// It isn't, because of this.
    Refused(State),
}

/// What the lock there is now.
pub(crate) fn state(memory: &impl Memory, place: Place) -> Result<State, Corrupt> {
    parse(memory.load(place.word, Relaxed))
}

/// The same, by somebody who relies on what the one before it stored.
#[inline]
pub(crate) fn state_written(memory: &impl Memory, place: Place) -> Result<State, Corrupt> {
    // Acquire: pairs with the Release in `give_back`.
    parse(memory.load(place.word, Acquire))
}

/// Ends a reservation that is for us, who can do without the lock. True if it is anybody's now:
/// who waits is to be woken.
#[cold]
pub(crate) fn accept(memory: &impl Memory, place: Place, me: Owner) -> bool {
    if memory.load(place.next, Relaxed) != me.0 {
        return false;
    }
    let word = memory.load(place.word, Relaxed);
    // Relaxed: who takes it next still pairs with who reserved it, since a swap goes on with
    // what it finds.
    let is_free = matches!(parse(word), Ok(State::Reserved { .. }))
        && memory.compare_exchange(place.word, word, 0, Relaxed).is_ok();
    withdraw(memory, place, me);
    is_free
}

/// Who has asked for the lock; whatever a stray word says.
pub(crate) fn asker(memory: &impl Memory, place: Place) -> Option<Owner> {
    Some(Owner(memory.load(place.next, Relaxed))).filter(|next| next.0 != 0)
}

/// Asks for the lock, to be had in time.
pub(crate) fn ask(memory: &impl Memory, place: Place, me: Owner) {
    if memory.load(place.next, Relaxed) == 0 {
        let _ = memory.compare_exchange(place.next, 0, me.0, Relaxed);
    }
}

/// Takes the lock if it is just free.
#[inline]
pub(crate) fn take_free(memory: &impl Memory, place: Place, me: Owner) -> bool {
    // Acquire: pairs with the Release in `give_back`, or of whoever stored the last word.
    memory.compare_exchange(place.word, 0, me.word(), Acquire).is_ok()
}

/// Takes the lock if that can be, in this manner.
pub(crate) fn attempt(
    memory: &impl Memory,
    place: Place,
    me: Owner,
    manner: Manner,
) -> Result<Attempt, Corrupt> {
    let word = memory.load(place.word, Relaxed);
    let state = parse(word)?;
    let is_open = match state {
        State::Free => true,
        State::Reserved { .. } => {
            let next = memory.load(place.next, Relaxed);
            next == 0 || next == me.0 || manner.overrides == Some(state)
        }
        State::Abandoned => manner.repairs,
        State::Held(_) | State::Forgotten(_) | State::Poisoned => false,
    };
    // Acquire: as in `take_free`.
    if is_open && memory.compare_exchange(place.word, word, me.word(), Acquire).is_ok() {
        if matches!(state, State::Reserved { .. }) {
            // Whoever it was for: it got it, or had its time.
            memory.store(place.next, 0, Relaxed);
        } else {
            withdraw(memory, place, me);
        }
        return Ok(Attempt::Taken { to_repair: state == State::Abandoned });
    }
    if manner.asks {
        ask(memory, place, me);
    }
    Ok(Attempt::Refused(state))
}

/// Notes since when it is held, unless that is known.
pub(crate) fn note_since(memory: &impl Memory, place: Place, unix_ns: u64) {
    if memory.load(place.since, Relaxed) == 0 {
        memory.store(place.since, unix_ns, Relaxed);
    }
}

/// Since when it is held, if that is known.
pub(crate) fn since(memory: &impl Memory, place: Place) -> Option<u64> {
    Some(memory.load(place.since, Relaxed)).filter(|&since| since != 0)
}

/// Takes back that one has asked for the lock. True if it had: whoever waits is to look again
/// after it, since it may be reserved.
pub(crate) fn withdraw(memory: &impl Memory, place: Place, me: Owner) -> bool {
    memory.load(place.next, Relaxed) == me.0 && memory.compare_exchange(place.next, me.0, 0, Relaxed).is_ok()
}

/// Whether this thread has it.
#[inline]
pub(crate) fn is_held_by(memory: &impl Memory, place: Place, me: Owner) -> bool {
    memory.load(place.word, Relaxed) == me.word()
}

/// Gives back a lock that is ours, forgotten or not. Whoever waits is to be woken. The time is
/// asked for where it is reserved, in milliseconds since 1970.
#[inline]
pub(crate) fn give_back(memory: &impl Memory, place: Place, now_ms: impl FnOnce() -> u64) {
    if memory.load(place.since, Relaxed) != 0 {
        memory.store(place.since, 0, Relaxed);
    }
    let word = if memory.load(place.next, Relaxed) == 0 { 0 } else { passed(memory, place, now_ms) };
    // Nobody else changes the word of a lock that is held by one who lives.
    let held = memory.load(place.word, Relaxed);
    // Release: pairs with the Acquire in `take_free` and `attempt`.
    memory.fetch_add(place.word, word.wrapping_sub(held), Release);
}

/// The word of a lock that somebody asked for and that is given back.
#[cold]
fn passed(memory: &impl Memory, place: Place, now_ms: impl FnOnce() -> u64) -> u64 {
    let passes = memory.load(place.passes, Relaxed).wrapping_add(1);
    let is_reserved = passes >= MOST_PASSES;
    memory.store(place.passes, if is_reserved { 0 } else { passes }, Relaxed);
    if is_reserved { MARK | RESERVED | now_ms() & OWNER_MASK } else { 0 }
}

/// Gives up a lock that is ours, for good.
pub(crate) fn poison(memory: &impl Memory, place: Place) {
    // Relaxed: nobody looks at what it protects any more.
    memory.store(place.word, MARK | POISONED, Relaxed);
}

/// The thread that has it ends without giving it back. False if it hasn't.
pub(crate) fn forget(memory: &impl Memory, place: Place, me: Owner) -> bool {
    // Relaxed: nobody gets it by that.
    memory.compare_exchange(place.word, me.word(), me.forgotten(), Relaxed).is_ok()
}

/// Gives up a lock that was ours and protects what is in disorder.
pub(crate) fn abandon(memory: &impl Memory, place: Place, owner: Owner) -> bool {
    withdraw(memory, place, owner);
    memory.store(place.since, 0, Relaxed);
    // Release: pairs with the Acquire in `attempt`. Who has certified a death has seen what the
    // dead one stored.
    let abandon = |word| memory.compare_exchange(place.word, word, MARK | ABANDONED, Release).is_ok();
    abandon(owner.word()) || abandon(owner.forgotten())
}

/// Puts in order what a participant left that stores nothing any more, and whose place
/// nobody takes meanwhile. True if somebody may wait for that.
pub(crate) fn bury(memory: &impl Memory, place: Place, id: u32) -> bool {
    let next = asker(memory, place).filter(|next| next.id() == id);
    let is_withdrawn = next.is_some_and(|next| withdraw(memory, place, next));
    let is_abandoned = match state(memory, place).map(State::owner) {
        Ok(Some(owner)) if owner.id() == id => abandon(memory, place, owner),
        _ => false,
    };
    is_withdrawn || is_abandoned
}

/// Whether nobody has it, and nobody left it in disorder.
pub(crate) fn is_free(memory: &impl Memory, place: Place) -> bool {
    matches!(state(memory, place), Ok(State::Free | State::Reserved { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, sync::atomic::Ordering};

    /// Words of one thread.
    struct Plain(RefCell<[u64; 5]>);

    impl Memory for Plain {
        fn load(&self, offset: usize, _: Ordering) -> u64 {
            self.0.borrow()[offset / 8]
        }

        fn store(&self, offset: usize, value: u64, _: Ordering) {
            self.0.borrow_mut()[offset / 8] = value;
        }

        fn compare_exchange(&self, offset: usize, current: u64, new: u64, _: Ordering) -> Result<u64, u64> {
            let found = self.0.borrow()[offset / 8];
            if found != current {
                return Err(found);
            }
            self.0.borrow_mut()[offset / 8] = new;
            Ok(found)
        }

        fn fetch_add(&self, offset: usize, value: u64, _: Ordering) -> u64 {
            let found = self.0.borrow()[offset / 8];
            self.0.borrow_mut()[offset / 8] = found.wrapping_add(value);
            found
        }
    }

    const PLACE: Place = Place::at(0);
    const NOW_MS: u64 = 1_800_000_000_000;
    const RESERVED_NOW: State = State::Reserved { since_ms: NOW_MS };

    #[test]
    fn who_asks_gets_it_after_so_many_acquisitions_by_others() {
        let words = Plain(RefCell::new([0; 5]));
        let (greedy, polite) = (Owner::new(1, 1), Owner::new(2, 1));
        let asking = Manner { asks: true, ..Manner::default() };
        assert!(take_free(&words, PLACE, greedy));
        assert_eq!(attempt(&words, PLACE, polite, asking).unwrap(), Attempt::Refused(State::Held(greedy)));
        give_back(&words, PLACE, || NOW_MS);
        let mut acquisitions = 1;
        while matches!(attempt(&words, PLACE, greedy, asking).unwrap(), Attempt::Taken { .. }) {
            give_back(&words, PLACE, || NOW_MS);
            acquisitions += 1;
        }
        assert_eq!(acquisitions, MOST_PASSES);
        assert!(!take_free(&words, PLACE, greedy));
        assert_eq!(attempt(&words, PLACE, polite, asking).unwrap(), Attempt::Taken { to_repair: false });
        give_back(&words, PLACE, || NOW_MS);
        assert!(take_free(&words, PLACE, greedy), "nobody asks any more");
    }

    #[test]
    fn a_reservation_of_one_that_is_gone_is_nobodys() {
        let words = Plain(RefCell::new([0; 5]));
        let (one, gone) = (Owner::new(1, 1), Owner::new(2, 1));
        for withdraws in [true, false] {
            ask(&words, PLACE, gone);
            for _ in 0..MOST_PASSES {
                assert!(take_free(&words, PLACE, one));
                give_back(&words, PLACE, || NOW_MS);
            }
            assert_eq!(
                attempt(&words, PLACE, one, Manner::default()).unwrap(),
                Attempt::Refused(RESERVED_NOW)
            );
            if withdraws {
                withdraw(&words, PLACE, gone);
            }
            let manner = Manner { overrides: (!withdraws).then_some(RESERVED_NOW), ..Manner::default() };
            assert_eq!(attempt(&words, PLACE, one, manner).unwrap(), Attempt::Taken { to_repair: false });
            give_back(&words, PLACE, || NOW_MS);
            assert!(is_free(&words, PLACE));
        }
    }

    #[test]
    fn a_reservation_that_is_not_needed_is_anybodys_and_says_so() {
        let words = Plain(RefCell::new([0; 5]));
        let (one, reader) = (Owner::new(1, 1), Owner::new(2, 1));
        assert!(!accept(&words, PLACE, reader), "nothing is reserved");
        ask(&words, PLACE, reader);
        for _ in 0..MOST_PASSES {
            assert!(take_free(&words, PLACE, one));
            give_back(&words, PLACE, || NOW_MS);
        }
        assert!(!accept(&words, PLACE, one), "it is another one's");
        assert!(accept(&words, PLACE, reader), "whoever waits is to be woken");
        assert!(take_free(&words, PLACE, one));
    }

    #[test]
    fn a_reservation_lapses_and_only_the_one_that_has_is_overridden() {
        let words = Plain(RefCell::new([0; 5]));
        let (one, stopped) = (Owner::new(1, 1), Owner::new(2, 1));
        ask(&words, PLACE, stopped);
        for _ in 0..MOST_PASSES {
            assert!(take_free(&words, PLACE, one));
            give_back(&words, PLACE, || NOW_MS);
        }
        let lapsed = |now_ms| state(&words, PLACE).unwrap().has_lapsed(|| now_ms);
        let times = [NOW_MS, NOW_MS + RESERVED_MS - 1, NOW_MS + RESERVED_MS, NOW_MS - 1, 0];
        assert_eq!(times.map(lapsed), [false, false, true, true, true]);
        let earlier = State::Reserved { since_ms: NOW_MS - RESERVED_MS };
        let manner = |overrides| Manner { overrides: Some(overrides), ..Manner::default() };
        let refused = attempt(&words, PLACE, one, manner(earlier)).unwrap();
        assert_eq!(refused, Attempt::Refused(RESERVED_NOW));
        let taken = attempt(&words, PLACE, one, manner(RESERVED_NOW)).unwrap();
        assert_eq!(taken, Attempt::Taken { to_repair: false });
        assert_eq!(asker(&words, PLACE), None, "it has to ask anew");
    }

    #[test]
    fn who_puts_in_order_what_a_dead_asker_left_takes_back_that_it_asked() {
        let words = Plain(RefCell::new([0; 5]));
        let (one, dead) = (Owner::new(1, 1), Owner::new(2, 1));
        ask(&words, PLACE, dead);
        assert!(!bury(&words, PLACE, one.id()), "it is another one's");
        assert_eq!(asker(&words, PLACE), Some(dead));
        assert!(bury(&words, PLACE, dead.id()), "whoever waits is to look again");
        assert_eq!(asker(&words, PLACE), None);
        assert!(!bury(&words, PLACE, dead.id()));
    }
}
