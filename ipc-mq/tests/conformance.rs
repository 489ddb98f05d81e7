//! POSIX queues do what every transport must do.
#![cfg(target_os = "linux")]

use ipc_core::conformance::Fixture;
use ipc_mq::{Mq, MqConfig};

struct Queues;

impl Fixture for Queues {
    type Transport = Mq;

    fn transport(&self) -> Mq {
        Mq::new()
    }

    fn config(&self, depth: usize, max_message_len: usize) -> MqConfig {
        MqConfig::new().depth(depth).max_message_len(max_message_len)
    }
}

ipc_core::conformance_main!(Queues, priority, pollable);
