//! A process's part in a segment of state: how it locks, waits, finds the dead, and what
//! becomes of what its threads forget.

use super::{LockError, thread};
use crate::{
    ring::{
        Corrupt,
        lock::{self, Attempt, Manner, Owner, State},
        memory::Words,
        readers, state, troubled,
    },
    segment::Attachment,
    sys::{
        fork::{self, Window},
        ident,
    },
    wait::{Awaited, Bed, Bell, Tries, Waiter, Waiting, has_several_processors},
};
use ipc_core::{ChannelError, Wait};
use parking_lot::Mutex;
use std::{
    hint,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// The handles of this process, for threads that end and those that wait for themselves.
/// Only used within a fork window: no child inherits it locked.
static HANDLES: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// What is known of a handle without keeping it from going: whoever asks isn't to be the one who
/// drops it.
#[derive(Clone, Debug)]
struct Known {
    /// Which segment it is in.
    instance: [u8; 16],
    id: u32,
    key: u64,
    /// Which process it is of.
    generation: u32,
    handle: Weak<Handle>,
}

impl Known {
    fn is_there(&self) -> bool {
        self.generation == fork::generation() && self.handle.strong_count() > 0
    }
}

static KEYS: AtomicU64 = AtomicU64::new(0);

/// A participant in a segment of state. Threads share it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) words: Words,
    pub(super) place: state::Place,
    id: u32,
    /// What tells it from the other handles of this process.
    key: u64,
    bell: Bell,
    /// Whether a guard lends what is in the segment.
    lends: bool,
    /// Of those who don't wait.
    tries: Tries,
    /// Last: the words must be gone before the place is.
    attachment: Attachment,
}

/// How a lock is taken and waited for, beside what the call says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    pub(super) waiting: Waiting,
    /// Whether it is noted when it was taken.
    pub(super) timed: bool,
    /// Whether one that is abandoned is taken.
    pub(super) repairs: bool,
    /// Whether one that never waits looks at each failure whether the owner lives.
    pub(super) certifies: bool,
}

/// What was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The lock.
    InOrder,
    /// The lock, and whoever had it before died with it.
    ToRepair,
}

impl Handle {
    pub(super) fn new(attachment: Attachment, lends: bool) -> Result<Arc<Self>, ChannelError> {
        let place = state::Place::of(attachment.layout());
        let handle = Self {
            words: attachment.words(),
            place,
            id: attachment.id(),
            key: KEYS.fetch_add(1, Ordering::Relaxed),
            bell: Bell::of(&attachment, place.lock.flag),
            lends,
            tries: Tries::new(),
            attachment,
        };
        // What the last one with our id left, and those whom we met dead.
        if handle.has_part(handle.id) {
            handle.give_up_all();
        }
        // Those who had nothing, too: they are listed no more.
        handle.bury(handle.attachment.met_dead())?;
        let handle = Arc::new(handle);
        let _window = Window::open();
        let mut handles = HANDLES.lock();
        handles.retain(|other| other.handle.strong_count() > 0);
        handles.push(Known {
            instance: handle.attachment.header().instance,
            id: handle.id,
            key: handle.key,
            generation: fork::generation(),
            handle: Arc::downgrade(&handle),
        });
        Ok(handle)
    }

    /// Where things are.
    pub(super) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Which participant we are.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// This thread, as it is named in the segment.
    #[inline]
    pub(super) fn me(&self) -> Result<Owner, LockError> {
        if !self.attachment.is_ours() {
            return Err(LockError::Forked);
        }
        Ok(self.this_thread())
    }

