//! A process's part in a segment: the locks that prove it alive, and the mapping that
//! keeps them.

use super::{
    Entry, FenceMode, Header, Layout, PRESENCE_BYTE, Place, Reach, Target, byte_of, certify, durable,
    file::{FileMemory, Opened, taken},
    layout::role_code,
    open, remove, spawning,
};
use crate::{
    kind::Lifetime,
    ring::memory::{Memory, Words},
    sys::{
        fence,
        file::Metadata,
        fork::{self, Window},
        ident,
        lock::{self, Mode},
        map::{Anchor, Areas, Mapping},
        notice::Spot,
    },
};
use ipc_core::{ChannelError, Role};
use std::sync::{
    Arc, Weak,
    atomic::{self, Ordering},
};

/// A channel that is open without a role: present, so that it isn't taken away.
#[derive(Debug)]
pub(crate) struct Anchored {
    pub(crate) place: Place,
    pub(crate) header: Header,
    anchor: Option<Anchor>,
    /// There as long as the channel is open here. Gone only while it is being dropped.
    is_here: Option<Arc<()>>,
    generation: u32,
}

impl Anchored {
    /// Keeps the presence of a segment that was opened within this window, and lets its
    /// descriptor go.
    pub(crate) fn new(place: Place, opened: Opened, window: Window) -> Result<Self, ChannelError> {
        match Anchor::new(&opened.file, opened.header.page as usize) {
            Ok(anchor) => {
                let Opened { file, header, .. } = opened;
                drop(file);
                drop(window);
                Ok(Self::kept(place, header, anchor))
            }
            Err(error) => {
                turn_away(&place, opened, window);
                Err(error.into())
            }
        }
    }

    /// A segment whose presence is kept already.
    pub(super) fn kept(place: Place, header: Header, anchor: Anchor) -> Self {
        let is_here = Some(Arc::new(()));
        Self { place, header, anchor: Some(anchor), is_here, generation: fork::generation() }
    }

    /// Returns when all that was stored before is on the disk.
    pub(crate) fn sync(&self) -> Result<(), ChannelError> {
        if self.generation != fork::generation() {
            return Err(ChannelError::Forked);
        }
        durable::sync(&self.place, &self.header)
    }

    /// An endpoint's own attachment to the same segment.
    pub(crate) fn attach(&self, role: Role, seat: Seat) -> Result<Attachment, ChannelError> {
        if self.generation != fork::generation() {
            return Err(ChannelError::Forked);
        }
        spawning::while_taken(|| {
            let mut window = Window::open();
            let opened = open::open(&self.place, &mut window)?;
            if opened.header != self.header {
                let is_another = opened.header.instance != self.header.instance;
                turn_away(&self.place, opened, window);
                return Err(match is_another {
                    // Removed meanwhile, and made anew by somebody else.
                    true => ChannelError::NotFound,
                    false => ChannelError::Corrupt("its first page changed while it was in use".into()),
                });
            }
            let channel = self.is_here.as_ref().map(Arc::downgrade).unwrap_or_default();
            let id = take_seat(&opened, role, seat)?;
            Attachment::seated(self.place.clone(), opened, role, id, channel, window)
        })
    }
}

impl Drop for Anchored {
    fn drop(&mut self) {
        // First, so that an endpoint that leaves now doesn't rely on us.
        self.is_here = None;
        self.anchor = None;
        leave(&self.place, &self.header, self.generation, true);
    }
}

/// Leaves a segment that was opened and isn't wanted: meanwhile its last user may have left,
/// and taken us for another one.
pub(crate) fn turn_away(place: &Place, opened: Opened, window: Window) {
    let Opened { file, header, .. } = opened;
    let _ = lock::unlock(&file, PRESENCE_BYTE);
    drop(file);
    drop(window);
    // Once: nobody can have our lock, as it was given up.
    leave(place, &header, fork::generation(), false);
}

/// The last one out of a transient channel takes its name along; of one on a disk, sees to
/// it that all is there. If others of this process are known to be there, it is for them.
pub(super) fn leave(place: &Place, header: &Header, generation: u32, may_be_last: bool) {
    if generation != fork::generation() {
        return;
    }
    if header.lifetime == Lifetime::Transient {
        let reap = || remove::reap(place, header.instance, &mut Window::open());
        spawning::while_nobody_is_seen(|| reap() || !may_be_last);
    }
    if header.is_on_disk {
        let end_use = || durable::end_use(place, header.instance);
        spawning::while_nobody_is_seen(|| end_use() || !may_be_last);
    }
}

/// Which participant an endpoint wants to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seat {
    /// This one and no other.
    Only(u32),
    /// Any.
    Any,
    /// Any from the first to the last of these.
    Within(u32, u32),
}

/// Locks the byte of a seat that nobody else keeps, and returns its id.
fn take_seat(opened: &Opened, role: Role, seat: Seat) -> Result<u32, ChannelError> {
    let layout = opened.header.layout();
    let (first, last) = match seat {
        Seat::Only(id) => (id, id),
        Seat::Any => (1, layout.participants),
        Seat::Within(first, last) => (first, last),
    };
    let memory = FileMemory(&opened.file);
    // Those that were left in good order first, so that the trace of a dead one is kept for
    // those who look, and its repair to those who wait for it.
    for orderly in [true, false] {
        for id in first..=last {
            let is_orderly = memory.load(layout.entry(id).pid(), Ordering::Relaxed) == 0;
            if is_orderly == orderly && lock::try_lock(&opened.file, byte_of(id), Mode::Exclusive)? {
                return Ok(id);
            }
        }
    }
    match seat {
        Seat::Only(id) => Err(taken(opened, id, role)),
        Seat::Any | Seat::Within(..) => Err(ChannelError::Limit(format!(
            "all {} places for a {role} are taken: make it with room for more (`participants` or `publishers`)",
            last - first + 1
        ))),
    }
}

