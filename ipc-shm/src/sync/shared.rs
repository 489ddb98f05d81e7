//! A value by name: read whole by everybody, changed by one at a time.
//!
//! Versions of it are written beside each other, as in a channel of the newest value
//! (`ring::latest`), by whoever has the lock. So readers take no lock, no change is ever seen
//! in part, and a process that dies while it changes the value hasn't changed it.

use super::{
    Form, LockError, Plain, Primitive, SHARED_DEPTH, State,
    handle::{Handle, How},
    layout::Described,
    space::sealed::{self, Part},
};
use crate::{
    ring::{
        latest::{self, Geometry, Look, Reader, Writer},
        memory::{Memory, Words},
        state,
    },
    wait::Waiting,
};
use ipc_core::{ChannelError, Wait};
use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use zerocopy::IntoBytes;

/// A value that processes share by name: each reads it whole, and changes of it happen one
/// after the other, each at once or not at all.
///
/// ```standalone_crate
/// use ipc_shm::sync::Shared;
///
/// ipc_shm::layout! {
///     #[derive(Clone, Copy, Default)]
///     struct Config { retries: u32, batch: u32 }
/// }
///
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-shared-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # // SAFETY: nothing else runs in this process.
/// # unsafe { std::env::set_var("IPC_DIR", &directory) };
/// let mut config = Shared::<Config>::open_or_create("app.config", Config::default)?;
/// config.update(|config| config.retries += 1)?;
/// assert_eq!(config.read()?.retries, 1); // in whatever process
/// # drop(config);
/// # ipc_shm::sync::State::new().remove("app.config")?;
/// # std::fs::remove_dir(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A process that is killed while it changes the value has not changed it: there is nothing to
/// repair, and the next one goes on. The value has a place for four versions; all of it is
/// copied at each change, and once by each reader, so it isn't for many megabytes.
///
/// Each reader keeps a copy of its own. Threads open one each.
#[derive(Debug)]
pub struct Shared<T> {
    copy: Copy<T, Words>,
    how: How,
    handle: Arc<Handle>,
}

impl<T: Plain + Clone> Shared<T> {
    /// Opens the value `name` in the default directory, or makes it as `initial` says. It is
    /// kept until it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if it is something else, or of another layout (the error
    /// names both), and the others.
    pub fn open_or_create(name: &str, initial: impl FnOnce() -> T) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, initial)
    }

    /// Opens the value `name` in the default directory.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; and as [`open_or_create`](Self::open_or_create).
    pub fn open(name: &str) -> Result<Self, ChannelError> {
        State::new().open(name)
    }

    /// Sets how this one waits for its turn; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.how.waiting = waiting;
    }

    /// The value as it is now. If it hasn't changed since the last time, that is known by a
    /// single load.
    ///
    /// # Errors
    ///
    /// [`LockError::Forked`], [`LockError::Corrupt`]; [`LockError::WouldBlock`] if the writers
    /// were faster than each of a thousand copies.
    #[inline]
    pub fn read(&mut self) -> Result<&T, LockError> {
        if !self.handle.is_ours() {
            return Err(LockError::Forked);
        }
        self.copy.read()
    }

    /// Changes the value, alone: `change` has its latest version, and when it returns,
    /// everybody sees the next one. If it panics, nothing has changed.
    ///
    /// # Errors
    ///
    /// [`LockError::Recursive`] if this thread is changing the value already, by another
    /// [`Shared`]; [`LockError::Closed`], [`LockError::Corrupt`], [`LockError::Forked`],
    /// [`LockError::Os`].
    ///
    /// # Blocking
    ///
    /// While others change it.
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Result<R, LockError> {
        let mut guard = self.lock()?;
        let answer = change(&mut guard);
        guard.commit()?;
        Ok(answer)
    }

    /// Has the value to be changed, alone: what becomes of it is seen by everybody, at once, when it
    /// is [committed](SharedGuard::commit), and by nobody when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    ///
    /// # Blocking
    ///
    /// While others change it.
    pub fn lock(&mut self) -> Result<SharedGuard<'_, T>, LockError> {
        self.lock_wait(Wait::Forever)
    }

    /// The same if nobody is changing it now.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`]; and as [`update`](Self::update).
    pub fn try_lock(&mut self) -> Result<SharedGuard<'_, T>, LockError> {
        self.lock_wait(Wait::Never)
    }

    /// The same if it becomes free in time.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`]; and as [`update`](Self::update).
    ///
    /// # Blocking
    ///
    /// For at most `timeout`.
    pub fn lock_timeout(&mut self, timeout: Duration) -> Result<SharedGuard<'_, T>, LockError> {
        self.lock_wait(Wait::timeout(timeout))
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Cancelled`]; and as
    /// [`update`](Self::update).
    ///
    /// # Blocking
    ///
    /// As `wait` says.
    pub fn lock_wait(&mut self, wait: Wait<'_>) -> Result<SharedGuard<'_, T>, LockError> {
        // What a dead owner was writing isn't there: nothing is to be repaired.
        self.handle.lock(How { repairs: true, ..self.how }, wait)?;
        let guard = SharedGuard { shared: self, unsendable: PhantomData };
        guard.shared.copy.read()?;
        // It may be changed from here on, and the guard forgotten.
        guard.shared.copy.version = 0;
        Ok(guard)
    }
}

impl<T: Plain + Clone> sealed::Sealed for Shared<T> {}

impl<T: Plain + Clone> Primitive for Shared<T> {
    type Initial = T;
    const FORM: Form = Form::Shared;

    fn layout() -> sealed::Layout {
        sealed::Layout(Described::of::<T>())
    }

    fn contents(initial: T) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        let (slots, newest) = latest::first_value(initial.as_bytes());
        Ok((slots, [newest, 0]))
    }

    fn of(Part(handle): Part) -> Result<Self, ChannelError> {
        Ok(Self { copy: Copy::of(handle.words.clone(), &handle.place), how: How::default(), handle })
    }
}

/// A value to be changed, had alone. Nobody sees what becomes of it until it is
/// [committed](Self::commit).
///
/// It can't go to another thread, since the segment knows which one has the lock:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<ipc_shm::sync::SharedGuard<'static, u64>>();
/// ```
#[derive(Debug)]
#[must_use = "nothing is changed when this is dropped"]
pub struct SharedGuard<'a, T: Plain + Clone> {
    shared: &'a mut Shared<T>,
    unsendable: PhantomData<*const ()>,
}

