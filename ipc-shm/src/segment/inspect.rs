//! Looking at a segment without taking part in it, and without a trace.

use super::{
    Layout, Place, byte_of,
    file::{Blocks, FileMemory, Opened, check_file, read_header, refusal},
    layout::role_of,
};
use crate::{
    config::Settings,
    kind::Kind,
    ring::{Survey, broadcast, latest, memory::Memory, mpmc, rpc, spsc, state},
    sys::{file, fork::Window, lock},
};
use ipc_core::{ChannelError, Participant, Role};
use std::{fs::File, sync::atomic::Ordering};

/// What is known about a segment, read without taking part in it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) settings: Settings,
    pub(crate) uid: u32,
    pub(crate) survey: Survey,
    /// Who takes part, or died with a role and wasn't yet put in order.
    pub(crate) participants: Vec<Participant>,
}

/// Looks at a segment without a trace.
pub(crate) fn inspect(place: &Place, _window: &Window) -> Result<Found, ChannelError> {
    let directory = place.home.open()?.ok_or(ChannelError::NotFound)?;
    let file = directory.open_file(place.name.as_str(), false).map_err(|error| refusal(place, error))?;
    let metadata = file::metadata(&file)?;
    check_file(place, &metadata)?;
    let header = read_header(&file, metadata.len_bytes)?;
    let layout = header.layout();
    let mut participants = participants(&file, &layout)?;
    let opened = Opened { file, header, metadata };
    let survey = survey(&opened, &layout, &mut participants)?;
    Ok(Found {
        settings: opened.settings(),
        uid: opened.metadata.uid,
        survey,
        participants: participants.into_iter().map(|(_, participant)| participant).collect(),
    })
}

/// Who takes part, by id.
fn participants(file: &File, layout: &Layout) -> Result<Vec<(u32, Participant)>, ChannelError> {
    let memory = FileMemory(file);
    let mut found = Vec::new();
    for id in layout.ids() {
        let entry = layout.entry(id);
        match u32::try_from(memory.load(entry.pid(), Ordering::Relaxed)) {
            Ok(0) | Err(_) => {}
            Ok(pid) => {
                let role = role_of(memory.load(entry.role(), Ordering::Relaxed));
                let alive = lock::is_locked(file, byte_of(id))?;
                found.push((id, Participant::new(role, pid, alive)));
            }
        }
    }
    Ok(found)
}

/// What the kind's ring says, and what it says of each participant.
fn survey(
    opened: &Opened,
    layout: &Layout,
    participants: &mut [(u32, Participant)],
) -> Result<Survey, ChannelError> {
    let Opened { file, header, metadata } = opened;
    let memory = FileMemory(file);
    match header.kind {
        Kind::Spsc => {
            let look = spsc::look(&memory, &layout.spsc())?;
            for (_, participant) in participants {
                let receives = participant.role == Role::Receiver;
                participant.position = Some(if receives { look.received } else { look.sent }.count);
                participant.lag = receives.then(|| look.queued_messages());
            }
            Ok(Survey {
                queued: Some(look.queued_messages()),
                sent: Some(look.sent.count),
                ..Survey::default()
            })
        }
        Kind::Broadcast => {
            let geometry = broadcast::Geometry::of_file(layout, &header.geometry);
            Ok(broadcast::survey(&memory, &geometry, participants))
        }
        Kind::Mpmc => {
            let blocks = Blocks::new(file, metadata.len_bytes);
            Ok(mpmc::survey(&blocks, &mpmc::Geometry::of(layout, &header.geometry), participants))
        }
        // Where readers are, only they know.
        Kind::Latest => {
            let survey = latest::survey(&memory, &latest::Geometry::of(layout, &header.geometry));
            let writer = participants.iter_mut().find(|(_, one)| one.role == Role::Writer);
            writer.into_iter().for_each(|(_, writer)| writer.position = survey.sent);
            Ok(survey)
        }
        Kind::Rpc => Ok(rpc::survey(&memory, &rpc::Geometry::of(layout, &header.geometry), participants)),
        Kind::State => Ok(state::survey(&memory, layout, &header.geometry, participants)),
    }
}
