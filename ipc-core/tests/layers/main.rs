//! The traits bear layers: each file is one, written against the traits alone, generic over
//! the endpoints and compiled by stable Rust without a trick. They run on the reference
//! transport.

mod asynchronous;
mod filter;
mod metered;
mod retry;
mod select;
mod threads;
mod typed;

use ipc_core::{
    Channel, ChannelName, Transport,
    local::{Local, LocalConfig, LocalReceiver, LocalSender},
};

/// Both ends of a new channel with room for this many messages of up to 64 bytes.
fn channel(depth: usize) -> (LocalSender, LocalReceiver) {
    let name = ChannelName::new("layers").expect("a valid name");
    let config = LocalConfig::new().depth(depth).max_message_len(64);
    let channel = Local::new().create(&name, &config).expect("a namespace of its own");
    (channel.sender().expect("a sender"), channel.receiver().expect("a receiver"))
}
