//! Segments on a disk: what they hold survives everybody's death and an orderly shutdown.
//!
//! After a power loss some pages are older than others, and may fit together all the same.
//! So a mark in the first page says that the channel is in use and in which boot of the
//! machine; it is on the disk before the first endpoint stores anything, and is taken back,
//! after all else is on the disk, by the last one that leaves. Who finds the mark of another
//! boot says so, and serves only when told to ([`recover`]).
//!
//! Segments in memory are gone with the machine and have no use for it.

use super::{
    PRESENCE_BYTE, Place,
    file::{FileMemory, Opened, check_file, in_use, read_header, refusal, somebody_is_seen},
};
use crate::{
    ring::memory::Memory,
    sys::{
        disk, file,
        fork::Window,
        ident,
        lock::{self, Mode},
    },
};
use ipc_core::{ChannelError, OsError};
use std::{fs::File, sync::atomic::Ordering};

/// Where the mark is in the first page, behind the header: a boot id and a state.
const MARK: u64 = 1024;
const MARK_LEN_BYTES: usize = 24;
const CLEAN: u64 = 0;
const IN_USE: u64 = 1;

/// What the first page says about the last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    boot: [u8; 16],
    state: u64,
}

impl Mark {
    fn now(state: u64) -> Self {
        Self { boot: ident::boot_id(), state }
    }

    fn read(file: &File) -> Self {
        let word = |at| FileMemory(file).load((MARK + at) as usize, Ordering::Relaxed);
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&word(0).to_ne_bytes());
        boot[8..].copy_from_slice(&word(8).to_ne_bytes());
        Self { boot, state: word(16) }
    }

    /// Writes it, and returns when it is on the disk.
    fn write(self, file: &File) -> Result<(), OsError> {
        let mut bytes = [0; MARK_LEN_BYTES];
        bytes[..16].copy_from_slice(&self.boot);
        bytes[16..].copy_from_slice(&self.state.to_ne_bytes());
        file::write_at(file, &bytes, MARK)?;
        disk::sync(file)
    }
}

/// Refuses a segment that was in use when the machine went down.
pub(super) fn check(opened: &Opened) -> Result<(), ChannelError> {
    if !opened.header.is_on_disk {
        return Ok(());
    }
    let mark = Mark::read(&opened.file);
    if mark.state == CLEAN || mark.boot == ident::boot_id() {
        return Ok(());
    }
    Err(ChannelError::Unrecovered(
        "it was in use when the machine went down, and what it holds may be incomplete: accept that with \
         `ipc recover`, or remove it"
            .into(),
    ))
}

/// Marks the segment as in use, on the disk, before an endpoint uses it.
pub(super) fn begin_use(opened: &Opened) -> Result<(), OsError> {
    let mark = Mark::now(IN_USE);
    if opened.header.is_on_disk && Mark::read(&opened.file) != mark {
        mark.write(&opened.file)?;
    }
    Ok(())
}

/// Marks the segment as clean, after all that it holds is on the disk, if nobody else has it
/// open. Whatever prevents it loses nothing as long as the machine stays up. False if nobody is
/// seen who has it open, so that it may be worth another try.
pub(super) fn end_use(place: &Place, instance: [u8; 16], _window: &Window) -> bool {
    let Ok(Some(opened)) = reopen(place, instance) else { return true };
    if Mark::read(&opened.file).state != IN_USE {
        return true;
    }
    match lock::try_lock(&opened.file, PRESENCE_BYTE, Mode::Exclusive) {
        Ok(true) => {
            let _ = disk::sync(&opened.file).and_then(|()| Mark::now(CLEAN).write(&opened.file));
            let _ = lock::unlock(&opened.file, PRESENCE_BYTE);
            true
        }
        Ok(false) => somebody_is_seen(&opened),
        Err(_) => true,
    }
}

/// Returns when all that was stored in the segment before is on the disk.
pub(super) fn sync(place: &Place, instance: [u8; 16], _window: &Window) -> Result<(), ChannelError> {
    let opened = reopen(place, instance)?.ok_or(ChannelError::NotFound)?;
    Ok(disk::sync(&opened.file)?)
}

/// Accepts what a segment holds that was in use when the machine went down.
pub(crate) fn recover(place: &Place, _window: &Window) -> Result<(), ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let file = directory.open_file(place.name.as_str(), true).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    check_file(place, &metadata)?;
    let header = read_header(&file, metadata.len_bytes)?;
    if !header.is_on_disk {
        return Ok(());
    }
    if !lock::try_lock(&file, PRESENCE_BYTE, Mode::Exclusive)? {
        return Err(in_use(&file, &metadata));
    }
    Mark::now(CLEAN).write(&file)?;
    Ok(lock::unlock(&file, PRESENCE_BYTE)?)
}

/// The segment by its name, if that still leads to this instance.
fn reopen(place: &Place, instance: [u8; 16]) -> Result<Option<Opened>, ChannelError> {
    let Some(directory) = place.home.open()? else { return Ok(None) };
    let file = directory.open_file(place.name.as_str(), true).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    let header = read_header(&file, metadata.len_bytes)?;
    Ok((header.instance == instance).then_some(Opened { file, header, metadata }))
}
