//! The first page of a segment: what is in the file, written once before the file has a
//! name and never changed after.
//!
//! It is read once, from the file into private memory, then checked, then used; the mapped
//! copy is never consulted. So nobody can change a segment's geometry under its users.

use super::Layout;
use crate::{
    config::{Geometry, HUGE_PAGE_BYTES, Pages, ShmConfig, State},
    kind::{Kind, Lifetime, WhenFull},
    sync::Form,
    sys::map::Areas,
};
use ipc_core::ChannelError;

/// The header's length in the file, in bytes; the rest of its page is zero.
pub(crate) const HEADER_LEN_BYTES: usize = 256;

const MAGIC: [u8; 8] = *b"ipc-shm\n";
const BYTE_ORDER: u32 = 0x0102_0304;
/// Programs of different major versions don't share segments.
const ABI_MAJOR: u16 = 4;
/// Later minor versions add what earlier ones may ignore.
const ABI_MINOR: u16 = 0;

/// What a segment's first page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The whole file, in bytes.
    pub(crate) total_len: u64,
    /// The page size that the layout is made of, in bytes.
    pub(crate) page: u64,
    pub(crate) kind: Kind,
    pub(crate) lifetime: Lifetime,
    pub(crate) fences: FenceMode,
    pub(crate) pages: Pages,
    /// Whether the file outlives the machine.
    pub(crate) is_on_disk: bool,
    pub(crate) geometry: Geometry,
    /// Tells this segment from every other one of the same name.
    pub(crate) instance: [u8; 16],
    /// The boot of the machine in which it was made; zeros where the system doesn't say. For people to
    /// read.
    pub(crate) boot: [u8; 16],
    /// Who made it, and when. For people to read.
    pub(crate) creator_pid: u32,
    pub(crate) created_unix_ns: u64,
}

const ON_DISK: u32 = 1;
const HUGE: u32 = 2;
const PREFAULTED: u32 = 4;
const UNDUMPED: u32 = 8;
const UNSWAPPED: u32 = 16;
const FLAGS: u32 = ON_DISK | HUGE | PREFAULTED | UNDUMPED | UNSWAPPED;

/// Who pays for the fence between the ring and the waiting flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceMode {
    /// Whoever is about to sleep, by a system call that fences the others too.
    Asymmetric,
    /// Both sides, at every message.
    Full,
}

impl FenceMode {
    const ALL: [Self; 2] = [Self::Asymmetric, Self::Full];

    fn code(self) -> u32 {
        match self {
            Self::Asymmetric => 1,
            Self::Full => 2,
        }
    }
}

impl Header {
    /// Where things are in the segment.
    pub(crate) fn layout(&self) -> Layout {
        self.kind.layout(&self.geometry, self.page)
    }

    /// What is mapped of the segment.
    pub(super) fn areas(&self) -> Result<Areas, ChannelError> {
        let areas = self.layout().areas(self.pages).ok_or_else(|| {
            ChannelError::Unsupported("the channel is larger than this program's address space".into())
        })?;
        Ok(if self.is_on_disk { areas } else { areas.in_memory() })
    }

    pub(crate) fn to_bytes(&self) -> [u8; HEADER_LEN_BYTES] {
        let mut out = Writer { bytes: [0; HEADER_LEN_BYTES], at: 0 };
        out.put(&MAGIC);
        out.put(&BYTE_ORDER.to_ne_bytes());
        out.put(&u32::from(usize::BITS as u16).to_ne_bytes());
        out.put(&ABI_MAJOR.to_ne_bytes());
        out.put(&ABI_MINOR.to_ne_bytes());
        out.put(&self.kind.code().to_ne_bytes());
        out.put(&self.lifetime.code().to_ne_bytes());
        out.put(&self.fences.code().to_ne_bytes());
        out.put(&self.flags().to_ne_bytes());
        out.put(&self.geometry.state.map_or(0, |state| state.form.code()).to_ne_bytes());
        out.put(&self.total_len.to_ne_bytes());
        out.put(&self.page.to_ne_bytes());
        out.put(&self.geometry.capacity_bytes.to_ne_bytes());
        out.put(&self.geometry.depth.to_ne_bytes());
        out.put(&self.geometry.max_message_len.to_ne_bytes());
        out.put(&self.geometry.participants.to_ne_bytes());
        out.put(&self.geometry.lanes.to_ne_bytes());
        out.put(&self.geometry.max_deliveries.to_ne_bytes());
        out.put(&self.geometry.when_full.code().to_ne_bytes());
        out.put(&self.instance);
        out.put(&self.boot);
        out.put(&self.created_unix_ns.to_ne_bytes());
        out.put(&self.creator_pid.to_ne_bytes());
        out.put(&[0; 4]);
        out.put(&self.geometry.state.map_or(0, |state| state.layout_hash).to_ne_bytes());
        out.bytes
    }

    fn flags(&self) -> u32 {
        let flag = |set, flag| if set { flag } else { 0 };
        flag(self.is_on_disk, ON_DISK)
            | flag(self.pages.huge, HUGE)
            | flag(self.pages.prefaulted, PREFAULTED)
            | flag(self.pages.undumped, UNDUMPED)
            | flag(self.pages.unswapped, UNSWAPPED)
    }

