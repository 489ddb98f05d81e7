//! One sender, as its receiver has it: a socket, and what is known of who is at its other end.
//! What comes from there is believed in nothing.

use super::{
    line::Line,
    packet::{HEADER_LEN, Header, Kind, MAX_DESCRIPTORS},
    parcel,
    store::{Extras, Held, Tag},
    sys::{self, Passed, Received},
};
use crate::{limit, wait::is_ready};
use ipc_core::{Credentials, OsError, user};
use nix::{errno::Errno, poll::PollFlags};
use std::{
    io, mem,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd},
};

/// So often a message that there is no memory for is tried. A peer can send what there will never
/// be memory for, and who waits is to sleep again.
const MOST_TRIES: u32 = 16;

/// A sender that was taken in.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: Line,
    credentials: Credentials,
    /// Its next packet passes descriptors.
    announced: bool,
    /// Of another user: each packet is received with room for descriptors, announced or not.
    /// Those that there is no room for the kernel closes in our call, however long that takes.
    is_stranger: bool,
    /// It said that it goes.
    said_farewell: bool,
    /// Came, but couldn't be mapped yet for want of memory.
    unmapped: Option<Parcel>,
}

/// What one sender's socket had.
pub(crate) enum Read {
    Message,
    Nothing,
    Gone { death: bool },
}

