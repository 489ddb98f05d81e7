//! System V queues do what every transport must do, and have types and a way to look.
#![cfg(target_os = "linux")]

use ipc_core::conformance::Fixture;
use ipc_mq::{Sysv, SysvConfig};

struct Queues;

impl Fixture for Queues {
    type Transport = Sysv;

    fn transport(&self) -> Sysv {
        Sysv::new()
    }

    fn config(&self, depth: usize, max_message_len: usize) -> SysvConfig {
        SysvConfig::new().depth(depth).max_message_len(max_message_len)
    }
}

ipc_core::conformance_main!(Queues, selective, peek);
