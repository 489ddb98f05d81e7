//! A segment's file, as all who make, open, remove or inspect one handle it: what may be at
//! its name, its header, its words without a mapping, and the directory's lock.

use super::{Header, Place, byte_of, header::HEADER_LEN_BYTES, layout::role_of};
use crate::{
    config::Settings,
    hooks,
    kind::Kind,
    ring::{lock, memory::Memory, mpmc, spsc, state},
    sys::{
        file::{self, Cause, Directory, DirectoryLock, FileKind, Metadata},
        fork::Window,
        ident,
        lock::is_locked,
    },
};
use ipc_core::{ChannelError, OsError, Role, user};
use std::{
    cell::RefCell,
    fs::File,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

/// How long we wait for somebody who makes or removes a name; it takes them microseconds,
/// unless they are stopped.
const PATIENCE: Duration = Duration::from_secs(2);

/// A segment's file: checked, and its presence byte locked by its own description.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) header: Header,
    pub(crate) metadata: Metadata,
}

impl Opened {
    /// What the segment was made with.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            geometry: self.header.geometry,
            mode: self.metadata.mode,
            group: Some(self.metadata.gid),
            kind: self.header.kind,
            lifetime: self.header.lifetime,
            pages: self.header.pages,
        }
    }
}

pub(super) fn check_file(place: &Place, found: &Metadata) -> Result<(), ChannelError> {
    let path = place.path();
    let path = path.display();
    if found.kind != FileKind::Regular {
        return Err(ChannelError::Corrupt(format!("{path} is not a regular file: remove it")));
    }
    if !place.home.trusts(found.uid) {
        return Err(ChannelError::NotPermitted(format!(
            "{path} belongs to user {} ({found}), we are user {}: only one's own channels are opened, and those of \
             users that one is told to trust{}",
            found.uid,
            ident::euid(),
            user::likeness(found.uid, ident::euid())
        )));
    }
    Ok(())
}

pub(super) fn read_header(file: &File, len_bytes: u64) -> Result<Header, ChannelError> {
    let mut bytes = [0; HEADER_LEN_BYTES];
    let answer = match file::read_at(file, &mut bytes, 0)? {
        true => Header::parse(&bytes, len_bytes, ident::page_size_bytes()?),
        false => Err(ChannelError::Corrupt(format!("its file has {len_bytes} bytes, too few for a header"))),
    };
    answer.map_err(|error| match error {
        ChannelError::Corrupt(what) => {
            ChannelError::Corrupt(format!("{what}: unless a program of another version uses it, remove it"))
        }
        other => other,
    })
}

/// Whether a channel that nobody has open holds nothing that a receiver would be given.
pub(super) fn is_empty(opened: &Opened) -> bool {
    let layout = opened.header.layout();
    let memory = FileMemory(&opened.file);
    match opened.header.kind {
        Kind::Spsc => spsc::is_empty(&memory, &layout.spsc()),
        // What nobody subscribed to is nobody's.
        Kind::Broadcast => true,
        Kind::Mpmc => {
            let blocks = Blocks::new(&opened.file, opened.metadata.len_bytes);
            mpmc::is_empty(&blocks, &mpmc::Geometry::of(&layout, &opened.header.geometry))
        }
        // The newest value is for those who are there, and so are calls.
        Kind::Latest | Kind::Rpc => true,
        // A lock that isn't free says that somebody died with it.
        Kind::State => lock::is_free(&memory, state::Place::of(&layout).lock),
    }
}

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Attempt<T> {
    Done(T),
    /// Something that goes away in microseconds; if it doesn't, that is the error.
    InTheWay(ChannelError),
}

/// Tries until nothing is in the way, or it has been for too long. An attempt leaves no locks
/// behind, and between two of them threads may fork.
pub(super) fn patiently<T>(
    window: &mut Window,
    mut attempt: impl FnMut(&Window) -> Result<Attempt<T>, ChannelError>,
) -> Result<T, ChannelError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match attempt(window)? {
            Attempt::Done(answer) => return Ok(answer),
            Attempt::InTheWay(error) if Instant::now() >= give_up => return Err(error),
            Attempt::InTheWay(_) => window.pause(|| thread::sleep(Duration::from_micros(100))),
        }
    }
}

/// Tries to have the directory's lock.
pub(super) fn lock_directory(
    directory: &Directory,
    place: &Place,
) -> Result<Attempt<DirectoryLock>, ChannelError> {
    Ok(match directory.try_lock()? {
        Some(lock) => Attempt::Done(lock),
        None => Attempt::InTheWay(ChannelError::Limit(format!(
            "another process has had {} locked for {} s: is it stopped?",
            place.directory().display(),
            PATIENCE.as_secs()
        ))),
    })
}

/// What a failed call on a segment's name means.
pub(super) fn refusal(place: &Place, error: OsError) -> ChannelError {
    let path = place.path();
    let path = path.display();
    let not_a_segment = |what| ChannelError::Corrupt(format!("{path} is {what}, not a segment: remove it"));
    match Cause::of(&error) {
        Cause::NotFound => ChannelError::NotFound,
        Cause::AlreadyExists => ChannelError::AlreadyExists,
        Cause::NotPermitted => ChannelError::NotPermitted(format!("{path}: {}{}", error.error, who(place))),
        Cause::IsSymlink => not_a_segment("a symbolic link"),
        Cause::IsDirectory => not_a_segment("a directory"),
        Cause::NotOpenable => not_a_segment("a socket or a device"),
        Cause::NotDirectory | Cause::Full | Cause::NotSupported | Cause::Other => ChannelError::Os(error),
    }
}

