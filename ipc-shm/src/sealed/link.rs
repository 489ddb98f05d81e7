//! Coming together: one listens, the other connects, each sees who the other one is; then
//! each hands over its memory, and checks what it is given.

use super::{
    LinkError, Peer, Peers, SealedConfig, SealedReceiver, SealedSender,
    greeting::{self, Greeting, Part},
    line::Line,
    memory::{self, PostWords, Unshared},
    post::SharedPost,
};
use crate::{
    segment::FenceMode,
    sys::{
        fence,
        file::{Cause, Directory, FileKind, Identity},
        fork::{Window, assert_no_window},
        ident, limit,
        socket::{self, Connected, Mail, Passed, Socket},
    },
    wait::{overdue, time_left},
};
use ipc_core::{OsError, Unready, Wait};
use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// The longest path of a socket, in bytes.
const MAX_PATH_LEN_BYTES: usize = 107;
/// What the name of a socket begins with that isn't at its own yet.
const TEMPORARY: &str = ".ipc-sealed-";
/// How often we try again for a name that changes hands.
const TRIES: u32 = 100;
/// How long one wait for the peer may last before it is looked whether it was cancelled.
const SLICE: Duration = Duration::from_millis(10);

/// Where peers come: a socket that listens at a path.
///
/// Who may connect at all is said by the permissions of the directories and of the socket: it
/// is made with mode 0600 if only our own user may come, with 0666 otherwise, and whoever
/// connects then is accepted or refused by what the kernel says of it. The socket goes when
/// this is dropped; what a killed one left is replaced by the next.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    path: PathBuf,
    identity: Identity,
    peers: Peers,
}