/// A place in a segment, kept by its mapping.
struct Seated {
    id: u32,
    header: Header,
    metadata: Metadata,
    areas: Areas,
    mapping: Arc<Mapping>,
    /// Who was found dead when we came.
    met_dead: Vec<u32>,
}

impl Seated {
    /// In a place that was taken within this window; lets the descriptor go.
    fn new(opened: Opened, id: u32, _window: &Window) -> Result<Self, ChannelError> {
        let Opened { file, header, metadata } = opened;
        let layout = header.layout();
        let areas = header.areas()?;
        let mapping = Arc::new(Mapping::new(&file, areas)?);
        let met_dead = certify::meet_dead(&Words::new(&mapping), &layout, &file, id);
        Ok(Self { id, header, metadata, areas, mapping, met_dead })
    }
}

/// An endpoint's part in a segment: the byte of its id and the presence byte are locked by a
/// description of its own, which only the mapping refers to.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Gone only while it is being dropped.
    mapping: Option<Arc<Mapping>>,
    pub(super) place: Place,
    /// Whether the channel that it was made by is still open.
    channel: Weak<()>,
    /// What is touched for those who poll.
    spot: Arc<Spot>,
    header: Header,
    layout: Layout,
    pub(super) target: Target,
    id: u32,
    /// Who was found dead when we came, and what they left not yet put in order.
    met_dead: Vec<u32>,
    generation: u32,
}

impl Attachment {
    /// Opens a segment that exists and takes the part in it that is chosen by what it is, if
    /// it is wanted: what a channel and its first endpoint do one after the other.
    pub(crate) fn open(
        place: &Place,
        choose: impl Fn(&Opened) -> Result<(Role, Seat), ChannelError>,
    ) -> Result<Self, ChannelError> {
        let mut window = Window::open();
        let opened = open::open(place, &mut window)?;
        let (role, seat) = match choose(&opened) {
            Ok(chosen) => chosen,
            Err(error) => {
                turn_away(place, opened, window);
                return Err(error);
            }
        };
        match take_seat(&opened, role, seat) {
            Ok(id) => {
                let header = opened.header.clone();
                // Its last user may have left meanwhile, and taken us for another one.
                let left = |_: &ChannelError| leave(place, &header, fork::generation(), true);
                Self::seated(place.clone(), opened, role, id, Weak::new(), window).inspect_err(left)
            }
            // It may seem so for a moment. The channel is there as long as somebody waits for a
            // place in it.
            Err(ChannelError::Busy { .. } | ChannelError::Limit(_)) => {
                Anchored::new(place.clone(), opened, window)?.attach(role, seat)
            }
            Err(error) => {
                turn_away(place, opened, window);
                Err(error)
            }
        }
    }

    /// In a place that was taken in a segment that was opened within this window.
    fn seated(
        place: Place,
        opened: Opened,
        role: Role,
        id: u32,
        channel: Weak<()>,
        window: Window,
    ) -> Result<Self, ChannelError> {
        let Seated { id, header, metadata, areas, mapping, met_dead } = Seated::new(opened, id, &window)?;
        // The mapping keeps the locks, and the rest may take long.
        drop(window);
        mapping.make_ready(&areas)?;
        durable::begin_use(&mapping, &header)?;
        let layout = header.layout();
        let attachment = Self {
            mapping: Some(mapping),
            spot: Arc::new(Spot::new(place.path())?),
            place,
            channel,
            target: Target::new(metadata.identity),
            header,
            layout,
            id,
            met_dead,
            generation: fork::generation(),
        };
        attachment.sign(role);
        Ok(attachment)
    }

    /// Writes down who we are, and whether a sleeping peer's fence reaches us.
    fn sign(&self, role: Role) {
        let reach = match self.header.fences {
            FenceMode::Asymmetric if !fence::register() => Reach::Deaf,
            _ => Reach::Reached,
        };
        let (entry, memory) = (self.entry(), self.words());
        memory.store(entry.role(), role_code(role), Ordering::Relaxed);
        memory.store(entry.attached_unix_ns(), ident::unix_time_ns(), Ordering::Relaxed);
        memory.store(entry.reach(), reach as u64, Ordering::Relaxed);
        memory.store(entry.pid(), u64::from(ident::pid()), Ordering::Relaxed);
        // A peer that announced its sleep before this is seen by our next look at its flag.
        atomic::fence(Ordering::SeqCst);
    }

    /// Who was found dead when we came, and what they left not yet put in order: of a crowd, those
    /// among the few that were asked about.
    pub(crate) fn met_dead(&self) -> impl Iterator<Item = u32> + '_ {
        self.met_dead.iter().copied()
    }

    /// The segment's memory. Whoever keeps the words keeps the role.
    pub(crate) fn words(&self) -> Words {
        Words::new(self.mapping.as_ref().expect("mapped until dropped"))
    }

    /// What the segment's first page says.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Where things are.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the segment is.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Where the segment is touched and watched.
    pub(crate) fn spot(&self) -> &Arc<Spot> {
        &self.spot
    }

    /// Which participant we are.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Where our own words are.
    pub(crate) fn entry(&self) -> Entry {
        self.layout.entry(self.id)
    }

    /// Whether this process is the one that attached, and not a fork of it.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Whether the name still leads to this segment.
    pub(crate) fn is_named(&self) -> bool {
        self.place.leads_to(&self.target)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        self.clear(self.id);
        // The locks go with the mapping, and so the seat is free.
        self.mapping = None;
        let may_be_last = self.channel.strong_count() == 0;
        leave(&self.place, &self.header, self.generation, may_be_last);
    }
}
