//! Broadcasts in shared memory whose publishers wait for their subscribers do what every
//! transport must do.

use ipc_core::conformance::Fixture;
use ipc_shm::{Broadcast, Capabilities, ShmConfig, Transport, WhenFull};
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
        let directory = PathBuf::from(format!("/dev/shm/ipc-broadcast-conformance-{}", std::process::id()));
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
    type Transport = Broadcast;

    fn transport(&self) -> Broadcast {
        Broadcast::at(&self.directory)
    }

    fn config(&self, depth: usize, max_message_len: usize) -> ShmConfig {
        // Each with a header, and the header behind them.
        let bytes = depth * (max_message_len.next_multiple_of(8) + 16) + 16;
        ShmConfig::new().capacity_bytes(bytes as u64).when_full(WhenFull::Wait)
    }

    fn capabilities(&self) -> Capabilities {
        Broadcast::CAPABILITIES.with_zero_copy()
    }

    fn large_message_len(&self) -> usize {
        1 << 20
    }

    fn environment(&self) -> Vec<(String, String)> {
        vec![(DIRECTORY.into(), self.directory.to_str().expect("ASCII").into())]
    }
}

ipc_core::conformance_main!(Segments::new(), end_mark, pollable, pollable_end_mark, batch_sender, sequenced);
