//! A segment: one channel in one file.
//!
//! A segment is made unnamed and gets its name when it is whole, so there is no state of
//! "being made" that anybody could find. Who takes part holds a lock on a byte of the file,
//! so there is no count that a kill could leave wrong: byte 0 is shared by everybody who
//! has the segment open, byte k is held alone by the participant with id k; of a barrier, byte
//! 2^20 + k says that this one's place is in order. A name is taken away only under the
//! directory's lock, by whoever holds byte 0 alone.
//!
//! `layout` says where things are, `header` what the first page holds.

mod attachment;
mod certify;
mod collected;
mod create;
mod durable;
mod file;
mod header;
mod inspect;
mod layout;
mod onlooker;
mod open;
mod place;
mod remove;
pub(crate) mod spawning;

pub(crate) use attachment::{Anchored, Attachment, Seat, turn_away};
pub use collected::Collected;
pub(crate) use create::{create, create_with};
pub(crate) use durable::recover;
pub(crate) use file::Opened;
pub(crate) use header::{FenceMode, Header};
pub(crate) use inspect::inspect;
pub(crate) use layout::{Entry, Layout, RECEIVER, SENDER};
pub(crate) use onlooker::Onlooker;
pub(crate) use open::open;
use place::Target;
pub(crate) use place::{Home, Place};
pub(crate) use remove::{collect, remove, take_back};

/// Locked shared by everybody who has the segment open.
const PRESENCE_BYTE: u64 = 0;

/// The byte that the participant with this id holds alone.
fn byte_of(id: u32) -> u64 {
    u64::from(id)
}

/// Whether the fence of a peer that goes to sleep reaches this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Reach {
    /// It does, or nobody is there.
    Reached = 0,
    /// It doesn't: the peer mustn't rely on being woken.
    Deaf = 1,
}
