//! Opening a segment that exists.
//!
//! Everything here, and in the modules that make, remove and inspect segments, happens
//! within a fork window: no description that carries a lock can slip into a child. What may take
//! long happens outside of it, where there is none.

use super::{
    Collected, PRESENCE_BYTE, Place, durable,
    file::{Attempt, Opened, check_file, patiently, read_header, refusal},
    remove::sweep,
};
use crate::{
    kind::Lifetime,
    sys::{
        file::{self, Directory},
        fork::Window,
        lock::{self, Mode},
    },
};
use ipc_core::{ChannelError, Role};

/// Opens a segment that exists.
pub(crate) fn open(place: &Place, window: &mut Window) -> Result<Opened, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    open_in(&directory, place, window)
}

/// Opens a segment that exists by a descriptor that can only read.
pub(super) fn open_to_read(place: &Place, window: &mut Window) -> Result<Opened, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let opened = patiently(window, |_| try_open(&directory, place, false))?;
    durable::check(&opened)?;
    Ok(opened)
}

pub(super) fn open_in(
    directory: &Directory,
    place: &Place,
    window: &mut Window,
) -> Result<Opened, ChannelError> {
    let opened = patiently(window, |_| {
        let opened = match try_open(directory, place, true)? {
            Attempt::Done(opened) => opened,
            in_the_way => return Ok(in_the_way),
        };
        match sweep(directory, place, &opened) {
            Ok(Attempt::Done(Collected::Removed)) => Err(ChannelError::NotFound),
            // Another user's, in a directory where only that one may take it away.
            Ok(Attempt::Done(_)) | Err(ChannelError::NotPermitted(_)) => Ok(Attempt::Done(opened)),
            Ok(Attempt::InTheWay(error)) => Ok(Attempt::InTheWay(error)),
            Err(error) => Err(error),
        }
    })?;
    durable::check(&opened)?;
    Ok(opened)
}

/// One attempt, in whose way it is that the name changes hands meanwhile. Our presence is for
/// [`sweep`] to share if we have it alone.
fn try_open(directory: &Directory, place: &Place, write: bool) -> Result<Attempt<Opened>, ChannelError> {
    let changing_hands = || Attempt::InTheWay(ChannelError::Busy { role: Role::User, pid: None });
    let name = place.name.as_str();
    let file = directory.open_file(name, write).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    check_file(place, &metadata)?;
    let header = read_header(&file, metadata.len_bytes)?;
    // What may be to be swept away, alone first: two that are there already are in each other's way.
    let may_be_alone = write && header.lifetime == Lifetime::Transient;
    let is_alone = may_be_alone && lock::try_lock(&file, PRESENCE_BYTE, Mode::Exclusive)?;
    if !is_alone && !lock::try_lock(&file, PRESENCE_BYTE, Mode::Shared)? {
        return Ok(changing_hands());
    }
    match directory.metadata_of(name) {
        Ok(found) if found.identity == metadata.identity => {}
        _ => return Ok(changing_hands()),
    }
    Ok(Attempt::Done(Opened { file, header, metadata }))
}
