//! What peers say to each other, once, when they come together: a message of fixed length
//! with one descriptor. All of it is checked before any of it is used.

use super::LinkError;

/// Its length, in bytes.
pub(super) const LEN_BYTES: usize = 48;
/// What who leaves in good order says last.
pub(super) const FAREWELL: u8 = b'.';

const MAGIC: [u8; 8] = *b"ipc-seal";
const VERSION: u32 = 1;
const BYTE_ORDER: u32 = 0x0102_0304;

/// What one does at one's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Sends,
    Receives,
}

impl Part {
    /// What the other end does.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Sends => Self::Receives,
            Self::Receives => Self::Sends,
        }
    }
}

/// What a peer says of itself, and of the memory that it hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) part: Part,
    /// Whether a sleeper's fence reaches it.
    pub(super) hears: bool,
    /// The size of its pages.
    pub(super) page: u64,
    /// A sender's: the ring's length, in bytes.
    pub(super) capacity: u64,
}

impl Greeting {
    pub(super) fn to_bytes(self) -> [u8; LEN_BYTES] {
        let mut bytes = [0; LEN_BYTES];
        let part: u32 = match self.part {
            Part::Sends => 1,
            Part::Receives => 2,
        };
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&BYTE_ORDER.to_ne_bytes());
        bytes[12..16].copy_from_slice(&VERSION.to_ne_bytes());
        bytes[16..20].copy_from_slice(&part.to_ne_bytes());
        bytes[20..24].copy_from_slice(&u32::from(self.hears).to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.page.to_ne_bytes());
        bytes[32..40].copy_from_slice(&self.capacity.to_ne_bytes());
        bytes
    }

    /// Reads what a peer said, in `len` bytes, who is to have this part; `capacity` is checked
    /// by who uses it.
    pub(super) fn parse(
        bytes: &[u8; LEN_BYTES],
        len: usize,
        part: Part,
        page: u64,
    ) -> Result<Self, LinkError> {
        if len != LEN_BYTES {
            return refused(format!("its greeting has {len} bytes, not {LEN_BYTES}"));
        }
        let u32_at = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        if bytes[..8] != MAGIC {
            return refused("its greeting isn't one of this toolkit".into());
        }
        expect("byte order", u32_at(8).into(), BYTE_ORDER.into())?;
        expect("version", u32_at(12).into(), VERSION.into())?;
        let found = match u32_at(16) {
            1 => Part::Sends,
            2 => Part::Receives,
            other => return refused(format!("it does {other}, which is neither to send nor to receive")),
        };
        if found != part {
            return refused(match found {
                Part::Sends => "it sends, too: one of the two has to receive".into(),
                Part::Receives => "it receives, too: one of the two has to send".into(),
            });
        }
        expect("page size", u64_at(24), page)?;
        Ok(Self { part, hears: u32_at(20) == 1, page, capacity: u64_at(32) })
    }
}

fn expect(what: &str, found: u64, expected: u64) -> Result<(), LinkError> {
    if found == expected {
        return Ok(());
    }
    refused(format!("its {what} is {found}, this program expects {expected}"))
}

fn refused<T>(what: String) -> Result<T, LinkError> {
    Err(LinkError::Refused(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: Greeting = Greeting { part: Part::Sends, hears: true, page: 4096, capacity: 1 << 20 };

    #[test]
    fn what_was_said_is_understood() {
        assert_eq!(Greeting::parse(&GREETING.to_bytes(), LEN_BYTES, Part::Sends, 4096).unwrap(), GREETING);
    }

    #[test]
    fn every_other_byte_or_length_is_refused_or_understood_otherwise() {
        let bytes = GREETING.to_bytes();
        for at in 0..40 {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes;
                damaged[at] ^= flip;
                let answer = Greeting::parse(&damaged, LEN_BYTES, Part::Sends, 4096);
                assert!(answer.map_or(true, |read| read != GREETING), "byte {at} ^ {flip:#x} went unnoticed");
            }
        }
        for len in [0, 1, LEN_BYTES - 1, LEN_BYTES + 1, usize::MAX] {
            assert!(Greeting::parse(&bytes, len, Part::Sends, 4096).is_err());
        }
        let error = Greeting::parse(&bytes, LEN_BYTES, Part::Receives, 4096).unwrap_err().to_string();
        assert!(error.contains("one of the two has to receive"), "{error}");
    }
}