    /// Reads and checks a header, for a file of `file_len` bytes on a system with pages of
    /// `page` bytes.
    pub(crate) fn parse(
        bytes: &[u8; HEADER_LEN_BYTES],
        file_len: u64,
        page: u64,
    ) -> Result<Self, ChannelError> {
        let mut input = Reader { bytes, at: 0 };
        if input.take::<8>() != MAGIC {
            return corrupt("it isn't a segment of this toolkit");
        }
        expect("byte order", u64::from(input.u32()), u64::from(BYTE_ORDER))?;
        expect("pointer width", u64::from(input.u32()), u64::from(usize::BITS))?;
        expect("ABI version", u64::from(input.u16()), u64::from(ABI_MAJOR))?;
        let _minor = input.u16();
        let (kind, lifetime, fences) = (input.u32(), input.u32(), input.u32());
        let flags = input.u32();
        if flags & !FLAGS != 0 {
            return corrupt(&format!("unknown flags {flags:#x}"));
        }
        let form = input.u32();
        let mut header = Self {
            kind: coded("kind of channel", &Kind::IN_SEGMENTS, Kind::code, kind)?,
            lifetime: coded("lifetime", Lifetime::ALL, Lifetime::code, lifetime)?,
            fences: coded("fence mode", &FenceMode::ALL, FenceMode::code, fences)?,
            pages: Pages {
                huge: flags & HUGE != 0,
                prefaulted: flags & PREFAULTED != 0,
                undumped: flags & UNDUMPED != 0,
                unswapped: flags & UNSWAPPED != 0,
            },
            is_on_disk: flags & ON_DISK != 0,
            total_len: input.u64(),
            page: input.u64(),
            geometry: Geometry {
                capacity_bytes: input.u64(),
                depth: input.u64(),
                max_message_len: input.u64(),
                participants: input.u32(),
                lanes: input.u32(),
                max_deliveries: input.u32(),
                when_full: coded("policy when full", WhenFull::ALL, WhenFull::code, input.u32())?,
                state: None,
            },
            instance: input.take(),
            boot: input.take(),
            created_unix_ns: input.u64(),
            creator_pid: input.u32(),
        };
        let _unused = input.u32();
        let layout_hash = input.u64();
        header.geometry.state = match header.kind {
            Kind::State => {
                Some(State { form: coded("form of state", &Form::ALL, Form::code, form)?, layout_hash })
            }
            _ => None,
        };
        header.check(file_len, page)?;
        Ok(header)
    }

    fn check(&self, file_len: u64, page: u64) -> Result<(), ChannelError> {
        expect("page size", self.page, page)?;
        // What these settings come to must be what they are.
        let geometry = &self.geometry;
        let as_asked = ShmConfig::of(self.kind, geometry);
        let unit = if self.pages.huge { page.max(HUGE_PAGE_BYTES) } else { page };
        match self.kind.resolve(&as_asked, unit) {
            Ok(resolved) if resolved == *geometry => {}
            _ => return corrupt(&format!("its settings don't fit together: {geometry:?}")),
        }
        let Some(total_len) = self.layout().total_len() else {
            return corrupt(&format!("its capacity is {} bytes", geometry.capacity_bytes));
        };
        expect("length", self.total_len, total_len)?;
        expect("file size", file_len, self.total_len)
    }
}

/// The one of `all` with this code.
fn coded<T: Copy>(what: &str, all: &[T], code: impl Fn(T) -> u32, found: u32) -> Result<T, ChannelError> {
    let known = all.iter().copied().find(|&one| code(one) == found);
    known.ok_or_else(|| ChannelError::Corrupt(format!("unknown {what} {found}")))
}

fn corrupt<T>(what: &str) -> Result<T, ChannelError> {
    Err(ChannelError::Corrupt(what.into()))
}

fn expect(what: &str, found: u64, expected: u64) -> Result<(), ChannelError> {
    if found == expected {
        return Ok(());
    }
    corrupt(&format!("its {what} is {found}, this program expects {expected}"))
}

struct Writer {
    bytes: [u8; HEADER_LEN_BYTES],
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }
}

struct Reader<'a> {
    bytes: &'a [u8; HEADER_LEN_BYTES],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let field = std::array::from_fn(|i| self.bytes[self.at + i]);
        self.at += N;
        field
    }

    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn header() -> Header {
        let config = ShmConfig::new().capacity_bytes(2 * PAGE);
        Header {
            total_len: 5 * PAGE,
            page: PAGE,
            kind: Kind::Spsc,
            lifetime: Lifetime::Transient,
            fences: FenceMode::Asymmetric,
            pages: Pages { prefaulted: true, unswapped: true, ..Pages::default() },
            is_on_disk: true,
            geometry: Kind::Spsc.resolve(&config, PAGE).unwrap(),
            instance: [7; 16],
            boot: [9; 16],
            creator_pid: 42,
            created_unix_ns: 1,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(Header::parse(&header().to_bytes(), 5 * PAGE, PAGE).unwrap(), header());
    }

    #[test]
    fn every_byte_of_the_checked_part_matters() {
        let bytes = header().to_bytes();
        // The minor version may differ, and what lies behind the geometry is not checked.
        for at in (0..96).filter(|at| !(18..20).contains(at) && !(36..40).contains(at)) {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes;
                damaged[at] ^= flip;
                let answer = Header::parse(&damaged, 5 * PAGE, PAGE);
                // A lifetime, a fence mode or a flag may turn into the other one.
                if let Ok(read) = answer {
                    assert_ne!(read, header(), "byte {at} ^ {flip:#x} went unnoticed");
                }
            }
        }
    }

    #[test]
    fn a_file_of_another_size_is_refused() {
        for len in [0, 5 * PAGE - 1, 5 * PAGE + 1, u64::MAX] {
            assert!(matches!(Header::parse(&header().to_bytes(), len, PAGE), Err(ChannelError::Corrupt(_))));
        }
    }

    #[test]
    fn an_error_names_both_sides() {
        let mut bytes = header().to_bytes();
        bytes[16] = 9;
        let error = Header::parse(&bytes, 5 * PAGE, PAGE).unwrap_err().to_string();
        assert!(error.contains("ABI version is 9") && error.contains("expects 4"), "{error}");
    }
}