    #[inline]
    fn this_thread(&self) -> Owner {
        Owner::new(self.id, thread::number())
    }

    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        self.attachment.is_ours()
    }

    /// Takes the lock.
    #[inline]
    pub(super) fn lock(&self, how: How, wait: Wait<'_>) -> Result<Taken, LockError> {
        if self.is_ours() && lock::take_free(&self.words, self.place.lock, self.this_thread()) {
            if how.timed {
                self.note_since();
            }
            return Ok(Taken::InOrder);
        }
        self.lock_slowly(how, wait)
    }

    #[cold]
    fn note_since(&self) {
        lock::note_since(&self.words, self.place.lock, ident::coarse_unix_time_ns());
    }

    #[cold]
    #[inline(never)]
    fn lock_slowly(&self, how: How, wait: Wait<'_>) -> Result<Taken, LockError> {
        let me = self.me()?;
        let taken = match wait {
            Wait::Never => self.try_turn(me, how),
            // Whoever is told why it doesn't get it asks no more.
            _ => self.take_turn(me, how, wait).inspect_err(|_| self.withdraw(me)),
        }?;
        self.note_since();
        Ok(taken)
    }

    /// Takes the lock if that can be without a wait.
    fn try_turn(&self, me: Owner, how: How) -> Result<Taken, LockError> {
        let mut turn = Turn::new(self, me, how, false);
        if let Some(taken) = turn.begin()? {
            return Ok(taken);
        }
        // Nobody has one that is reserved: who it is for may be dead.
        let is_reserved = matches!(turn.last, State::Reserved { .. });
        if is_reserved || how.certifies || self.is_time_to_look() {
            turn.look_around()?;
            return turn.poll()?.ok_or(LockError::WouldBlock);
        }
        Err(LockError::WouldBlock)
    }

    fn take_turn(&self, me: Owner, how: How, wait: Wait<'_>) -> Result<Taken, LockError> {
        let mut turn = Turn::new(self, me, how, true);
        if let Some(taken) = turn.begin()? {
            return Ok(taken);
        }
        if how.waiting == Waiting::Adaptive {
            if let Some(taken) = turn.spin()? {
                return Ok(taken);
            }
        }
        let waiting = if how.waiting == Waiting::Spin { Waiting::Spin } else { Waiting::Block };
        self.wait(waiting, wait, turn)
    }

    /// Whether one that never waits, and failed, should look for the dead, which takes some 10 µs: as
    /// often as one that waits.
    pub(super) fn is_time_to_look(&self) -> bool {
        self.tries.are_to_look()
    }

    /// Waits until what is awaited is there.
    pub(super) fn wait<A: Awaited>(
        &self,
        waiting: Waiting,
        wait: Wait<'_>,
        awaited: A,
    ) -> Result<A::Answer, A::Error> {
        let mut waiter = Waiter::new(&self.attachment, Bed::Shared(self.place.lock.flag));
        waiter.waiting = waiting;
        waiter.until(&self.attachment, wait, awaited)
    }

    /// Gives up waiting for the lock.
    pub(super) fn withdraw(&self, me: Owner) {
        // Who wasn't the one who asked leaves nothing to be looked at.
        if lock::withdraw(&self.words, self.place.lock, me) {
            self.ring();
        }
    }

    /// Gives back the lock, which is ours, forgotten or not; or was: a guard in a thread-local may
    /// be dropped when its thread has said its last words, and then a lock that lends nothing is
    /// another one's matter.
    #[inline]
    pub(super) fn give_back(&self) {
        if self.is_mine() {
            lock::give_back(&self.words, self.place.lock, now_ms);
            self.ring();
        }
    }

    /// Whether this thread, which has a guard, has the lock.
    #[inline]
    pub(super) fn is_mine(&self) -> bool {
        // What lends is never taken away.
        self.lends || lock::is_held_by(&self.words, self.place.lock, self.this_thread())
    }

    /// Gives up the lock, which is ours, in disorder.
    #[cold]
    pub(super) fn abandon(&self) {
        lock::abandon(&self.words, self.place.lock, self.this_thread());
        self.ring();
    }

    /// Gives up the lock, which is ours, for good; unless it was, as in
    /// [`give_back`](Self::give_back).
    #[cold]
    pub(super) fn poison(&self) {
        if self.is_mine() {
            lock::poison(&self.words, self.place.lock);
            self.ring();
        }
    }

    /// Gives up reading. A guard in a thread-local may do so when its thread has said its last
    /// words, and then it has left already, or was forgotten.
    #[inline]
    pub(super) fn leave(&self, me: Owner, is_late: bool) {
        match (is_late, self.lends) {
            (false, _) => readers::leave(&self.words, &self.place.shares, me),
            (true, true) => readers::leave_after_all(&self.words, &self.place.shares, me),
            (true, false) => return,
        }
        self.ring();
    }

    /// How the lock is that somebody else has: a look at who has forgotten it says whether it
    /// still is so.
    pub(super) fn settled(&self, state: State) -> Result<State, LockError> {
        let State::Forgotten(owner) = state else { return Ok(state) };
        self.look_at_owner(owner).or_else(troubled::<LockError>)?;
        Ok(lock::state(&self.words, self.place.lock)?)
    }

    /// Wakes whoever waits.
    #[inline]
    pub(super) fn ring(&self) {
        self.bell.ring(&self.words);
    }

    /// Puts in order what the owner of the lock left, if it is dead.
    pub(super) fn look_at_owner(&self, owner: Owner) -> Result<(), ChannelError> {
        self.refuse_stranger(owner)?;
        self.bury(Some(owner.id()).filter(|&id| self.has_part(id)))
    }

    /// Puts in order what the one in the way left, if it is dead, and what others did whose turn it
    /// is to be asked about.
    pub(super) fn look_around(&self, in_the_way: Option<u32>) -> Result<(), ChannelError> {
        let dead = self.attachment.bury_in_turn(in_the_way, |id| self.has_part(id), |id| self.repair(id))?;
        self.ring_if(dead > 0);
        Ok(())
    }

    /// Takes back that somebody has asked for the lock who is dead.
    fn look_at_asker(&self) -> Result<(), ChannelError> {
        let asker = lock::asker(&self.words, self.place.lock).map(Owner::id);
        self.bury(self.place.shares.ids().filter(|&id| asker == Some(id)))
    }

    /// Puts in order what those of these participants left that are dead.
    fn bury(&self, ids: impl IntoIterator<Item = u32>) -> Result<(), ChannelError> {
        let dead = self.attachment.bury(ids, |id| self.repair(id))?;
        self.ring_if(dead > 0);
        Ok(())
    }

    fn has_part(&self, id: u32) -> bool {
        state::has_part(&self.words, &self.place, id)
    }

    fn repair(&self, id: u32) -> Result<(), ChannelError> {
        state::bury(&self.words, &self.place, id);
        Ok(())
    }

    fn ring_if(&self, has_changed: bool) {
        if has_changed {
            self.ring();
        }
    }

    /// What our id has is given up.
    fn give_up_all(&self) {
        state::bury(&self.words, &self.place, self.id);
        self.ring();
    }

    /// Whom nobody would ever find dead.
    fn refuse_stranger(&self, owner: Owner) -> Result<(), Corrupt> {
        match owner.id() {
            id if id > self.place.shares.participants => Err(Corrupt(format!("participant {id} has it"))),
            _ => Ok(()),
        }
    }

    /// What a thread of ours would have to wait for itself for.
    pub(super) fn refuse_recursion(&self, me: Owner, owner: Owner) -> Result<(), LockError> {
        self.refuse_stranger(owner)?;
        let is_mine = owner.thread() == me.thread()
            && (owner.id() == me.id() || self.siblings().iter().any(|other| other.id == owner.id()));
        // The seat may be a sibling's only since its last owner gave up the lock and left: what that
        // one had is taken back before anybody else has the seat.
        match is_mine && lock::is_held_by(&self.words, self.place.lock, owner) {
            true => Err(LockError::Recursive),
            false => Ok(()),
        }
    }

    /// Whether this thread reads what we are about to write.
    pub(super) fn refuse_reader(&self) -> Result<(), LockError> {
        let mut siblings = None;
        let reads = thread::reads_any(|key| {
            key == self.key()
                || siblings.get_or_insert_with(|| self.siblings()).iter().any(|other| other.key == key)
        });
        if reads { Err(LockError::Recursive) } else { Ok(()) }
    }

    /// What tells it from the other handles of this process.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// The handles of this process in the same segment.
    fn siblings(&self) -> Vec<Known> {
        let instance = self.attachment.header().instance;
        all().into_iter().filter(|other| other.instance == instance).collect()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Guards that were forgotten.
        if self.is_ours() && self.has_part(self.id) {
            self.give_up_all();
        }
    }
}

