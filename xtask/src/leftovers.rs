//! What the tests leave behind: files in `/dev/shm` and among temporary ones, kernel queues,
//! processes.
//!
//! All are listed before and after. POSIX queues are seen in the namespace of our own
//! ([`crate::isolation`]), else in `/dev/mqueue`; where that isn't mounted either, only the
//! scenarios' own queues are known, by their names, and those look after themselves.

use crate::{
    isolation::Isolation,
    marks::{self, Bearer},
    process::wait_until,
    workspace,
};
use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

const SHARED_MEMORY: &str = "/dev/shm";
const QUEUES: &str = "/dev/mqueue";
const SYSV_QUEUES: &str = "/proc/sysvipc/msg";

/// Remembers what there was at the start.
pub(crate) struct Watch {
    isolation: Isolation,
    temporary: PathBuf,
    before: io::Result<BTreeSet<String>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

impl Watch {
    pub(crate) fn start(isolation: Isolation) -> Self {
        let temporary = env::temp_dir().join(format!("xtask-{}", process::id()));
        // The name is short: there are sockets within.
        let before = make_for_all(&temporary).and_then(|()| list(&isolation, &temporary));
        workspace::set_temporary(&temporary);
        Self { isolation, temporary, before }
    }

    /// What there is now and wasn't at the start. Processes among it are ended.
    pub(crate) fn leftovers(&self) -> io::Result<Vec<String>> {
        // Who has been killed may need a moment until everything of it is gone.
        let deadline = Instant::now() + Duration::from_secs(2);
        wait_until(deadline, || Ok(self.look()?.is_empty().then_some(())))?;
        let found = self.look()?;
        marks::all_bearers().iter().for_each(Bearer::kill);
        Ok(found)
    }

    fn look(&self) -> io::Result<Vec<String>> {
        let before = self.before.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let mut found = added(before, &list(&self.isolation, &self.temporary)?);
        let processes = marks::all_bearers().into_iter();
        found.extend(processes.map(|process| format!("process {}: {}", process.pid, process.command)));
        Ok(found)
    }

    /// By what means the queues are seen.
    pub(crate) fn description(&self) -> String {
        let queues = match &self.isolation {
            #[cfg(target_os = "linux")]
            Isolation::Private { .. } => "all queues of a namespace of our own",
            Isolation::Shared if Path::new(QUEUES).is_dir() => "all queues in /dev/mqueue",
            Isolation::Shared => "queues by the names used (/dev/mqueue isn't mounted)",
        };
        format!("none in /dev/shm, among temporary files, processes, {queues}")
    }
}

/// Makes a folder that every user may use, as they may the system's: some tests act as others.
fn make_for_all(folder: &Path) -> io::Result<()> {
    fs::create_dir(folder)?;
    #[cfg(unix)]
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    Ok(())
}

fn added(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    after.difference(before).cloned().collect()
}

fn list(isolation: &Isolation, temporary: &Path) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let whose = if matches!(isolation, Isolation::Shared) { Whose::Own } else { Whose::Anybodys };
    let test_folders = workspace::target().join("tmp");
    let folders =
        [(Path::new(SHARED_MEMORY), whose), (temporary, Whose::Anybodys), (&test_folders, Whose::Anybodys)];
    for (folder, whose) in folders.into_iter().filter(|(folder, _)| folder.is_dir()) {
        let files = files(folder, whose)?.into_iter().filter(|path| !is_home(path));
        found.extend(files.map(|path| path.display().to_string()));
    }
    found.extend(queues(isolation)?.iter().map(|name| format!("POSIX queue /{name}")));
    if let Ok(table) = fs::read_to_string(SYSV_QUEUES) {
        found.extend(sysv_queues(&table));
    }
    Ok(found)
}

/// Whose files count: where nobody else's can be, tests with other users leave theirs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Anybodys,
}

/// Everything beneath a folder. What vanishes meanwhile isn't there.
fn files(folder: &Path, whose: Whose) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Ok(status) = fs::symlink_metadata(&path) else { continue };
        if whose == Whose::Own && !is_own(&status) {
            continue;
        }
        if status.is_dir() {
            found.extend(files(&path, whose).unwrap_or_default());
        }
        found.push(path);
    }
    Ok(found)
}

#[cfg(unix)]
fn is_own(status: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    status.uid() == nix::unistd::Uid::current().as_raw()
}

#[cfg(not(unix))]
fn is_own(_status: &fs::Metadata) -> bool {
    true
}

/// Whether this is a folder that holds a user's channels, or what finds them, which stays once
/// it is made.
fn is_home(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_uid = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let parent = path.parent().unwrap_or(path);
    let uid = name.strip_prefix("ipc-mq-").or(name.strip_prefix("ipc-"));
    parent == Path::new(SHARED_MEMORY) && uid.is_some_and(is_uid)
}

fn queues(isolation: &Isolation) -> io::Result<Vec<String>> {
    match isolation {
        #[cfg(target_os = "linux")]
        Isolation::Private { queues } => queues.names(),
        Isolation::Shared => match fs::read_dir(QUEUES) {
            Ok(entries) => {
                entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
            }
            Err(_) => Ok(Vec::new()),
        },
    }
}

/// The queues in the table of `sysvipc(7)`: `key msqid …`, one a line under a heading.
fn sysv_queues(table: &str) -> Vec<String> {
    let ids = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    ids.map(|id| format!("System V queue {id}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Whose, added, files, is_home, sysv_queues};
    use std::{collections::BTreeSet, env, fs, path::Path, process};

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_is_new_is_left_over() {
        assert_eq!(added(&set(&["a", "b"]), &set(&["b", "c"])), ["c"]);
        assert!(added(&set(&["a"]), &set(&[])).is_empty());
    }

    #[test]
    fn the_folder_of_a_users_channels_may_stay_but_not_what_is_in_it() {
        assert!(is_home(Path::new("/dev/shm/ipc-1000")) && is_home(Path::new("/dev/shm/ipc-mq-1000")));
        for path in [
            "/dev/shm/ipc-1000/orders",
            "/dev/shm/ipc-mq-1000/sysv:orders",
            "/dev/shm/ipc-bench-17",
            "/dev/shm/ipc-",
            "/tmp/ipc-1000",
        ] {
            assert!(!is_home(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn files_are_found_however_deep() {
        let folder = env::temp_dir().join(format!("xtask-leftovers-{}", process::id()));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/b/c"), "").unwrap();
        let mut found = files(&folder, Whose::Own).unwrap();
        assert_eq!(files(&folder, Whose::Anybodys).unwrap().len(), found.len());
        fs::remove_dir_all(&folder).unwrap();
        found.sort();
        assert_eq!(found, ["a", "a/b", "a/b/c"].map(|path| folder.join(path)));
    }

    #[test]
    fn system_v_queues_are_read_from_the_kernels_table() {
        let table = "       key      msqid perms      cbytes\n 1090519040          3   600           0\n";
        assert_eq!(sysv_queues(table), ["System V queue 3"]);
        assert!(sysv_queues("       key      msqid\n").is_empty());
    }
}
