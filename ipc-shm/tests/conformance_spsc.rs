//! Channels with one sender and one receiver do what every transport must do.

use ipc_core::conformance::Fixture;
use ipc_shm::{ShmConfig, Spsc};
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
        let directory = PathBuf::from(format!("/dev/shm/ipc-shm-conformance-{}", std::process::id()));
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
    type Transport = Spsc;

    fn transport(&self) -> Spsc {
        Spsc::at(&self.directory)
    }

    fn config(&self, depth: usize, max_message_len: usize) -> ShmConfig {
        let record = 8 + max_message_len.next_multiple_of(8);
        ShmConfig::new().capacity_bytes((depth * record + 8) as u64)
    }

    fn large_message_len(&self) -> usize {
        1 << 20
    }

    fn environment(&self) -> Vec<(String, String)> {
        vec![(DIRECTORY.into(), self.directory.to_str().expect("ASCII").into())]
    }
}

ipc_core::conformance_main!(Segments::new(), end_mark, batch_sender, sequenced, pollable, pollable_end_mark);
