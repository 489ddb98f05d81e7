//! `ipc stat`: what is known about a channel, and the form in which `ls` shows it too.

use super::print;
use crate::{
    address::Address,
    args,
    backend::{self, Backend, Job},
    exit::{Ending, Failure},
    units::{Size, Span, counted, grouped},
};
use ipc_core::{ChannelError, ChannelInfo};
use serde::Serialize;
use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(crate) fn run(options: &args::Stat) -> Result<Ending, Failure> {
    let address = &options.address;
    let answer = backend::trusting(address, &options.trust, Stating(address))?;
    let info = answer.map_err(|error| Failure::channel(address, &error))?;
    let description = Description::new(address, &info);
    print(&if options.json { to_json(&description) } else { description.to_text() })
}

/// What the backend knows about a channel.
pub(crate) fn stat(address: &Address) -> Result<ChannelInfo, ChannelError> {
    backend::with(address.scheme, Stating(address))
}

struct Stating<'a>(&'a Address);

impl Job for Stating<'_> {
    type Output = Result<ChannelInfo, ChannelError>;

    fn run<B: Backend>(self, backend: &B) -> Self::Output {
        backend.stat(&self.0.name)
    }
}

/// A channel, described. The keys of `--json` are these names in this order: scripts rely on
/// them, so all are always there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Description {
    pub(crate) address: String,
    pub(crate) kind: Option<&'static str>,
    pub(crate) path: Option<String>,
    /// What the kernel finds it by, where that isn't its name: msgget(2) takes it.
    pub(crate) key: Option<u32>,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) depth: Option<u64>,
    pub(crate) max_message_len_bytes: Option<u64>,
    pub(crate) queued_messages: Option<u64>,
    pub(crate) sent_messages: Option<u64>,
    pub(crate) lost_messages: Option<u64>,
    pub(crate) redelivered_messages: Option<u64>,
    /// Of what is no channel but state: `free`, `held`.
    pub(crate) condition: Option<String>,
    /// Octal, as chmod(1) takes it: `0600`.
    pub(crate) mode: Option<String>,
    pub(crate) uid: Option<u32>,
    pub(crate) participants: Vec<Participant>,
    /// Why nothing is known; only in lists, and only there if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Participant {
    pub(crate) role: String,
    pub(crate) pid: u32,
    pub(crate) alive: bool,
    pub(crate) position: Option<u64>,
    pub(crate) lag: Option<u64>,
    pub(crate) held: Option<u64>,
    pub(crate) held_since_unix_ns: Option<u64>,
    pub(crate) lost: Option<u64>,
}

impl Participant {
    /// For people: who it is, and what is known of it that isn't nothing.
    fn to_text(&self) -> String {
        let mut text = format!("process {}{}", self.pid, if self.alive { "" } else { " (dead)" });
        if let Some(position) = self.position {
            text += &format!(", at {}", grouped(position));
        }
        for (what, number) in [("behind", self.lag), ("held", self.held), ("lost", self.lost)] {
            if let Some(number) = number.filter(|&number| number > 0) {
                text += &format!(", {} {what}", grouped(number));
            }
        }
        if let Some(since) = self.held_since_unix_ns {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            text += &format!(" for {}", Span(now.saturating_sub(Duration::from_nanos(since))));
        }
        text
    }
}

impl Description {
    pub(crate) fn new(address: &Address, info: &ChannelInfo) -> Self {
        Self::unnamed(address.to_string(), info)
    }

