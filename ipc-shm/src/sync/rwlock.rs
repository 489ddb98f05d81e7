//! Many readers, or one writer.

use super::{
    Form, LockError, Plain, Primitive, State,
    handle::{Handle, How, Taken},
    layout::Described,
    space::sealed::{self, Part},
    thread::{begin_read, end_read},
    value::Value,
};
use crate::{
    ring::{
        lock::{self, Owner},
        readers::{self, Entered, Reading},
        troubled,
    },
    wait::{Awaited, Waiting},
};
use ipc_core::{ChannelError, Wait};
use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::Arc,
    thread,
    time::Duration,
};

/// A value that one thread of all processes changes at a time, and that any number read while
/// nobody does.
///
/// Readers of different processes write to no memory in common, so they don't slow each
/// other down; the threads of a process share one count. Writers look at the count of every
/// participant there can be ([`State::participants`]). For a small value, readers are
/// better off with [`Shared`](super::Shared), which takes no lock at all.
///
/// If a writer dies, it is as with a [`Mutex`](super::Mutex): nobody gets the lock until
/// somebody has repaired the value. If a reader dies, nothing has happened to the value: its
/// own count is taken back, exactly, by the writer that waits for it, within 5 ms.
///
/// A writer that waits keeps new readers out; a reader that waits gets in after at most 256
/// writers. A thread that reads can't write, nor read anew while a writer waits, or just tries
/// whether it could write, by whatever handle: the first is [`LockError::Recursive`], and so is the
/// second.
#[derive(Debug)]
pub struct RwLock<T> {
    how: How,
    value: Value<T>,
    handle: Arc<Handle>,
}

