//! Where a segment is: a directory and a name in it.

use crate::sys::{
    file::{self, Cause, Directory, Identity},
    ident,
};
use ipc_core::{ChannelError, ChannelName, OsError, user};
use std::path::{Path, PathBuf};

/// What a directory's owner may do with it: all, and look up names.
const ALL: u32 = 0o700;
const SEARCH: u32 = 0o100;

/// The directory that segments are kept in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) path: PathBuf,
    /// Ours to make when it is missing, and to be private.
    pub(crate) private: bool,
    /// The other users whose files are taken for channels.
    pub(crate) trusted: Vec<u32>,
}

impl Home {
    /// Whether this user's files are taken for channels.
    pub(crate) fn trusts(&self, uid: u32) -> bool {
        user::is_same(uid, ident::euid()) || self.trusted.contains(&uid)
    }

    /// Opens the directory; `None` if it is the private one and nobody has made it yet.
    pub(crate) fn open(&self) -> Result<Option<Directory>, ChannelError> {
        let answer = match Directory::open(&self.path) {
            Err(error)
                if self.private && Cause::of(&error) == Cause::NotPermitted && self.mend(SEARCH)? =>
            {
                Directory::open(&self.path)
            }
            answer => answer,
        };
        match answer {
            Ok(directory) => {
                match self.private {
                    true => self.check_private(&directory)?,
                    false => self.check_shared(&directory)?,
                }
                Ok(Some(directory))
            }
            Err(error) if Cause::of(&error) == Cause::NotFound && self.private => Ok(None),
            Err(error) => Err(self.refusal(error)),
        }
    }

    /// Opens the directory and makes it if it is the private one.
    pub(crate) fn open_or_make(&self) -> Result<Directory, ChannelError> {
        if let Some(directory) = self.open()? {
            return Ok(directory);
        }
        if file::make_private_directory(&self.path).map_err(|error| self.refusal(error))? {
            self.mend(ALL)?;
        }
        self.open()?.ok_or(ChannelError::NotFound)
    }

    /// Gives us all of a directory of ours of which we lack one of these bits: its maker's umask took
    /// them, and it may have been killed before it could give them back. Whether that was so.
    #[cold]
    fn mend(&self, lacking: u32) -> Result<bool, ChannelError> {
        file::mend_private_directory(&self.path, lacking).map_err(|error| {
            let path = self.path.display();
            ChannelError::NotPermitted(format!(
                "the mode of {path} keeps its owner out ({error}): give it back with `chmod 700 {path}`"
            ))
        })
    }

    /// Somebody else may have been faster to take the name of our directory.
    fn check_private(&self, directory: &Directory) -> Result<(), ChannelError> {
        let found = directory.metadata()?;
        let path = self.path.display();
        let euid = ident::euid();
        if !user::is_same(found.uid, euid) {
            return Err(ChannelError::NotPermitted(format!(
                "{path} belongs to user {}, not to us (user {euid}): remove it or set IPC_DIR to a directory of yours{}",
                found.uid,
                user::likeness(found.uid, euid)
            )));
        }
        if found.mode & 0o022 != 0 {
            return Err(ChannelError::NotPermitted(format!(
                "{path} can be written by others (mode {:03o}): make it private with `chmod 700 {path}`",
                found.mode
            )));
        }
        // Nobody chooses that, since it is of no use; who may only look may have been meant to.
        if found.mode & SEARCH == 0 {
            self.mend(SEARCH)?;
        }
        Ok(())
    }

    /// Where anybody may write and names aren't their owners' alone, anybody can take our
    /// channels' names away, or exchange them. That is up to whose directory it is: us, the
    /// administrator, or somebody who is trusted.
    fn check_shared(&self, directory: &Directory) -> Result<(), ChannelError> {
        const STICKY: u32 = 0o1000;
        let found = directory.metadata()?;
        if found.mode & 0o022 == 0 || found.mode & STICKY != 0 || found.uid == 0 || self.trusts(found.uid) {
            return Ok(());
        }
        let path = self.path.display();
        Err(ChannelError::NotPermitted(format!(
            "{path} belongs to user {}, we are user {}, and others can rename and remove what is in it (mode {:03o}): \
             trust that user, have it do `chmod +t {path}`, or set IPC_DIR to a directory of yours{}",
            found.uid,
            ident::euid(),
            found.mode,
            user::likeness(found.uid, ident::euid())
        )))
    }

    fn refusal(&self, error: OsError) -> ChannelError {
        let path = self.path.display();
        match Cause::of(&error) {
            Cause::NotFound => ChannelError::InvalidConfig(format!(
                "the directory {path} doesn't exist: make it with `mkdir -m 700 {path}`, or unset IPC_DIR"
            )),
            Cause::NotDirectory | Cause::IsSymlink => ChannelError::NotPermitted(format!(
                "{path} is not a directory itself: remove it or set IPC_DIR to a directory"
            )),
            Cause::NotPermitted => ChannelError::NotPermitted(format!("{path}: {}", error.error)),
            _ => ChannelError::Os(error),
        }
    }
}

/// A segment's directory and name.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) home: Home,
    pub(crate) name: ChannelName,
}

impl Place {
    /// The segment's path, for people to read.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path.join(self.name.as_str())
    }

    /// Whether the name still leads to this file. If it can't be told (no descriptors left,
    /// privileges given up, another root) it does: who asks will ask again.
    pub(crate) fn leads_to(&self, target: &Target) -> bool {
        let found = Directory::open(&self.home.path).and_then(|home| home.metadata_of(self.name.as_str()));
        let does = match found {
            Ok(found) => found.identity == target.identity,
            Err(error) => {
                !matches!(Cause::of(&error), Cause::NotFound | Cause::NotDirectory | Cause::IsSymlink)
            }
        };
        does || target.is_out_of_sight()
    }

    /// The directory's path.
    pub(crate) fn directory(&self) -> &Path {
        &self.home.path
    }
}

/// The file that a name led to, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) identity: Identity,
    /// Where paths began then.
    root: Option<Identity>,
}

impl Target {
    /// What was opened just now.
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, root: file::root() }
    }

    /// Whether paths begin elsewhere now (`chroot(2)`, another mount namespace), so that what they
    /// lead to says nothing.
    fn is_out_of_sight(&self) -> bool {
        self.root.zip(file::root()).is_some_and(|(then, now)| then != now)
    }
}
