//! A segment: one channel in one file.
//!
//! ```text
//! page 0   header, never changed      (header.rs)
//! page 1   what the sender writes     (RolePage)
//! page 2   what the receiver writes   (RolePage)
//! page 3…  the data area
//! ```
//!
//! A segment is made unnamed and gets its name when it is whole, so there is no state of
//! "being made" that anybody could find. Who takes part holds locks on single bytes of the
//! file, so there is no count that a kill could leave wrong. A name is taken away only
//! under the directory's lock, by whoever holds the presence byte alone.

mod attachment;
mod create;
mod file;
mod header;
mod inspect;
mod open;
mod place;
mod remove;

pub(crate) use attachment::{Anchored, Attachment};
pub(crate) use create::create;
pub(crate) use file::Opened;
pub(crate) use header::{FenceMode, Header};
pub(crate) use inspect::inspect;
pub(crate) use open::open;
pub(crate) use place::{Home, Place};
pub(crate) use remove::{collect, remove, turn_away};

use crate::ring::spsc::Geometry;
use ipc_core::Role;

/// Pages in front of the data area.
pub(crate) const CONTROL_PAGES: u64 = 3;

/// Locked shared by everybody who has the segment open.
const PRESENCE_BYTE: u64 = 0;

/// The byte that an endpoint of this role holds alone.
fn role_byte(role: Role) -> u64 {
    match role {
        Role::Receiver => 2,
        _ => 1,
    }
}

/// Where things are in a role's page. Lines that different processes write lie 128 bytes
/// apart, since processors fetch lines in pairs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RolePage(usize);

impl RolePage {
    pub(crate) fn of(role: Role, page: usize) -> Self {
        Self(page * role_byte(role) as usize)
    }

    /// The holder's process id, 0 when it left in good order. For people to read.
    pub(crate) fn pid(self) -> usize {
        self.0
    }

    /// When the holder came, in nanoseconds since 1970. For people to read.
    pub(crate) fn attached_unix_ns(self) -> usize {
        self.0 + 8
    }

    /// Whether a sleeper's fence reaches the holder: see [`Reach`].
    pub(crate) fn reach(self) -> usize {
        self.0 + 16
    }

    /// How far the holder has come, for its successor.
    pub(crate) fn ledger(self) -> usize {
        self.0 + 128
    }

    /// How far the receiver has come, for the sender: on the ledger's line.
    pub(crate) fn released(self) -> usize {
        self.0 + 168
    }

    /// Not 0 while the holder sleeps or is about to: on a line that is mostly read.
    pub(crate) fn asleep(self) -> usize {
        self.0 + 256
    }
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

/// Where an spsc ring's parts are in a segment.
pub(crate) fn spsc_geometry(header: &Header) -> Geometry {
    let page = header.page as usize;
    let receiver = RolePage::of(Role::Receiver, page);
    Geometry {
        sender_ledger: RolePage::of(Role::Sender, page).ledger(),
        receiver_ledger: receiver.ledger(),
        released: receiver.released(),
        data: header.data_offset as usize,
        capacity: header.capacity_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::ledger::LEDGER_LEN_BYTES;

    #[test]
    fn the_parts_of_a_role_page_do_not_overlap() {
        let page = RolePage::of(Role::Receiver, 4096);
        assert!(page.pid() == 8192 && page.reach() + 8 <= page.ledger());
        assert!(page.ledger() + LEDGER_LEN_BYTES <= page.released());
        assert!(page.released() + 8 <= page.ledger() + 64, "one line, written together");
        assert!(page.asleep() >= page.ledger() + 128);
    }
}
