//! Segments on a disk: what they hold survives everybody's death and an orderly shutdown.
//!
//! After a power loss some pages are older than others, and may fit together all the same.
//! So a mark in the first page says that the channel is in use and in which boot of the
//! machine; it is on the disk before the first endpoint stores anything, and is taken back,
//! after all else is on the disk, by the last one that leaves. Who finds the mark of another
//! boot says so, and serves only when told to ([`recover`]).
//!
//! What a process reads of the mark is in memory, and needn't be on the disk yet. So it is
//! written twice: that the channel is about to be used, which whoever comes takes to the disk,
//! and that it is in use when somebody has.
//!
//! The system says only once that something couldn't be written, and then takes it for done. So
//! the mark keeps that in mind, until somebody accepts it.
//!
//! Segments in memory are gone with the machine and have no use for it.

use super::{
    Header, PRESENCE_BYTE, Place,
    file::{Opened, check_file, in_use, read_header, refusal, somebody_is_seen},
};
use crate::{
    ring::memory::{Memory, Words},
    sys::{
        disk,
        file::{self, Cause, Directory},
        fork::{Private, Window},
        ident,
        lock::{self, Mode},
        map::{Anchor, Mapping},
    },
};
use ipc_core::{ChannelError, OsError};
use std::{
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
};

/// Where the mark is in the first page, behind the header: a boot id of two words, and a state.
const MARK: u64 = 1024;
const STATE: u64 = MARK + 16;
/// All that it holds is on the disk.
const CLEAN: u64 = 0;
/// It is used, and that is on the disk.
const IN_USE: u64 = 1;
/// It is about to be used, which needn't be on the disk yet.
const ENTERING: u64 = 2;
/// Something that it holds couldn't be written to the disk.
const FAILED: u64 = 3;

/// What the first page says about the last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    boot: [u8; 16],
    state: u64,
}

impl Mark {
    fn now(state: u64) -> Result<Self, OsError> {
        Ok(Self { boot: ident::boot_id()?, state })
    }

    /// The state first: who enters writes it last, so that it isn't taken for one of another boot.
    fn read(file: impl AsFd) -> Result<Self, ChannelError> {
        let (mut state, mut boot) = ([0; 8], [0; 16]);
        match file::read_at(&file, &mut state, STATE)? && file::read_at(&file, &mut boot, MARK)? {
            true => Ok(Self { boot, state: u64::from_ne_bytes(state) }),
            false => Err(ChannelError::Corrupt("its file ends within the first page".into())),
        }
    }

    fn write(self, file: impl AsFd) -> Result<(), OsError> {
        file::write_at(&file, &self.boot, MARK)?;
        file::write_at(&file, &self.state.to_ne_bytes(), STATE)
    }

    /// Writes it, and returns when it is on the disk.
    fn save(self, file: impl AsFd) -> Result<(), OsError> {
        self.write(&file)?;
        disk::sync(file)
    }
}

/// Refuses what can't tell boots apart: it wouldn't notice a power loss.
fn boot() -> Result<[u8; 16], ChannelError> {
    ident::boot_id().map_err(|error| {
        ChannelError::Unsupported(format!(
            "a channel on a disk needs to know when the machine was started anew, and the system doesn't say \
             ({error}): mount /proc, or use a channel in memory"
        ))
    })
}

/// Refuses a segment that was in use when the machine went down.
pub(super) fn check(opened: &Opened) -> Result<(), ChannelError> {
    if !opened.header.is_on_disk {
        return Ok(());
    }
    let (mark, boot) = (Mark::read(&opened.file)?, boot()?);
    if mark.state == CLEAN || mark.boot == boot {
        return Ok(());
    }
    Err(ChannelError::Unrecovered(
        "it was in use when the machine went down, and what it holds may be incomplete: accept that with \
         `ipc recover`, or remove it"
            .into(),
    ))
}

