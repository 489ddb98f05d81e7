//! Sequenced-packet sockets do what every transport must do that stores nothing, and have
//! descriptors and credentials.
#![cfg(target_os = "linux")]

use ipc_core::conformance::Fixture;
use ipc_mq::{Unix, UnixConfig};

struct Sockets;

impl Fixture for Sockets {
    type Transport = Unix;

    fn transport(&self) -> Unix {
        Unix::new()
    }

    /// The room is the kernel's least, which is more than what any case asks for.
    fn config(&self, _depth: usize, max_message_len: usize) -> UnixConfig {
        UnixConfig::new().max_message_len(max_message_len).buffer_bytes(64 * 1024)
    }

    /// Beyond what goes in a packet.
    fn large_message_len(&self) -> usize {
        300_000
    }
}

ipc_core::conformance_main!(Sockets, pollable, descriptors, credentials);
