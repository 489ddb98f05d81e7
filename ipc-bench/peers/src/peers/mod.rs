//! The peers, each used as its own documentation recommends for speed.
//!
//! tachyon-ipc is not among them yet: its C++ core needs GCC 14 or Clang 17.

mod cloudtoid;
mod iceoryx;
mod ipc_channel;
mod pipe;
mod threads;

use crate::{
    jobs::Two,
    link::{Fallible, Lane, Spec},
};

/// Those that were built.
pub(crate) const NAMES: &[&str] =
    &["iceoryx2", "ipc-channel", "cloudtoid", "pipe", "crossbeam-channel", "rtrb"];

/// Attaches this process. The near one goes first, and must not wait for the far one.
pub(crate) fn attach(spec: &Spec) -> Fallible<Box<dyn Lane>> {
    Ok(match spec.peer.as_str() {
        "iceoryx2" => Box::new(Two::new(iceoryx::Iceoryx::attach(spec)?)),
        "ipc-channel" => Box::new(Two::new(ipc_channel::Bytes::attach(spec)?)),
        "cloudtoid" => Box::new(Two::new(cloudtoid::Queues::attach(spec)?)),
        "pipe" => Box::new(Two::new(pipe::Pipes::attach(spec)?)),
        "crossbeam-channel" => Box::new(threads::Threads::crossbeam(spec)),
        "rtrb" => Box::new(threads::Threads::rtrb(spec)),
        other => return Err(format!("there is no peer {other}: it has {}", NAMES.join(", ")).into()),
    })
}
