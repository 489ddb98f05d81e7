//! From a stream of bytes to messages: lines, or records with a length in front.
//!
//! Memory is bounded by the longest message, whatever the input holds. (Raw chunks need no
//! splitting; `send` reads them straight into the channel.)

use crate::{args::SendFraming, interrupt::Interrupt};
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    sync::Arc,
};

/// How much is read at once.
const READ_LEN: usize = 256 * 1024;

/// Standard input, whose reads a cause to end cuts short.
pub(crate) struct Stdin {
    file: File,
    interrupt: Arc<Interrupt>,
}

impl Stdin {
    pub(crate) fn new(interrupt: &Arc<Interrupt>) -> io::Result<Self> {
        // Past std's buffer and its lock: a duplicate of the descriptor.
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Self { file, interrupt: Arc::clone(interrupt) })
    }
}

impl Read for Stdin {
    /// As read(2); `Interrupted` means a cause to end, not a signal that was handled.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.interrupt.wait_readable(self.file.as_fd())? {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match self.file.read(buffer) {
                // Someone else read it first, or set the descriptor to non-blocking.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                answer => return answer,
            }
        }
    }
}

/// The messages of an input, one after the other.
pub(crate) struct Messages<R> {
    input: R,
    framing: Split,
    max_len: usize,
    buffer: Vec<u8>,
    /// What was read and not yet given out: `buffer[start..end]`.
    start: usize,
    end: usize,
    at_eof: bool,
    number: u64,
}

/// How the input is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Lines,
    Prefixed,
}

/// Why there is no next message.
#[derive(Debug)]
pub(crate) enum InputError {
    /// The message of this number can't be sent: longer than `max`.
    TooLong { what: &'static str, number: u64, max: usize },
    /// The input ended within the record of this number.
    CutShort { number: u64, missing: usize },
    /// The input can't be read.
    Io(io::Error),
}

impl<R: Read> Messages<R> {
    /// Splits `input` into messages of at most `max_len` bytes. Chunks are not split here.
    pub(crate) fn new(input: R, framing: SendFraming, max_len: usize) -> Self {
        let framing = match framing {
            SendFraming::Prefixed => Split::Prefixed,
            SendFraming::Lines | SendFraming::Chunks => Split::Lines,
        };
        let buffer = vec![0; READ_LEN];
        Self { input, framing, max_len, buffer, start: 0, end: 0, at_eof: false, number: 0 }
    }

    /// `line` or `record`.
    pub(crate) fn what(&self) -> &'static str {
        match self.framing {
            Split::Lines => "line",
            Split::Prefixed => "record",
        }
    }

