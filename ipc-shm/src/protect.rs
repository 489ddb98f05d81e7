//! Memory protection: who can change what, and what happens to who tries.
//!
//! | protection | against | by |
//! |---|---|---|
//! | guard pages, always | running off the end of a channel's memory | pages that nobody may access |
//! | [`ShmConfig::mode`], [`group`](crate::ShmConfig::group), [`trust`](crate::Shm::trust) | files of, and accesses by, other users | permissions, and the owner that the kernel names |
//! | observers ([`Broadcast::observe`], [`Latest::observe`]) | readers that write | types without such methods, a descriptor and a mapping for reading only |
//! | [`Guarded`] | stray stores of one's own program | pages that are for reading only outside of [`Guarded::with_write`] |
//! | [`ShmConfig::undumped`], [`unswapped`](crate::ShmConfig::unswapped) | secrets on a disk | `MADV_DONTDUMP`, `mlock(2)` |
//! | every endpoint | a forked child that goes on with it | `MADV_DONTFORK`, [`RecvError::Forked`](crate::RecvError::Forked) |
//! | [`sealed`](crate::sealed) | peers that are malicious | sealed memory, each page with one process that can write to it |
//!
//! A fault is a `SIGSEGV` in the process that made the mistake, and the end of it unless it
//! handles that; its peers go on as after any other death.
//!
//! [`ShmConfig::mode`]: crate::ShmConfig::mode
//! [`ShmConfig::undumped`]: crate::ShmConfig::undumped
//! [`Broadcast::observe`]: crate::Broadcast::observe
//! [`Latest::observe`]: crate::Latest::observe

use crate::{
    broadcast::{BroadcastPublisher, BroadcastSubscriber},
    latest::{LatestReader, LatestWriter},
    mpmc::{MpmcReceiver, MpmcSender},
    observer::{BroadcastObserver, LatestObserver},
    ring::memory::Words,
    spsc::{SpscReceiver, SpscSender},
    sys::map::Access,
};
use ipc_core::OsError;
use std::mem::ManuallyDrop;

/// An endpoint whose memory is for reading only outside of scopes that say otherwise.
///
/// An endpoint's pages can be written by all of its program, not only by this crate: a stray
/// pointer somewhere else would corrupt what every peer sees. In a `Guarded` one it faults
/// there and then, and the peers never see it. The window is for all threads of the process as
/// long as it is open; other endpoints of the same channel have mappings of their own.
///
/// Opening and closing takes two calls of `mprotect(2)`: worth it where a window is open for
/// many messages, or messages are rare.
///
/// ```
/// # use ipc_shm::{Channel, ChannelName, Receiver, Sender, ShmConfig, Spsc, Transport};
/// use ipc_shm::protect::Guarded;
///
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-guarded-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let (spsc, name) = (Spsc::at(&directory), ChannelName::new("orders")?);
/// # let channel = spsc.create(&name, &ShmConfig::new())?;
/// let mut tx = Guarded::new(channel.sender()?)?;
/// tx.with_write(|tx| tx.send(b"hello"))??;
/// // Here a store to the channel's pages is a fault.
/// # assert_eq!(&*channel.receiver()?.recv()?, b"hello");
/// # drop((tx, channel));
/// # spsc.remove(&name)?;
/// # std::fs::remove_dir(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Guarded<E: Endpoint> {
    endpoint: ManuallyDrop<E>,
}

impl<E: Endpoint> Guarded<E> {
    /// Closes the endpoint's memory to stores.
    ///
    /// # Errors
    ///
    /// What the system says; the endpoint is gone then.
    pub fn new(endpoint: E) -> Result<Self, OsError> {
        endpoint.words().protect(Access::Read)?;
        Ok(Self { endpoint: ManuallyDrop::new(endpoint) })
    }

    /// Opens a window for stores as long as `body` runs, which uses the endpoint. Whatever way
    /// `body` ends, the window is closed. What was lent can't leave it.
    ///
    /// # Errors
    ///
    /// What the system says: `body` didn't run if the window couldn't be opened, and did if it
    /// couldn't be closed.
    pub fn with_write<R>(&mut self, body: impl FnOnce(&mut E) -> R) -> Result<R, OsError> {
        self.endpoint.words().protect(Access::ReadWrite)?;
        let window = OpenWindow(&mut *self.endpoint);
        let answer = body(window.0);
        window.close()?;
        Ok(answer)
    }

