//! State that processes share, and what it takes to share it: locks whose owners may die, and
//! values that are never torn.

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
