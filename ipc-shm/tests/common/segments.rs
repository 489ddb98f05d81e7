//! What the conformance tests share: the segments of one run.

#[path = "directory.rs"]
mod directory;

use directory::Directory;
use ipc_core::conformance::Fixture;
use ipc_shm::{Capabilities, ShmConfig, Transport};
use std::path::Path;

/// A namespace under test.
pub(crate) struct Segments<T> {
    directory: Directory,
    at: fn(&Path) -> T,
    config: fn(u64, u64) -> ShmConfig,
    capabilities: Capabilities,
}

impl<T: Transport> Segments<T> {
    /// `config` makes room for so many messages of so many bytes.
    pub(crate) fn new(at: fn(&Path) -> T, config: fn(u64, u64) -> ShmConfig) -> Self {
        Self { directory: Directory::new(), at, config, capabilities: T::CAPABILITIES }
    }

    /// With what channels of this configuration promise beyond those of their kind.
    #[allow(dead_code, reason = "not every kind depends on its configuration")]
    pub(crate) fn with(mut self, add: fn(Capabilities) -> Capabilities) -> Self {
        self.capabilities = add(self.capabilities);
        self
    }
}

impl<T: Transport<Config = ShmConfig> + 'static> Fixture for Segments<T> {
    type Transport = T;

    fn transport(&self) -> T {
        (self.at)(self.directory.path())
    }

    fn config(&self, depth: usize, max_message_len: usize) -> ShmConfig {
        (self.config)(depth as u64, max_message_len as u64)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn large_message_len(&self) -> usize {
        1 << 20
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.directory.environment()
    }
}
