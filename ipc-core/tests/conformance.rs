//! The reference transport does what it asks of others.

use ipc_core::{
    conformance::Fixture,
    local::{Local, LocalConfig},
};

struct InProcess(Local);

impl Fixture for InProcess {
    type Transport = Local;

    fn transport(&self) -> Local {
        self.0.clone()
    }

    fn config(&self, depth: usize, max_message_len: usize) -> LocalConfig {
        LocalConfig::new().depth(depth).max_message_len(max_message_len)
    }
}

#[cfg(unix)]
ipc_core::conformance_main!(
    InProcess(Local::new()),
    end_mark,
    batch_sender,
    sequenced,
    redelivered,
    pollable,
    pollable_end_mark,
);

#[cfg(not(unix))]
ipc_core::conformance_main!(InProcess(Local::new()), end_mark, batch_sender, sequenced, redelivered);