    /// What is called otherwise than by an address.
    pub(crate) fn unnamed(address: String, info: &ChannelInfo) -> Self {
        let participants = info.participants.iter().map(|participant| Participant {
            role: participant.role.to_string(),
            pid: participant.pid,
            alive: participant.alive,
            position: participant.position,
            lag: participant.lag,
            held: participant.held,
            held_since_unix_ns: participant.held_since_unix_ns,
            lost: participant.lost,
        });
        Self {
            address,
            kind: Some(info.kind),
            path: info.path.as_ref().map(|path| path.to_string_lossy().into_owned()),
            key: info.key,
            capacity_bytes: info.capacity_bytes,
            depth: info.depth,
            max_message_len_bytes: info.max_message_len_bytes,
            queued_messages: info.queued_messages,
            sent_messages: info.sent_messages,
            lost_messages: info.lost_messages,
            redelivered_messages: info.redelivered_messages,
            condition: info.condition.clone(),
            mode: info.mode.map(|mode| format!("{mode:04o}")),
            uid: info.uid,
            participants: participants.collect(),
            problem: None,
        }
    }

    /// A channel of which nothing is known but why.
    pub(crate) fn unknown(address: &Address, problem: Option<String>) -> Self {
        Self {
            address: address.to_string(),
            kind: None,
            path: None,
            key: None,
            capacity_bytes: None,
            depth: None,
            max_message_len_bytes: None,
            queued_messages: None,
            sent_messages: None,
            lost_messages: None,
            redelivered_messages: None,
            condition: None,
            mode: None,
            uid: None,
            participants: Vec::new(),
            problem,
        }
    }

    /// For people: a line for each thing that is known.
    fn to_text(&self) -> String {
        let bytes = |bytes: u64| match bytes {
            ..1024 => counted(bytes, "byte"),
            _ => format!("{} ({} bytes)", Size(bytes), grouped(bytes)),
        };
        let lines = [
            ("address", Some(self.address.clone())),
            ("kind", self.kind.map(Into::into)),
            ("path", self.path.clone()),
            ("key", self.key.map(|key| format!("{key:#010x}"))),
            ("capacity", self.capacity_bytes.map(bytes)),
            ("depth", self.depth.map(|depth| counted(depth, "message"))),
            ("longest message", self.max_message_len_bytes.map(bytes)),
            ("queued", self.queued_messages.map(|queued| counted(queued, "message"))),
            ("sent", self.sent_messages.map(|sent| counted(sent, "message"))),
            ("lost", self.lost_messages.map(|lost| counted(lost, "message"))),
            ("redelivered", self.redelivered_messages.map(|again| counted(again, "message"))),
            ("condition", self.condition.clone()),
            ("mode", self.mode.clone()),
            ("owner", self.uid.map(|uid| format!("uid {uid}"))),
        ];
        let mut text = String::new();
        let mut line = |label: &str, value: &str| {
            // Writing to a string doesn't fail.
            let _ = writeln!(text, "{label:<15}  {value}");
        };
        for (label, value) in lines {
            if let Some(value) = value {
                line(label, &value);
            }
        }
        for participant in &self.participants {
            line(&participant.role, &participant.to_text());
        }
        text
    }
}

/// JSON for people and programs: indented, a newline at its end.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    // Only maps with other keys than strings and failing writers fail.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::{Description, to_json};
    use crate::address::Address;
    use ipc_core::ChannelInfo;

    fn address() -> Address {
        "shm:orders".parse().unwrap()
    }

    #[test]
    fn all_keys_are_there_whatever_is_known() {
        let json = to_json(&Description::new(&address(), &ChannelInfo::new("spsc")));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "address",
            "capacity_bytes",
            "condition",
            "depth",
            "key",
            "kind",
            "lost_messages",
            "max_message_len_bytes",
            "mode",
            "participants",
            "path",
            "queued_messages",
            "redelivered_messages",
            "sent_messages",
            "uid",
        ];
        assert_eq!(keys, expected);
        assert!(value["depth"].is_null());
        assert_eq!(value["participants"], serde_json::json!([]));
    }

    #[test]
    fn what_is_not_known_takes_no_line() {
        let mut info = ChannelInfo::new("spsc");
        info.capacity_bytes = Some(1 << 20);
        info.mode = Some(0o600);
        assert_eq!(
            Description::new(&address(), &info).to_text(),
            "address          shm:orders\n\
             kind             spsc\n\
             capacity         1 MiB (1,048,576 bytes)\n\
             mode             0600\n"
        );
    }
}
