//! Making a segment: unnamed, allocated, filled, and only then given its name.

use super::{
    Anchored, FenceMode, Header, PRESENCE_BYTE, Place,
    attachment::turn_away,
    durable,
    file::{Attempt, lock_directory, patiently, refusal},
    open::open_in,
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
pub(crate) fn create(place: &Place, settings: &Settings, window: Window) -> Result<Anchored, ChannelError> {
    create_with(place, settings, &[], window)
}

/// The same with these bytes at these places in it, behind the header.
pub(crate) fn create_with(
    place: &Place,
    settings: &Settings,
    contents: &[(u64, &[u8])],
    mut window: Window,
) -> Result<Anchored, ChannelError> {
    let directory = place.home.open_or_make()?;
    // What a dead transient channel left is swept away; anything else is in the way.
    match open_in(&directory, place, &mut window) {
        Err(ChannelError::NotFound) => {}
        Ok(opened) => {
            turn_away(place, opened, window);
            return Err(ChannelError::AlreadyExists);
        }
        // What squats on the name is no channel that one could use instead.
        Err(error) => return Err(error),
    }
    let (mut made, presence) = make(&directory, place, &mut window).map_err(|error| match error {
        ChannelError::NotFound => ChannelError::InvalidConfig(format!(
            "no files can be made in {}: set IPC_DIR to another directory",
            place.directory().display()
        )),
        other => other,
    })?;
    // What takes long if it is large.
    let filled = window.pause(|| fill(&made, place, settings, contents));
    let answer = filled.and_then(|header| {
        match publish(&directory, &mut made, place, &mut window)? {
            // Nothing may fail once it has its name.
            true => Ok(Anchored::kept(place.clone(), header, presence)),
            false => Err(ChannelError::AlreadyExists),
        }
    });
    if answer.is_err() {
        made.abandon(&directory);
    }
    answer
}

/// Gives the segment its name. False if something has that already.
fn publish(
    directory: &Directory,
    made: &mut Unpublished,
    place: &Place,
    window: &mut Window,
) -> Result<bool, ChannelError> {
    patiently(window, |_| {
        let _lock = match lock_directory(directory, place)? {
            Attempt::Done(lock) => lock,
            Attempt::InTheWay(error) => return Ok(Attempt::InTheWay(error)),
        };
        let published = directory.publish(made, place.name.as_str());
        Ok(Attempt::Done(published.map_err(|error| refusal(place, error))?))
    })
}

/// A file that nobody finds, and our presence on it.
fn make(
    directory: &Directory,
    place: &Place,
    window: &mut Window,
) -> Result<(Unpublished, Anchor), ChannelError> {
    if let Some(made) = directory.make_unnamed(window).map_err(|error| refusal(place, error))? {
        let presence = presence(directory, &made)?;
        return Ok((made, presence));
    }
    // Under the lock, a temporary name is never seen without the presence of its maker.
    let lock = patiently(window, |_| lock_directory(directory, place))?;
    sweep_temporary_names(directory, &lock);
    let mut made = directory.make_temporary(window).map_err(|error| refusal(place, error))?;
    let presence = presence(directory, &made).inspect_err(|_| made.abandon(directory))?;
    Ok((made, presence))
}

/// Our presence on what we make: by a description of its own, since who fills a large segment
/// takes longer than a fork is to wait.
fn presence(directory: &Directory, made: &Unpublished) -> Result<Anchor, ChannelError> {
    let file = match made.reopen(directory) {
        // The umask took from what its owner may.
        Err(error) if Cause::of(&error) == Cause::NotPermitted => {
            file::set_mode(&made.file, 0o600)?;
            made.reopen(directory)?
        }
        answer => answer?,
    };
    lock::try_lock(&file, PRESENCE_BYTE, Mode::Shared)?;
    Ok(Anchor::new(&file, ident::page_size_bytes()? as usize)?)
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
        // The mark of a segment on a disk says so where it matters.
        boot: ident::boot_id().unwrap_or_default(),
        creator_pid: ident::pid(),
        created_unix_ns: ident::unix_time_ns(),
    };
    file::allocate(&made.file, header.total_len).map_err(|error| too_full(place, error, header.total_len))?;
    if settings.pages.huge {
        map::make_huge(&made.file, header.total_len).map_err(|error| no_huge_pages(&error))?;
    }
    file::write_at(&made.file, &header.to_bytes(), 0)?;
    if header.is_on_disk {
        durable::begin(&made.file)?;
    }
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
