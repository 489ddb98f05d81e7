//! What `unix:` channels depend on, `socket(7)`, `unix(7)`, `memfd_create(2)`.

use super::{Finding, at_least};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{Resource, getrlimit},
    },
};

/// So many descriptors a program with a few channels needs.
const ENOUGH_DESCRIPTORS: u64 = 256;

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
        descriptors(),
        seals(),
    ]
}

fn descriptors() -> Finding {
    const NAME: &str = "RLIMIT_NOFILE";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Finding::unknown(NAME, "how many files a process can have open can't be told");
    };
    let meaning = "open files of a process: one for each mq: endpoint, two and one for each sender for a unix: \
                   receiver; a user's long unix: messages under way count too";
    let finding = Finding::fine(NAME, soft, meaning);
    if soft >= ENOUGH_DESCRIPTORS { finding } else { finding.short(format!("ulimit -n {}", hard.min(1024))) }
}

/// Tried for real: a sealed file refuses to shrink.
fn seals() -> Finding {
    const NAME: &str = "seals";
    let meaning = "long unix: messages, and memory that a peer can't take back, are sealed files";
    let sealed =
        memfd_create(c"ipc-doctor", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).and_then(|file| {
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
