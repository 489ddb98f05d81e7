//! Abilities of the kernel that shared memory makes use of.

use super::{Finding, sysctl};
use rustix::thread::{MembarrierQuery, membarrier_query};

pub(super) fn findings() -> Vec<Finding> {
    vec![membarrier(), user_namespaces()]
}

fn membarrier() -> Finding {
    const NAME: &str = "membarrier";
    if membarrier_query().contains(MembarrierQuery::GLOBAL_EXPEDITED) {
        return Finding::fine(
            NAME,
            "global expedited",
            "shm: senders need no fence: who goes to sleep pays for both",
        );
    }
    Finding::fine(
        NAME,
        "no global expedited",
        "shm: channels look again at least each millisecond while they sleep: it costs wake-ups, nothing is lost",
    )
    .short("allow membarrier(2) in the sandbox, or run Linux 4.16 or later with CONFIG_MEMBARRIER")
}

fn user_namespaces() -> Finding {
    const NAME: &str = "user.max_user_namespaces";
    let meaning = "containers have kernel queues of their own: two processes meet in mq: and sysv: channels only \
                   within one IPC namespace";
    match sysctl(NAME) {
        Some(most) => Finding::fine(NAME, most, meaning),
        None => Finding::unknown(NAME, format!("this kernel has no user namespaces; {meaning}")),
    }
}
