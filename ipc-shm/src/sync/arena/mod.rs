//! Shared data of any size and shape: an allocator in a segment, whose transactions happen whole
//! or not at all (`ring::arena`).

mod error;
mod heap;
mod list;
mod map;
mod offset;

pub use error::ArenaError;
pub use heap::Heap;
pub use list::List;
pub use map::Map;
pub use offset::Offset;

use super::{
    Form, LockError, Plain, Primitive, State,
    handle::{Handle, How},
    layout::Described,
    space::sealed::{self, Part},
};
use crate::{
    ring::arena::{self, ALIGNMENT_BYTES, MOST_CHANGES, Place, Session},
    sys::ident,
    wait::Waiting,
};
use heap::Held;
use ipc_core::{ChannelError, Wait};
use std::{marker::PhantomData, sync::Arc};

/// Data that processes share and that grows: a root value of type `R`, and all that hangs on it
/// by [`Offset`]s, allocated and freed in a segment of a fixed size.
///
/// Everything happens in transactions: what [`with`](Self::with) is given has all of it to
/// itself, and when it returns `Ok`, all that it did has happened, at once. If it returns an
/// error, panics, or its process is killed, at whatever instruction, nothing has. So nobody ever
/// finds a list half linked, nothing allocated is lost, and nothing is to be repaired.
///
/// ```standalone_crate
/// use ipc_shm::sync::{Arena, List, Map};
///
/// ipc_shm::layout! {
///     #[derive(Clone, Copy, Default)]
///     struct Office { jobs: List, phones: Map }
/// }
///
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-arena-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # // SAFETY: nothing else runs in this process.
/// # unsafe { std::env::set_var("IPC_DIR", &directory) };
/// let office = Arena::<Office>::open_or_create("app.office", 1 << 20, Office::default)?;
/// office.with(|office, heap| {
///     office.jobs.push_back(heap, b"call Ada")?;
///     office.phones.insert(heap, b"Ada", b"+44 1815")
/// })?;
/// // In whatever process; both, or neither:
/// office.with(|office, heap| {
///     if let Some(job) = office.jobs.pop_front(heap)? {
///         assert_eq!(job, b"call Ada");
///         assert_eq!(office.phones.get(heap, b"Ada")?, Some(&b"+44 1815"[..]));
///     }
///     Ok(())
/// })?;
/// # drop(office);
/// # ipc_shm::sync::State::new().remove("app.office")?;
/// # std::fs::remove_dir(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`List`] and [`Map`] are made of what everybody has: a [`Heap`] to allocate in, and
/// [`Offset`]s, which are the same in every process and have no address in them.
///
/// # Limits
///
/// A transaction changes at most [`MAX_CHANGES`](Self::MAX_CHANGES) words of 8 bytes of what was
/// there before; what it allocates it can fill without such a limit. Large things are changed
/// by allocating the new one and freeing the old one. Each object takes up 16 bytes beside its own,
/// in multiples of 16; values are aligned to 16 bytes at most. The capacity is fixed when the
/// arena is made, and the root is copied at each transaction: keep it small.
///
/// Finding room takes as long as there are free blocks of about that size; a list of many
/// objects takes as long to walk in a transaction as in a program, and everybody else waits.
#[derive(Debug)]
pub struct Arena<R> {
    how: How,
    place: Place,
    handle: Arc<Handle>,
    root: PhantomData<fn() -> R>,
}

impl<R: Plain + Clone> Arena<R> {
    /// The most words of 8 bytes that one transaction changes of what there was before.
    pub const MAX_CHANGES: u64 = MOST_CHANGES;

