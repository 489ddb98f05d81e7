//! The words for reaching a limit of the system: which one, its value, what raises it, and
//! that `ipc doctor` shows them all: `getrlimit(2)`, `proc_sys_fs(5)`.

use ipc_core::OsError;
use nix::{
    libc,
    sys::resource::{RLIM_INFINITY, Resource, getrlimit},
};
use std::{fmt, fs, io};

/// A limit of the system.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// One that `/proc/sys` shows, by its name there: `fs.file-max`.
    Sysctl(&'static str),
    /// One of this process.
    Process {
        name: &'static str,
        resource: Resource,
        /// What `ulimit` calls it.
        flag: &'static str,
        /// What stands behind its value.
        unit: &'static str,
    },
}

pub(crate) const DESCRIPTORS: Limit =
    Limit::Process { name: "RLIMIT_NOFILE", resource: Resource::RLIMIT_NOFILE, flag: "-n", unit: "" };
pub(crate) const LOCKED_MEMORY: Limit =
    Limit::Process { name: "RLIMIT_MEMLOCK", resource: Resource::RLIMIT_MEMLOCK, flag: "-l", unit: " bytes" };
pub(crate) const FILES: Limit = Limit::Sysctl("fs.file-max");
pub(crate) const INOTIFY_INSTANCES: Limit = Limit::Sysctl("fs.inotify.max_user_instances");
pub(crate) const INOTIFY_WATCHES: Limit = Limit::Sysctl("fs.inotify.max_user_watches");

/// `what` has met this limit; `otherwise` is what helps besides raising it.
pub(crate) fn reached(what: impl fmt::Display, limit: Limit, otherwise: &str) -> io::Error {
    let (name, value, command) = match limit {
        Limit::Sysctl(name) => (name, sysctl(name), format!("sysctl {name}=…")),
        Limit::Process { name, resource, flag, unit } => {
            let value = getrlimit(resource).map_or_else(
                |_| "unknown".into(),
                |(soft, _)| if soft == RLIM_INFINITY { "unlimited".into() } else { format!("{soft}{unit}") },
            );
            (name, value, format!("ulimit {flag} …"))
        }
    };
    io::Error::other(format!(
        "{what}: the limit {name} is {value}, raise it with `{command}`, or {otherwise} (see `ipc doctor`)"
    ))
}

/// The failure of a call that was to give us a descriptor; if there are none left, with the limit
/// that was met.
pub(super) fn explained(error: OsError) -> OsError {
    let (what, limit) = match error.error.raw_os_error() {
        Some(libc::EMFILE) => ("this process has no descriptors left", DESCRIPTORS),
        Some(libc::ENFILE) => ("the system has no open files left", FILES),
        _ => return error,
    };
    OsError::new(error.call, reached(what, limit, "close some"))
}