/// Notes that something couldn't be written: whoever asks next is told that all is well.
fn note_failure(file: impl AsFd) {
    let _ = Mark::now(FAILED).and_then(|mark| mark.save(file));
}

/// Marks a segment that is being made: what it begins with isn't on the disk yet.
pub(super) fn begin(file: impl AsFd) -> Result<(), ChannelError> {
    Ok(Mark { boot: boot()?, state: ENTERING }.write(file)?)
}

/// Marks the segment as in use, on the disk, before an endpoint uses it.
pub(super) fn begin_use(mapping: &Arc<Mapping>, header: &Header) -> Result<(), OsError> {
    if !header.is_on_disk {
        return Ok(());
    }
    let words = Words::new(mapping);
    let boot = ident::boot_id()?;
    let boot = [0, 8].map(|at| (at, u64::from_ne_bytes(*boot[at..].first_chunk().expect("16 bytes"))));
    let (place, state) = (MARK as usize, STATE as usize);
    // Acquire: pairs with the Release of who has it on the disk.
    let found = words.load(state, Ordering::Acquire);
    if found == IN_USE {
        // Of this boot: another one's isn't opened.
        return Ok(());
    }
    for (at, word) in boot {
        words.store(place + at, word, Ordering::Relaxed);
    }
    // Release: whoever reads a state reads the boot that it is of. Even if it says so already,
    // it is to be written anew. If another one is faster, we take theirs to the disk.
    let change = |from, to| words.compare_exchange(state, from, to, Ordering::Release);
    let _ = change(found, if found == FAILED { FAILED } else { ENTERING });
    let saved = mapping.sync(header.page as usize);
    let _ = change(ENTERING, if saved.is_ok() { IN_USE } else { FAILED });
    if saved.is_err() {
        // Others who have come meanwhile may say that all is well: they weren't told.
        let _ = change(IN_USE, FAILED);
    }
    saved
}

/// Marks the segment as clean, after all that it holds is on the disk, if nobody else has it
/// open. Whatever prevents it loses nothing as long as the machine stays up. False if nobody is
/// seen who has it open, so that it may be worth another try.
///
/// It may take seconds until all is on the disk, for which nobody is kept out: what is left to be
/// written when nobody may come takes no longer than the mark.
pub(super) fn end_use(place: &Place, instance: [u8; 16]) -> bool {
    let steps: [fn(Shut) -> Result<(), OsError>; 2] = [Shut::sync_unlocked, |shut| shut.clean()];
    for step in steps {
        match shut(place, instance) {
            Ok(Shutting::Shut(shut)) => {
                if step(shut).is_err() {
                    return true;
                }
            }
            Ok(Shutting::InUse { is_seen }) => return is_seen,
            Ok(Shutting::NotMarked) | Err(_) => return true,
        }
    }
    true
}

/// Returns when all that was stored in the segment before is on the disk, and so is its name.
pub(super) fn sync(place: &Place, header: &Header) -> Result<(), ChannelError> {
    let (directory, file) = {
        let window = Window::open();
        let (directory, opened) = reopen(place, header.instance)?.ok_or(ChannelError::NotFound)?;
        (directory, window.keep(opened.file.into()))
    };
    if !header.is_on_disk {
        return Ok(disk::sync(&file)?);
    }
    disk::sync(&file).inspect_err(|_| note_failure(&file))?;
    if Mark::read(&file)?.state == FAILED {
        return Err(ChannelError::Unrecovered(
            "some of what was stored couldn't be written to the disk: receive what is of value while the machine \
             is up, and accept the loss with `ipc recover`, or remove it"
                .into(),
        ));
    }
    match disk::sync(&directory) {
        // Where the file system has no such thing for directories.
        Err(error) if Cause::of(&error) == Cause::NotSupported => Ok(()),
        answer => Ok(answer?),
    }
}