impl<T: Plain + Clone> SharedGuard<'_, T> {
    /// Has everybody see the value as it is now.
    ///
    /// # Errors
    ///
    /// [`LockError::Forked`] in a forked child; [`LockError::Corrupt`];
    /// [`LockError::OwnerDied`] if its thread is as good as ended: it was kept in a thread-local,
    /// and others go on already.
    pub fn commit(self) -> Result<(), LockError> {
        let Shared { copy, handle, .. } = &mut *self.shared;
        if !handle.is_ours() {
            return Err(LockError::Forked);
        }
        if !handle.is_mine() {
            return Err(LockError::OwnerDied);
        }
        let value = copy.value.as_ref().expect("read when the lock was taken").as_bytes();
        let mut writer = Writer::attach(&handle.words, copy.geometry)?;
        writer.begin();
        for (number, bytes) in value.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            let at = writer.payload() + 8 * number;
            handle.words.store(at, u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        writer.commit(value.len())?;
        Ok(())
    }
}

impl<T: Plain + Clone> Deref for SharedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.shared.copy.value.as_ref().expect("read when the lock was taken")
    }
}

impl<T: Plain + Clone> DerefMut for SharedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.shared.copy.value.as_mut().expect("read when the lock was taken")
    }
}

impl<T: Plain + Clone> Drop for SharedGuard<'_, T> {
    fn drop(&mut self) {
        if self.shared.handle.is_ours() {
            self.shared.handle.give_back();
        }
    }
}

/// How often a reader begins again in all.
const READ_TRIES: u32 = 1000;

/// A reader's copy of the newest version.
#[derive(Debug)]
pub(super) struct Copy<T, M> {
    reader: Reader<M>,
    geometry: Geometry,
    value: Option<T>,
    /// Which version the value is of; 0 if it isn't.
    version: u64,
}

impl<T: Plain, M: Memory> Copy<T, M> {
    pub(super) fn of(memory: M, place: &state::Place) -> Self {
        let geometry = Geometry {
            newest: place.own[0],
            slots: place.data,
            stride: latest::slot_bytes(size_of::<T>() as u64) as usize,
            depth: SHARED_DEPTH,
            max_message_len: size_of::<T>(),
        };
        Self { reader: Reader::attach(memory, geometry), geometry, value: None, version: 0 }
    }

    #[inline]
    pub(super) fn read(&mut self) -> Result<&T, LockError> {
        if self.version == 0 || self.reader.is_behind() {
            self.catch_up()?;
        }
        Ok(self.value.as_ref().expect("of this version"))
    }

    #[cold]
    #[inline(never)]
    fn catch_up(&mut self) -> Result<(), LockError> {
        for _ in 0..READ_TRIES {
            match self.reader.try_copy()? {
                Look::Copied => return self.take(self.reader.copied()),
                Look::Again => {}
                Look::Nothing => return Err(LockError::Corrupt("it holds no value".into())),
            }
        }
        Err(LockError::WouldBlock)
    }

    /// Whether there is another version than that which was read last.
    pub(super) fn is_changed(&self) -> bool {
        self.reader.is_behind()
    }

    fn take(&mut self, version: latest::Version) -> Result<(), LockError> {
        if version.len != size_of::<T>() || version.is_end() {
            return Err(LockError::Corrupt(format!("version {} isn't a value", version.number)));
        }
        let bytes = self.reader.copy().as_bytes();
        let (value, _) = T::read_from_prefix(bytes)
            .map_err(|_| LockError::Corrupt(format!("version {} is shorter than a value", version.number)))?;
        self.value = Some(value);
        self.version = version.number;
        Ok(())
    }
}
