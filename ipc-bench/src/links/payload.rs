//! What is in the messages.
//!
//! Messages are numbered. The sender writes the number all over the payload, the receiver
//! reads all of it and compares, so that every byte is touched on both sides, and a lost,
//! repeated, swapped or torn message is an error and not a good figure.

use crate::{
    spec::{Payload, Touch},
    trouble::Fallible,
};
use std::{error::Error, ops::Range};

impl Payload {
    /// Writes the message `number`.
    #[inline]
    pub(crate) fn write(self, space: &mut [u8], number: u64) {
        let pattern = number.to_le_bytes();
        if self.touch == Touch::First {
            space.iter_mut().take(1).for_each(|first| *first = pattern[0]);
            return;
        }
        if let Some((first, last)) = self.copied_words(space.len()) {
            space[first].copy_from_slice(&pattern);
            space[last].copy_from_slice(&pattern);
            return;
        }
        let mut words = space.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&pattern);
        }
        // Byte by byte: a call to copy nothing would take longer than all the rest.
        words.into_remainder().iter_mut().zip(pattern).for_each(|(byte, new)| *byte = new);
    }

    /// Reads a message, which must be `number`.
    #[inline]
    pub(crate) fn check(self, message: &[u8], number: u64) -> Fallible<()> {
        if message.len() == self.len_bytes && self.difference(message, number) == 0 {
            return Ok(());
        }
        Err(self.mistake(message, number))
    }

    /// Zero if what is to be read is what was written. Reads on after a difference: that
    /// is no slower for good messages, and vectorises.
    #[inline]
    fn difference(self, message: &[u8], number: u64) -> u64 {
        let pattern = number.to_le_bytes();
        if self.touch == Touch::First {
            return message.first().map_or(0, |&first| u64::from(first ^ pattern[0]));
        }
        // The number and nothing else: a loop would take longer than all the rest.
        if let Ok(word) = message.try_into() {
            return u64::from_le_bytes(word) ^ number;
        }
        if let Some((first, last)) = self.copied_words(message.len()) {
            return u64::from(message[first] != pattern || message[last] != pattern);
        }
        let words = message.chunks_exact(8);
        let rest = words.remainder().iter().zip(pattern).fold(0, |sum, (&a, b)| sum | u64::from(a ^ b));
        words.fold(rest, |sum, word| {
            sum | (u64::from_le_bytes(word.try_into().expect("chunks of 8")) ^ number)
        })
    }

    /// What is written and read beside the copies: the first and the last word, where
    /// there are two. Copying touches the rest, and a copy that isn't whole lacks one.
    #[inline]
    fn copied_words(self, len_bytes: usize) -> Option<(Range<usize>, Range<usize>)> {
        (self.touch == Touch::Copied && len_bytes >= 16).then(|| (0..8, len_bytes - 8..len_bytes))
    }

    /// The number of a message that has 8 bytes or more, all of them written.
    #[inline]
    pub(crate) fn number_of(message: &[u8]) -> Option<u64> {
        message.first_chunk().map(|word| u64::from_le_bytes(*word))
    }

    #[cold]
    fn mistake(self, message: &[u8], number: u64) -> Box<dyn Error + Send + Sync> {
        let other = Self::number_of(message).filter(|&other| {
            self.touch != Touch::First
                && message.len() == self.len_bytes
                && self.difference(message, other) == 0
        });
        match other {
            Some(later) if later > number => {
                return format!("message {number} is missing: message {later} came in its place").into();
            }
            Some(earlier) => {
                return format!("message {earlier} came again, in place of message {number}").into();
            }
            None => {}
        }
        format!(
            "message {number} came as something else: {} bytes instead of {}, beginning with {:02x?}",
            message.len(),
            self.len_bytes,
            &message[..message.len().min(16)]
        )
        .into()
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::{Payload, Touch};
    use rstest::rstest;

    const ALL_OF_20: Payload = Payload { len_bytes: 20, touch: Touch::All };

    #[rstest]
    #[case::nothing(0)]
    #[case::less_than_a_word(3)]
    #[case::word(8)]
    #[case::words_and_a_rest(20)]
    fn what_is_written_is_accepted(#[case] len_bytes: usize) {
        let payload = Payload { len_bytes, touch: Touch::All };
        let mut message = vec![0xee; len_bytes];
        payload.write(&mut message, 0x0102_0304_0506_0708);
        assert!(payload.check(&message, 0x0102_0304_0506_0708).is_ok());
    }

    #[rstest]
    fn any_changed_byte_is_noticed(#[values(0, 7, 8, 19)] position: usize) {
        let mut message = vec![0; 20];
        ALL_OF_20.write(&mut message, 7);
        message[position] ^= 0x40;
        assert!(ALL_OF_20.check(&message, 7).unwrap_err().to_string().contains("message 7"));
    }

    #[rstest]
    #[case::gap(9, "message 7 is missing: message 9 came in its place")]
    #[case::again(6, "message 6 came again, in place of message 7")]
    fn a_gap_and_a_repetition_are_told_apart(
        #[case] came: u64,
        #[case] said: &str,
        #[values(Touch::All, Touch::Copied)] touch: Touch,
    ) {
        let payload = Payload { touch, ..ALL_OF_20 };
        let mut message = vec![0; 20];
        payload.write(&mut message, came);
        assert_eq!(payload.check(&message, 7).unwrap_err().to_string(), said);
    }

    #[test]
    fn a_short_message_is_noticed() {
        let mut message = vec![0; 20];
        ALL_OF_20.write(&mut message, 7);
        assert!(
            ALL_OF_20.check(&message[..16], 7).unwrap_err().to_string().contains("16 bytes instead of 20")
        );
    }

    #[test]
    fn lending_touches_the_first_byte_only() {
        let payload = Payload { len_bytes: 3, touch: Touch::First };
        let mut message = [0xee; 3];
        payload.write(&mut message, 9);
        assert_eq!(message, [9, 0xee, 0xee]);
        assert!(payload.check(&message, 9).is_ok());
        assert!(payload.check(&message, 8).is_err());
    }

    #[rstest]
    #[case::longer(20, [7, 13])]
    #[case::two_words(16, [0, 15])]
    fn copies_are_known_by_their_first_and_last_word(#[case] len_bytes: usize, #[case] read: [usize; 2]) {
        let payload = Payload { len_bytes, touch: Touch::Copied };
        let mut message = vec![0; len_bytes];
        payload.write(&mut message, 0x0102_0304_0506_0708);
        assert!(payload.check(&message, 0x0102_0304_0506_0708).is_ok());
        for position in read {
            message[position] ^= 1;
            assert!(payload.check(&message, 0x0102_0304_0506_0708).is_err());
            message[position] ^= 1;
        }
    }

    #[test]
    fn a_message_tells_its_number_if_it_has_room_for_one() {
        let mut message = vec![0; 20];
        ALL_OF_20.write(&mut message, 77 << 56 | 5);
        assert_eq!(Payload::number_of(&message), Some(77 << 56 | 5));
        assert_eq!(Payload::number_of(&message[..7]), None);
    }
}