/// Accepts what a segment holds that was in use when the machine went down.
pub(crate) fn recover(place: &Place) -> Result<(), ChannelError> {
    let shut = {
        let window = Window::open();
        let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
        let file = directory.open_file(place.name.as_str(), true).map_err(|error| refusal(place, error))?;
        let metadata = file::metadata(&file)?;
        check_file(place, &metadata)?;
        let header = read_header(&file, metadata.len_bytes)?;
        if !header.is_on_disk {
            return Ok(());
        }
        let opened = Opened { file, header, metadata };
        let shut = Shut::new(&directory, place, &opened, &window)?;
        shut.ok_or_else(|| in_use(&opened.file, &opened.metadata))?
    };
    Ok(shut.clean()?)
}

/// A segment that nobody else has open, nor can open until this is dropped.
struct Shut {
    /// Without a lock, so that no window is needed for what takes long.
    file: Private,
    /// Keeps the lock.
    _presence: Anchor,
}

impl Shut {
    /// `None` if somebody has it open.
    fn new(
        directory: &Directory,
        place: &Place,
        opened: &Opened,
        window: &Window,
    ) -> Result<Option<Self>, ChannelError> {
        if !lock::try_lock(&opened.file, PRESENCE_BYTE, Mode::Exclusive)? {
            return Ok(None);
        }
        let shut = Self::kept(directory, place, opened, window);
        if shut.is_err() {
            let _ = lock::unlock(&opened.file, PRESENCE_BYTE);
        }
        shut.map(Some)
    }

    /// The same of a segment whose presence byte we have alone.
    fn kept(
        directory: &Directory,
        place: &Place,
        opened: &Opened,
        window: &Window,
    ) -> Result<Self, ChannelError> {
        let file = directory.open_file(place.name.as_str(), true).map_err(|error| refusal(place, error))?;
        if file::metadata(&file)?.identity != opened.metadata.identity {
            return Err(ChannelError::NotFound);
        }
        let presence = Anchor::new(&opened.file, opened.header.page as usize)?;
        Ok(Self { file: window.keep(file.into()), _presence: presence })
    }

    /// Lets others come, and returns when all that it held until then is on the disk.
    fn sync_unlocked(self) -> Result<(), OsError> {
        let Self { file, _presence: presence } = self;
        drop(presence);
        disk::sync(&file).inspect_err(|_| note_failure(&file))
    }

    /// Marks it as clean when all that it holds is on the disk.
    fn clean(&self) -> Result<(), OsError> {
        let cleaned = disk::sync(&self.file).and_then(|()| Mark::now(CLEAN)?.save(&self.file));
        cleaned.inspect_err(|_| note_failure(&self.file))
    }
}

/// What comes of shutting a segment.
enum Shutting {
    Shut(Shut),
    /// It isn't marked as in use.
    NotMarked,
    /// Somebody has it open, whether or not anybody is seen.
    InUse {
        is_seen: bool,
    },
}

/// Shuts a segment that is marked as in use.
fn shut(place: &Place, instance: [u8; 16]) -> Result<Shutting, ChannelError> {
    let window = Window::open();
    let Some((directory, opened)) = reopen(place, instance)? else { return Ok(Shutting::NotMarked) };
    if !matches!(Mark::read(&opened.file)?.state, IN_USE | ENTERING) {
        return Ok(Shutting::NotMarked);
    }
    Ok(match Shut::new(&directory, place, &opened, &window)? {
        Some(shut) => Shutting::Shut(shut),
        None => Shutting::InUse { is_seen: somebody_is_seen(&opened) },
    })
}

/// The segment by its name, if that still leads to this instance, and its directory.
fn reopen(place: &Place, instance: [u8; 16]) -> Result<Option<(Directory, Opened)>, ChannelError> {
    let Some(directory) = place.home.open()? else { return Ok(None) };
    let file = directory.open_file(place.name.as_str(), true).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    let header = read_header(&file, metadata.len_bytes)?;
    Ok((header.instance == instance).then_some((directory, Opened { file, header, metadata })))
}
