//! The words for reaching a limit that isn't one of queues: which one, its value, what raises
//! it, and that `ipc doctor` shows them all: `getrlimit(2)`, `proc_sys_fs(5)`.

use ipc_core::OsError;
use nix::{
    errno::Errno,
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
    },
}

pub(crate) const DESCRIPTORS: Limit =
    Limit::Process { name: "RLIMIT_NOFILE", resource: Resource::RLIMIT_NOFILE, flag: "-n" };
pub(crate) const QUEUED_SIGNALS: Limit =
    Limit::Process { name: "RLIMIT_SIGPENDING", resource: Resource::RLIMIT_SIGPENDING, flag: "-i" };
pub(crate) const FILES: Limit = Limit::Sysctl("fs.file-max");
pub(crate) const INOTIFY_INSTANCES: Limit = Limit::Sysctl("fs.inotify.max_user_instances");
pub(crate) const INOTIFY_WATCHES: Limit = Limit::Sysctl("fs.inotify.max_user_watches");

/// `what` has met this limit; `otherwise` is what helps besides raising it.
pub(crate) fn reached(what: impl fmt::Display, limit: Limit, otherwise: &str) -> String {
    let (name, value, command) = match limit {
        Limit::Sysctl(name) => (name, sysctl(name), format!("sysctl {name}=…")),
        Limit::Process { name, resource, flag } => {
            let value = getrlimit(resource).map_or_else(
                |_| "unknown".into(),
                |(soft, _)| if soft == RLIM_INFINITY { "unlimited".into() } else { soft.to_string() },
            );
            (name, value, format!("ulimit {flag} …"))
        }
    };
    format!(
        "{what}: the limit {name} is {value}, raise it with `{command}`, or {otherwise} (see `ipc doctor`)"
    )
}

/// The failure of a call that has met this limit.
pub(crate) fn failure(call: &'static str, what: &str, limit: Limit, otherwise: &str) -> OsError {
    OsError::new(call, io::Error::other(reached(what, limit, otherwise)))
}

/// The failure of a call that was to give us a descriptor; if there are none left, with the limit
/// that was met.
pub(crate) fn explained(call: &'static str, errno: Errno) -> OsError {
    match no_descriptors(errno) {
        Some(text) => OsError::new(call, io::Error::other(text)),
        None => OsError::new(call, errno),
    }
}

/// The words for an error that says that there are no descriptors left.
pub(crate) fn no_descriptors(errno: Errno) -> Option<String> {
    let (what, limit) = match errno {
        Errno::EMFILE => ("this process has no descriptors left", DESCRIPTORS),
        Errno::ENFILE => ("the system has no open files left", FILES),
        _ => return None,
    };
    Some(reached(what, limit, "close some"))
}

/// Whether this process can't open anything at all: the kernel has one error for several limits.
pub(crate) fn is_out_of_descriptors() -> bool {
    let error = fs::File::open("/").err();
    error.is_some_and(|error| error.raw_os_error() == Some(Errno::EMFILE as i32))
}

fn sysctl(name: &str) -> String {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).map_or("unknown".into(), |value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::explained;
    use nix::errno::Errno;
    use std::fs;

    #[test]
    fn a_system_without_free_files_is_told_the_limit_and_its_value() {
        let value = fs::read_to_string("/proc/sys/fs/file-max").unwrap();
        let text = explained("open", Errno::ENFILE).to_string();
        let expected = format!(
            "open failed: the system has no open files left: the limit fs.file-max is {}, \
             raise it with `sysctl fs.file-max=…`, or close some (see `ipc doctor`)",
            value.trim()
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn any_other_error_stays_as_it_is() {
        let error = explained("open", Errno::EIO);
        assert_eq!(error.error.raw_os_error(), Some(Errno::EIO as i32));
    }
}
