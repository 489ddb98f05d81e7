//! What `unix:` channels depend on, `socket(7)`, `unix(7)`, `memfd_create(2)`.

use super::{Finding, at_least};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use std::fs;

pub(super) fn findings() -> Vec<Finding> {
    vec![
        at_least(
            "net.core.wmem_default",
            64 * 1024,
            "what a sender of a unix: channel has under way at most, in bytes, unless --capacity says otherwise",
        ),
        at_least(
            "net.core.wmem_max",
            64 * 1024,
            "half of the greatest --capacity of a unix: channel, in bytes",
        ),
        at_least(
            "net.core.somaxconn",
            128,
            "how many senders wait at most until a unix: receiver takes them in",
        ),
        seals(),
        huge_pages(),
    ]
}

/// Tried for real: a sealed file refuses to shrink.
fn seals() -> Finding {
    const NAME: &str = "seals";
    let meaning = "long unix: messages, and memory that a peer can't take back, are sealed files";
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    // As channels make them: `vm.memfd_noexec` may refuse others, and Linux before 6.3 these.
    let not_a_program = MFdFlags::from_bits_retain(nix::libc::MFD_NOEXEC_SEAL);
    let file = match memfd_create(c"ipc-doctor", flags | not_a_program) {
        Err(Errno::EINVAL) => memfd_create(c"ipc-doctor", flags),
        answer => answer,
    };
    let sealed = file.and_then(|file| {
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE))
    });
    match sealed {
        Ok(_) => Finding::fine(NAME, "work", meaning),
        Err(errno) => Finding::missing(
            NAME,
            format!("the system refuses them ({}): {meaning}", errno.desc()),
            "allow memfd_create and fcntl(F_ADD_SEALS) in the sandbox",
        ),
    }
}

/// Channels ask for them by a call that only `deny` forbids.
fn huge_pages() -> Finding {
    const NAME: &str = "transparent_hugepage/shmem_enabled";
    const PATH: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let meaning = "unix: messages of 8 MiB and more are put into huge pages where there are free ones, \
                   which takes a third of the time, unless this is \"deny\"";
    let text = fs::read_to_string(PATH).ok();
    match text.as_deref().and_then(chosen) {
        Some("deny") => Finding::fine(NAME, "deny", meaning).short(format!("echo never > {PATH}")),
        Some(choice) => Finding::fine(NAME, choice, meaning),
        None => Finding::unknown(NAME, format!("this kernel has none: {meaning}")),
    }
}

/// The one in brackets: `always [never] deny`.
fn chosen(choices: &str) -> Option<&str> {
    choices.split_whitespace().find_map(|choice| choice.strip_prefix('[')?.strip_suffix(']'))
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn the_choice_is_the_one_in_brackets() {
        assert_eq!(chosen("always within_size [advise] never deny force\n"), Some("advise"));
        assert_eq!(chosen("[deny]"), Some("deny"));
        assert_eq!(chosen("always never"), None);
    }
}
