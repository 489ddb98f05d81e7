//! Folders that go with the process that made them, however that ends.
//!
//! Who makes one holds a lock on a file in it, which no kill leaves behind. A folder of ours without
//! is that of somebody who was killed, and whoever comes next takes it away: what the file says
//! tells what there was besides.

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// How the names of all of them begin.
pub(crate) const PREFIX: &str = "ipc-bench-";

/// The file that is locked. No channel is called so, and none locks it.
const HELD: &str = ".held";

/// One that is ours. It is taken away when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    held: Flock<File>,
}

impl Folder {
    /// Makes it, in memory where that can be.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let path = base().join(name);
        loop {
            DirBuilder::new().mode(0o700).create(&path)?;
            // Who takes folders away may have come before the lock.
            if let Some(held) = hold(&path, FlockArg::LockExclusive)? {
                return Ok(Self { path, held });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down what there is besides.
    pub(crate) fn note(&mut self, what: &[u8]) -> io::Result<()> {
        self.held.write_all(what)
    }

    /// What was written down by whoever made it.
    pub(crate) fn noted(&mut self) -> io::Result<Vec<u8>> {
        let mut what = Vec::new();
        self.held.read_to_end(&mut what)?;
        Ok(what)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // There is nobody to be told.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Where they are.
fn base() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

/// Those whose makers were killed, ours from now on.
pub(crate) fn of_the_killed() -> impl Iterator<Item = Folder> {
    let entries = fs::read_dir(base()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| {
        let is_named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let is_ours = |found: fs::Metadata| found.is_dir() && found.uid() == geteuid().as_raw();
        is_named && fs::symlink_metadata(path).is_ok_and(is_ours)
    });
    // One that is locked, or can't be, is somebody else's matter.
    paths.filter_map(|path| {
        let held = hold(&path, FlockArg::LockExclusiveNonblock).ok()??;
        Some(Folder { path, held })
    })
}

/// Locks a folder's file; `None` if it isn't there any more when that is done.
fn hold(folder: &Path, how: FlockArg) -> io::Result<Option<Flock<File>>> {
    let path = folder.join(HELD);
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let held = Flock::lock(file, how).map_err(|(_, errno): (_, Errno)| errno)?;
    let is_there = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        found => {
            let (found, locked) = (found?, held.metadata()?);
            (found.dev(), found.ino()) == (locked.dev(), locked.ino())
        }
    };
    Ok(is_there.then_some(held))
}

#[cfg(test)]
mod tests {
    use super::{Folder, PREFIX, base, of_the_killed};
    use std::{fs, process};

    #[test]
    fn what_nobody_holds_is_taken_away_and_nothing_else() {
        let name = |which| format!("{PREFIX}{}-test-{which}", process::id());
        let held = Folder::new(&name("held")).unwrap();
        let left = base().join(name("left"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("something"), "").unwrap();
        let file = base().join(name("file"));
        fs::write(&file, "").unwrap();
        let found: Vec<_> = of_the_killed().map(|folder| folder.path().to_owned()).collect();
        assert!(found.contains(&left) && !found.contains(&file), "{found:?}");
        assert!(held.path().is_dir() && !left.exists() && file.exists());
        fs::remove_file(file).unwrap();
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }
}