    /// The next message, `None` at the end of the input.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, InputError> {
        self.number += 1;
        let range = match self.framing {
            Split::Lines => self.next_line()?,
            Split::Prefixed => self.next_record()?,
        };
        Ok(range.map(|range| &self.buffer[range]))
    }

    /// A line without its newline. A last line without one is a line too.
    fn next_line(&mut self) -> Result<Option<std::ops::Range<usize>>, InputError> {
        let mut searched = 0;
        loop {
            let unsearched = &self.buffer[self.start + searched..self.end];
            let newline = memchr::memchr(b'\n', unsearched).map(|at| searched + at);
            searched = self.end - self.start;
            if newline.unwrap_or(searched) > self.max_len {
                return Err(self.too_long());
            }
            if let Some(len) = newline {
                return Ok(Some(self.take(len, 1)));
            }
            if !self.fill(self.max_len.saturating_add(1))? {
                return Ok((searched > 0).then(|| self.take(searched, 0)));
            }
        }
    }

    /// A record: its length as 4 bytes, little-endian, then so many bytes.
    fn next_record(&mut self) -> Result<Option<std::ops::Range<usize>>, InputError> {
        const PREFIX: usize = size_of::<u32>();
        if !self.hold(PREFIX)? {
            return match self.end - self.start {
                0 => Ok(None),
                got => Err(self.cut_short(PREFIX - got)),
            };
        }
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&self.buffer[self.start..self.start + PREFIX]);
        let len = u32::from_le_bytes(prefix) as usize;
        if len > self.max_len {
            return Err(self.too_long());
        }
        if !self.hold(PREFIX + len)? {
            return Err(self.cut_short(PREFIX + len - (self.end - self.start)));
        }
        self.start += PREFIX;
        Ok(Some(self.take(len, 0)))
    }

    /// Takes `len` bytes as the message and `skip` more that are not part of it.
    fn take(&mut self, len: usize, skip: usize) -> std::ops::Range<usize> {
        let message = self.start..self.start + len;
        self.start = message.end + skip;
        message
    }

    /// Reads until `len` bytes are there. False at the end of the input.
    fn hold(&mut self, len: usize) -> Result<bool, InputError> {
        while self.end - self.start < len {
            if !self.fill(len)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads once, into a buffer that has room for `want` bytes in all at least once they
    /// come. False at the end of the input.
    fn fill(&mut self, want: usize) -> Result<bool, InputError> {
        if self.at_eof {
            return Ok(false);
        }
        if self.start > 0 && self.start.saturating_add(want) > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            // Only a long message gets here: grow with what really comes.
            let len = want.min(self.buffer.len() * 2).max(self.buffer.len() + 1);
            self.buffer.resize(len, 0);
        }
        let read = self.input.read(&mut self.buffer[self.end..]).map_err(InputError::Io)?;
        self.end += read;
        self.at_eof = read == 0;
        Ok(read > 0)
    }

    fn too_long(&self) -> InputError {
        InputError::TooLong { what: self.what(), number: self.number, max: self.max_len }
    }

    fn cut_short(&self, missing: usize) -> InputError {
        InputError::CutShort { number: self.number, missing }
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { what, number, max } => write!(
                f,
                "{what} {number} of standard input is longer than the {max} bytes that the channel takes; \
                 the {what}s before it are sent"
            ),
            Self::CutShort { number, missing } => write!(
                f,
                "standard input ends within record {number}, {missing} bytes short; \
                 the records before it are sent"
            ),
            Self::Io(error) => write!(f, "standard input: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{InputError, Messages, READ_LEN};
    use crate::args::SendFraming;
    use rstest::rstest;
    use std::io::{self, Read};

    /// Gives out at most so many bytes a read.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(buffer.len());
            self.0.read(&mut buffer[..len])
        }
    }

    fn all<R: Read>(mut messages: Messages<R>) -> (Vec<Vec<u8>>, Option<InputError>) {
        let mut found = Vec::new();
        loop {
            match messages.next() {
                Ok(Some(message)) => found.push(message.to_vec()),
                Ok(None) => return (found, None),
                Err(error) => return (found, Some(error)),
            }
        }
    }

    fn lines(input: &[u8], max_len: usize, step: usize) -> (Vec<Vec<u8>>, Option<InputError>) {
        all(Messages::new(Trickle(input, step), SendFraming::Lines, max_len))
    }

    fn records(input: &[u8], max_len: usize, step: usize) -> (Vec<Vec<u8>>, Option<InputError>) {
        all(Messages::new(Trickle(input, step), SendFraming::Prefixed, max_len))
    }

    #[rstest]
    #[case::empty_input("", &[])]
    #[case::one("a\n", &["a"])]
    #[case::last_without_newline("a\nbc", &["a", "bc"])]
    #[case::empty_lines("\n\na\n\n", &["", "", "a", ""])]
    #[case::only_newlines_count("\0\r\n", &["\0\r"])]
    fn lines_are_messages(#[case] input: &str, #[case] expected: &[&str], #[values(1, 2, 99)] step: usize) {
        let (found, error) = lines(input.as_bytes(), 10, step);
        assert!(error.is_none());
        assert_eq!(found, expected.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
    }

    #[test]
    fn bytes_are_bytes() {
        let (found, _) = lines(b"\xff\xfe\n", 10, 99);
        assert_eq!(found, [b"\xff\xfe"]);
    }

    #[rstest]
    fn a_line_of_the_longest_length_passes_and_one_more_byte_does_not(#[values(1, 3, 99)] step: usize) {
        let (found, error) = lines(b"12345\n123456\nx\n", 5, step);
        assert_eq!(found, [b"12345"]);
        assert!(matches!(error, Some(InputError::TooLong { what: "line", number: 2, max: 5 })), "{error:?}");
    }

    #[test]
    fn an_endless_line_is_refused_in_bounded_memory() {
        let mut messages = Messages::new(io::repeat(b'x'), SendFraming::Lines, 1 << 20);
        assert!(matches!(messages.next(), Err(InputError::TooLong { number: 1, .. })));
        assert!(messages.buffer.len() <= (1 << 20) + 1);
    }

    #[test]
    fn short_lines_take_up_little_memory_whatever_the_longest_may_be() {
        let input = b"a line\n".repeat(READ_LEN);
        let mut messages = Messages::new(Trickle(&input, 1000), SendFraming::Lines, usize::MAX);
        let mut count = 0;
        while messages.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!((count, messages.buffer.len()), (READ_LEN, READ_LEN));
    }

    #[test]
    fn lines_longer_than_the_buffer_come_whole() {
        let long = vec![b'x'; 5 * READ_LEN + 3];
        let input = [b"a\n".as_slice(), &long, b"\n", &long].concat();
        let (found, error) = lines(&input, 10 * READ_LEN, usize::MAX);
        assert!(error.is_none());
        assert_eq!(found, [b"a".to_vec(), long.clone(), long]);
    }

    #[rstest]
    fn records_have_their_length_in_front(#[values(1, 3, 99)] step: usize) {
        let (found, error) = records(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\n", 5, step);
        assert!(error.is_none());
        assert_eq!(found, [b"ab".as_slice(), b"", b"\n"]);
    }

    #[rstest]
    #[case::in_the_length(b"\x01\0\0\0a\x02\0", 2)]
    #[case::in_the_bytes(b"\x01\0\0\0a\x02\0\0\0b", 1)]
    fn a_record_cut_short_is_named(
        #[case] input: &[u8],
        #[case] expected: usize,
        #[values(1, 99)] step: usize,
    ) {
        let (found, error) = records(input, 5, step);
        assert_eq!(found, [b"a"]);
        assert!(
            matches!(error, Some(InputError::CutShort { number: 2, missing }) if missing == expected),
            "{error:?}"
        );
    }

    #[test]
    fn a_record_that_claims_gigabytes_is_refused_unread() {
        let (found, error) = records(b"\xff\xff\xff\xffabc", 5, 99);
        assert!(found.is_empty());
        assert!(matches!(error, Some(InputError::TooLong { what: "record", number: 1, max: 5 })));
    }
}
