//! Channels of the newest value do what every transport must do.

use ipc_core::conformance::Fixture;
use ipc_shm::{Latest, ShmConfig};
use std::{env, fs, path::PathBuf};

/// Hands the directory over to child processes.
const DIRECTORY: &str = "IPC_SHM_CONFORMANCE_DIRECTORY";

struct Segments {
    directory: PathBuf,
    ours: bool,
}

impl Segments {
    /// A fresh directory, or the one that the parent process made.
    fn new() -> Self {
        if let Some(directory) = env::var_os(DIRECTORY) {
            return Self { directory: directory.into(), ours: false };
        }
        let directory = PathBuf::from(format!("/dev/shm/ipc-latest-conformance-{}", std::process::id()));
        fs::create_dir(&directory).expect("a fresh directory");
        Self { directory, ours: true }
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        // Not recursively: a channel that is left over is to be seen.
        if self.ours {
            fs::remove_dir(&self.directory).expect("every channel was removed");
        }
    }
}

impl Fixture for Segments {
    type Transport = Latest;

    fn transport(&self) -> Latest {
        Latest::at(&self.directory)
    }

    fn config(&self, _depth: usize, max_message_len: usize) -> ShmConfig {
        ShmConfig::new().max_message_len(max_message_len as u64)
    }

    fn large_message_len(&self) -> usize {
        1 << 20
    }

    fn environment(&self) -> Vec<(String, String)> {
        vec![(DIRECTORY.into(), self.directory.to_str().expect("ASCII").into())]
    }
}

ipc_core::conformance_main!(Segments::new(), end_mark, sequenced, pollable, pollable_end_mark);