    /// The endpoint, with its memory open for good.
    ///
    /// # Errors
    ///
    /// What the system says; the endpoint is gone then.
    pub fn into_inner(self) -> Result<E, OsError> {
        self.endpoint.words().protect(Access::ReadWrite)?;
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once: neither `this` nor the endpoint in it is used or dropped again.
        Ok(unsafe { ManuallyDrop::take(&mut this.endpoint) })
    }
}

impl<E: Endpoint> Drop for Guarded<E> {
    fn drop(&mut self) {
        // To leave in good order is to store. Where that can't be, the place is free when this
        // process ends, as if it were killed now. Once more if memory was short.
        let words = self.endpoint.words();
        let is_open = words.protect(Access::ReadWrite).or_else(|_| words.protect(Access::ReadWrite)).is_ok();
        drop(words);
        if is_open {
            // SAFETY: dropped here only, and `self` isn't used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.endpoint) };
        }
    }
}

/// What a stray pointer would do: stores a byte to an endpoint's memory, for demonstrations,
/// and for finding out what a program does then. It is the last byte of the channel's first
/// page, which nobody reads, so nothing else comes of it; an observer's process and that of a
/// guarded endpoint get a `SIGSEGV` instead. In a fork of the endpoint's process it does nothing:
/// whatever is at that address there is something else.
pub fn stray_store(endpoint: &impl private::Mapped, byte: u8) {
    let words = endpoint.words();
    if !words.are_ours() {
        return;
    }
    // SAFETY: none, where the pages are for reading only: the fault is what was asked for. Where
    // they aren't, the byte is within the first page, and neither this process nor a peer has
    // a reference to it.
    unsafe { words.bytes(STRAY_AT, 1).as_ptr().write_volatile(byte) };
}

/// The smallest page's last byte.
const STRAY_AT: usize = 4095;

/// Closes the window, also when `body` panics; that of the endpoint that is there then, should
/// it have been exchanged for another one.
struct OpenWindow<'a, E: Endpoint>(&'a mut E);

impl<E: Endpoint> OpenWindow<'_, E> {
    fn close(self) -> Result<(), OsError> {
        ManuallyDrop::new(self).0.words().protect(Access::Read)
    }
}

impl<E: Endpoint> Drop for OpenWindow<'_, E> {
    fn drop(&mut self) {
        let _ = self.0.words().protect(Access::Read);
    }
}

/// An endpoint of a named channel, whose memory can be [`Guarded`].
pub trait Endpoint: private::Mapped {}

mod private {
    use crate::ring::memory::Words;

    pub trait Mapped {
        /// The endpoint's memory.
        #[allow(private_interfaces, reason = "nobody else can call it")]
        fn words(&self) -> Words;
    }
}

macro_rules! endpoints {
    ($($endpoint:ty),+ $(,)?) => {
        $(
            impl Endpoint for $endpoint {}

            impl private::Mapped for $endpoint {
                #[allow(private_interfaces, reason = "nobody else can call it")]
                fn words(&self) -> Words {
                    self.attachment().words()
                }
            }
        )+
    };
}

/// Observers have no windows: they never write.
macro_rules! observers {
    ($($observer:ty),+ $(,)?) => {
        $(
            impl private::Mapped for $observer {
                #[allow(private_interfaces, reason = "nobody else can call it")]
                fn words(&self) -> Words {
                    self.memory().clone()
                }
            }
        )+
    };
}

observers!(BroadcastObserver, LatestObserver);

impl<E: Endpoint> private::Mapped for Guarded<E> {
    #[allow(private_interfaces, reason = "nobody else can call it")]
    fn words(&self) -> Words {
        self.endpoint.words()
    }
}

endpoints!(
    SpscSender,
    SpscReceiver,
    MpmcSender,
    MpmcReceiver,
    BroadcastPublisher,
    BroadcastSubscriber,
    LatestWriter,
    LatestReader,
);
