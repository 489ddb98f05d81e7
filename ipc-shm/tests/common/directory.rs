//! The directory for the segments of one run of a conformance test.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

/// Hands the directory over to child processes.
const DIRECTORY: &str = "IPC_SHM_CONFORMANCE_DIRECTORY";

/// A fresh directory, or the one that the parent process made. It is removed when it is
/// dropped, but not recursively: a channel that is left over is to be seen.
pub(crate) struct Directory {
    path: PathBuf,
    ours: bool,
}

impl Directory {
    pub(crate) fn new() -> Self {
        match env::var_os(DIRECTORY) {
            Some(path) => Self { path: path.into(), ours: false },
            None => {
                let path = PathBuf::from(format!("/dev/shm/ipc-conformance-{}", process::id()));
                fs::create_dir(&path).expect("a fresh directory");
                Self { path, ours: true }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What leads child processes to it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        vec![(DIRECTORY.into(), self.path.to_str().expect("ASCII").into())]
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.ours {
            fs::remove_dir(&self.path).expect("every channel was removed");
        }
    }
}
