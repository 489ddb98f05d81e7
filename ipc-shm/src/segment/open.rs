//! Making, opening, inspecting and removing segments.
//!
//! Everything here happens within a fork window: no description that carries a lock can
//! slip into a child.

use super::{
    CONTROL_PAGES, FenceMode, Header, PRESENCE_BYTE, Place, RolePage, header::HEADER_LEN_BYTES, role_byte,
};
use crate::{
    config::{Lifetime, Settings},
    ring::ledger::Ledger,
    ring::memory::Memory,
    sys::{
        fence,
        file::{self, Cause, Directory, DirectoryLock, FileKind, Metadata, TEMPORARY, Unpublished},
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

/// Makes a segment, whole, and gives it its name.
pub(crate) fn create(place: &Place, settings: &Settings, window: &Window) -> Result<Opened, ChannelError> {
    let directory = place.home.open_or_make()?;
    // What a dead transient channel left is swept away; anything else is in the way.
    match open_in(&directory, place, window) {
        Err(ChannelError::NotFound) => {}
        Ok(opened) => {
            turn_away(place, opened, window);
            return Err(ChannelError::AlreadyExists);
        }
        Err(_) if directory.metadata_of(place.name.as_str()).is_ok() => {
            return Err(ChannelError::AlreadyExists);
        }
        Err(error) => return Err(error),
    }
    let mut made = make(&directory, place)?;
    let answer = fill(&made, place, settings).and_then(|header| {
        let _lock = lock_directory(&directory, place)?;
        let published = directory.publish(&mut made, place.name.as_str());
        match published.map_err(|error| refusal(place, error))? {
            true => Ok(header),
            false => Err(ChannelError::AlreadyExists),
        }
    });
    match answer {
        Ok(header) => Ok(Opened { metadata: file::metadata(&made.file)?, file: made.file, header }),
        Err(error) => {
            made.abandon(&directory);
            Err(error)
        }
    }
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

/// Everything but the name: mode, pages, header. What isn't written is zero, as
/// it is to be.
fn fill(made: &Unpublished, place: &Place, settings: &Settings) -> Result<Header, ChannelError> {
    file::set_mode(&made.file, settings.mode)?;
    let page = ident::page_size_bytes()?;
    let data_offset = CONTROL_PAGES * page;
    let header = Header {
        total_len: data_offset + settings.capacity_bytes,
        page,
        data_offset,
        capacity_bytes: settings.capacity_bytes,
        kind: settings.kind,
        lifetime: settings.lifetime,
        fences: if fence::register() { FenceMode::Asymmetric } else { FenceMode::Full },
        instance: ident::random()?,
        boot: ident::boot_id(),
        creator_pid: ident::pid(),
        created_unix_ns: ident::unix_time_ns(),
    };
    file::allocate(&made.file, header.total_len).map_err(|error| too_full(place, error, header.total_len))?;
    made.file.write_all_at(&header.to_bytes(), 0).map_err(|error| OsError::new("pwrite", error))?;
    Ok(header)
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
         or enlarge the file system (`mount -o remount,size=… /dev/shm`)"
    ))
}

/// Opens a segment that exists.
pub(crate) fn open(place: &Place, window: &Window) -> Result<Opened, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    open_in(&directory, place, window)
}

fn open_in(directory: &Directory, place: &Place, _window: &Window) -> Result<Opened, ChannelError> {
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

fn check_file(place: &Place, found: &Metadata) -> Result<(), ChannelError> {
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

fn read_header(file: &File, len_bytes: u64) -> Result<Header, ChannelError> {
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

/// Takes away a transient segment that holds nothing and that nobody else has open. True
/// if it is gone.
fn sweep(directory: &Directory, place: &Place, opened: &Opened) -> Result<bool, ChannelError> {
    if !lock::try_lock(&opened.file, PRESENCE_BYTE, Mode::Exclusive)? {
        return Ok(false);
    }
    if !is_empty(opened) {
        // Back to what we came with; nobody can have come in between.
        lock::try_lock(&opened.file, PRESENCE_BYTE, Mode::Shared)?;
        return Ok(false);
    }
    let lock = lock_directory(directory, place)?;
    unlink_if_same(directory, place, &opened.metadata, &lock)?;
    Ok(true)
}

/// Whether the ring holds nothing: whether the receiver would find a record.
fn is_empty(opened: &Opened) -> bool {
    let geometry = super::spsc_geometry(&opened.header);
    let memory = FileMemory(&opened.file);
    let (_, receiver) = Ledger::open(&memory, geometry.receiver_ledger);
    let place = receiver.position % geometry.capacity;
    memory.load(geometry.data + place as usize, Ordering::Acquire) == 0
}

/// A segment's words read from its file, for those who don't take part. What can't be read
/// is taken for occupied.
#[derive(Debug)]
struct FileMemory<'a>(&'a File);

impl Memory for FileMemory<'_> {
    fn load(&self, offset: usize, _order: Ordering) -> u64 {
        let mut word = [0; 8];
        match self.0.read_exact_at(&mut word, offset as u64) {
            Ok(()) => u64::from_ne_bytes(word),
            Err(_) => u64::MAX,
        }
    }

    fn store(&self, _offset: usize, _value: u64, _order: Ordering) {
        unreachable!("whoever looks at a file doesn't write to it");
    }
}

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
            return Err(in_use(file));
        }
    }
    unlink_if_same(&directory, place, &found, &lock)
}

