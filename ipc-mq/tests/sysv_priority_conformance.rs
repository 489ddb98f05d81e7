//! System V queues with priorities do what every transport must do.
#![cfg(target_os = "linux")]

use ipc_core::conformance::Fixture;
use ipc_mq::{ByPriority, Sysv, SysvConfig};

struct Queues;

impl Fixture for Queues {
    type Transport = Sysv<ByPriority>;

    fn transport(&self) -> Sysv<ByPriority> {
        Sysv::by_priority()
    }

    fn config(&self, depth: usize, max_message_len: usize) -> SysvConfig {
        SysvConfig::new().depth(depth).max_message_len(max_message_len)
    }
}

ipc_core::conformance_main!(Queues, priority, peek);