    /// Opens the arena `name` in the default directory, or makes one with room for
    /// `capacity_bytes` of objects, whose root is what `root` says. It is kept until it is
    /// removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if it is something else, or has a root of another layout (the
    /// error names both), [`ChannelError::InvalidConfig`] if it is larger than there can be, and
    /// the others. The capacity of an existing one isn't compared.
    pub fn open_or_create(
        name: &str,
        capacity_bytes: u64,
        root: impl FnOnce() -> R,
    ) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, || Contents { capacity_bytes, root: root() })
    }

    /// Opens the arena `name` in the default directory.
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

    /// A transaction: `body` has a copy of the root, which replaces it, and the heap. All that it
    /// does happens when it returns `Ok`, and nothing otherwise.
    ///
    /// ```
    /// use ipc_shm::sync::{Arena, ArenaError, State, arena::Contents};
    /// # let directory = std::env::temp_dir().join(format!("ipc-shm-undone-{}", std::process::id()));
    /// # std::fs::create_dir_all(&directory)?;
    ///
    /// let state = State::at(&directory).transient();
    /// let made = || Contents { capacity_bytes: 1 << 16, root: 0 };
    /// let arena = state.create::<Arena<u64>>("x", made)?;
    /// let answer = arena.with(|root, heap| {
    ///     *root = heap.allocate(&42_u32)?.to_bits();
    ///     heap.allocate_slice(&[0_u8; 1 << 20])
    /// });
    /// assert!(matches!(answer, Err(ArenaError::Full { asked_bytes: 0x100000, .. })));
    /// assert_eq!(arena.with(|root, _| Ok(*root))?, 0);
    /// assert_eq!(arena.stats()?.objects, 0);
    /// # drop(arena);
    /// # std::fs::remove_dir(&directory)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What `body` says, [`ArenaError::TooManyChanges`], [`ArenaError::Lock`]: with
    /// [`LockError::Recursive`] within another transaction of this arena, [`LockError::Closed`],
    /// [`LockError::Corrupt`], [`LockError::Forked`], [`LockError::Os`].
    ///
    /// # Blocking
    ///
    /// While others are at it.
    pub fn with<T>(
        &self,
        body: impl FnOnce(&mut R, &mut Heap<'_>) -> Result<T, ArenaError>,
    ) -> Result<T, ArenaError> {
        self.with_wait(Wait::Forever, body)
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Cancelled`]: `body` didn't
    /// run; and as [`with`](Self::with).
    ///
    /// # Blocking
    ///
    /// As `wait` says, until nobody else is at it.
    pub fn with_wait<T>(
        &self,
        wait: Wait<'_>,
        body: impl FnOnce(&mut R, &mut Heap<'_>) -> Result<T, ArenaError>,
    ) -> Result<T, ArenaError> {
        let held = Held::take(&self.handle, self.how, wait, self.place)?;
        let session = Session::begin(&self.handle.words, self.place).map_err(LockError::from)?;
        let mut heap = Heap::new(held, session);
        let mut root: R = heap.root()?;
        let answer = body(&mut root, &mut heap)?;
        heap.commit(root.as_bytes())?;
        Ok(answer)
    }

    /// How much there is of what, by now.
    ///
    /// # Errors
    ///
    /// As [`with`](Self::with).
    ///
    /// # Blocking
    ///
    /// While others are at it.
    pub fn stats(&self) -> Result<ArenaStats, ArenaError> {
        self.with(|_, heap| heap.stats())
    }
}

impl<R: Plain + Clone> sealed::Sealed for Arena<R> {}

impl<R: Plain + Clone> Primitive for Arena<R> {
    type Initial = Contents<R>;
    const FORM: Form = Form::Arena;

    fn layout() -> sealed::Layout {
        sealed::Layout(Described::of::<R>())
    }

    fn capacity_bytes(initial: &Contents<R>) -> Result<Option<u64>, ChannelError> {
        data_bytes(initial).map(Some)
    }

    fn contents(initial: Contents<R>) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        Ok((arena::first_contents(initial.root.as_bytes(), data_bytes(&initial)?), [0; 2]))
    }

    fn of(Part(handle): Part) -> Result<Self, ChannelError> {
        let data_bytes = handle.attachment().layout().lane_bytes;
        let place = Place::of(&handle.place, data_bytes, size_of::<R>() as u64)?;
        Ok(Self { how: How::default(), place, handle, root: PhantomData })
    }
}

/// The whole pages that it takes.
fn data_bytes<R: Plain>(contents: &Contents<R>) -> Result<u64, ChannelError> {
    let (page, max) = (ident::page_size_bytes()?, crate::ShmConfig::MAX_CAPACITY_BYTES);
    let overhead = arena::overhead_bytes(size_of::<R>() as u64);
    let bytes = contents.capacity_bytes.max(2 * ALIGNMENT_BYTES).checked_add(overhead);
    match bytes.filter(|&bytes| bytes <= max) {
        Some(bytes) => Ok(bytes.next_multiple_of(page)),
        None => Err(ChannelError::InvalidConfig(format!(
            "a capacity of {} bytes is too large: an arena has at most {max} bytes (1 TiB) in all",
            contents.capacity_bytes
        ))),
    }
}

/// What an [`Arena`] begins with.
#[derive(Clone, Copy, Debug)]
pub struct Contents<R> {
    /// Room for objects and what each takes up beside its bytes; it is more by what is left of
    /// a page.
    pub capacity_bytes: u64,
    /// The root.
    pub root: R,
}

/// How much there is of what in an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaStats {
    /// Room for objects, and what each takes up beside its bytes.
    pub capacity_bytes: u64,
    /// What the objects take up of it.
    pub used_bytes: u64,
    /// Objects that are allocated.
    pub objects: u64,
    /// The largest object that there is room for.
    pub largest_bytes: u64,
}
