//! `raw:sysv`: System V message queues as the system offers them, the floor of `sysv`:
//! `msgsnd` and `msgrcv`, blocking or with IPC_NOWAIT again and again; see msgop(2). The
//! unsafe code of these calls is here.

use super::{
    link::Link,
    site::{DIRECTIONS, Site},
};
use crate::{
    spec::{LaneSpec, Payload, Side, Waiting},
    trouble::Fallible,
};
use nix::{errno::Errno, libc};
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    mem, ptr,
};

/// A message begins with its type.
const TYPE_LEN_BYTES: usize = mem::size_of::<libc::c_long>();
/// The one that all have here.
const TYPE: libc::c_long = 1;

/// Both ends of a pair of queues, with the buffers of a plain program.
pub(crate) struct RawSysv {
    there: libc::c_int,
    back: libc::c_int,
    flags: libc::c_int,
    payload: Payload,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl RawSysv {
    /// The near side creates the queues, the far one opens them.
    pub(crate) fn attach(spec: &LaneSpec, side: Side, site: &Site) -> Fallible<Self> {
        let create = if side == Side::Near { libc::IPC_CREAT | libc::IPC_EXCL | 0o600 } else { 0 };
        let [there, back] = DIRECTIONS.map(|direction| get(key(&site.channel(spec, direction)), create));
        let (there, back) = match side {
            Side::Near => (there?, back?),
            Side::Far => (back?, there?),
        };
        let outgoing = typed(spec.message_len_bytes);
        Ok(Self {
            there,
            back,
            flags: if spec.waiting == Waiting::Spin { libc::IPC_NOWAIT } else { 0 },
            payload: spec.payload(),
            outgoing,
            incoming: vec![0; TYPE_LEN_BYTES + spec.message_len_bytes],
        })
    }
}

impl Link for RawSysv {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.outgoing[TYPE_LEN_BYTES..], number);
        loop {
            match send(self.there, &self.outgoing, self.flags) {
                Err(Errno::EAGAIN) => {}
                answer => return Ok(answer?),
            }
        }
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        loop {
            match receive(self.back, &mut self.incoming, self.flags) {
                Err(Errno::ENOMSG) => {}
                answer => {
                    let end = TYPE_LEN_BYTES + answer?;
                    return self.payload.check(&self.incoming[TYPE_LEN_BYTES..end], number);
                }
            }
        }
    }
}

/// A message of this length behind its type.
pub(crate) fn typed(message_len_bytes: usize) -> Vec<u8> {
    let mut typed = vec![0; TYPE_LEN_BYTES + message_len_bytes];
    typed[..TYPE_LEN_BYTES].copy_from_slice(&TYPE.to_ne_bytes());
    typed
}

/// Makes a queue that isn't there.
pub(crate) fn create(name: &str) -> Fallible<libc::c_int> {
    get(key(name), libc::IPC_CREAT | libc::IPC_EXCL | 0o600)
}

/// Finds a queue that is there.
pub(crate) fn open(name: &str) -> Fallible<libc::c_int> {
    get(key(name), 0)
}

/// `msgsnd`.
#[inline]
pub(crate) fn send(queue: libc::c_int, typed: &[u8], flags: libc::c_int) -> Result<(), Errno> {
    let len = typed.len() - TYPE_LEN_BYTES;
    // SAFETY: the kernel reads the type and `len` bytes behind it.
    Errno::result(unsafe { libc::msgsnd(queue, typed.as_ptr().cast(), len, flags) }).map(drop)
}

/// `msgrcv` of the oldest.
#[inline]
pub(crate) fn receive(queue: libc::c_int, typed: &mut [u8], flags: libc::c_int) -> Result<usize, Errno> {
    let len = typed.len() - TYPE_LEN_BYTES;
    // SAFETY: the kernel writes a type and at most `len` bytes behind it.
    let answer = unsafe { libc::msgrcv(queue, typed.as_mut_ptr().cast(), len, 0, flags) };
    Errno::result(answer).map(isize::unsigned_abs)
}

/// Why the kernel takes no messages of this length; `None` if it does.
pub(crate) fn refuses(message_len_bytes: usize) -> Option<String> {
    let max_bytes = limit("msgmax").unwrap_or(8192);
    (message_len_bytes > max_bytes)
        .then(|| format!("System V queues take at most {max_bytes} bytes (kernel.msgmax)"))
}

/// How many messages of this length a queue holds.
pub(crate) fn depth(message_len_bytes: usize) -> usize {
    limit("msgmnb").unwrap_or(16_384) / message_len_bytes.max(1)
}

fn limit(name: &str) -> Option<usize> {
    fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse().ok()
}

/// Removes a queue, if it is there.
pub(crate) fn remove(name: &str) {
    if let Ok(queue) = open(name) {
        // SAFETY: this command takes no argument.
        unsafe { libc::msgctl(queue, libc::IPC_RMID, ptr::null_mut()) };
    }
}

/// The names are unlike any others at this time, so their hashes are.
fn key(name: &str) -> libc::key_t {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() >> 34) as libc::key_t | 1 << 30
}

fn get(key: libc::key_t, flags: libc::c_int) -> Fallible<libc::c_int> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::msgget(key, flags) })
        .map_err(|error| format!("msgget failed: {error}").into())
}
