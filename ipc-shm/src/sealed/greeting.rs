//! What peers say to each other, once, when they come together: a message of fixed length
//! with one descriptor. All of it is checked before any of it is used.

use super::LinkError;

/// Its length, in bytes.
pub(super) const LEN_BYTES: usize = 64;
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
    Publishes,
    Subscribes,
    Writes,
    Reads,
}

/// All of them, by their numbers, from 1.
const PARTS: [Part; 6] =
    [Part::Sends, Part::Receives, Part::Publishes, Part::Subscribes, Part::Writes, Part::Reads];

impl Part {
    /// What the other end does.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Sends => Self::Receives,
            Self::Receives => Self::Sends,
            Self::Publishes => Self::Subscribes,
            Self::Subscribes => Self::Publishes,
            Self::Writes => Self::Reads,
            Self::Reads => Self::Writes,
        }
    }

    /// Whether the messages are in this end's memory, not in the other's.
    pub(super) fn has_messages(self) -> bool {
        matches!(self, Self::Sends | Self::Publishes | Self::Writes)
    }

    fn number(self) -> u32 {
        PARTS.iter().zip(1..).find(|&(&part, _)| part == self).map_or(0, |(_, number)| number)
    }

    fn of_number(number: u32) -> Option<Self> {
        PARTS.iter().zip(1..).find(|&(_, other)| other == number).map(|(&part, _)| part)
    }

    /// What one does, and what one does it to.
    fn verb(self) -> &'static str {
        match self {
            Self::Sends => "send",
            Self::Receives => "receive",
            Self::Publishes => "publish",
            Self::Subscribes => "subscribe",
            Self::Writes => "write a newest value",
            Self::Reads => "read a newest value",
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
    /// Of who has the messages: the length of the memory for them, in bytes.
    pub(super) capacity: u64,
    /// A writer's: the longest value, in bytes.
    pub(super) longest: u64,
    /// A publisher's: where its ring goes on for who subscribes now, and the next number.
    pub(super) position: u64,
    pub(super) number: u64,
}

impl Greeting {
    /// One of an end that has no messages.
    pub(super) fn new(part: Part, hears: bool, page: u64) -> Self {
        Self { part, hears, page, capacity: 0, longest: 0, position: 0, number: 0 }
    }

    pub(super) fn to_bytes(self) -> [u8; LEN_BYTES] {
        let mut bytes = [0; LEN_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        let small = [BYTE_ORDER, VERSION, self.part.number(), u32::from(self.hears)];
        for (at, word) in small.into_iter().enumerate() {
            bytes[8 + 4 * at..][..4].copy_from_slice(&word.to_ne_bytes());
        }
        let large = [self.page, self.capacity, self.longest, self.position, self.number];
        for (at, word) in large.into_iter().enumerate() {
            bytes[24 + 8 * at..][..8].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Reads what a peer said, in `len` bytes, who is to have one of these parts; what else it
    /// says of its memory is checked by who uses it.
    pub(super) fn parse(
        bytes: &[u8; LEN_BYTES],
        len: usize,
        parts: &[Part],
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
        let Some(part) = Part::of_number(u32_at(16)) else {
            return refused(format!("it does {}, which is neither to send nor to receive", u32_at(16)));
        };
        if !parts.contains(&part) {
            return refused(unfit(part, parts));
        }
        expect("page size", u64_at(24), page)?;
        Ok(Self {
            part,
            hears: u32_at(20) == 1,
            page,
            capacity: u64_at(32),
            longest: u64_at(40),
            position: u64_at(48),
            number: u64_at(56),
        })
    }
}

/// Why one that does this isn't one of those.
fn unfit(found: Part, parts: &[Part]) -> String {
    match found {
        _ if !parts.contains(&found.other()) => {
            let verbs: Vec<_> = parts.iter().map(|part| part.verb()).collect();
            format!("it is there to {}, and not to {}", found.verb(), verbs.join(", or to "))
        }
        Part::Sends => "it sends, too: one of the two has to receive".into(),
        Part::Receives => "it receives, too: one of the two has to send".into(),
        _ => format!("it is there to {}, too: one of the two has to {}", found.verb(), found.other().verb()),
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

    const GREETING: Greeting = Greeting {
        part: Part::Sends,
        hears: true,
        page: 4096,
        capacity: 1 << 20,
        longest: 100,
        position: 1 << 30,
        number: 77,
    };

    #[test]
    fn what_was_said_is_understood() {
        assert_eq!(Greeting::parse(&GREETING.to_bytes(), LEN_BYTES, &[Part::Sends], 4096).unwrap(), GREETING);
    }

    #[test]
    fn every_other_byte_or_length_is_refused_or_understood_otherwise() {
        let bytes = GREETING.to_bytes();
        for at in 0..LEN_BYTES {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes;
                damaged[at] ^= flip;
                let answer = Greeting::parse(&damaged, LEN_BYTES, &[Part::Sends], 4096);
                assert!(answer.map_or(true, |read| read != GREETING), "byte {at} ^ {flip:#x} went unnoticed");
            }
        }
        for len in [0, 1, LEN_BYTES - 1, LEN_BYTES + 1, usize::MAX] {
            assert!(Greeting::parse(&bytes, len, &[Part::Sends], 4096).is_err());
        }
        let error = Greeting::parse(&bytes, LEN_BYTES, &[Part::Receives], 4096).unwrap_err().to_string();
        assert!(error.contains("one of the two has to receive"), "{error}");
    }

    #[test]
    fn who_has_another_part_is_told_which_it_should_have() {
        let said = |part, parts: &[Part]| {
            let bytes = Greeting { part, ..GREETING }.to_bytes();
            Greeting::parse(&bytes, LEN_BYTES, parts, 4096).unwrap_err().to_string()
        };
        for part in PARTS {
            let bytes = Greeting { part, ..GREETING }.to_bytes();
            assert_eq!(Greeting::parse(&bytes, LEN_BYTES, &PARTS, 4096).unwrap().part, part);
            let error = said(part, &[part.other()]);
            assert!(error.contains("one of the two has to"), "{error}");
        }
        let error = said(Part::Sends, &[Part::Subscribes, Part::Reads]);
        assert!(error.contains("to send, and not to subscribe, or to read a newest value"), "{error}");
    }
}
