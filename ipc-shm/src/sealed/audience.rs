//! The one end of a channel with many: memory that it alone writes and all the others map, and
//! a connection to each of them.
//!
//! ```text
//! publisher                          subscriber, any number of them
//!   a ring, its words ───────────────▶ mapped for reading by each
//!   mapped for reading ◀────────────── a page of words, mapped by no other subscriber
//! ```
//!
//! A subscriber hands over its page first and unasked, so that to admit it takes no wait: who
//! doesn't do its part holds up the one that waits for its part, which need not be the one
//! that publishes.

use super::{
    LinkError, Peer,
    greeting::{Greeting, Part},
    line::Line,
    link::{Link, post},
    memory::{self, Single, Unshared},
};
use crate::sys::{
    fence,
    fork::{Private, Window},
    ident, socket,
};
use ipc_core::Wait;
use std::os::fd::{AsFd, OwnedFd};

/// How many messages are published between two looks for those who have gone.
const LOOK_EVERY: u32 = 256;

/// One that wants to subscribe, or to read, and has done its part for it.
///
/// It is admitted by [`SealedPublisher::admit`](super::SealedPublisher::admit) or
/// [`SealedWriter::admit`](super::SealedWriter::admit), and hung up on if it is dropped.
#[derive(Debug)]
pub struct Guest {
    link: Link,
    greeting: Greeting,
    memory: Single,
}

impl Guest {
    /// Who it is.
    pub fn peer(&self) -> Peer {
        self.link.peer()
    }
}

impl Link {
    /// Waits for the peer to say that it wants to subscribe or to read, and to do its part for
    /// that. What takes time, because of a peer that takes its time, is done then.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if the peer does what no correct one does, or has come for
    /// something else; the others.
    ///
    /// # Blocking
    ///
    /// As long as `wait` says: nothing but `wait` keeps a peer from saying nothing for ever.
    pub fn guest(self, wait: Wait<'_>) -> Result<Guest, LinkError> {
        let page = ident::page_size_bytes()?;
        let (greeting, file) = self.be_given(&[Part::Subscribes, Part::Reads], page, wait)?;
        let file = memory::check(greeting.part, page, 0, file)?;
        let room = Unshared::new(greeting.part.other(), page, 0)?;
        room.place_theirs(&file)?;
        Ok(Guest { link: self, greeting, memory: room.single(greeting.part) })
    }
}

/// The memory that one end writes and hands over, and those who have it.
#[derive(Debug)]
pub(super) struct Audience {
    ours: Greeting,
    pub(super) memory: Single,
    /// For those who come later.
    file: Private,
    lines: Vec<Line>,
    /// Since the last look for those who have gone.
    changes: u32,
}

impl Audience {
    /// Of an end that publishes or writes: memory of so many bytes, whole pages, for what it
    /// says; `longest` is said to those who come.
    pub(super) fn new(part: Part, capacity: u64, longest: u64) -> Result<Self, LinkError> {
        let page = ident::page_size_bytes()?;
        let ours = Greeting { capacity, longest, ..Greeting::new(part, fence::register(), page) };
        let room = Unshared::new(part, page, capacity)?;
        let window = Window::open();
        let file = memory::make(part, page, capacity)?;
        room.place_ours(&file)?;
        let file = window.keep(OwnedFd::from(file));
        Ok(Self { ours, memory: room.single(part), file, lines: Vec::new(), changes: 0 })
    }

    /// Whether this process is the one that made it, and not a fork of it.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        self.file.is_ours()
    }

    /// Hands the memory over. `next` is where it goes on, and the number of what comes there.
    pub(super) fn admit(&mut self, guest: Guest, next: (u64, u64)) -> Result<(), LinkError> {
        if !self.is_ours() {
            return Err(LinkError::Forked);
        }
        let theirs = guest.greeting;
        if theirs.part.other() != self.ours.part {
            return Err(LinkError::Refused(match theirs.part {
                Part::Reads => "it reads a newest value, and this end publishes to subscribers".into(),
                _ => "it subscribes to messages, and this end writes a newest value".into(),
            }));
        }
        self.look_for_gone();
        let (position, number) = next;
        let said = Greeting { position, number, ..self.ours }.to_bytes();
        let socket = guest.link.into_socket();
        if !socket::send(&socket, &said, Some(self.file.as_fd()))? {
            return Err(LinkError::HungUp);
        }
        let post = post(self.ours, &self.memory.post, theirs, &guest.memory.post);
        self.lines.push(Line::new(socket, post));
        Ok(())
    }

    /// To be called after each change. It wakes who sleeps.
    #[inline]
    pub(super) fn wake(&mut self) {
        self.lines.iter().for_each(Line::wake);
        self.changes += 1;
        if self.changes >= LOOK_EVERY {
            self.changes = 0;
            self.look_for_gone();
        }
    }

    /// How many there are.
    pub(super) fn len(&mut self) -> usize {
        if self.is_ours() {
            self.lines.retain(|line| line.gone().is_none());
        }
        self.lines.len()
    }

    /// Lets go of those who have gone, with whom nothing else is to be done.
    #[cold]
    fn look_for_gone(&mut self) {
        self.lines.retain(|line| line.gone_lately().is_none());
    }
}
