//! Opening a segment that exists.
//!
//! Everything here, and in the modules that make, remove and inspect segments, happens
//! within a fork window: no description that carries a lock can slip into a child.

use super::{
    Collected, PRESENCE_BYTE, Place, durable,
    file::{Opened, PATIENCE, check_file, read_header, refusal},
    remove::sweep,
};
use crate::sys::{
    file::{self, Directory},
    fork::Window,
    lock::{self, Mode},
};
use ipc_core::{ChannelError, Role};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Opens a segment that exists.
pub(crate) fn open(place: &Place, window: &Window) -> Result<Opened, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    open_in(&directory, place, window)
}

/// Opens a segment that exists by a descriptor that can only read.
pub(super) fn open_to_read(place: &Place, _window: &Window) -> Result<Opened, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let opened = patiently(|| try_open(&directory, place, false))?;
    durable::check(&opened)?;
    Ok(opened)
}

pub(super) fn open_in(
    directory: &Directory,
    place: &Place,
    _window: &Window,
) -> Result<Opened, ChannelError> {
    let opened = patiently(|| try_open(directory, place, true))?;
    if sweep(directory, place, &opened)? == Collected::Removed {
        return Err(ChannelError::NotFound);
    }
    durable::check(&opened)?;
    Ok(opened)
}

/// Tries until the name doesn't change hands meanwhile.
fn patiently(
    mut attempt: impl FnMut() -> Result<Option<Opened>, ChannelError>,
) -> Result<Opened, ChannelError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(opened) = attempt()? {
            return Ok(opened);
        }
        if Instant::now() >= give_up {
            return Err(ChannelError::Busy { role: Role::User, pid: None });
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// One attempt; `None` if the name changed hands meanwhile.
fn try_open(directory: &Directory, place: &Place, write: bool) -> Result<Option<Opened>, ChannelError> {
    let name = place.name.as_str();
    let file = directory.open_file(name, write).map_err(|error| refusal(place, error))?;
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
    Ok(Some(Opened { file, header, metadata }))
}
