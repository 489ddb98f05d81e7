//! From messages to a stream of bytes, with an account of which were written whole.
//!
//! The account decides what is released: a message of which a byte is missing in the output
//! stays in the channel.

use crate::{
    args::RecvFraming,
    interrupt::{Interrupt, Writable},
};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::socket::{MsgFlags, send},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    sync::Arc,
    time::Duration,
};

/// Messages of this length and longer are written from where they are.
const COPY_MAX_LEN: usize = 16 * 1024;

/// Framed messages that fit are written together, up to so many bytes: a pipe takes them
/// whole or not at all (`PIPE_BUF`, pipe(7)), and a file is rarely caught in between. So a
/// killed receiver hardly ever leaves half a message in its output, to which the output of
/// the next one would be glued.
const ATOMIC_LEN: usize = 4096;

/// So many bytes are enough for a batch: more would only keep the sender waiting for room.
const BATCH_LEN: usize = 128 * 1024;

/// Standard output without a buffer, whose waits a cause to end cuts short.
pub(crate) struct Stdout {
    file: File,
    is_socket: bool,
    interrupt: Arc<Interrupt>,
    /// How much may be unread in a pipe before a message is taken that might not fit else.
    unread_max: Option<u64>,
}

impl Stdout {
    /// How often a pipe is looked at that is too full: to wait for room the kernel knows no more
    /// than whether there is any.
    const GLANCE: Duration = Duration::from_millis(1);

    /// How long an output that takes nothing is waited for after a cause to end.
    const GRACE: Duration = Duration::from_secs(1);

    pub(crate) fn new(interrupt: &Arc<Interrupt>) -> io::Result<Self> {
        let inherited = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let file_type = inherited.metadata()?.file_type();
        // On a full pipe write(2) would block where no cause to end reaches it. Others share
        // the open file and don't expect it to turn non-blocking, so open one of our own; that
        // can't be done with a socket, but send(2) needn't block. Where neither is possible, the
        // second signal is the way out.
        let own = file_type.is_fifo().then(|| {
            let path = "/proc/self/fd/1";
            OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
        });
        let file = own.and_then(Result::ok).unwrap_or(inherited);
        let is_socket = file_type.is_socket();
        Ok(Self { file, is_socket, interrupt: Arc::clone(interrupt), unread_max: None })
    }

