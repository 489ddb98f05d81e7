//! State by name: made whole or not at all, opened if it is what was asked for.

use super::{
    Form,
    handle::Handle,
    layout::{self, Described},
};
use crate::{
    config::{ShmConfig, State as Spec},
    kind::{Kind, Lifetime},
    segment::{self, Attachment, Onlooker, Opened, Seat, spawning},
    sys::{fork::Window, ident},
    transport::{Namespace, Verdict, namespace},
};
use ipc_core::{ChannelError, ChannelInfo, ChannelName, Role};
use std::{path::PathBuf, sync::Arc};

/// State in shared memory, one file each in one directory: locks, semaphores, values.
///
/// The types of this module open theirs in the default directory; this is for those who
/// want another one, or other settings, and for all that doesn't depend on what it is.
///
/// Unless another directory is chosen, by [`State::at`] or the environment variable
/// `IPC_DIR`, it is `/dev/shm/ipc-UID`, which belongs to its user alone.
///
/// ```
/// use ipc_shm::sync::{Mutex, Semaphore, State};
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-state-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
///
/// let state = State::at(&directory).transient();
/// let total = state.open_or_create::<Mutex<u64>>("total", || 0)?;
/// let slots = state.open_or_create::<Semaphore>("slots", || 4)?;
/// let _slot = slots.acquire()?;
/// *total.lock()? += 1;
/// # drop(_slot);
/// # drop((total, slots));
/// # std::fs::remove_dir(&directory)?; // they were the last ones
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct State {
    namespace: Namespace,
    config: ShmConfig,
}

impl State {
    namespace!();

    /// Has what is made end when the last one leaves it, unless somebody died with it.
    #[must_use]
    pub fn transient(self) -> Self {
        Self { config: self.config.lifetime(Lifetime::Transient), ..self }
    }

    /// How many can have what is made open at once: 1 to 4096, 64 unless given. Each costs
    /// 256 bytes. The threads of a process share one if they share what was opened.
    #[must_use]
    pub fn participants(self, participants: u32) -> Self {
        Self { config: self.config.participants(participants), ..self }
    }

    /// The permission bits of what is made, set exactly, whatever the umask. The default is
    /// 0600.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { config: self.config.mode(mode), ..self }
    }

    /// Makes it, beginning with what `initial` says.
    ///
    /// # Errors
    ///
    /// [`ChannelError::AlreadyExists`], [`ChannelError::InvalidConfig`] if there can't be such
    /// a thing, and the others.
    pub fn create<P: Primitive>(
        &self,
        name: &str,
        initial: impl FnOnce() -> P::Initial,
    ) -> Result<P, ChannelError> {
        let name = ChannelName::new(name)?;
        self.make(&name, &Made::of::<P>(initial())?)
    }

    /// Opens what exists.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`], [`ChannelError::Mismatch`] if it is something else, or has
    /// a value of another layout (the error names both), and the others.
    pub fn open<P: Primitive>(&self, name: &str) -> Result<P, ChannelError> {
        P::of(Part(self.find::<P>(&ChannelName::new(name)?)?))
    }

    /// Opens it, or makes it if there is none; who loses a race opens the winner's. `initial`
    /// is called only if it is missing.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) and [`create`](Self::create).
    pub fn open_or_create<P: Primitive>(
        &self,
        name: &str,
        initial: impl FnOnce() -> P::Initial,
    ) -> Result<P, ChannelError> {
        let name = ChannelName::new(name)?;
        let mut initial = Some(initial);
        let mut made = None;
        loop {
            match self.find::<P>(&name) {
                Err(ChannelError::NotFound) => {}
                found => return P::of(Part(found?)),
            }
            if let Some(initial) = initial.take() {
                made = Some(Made::of::<P>(initial())?);
            }
            match self.make(&name, made.as_ref().expect("made the first time round")) {
                // Somebody was faster, or took it away again at once.
                Err(ChannelError::AlreadyExists | ChannelError::NotFound) => {}
                made => return made,
            }
        }
    }

    pub(super) fn onlooker<P: Primitive>(&self, name: &str) -> Result<Onlooker, ChannelError> {
        Onlooker::open(self.namespace.place(&ChannelName::new(name)?), check::<P>)
    }

    /// Removes it, or a channel of whatever kind.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; [`ChannelError::Busy`] while somebody has it open.
    pub fn remove(&self, name: &str) -> Result<(), ChannelError> {
        self.namespace.remove(&ChannelName::new(name)?)
    }

    /// What is known about it, without taking part in it: who holds it, and since when.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`] and the others.
    pub fn stat(&self, name: &str) -> Result<ChannelInfo, ChannelError> {
        self.namespace.stat(&ChannelName::new(name)?)
    }

    fn find<P: Primitive>(&self, name: &ChannelName) -> Result<Arc<Handle>, ChannelError> {
        let place = self.namespace.place(name);
        let attachment =
            Attachment::open(&place, |opened| check::<P>(opened).map(|()| (Role::User, Seat::Any)))?;
        Handle::new(attachment, P::LENDS)
    }

    fn make<P: Primitive>(&self, name: &ChannelName, made: &Made) -> Result<P, ChannelError> {
        let page = ident::page_size_bytes()?;
        check_alignment(&made.layout, page)?;
        let mut config = self.config.clone().kind(Kind::State).max_message_len(made.layout.len_bytes as u64);
        if let Some(capacity_bytes) = made.capacity_bytes {
            config = config.capacity_bytes(capacity_bytes);
        }
        config.state = Some(Spec { form: P::FORM, layout_hash: made.layout.hash() });
        let settings = config.settings(page)?;
        let segment_layout = settings.kind.layout(&settings.geometry, page);
        let text = made.layout.to_bytes();
        let mut contents = vec![(layout::TEXT, &text[..])];
        let words = made.words.map(u64::to_ne_bytes);
        let own = crate::ring::state::Place::of(&segment_layout).own;
        contents.extend(own.iter().zip(&words).map(|(at, word)| (*at as u64, &word[..])));
        contents.push((segment_layout.data, &made.value));
        let place = self.namespace.place(name);
        let anchored = segment::create_with(&place, &settings, &contents, Window::open())?;
        let instance = anchored.header.instance;
        let attached = anchored.attach(Role::User, Seat::Any);
        drop(anchored);
        let answer = attached
            .and_then(|attachment| Handle::new(attachment, P::LENDS))
            .and_then(|own| P::of(Part(own)));
        // It is made and had, or it isn't made: there may be no address space for all of it.
        answer.inspect_err(|_| {
            let _ = spawning::while_in_use(|| segment::take_back(&place, instance, &mut Window::open()));
        })
    }
}

