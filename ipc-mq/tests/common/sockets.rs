//! Channels of sockets that are one test's alone.

use super::fresh_name;
use ipc_mq::{ChannelName, Transport, Unix, UnixChannel, UnixConfig};
use std::{fs, path::PathBuf};

pub(crate) const MAX_LEN: usize = 1 << 20;

/// A directory of the test's own, which goes with it.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(fresh_name().as_str());
        Self(path)
    }

    pub(crate) fn transport(&self) -> Unix {
        Unix::at(&self.0)
    }

    pub(crate) fn channel(&self) -> UnixChannel {
        self.transport().create(&name(), &UnixConfig::new().max_message_len(MAX_LEN)).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn name() -> ChannelName {
    ChannelName::new("channel").unwrap()
}

pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