    /// Writes as much as it takes now; without blocking, where that can be had.
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.is_socket {
            true => Ok(send(self.file.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)?),
            false => self.file.write(bytes),
        }
    }

    /// The descriptor, to watch for its being closed at the other end.
    pub(crate) fn watchable(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

/// How much may be unread in a pipe that takes `capacity` bytes, so that a framed message of `len`
/// is written at once. `None` if there is no such amount.
///
/// A pipe is made of pages (pipe(7)), few of them full: all that is known of two neighbours is that
/// together they hold more than fits one. The first may be read in part, the last may be too full
/// to be written on, and a length, the message and a newline may each begin one.
fn unread_max(capacity: u64, len: u64, page_len: u64) -> Option<u64> {
    Some(capacity.checked_sub(len.saturating_add(5 * page_len))? / 2)
}

/// Where messages are written to.
pub(crate) trait Output: Write {
    /// From now on it isn't ready before a framed message of so many bytes could be written at
    /// once, as far as the output allows to know.
    fn prepare_for(&mut self, len: usize);

    /// Waits until it is likely that bytes are written without blocking.
    fn wait_until_ready(&self) -> io::Result<()>;
}

impl Output for Stdout {
    /// Only of a pipe one can know more than that it takes a byte or so. If it is too small, it is
    /// made larger, if that is allowed.
    fn prepare_for(&mut self, len: usize) {
        let capacity = || fcntl(&self.file, FcntlArg::F_GETPIPE_SZ).ok().map(|bytes| bytes as u64);
        self.unread_max = match capacity() {
            Some(_) if len <= ATOMIC_LEN => None,
            Some(bytes) => {
                let page_len = rustix::param::page_size() as u64;
                let max = |bytes| unread_max(bytes, len as u64, page_len);
                max(bytes).or_else(|| {
                    let enough =
                        i32::try_from((len as u64).checked_add(5 * page_len)?.checked_mul(2)?).ok()?;
                    fcntl(&self.file, FcntlArg::F_SETPIPE_SZ(enough)).ok()?;
                    max(capacity()?)
                })
            }
            None => None,
        };
    }

    fn wait_until_ready(&self) -> io::Result<()> {
        loop {
            match self.interrupt.wait_writable(self.file.as_fd(), Duration::ZERO)? {
                Writable::Room => {}
                Writable::Failed => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            match self.unread_max {
                Some(max) if rustix::io::ioctl_fionread(&self.file)? > max => {
                    if self.interrupt.cause().is_some() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.interrupt.pause(Self::GLANCE)?;
                }
                _ => return Ok(()),
            }
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.write_now(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.interrupt.wait_writable(self.file.as_fd(), Self::GRACE)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => return answer,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes messages, framed.
pub(crate) struct Printer<W> {
    output: W,
    framing: RecvFraming,
    /// Framed bytes that are not yet written.
    buffer: Vec<u8>,
    /// Where each message of the batch ends, in bytes offered since it began.
    ends: Vec<u64>,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Printed {
    /// So many messages are written whole, from the first on.
    pub(crate) whole: usize,
    /// Why not more of those that were taken up.
    pub(crate) result: io::Result<()>,
}

impl<W: Output> Printer<W> {
    pub(crate) fn new(output: W, framing: RecvFraming) -> Self {
        Self { output, framing, buffer: Vec::new(), ends: Vec::new() }
    }

    /// Prepares for messages of up to so many bytes, each of which is to be written at once.
    pub(crate) fn prepare_for(&mut self, max_message_len: usize) {
        self.output.prepare_for(max_message_len.saturating_add(FRAMING_LEN));
    }

    /// Waits until a message is likely to be written at once.
    pub(crate) fn wait_until_ready(&self) -> io::Result<()> {
        self.output.wait_until_ready()
    }

    /// Writes the first messages, all or as many as make a good batch, and flushes.
    pub(crate) fn print<'m>(&mut self, messages: impl Iterator<Item = &'m [u8]>) -> Printed {
        self.buffer.clear();
        self.ends.clear();
        let mut progress = Progress::default();
        let mut result = self.print_batch(messages, &mut progress);
        if result.is_ok() {
            result = self.flush_buffer(&mut progress).and_then(|()| self.output.flush());
        }
        Printed { whole: self.ends.partition_point(|&end| end <= progress.written), result }
    }

    fn print_batch<'m>(
        &mut self,
        messages: impl Iterator<Item = &'m [u8]>,
        progress: &mut Progress,
    ) -> io::Result<()> {
        for message in messages {
            if self.framing != RecvFraming::Raw && self.buffer.len() + framed_len(message) > ATOMIC_LEN {
                self.flush_buffer(progress)?;
            }
            if self.framing == RecvFraming::Prefixed {
                let len = u32::try_from(message.len()).map_err(|_| {
                    io::Error::other("a message of 4 GiB or more has no prefix: use --framing raw")
                })?;
                self.offer(&len.to_le_bytes(), progress);
            }
            if message.len() < COPY_MAX_LEN {
                self.offer(message, progress);
            } else {
                self.flush_buffer(progress)?;
                progress.offered += message.len() as u64;
                write_counted(&mut self.output, message, progress)?;
            }
            if self.framing == RecvFraming::Lines {
                self.offer(b"\n", progress);
            }
            self.ends.push(progress.offered);
            if progress.offered >= BATCH_LEN as u64 {
                break;
            }
        }
        Ok(())
    }

    fn offer(&mut self, bytes: &[u8], progress: &mut Progress) {
        self.buffer.extend_from_slice(bytes);
        progress.offered += bytes.len() as u64;
    }

    fn flush_buffer(&mut self, progress: &mut Progress) -> io::Result<()> {
        let result = write_counted(&mut self.output, &self.buffer, progress);
        self.buffer.clear();
        result
    }
}

/// A message with its prefix, or with its newline and some room.
fn framed_len(message: &[u8]) -> usize {
    message.len() + FRAMING_LEN
}

/// What framing adds to a message at most.
const FRAMING_LEN: usize = size_of::<u32>();

#[derive(Debug, Default)]
struct Progress {
    /// Bytes of this batch that were framed.
    offered: u64,
    /// Bytes of this batch that the output took.
    written: u64,
}

/// As `write_all`, but `progress` tells how far it came.
fn write_counted(output: &mut impl Write, mut bytes: &[u8], progress: &mut Progress) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => {
                progress.written += len as u64;
                bytes = &bytes[len..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ATOMIC_LEN, BATCH_LEN, COPY_MAX_LEN, Output, Printer, unread_max};
    use crate::args::RecvFraming;
    use rstest::rstest;
    use std::io::{self, Write};

    /// Takes at most `step` bytes a call, and none beyond `room`.
    struct Narrow {
        taken: Vec<u8>,
        step: usize,
        room: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = bytes.len().min(self.step).min(self.room - self.taken.len());
            if len == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.taken.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for Narrow {
        fn prepare_for(&mut self, _len: usize) {}

        fn wait_until_ready(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn narrow(step: usize, room: usize) -> Narrow {
        Narrow { taken: Vec::new(), step, room }
    }

    #[rstest]
    #[case(RecvFraming::Lines, b"ab\n\n\xff\n")]
    #[case(RecvFraming::Raw, b"ab\xff")]
    #[case(RecvFraming::Prefixed, b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\xff")]
    fn framings(#[case] framing: RecvFraming, #[case] expected: &[u8], #[values(1, 99)] step: usize) {
        let mut printer = Printer::new(narrow(step, usize::MAX), framing);
        let printed = printer.print([b"ab".as_slice(), b"", b"\xff"].into_iter());
        assert_eq!((printed.whole, printed.result.is_ok()), (3, true));
        assert_eq!(printer.output.taken, expected);
    }

    #[rstest]
    #[case::nothing(0, 0)]
    #[case::a_part(2, 0)]
    #[case::all_but_the_newline(3, 0)]
    #[case::the_first(4, 1)]
    #[case::the_first_and_a_part(5, 1)]
    #[case::two(7, 2)]
    fn only_messages_that_were_written_whole_count(
        #[case] room: usize,
        #[case] whole: usize,
        #[values(1, 99)] step: usize,
    ) {
        let mut printer = Printer::new(narrow(step, room), RecvFraming::Lines);
        let printed = printer.print([b"abc".as_slice(), b"de", b"fgh"].into_iter());
        assert_eq!(printed.whole, whole);
        assert_eq!(printed.result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[rstest]
    fn long_messages_keep_their_place_among_short_ones(#[values(1, 7, 1 << 20)] step: usize) {
        let long = vec![b'x'; COPY_MAX_LEN];
        let mut printer = Printer::new(narrow(step, usize::MAX), RecvFraming::Lines);
        let printed = printer.print([b"a".as_slice(), &long, b"b"].into_iter());
        assert_eq!(printed.whole, 3);
        assert_eq!(printer.output.taken, [b"a\n", long.as_slice(), b"\nb\n"].concat());
    }

    #[rstest]
    fn short_messages_are_never_split_over_two_writes(
        #[values(RecvFraming::Lines, RecvFraming::Prefixed)] framing: RecvFraming,
    ) {
        /// Notes where each write ends.
        struct Cuts(Vec<usize>, usize);

        impl Write for Cuts {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                assert!(bytes.len() <= ATOMIC_LEN);
                self.1 += bytes.len();
                self.0.push(self.1);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        impl Output for Cuts {
            fn prepare_for(&mut self, _len: usize) {}

            fn wait_until_ready(&self) -> io::Result<()> {
                Ok(())
            }
        }

        let messages: Vec<Vec<u8>> = (0..500).map(|i| vec![b'x'; i * 37 % 1500]).collect();
        let mut printer = Printer::new(Cuts(Vec::new(), 0), framing);
        let printed = printer.print(messages.iter().map(Vec::as_slice));
        let ends: Vec<u64> = printer.ends.clone();
        assert!(printed.result.is_ok() && printed.whole == ends.len());
        assert!(printer.output.0.len() > 20, "several writes");
        assert!(printer.output.0.iter().all(|&cut| ends.contains(&(cut as u64))));
    }

    #[rstest]
    #[case::usual(65_536, 8196, 4096, Some(18_430))]
    #[case::just_so(65_536, 45_056, 4096, Some(0))]
    #[case::too_small(65_536, 45_057, 4096, None)]
    #[case::large_pages(65_536, 100, 65_536, None)]
    fn a_pipe_has_room_for_a_message_as_long_as_little_is_unread(
        #[case] capacity: u64,
        #[case] len: u64,
        #[case] page_len: u64,
        #[case] expected: Option<u64>,
    ) {
        assert_eq!(unread_max(capacity, len, page_len), expected);
    }

    #[test]
    fn a_batch_is_not_larger_than_need_be() {
        let long = vec![b'x'; BATCH_LEN / 2];
        let mut printer = Printer::new(narrow(usize::MAX, usize::MAX), RecvFraming::Raw);
        let printed = printer.print(std::iter::repeat_n(long.as_slice(), 10));
        assert_eq!((printed.whole, printed.result.is_ok()), (2, true));
    }
}
