//! Where things are in a segment.
//!
//! ```text
//! of two:   header | what the sender writes | what the receiver writes | data, mapped twice
//! of many:  header | shared words | entries of the participants … | data
//! of lanes: header | shared words | entries … | a table | data of each lane, mapped twice
//! ```
//!
//! Everything follows from the settings in the header, and is computed, never read.

use crate::{config::Pages, ring::spsc, sys::map::Areas};
use ipc_core::Role;

/// The layout of a segment, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The page size that it is made of.
    pub(crate) page: u64,
    /// Where the participants' entries are, and how far apart.
    entries: u64,
    entry_stride: u64,
    /// How many participants there can be.
    pub(crate) participants: u32,
    /// Where the data area starts.
    pub(crate) data: u64,
    /// The length of each lane of the data area: whole pages.
    pub(crate) lane_bytes: u64,
    /// How many lanes there are.
    pub(crate) lanes: u64,
    /// Whether each lane is mapped twice in a row.
    pub(crate) mirrored: bool,
}

/// How far apart the entries of many participants are: lines that different processes
/// write lie 128 bytes apart, since processors fetch lines in pairs.
const ENTRY_BYTES: u64 = 256;

impl Layout {
    /// One sender, one receiver, each with a page of its own; a ring between them.
    pub(crate) fn of_two(page: u64, capacity_bytes: u64) -> Self {
        Self {
            page,
            entries: page,
            entry_stride: page,
            participants: 2,
            data: 3 * page,
            lane_bytes: capacity_bytes,
            lanes: 1,
            mirrored: true,
        }
    }

    /// Many participants around one data area.
    pub(crate) fn of_many(page: u64, participants: u32, capacity_bytes: u64) -> Self {
        let entries = (u64::from(participants) * ENTRY_BYTES).next_multiple_of(page);
        Self {
            page,
            entries: 2 * page,
            entry_stride: ENTRY_BYTES,
            participants,
            data: 2 * page + entries,
            lane_bytes: capacity_bytes,
            lanes: 1,
            mirrored: false,
        }
    }

    /// Many participants around rings of their own, and a table of `table_bytes` that ends
    /// where the data begins.
    pub(crate) fn of_lanes(
        page: u64,
        participants: u32,
        table_bytes: u64,
        lanes: u32,
        capacity_bytes: u64,
    ) -> Self {
        let many = Self::of_many(page, participants, capacity_bytes);
        let data = many.data + table_bytes.next_multiple_of(page);
        Self { data, lanes: u64::from(lanes), mirrored: true, ..many }
    }

    /// The whole file, in bytes; `None` if that can't be.
    pub(crate) fn total_len(&self) -> Option<u64> {
        self.lane_bytes.checked_mul(self.lanes)?.checked_add(self.data)
    }

    /// What is mapped of the file; `None` if that is more than can be addressed.
    pub(crate) fn areas(&self, pages: Pages) -> Option<Areas> {
        Areas::new(self.page, self.data, self.lane_bytes, self.lanes, self.mirrored, pages)
    }

    /// The words that all participants share, where there are many: a page of them.
    pub(crate) fn shared(&self) -> usize {
        self.page as usize
    }

    /// Whose turn it is to be asked whether they live, where there are many; on a line of its own.
    pub(crate) fn round(&self) -> usize {
        self.shared() + 384
    }

    /// The entry of the participant with this id, 1 to `participants`.
    pub(crate) fn entry(&self, id: u32) -> Entry {
        debug_assert!((1..=self.participants).contains(&id), "no such participant");
        Entry((self.entries + u64::from(id - 1) * self.entry_stride) as usize)
    }

    /// The ids of all participants there can be.
    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.participants
    }

    /// Where an spsc ring's parts are.
    pub(crate) fn spsc(&self) -> spsc::Geometry {
        let sender = self.entry(SENDER);
        let receiver = self.entry(RECEIVER);
        spsc::Geometry {
            sender_ledger: sender.ledger(),
            receiver_ledger: receiver.ledger(),
            released: receiver.released(),
            data: self.data as usize,
            capacity: self.lane_bytes,
        }
    }
}

