//! What the conformance tests share: a directory for the segments of one run.

use ipc_core::conformance::Fixture;
use ipc_shm::{Capabilities, ShmConfig, Transport};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

/// Hands the directory over to child processes.
const DIRECTORY: &str = "IPC_SHM_CONFORMANCE_DIRECTORY";

/// A namespace under test, in a fresh directory or the one that the parent process made.
pub(crate) struct Segments<T> {
    directory: PathBuf,
    ours: bool,
    at: fn(&Path) -> T,
    config: fn(u64, u64) -> ShmConfig,
    capabilities: Capabilities,
}

impl<T: Transport> Segments<T> {
    /// `config` makes room for so many messages of so many bytes.
    pub(crate) fn new(at: fn(&Path) -> T, config: fn(u64, u64) -> ShmConfig) -> Self {
        let (directory, ours) = match env::var_os(DIRECTORY) {
            Some(directory) => (directory.into(), false),
            None => {
                let directory = PathBuf::from(format!("/dev/shm/ipc-conformance-{}", process::id()));
                fs::create_dir(&directory).expect("a fresh directory");
                (directory, true)
            }
        };
        Self { directory, ours, at, config, capabilities: T::CAPABILITIES }
    }

    /// With what channels of this configuration promise beyond those of their kind.
    #[allow(dead_code, reason = "not every kind depends on its configuration")]
    pub(crate) fn with(mut self, add: fn(Capabilities) -> Capabilities) -> Self {
        self.capabilities = add(self.capabilities);
        self
    }
}

/// Removes the directory when it is dropped, but not recursively: a channel that is left over
/// is to be seen.
impl<T> Drop for Segments<T> {
    fn drop(&mut self) {
        if self.ours {
            fs::remove_dir(&self.directory).expect("every channel was removed");
        }
    }
}

impl<T: Transport<Config = ShmConfig> + 'static> Fixture for Segments<T> {
    type Transport = T;

    fn transport(&self) -> T {
        (self.at)(&self.directory)
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
        vec![(DIRECTORY.into(), self.directory.to_str().expect("ASCII").into())]
    }
}
