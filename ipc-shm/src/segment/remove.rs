//! Taking a segment's name away: on request, and when a transient channel has done its
//! duty. Only under the directory's lock, and only while nobody else has the segment open.

use super::{
    Collected, PRESENCE_BYTE, Place,
    file::{
        Attempt, FileMemory, Opened, check_file, in_use, is_empty, lock_directory, patiently, read_header,
        refusal, somebody_is_seen,
    },
};
use crate::{
    kind::Lifetime,
    ring::memory::Memory,
    sys::{
        file::{self, Directory, DirectoryLock, FileKind, Metadata},
        fork::Window,
        lock::{self, Mode},
    },
};
use ipc_core::ChannelError;
use std::sync::atomic::Ordering;

/// Removes a segment that nobody has open.
pub(crate) fn remove(place: &Place, window: &mut Window) -> Result<(), ChannelError> {
    let name = place.name.as_str();
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let lock = patiently(window, |_| lock_directory(&directory, place))?;
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

/// Takes back a segment that was made just now, and that its maker couldn't enter, unless somebody
/// else has it or had a place in it: what they did there is theirs.
pub(crate) fn take_back(place: &Place, instance: [u8; 16], window: &mut Window) -> Result<(), ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let lock = patiently(window, |_| lock_directory(&directory, place))?;
    let file = directory.open_file(place.name.as_str(), true).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    let header = read_header(&file, metadata.len_bytes)?;
    if header.instance != instance {
        return Err(ChannelError::NotFound);
    }
    if !lock::try_lock(&file, PRESENCE_BYTE, Mode::Exclusive)? {
        return Err(in_use(&file, &metadata));
    }
    let (layout, memory) = (header.layout(), FileMemory(&file));
    if layout.ids().any(|id| memory.load(layout.entry(id).attached_unix_ns(), Ordering::Relaxed) != 0) {
        return Ok(());
    }
    unlink_if_same(&directory, place, &metadata, &lock)
}

/// Removes a transient segment if its last user has left it empty. Whatever prevents it
/// loses nothing: the next one to open the channel does the same. False if it is kept by nobody
/// who is seen, so that it may be worth another try.
pub(crate) fn reap(place: &Place, instance: [u8; 16], window: &mut Window) -> bool {
    match patiently(window, |_| try_collect(place, Some(instance))) {
        Ok((Collected::InUse, opened)) => somebody_is_seen(&opened),
        _ => true,
    }
}

/// Removes a segment if it is nothing but what dead users of a transient channel left.
pub(crate) fn collect(place: &Place, window: &mut Window) -> Result<Collected, ChannelError> {
    patiently(window, |_| try_collect(place, None)).map(|(collected, _)| collected)
}

/// One attempt, at this instance if it is to be a particular one. What was opened isn't locked
/// any more.
fn try_collect(
    place: &Place,
    instance: Option<[u8; 16]>,
) -> Result<Attempt<(Collected, Opened)>, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let file = directory.open_file(place.name.as_str(), true).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    check_file(place, &metadata)?;
    let header = read_header(&file, metadata.len_bytes)?;
    if instance.is_some_and(|instance| instance != header.instance) {
        return Err(ChannelError::NotFound);
    }
    let opened = Opened { file, header, metadata };
    let swept = sweep(&directory, place, &opened);
    let _ = lock::unlock(&opened.file, PRESENCE_BYTE);
    Ok(match swept? {
        Attempt::Done(collected) => Attempt::Done((collected, opened)),
        Attempt::InTheWay(error) => Attempt::InTheWay(error),
    })
}

/// Takes away a transient segment that holds nothing and that nobody else has open. If the
/// directory's lock is in the way, our presence is given up; if we may not take names away there,
/// it is as it was, and the segment may be used as it is.
pub(super) fn sweep(
    directory: &Directory,
    place: &Place,
    opened: &Opened,
) -> Result<Attempt<Collected>, ChannelError> {
    if opened.header.lifetime != Lifetime::Transient {
        return Ok(Attempt::Done(Collected::Kept));
    }
    if !lock::try_lock(&opened.file, PRESENCE_BYTE, Mode::Exclusive)? {
        return Ok(Attempt::Done(Collected::InUse));
    }
    // Back to what we came with; nobody can have come in between.
    let back = || lock::try_lock(&opened.file, PRESENCE_BYTE, Mode::Shared);
    if !is_empty(opened) {
        back()?;
        return Ok(Attempt::Done(Collected::HoldsMessages));
    }
    let lock = match lock_directory(directory, place)? {
        Attempt::Done(lock) => lock,
        Attempt::InTheWay(error) => {
            lock::unlock(&opened.file, PRESENCE_BYTE)?;
            return Ok(Attempt::InTheWay(error));
        }
    };
    match unlink_if_same(directory, place, &opened.metadata, &lock) {
        Err(error @ ChannelError::NotPermitted(_)) => {
            back()?;
            Err(error)
        }
        answer => answer.map(|()| Attempt::Done(Collected::Removed)),
    }
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