fn sysctl(name: &str) -> String {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).map_or("unknown".into(), |value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{FILES, Limit, explained};
    use crate::{Channel, ChannelName, ShmConfig, Spsc, Transport, sys::notice};
    use ipc_core::{ChannelError, OsError};
    use nix::{
        errno::Errno,
        sys::resource::{Resource, getrlimit, setrlimit},
        unistd::{Uid, geteuid, setuid},
    };
    use std::{env, fs, io::Write as _, os::fd::AsRawFd, path::PathBuf, process::Command};

    /// Runs `body` in a process of its own, whose limits they are: the test called `test` starts
    /// itself anew, alone, by `command`. What that says, if it didn't come so far.
    fn alone(test: &str, mut command: Command, body: impl FnOnce()) -> Option<String> {
        const ALONE: &str = "IPC_SHM_TEST_ALONE";
        if env::var_os(ALONE).is_some() {
            body();
            return None;
        }
        let test = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
        let output = command.args(["--exact", &test, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || !said.contains("running 1 test"), "{said}");
        (!said.contains("1 passed")).then(|| said.into_owned())
    }

    /// A directory of this process, gone with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let path = env::temp_dir().join(format!("ipc-shm-limit-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn this_program() -> Command {
        Command::new(env::current_exe().unwrap())
    }

    #[track_caller]
    fn assert_told(text: &str, parts: &[&str]) {
        for part in parts.iter().chain(&["raise it with", "(see `ipc doctor`)"]) {
            assert!(text.contains(part), "{text} (expected: {part})");
        }
    }

    fn x() -> ChannelName {
        ChannelName::new("x").unwrap()
    }

    #[test]
    fn a_process_without_descriptors_is_told_the_limit_and_its_value() {
        let test = "a_process_without_descriptors_is_told_the_limit_and_its_value";
        let said = alone(test, this_program(), || {
            let directory = Directory::new();
            let shm = Spsc::at(&directory.0);
            let channel = shm.create(&x(), &ShmConfig::new()).unwrap();
            let free = fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
            let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
            // None for the directory, and then none for the file in it.
            for most in [free, free + 1] {
                setrlimit(Resource::RLIMIT_NOFILE, most, hard).unwrap();
                let answers = [
                    shm.create(&ChannelName::new("y").unwrap(), &ShmConfig::new()).map(drop),
                    shm.open(&x()).map(drop),
                    shm.remove(&x()),
                    channel.sender().map(drop),
                ];
                setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
                for answer in answers {
                    let error = answer.unwrap_err();
                    assert!(matches!(error, ChannelError::Os(_)), "{error:?}");
                    assert_told(&error.to_string(), &[&format!("RLIMIT_NOFILE is {most},"), "`ulimit -n …`"]);
                }
            }
        });
        assert_eq!(said, None);
    }

    #[test]
    fn an_endpoint_that_may_not_lock_its_pages_is_told_the_limit_and_its_value() {
        let test = "an_endpoint_that_may_not_lock_its_pages_is_told_the_limit_and_its_value";
        let said = alone(test, this_program(), || {
            setrlimit(Resource::RLIMIT_MEMLOCK, 4096, 4096).unwrap();
            // Root is bound by no such limit.
            if geteuid().is_root() {
                setuid(Uid::from_raw(100_000 + std::process::id())).unwrap();
            }
            let directory = Directory::new();
            let channel = Spsc::at(&directory.0).create(&x(), &ShmConfig::new().unswapped(true)).unwrap();
            let text = channel.sender().unwrap_err().to_string();
            assert_told(
                &text,
                &["mlock", "RLIMIT_MEMLOCK is 4096 bytes,", "`ulimit -l …`", "without `unswapped`"],
            );
        });
        assert_eq!(said, None);
    }

    /// In a user namespace, whose limits on `what` are its own.
    fn without_inotify(what: &str, test: &str) {
        let mut command = Command::new("unshare");
        let none = format!("echo 0 > /proc/sys/user/max_inotify_{what} && exec \"$0\" \"$@\"");
        command.args(["-r", "sh", "-c", &none]).arg(env::current_exe().unwrap());
        let said = alone(test, command, || {
            let spot = notice::Spot::new(env::temp_dir()).unwrap();
            let text = notice::Watch::new(&spot).unwrap_err().to_string();
            let name = format!("fs.inotify.max_user_{what}");
            let value = fs::read_to_string(format!("/proc/sys/fs/inotify/max_user_{what}")).unwrap();
            assert_told(&text, &[&format!("{name} is {},", value.trim()), &format!("`sysctl {name}=…`")]);
        });
        if let Some(why) = said {
            let why = why.lines().next().unwrap_or_default();
            writeln!(std::io::stdout().lock(), "\nskipped: {test}: no user namespaces here: {why}").unwrap();
        }
    }

    #[test]
    fn a_user_without_inotify_instances_is_told_the_limit_and_its_value() {
        without_inotify("instances", "a_user_without_inotify_instances_is_told_the_limit_and_its_value");
    }

    #[test]
    fn a_user_without_inotify_watches_is_told_the_limit_and_its_value() {
        without_inotify("watches", "a_user_without_inotify_watches_is_told_the_limit_and_its_value");
    }

    #[test]
    fn a_system_without_free_files_is_told_the_limit_and_its_value() {
        let Limit::Sysctl(name) = FILES else { panic!("{FILES:?}") };
        let value = fs::read_to_string("/proc/sys/fs/file-max").unwrap();
        let text = explained(OsError::new("open", Errno::ENFILE)).to_string();
        assert_told(&text, &[&format!("{name} is {},", value.trim()), "`sysctl fs.file-max=…`"]);
    }

    #[test]
    fn any_other_error_stays_as_it_is() {
        let error = explained(OsError::new("open", Errno::EIO));
        assert_eq!(error.error.raw_os_error(), Some(Errno::EIO as i32));
    }
}
