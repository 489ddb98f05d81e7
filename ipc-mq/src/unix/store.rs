//! The messages that a receiver holds: short ones one behind the other, long ones in their
//! pages.

use super::{memory::Pages, sys::Passed};
use crate::store::Store;
use ipc_core::Credentials;

/// Messages held, oldest first.
pub(crate) type Held = Store<Tag>;

/// What a message has besides its bytes.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) credentials: Credentials,
    /// Apart, since most messages have nothing of it.
    pub(crate) extras: Option<Box<Extras>>,
}

/// What came with a message.
#[derive(Debug)]
pub(crate) struct Extras {
    pub(crate) descriptors: Vec<Passed>,
    /// Where the bytes are if they didn't come in the packet.
    pub(crate) pages: Option<Pages>,
}

impl Tag {
    /// How many bytes the message has that didn't come in the packet.
    pub(crate) fn len_in_pages(&self) -> usize {
        self.extras.as_ref().and_then(|extras| extras.pages.as_ref()).map_or(0, |pages| pages.bytes().len())
    }
}

/// The bytes of a message, from what the store has of it.
pub(crate) fn bytes<'a>(inline: &'a [u8], tag: &'a Tag) -> &'a [u8] {
    tag.extras.as_ref().and_then(|extras| extras.pages.as_ref()).map_or(inline, Pages::bytes)
}
