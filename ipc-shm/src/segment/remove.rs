//! Taking a segment's name away: on request, and when a transient channel has done its
//! duty. Only under the directory's lock, and only while nobody else has the segment open.

use super::{
    Collected, PRESENCE_BYTE, Place,
    file::{Opened, check_file, in_use, is_empty, lock_directory, read_header, refusal, somebody_is_seen},
};
use crate::{
    kind::Lifetime,
    sys::{
        file::{self, Directory, DirectoryLock, FileKind, Metadata},
        fork::Window,
        lock::{self, Mode},
    },
};
use ipc_core::ChannelError;

/// Removes a segment that nobody has open.
pub(crate) fn remove(place: &Place, _window: &Window) -> Result<(), ChannelError> {
    let name = place.name.as_str();
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let lock = lock_directory(&directory, place)?;
    let found = directory.metadata_of(name).map_err(|error| refusal(place, error))?;
    // Whatever squats on the name may go; only a segment can be in use.
    let file = match found.kind {
        FileKind::Regular => Some(directory.open_file(name, true).map_err(|error| refusal(place, error))?),
        FileKind::Directory => {
            return Err(ChannelError::Corrupt(format!(
                "{} is a directory: remove it by hand",
                place.path().display()
            )));
        }
        _ => None,
    };
    if let Some(file) = &file {
        if !lock::try_lock(file, PRESENCE_BYTE, Mode::Exclusive)? {
            return Err(in_use(file, &found));
        }
    }
    unlink_if_same(&directory, place, &found, &lock)
}

/// Leaves a segment that was opened and isn't wanted: meanwhile its last user may have
/// left, and taken us for another one.
pub(crate) fn turn_away(place: &Place, opened: Opened, window: &Window) {
    let Opened { file, header, .. } = opened;
    let _ = lock::unlock(&file, PRESENCE_BYTE);
    drop(file);
    if header.lifetime == Lifetime::Transient {
        reap(place, header.instance, window);
    }
}

/// Removes a transient segment if its last user has left it empty. Whatever prevents it
/// loses nothing: the next one to open the channel does the same. False if it is kept by nobody
/// who is seen, so that it may be worth another try.
pub(crate) fn reap(place: &Place, instance: [u8; 16], _window: &Window) -> bool {
    let Ok(Some(directory)) = place.home.open() else { return true };
    let Ok(file) = directory.open_file(place.name.as_str(), true) else { return true };
    let Ok(metadata) = file::metadata(&file) else { return true };
    let Ok(header) = read_header(&file, metadata.len_bytes) else { return true };
    let opened = Opened { file, header, metadata };
    if opened.header.instance != instance {
        return true;
    }
    let settled = match sweep(&directory, place, &opened) {
        Ok(Collected::InUse) => somebody_is_seen(&opened),
        _ => true,
    };
    let _ = lock::unlock(&opened.file, PRESENCE_BYTE);
    settled
}

/// Removes a segment if it is nothing but what dead users of a transient channel left.
pub(crate) fn collect(place: &Place, _window: &Window) -> Result<Collected, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let file = directory.open_file(place.name.as_str(), true).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    check_file(place, &metadata)?;
    let header = read_header(&file, metadata.len_bytes)?;
    let opened = Opened { file, header, metadata };
    let collected = sweep(&directory, place, &opened);
    let _ = lock::unlock(&opened.file, PRESENCE_BYTE);
    collected
}

/// Takes away a transient segment that holds nothing and that nobody else has open.
pub(super) fn sweep(
    directory: &Directory,
    place: &Place,
    opened: &Opened,
) -> Result<Collected, ChannelError> {
    if opened.header.lifetime != Lifetime::Transient {
        return Ok(Collected::Kept);
    }
    if !lock::try_lock(&opened.file, PRESENCE_BYTE, Mode::Exclusive)? {
        return Ok(Collected::InUse);
    }
    if !is_empty(opened) {
        // Back to what we came with; nobody can have come in between.
        lock::try_lock(&opened.file, PRESENCE_BYTE, Mode::Shared)?;
        return Ok(Collected::HoldsMessages);
    }
    let lock = lock_directory(directory, place)?;
    unlink_if_same(directory, place, &opened.metadata, &lock)?;
    Ok(Collected::Removed)
}

/// Takes the name away if it still leads to the file that was checked.
fn unlink_if_same(
    directory: &Directory,
    place: &Place,
    checked: &Metadata,
    _lock: &DirectoryLock,
) -> Result<(), ChannelError> {
    let name = place.name.as_str();
    let found = directory.metadata_of(name).map_err(|error| refusal(place, error))?;
    if found.identity != checked.identity {
        return Err(ChannelError::NotFound);
    }
    directory.unlink(name).map_err(|error| refusal(place, error))
}