/// The sender's id where there is one.
pub(crate) const SENDER: u32 = 1;
/// The receiver's id where there is one.
pub(crate) const RECEIVER: u32 = 2;

/// Where things are in a participant's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(usize);

impl Entry {
    /// The participant's process id, 0 when it left in good order. For people to read.
    pub(crate) fn pid(self) -> usize {
        self.0
    }

    /// When it came, in nanoseconds since 1970. For people to read.
    pub(crate) fn attached_unix_ns(self) -> usize {
        self.0 + 8
    }

    /// Whether a sleeper's fence reaches it: see [`Reach`](super::Reach).
    pub(crate) fn reach(self) -> usize {
        self.0 + 16
    }

    /// What it is, as a number: see [`role_of`].
    pub(crate) fn role(self) -> usize {
        self.0 + 24
    }

    /// Whether what it left is in order, and what it lost: the kind's word.
    pub(crate) fn state(self) -> usize {
        self.0 + 32
    }

    /// Broadcast: up to where it is going to overwrite; on a line that is mostly read.
    pub(crate) fn intent(self) -> usize {
        self.0 + 64
    }

    /// How far it has come, for its successor.
    pub(crate) fn ledger(self) -> usize {
        self.0 + 128
    }

    /// Many: not 0 while it sleeps or is about to, where each has a bed of its own.
    pub(crate) fn bed(self) -> usize {
        self.0 + 192
    }

    /// Two: how far the receiver has come, for the sender; on the ledger's line.
    pub(crate) fn released(self) -> usize {
        self.0 + 168
    }

    /// State: what it has of it, besides the lock; on a line of its own.
    pub(crate) fn share(self) -> usize {
        self.0 + 64
    }

    /// Broadcast: eight of its earlier positions, up to the next entry.
    pub(crate) fn checkpoints(self) -> usize {
        self.0 + 192
    }

    /// Two: not 0 while it sleeps or is about to; on a line that is mostly read.
    pub(crate) fn asleep(self) -> usize {
        self.0 + 256
    }
}

const ROLES: [(u64, Role); 9] = [
    (1, Role::Sender),
    (2, Role::Receiver),
    (3, Role::Publisher),
    (4, Role::Subscriber),
    (5, Role::Writer),
    (6, Role::Reader),
    (7, Role::Server),
    (8, Role::Client),
    (9, Role::User),
];

/// A role's number in an entry.
pub(crate) fn role_code(role: Role) -> u64 {
    ROLES.iter().find(|(_, known)| *known == role).map_or(0, |(code, _)| *code)
}

/// The role with this number; a user, if it is none.
pub(crate) fn role_of(code: u64) -> Role {
    ROLES.iter().find(|(known, _)| *known == code).map_or(Role::User, |(_, role)| *role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::ledger::LEDGER_LEN_BYTES;

    #[test]
    fn the_parts_of_a_page_of_two_do_not_overlap() {
        let entry = Layout::of_two(4096, 8192).entry(RECEIVER);
        assert!(entry.pid() == 8192 && entry.state() + 8 <= entry.ledger());
        assert!(entry.ledger() + LEDGER_LEN_BYTES <= entry.released());
        assert!(entry.released() + 8 <= entry.ledger() + 64, "one line, written together");
        assert!(entry.asleep() >= entry.ledger() + 128);
    }

    #[test]
    fn entries_of_many_lie_between_the_shared_words_and_the_data() {
        let layout = Layout::of_many(4096, 17, 8192);
        assert_eq!(layout.entry(1).pid(), 8192);
        assert!(layout.entry(17).pid() as u64 + ENTRY_BYTES <= layout.data);
        assert_eq!(layout.total_len(), Some(layout.data + 8192));
    }

    #[test]
    fn roles_are_read_as_they_are_written() {
        for (code, role) in ROLES {
            assert_eq!((role_code(role), role_of(code)), (code, role));
        }
    }
}
