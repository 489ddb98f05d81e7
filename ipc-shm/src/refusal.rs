//! What every sending end refuses before it looks for room.

use ipc_core::SendError;

/// Refuses a message of `len` bytes that is longer than `max`, and any from an endpoint that is
/// not this process's but its parent's, from before a fork.
#[inline]
pub(crate) fn check(len: usize, max: usize, is_ours: bool) -> Result<(), SendError> {
    if len > max {
        return Err(SendError::TooLong { len, max });
    }
    if !is_ours {
        return Err(SendError::Forked);
    }
    Ok(())
}
