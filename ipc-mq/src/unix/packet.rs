//! What a packet begins with.

/// The bytes before a message.
pub(crate) const HEADER_LEN: usize = 16;
/// Messages up to this length stand in the packet itself.
pub(crate) const LONGEST_INLINE: usize = 64 * 1024;
/// Descriptors that a message can carry for its user.
pub(crate) const MAX_DESCRIPTORS: usize = 16;

/// "ipc", and the version.
const MARK: [u8; 4] = *b"ipc\x01";

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The message stands behind the header.
    Inline,
    /// The message is in a sealed `memfd`, the first of the packet's descriptors.
    Parcel,
    /// The sender goes, in good order.
    Farewell,
    /// The next packet passes descriptors: it is to be received with room for them.
    Announcement,
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// The message's length.
    pub(crate) len: u64,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let kind: u32 = match self.kind {
            Kind::Inline => 0,
            Kind::Parcel => 1,
            Kind::Farewell => 2,
            Kind::Announcement => 3,
        };
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MARK);
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// `None` if no sender of ours wrote this.
    pub(crate) fn from_bytes(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let [a, b, c, d, k0, k1, k2, k3, len @ ..] = bytes;
        if [a, b, c, d] != MARK {
            return None;
        }
        let kind = match u32::from_le_bytes([k0, k1, k2, k3]) {
            0 => Kind::Inline,
            1 => Kind::Parcel,
            2 => Kind::Farewell,
            3 => Kind::Announcement,
            _ => return None,
        };
        Some(Self { kind, len: u64::from_le_bytes(len) })
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, Kind};

    #[test]
    fn a_header_is_read_as_it_was_written_and_nothing_else_is_one() {
        for kind in [Kind::Inline, Kind::Parcel, Kind::Farewell, Kind::Announcement] {
            let header = Header { kind, len: 0x0123_4567_89ab_cdef };
            let bytes = header.to_bytes();
            assert_eq!(Header::from_bytes(bytes), Some(header));
            for place in 0..4 {
                let mut other = bytes;
                other[place] ^= 1;
                assert_eq!(Header::from_bytes(other), None);
            }
            let mut other = bytes;
            other[7] = 1;
            assert_eq!(Header::from_bytes(other), None);
        }
    }
}