/// Leaves a segment that was opened and isn't wanted: meanwhile its last user may have
/// left, and taken us for another one.
pub(crate) fn turn_away(place: &Place, opened: Opened, window: &Window) {
    let Opened { file, header, .. } = opened;
    drop(file);
    if header.lifetime == Lifetime::Transient {
        reap(place, header.instance, window);
    }
}

/// Removes a transient segment if its last user has left it empty. Whatever prevents it
/// loses nothing: the next one to open the channel does the same.
pub(crate) fn reap(place: &Place, instance: [u8; 16], _window: &Window) {
    let Ok(Some(directory)) = place.home.open() else { return };
    let Ok(file) = directory.open_file(place.name.as_str(), true) else { return };
    let Ok(metadata) = file::metadata(&file) else { return };
    let Ok(header) = read_header(&file, metadata.len_bytes) else { return };
    let opened = Opened { file, header, metadata };
    if opened.header.lifetime == Lifetime::Transient && opened.header.instance == instance {
        let _ = sweep(&directory, place, &opened);
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

fn lock_directory(directory: &Directory, place: &Place) -> Result<DirectoryLock, ChannelError> {
    directory.lock(PATIENCE)?.ok_or_else(|| {
        ChannelError::Limit(format!(
            "another process has had {} locked for {} s: is it stopped?",
            place.directory().display(),
            PATIENCE.as_secs()
        ))
    })
}

fn in_use(file: &File) -> ChannelError {
    let page = ident::page_size_bytes().unwrap_or(4096) as usize;
    for role in [Role::Sender, Role::Receiver] {
        if lock::is_locked(file, role_byte(role)).unwrap_or(false) {
            return taken(file, page, role);
        }
    }
    ChannelError::Busy { role: Role::User, pid: None }
}

/// The error that names who has a role.
pub(super) fn taken(file: &File, page: usize, role: Role) -> ChannelError {
    let pid = FileMemory(file).load(RolePage::of(role, page).pid(), Ordering::Relaxed);
    ChannelError::Busy { role, pid: u32::try_from(pid).ok().filter(|&pid| pid != 0) }
}

/// What is known about a segment, read without taking part in it.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) settings: Settings,
    pub(crate) max_message_len_bytes: u64,
    pub(crate) uid: u32,
    pub(crate) queued_messages: u64,
    /// Who has a role or died with it, and whether it lives.
    pub(crate) holders: Vec<(Role, u32, bool)>,
}

/// Looks at a segment without a trace.
pub(crate) fn inspect(place: &Place, _window: &Window) -> Result<Inspection, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let file = directory.open_file(place.name.as_str(), false).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    check_file(place, &metadata)?;
    let header = read_header(&file, metadata.len_bytes)?;
    let opened = Opened { file, header, metadata };
    let geometry = super::spsc_geometry(&opened.header);
    let memory = FileMemory(&opened.file);
    let (_, received) = Ledger::open(&memory, geometry.receiver_ledger);
    let (_, sent) = Ledger::open(&memory, geometry.sender_ledger);
    let mut holders = Vec::new();
    for role in [Role::Sender, Role::Receiver] {
        let page = RolePage::of(role, opened.header.page as usize);
        let alive = lock::is_locked(&opened.file, role_byte(role))?;
        match u32::try_from(memory.load(page.pid(), Ordering::Relaxed)) {
            Ok(0) | Err(_) => {}
            Ok(pid) => holders.push((role, pid, alive)),
        }
    }
    Ok(Inspection {
        max_message_len_bytes: geometry.max_message_len() as u64,
        uid: opened.metadata.uid,
        queued_messages: sent.count.saturating_sub(received.count),
        settings: opened.settings(),
        holders,
    })
}

/// What a failed call on a segment's name means.
fn refusal(place: &Place, error: OsError) -> ChannelError {
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
