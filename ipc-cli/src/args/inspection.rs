//! Commands that look at channels and at the system, and change nothing.

use super::RecvFraming;
use crate::address::Address;

/// Look at messages without taking them
///
/// The oldest first, whatever their type or priority. Only where the transport can: on sysv:
/// channels (of a kernel with CONFIG_CHECKPOINT_RESTORE).
#[derive(Debug, clap::Args)]
pub(crate) struct Peek {
    /// The channel: sysv:NAME
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    /// Look at so many messages
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) count: u64,
    /// How messages are printed
    #[arg(long, value_name = "FRAMING", default_value = "lines")]
    pub(crate) framing: RecvFraming,
}

/// Check the system's limits, and say what each means for channels
///
/// For each: what it is now, whether that is fine, and if it is short the command that changes
/// it. Exit 1 if something is missing without which a transport can't work.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// An array of objects with all keys
    #[arg(long)]
    pub(crate) json: bool,
}
