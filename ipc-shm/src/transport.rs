//! The namespace of segments, and a channel in it.

use crate::{
    config::{Collected, ShmConfig},
    segment::{self, Anchored, Home, Place},
    spsc::{SpscReceiver, SpscSender},
    sys::{file, fork::Window, ident},
};
use ipc_core::{Capabilities, Channel, ChannelError, ChannelInfo, ChannelName, Participant, Role, Transport};
use std::{ffi::OsString, path::PathBuf};

/// The environment variable that names another directory for segments.
pub(crate) const DIRECTORY_VARIABLE: &str = "IPC_DIR";

/// Channels in shared memory: one file each in one directory.
///
/// Unless another directory is chosen, by [`Shm::at`] or the environment variable
/// `IPC_DIR`, it is `/dev/shm/ipc-UID`, which belongs to its user alone.
#[derive(Clone, Debug)]
pub struct Shm {
    home: Home,
}

impl Shm {
    /// The channels in `$IPC_DIR` if that is set and not empty, else in the user's own
    /// directory, which is made at need.
    pub fn new() -> Self {
        match std::env::var_os(DIRECTORY_VARIABLE).filter(|value: &OsString| !value.is_empty()) {
            Some(directory) => Self::at(directory),
            None => Self { home: Home { path: file::default_directory(), private: true } },
        }
    }

    /// The channels in this directory, which must exist. A relative path is taken from the
    /// working directory of now, wherever the process goes later.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        let path = directory.into();
        Self { home: Home { path: std::path::absolute(&path).unwrap_or(path), private: false } }
    }

    /// Removes what killed users of transient channels left: those that are empty and that,
    /// by the kernel's word, nobody has open. Says for each channel what became of it, or
    /// why that can't be told.
    ///
    /// The same happens to a channel when it is opened, so nothing depends on this; it is
    /// for tidiness.
    ///
    /// # Errors
    ///
    /// As [`Transport::list`].
    pub fn gc(&self) -> Result<Vec<(ChannelName, Verdict)>, ChannelError> {
        let names = self.list()?.into_iter();
        Ok(names.map(|name| (name.clone(), segment::collect(&self.place(&name), &Window::open()))).collect())
    }

    fn place(&self, name: &ChannelName) -> Place {
        Place { home: self.home.clone(), name: name.clone() }
    }
}

impl Default for Shm {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport for Shm {
    type Config = ShmConfig;
    type Channel = ShmChannel;

    const SCHEME: &'static str = "shm";
    const CAPABILITIES: Capabilities = Capabilities::NONE
        .with_stores()
        .with_redelivers()
        .with_zero_copy()
        .with_exclusive()
        .with_cross_process();

    fn create(&self, name: &ChannelName, config: &ShmConfig) -> Result<ShmChannel, ChannelError> {
        let settings = config.settings(ident::page_size_bytes()?)?;
        let place = self.place(name);
        let window = Window::open();
        let made = segment::create(&place, &settings, &window)?;
        ShmChannel::new(place, made, &window)
    }

    fn open(&self, name: &ChannelName) -> Result<ShmChannel, ChannelError> {
        let place = self.place(name);
        let window = Window::open();
        let opened = segment::open(&place, &window)?;
        ShmChannel::new(place, opened, &window)
    }

    fn open_or_create(&self, name: &ChannelName, config: &ShmConfig) -> Result<ShmChannel, ChannelError> {
        let page = ident::page_size_bytes()?;
        let settings = config.settings(page)?;
        let place = self.place(name);
        let window = Window::open();
        loop {
            match segment::open(&place, &window) {
                Ok(opened) => {
                    if let Err(error) = config.check(&opened.settings(), page) {
                        segment::turn_away(&place, opened, &window);
                        return Err(error);
                    }
                    return ShmChannel::new(place, opened, &window);
                }
                Err(ChannelError::NotFound) => {}
                Err(error) => return Err(error),
            }
            match segment::create(&place, &settings, &window) {
                // Somebody was faster: theirs is as good.
                Err(ChannelError::AlreadyExists) => {}
                Err(error) => return Err(error),
                Ok(made) => return ShmChannel::new(place, made, &window),
            }
        }
    }

    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        segment::remove(&self.place(name), &Window::open())
    }

    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        let Some(directory) = self.home.open()? else { return Ok(Vec::new()) };
        let mut names: Vec<_> =
            directory.names()?.iter().filter_map(|name| ChannelName::new(name).ok()).collect();
        names.sort();
        Ok(names)
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        let place = self.place(name);
        let found = segment::inspect(&place, &Window::open())?;
        let mut info = ChannelInfo::new(found.settings.kind.as_str());
        info.path = Some(place.path());
        info.capacity_bytes = Some(found.settings.capacity_bytes);
        info.max_message_len_bytes = Some(found.max_message_len_bytes);
        info.queued_messages = Some(found.queued_messages);
        info.mode = Some(found.settings.mode);
        info.uid = Some(found.uid);
        info.participants =
            found.holders.into_iter().map(|(role, pid, alive)| Participant::new(role, pid, alive)).collect();
        Ok(info)
    }
}

/// What became of a channel, or why that can't be told.
type Verdict = Result<Collected, ChannelError>;

/// A channel in shared memory. It counts as a user as long as it lives: nobody removes the
/// channel meanwhile.
#[derive(Debug)]
pub struct ShmChannel {
    segment: Anchored,
}

impl ShmChannel {
    fn new(place: Place, opened: segment::Opened, window: &Window) -> Result<Self, ChannelError> {
        Ok(Self { segment: Anchored::new(place, opened, window)? })
    }
}

impl Channel for ShmChannel {
    type Sender = SpscSender;
    type Receiver = SpscReceiver;

    fn sender(&self) -> Result<SpscSender, ChannelError> {
        SpscSender::new(self.segment.attach(Role::Sender)?)
    }

    fn receiver(&self) -> Result<SpscReceiver, ChannelError> {
        SpscReceiver::new(self.segment.attach(Role::Receiver)?)
    }
}