fn now_ms() -> u64 {
    ident::unix_time_ns() / 1_000_000
}

/// All handles of this process.
fn all() -> Vec<Known> {
    let _window = Window::open();
    HANDLES.lock().iter().filter(|known| known.is_there()).cloned().collect()
}

/// A thread of this process ends. What it has is given up if nothing can refer to it any more;
/// otherwise it is its own still, and the others are told.
pub(super) fn thread_ends(number: u32, reads: &[u64]) {
    for known in all() {
        // One at a time: if it is dropped meanwhile, that ends here.
        let Some(handle) = known.handle.upgrade() else { continue };
        let Handle { words, place, lends, .. } = &*handle;
        let me = Owner::new(handle.id, number);
        let mut has_changed = false;
        if lock::state(words, place.lock).is_ok_and(|state| state == State::Held(me)) {
            has_changed = match lends {
                true => lock::forget(words, place.lock, me),
                false => lock::abandon(words, place.lock, me),
            };
        }
        for _ in reads.iter().filter(|&&key| key == handle.key()) {
            has_changed = true;
            match lends {
                true => readers::forget(words, &place.shares, me),
                false => readers::leave(words, &place.shares, me),
            }
        }
        if has_changed {
            handle.ring();
        }
    }
}

/// Somebody's turn at a lock.
struct Turn<'a> {
    handle: &'a Handle,
    me: Owner,
    manner: Manner,
    /// What stood in the way, by the last look.
    last: State,
}

