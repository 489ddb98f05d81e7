//! Messages that know what they are: a tear, a mix-up or a lost byte shows.

/// Round, sequence number and checksum: the shortest message of this make.
pub(super) const MIN_LEN: usize = 16;

/// Who sent a message, and as the how-manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    /// The sender, or the sender's incarnation.
    pub(super) round: u32,
    /// Counts from 0.
    pub(super) sequence: u64,
}

impl Stamp {
    pub(super) fn new(round: u32, sequence: u64) -> Self {
        Self { round, sequence }
    }

    /// The message with this stamp of `len` bytes, of [`MIN_LEN`] at least.
    pub(super) fn message(self, len: usize) -> Vec<u8> {
        let mut message = vec![0; len.max(MIN_LEN)];
        message[..4].copy_from_slice(&self.round.to_le_bytes());
        message[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        scribble(self.seed(), &mut message[MIN_LEN..]);
        let checksum = checksum(&message);
        message[12..16].copy_from_slice(&checksum.to_le_bytes());
        message
    }

    /// The message with this stamp of a length that its number decides, between
    /// [`MIN_LEN`] and `max_len`.
    pub(super) fn message_up_to(self, max_len: usize) -> Vec<u8> {
        let spread = (max_len - MIN_LEN + 1) as u64;
        self.message(MIN_LEN + (mix(self.seed()) % spread) as usize)
    }

    /// The stamp of a message, which must be whole.
    #[track_caller]
    pub(super) fn of(message: &[u8]) -> Self {
        assert!(message.len() >= MIN_LEN, "a message of {} bytes where none was sent", message.len());
        let round = u32::from_le_bytes(message[..4].try_into().expect("four bytes"));
        let sequence = u64::from_le_bytes(message[4..12].try_into().expect("eight bytes"));
        let stamp = Self { round, sequence };
        assert!(message == stamp.message(message.len()), "torn: {} bytes stamped {stamp:?}", message.len());
        stamp
    }

    fn seed(self) -> u64 {
        (u64::from(self.round) << 40) ^ self.sequence
    }
}

/// Bytes that depend on `seed` and their place.
pub(super) fn scribble(seed: u64, bytes: &mut [u8]) {
    let mut word = mix(seed);
    for chunk in bytes.chunks_mut(8) {
        word = mix(word);
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// FNV-1a over the stamp and the length; the rest of the message follows from these.
fn checksum(message: &[u8]) -> u32 {
    let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    message[..12].iter().fold(0x811c_9dc5 ^ message.len() as u32, fold)
}

#[cfg(test)]
mod tests {
    use super::Stamp;
    use rstest::rstest;
    use std::panic::catch_unwind;

    #[rstest]
    #[case(16)]
    #[case(17)]
    #[case(1000)]
    fn a_whole_message_gives_its_stamp_and_no_other_passes(#[case] len: usize) {
        let stamp = Stamp::new(3, 1 << 33);
        let message = stamp.message(len);
        assert_eq!(Stamp::of(&message), stamp);
        for place in [0, 5, 13, len - 1] {
            let mut torn = message.clone();
            torn[place] ^= 1;
            assert!(catch_unwind(|| Stamp::of(&torn)).is_err(), "byte {place}");
        }
        assert!(catch_unwind(|| Stamp::of(&message[..len - 1])).is_err());
    }
}
