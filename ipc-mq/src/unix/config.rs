//! How a channel is made; kept in its file.

use crate::place::values;
use ipc_core::ChannelError;

/// How a channel is made. What is left out is: messages of up to 1 GiB, the system's socket
/// buffer (`net.core.wmem_default`), mode 0600, and its own user as the only one allowed.
///
/// ```
/// let config = ipc_mq::UnixConfig::new().max_message_len(1 << 20).allow_uids([1000, 1001]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct UnixConfig {
    max_message_len: Option<usize>,
    buffer_bytes: Option<usize>,
    mode: Option<u32>,
    allowed_uids: Option<Vec<u32>>,
}

impl UnixConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The longest message, in bytes: 1 byte to 1 TiB. It bounds the memory that a sender can
    /// make a receiver hold.
    #[must_use]
    pub fn max_message_len(self, bytes: usize) -> Self {
        Self { max_message_len: Some(bytes), ..self }
    }

    /// How much of one sender's messages may be under way, in bytes with the kernel's
    /// bookkeeping (about 1 KiB for a short message): at least 4096, at most twice
    /// `net.core.wmem_max`, beyond which it is cut. Messages above 64 KiB count as short ones.
    #[must_use]
    pub fn buffer_bytes(self, bytes: usize) -> Self {
        Self { buffer_bytes: Some(bytes), ..self }
    }

    /// The permission bits of its files, exactly these whatever the process's umask: 4 is to
    /// find the channel, 2 is to connect to it. Its owner needs both.
    #[must_use]
    pub fn mode(self, bits: u32) -> Self {
        Self { mode: Some(bits), ..self }
    }

    /// Whose messages are taken, by effective user id; the channel's own user has to be
    /// named too. Others are refused before anything of theirs is looked at.
    #[must_use]
    pub fn allow_uids(self, uids: impl IntoIterator<Item = u32>) -> Self {
        let mut uids: Vec<u32> = uids.into_iter().collect();
        uids.sort_unstable();
        uids.dedup();
        Self { allowed_uids: Some(uids), ..self }
    }

    /// Refuses what no channel can have.
    pub(crate) fn validate(&self) -> Result<(), ChannelError> {
        let wrong = match self {
            Self { max_message_len: Some(0), .. } => {
                "a maximum message length of 0 bytes carries nothing: give at least 1".into()
            }
            Self { max_message_len: Some(len), .. } if !Settings::is_max_message_len(*len) => {
                format!(
                    "a maximum message length of {len} bytes is too large: the most is {} (1 TiB)",
                    Settings::MOST_MESSAGE_LEN
                )
            }
            Self { buffer_bytes: Some(bytes), .. } if *bytes < 4096 => {
                format!("a buffer of {bytes} bytes is less than the kernel's least: give at least 4096")
            }
            Self { mode: Some(mode), .. } if mode & !0o666 != 0 => {
                format!(
                    "mode {mode:o} has other bits than reading and writing: give one from 0 to 666 (octal)"
                )
            }
            // Neither could it be used nor removed.
            Self { mode: Some(mode), .. } if mode & 0o600 != 0o600 => {
                format!("mode {mode:03o} doesn't let its owner read and write: give 600 or more")
            }
            // More would not fit the channel's file.
            Self { allowed_uids: Some(uids), .. } if uids.len() > Settings::MOST_UIDS => {
                format!("{} users are allowed, at most {} can be", uids.len(), Settings::MOST_UIDS)
            }
            _ => return Ok(()),
        };
        Err(ChannelError::InvalidConfig(wrong))
    }

    /// All settings of a new channel of this user's.
    pub(crate) fn settings(&self, socket: u64, uid: u32) -> Settings {
        let ours = || vec![uid];
        Settings {
            socket,
            max_message_len: self.max_message_len.unwrap_or(Settings::DEFAULT_MAX_MESSAGE_LEN),
            buffer_bytes: self.buffer_bytes.unwrap_or(0),
            allowed_uids: self.allowed_uids.clone().unwrap_or_else(ours),
        }
    }

    pub(crate) fn mode_or_default(&self) -> u32 {
        self.mode.unwrap_or(0o600)
    }

    /// Whether a channel with these settings is what was asked for.
    pub(crate) fn check(&self, found: &Settings, mode: u32) -> Result<(), ChannelError> {
        check("max_message_len", self.max_message_len, found.max_message_len)?;
        check("buffer_bytes", self.buffer_bytes, found.buffer_bytes)?;
        let shown = |uids: &Vec<u32>| format!("{uids:?}");
        check("allow_uids", self.allowed_uids.as_ref().map(shown), shown(&found.allowed_uids))?;
        let shown = |bits| format!("{bits:04o}");
        check("mode", self.mode.map(shown), shown(mode))
    }
}

fn check<T: PartialEq + ToString>(
    setting: &'static str,
    asked: Option<T>,
    found: T,
) -> Result<(), ChannelError> {
    match asked {
        Some(asked) if asked != found => {
            Err(ChannelError::Mismatch { setting, asked: asked.to_string(), found: found.to_string() })
        }
        _ => Ok(()),
    }
}

/// What a channel's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What its socket is called.
    pub(crate) socket: u64,
    pub(crate) max_message_len: usize,
    /// 0 is the system's.
    pub(crate) buffer_bytes: usize,
    pub(crate) allowed_uids: Vec<u32>,
}

impl Settings {
    const DEFAULT_MAX_MESSAGE_LEN: usize = 1 << 30;
    /// 1 TiB: far from what arithmetic with lengths can't hold.
    const MOST_MESSAGE_LEN: u64 = 1 << 40;
    const MOST_UIDS: usize = 256;

    fn is_max_message_len(len: usize) -> bool {
        (1..=Self::MOST_MESSAGE_LEN).contains(&(len as u64))
    }

    pub(crate) fn to_text(&self) -> String {
        let uids: Vec<String> = self.allowed_uids.iter().map(u32::to_string).collect();
        format!(
            "ipc-unix 1\nsocket {}\nmax-message-len-bytes {}\nbuffer-bytes {}\nallow-uids {}\n",
            self.socket,
            self.max_message_len,
            self.buffer_bytes,
            uids.join(",")
        )
    }

    pub(crate) fn of(text: &str) -> Option<Self> {
        let keys = ["ipc-unix", "socket", "max-message-len-bytes", "buffer-bytes", "allow-uids"];
        let [version, socket, max_message_len, buffer_bytes, uids] = values(text.lines(), keys);
        let figure = |value: Option<&str>| value?.parse::<usize>().ok();
        (figure(version)? == 1).then_some(())?;
        let uids = uids?.split(',').filter(|uid| !uid.is_empty()).map(str::parse);
        Some(Self {
            socket: socket?.parse().ok()?,
            max_message_len: figure(max_message_len).filter(|&len| Self::is_max_message_len(len))?,
            buffer_bytes: figure(buffer_bytes)?,
            allowed_uids: uids.collect::<Result<_, _>>().ok()?,
        })
    }

    /// What the socket is called.
    pub(crate) fn socket_name(&self) -> String {
        format!("socket:{:016x}", self.socket)
    }

    /// What it is called until it listens.
    pub(crate) fn new_socket_name(&self) -> String {
        format!(".{}", self.socket_name())
    }
}