/// Who asks, and whose it is, for the refusal of something at a segment's name.
fn who(place: &Place) -> String {
    let found = Directory::open(&place.home.path).and_then(|home| home.metadata_of(place.name.as_str()));
    let us = format!("we are user {}, group {}", ident::euid(), ident::egid());
    found.map_or_else(|_| format!(" ({us})"), |found| format!(" ({us}; it is {found})"))
}

/// The error that names who has a participant's place.
pub(super) fn taken(opened: &Opened, id: u32, role: Role) -> ChannelError {
    let pid = FileMemory(&opened.file).load(opened.header.layout().entry(id).pid(), Ordering::Relaxed);
    ChannelError::Busy { role, pid: u32::try_from(pid).ok().filter(|&pid| pid != 0) }
}

/// The error that names one of those who have it open.
pub(super) fn in_use(file: &File, found: &Metadata) -> ChannelError {
    let nobody_named = ChannelError::Busy { role: Role::User, pid: None };
    let Some(opened) = file
        .try_clone()
        .ok()
        .zip(read_header(file, found.len_bytes).ok())
        .map(|(file, header)| Opened { file, header, metadata: *found })
    else {
        return nobody_named;
    };
    let layout = opened.header.layout();
    let held = |&id: &u32| is_locked(file, byte_of(id)).unwrap_or(false);
    layout.ids().find(held).map_or(nobody_named, |id| {
        let role = FileMemory(file).load(layout.entry(id).role(), Ordering::Relaxed);
        taken(&opened, id, role_of(role))
    })
}

/// Whether somebody takes part in it. Those who have left have taken their names back first, so a
/// copy of their locks that a process has which is just being spawned isn't taken for them.
pub(super) fn somebody_is_seen(opened: &Opened) -> bool {
    let layout = opened.header.layout();
    let memory = FileMemory(&opened.file);
    let is_signed = |id| memory.load(layout.entry(id).pid(), Ordering::Relaxed) != 0;
    layout.ids().any(|id| is_signed(id) && is_locked(&opened.file, byte_of(id)).unwrap_or(true))
}

/// What isn't done to a file's words.
macro_rules! read_only {
    () => {
        fn store(&self, _offset: usize, _value: u64, _order: Ordering) {
            unreachable!("{READ_ONLY}");
        }

        fn compare_exchange(
            &self,
            _offset: usize,
            _current: u64,
            _new: u64,
            _order: Ordering,
        ) -> Result<u64, u64> {
            unreachable!("{READ_ONLY}");
        }

        fn fetch_add(&self, _offset: usize, _value: u64, _order: Ordering) -> u64 {
            unreachable!("{READ_ONLY}");
        }
    };
}

const READ_ONLY: &str = "whoever looks at a file doesn't write to it";

/// A segment's words read from its file, for those who don't take part. What can't be read
/// is taken for occupied.
#[derive(Debug)]
pub(super) struct FileMemory<'a>(pub(super) &'a File);

impl Memory for FileMemory<'_> {
    #[cfg_attr(feature = "crash-points", track_caller)]
    fn load(&self, offset: usize, _order: Ordering) -> u64 {
        hooks::access("load", || {
            let mut word = [0; 8];
            match file::read_at(self.0, &mut word, offset as u64) {
                Ok(true) => u64::from_ne_bytes(word),
                Ok(false) | Err(_) => u64::MAX,
            }
        })
    }

    read_only!();
}

/// The same for who goes over words that lie near one another, and looks at each only once: it
/// may be read a while before it is looked at.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    file: &'a File,
    len_bytes: u64,
    block: RefCell<Block>,
}

/// What was read last: where, and its bytes; none if it can't be read.
#[derive(Debug, Default)]
struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Blocks<'a> {
    /// What is read at once, where the next words that are looked at lie within.
    const LEN_BYTES: u64 = 1 << 16;
    /// How near that must be for it to be less work than a call for each.
    const NEAR_BYTES: u64 = 1 << 11;

    pub(super) fn new(file: &'a File, len_bytes: u64) -> Self {
        Self { file, len_bytes, block: RefCell::default() }
    }

    fn word(&self, at: u64) -> Option<u64> {
        let mut block = self.block.borrow_mut();
        block.word(at).or_else(|| {
            let is_near = at.saturating_sub(block.start + block.bytes.len() as u64) <= Self::NEAR_BYTES;
            let most = self.len_bytes.saturating_sub(at);
            let len = if is_near { Self::LEN_BYTES } else { WORD_BYTES as u64 }.min(most);
            block.start = at;
            block.bytes.resize(len as usize, 0);
            if !file::read_at(self.file, &mut block.bytes, at).unwrap_or(false) {
                block.bytes.clear();
            }
            block.word(at)
        })
    }
}

impl Block {
    fn word(&self, at: u64) -> Option<u64> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        let bytes = self.bytes.get(from..from.checked_add(WORD_BYTES)?)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    }
}

const WORD_BYTES: usize = size_of::<u64>();

impl Memory for Blocks<'_> {
    #[cfg_attr(feature = "crash-points", track_caller)]
    fn load(&self, offset: usize, _order: Ordering) -> u64 {
        hooks::access("load", || self.word(offset as u64).unwrap_or(u64::MAX))
    }

    read_only!();
}
