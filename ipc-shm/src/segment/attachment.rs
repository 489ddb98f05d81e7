//! A process's part in a segment: the locks that prove it alive, and the mapping that
//! keeps them.

use super::{
    FenceMode, Header, Place, Reach, RolePage,
    file::{Opened, taken},
    open, remove, role_byte,
};
use crate::{
    config::Lifetime,
    ring::memory::{Memory, Words},
    sys::{
        fence,
        file::Identity,
        fork::{self, Window},
        ident,
        lock::{self, Mode},
        map::{Anchor, Mapping},
    },
};
use ipc_core::{ChannelError, Role};
use std::{
    sync::{
        Arc,
        atomic::{self, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A channel that is open without a role: present, so that it isn't taken away.
#[derive(Debug)]
pub(crate) struct Anchored {
    pub(crate) place: Place,
    pub(crate) header: Header,
    anchor: Option<Anchor>,
    generation: u32,
}

impl Anchored {
    /// Keeps an opened segment's presence and lets its descriptor go.
    pub(crate) fn new(place: Place, opened: Opened, _window: &Window) -> Result<Self, ChannelError> {
        let anchor = Anchor::new(&opened.file, opened.header.page as usize)?;
        Ok(Self { place, header: opened.header, anchor: Some(anchor), generation: fork::generation() })
    }

    /// An endpoint's own attachment to the same segment.
    pub(crate) fn attach(&self, role: Role) -> Result<Attachment, ChannelError> {
        if self.generation != fork::generation() {
            return Err(ChannelError::Forked);
        }
        let window = Window::open();
        let opened = open::open(&self.place, &window)?;
        if opened.header.instance != self.header.instance {
            // Removed meanwhile, and made anew by somebody else.
            return Err(ChannelError::NotFound);
        }
        Attachment::new(self.place.clone(), opened, role, &window)
    }
}

impl Drop for Anchored {
    fn drop(&mut self) {
        drop(self.anchor.take());
        leave(&self.place, &self.header, self.generation);
    }
}

/// The last one out of a transient channel takes its name along.
fn leave(place: &Place, header: &Header, generation: u32) {
    if header.lifetime == Lifetime::Transient && generation == fork::generation() {
        remove::reap(place, header.instance, &Window::open());
    }
}

/// Locks a role's byte, if nobody else keeps it. A process that is just being spawned has its
/// parent's descriptors, and so their locks, for the moment until its `exec`: that is waited
/// for, so that a role that was given up or whose holder died is free.
fn take_role(opened: &Opened, role: Role) -> Result<bool, ChannelError> {
    let give_up = Instant::now() + SPAWNING;
    loop {
        if lock::try_lock(&opened.file, role_byte(role), Mode::Exclusive)? {
            return Ok(true);
        }
        if Instant::now() >= give_up {
            return Ok(false);
        }
        thread::sleep(SPAWNING / 20);
    }
}

/// How long a spawned process may take from `fork` to `exec`.
const SPAWNING: Duration = Duration::from_millis(4);

/// An endpoint's part in a segment: its role's byte and the presence byte are locked by a
/// description of its own, which only the mapping refers to.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Gone only while it is being dropped.
    mapping: Option<Arc<Mapping>>,
    place: Place,
    header: Header,
    identity: Identity,
    role: Role,
    generation: u32,
}

impl Attachment {
    fn new(place: Place, opened: Opened, role: Role, _window: &Window) -> Result<Self, ChannelError> {
        let page = opened.header.page as usize;
        if !take_role(&opened, role)? {
            return Err(taken(&opened.file, page, role));
        }
        let (Ok(control), Ok(data)) =
            (usize::try_from(opened.header.data_offset), usize::try_from(opened.header.capacity_bytes))
        else {
            return Err(ChannelError::Unsupported(
                "the channel is larger than this program's address space".into(),
            ));
        };
        let mapping = Arc::new(Mapping::new(&opened.file, page, control, data)?);
        let attachment = Self {
            mapping: Some(mapping),
            place,
            identity: opened.metadata.identity,
            header: opened.header,
            role,
            generation: fork::generation(),
        };
        attachment.sign();
        Ok(attachment)
    }

    /// Writes down who we are, and whether a sleeping peer's fence reaches us.
    fn sign(&self) {
        let reach = match self.header.fences {
            FenceMode::Asymmetric if !fence::register() => Reach::Deaf,
            _ => Reach::Reached,
        };
        let (page, memory) = (self.page(self.role), self.words());
        memory.store(page.pid(), u64::from(ident::pid()), Ordering::Relaxed);
        memory.store(page.attached_unix_ns(), ident::unix_time_ns(), Ordering::Relaxed);
        memory.store(page.reach(), reach as u64, Ordering::Relaxed);
        // A peer that announced its sleep before this is seen by our next look at its flag.
        atomic::fence(Ordering::SeqCst);
    }

    /// The segment's memory. Whoever keeps the words keeps the role.
    pub(crate) fn words(&self) -> Words {
        Words::new(self.mapping.as_ref().expect("mapped until dropped"))
    }

    /// What the segment's first page says.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Where a role's words are.
    pub(crate) fn page(&self, role: Role) -> RolePage {
        RolePage::of(role, self.header.page as usize)
    }

    /// Whether this process is the one that attached, and not a fork of it.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Whether the name still leads to this segment.
    pub(crate) fn is_named(&self) -> bool {
        self.place.leads_to(self.identity)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        let pid = self.page(self.role).pid();
        self.words().store(pid, 0, Ordering::Release);
        // The locks go with the mapping, and so the role is free.
        self.mapping = None;
        leave(&self.place, &self.header, self.generation);
    }
}
