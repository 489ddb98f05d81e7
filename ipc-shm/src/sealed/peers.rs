//! Who may be at the other end: the allow-list, and what the kernel says of a peer.

use super::LinkError;
use crate::sys::{ident, socket::Credentials};
use ipc_core::user;
use std::fmt;

/// Who may be at the other end of a sealed channel: at first, nobody.
///
/// What is compared is what the kernel says of the process that connected, or that listens,
/// and of the one that sends the first message: its effective user and group at that time.
/// Users of other namespaces that have no number in ours appear as user 65534: leave that one
/// out. Where that is what we appear as ourselves and it isn't given to a user, we are nobody, too.
/// A process id may be given to another process later; it narrows down what users and groups allow,
/// and is no means by itself.
///
/// ```
/// use ipc_shm::sealed::Peers;
///
/// let us_and_the_feed = Peers::ourselves().user(1001).group(27);
/// # let _ = us_and_the_feed;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Peers {
    uids: Vec<u32>,
    gids: Vec<u32>,
    pids: Vec<u32>,
}

impl Peers {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Processes of this process's effective user; none where it has no number in this user
    /// namespace, since nobody can tell it from others there.
    pub fn ourselves() -> Self {
        let uids = [ident::euid()].into_iter().filter(|&uid| user::is_somebody(uid)).collect();
        Self { uids, ..Self::new() }
    }

    /// And this user.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.uids.push(uid);
        self
    }

    /// And whoever has this effective group.
    #[must_use]
    pub fn group(mut self, gid: u32) -> Self {
        self.gids.push(gid);
        self
    }

    /// Of all those, this process only, or another one that is named in this way.
    #[must_use]
    pub fn only_process(mut self, pid: u32) -> Self {
        self.pids.push(pid);
        self
    }

    /// Whether this process's user is all who may come.
    pub(super) fn is_ourselves_only(&self) -> bool {
        self.gids.is_empty() && self.uids.iter().all(|&uid| uid == ident::euid())
    }

    /// The peer, if it may be there.
    pub(super) fn admit(&self, found: Credentials) -> Result<Peer, LinkError> {
        let peer = Peer { uid: found.uid, gid: found.gid, pid: u32::try_from(found.pid).unwrap_or(0) };
        let is_known = self.uids.contains(&peer.uid) || self.gids.contains(&peer.gid);
        if is_known && (self.pids.is_empty() || self.pids.contains(&peer.pid)) {
            return Ok(peer);
        }
        let likeness = match user::is_somebody(peer.uid) {
            true => "",
            false => user::likeness(peer.uid, ident::euid()),
        };
        Err(LinkError::NotPermitted(format!("{peer} is at the other end, and {self} may be{likeness}")))
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.uids.iter().map(|uid| format!("user {uid}"));
        let mut names: Vec<_> = users.chain(self.gids.iter().map(|gid| format!("group {gid}"))).collect();
        if names.is_empty() {
            names.push("nobody".into());
        }
        f.write_str(&names.join(" or "))?;
        match self.pids.is_empty() {
            true => Ok(()),
            false => write!(f, " in process {:?}", self.pids),
        }
    }
}

/// Who is at the other end, as the kernel said when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process id, 0 if it has none in our namespace. For people to read.
    pub pid: u32,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}, group {}", self.pid, self.uid, self.gid)
    }
}
