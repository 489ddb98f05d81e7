//! How a queue is made: what `msgget(2)` and `msgctl(2)` settle, and what we keep to.

use super::{registry::Wish, sys::Limits};
use ipc_core::ChannelError;

/// How a queue is made. What is left out is the kernel's default: room for
/// `kernel.msgmnb` bytes (16,384), messages of up to `kernel.msgmax` bytes (8,192), mode
/// 0600. An existing queue may have anything there.
///
/// ```
/// let small = ipc_mq::SysvConfig::new().depth(4).max_message_len(128).mode(0o660);
/// ```
#[derive(Clone, Debug, Default)]
pub struct SysvConfig {
    depth: Option<usize>,
    max_message_len: Option<usize>,
    mode: Option<u32>,
}

impl SysvConfig {
    const DEFAULT_MODE: u32 = 0o600;

    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for this many of the longest messages, at least 1: the kernel counts bytes (and
    /// takes one byte for each empty message). Together at most `kernel.msgmnb` bytes,
    /// unless the process has CAP_SYS_RESOURCE.
    #[must_use]
    pub fn depth(self, messages: usize) -> Self {
        Self { depth: Some(messages), ..self }
    }

    /// The longest message, in bytes: at least 1, at most `kernel.msgmax`. The kernel has no
    /// such limit for each queue: it is kept by senders of this crate.
    #[must_use]
    pub fn max_message_len(self, bytes: usize) -> Self {
        Self { max_message_len: Some(bytes), ..self }
    }

    /// The permission bits, exactly these: 4 is to receive, 2 is to send.
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
            Self { mode: Some(mode), .. } if mode & !0o666 != 0 => {
                format!(
                    "mode {mode:o} has other bits than reading and writing: give one from 0 to 666 (octal)"
                )
            }
            _ => return Ok(()),
        };
        Err(ChannelError::InvalidConfig(wrong))
    }

    /// How a new queue is to be, where the kernel has these limits.
    pub(crate) fn wish(&self, limits: Limits) -> Result<Wish, ChannelError> {
        let max_message_len = self.max_message_len.unwrap_or_else(|| limits.default_max_message_len());
        limits.check_max_message_len(max_message_len)?;
        let mode = self.mode.unwrap_or(Self::DEFAULT_MODE);
        if self.depth.is_none() && self.max_message_len.is_none() {
            return Ok(Wish { max_message_len, mode, capacity_bytes: None });
        }
        let depth = self.depth.unwrap_or_else(|| (limits.capacity_bytes / max_message_len).max(1));
        let capacity_bytes = Some(depth.saturating_mul(max_message_len) as u64);
        Ok(Wish { max_message_len, mode, capacity_bytes })
    }

    /// Whether a queue with these figures is what was asked for.
    pub(crate) fn check(&self, found: Found) -> Result<(), ChannelError> {
        let Found { capacity_bytes, max_message_len, mode } = found;
        let mismatch =
            |setting, asked: String, found: String| Err(ChannelError::Mismatch { setting, asked, found });
        match self.max_message_len {
            Some(asked) if asked != max_message_len => {
                return mismatch("max_message_len", asked.to_string(), max_message_len.to_string());
            }
            _ => {}
        }
        match self.depth {
            Some(asked) if asked.saturating_mul(max_message_len) as u64 != capacity_bytes => {
                let found = capacity_bytes / max_message_len.max(1) as u64;
                return mismatch("depth", asked.to_string(), found.to_string());
            }
            _ => {}
        }
        match self.mode {
            Some(asked) if asked != mode => mismatch("mode", format!("{asked:04o}"), format!("{mode:04o}")),
            _ => Ok(()),
        }
    }
}

/// What an existing queue has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) capacity_bytes: u64,
    pub(crate) max_message_len: usize,
    pub(crate) mode: u32,
}
