//! Making a segment: unnamed, allocated, filled, and only then given its name.

use super::{
    Anchored, FenceMode, Header, PRESENCE_BYTE, Place,
    file::{lock_directory, refusal},
    open::open_in,
    remove::turn_away,
};
use crate::{
    config::Settings,
    sys::{
        disk, fence,
        file::{self, Cause, Directory, DirectoryLock, TEMPORARY, Unpublished},
        fork::Window,
        ident,
        lock::{self, Mode},
        map::{self, Anchor},
    },
};
use ipc_core::{ChannelError, OsError};

/// Makes a segment, whole, and gives it its name.
pub(crate) fn create(place: &Place, settings: &Settings, window: &Window) -> Result<Anchored, ChannelError> {
    create_with(place, settings, &[], window)
}

/// The same with these bytes at these places in it, behind the header.
pub(crate) fn create_with(
    place: &Place,
    settings: &Settings,
    contents: &[(u64, &[u8])],
    window: &Window,
) -> Result<Anchored, ChannelError> {
    let directory = place.home.open_or_make()?;
    // What a dead transient channel left is swept away; anything else is in the way.
    match open_in(&directory, place, window) {
        Err(ChannelError::NotFound) => {}
        Ok(opened) => {
            turn_away(place, opened, window);
            return Err(ChannelError::AlreadyExists);
        }
        // What squats on the name is no channel that one could use instead.
        Err(error) => return Err(error),
    }
    let mut made = make(&directory, place).map_err(|error| match error {
        ChannelError::NotFound => ChannelError::InvalidConfig(format!(
            "no files can be made in {}: set IPC_DIR to another directory",
            place.directory().display()
        )),
        other => other,
    })?;
    let answer = fill(&made, place, settings, contents).and_then(|header| {
        // Nothing may fail once it has its name.
        let anchor = Anchor::new(&made.file, header.page as usize)?;
        let _lock = lock_directory(&directory, place)?;
        let published = directory.publish(&mut made, place.name.as_str());
        match published.map_err(|error| refusal(place, error))? {
            true => Ok(Anchored::kept(place.clone(), header, anchor)),
            false => Err(ChannelError::AlreadyExists),
        }
    });
    if answer.is_err() {
        made.abandon(&directory);
    }
    answer
}

/// A file that nobody finds, with our presence on it.
fn make(directory: &Directory, place: &Place) -> Result<Unpublished, ChannelError> {
    if let Some(made) = directory.make_unnamed().map_err(|error| refusal(place, error))? {
        lock::try_lock(&made.file, PRESENCE_BYTE, Mode::Shared)?;
        return Ok(made);
    }
    // Under the lock, a temporary name is never seen without the presence of its maker.
    let lock = lock_directory(directory, place)?;
    sweep_temporary_names(directory, &lock);
    let made = directory.make_temporary().map_err(|error| refusal(place, error))?;
    lock::try_lock(&made.file, PRESENCE_BYTE, Mode::Shared)?;
    Ok(made)
}

/// Takes away the temporary names of killed creators, where the file system knows no
/// unnamed files. Whoever is still at it has the presence byte locked.
fn sweep_temporary_names(directory: &Directory, _lock: &DirectoryLock) {
    for name in directory.names().unwrap_or_default() {
        if !name.starts_with(TEMPORARY) {
            continue;
        }
        let dead = directory
            .open_file(&name, true)
            .is_ok_and(|file| lock::try_lock(&file, PRESENCE_BYTE, Mode::Exclusive).unwrap_or(false));
        if dead {
            let _ = directory.unlink(&name);
        }
    }
}

/// Everything but the name: mode, pages, header. What isn't written is zero, as
/// it is to be.
fn fill(
    made: &Unpublished,
    place: &Place,
    settings: &Settings,
    contents: &[(u64, &[u8])],
) -> Result<Header, ChannelError> {
    // The group first: to change it takes set-id bits away, and nobody else may come in between.
    if let Some(gid) = settings.group {
        file::set_group(&made.file, gid).map_err(|error| not_our_group(gid, error))?;
    }
    file::set_mode(&made.file, settings.mode)?;
    let page = ident::page_size_bytes()?;
    let layout = settings.kind.layout(&settings.geometry, page);
    let Some(total_len) = layout.total_len() else {
        return Err(ChannelError::InvalidConfig("the channel would be larger than a file can be".into()));
    };
    let header = Header {
        total_len,
        page,
        kind: settings.kind,
        geometry: settings.geometry,
        pages: settings.pages,
        is_on_disk: !disk::is_in_memory(&made.file)?,
        lifetime: settings.lifetime,
        fences: if fence::register() { FenceMode::Asymmetric } else { FenceMode::Full },
        instance: ident::random()?,
        boot: ident::boot_id(),
        creator_pid: ident::pid(),
        created_unix_ns: ident::unix_time_ns(),
    };
    file::allocate(&made.file, header.total_len).map_err(|error| too_full(place, error, header.total_len))?;
    if settings.pages.huge {
        map::make_huge(&made.file, header.total_len).map_err(|error| no_huge_pages(&error))?;
    }
    file::write_at(&made.file, &header.to_bytes(), 0)?;
    for (at, bytes) in contents {
        file::write_at(&made.file, bytes, *at)?;
    }
    Ok(header)
}

fn not_our_group(gid: u32, error: OsError) -> ChannelError {
    match Cause::of(&error) {
        Cause::NotPermitted => ChannelError::NotPermitted(format!(
            "the channel is to belong to group {gid}, and we, user {}, are not in it: {}",
            ident::euid(),
            error.error
        )),
        _ => error.into(),
    }
}

fn no_huge_pages(error: &OsError) -> ChannelError {
    ChannelError::Unsupported(format!(
        "the system has no huge pages for the channel ({error}): free some memory, see that the kernel has \
         transparent huge pages and the directory is a tmpfs, or make the channel without"
    ))
}

fn too_full(place: &Place, error: OsError, needed: u64) -> ChannelError {
    if Cause::of(&error) != Cause::Full {
        return error.into();
    }
    let directory = place.directory().display();
    let free =
        Directory::free_bytes(place.directory()).map_or("too little".into(), |free| format!("{free} bytes"));
    ChannelError::Limit(format!(
        "the channel needs {needed} bytes and {directory} has {free} free: ask for less capacity, remove channels, \
         or enlarge the file system (`ipc doctor` says which and how)"
    ))
}