impl Listener {
    /// Listens at `path`, in a directory that exists, for these peers.
    ///
    /// # Errors
    ///
    /// [`LinkError::AlreadyExists`] if somebody listens there, or something else is there;
    /// [`LinkError::InvalidConfig`] if a socket can't have that path; and what the system says.
    pub fn bind(path: impl AsRef<Path>, peers: Peers) -> Result<Self, LinkError> {
        let path = checked(path.as_ref())?;
        let window = Window::open();
        let (directory, name) = split(&path)?;
        let mode = if peers.is_ourselves_only() { 0o600 } else { 0o666 };
        sweep(&directory, &window);
        let mut refusal = LinkError::AlreadyExists;
        for _ in 0..TRIES {
            let temporary = temporary_name();
            let socket = match socket::listen(&directory, &temporary, mode, &window) {
                Ok(socket) => socket,
                // Another one swept: it was bound, and nobody listened yet.
                Err(error) if is_missing(&error) => {
                    refusal = error.into();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let named = give_name(&directory, &temporary, &name, &window);
            let identity = directory.metadata_of(&name).map(|found| found.identity);
            if !matches!(named, Ok(Named::Yes)) {
                let _ = directory.unlink(&temporary);
            }
            match named? {
                Named::Yes => return Ok(Self { socket, path, identity: identity?, peers }),
                Named::Taken => return Err(LinkError::AlreadyExists),
                Named::Again => {}
            }
        }
        Err(refusal)
    }

    /// The next one that connects.
    ///
    /// # Errors
    ///
    /// [`LinkError::NotPermitted`] if it isn't one of those who may: it was hung up on, and the
    /// next call goes on with the next one. [`LinkError::WouldBlock`], [`LinkError::TimedOut`],
    /// [`LinkError::Cancelled`].
    ///
    /// # Blocking
    ///
    /// As long as `wait` says.
    pub fn accept(&self, wait: Wait<'_>) -> Result<Link, LinkError> {
        if !self.socket.is_ours() {
            return Err(LinkError::Forked);
        }
        let socket = patiently(wait, &self.socket, || Ok(socket::accept(&self.socket, &Window::open())?))?;
        Link::new(socket, &self.peers)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.socket.is_ours() {
            return;
        }
        // Nobody replaces it as long as it listens.
        let Ok((directory, name)) = split(&self.path) else { return };
        if directory.metadata_of(&name).is_ok_and(|found| found.identity == self.identity) {
            let _ = directory.unlink(&name);
        }
    }
}

/// What came of an attempt to give a socket its name.
enum Named {
    Yes,
    /// Somebody listens there, or something else has the name.
    Taken,
    /// The name has changed hands meanwhile.
    Again,
}

/// Gives the socket that listens under a temporary name its own, in place of one that nobody
/// listens at. Without a lock, which whoever may read the directory could keep: a socket listens
/// before it has its name, so one where nobody listens has nobody any more.
fn give_name(
    directory: &Directory,
    temporary: &str,
    name: &str,
    window: &Window,
) -> Result<Named, LinkError> {
    let given = match directory.link_name(temporary, name) {
        Ok(given) => given,
        // Swept before it listened.
        Err(error) if is_missing(&error) => return Ok(Named::Again),
        Err(error) => return Err(error.into()),
    };
    if !given {
        match found_at(directory, name, window) {
            Found::LeftBehind => {}
            Found::Nothing => return Ok(Named::Again),
            Found::InUse => return Ok(Named::Taken),
        }
        match directory.exchange(temporary, name) {
            Ok(()) => {}
            Err(error) if is_missing(&error) => return Ok(Named::Again),
            Err(error) => return Err(error.into()),
        }
        // What was there may have been replaced since we looked, by somebody who listens.
        if matches!(found_at(directory, temporary, window), Found::InUse) {
            directory.exchange(temporary, name)?;
            return Ok(Named::Taken);
        }
    }
    match directory.unlink(temporary) {
        // Whoever sweeps may have been about to.
        Err(error) if !is_missing(&error) => Err(error.into()),
        _ => Ok(Named::Yes),
    }
}

/// What is at a name.
enum Found {
    Nothing,
    /// A socket at which nobody listens.
    LeftBehind,
    /// One at which somebody may listen, or something else.
    InUse,
}

fn found_at(directory: &Directory, name: &str, window: &Window) -> Found {
    match directory.metadata_of(name) {
        Ok(found) if found.kind == FileKind::Socket => {
            match socket::connect(&directory.path_of(name), window) {
                Ok(Connected::Nobody) => Found::LeftBehind,
                _ => Found::InUse,
            }
        }
        Err(error) if is_missing(&error) => Found::Nothing,
        _ => Found::InUse,
    }
}

fn is_missing(error: &OsError) -> bool {
    Cause::of(error) == Cause::NotFound
}

/// A name that no other process or thread takes.
fn temporary_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{TEMPORARY}{:x}-{:x}", ident::pid(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes the sockets of those who were killed before they gave them their names.
fn sweep(directory: &Directory, window: &Window) {
    // What can't be read or removed is in nobody's way.
    let names = directory.names().unwrap_or_default();
    for name in names.iter().filter(|name| name.starts_with(TEMPORARY)) {
        if matches!(found_at(directory, name, window), Found::LeftBehind) {
            let _ = directory.unlink(name);
        }
    }
}

/// Connects to who listens at `path`, if it is one of these.
///
/// # Errors
///
/// [`LinkError::NotFound`] if nobody listens there; [`LinkError::NotPermitted`] if it is
/// somebody else; [`LinkError::WouldBlock`], [`LinkError::TimedOut`], [`LinkError::Cancelled`].
///
/// # Blocking
///
/// As long as `wait` says, if too many others want to connect.
pub fn connect(path: impl AsRef<Path>, peers: &Peers, wait: Wait<'_>) -> Result<Link, LinkError> {
    let path = checked(path.as_ref())?;
    loop {
        // Not in the `match`: the window would be open until its end.
        let connected = socket::connect(&path, &Window::open())?;
        match connected {
            Connected::Yes(socket) => return Link::new(socket, peers),
            Connected::Nobody => return Err(LinkError::NotFound),
            Connected::NotNow => pause(wait)?,
        }
    }
}

/// A connection to a peer that may be there. It becomes one end of a channel.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    peer: Peer,
    peers: Peers,
}

impl Link {
    fn new(socket: Socket, peers: &Peers) -> Result<Self, LinkError> {
        let peer = peers.admit(socket::peer(&socket)?)?;
        Ok(Self { socket, peer, peers: peers.clone() })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Makes this the sending end.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if the peer does what no correct one does, or sends too; the
    /// others.
    ///
    /// # Blocking
    ///
    /// Waits for the peer to do its part, as long as `wait` says.
    pub fn sender(self, config: &SealedConfig, wait: Wait<'_>) -> Result<SealedSender, LinkError> {
        let page = ident::page_size_bytes()?;
        let capacity = config.capacity(page)?;
        let ours = Greeting { capacity, ..Greeting::new(Part::Sends, fence::register(), page) };
        let memory = Unshared::new(ours.part, page, capacity)?;
        self.hand_over(&ours, &memory)?;
        let (theirs, file) = self.be_given(&[ours.part.other()], page, wait)?;
        memory.place_theirs(&memory::check(theirs.part, page, capacity, file)?)?;
        let shared = memory.share();
        let post = post(ours, &shared.ours, theirs, &shared.theirs);
        Ok(SealedSender::new(Line::new(self.socket, post), shared))
    }

    /// Makes this the receiving end.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if the peer does what no correct one does, or has a capacity
    /// that is larger than [`SealedConfig::max_capacity_bytes`]; the others.
    ///
    /// # Blocking
    ///
    /// Waits for the peer to do its part, as long as `wait` says.
    pub fn receiver(self, config: &SealedConfig, wait: Wait<'_>) -> Result<SealedReceiver, LinkError> {
        let page = ident::page_size_bytes()?;
        let ours = Greeting::new(Part::Receives, fence::register(), page);
        let (theirs, file) = self.be_given(&[ours.part.other()], page, wait)?;
        let capacity = acceptable(theirs.capacity, page, config.max_capacity())?;
        let file = memory::check(theirs.part, page, capacity, file)?;
        let memory = Unshared::new(ours.part, page, capacity)?;
        memory.place_theirs(&file)?;
        self.hand_over(&ours, &memory)?;
        let shared = memory.share();
        let post = post(ours, &shared.ours, theirs, &shared.theirs);
        Ok(SealedReceiver::new(Line::new(self.socket, post), shared))
    }

    /// The connection, where there is to be a channel.
    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Makes our memory, and gives it to the peer.
    pub(super) fn hand_over(&self, ours: &Greeting, memory: &Unshared) -> Result<(), LinkError> {
        if !self.socket.is_ours() {
            return Err(LinkError::Forked);
        }
        let file = memory::make(ours.part, ours.page, ours.capacity)?;
        memory.place_ours(&file)?;
        match socket::send(&self.socket, &ours.to_bytes(), Some(file.as_fd()))? {
            true => Ok(()),
            false => Err(LinkError::HungUp),
        }
    }

    /// What a peer says that has one of these parts, and the one descriptor that comes with it.
    pub(super) fn be_given(
        &self,
        parts: &[Part],
        page: u64,
        wait: Wait<'_>,
    ) -> Result<(Greeting, Passed), LinkError> {
        if !self.socket.is_ours() {
            return Err(LinkError::Forked);
        }
        let mut bytes = [0; greeting::LEN_BYTES];
        let letter = patiently(wait, &self.socket, || match socket::receive(&self.socket, &mut bytes)? {
            Mail::Nothing => Ok(None),
            Mail::HungUp => Err(LinkError::HungUp),
            Mail::Letter(letter) => Ok(Some(letter)),
        })?;
        let mut descriptors = letter.descriptors;
        let greeting = match letter.sender {
            // It may be another process that has the socket now.
            Some(sender) => {
                self.peers.admit(sender).and_then(|_| Greeting::parse(&bytes, letter.len, parts, page))
            }
            None => Err(LinkError::NotPermitted("the kernel doesn't say whose greeting it is".into())),
        };
        match greeting {
            Ok(greeting) if descriptors.len() == 1 && !letter.has_lost_some => {
                Ok((greeting, descriptors.remove(0)))
            }
            Ok(_) => Err(wrong_number(descriptors.len(), letter.has_lost_some)),
            Err(error) => Err(error),
        }
    }
}

/// How two ends wake each other.
pub(super) fn post(ours: Greeting, our: &PostWords, theirs: Greeting, their: &PostWords) -> SharedPost {
    let fences = if ours.hears && theirs.hears { FenceMode::Asymmetric } else { FenceMode::Full };
    SharedPost::new(our.clone(), their.clone(), fences)
}

/// Why other than one descriptor is in our hands; `has_lost_some`: there were more of them.
fn wrong_number(count: usize, has_lost_some: bool) -> LinkError {
    if has_lost_some {
        let none_left =
            limit::reached("this process has no descriptors left", limit::DESCRIPTORS, "close some");
        return OsError::new("recvmsg", none_left).into();
    }
    LinkError::Refused(format!("it handed over {count} descriptors with its greeting, not one"))
}

/// A capacity that a peer says, if it can be and isn't too large for us.
pub(super) fn acceptable(capacity: u64, page: u64, max: u64) -> Result<u64, LinkError> {
    if capacity == 0 || capacity % page != 0 {
        return Err(LinkError::Refused(format!(
            "its channel's capacity is {capacity} bytes, which isn't whole pages"
        )));
    }
    if capacity > max {
        return Err(LinkError::Refused(format!(
            "its channel's capacity is {capacity} bytes, and {max} are accepted: raise max_capacity_bytes"
        )));
    }
    Ok(capacity)
}

/// Tries until there is an answer or `wait` is over.
fn patiently<T>(
    wait: Wait<'_>,
    socket: &Socket,
    mut attempt: impl FnMut() -> Result<Option<T>, LinkError>,
) -> Result<T, LinkError> {
    loop {
        if let Some(answer) = attempt()? {
            return Ok(answer);
        }
        socket::until_readable(socket, slice(wait)?);
    }
}

/// A pause before the next try, unless `wait` is over.
fn pause(wait: Wait<'_>) -> Result<(), LinkError> {
    assert_no_window();
    std::thread::sleep(slice(wait)?);
    Ok(())
}

/// How long to wait before the next look at `wait`.
fn slice(wait: Wait<'_>) -> Result<Duration, LinkError> {
    if matches!(wait, Wait::Never) {
        return Err(Unready::WouldBlock.into());
    }
    match overdue(wait) {
        Some(unready) => Err(unready.into()),
        None => Ok(time_left(wait).map_or(SLICE, |left| left.min(SLICE))),
    }
}

/// A path that a socket can have, whatever the working directory is later.
fn checked(path: &Path) -> Result<PathBuf, LinkError> {
    let invalid = |what: String| {
        LinkError::InvalidConfig(format!("{} can't be a socket's path: {what}", path.display()))
    };
    let absolute = std::path::absolute(path).map_err(|error| invalid(error.to_string()))?;
    let bytes = absolute.as_os_str().as_encoded_bytes();
    if bytes.len() > MAX_PATH_LEN_BYTES || bytes.contains(&0) {
        return Err(invalid(format!(
            "it has {} bytes, and it may have {MAX_PATH_LEN_BYTES}, none of them zero",
            bytes.len()
        )));
    }
    Ok(absolute)
}

/// The directory of a path, open, and the name in it.
fn split(path: &Path) -> Result<(Directory, String), LinkError> {
    let parts = path.parent().zip(path.file_name().and_then(|name| name.to_str()));
    let Some((parent, name)) = parts else {
        return Err(LinkError::InvalidConfig(format!("{} names no socket", path.display())));
    };
    // It may be reached by a symbolic link; who says where to listen knows.
    let parent = parent.canonicalize().map_err(|error| OsError::new("realpath", error))?;
    Ok((Directory::open(&parent)?, name.to_owned()))
}
