//! `ipc ls`: the channels of every transport. What can't be read is listed with its problem.

use super::{
    all_or_done, print,
    stat::{Description, stat, to_json},
};
use crate::{
    address::{Address, Scheme},
    args,
    backend::{self, Backend, Job},
    exit::{Ending, Exit, Failure},
    units::{Size, grouped},
};
use ipc_core::{ChannelError, ChannelInfo, ChannelName};
use ipc_mq::{Sysv, SysvQueue};
use std::fmt::Write as _;

pub(crate) fn run(options: &args::Ls) -> Result<Ending, Failure> {
    let mut channels = Vec::new();
    let mut failures = Vec::new();
    for scheme in Scheme::ALL {
        match backend::with(scheme, Listing) {
            Ok(names) => channels.extend(names.into_iter().filter_map(|name| describe(scheme, name))),
            // No failure of ours, and the other transports' channels are still worth showing.
            Err(ChannelError::Unsupported(why)) => {
                Failure::bare(Exit::Failure, format_args!("{scheme}: {why}")).report();
            }
            Err(error) => failures.push(Failure::listing(scheme, &error)),
        }
    }
    if options.all {
        match Sysv::new().all_queues() {
            Ok(queues) => channels.extend(queues.iter().filter_map(stray)),
            Err(error) => {
                let failure = Failure::listing(Scheme::Sysv, &error);
                // What hides the channels may hide the others too.
                if !failures.contains(&failure) {
                    failures.push(failure);
                }
            }
        }
    }
    print(&if options.json { to_json(&channels) } else { to_table(&channels) })?;
    all_or_done(failures)
}

struct Listing;

impl Job for Listing {
    type Output = Result<Vec<ChannelName>, ChannelError>;

    fn run<B: Backend>(self, backend: &B) -> Self::Output {
        backend.list()
    }
}

/// `None` if it was removed since it was listed.
fn describe(scheme: Scheme, name: ChannelName) -> Option<Description> {
    let address = Address::new(scheme, name);
    match stat(&address) {
        Ok(info) => Some(Description::new(&address, &info)),
        Err(ChannelError::NotFound) => None,
        Err(error) => Some(Description::unknown(&address, Some(error.to_string()))),
    }
}

/// A System V queue that is no channel of ours; `ipc rm --sysv-id` takes its number.
fn stray(queue: &SysvQueue) -> Option<Description> {
    if queue.name.is_some() {
        return None;
    }
    let mut info = ChannelInfo::new("sysv-queue");
    info.key = Some(queue.key);
    info.capacity_bytes = Some(queue.capacity_bytes);
    info.queued_messages = Some(queue.queued_messages);
    info.mode = Some(queue.mode);
    info.uid = Some(queue.uid);
    Some(Description::unnamed(format!("--sysv-id {}", queue.id), &info))
}

const HEADINGS: [&str; 6] = ["ADDRESS", "KIND", "QUEUED", "ROOM", "MODE", "USERS"];
/// Figures are aligned on the right.
const QUEUED: usize = 2;

fn to_table(channels: &[Description]) -> String {
    if channels.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = channels.iter().map(cells).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; HEADINGS.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for row in std::iter::once(HEADINGS.map(String::from).to_vec()).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Writing to a string doesn't fail.
            let _ = match column {
                QUEUED => write!(line, "{cell:>width$}  "),
                _ => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for channel in channels {
        if let Some(problem) = &channel.problem {
            // In a place of their own: they would tear the table's columns apart.
            let _ = writeln!(text, "{}: {problem}", channel.address);
        }
    }
    text
}

fn cells(channel: &Description) -> Vec<String> {
    let dash = || "-".to_owned();
    let room = match (channel.depth, channel.max_message_len_bytes, channel.capacity_bytes) {
        (Some(depth), Some(len), _) => format!("{} × {}", grouped(depth), Size(len)),
        (None, _, Some(bytes)) => Size(bytes).to_string(),
        _ => dash(),
    };
    let users: Vec<_> = channel
        .participants
        .iter()
        .map(|user| format!("{} {}{}", user.role, user.pid, if user.alive { "" } else { " (dead)" }))
        .collect();
    vec![
        channel.address.clone(),
        channel.kind.unwrap_or("unreadable").into(),
        channel.queued_messages.map_or_else(dash, grouped),
        room,
        channel.mode.clone().unwrap_or_else(dash),
        if users.is_empty() { dash() } else { users.join(", ") },
    ]
}

#[cfg(test)]
mod tests {
    use super::{Description, to_table};
    use ipc_core::ChannelInfo;

    #[test]
    fn the_table_is_aligned_and_problems_stand_below() {
        let mut info = ChannelInfo::new("posix-queue");
        info.depth = Some(10);
        info.max_message_len_bytes = Some(8192);
        info.queued_messages = Some(3);
        info.mode = Some(0o600);
        let queue = Description::new(&"mq:orders".parse().unwrap(), &info);
        let damaged = Description::unknown(&"shm:x".parse().unwrap(), Some("the channel is corrupt".into()));
        assert_eq!(
            to_table(&[queue, damaged]),
            "ADDRESS    KIND         QUEUED  ROOM        MODE  USERS\n\
             mq:orders  posix-queue       3  10 × 8 KiB  0600  -\n\
             shm:x      unreadable        -  -           -     -\n\
             shm:x: the channel is corrupt\n"
        );
    }

    #[test]
    fn no_channels_no_table() {
        assert_eq!(to_table(&[]), "");
    }
}