impl Peer {
    /// Whose user isn't `uid` is a stranger.
    pub(crate) fn new(socket: Line, credentials: Credentials, uid: u32) -> Self {
        let is_stranger = !user::is_same(credentials.uid, uid);
        Self { socket, credentials, announced: false, is_stranger, said_farewell: false, unmapped: None }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn credentials(&self) -> Credentials {
        self.credentials
    }

    /// Takes a message, if there is one. What isn't a packet of ours ends the connection.
    #[inline]
    pub(crate) fn read(&mut self, held: &mut Held, max_message_len: usize) -> Result<Read, OsError> {
        if let Some(parcel) = self.unmapped.take() {
            return map(self, parcel, held);
        }
        loop {
            let space = held.space();
            let received = if self.announced || self.is_stranger {
                sys::receive(self.socket.as_fd(), space).map_err(|errno| ("recvmsg", errno))
            } else {
                match sys::receive_bytes(self.socket.as_fd(), space) {
                    Ok(len) => {
                        if let Some(inline_len) = plain(space, len) {
                            held.push(inline_len, Tag { credentials: self.credentials, extras: None });
                            return Ok(Read::Message);
                        }
                        let truncated = len > space.len();
                        Ok(Received { len, truncated, at_limit: false, descriptors: Vec::new() })
                    }
                    Err(errno) => Err(("recv", errno)),
                }
            };
            let received = match received {
                Ok(received) => received,
                Err((_, Errno::EAGAIN | Errno::EINTR)) => return Ok(Read::Nothing),
                Err((_, Errno::ECONNRESET)) => return Ok(Read::Gone { death: !self.said_farewell }),
                Err((call, errno)) => return Err(OsError::new(call, errno)),
            };
            if received.len == 0 {
                return Ok(Read::Gone { death: !self.said_farewell && self.has_hung_up()? });
            }
            let was_announced = mem::take(&mut self.announced);
            if received.at_limit {
                // It is no fault of the sender's, who stays.
                return Err(out_of_descriptors());
            }
            return match unpack(received, space, max_message_len) {
                Some(Unpacked::Message { inline_len, descriptors }) => {
                    let extras =
                        (!descriptors.is_empty()).then(|| Box::new(Extras { descriptors, pages: None }));
                    held.push(inline_len, Tag { credentials: self.credentials, extras });
                    Ok(Read::Message)
                }
                Some(Unpacked::Parcel(parcel)) => map(self, parcel, held),
                // One packet follows, and not another of these.
                Some(Unpacked::Announcement) if !was_announced => {
                    self.announced = true;
                    continue;
                }
                Some(Unpacked::Farewell) => {
                    self.said_farewell = true;
                    Ok(Read::Gone { death: false })
                }
                Some(Unpacked::Announcement) | None => Ok(Read::Gone { death: false }),
            };
        }
    }

    /// Whether its other end is gone: a packet without bytes looks like the end.
    #[cold]
    fn has_hung_up(&self) -> Result<bool, OsError> {
        is_ready(self.socket(), PollFlags::POLLHUP)
    }
}

/// Takes a message in its pages. What isn't a message ends the connection.
#[cold]
fn map(peer: &mut Peer, mut parcel: Parcel, held: &mut Held) -> Result<Read, OsError> {
    parcel.tries += 1;
    match parcel::open(&parcel.memfd, parcel.len) {
        Ok(Some(pages)) => {
            let Parcel { memfd, descriptors, .. } = parcel;
            // It is memory, as was found out: nobody holds that up.
            drop(memfd.into_inner());
            let extras = Some(Box::new(Extras { descriptors, pages: Some(pages) }));
            held.push(0, Tag { credentials: peer.credentials, extras });
            Ok(Read::Message)
        }
        Ok(None) => Ok(Read::Gone { death: false }),
        Err(error) if parcel.tries == MOST_TRIES => Err(lost(&error, parcel.len)),
        Err(error) => {
            peer.unmapped = Some(parcel);
            Err(error)
        }
    }
}

/// A message's descriptors were lost because this process may have no more of them.
#[cold]
fn out_of_descriptors() -> OsError {
    let what = "a message's descriptors are lost, since this process may have no more of them";
    limit::failure("recvmsg", what, limit::DESCRIPTORS, "close some")
}

/// A message is lost because this process couldn't map it, again and again. It is no fault of the
/// sender's, who stays.
#[cold]
fn lost(error: &OsError, len: NonZeroUsize) -> OsError {
    let why = &error.error;
    let what = format!("a message of {len} bytes is lost, since {MOST_TRIES} tries to map it failed: {why}");
    OsError::new(error.call, io::Error::other(what))
}

/// A packet that is one of ours.
enum Unpacked {
    Message { inline_len: usize, descriptors: Vec<Passed> },
    Parcel(Parcel),
    Farewell,
    Announcement,
}

/// A message in pages of its own, that it says to be of this length.
#[derive(Debug)]
struct Parcel {
    memfd: Passed,
    len: NonZeroUsize,
    descriptors: Vec<Passed>,
    /// How often it was tried to map it.
    tries: u32,
}

/// The length of the message, if the packet is nothing but a message and its header.
#[inline]
fn plain(space: &[u8], len: usize) -> Option<usize> {
    let inline_len = len.checked_sub(HEADER_LEN).filter(|_| len <= space.len())?;
    let header = Header { kind: Kind::Inline, len: inline_len as u64 };
    (*space.first_chunk()? == header.to_bytes()).then_some(inline_len)
}

/// Checks all that a peer could have made up.
#[inline]
fn unpack(received: Received, space: &[u8], max_message_len: usize) -> Option<Unpacked> {
    let Received { len, truncated, mut descriptors, .. } = received;
    let inline_len = len.checked_sub(HEADER_LEN)?;
    let Header { kind, len } = Header::from_bytes(*space.first_chunk()?)?;
    let len = usize::try_from(len).ok()?;
    let most = MAX_DESCRIPTORS + usize::from(kind == Kind::Parcel);
    if truncated || len > max_message_len || descriptors.len() > most {
        return None;
    }
    match kind {
        Kind::Inline if len == inline_len => Some(Unpacked::Message { inline_len, descriptors }),
        Kind::Parcel if inline_len == 0 && !descriptors.is_empty() => {
            let (len, memfd) = (NonZeroUsize::new(len)?, descriptors.remove(0));
            Some(Unpacked::Parcel(Parcel { memfd, len, descriptors, tries: 0 }))
        }
        Kind::Farewell if inline_len == 0 && descriptors.is_empty() => Some(Unpacked::Farewell),
        Kind::Announcement if inline_len == 0 && descriptors.is_empty() => Some(Unpacked::Announcement),
        _ => None,
    }
}