impl<T: Plain> RwLock<T> {
    /// Opens the lock `name` in the default directory, or makes it, with the value that
    /// `initial` says. It is kept until it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if it is something else, or protects a value of another
    /// layout, and the others.
    pub fn open_or_create(name: &str, initial: impl FnOnce() -> T) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, initial)
    }

    /// Opens the lock `name` in the default directory.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; and as [`open_or_create`](Self::open_or_create).
    pub fn open(name: &str) -> Result<Self, ChannelError> {
        State::new().open(name)
    }

    /// Sets how this process waits; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.how.waiting = waiting;
    }

    /// Takes the lock to read.
    ///
    /// # Errors
    ///
    /// As [`Mutex::lock`](super::Mutex::lock).
    ///
    /// # Blocking
    ///
    /// While somebody writes, or waits to.
    #[inline]
    pub fn read(&self) -> Result<ReadGuard<'_, T>, LockError> {
        self.read_wait(Wait::Forever)
    }

    /// Takes the lock to read, if nobody writes or waits to. Whether a writer that has it lives is
    /// looked at once in 5 ms.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`]; and as [`read`](Self::read).
    pub fn try_read(&self) -> Result<ReadGuard<'_, T>, LockError> {
        self.read_wait(Wait::Never)
    }

    /// Takes the lock to read, in time.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`]; and as [`read`](Self::read).
    ///
    /// # Blocking
    ///
    /// For at most `timeout`.
    pub fn read_timeout(&self, timeout: Duration) -> Result<ReadGuard<'_, T>, LockError> {
        self.read_wait(Wait::timeout(timeout))
    }

    /// Takes the lock to read.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Cancelled`]; and as
    /// [`read`](Self::read).
    ///
    /// # Blocking
    ///
    /// As `wait` says.
    #[inline]
    pub fn read_wait(&self, wait: Wait<'_>) -> Result<ReadGuard<'_, T>, LockError> {
        let Handle { words, place, .. } = &*self.handle;
        let me = self.handle.me()?;
        // Who only tries leaves no trace where somebody has it: nobody need be woken.
        let may_enter = !matches!(wait, Wait::Never) || !lock::state(words, place.lock)?.keeps_out();
        let entered = may_enter.then(|| readers::enter(words, &place.shares, me)).transpose()?;
        match entered {
            Some(Ok(Entered::Free)) => {}
            Some(Ok(Entered::Accepted)) => self.handle.ring(),
            Some(Err(_)) => {
                self.handle.ring();
                self.enter_slowly(me, wait)?;
            }
            None => self.enter_slowly(me, wait)?,
        }
        let is_noted = begin_read(self.handle.key());
        Ok(ReadGuard { lock: self, me, is_noted, unsendable: PhantomData })
    }

    #[cold]
    fn enter_slowly(&self, me: Owner, wait: Wait<'_>) -> Result<(), LockError> {
        // Who waits for a writer that waits for us waits for ever.
        self.handle.refuse_reader()?;
        let mut entering = Entering { handle: &self.handle, me, asks: false, writer: None };
        if entering.poll()?.is_some() {
            return Ok(());
        }
        if let Some(writer) = entering.writer {
            self.handle.refuse_recursion(me, writer)?;
        }
        if matches!(wait, Wait::Never) && self.handle.is_time_to_look() {
            entering.look_around()?;
            return entering.poll()?.ok_or(LockError::WouldBlock);
        }
        entering.asks = true;
        self.handle.wait(self.how.waiting, wait, entering).inspect_err(|_| self.handle.withdraw(me))
    }

    /// Takes the lock to write.
    ///
    /// # Errors
    ///
    /// As [`Mutex::lock`](super::Mutex::lock).
    ///
    /// # Blocking
    ///
    /// While others read or write.
    pub fn write(&self) -> Result<WriteGuard<'_, T>, LockError> {
        self.write_wait(Wait::Forever)
    }

    /// Takes the lock to write, if nobody has it. Whether readers that keep it have died is looked
    /// at once in 5 ms.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`]; and as [`write`](Self::write).
    pub fn try_write(&self) -> Result<WriteGuard<'_, T>, LockError> {
        self.write_wait(Wait::Never)
    }

    /// Takes the lock to write, in time.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`]; and as [`write`](Self::write).
    ///
    /// # Blocking
    ///
    /// For at most `timeout`.
    pub fn write_timeout(&self, timeout: Duration) -> Result<WriteGuard<'_, T>, LockError> {
        self.write_wait(Wait::timeout(timeout))
    }

    /// Takes the lock to write.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Cancelled`]; and as
    /// [`write`](Self::write).
    ///
    /// # Blocking
    ///
    /// As `wait` says.
    pub fn write_wait(&self, wait: Wait<'_>) -> Result<WriteGuard<'_, T>, LockError> {
        self.shut(self.how, wait).map(|(_, guard)| guard)
    }

    /// Takes the lock to write; if its last writer died with it, `repair` puts the value in
    /// order first. If `repair` panics, the lock is poisoned for good.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), but for [`LockError::OwnerDied`].
    ///
    /// # Blocking
    ///
    /// While others read or write.
    pub fn write_or_repair(&self, repair: impl FnOnce(&mut T)) -> Result<WriteGuard<'_, T>, LockError> {
        let (taken, mut guard) = self.shut(How { repairs: true, ..self.how }, Wait::Forever)?;
        if taken == Taken::ToRepair {
            guard.is_repairing = true;
            repair(&mut guard);
            guard.is_repairing = false;
        }
        Ok(guard)
    }

    /// Keeps others from coming, and waits for those who read to leave.
    fn shut(&self, how: How, wait: Wait<'_>) -> Result<(Taken, WriteGuard<'_, T>), LockError> {
        self.handle.me()?;
        self.handle.refuse_reader()?;
        let taken = self.handle.lock(how, wait)?;
        let mut emptying = Emptying { handle: &self.handle, from: 1, reads: None };
        readers::shut(&self.handle.words);
        let is_empty = emptying.poll().and_then(|empty| match empty {
            Some(()) => Ok(()),
            None if matches!(wait, Wait::Never) => {
                if !self.handle.is_time_to_look() {
                    return Err(LockError::WouldBlock);
                }
                emptying.look_around()?;
                emptying.poll()?.ok_or(LockError::WouldBlock)
            }
            None => self.handle.wait(how.waiting, wait, emptying),
        });
        if let Err(error) = is_empty {
            match taken {
                Taken::InOrder => self.handle.give_back(),
                Taken::ToRepair => self.handle.abandon(),
            }
            return Err(error);
        }
        let panicking = thread::panicking();
        Ok((taken, WriteGuard { lock: self, panicking, is_repairing: false, unsendable: PhantomData }))
    }
}

impl<T: Plain> sealed::Sealed for RwLock<T> {}

impl<T: Plain> Primitive for RwLock<T> {
    type Initial = T;
    const FORM: Form = Form::RwLock;
    const LENDS: bool = size_of::<T>() > 0;

    fn layout() -> sealed::Layout {
        sealed::Layout(Described::of::<T>())
    }

    fn contents(initial: T) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        Ok((initial.as_bytes().into(), [0; 2]))
    }

    fn of(Part(handle): Part) -> Result<Self, ChannelError> {
        Ok(Self { how: How::default(), value: Value::of(&handle), handle })
    }
}

/// The lock, had to read: given back when this is dropped. One that is forgotten reads until
/// the lock is dropped, or the process ends; writers are told when its thread ends
/// ([`LockError::Forgotten`]).
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct ReadGuard<'a, T: Plain> {
    lock: &'a RwLock<T>,
    me: Owner,
    /// Whether its thread knows of it, until it has said its last words.
    is_noted: bool,
    unsendable: PhantomData<*const ()>,
}

