//! How a queue is made: `mq_open(3)`'s mode and attributes, each of them optional.

use super::{limits, sys::Geometry};
use ipc_core::ChannelError;

/// How a queue is made. What is left out is the kernel's default (10 messages of 8192
/// bytes, unless `/proc/sys/fs/mqueue/msg_default` and `msgsize_default` say otherwise) and
/// mode 0600; an existing queue may have anything there.
///
/// ```
/// let small = ipc_mq::MqConfig::new().depth(4).max_message_len(128).mode(0o660);
/// ```
#[derive(Clone, Debug, Default)]
pub struct MqConfig {
    depth: Option<usize>,
    max_message_len: Option<usize>,
    mode: Option<u32>,
}

impl MqConfig {
    const DEFAULT_MODE: u32 = 0o600;

    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for this many messages: at least 1, for an ordinary user at most
    /// `fs.mqueue.msg_max`.
    #[must_use]
    pub fn depth(self, messages: usize) -> Self {
        Self { depth: Some(messages), ..self }
    }

    /// The longest message, in bytes: at least 1, for an ordinary user at most
    /// `fs.mqueue.msgsize_max`.
    #[must_use]
    pub fn max_message_len(self, bytes: usize) -> Self {
        Self { max_message_len: Some(bytes), ..self }
    }

    /// The permission bits, exactly these whatever the process's umask: 4 is to receive,
    /// 2 is to send.
    #[must_use]
    pub fn mode(self, bits: u32) -> Self {
        Self { mode: Some(bits), ..self }
    }

    /// Refuses what no queue can have.
    pub(crate) fn validate(&self) -> Result<(), ChannelError> {
        let wrong = match self {
            Self { depth: Some(0), .. } => "a depth of 0 messages holds none: give at least 1".into(),
            Self { max_message_len: Some(0), .. } => {
                "a maximum message length of 0 bytes carries nothing: give at least 1".into()
            }
            Self { mode: Some(mode), .. } if mode & !0o777 != 0 => {
                format!("mode {mode:o} has other bits than permissions: give one from 0 to 777 (octal)")
            }
            _ => return Ok(()),
        };
        Err(ChannelError::InvalidConfig(wrong))
    }

    /// The permission bits of a new queue.
    pub(crate) fn mode_or_default(&self) -> u32 {
        self.mode.unwrap_or(Self::DEFAULT_MODE)
    }

    /// What to ask the kernel for; `None` leaves all of it to the kernel, who takes both
    /// figures or neither.
    pub(crate) fn geometry(&self) -> Option<Geometry> {
        if self.depth.is_none() && self.max_message_len.is_none() {
            return None;
        }
        Some(self.geometry_or_default())
    }

    /// The figures of a new queue.
    pub(crate) fn geometry_or_default(&self) -> Geometry {
        Geometry {
            depth: self.depth.unwrap_or_else(limits::default_depth),
            max_message_len: self.max_message_len.unwrap_or_else(limits::default_max_message_len),
        }
    }

    /// Whether a queue with these figures is what was asked for.
    pub(crate) fn check_geometry(&self, found: Geometry) -> Result<(), ChannelError> {
        check("depth", self.depth, found.depth, |messages| messages.to_string())?;
        check("max_message_len", self.max_message_len, found.max_message_len, |bytes| bytes.to_string())
    }

    pub(crate) fn asks_for_a_mode(&self) -> bool {
        self.mode.is_some()
    }

    /// Whether a queue with these permission bits is what was asked for.
    pub(crate) fn check_mode(&self, found: u32) -> Result<(), ChannelError> {
        check("mode", self.mode, found, |bits| format!("{bits:04o}"))
    }
}

fn check<T: PartialEq>(
    setting: &'static str,
    asked: Option<T>,
    found: T,
    show: impl Fn(T) -> String,
) -> Result<(), ChannelError> {
    match asked {
        Some(asked) if asked != found => {
            Err(ChannelError::Mismatch { setting, asked: show(asked), found: show(found) })
        }
        _ => Ok(()),
    }
}
