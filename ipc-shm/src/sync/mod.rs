//! State that processes share, and what it takes to share it: locks whose owners may die, and
//! values that are never torn.
//!
//! | | is | if who has it dies |
//! |---|---|---|
//! | [`Mutex`] | a value that one has at a time | the next one is told, and repairs it |
//! | [`RwLock`] | the same, or any number who only read | a writer: as above; a reader: nothing |
//! | [`Condvar`] | a place to wait for a change of what a mutex protects | nothing |
//! | [`Semaphore`] | a number of permits | its permits are free |
//! | [`Barrier`] | a point where so many meet | it hasn't arrived |
//! | [`Event`] | something that happens | nobody has it |
//! | [`Once`] | something that is done once | it is done again |
//! | [`Shared`] | a value that all read whole | it hasn't changed it |
//! | [`Arena`] | data that grows, changed in transactions | its transaction hasn't happened |
//! | [`Lock`] | a mutex for its lock's sake | the next one is told |
//!
//! # One name, one thing
//!
//! Each of these is a segment of its own, as a channel is: made whole or not at all, listed and
//! removed by the same commands, found by a name alone. What belongs together is a struct within
//! one mutex ([`layout!`](crate::layout)); a [`Condvar`] goes with any mutex, since nothing but
//! the guard ties the two. Opening one takes a place among its participants
//! ([`State::participants`]); the threads of a process share it.
//!
//! # Death
//!
//! A lock's word names the participant and the thread that has it, and the kernel says whether
//! that process lives: by a lock on its byte of the file, which goes when the process is gone,
//! and not before. Pids and time-outs decide nothing, so it works across pid namespaces, and one
//! that is stopped is never taken for dead. Who waits looks every 5 ms.
//!
//! A thread that ends while its process lives gives up what it has only if nothing can refer to
//! it any more. A guard that was forgotten may have lent a reference to another thread: then the
//! others get [`LockError::Forgotten`], and the lock when that process has dropped what it had
//! opened, or is gone.
//!
//! # What can be shared
//!
//! Values are [`Plain`]: any bytes are one, they have no padding and no pointers. So what a
//! stray write or a dead process left may be nonsense, but is never unsound to look at. Two
//! programs agree on a value by its [`Layout`], not by a Rust path; a mismatch is an error that
//! names both.

pub mod arena;
mod barrier;
mod condvar;
mod error;
mod event;
mod form;
mod handle;
mod layout;
mod lock;
mod mutex;
mod once;
mod reader;
mod rwlock;
mod semaphore;
mod shared;
mod space;
mod thread;
mod value;
mod voice;

pub use arena::{Arena, ArenaError, Heap, List, Map, Offset};
pub use barrier::Barrier;
pub use condvar::Condvar;
pub use error::LockError;
pub use event::Event;
#[doc(hidden)]
pub use form::Form;
pub(crate) use form::SHARED_DEPTH;
pub use layout::{Layout, Plain};
pub use lock::Lock;
pub use mutex::{Mutex, MutexGuard, Recovery};
pub use once::Once;
pub use reader::SharedReader;
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::{Permit, Semaphore};
pub use shared::{Shared, SharedGuard};
pub use space::{Primitive, State};
