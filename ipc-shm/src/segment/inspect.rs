//! Looking at a segment without taking part in it, and without a trace.

use super::{
    Place, RolePage,
    file::{FileMemory, Opened, check_file, read_header, refusal},
    role_byte,
};
use crate::{
    config::Settings,
    ring::{ledger::Ledger, memory::Memory},
    sys::{file, fork::Window, lock},
};
use ipc_core::{ChannelError, Role};
use std::sync::atomic::Ordering;

/// What is known about a segment, read without taking part in it.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) settings: Settings,
    pub(crate) max_message_len_bytes: u64,
    pub(crate) uid: u32,
    pub(crate) queued_messages: u64,
    /// Who has a role or died with it, and whether it lives.
    pub(crate) holders: Vec<(Role, u32, bool)>,
}

/// Looks at a segment without a trace.
pub(crate) fn inspect(place: &Place, _window: &Window) -> Result<Inspection, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let file = directory.open_file(place.name.as_str(), false).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    check_file(place, &metadata)?;
    let header = read_header(&file, metadata.len_bytes)?;
    let opened = Opened { file, header, metadata };
    let geometry = super::spsc_geometry(&opened.header);
    let memory = FileMemory(&opened.file);
    let (_, received) = Ledger::open(&memory, geometry.receiver_ledger);
    let (_, sent) = Ledger::open(&memory, geometry.sender_ledger);
    let mut holders = Vec::new();
    for role in [Role::Sender, Role::Receiver] {
        let page = RolePage::of(role, opened.header.page as usize);
        let alive = lock::is_locked(&opened.file, role_byte(role))?;
        match u32::try_from(memory.load(page.pid(), Ordering::Relaxed)) {
            Ok(0) | Err(_) => {}
            Ok(pid) => holders.push((role, pid, alive)),
        }
    }
    Ok(Inspection {
        max_message_len_bytes: geometry.max_message_len() as u64,
        uid: opened.metadata.uid,
        queued_messages: sent.count.saturating_sub(received.count),
        settings: opened.settings(),
        holders,
    })
}
