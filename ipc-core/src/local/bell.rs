//! What makes an in-process receiver pollable: a pair of connected sockets, into which
//! whoever changes the queue writes a byte if the receiver asked for it.

use super::LocalReceiver;
use crate::{OsError, Pollable, RecvError};
use std::{
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

/// A receiver's end, and what rings it.
#[derive(Debug)]
pub(crate) struct Bell {
    heard: UnixStream,
    ringer: Arc<UnixStream>,
}

/// Rings a receiver's bell, once.
#[derive(Debug)]
pub(crate) struct Ringer(Arc<UnixStream>);

impl Bell {
    /// The bell in this place, which is put there if there is none.
    pub(crate) fn of(place: &mut Option<Self>) -> Result<&Self, OsError> {
        match place {
            Some(bell) => Ok(bell),
            none => Ok(none.insert(Self::new()?)),
        }
    }

    fn new() -> Result<Self, OsError> {
        let (heard, ringer) = UnixStream::pair().map_err(|error| OsError::new("socketpair", error))?;
        for end in [&heard, &ringer] {
            end.set_nonblocking(true).map_err(|error| OsError::new("ioctl", error))?;
        }
        Ok(Self { heard, ringer: Arc::new(ringer) })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }

    /// Takes back the readiness.
    pub(crate) fn silence(&self) -> Result<(), OsError> {
        loop {
            match (&self.heard).read(&mut [0; 64]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(OsError::new("read", error)),
            }
        }
    }

    /// Adds its ringer to those that the next change rings.
    pub(crate) fn arm(&self, bells: &mut Vec<Ringer>) {
        if !bells.iter().any(|armed| Arc::ptr_eq(&armed.0, &self.ringer)) {
            bells.push(Ringer(Arc::clone(&self.ringer)));
        }
    }
}

impl Ringer {
    pub(crate) fn ring(self) {
        // It can't fail for lack of room, since the bell was silenced before it was armed.
        // A receiver that is gone needs no ringing.
        while let Err(error) = (&*self.0).write(&[0]) {
            if error.kind() != ErrorKind::Interrupted {
                break;
            }
        }
    }
}

impl Pollable for LocalReceiver {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        Ok(Bell::of(&mut self.bell)?.descriptor())
    }

    fn arm(&mut self) -> Result<bool, RecvError> {
        let bell = Bell::of(&mut self.bell)?;
        bell.silence()?;
        let mut queue = self.shared.queue();
        if !self.held.is_empty() || !queue.items.is_empty() {
            return Ok(true);
        }
        if queue.removed {
            return Err(RecvError::Closed);
        }
        bell.arm(&mut queue.bells);
        Ok(false)
    }
}
