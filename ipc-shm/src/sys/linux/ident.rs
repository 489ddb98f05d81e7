//! Who and where we are: user, process, boot, page size, randomness.

use super::{call, errno};
use ipc_core::OsError;
use nix::{
    errno::Errno,
    libc,
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, getegid, geteuid, sysconf},
};
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

/// The effective user id, which owns the files that we make.
pub(crate) fn euid() -> u32 {
    geteuid().as_raw()
}

/// The effective group id.
pub(crate) fn egid() -> u32 {
    getegid().as_raw()
}

/// The process id in its own namespace.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// The size of a page, in bytes.
pub(crate) fn page_size_bytes() -> Result<u64, OsError> {
    let size = call("sysconf(_SC_PAGESIZE)", || sysconf(SysconfVar::PAGE_SIZE))?;
    Ok(size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096))
}

/// What tells this boot of the machine from others.
pub(crate) fn boot_id() -> Result<[u8; 16], OsError> {
    const CALL: &str = "read(/proc/sys/kernel/random/boot_id)";
    let text = call(CALL, || errno(fs::read_to_string("/proc/sys/kernel/random/boot_id")))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(id) => Ok(id.to_be_bytes()),
        Err(_) => Err(OsError::new(CALL, std::io::ErrorKind::InvalidData)),
    }
}

/// Sixteen random bytes.
pub(crate) fn random() -> Result<[u8; 16], OsError> {
    let mut bytes = [0; 16];
    call("getrandom", || {
        // SAFETY: the buffer is ours and as long as we say.
        Errno::result(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) })
    })?;
    Ok(bytes)
}

/// Nanoseconds since 1970 by the wall clock. For people to read.
pub(crate) fn unix_time_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The same to a few milliseconds, in a tenth of the time, since no counter is read.
#[inline]
pub(crate) fn coarse_unix_time_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE);
    now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Processors that are switched on, whether or not this process may use them: the peer may.
pub(crate) fn online_processors() -> u64 {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|count| u64::try_from(count).ok()).unwrap_or(1)
}