impl From<Namespace> for State {
    fn from(namespace: Namespace) -> Self {
        Self { namespace, config: ShmConfig::new() }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

/// What can be made and opened by name: the types of this module.
pub trait Primitive: Sized + sealed::Sealed {
    /// What it begins with: a value, a number of permits.
    type Initial;

    #[doc(hidden)]
    const FORM: Form;

    /// Whether who has it refers to what is in the segment, and may do so by what outlives its
    /// thread.
    #[doc(hidden)]
    const LENDS: bool = false;

    /// Whether it doesn't look at the value.
    #[doc(hidden)]
    const ANY_LAYOUT: bool = false;

    #[doc(hidden)]
    fn layout() -> sealed::Layout {
        sealed::Layout(Described::of::<()>())
    }

    /// The room of all that it holds, where that isn't known by the value.
    #[doc(hidden)]
    fn capacity_bytes(_initial: &Self::Initial) -> Result<Option<u64>, ChannelError> {
        Ok(None)
    }

    /// The value's bytes and the state's own words, with which it begins.
    #[doc(hidden)]
    fn contents(initial: Self::Initial) -> Result<(Vec<u8>, [u64; 2]), ChannelError>;

    #[doc(hidden)]
    fn of(handle: sealed::Part) -> Result<Self, ChannelError>;
}

use sealed::Part;

pub(crate) mod sealed {
    //! What only this crate names.

    use super::{Arc, Described, Handle};

    pub trait Sealed {}

    /// A layout, described.
    #[derive(Debug)]
    pub struct Layout(pub(in crate::sync) Described);

    /// A part in a segment.
    #[derive(Debug)]
    pub struct Part(pub(in crate::sync) Arc<Handle>);
}

/// What a segment begins with.
struct Made {
    layout: Described,
    value: Vec<u8>,
    words: [u64; 2],
    capacity_bytes: Option<u64>,
}

impl Made {
    fn of<P: Primitive>(initial: P::Initial) -> Result<Self, ChannelError> {
        let capacity_bytes = P::capacity_bytes(&initial)?;
        let (value, words) = P::contents(initial)?;
        Ok(Self { layout: P::layout().0, value, words, capacity_bytes })
    }
}

/// Refuses what isn't a `P`.
fn check<P: Primitive>(opened: &Opened) -> Result<(), ChannelError> {
    let settings = opened.settings();
    let differs = |setting, asked: &str, found: String| {
        Err(ChannelError::Mismatch { setting, asked: asked.into(), found })
    };
    let Some(found) = settings.geometry.state.filter(|state| state.form == P::FORM) else {
        return differs("kind", P::FORM.as_str(), settings.kind_name().into());
    };
    let ours = P::layout().0;
    let is_same =
        found.layout_hash == ours.hash() && settings.geometry.max_message_len == ours.len_bytes as u64;
    if P::ANY_LAYOUT || is_same {
        return check_alignment(&ours, ident::page_size_bytes()?);
    }
    differs("layout", &ours.summary(), layout::found_in(&opened.file)?)
}

/// Nothing is aligned to more than a page.
fn check_alignment(layout: &Described, page: u64) -> Result<(), ChannelError> {
    if layout.alignment_bytes as u64 <= page {
        return Ok(());
    }
    Err(ChannelError::Unsupported(format!(
        "the value is aligned to {} bytes, a page has {page}: ask for less",
        layout.alignment_bytes
    )))
}