/// Pauses of the processor between two looks of who spins: the first ones, and the most. A lock
/// changes hands at the price of several acquisitions by one, so who has it isn't to lose its
/// line to one that only looks.
const FIRST_PAUSES: u32 = 8;
const MOST_PAUSES: u32 = 128;
/// Looks of who spins: for about as long as a wake-up costs.
const SPINS: u32 = 60;

impl<'a> Turn<'a> {
    fn new(handle: &'a Handle, me: Owner, how: How, asks: bool) -> Self {
        let manner = Manner { asks, overrides: None, repairs: how.repairs };
        Self { handle, me, manner, last: State::Free }
    }

    /// The first look.
    fn begin(&mut self) -> Result<Option<Taken>, LockError> {
        let taken = self.poll()?;
        if let (None, State::Held(owner)) = (taken, self.last) {
            self.handle.refuse_recursion(self.me, owner)?;
            self.handle.note_since();
        }
        Ok(taken)
    }

    /// Looks again and again, ever less often.
    fn spin(&mut self) -> Result<Option<Taken>, LockError> {
        if !has_several_processors() {
            return Ok(None);
        }
        let mut pauses = FIRST_PAUSES;
        for _ in 0..SPINS {
            (0..pauses).for_each(|_| hint::spin_loop());
            if let Some(taken) = self.poll()? {
                return Ok(Some(taken));
            }
            pauses = (2 * pauses).min(MOST_PAUSES);
        }
        Ok(None)
    }
}

impl Awaited for Turn<'_> {
    type Answer = Taken;
    type Error = LockError;

    fn poll(&mut self) -> Result<Option<Taken>, LockError> {
        let Handle { words, place, .. } = self.handle;
        let mut attempt = lock::attempt(words, place.lock, self.me, self.manner)?;
        if let Attempt::Refused(state @ State::Forgotten(_)) = attempt {
            self.handle.settled(state)?;
            attempt = lock::attempt(words, place.lock, self.me, self.manner)?;
        }
        if let Attempt::Refused(state) = attempt {
            if state.has_lapsed(now_ms) {
                let manner = Manner { overrides: Some(state), ..self.manner };
                attempt = lock::attempt(words, place.lock, self.me, manner)?;
            }
        }
        match attempt {
            Attempt::Taken { to_repair: false } => return Ok(Some(Taken::InOrder)),
            Attempt::Taken { to_repair: true } => return Ok(Some(Taken::ToRepair)),
            Attempt::Refused(State::Abandoned) if !self.manner.repairs => return Err(LockError::OwnerDied),
            Attempt::Refused(State::Poisoned) => return Err(LockError::Poisoned),
            Attempt::Refused(State::Forgotten(_)) => return Err(LockError::Forgotten),
            Attempt::Refused(state) => self.last = state,
        }
        Ok(None)
    }

    fn is_obstructed(&self) -> bool {
        true
    }

    fn look_around(&mut self) -> Result<(), LockError> {
        match self.last {
            State::Held(owner) => self.handle.look_at_owner(owner).or_else(troubled),
            State::Reserved { .. } => self.handle.look_at_asker().or_else(troubled),
            _ => Ok(()),
        }
    }
}
