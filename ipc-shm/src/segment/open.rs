//! Opening a segment that exists, and what all who handle its file have in common.
//!
//! Everything here, and in the modules that make, remove and inspect segments, happens
//! within a fork window: no description that carries a lock can slip into a child.

use super::{Header, PRESENCE_BYTE, Place, header::HEADER_LEN_BYTES, inspect::FileMemory, remove::sweep};
use crate::{
    config::{Lifetime, Settings},
    ring::{ledger::Ledger, memory::Memory},
    sys::{
        file::{self, Cause, Directory, DirectoryLock, FileKind, Metadata},
        fork::Window,
        ident,
        lock::{self, Mode},
    },
};
use ipc_core::{ChannelError, OsError, Role};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
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
            capacity_bytes: self.header.capacity_bytes,
            mode: self.metadata.mode,
            kind: self.header.kind,
            lifetime: self.header.lifetime,
        }
    }
}

/// Opens a segment that exists.
pub(crate) fn open(place: &Place, window: &Window) -> Result<Opened, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    open_in(&directory, place, window)
}

pub(super) fn open_in(
    directory: &Directory,
    place: &Place,
    _window: &Window,
) -> Result<Opened, ChannelError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(opened) = try_open(directory, place)? {
            return Ok(opened);
        }
        if Instant::now() >= give_up {
            return Err(ChannelError::Busy { role: Role::User, pid: None });
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// One attempt; `None` if the name changed hands meanwhile.
fn try_open(directory: &Directory, place: &Place) -> Result<Option<Opened>, ChannelError> {
    let name = place.name.as_str();
    let file = directory.open_file(name, true).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    check_file(place, &metadata)?;
    if !lock::try_lock(&file, PRESENCE_BYTE, Mode::Shared)? {
        return Ok(None);
    }
    match directory.metadata_of(name) {
        Ok(found) if found.identity == metadata.identity => {}
        _ => return Ok(None),
    }
    let header = read_header(&file, metadata.len_bytes)?;
    let opened = Opened { file, header, metadata };
    if opened.header.lifetime == Lifetime::Transient && sweep(directory, place, &opened)? {
        return Err(ChannelError::NotFound);
    }
    Ok(Some(opened))
}

pub(super) fn check_file(place: &Place, found: &Metadata) -> Result<(), ChannelError> {
    let path = place.path();
    let path = path.display();
    if found.kind != FileKind::Regular {
        return Err(ChannelError::Corrupt(format!("{path} is not a regular file: remove it")));
    }
    if found.uid != ident::euid() {
        return Err(ChannelError::NotPermitted(format!(
            "{path} belongs to user {}, we are user {}: only one's own channels are opened",
            found.uid,
            ident::euid()
        )));
    }
    Ok(())
}

pub(super) fn read_header(file: &File, len_bytes: u64) -> Result<Header, ChannelError> {
    let mut bytes = [0; HEADER_LEN_BYTES];
    let answer = match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Header::parse(&bytes, len_bytes, ident::page_size_bytes()?),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(ChannelError::Corrupt(format!("its file has {len_bytes} bytes, too few for a header")))
        }
        Err(error) => Err(OsError::new("pread", error).into()),
    };
    answer.map_err(|error| match error {
        ChannelError::Corrupt(what) => {
            ChannelError::Corrupt(format!("{what}: unless a program of another version uses it, remove it"))
        }
        other => other,
    })
}

/// Whether the ring holds nothing: whether the receiver would find a record.
pub(super) fn is_empty(opened: &Opened) -> bool {
    let geometry = super::spsc_geometry(&opened.header);
    let memory = FileMemory(&opened.file);
    let (_, receiver) = Ledger::open(&memory, geometry.receiver_ledger);
    let place = receiver.position % geometry.capacity;
    memory.load(geometry.data + place as usize, Ordering::Acquire) == 0
}

pub(super) fn lock_directory(directory: &Directory, place: &Place) -> Result<DirectoryLock, ChannelError> {
    directory.lock(PATIENCE)?.ok_or_else(|| {
        ChannelError::Limit(format!(
            "another process has had {} locked for {} s: is it stopped?",
            place.directory().display(),
            PATIENCE.as_secs()
        ))
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
        Cause::NotPermitted => ChannelError::NotPermitted(format!("{path}: {}", error.error)),
        Cause::IsSymlink => not_a_segment("a symbolic link"),
        Cause::IsDirectory => not_a_segment("a directory"),
        Cause::NotOpenable => not_a_segment("a socket or a device"),
        Cause::NotDirectory | Cause::Full | Cause::Other => ChannelError::Os(error),
    }
}