impl<T: Plain> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard is the lock, which keeps writers out, and borrows what keeps the
        // mapping. Is it forgotten, the lock is kept as long as that borrow may last: until the
        // handle is dropped, whether the thread ends or not (`Handle::lends`).
        unsafe { self.lock.value.get() }
    }
}

impl<T: Plain> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let handle = &self.lock.handle;
        if handle.is_ours() {
            let is_late = !end_read(handle.key()) && self.is_noted;
            handle.leave(self.me, is_late);
        }
    }
}

/// The lock, had to write: given back when this is dropped. If its thread panics meanwhile, the
/// next one is told that its owner died.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct WriteGuard<'a, T: Plain> {
    lock: &'a RwLock<T>,
    panicking: bool,
    is_repairing: bool,
    unsendable: PhantomData<*const ()>,
}

impl<T: Plain> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard is the lock, forgotten or not, and borrows what keeps the mapping.
        unsafe { self.lock.value.get() }
    }
}

impl<T: Plain> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the lock, forgotten or not, borrows what keeps the mapping, and is
        // borrowed alone.
        unsafe { self.lock.value.get_mut() }
    }
}

impl<T: Plain> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        let handle = &self.lock.handle;
        match (handle.is_ours(), self.is_repairing, !self.panicking && thread::panicking()) {
            (false, ..) => {}
            (true, true, _) => handle.poison(),
            (true, false, true) => handle.abandon(),
            (true, false, false) => handle.give_back(),
        }
    }
}

/// A reader that waits for a writer.
struct Entering<'a> {
    handle: &'a Handle,
    me: Owner,
    asks: bool,
    writer: Option<Owner>,
}

impl Awaited for Entering<'_> {
    type Answer = ();
    type Error = LockError;

    fn poll(&mut self) -> Result<Option<()>, LockError> {
        let Handle { words, place, .. } = self.handle;
        // Without a trace as long as somebody has it.
        let mut state = lock::state(words, place.lock)?;
        if !state.keeps_out() {
            match readers::enter(words, &place.shares, self.me)? {
                Ok(entered) => {
                    lock::withdraw(words, place.lock, self.me);
                    if entered == Entered::Accepted {
                        self.handle.ring();
                    }
                    return Ok(Some(()));
                }
                Err(found) => state = found,
            }
            self.handle.ring();
        }
        match self.handle.settled(state)? {
            lock::State::Abandoned => return Err(LockError::OwnerDied),
            lock::State::Forgotten(_) => return Err(LockError::Forgotten),
            lock::State::Poisoned => return Err(LockError::Poisoned),
            lock::State::Held(writer) => self.writer = Some(writer),
            lock::State::Free | lock::State::Reserved { .. } => {}
        }
        if self.asks {
            lock::ask(words, place.lock, self.me);
        }
        Ok(None)
    }

    fn is_obstructed(&self) -> bool {
        true
    }

    fn look_around(&mut self) -> Result<(), LockError> {
        self.writer.map_or(Ok(()), |writer| self.handle.look_at_owner(writer).or_else(troubled))
    }
}

/// A writer that waits for the readers.
struct Emptying<'a> {
    handle: &'a Handle,
    /// All before this one have none, and will have none.
    from: u32,
    /// Who reads, by the last look.
    reads: Option<u32>,
}

impl Emptying<'_> {
    fn look(&mut self) -> Result<Option<Reading>, LockError> {
        let reading = readers::reading(&self.handle.words, &self.handle.place.shares, self.from)?;
        self.reads = reading.map(|reading| reading.id);
        self.from = self.reads.unwrap_or(self.from);
        Ok(reading)
    }
}

impl Awaited for Emptying<'_> {
    type Answer = ();
    type Error = LockError;

    fn poll(&mut self) -> Result<Option<()>, LockError> {
        let mut reading = self.look()?;
        if reading.is_some_and(|reading| reading.forgotten) {
            // By one that may be dead.
            self.look_around()?;
            reading = self.look()?;
        }
        match reading {
            None => Ok(Some(())),
            Some(reading) if reading.forgotten => Err(LockError::Forgotten),
            Some(_) => Ok(None),
        }
    }

    fn is_obstructed(&self) -> bool {
        true
    }

    fn look_around(&mut self) -> Result<(), LockError> {
        // The first one that reads: the others are in the way when it isn't any more.
        self.handle.look_around(self.reads).or_else(troubled)
    }
}
