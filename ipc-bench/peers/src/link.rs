//! What a peer has to offer to be measured, and what is in its messages.

use serde_json::Value;
use std::{error::Error, path::PathBuf};

pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Numbered messages to the other process and from it.
pub(crate) trait Link {
    fn send(&mut self, number: u64) -> Fallible<()>;
    /// Waits for a message, which must be `number`.
    fn receive(&mut self, number: u64) -> Fallible<()>;
}

/// What jobs are done on.
pub(crate) trait Lane {
    fn run(&mut self, job: &str, count: u64) -> Fallible<Value>;
}

/// How much of a payload is written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    All,
    First,
    Copied,
}

/// What is in the messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    pub(crate) len_bytes: usize,
    pub(crate) touch: Touch,
}

impl Payload {
    /// Writes the message `number`.
    #[inline]
    pub(crate) fn write(self, space: &mut [u8], number: u64) {
        let pattern = number.to_le_bytes();
        match self.touch {
            Touch::First => space[..1].copy_from_slice(&pattern[..1]),
            Touch::Copied => {
                let last = space.len() - 8;
                space[..8].copy_from_slice(&pattern);
                space[last..].copy_from_slice(&pattern);
            }
            Touch::All => space.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&pattern)),
        }
    }

    /// Reads a message, which must be `number`.
    #[inline]
    pub(crate) fn check(self, message: &[u8], number: u64) -> Fallible<()> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks of 8")) ^ number;
        let is_whole = message.len() == self.len_bytes;
        let difference = match self.touch {
            _ if !is_whole => 1,
            Touch::First => u64::from(message[0] ^ number.to_le_bytes()[0]),
            Touch::Copied => word(&message[..8]) | word(&message[message.len() - 8..]),
            Touch::All => message.chunks_exact(8).fold(0, |sum, bytes| sum | word(bytes)),
        };
        if difference == 0 {
            return Ok(());
        }
        Err(format!("message {number} came as something else, of {} bytes", message.len()).into())
    }
}

/// What this process is to be.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) peer: String,
    pub(crate) is_near: bool,
    pub(crate) payload: Payload,
    /// Whether one message is under way at a time, as in round trips.
    in_turn: bool,
    /// Where files may be, a directory of the block's own.
    pub(crate) directory: PathBuf,
    /// What names in the system have to begin with, so that they are found and removed.
    pub(crate) prefix: String,
    /// For the peers within one process: where its second thread belongs.
    pub(crate) other_processor: Option<usize>,
}

impl Spec {
    /// From what the coordinator says, with the number of the lane.
    pub(crate) fn of(spec: &Value) -> Fallible<(u64, Self)> {
        let member = &spec["member"];
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("a field is missing");
        let lanes = spec["lanes"].as_array().ok_or("there are no lanes")?;
        let (index, lane) = lanes
            .iter()
            .enumerate()
            .find(|(_, lane)| {
                lane["shape"]["Guests"]["index"] == member["index"] && !member["index"].is_null()
            })
            .ok_or("no lane is for this process")?;
        let len_bytes = usize::try_from(lane["message_len_bytes"].as_u64().ok_or("no message length")?)?;
        if len_bytes < 8 || len_bytes % 8 != 0 {
            return Err(format!("messages are multiples of 8 bytes here, not {len_bytes}").into());
        }
        let touch = match lane["touch"].as_str() {
            Some("all") => Touch::All,
            Some("first") => Touch::First,
            Some("copied") => Touch::Copied,
            other => return Err(format!("what is to be touched: {other:?}").into()),
        };
        let its = Self {
            peer: text(&lane["shape"]["Guests"]["peer"])?,
            is_near: member["side"] == "near",
            payload: Payload { len_bytes, touch },
            in_turn: lane["in_turn"].as_bool().ok_or("whether one message is under way at a time")?,
            directory: text(&spec["site"]["directory"])?.into(),
            prefix: format!("{}-{}", text(&spec["site"]["prefix"])?, text(&lane["tag"])?),
            other_processor: spec["other_processor"].as_u64().map(usize::try_from).transpose()?,
        };
        Ok((u64::try_from(index)?, its))
    }

    /// The names of the channels out of this process and into it.
    pub(crate) fn directions(&self) -> [&'static str; 2] {
        if self.is_near { ["there", "back"] } else { ["back", "there"] }
    }

    /// How many messages a channel holds: those of our own rings (`links/floor.rs`), of round trips of
    /// 1 MiB and more the one that is under way.
    pub(crate) fn messages_in_flight(&self) -> usize {
        let len_bytes = self.payload.len_bytes;
        let fitting = match self.payload.touch {
            Touch::First => ((16 << 20) / len_bytes).max(16),
            Touch::All | Touch::Copied if self.in_turn && len_bytes >= 1 << 20 => 1,
            Touch::All | Touch::Copied if len_bytes >= 1 << 20 => 2,
            Touch::All | Touch::Copied => (4 << 20) / len_bytes,
        };
        fitting.min(1024)
    }
}
