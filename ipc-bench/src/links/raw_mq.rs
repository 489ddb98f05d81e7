//! `raw:mq`: POSIX message queues as the system offers them, the floor of `mq`.
//!
//! `mq_send` and `mq_receive`, blocking or on O_NONBLOCK descriptors, of the same depth and message size as the `mq`
//! transport gets here: see mq_overview(7).

use super::{
    link::Link,
    site::{DIRECTIONS, Site},
};
use crate::{
    spec::{LaneSpec, Payload, Side, Waiting},
    trouble::Fallible,
};
use nix::{
    errno::Errno,
    mqueue::{MQ_OFlag, MqAttr, MqdT, mq_open, mq_receive, mq_send},
    sys::stat::Mode,
};
use std::fs;

/// Both ends of a pair of kernel queues, with the buffers of a plain program.
pub(crate) struct RawMq {
    there: MqdT,
    back: MqdT,
    payload: Payload,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl RawMq {
    /// The near side creates the queues, the far one opens them.
    pub(crate) fn attach(spec: &LaneSpec, side: Side, site: &Site) -> Fallible<Self> {
        let open = |direction| open(&site.channel(spec, direction), side, spec);
        let [there, back] = DIRECTIONS.map(open);
        let (there, back) = match side {
            Side::Near => (there?, back?),
            Side::Far => (back?, there?),
        };
        Ok(Self {
            there,
            back,
            payload: spec.payload(),
            outgoing: vec![0; spec.message_len_bytes],
            incoming: vec![0; max_message_len_bytes(spec.message_len_bytes)],
        })
    }
}

impl Link for RawMq {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.outgoing, number);
        loop {
            match mq_send(&self.there, &self.outgoing, 0) {
                Err(Errno::EAGAIN) => {}
                answer => return Ok(answer?),
            }
        }
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        loop {
            match mq_receive(&self.back, &mut self.incoming, &mut 0) {
                Err(Errno::EAGAIN) => {}
                answer => return self.payload.check(&self.incoming[..answer?], number),
            }
        }
    }
}

fn open(name: &str, side: Side, spec: &LaneSpec) -> Fallible<MqdT> {
    let attributes = MqAttr::new(0, depth() as _, max_message_len_bytes(spec.message_len_bytes) as _, 0);
    let path = format!("/{name}");
    let (flags, attributes) = match side {
        Side::Near => (MQ_OFlag::O_RDWR | MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL, Some(&attributes)),
        Side::Far => (MQ_OFlag::O_RDWR, None),
    };
    let polling = if spec.waiting == Waiting::Spin { MQ_OFlag::O_NONBLOCK } else { MQ_OFlag::empty() };
    mq_open(path.as_str(), flags | polling, Mode::S_IRUSR | Mode::S_IWUSR, attributes).map_err(|error| {
        match error {
            Errno::EMFILE => "mq_open failed: the queues of this user reach RLIMIT_MSGQUEUE (ulimit -q); \
                              remove old ones or raise it"
                .into(),
            _ => format!("mq_open failed: {error}").into(),
        }
    })
}

/// The most messages that any user may ask for, at most 10: four queues of 8 KiB messages
/// then fit the default limit of 800 KiB.
pub(crate) fn depth() -> usize {
    limit("msg_max").unwrap_or(10).min(10)
}

/// The message size of queues for messages of this length: the kernel wants at least 1.
pub(crate) fn max_message_len_bytes(message_len_bytes: usize) -> usize {
    message_len_bytes.max(1)
}

/// Why the kernel takes no messages of this length; `None` if it does.
pub(crate) fn refuses(message_len_bytes: usize) -> Option<String> {
    let max_bytes = limit("msgsize_max").unwrap_or(8192);
    (message_len_bytes > max_bytes)
        .then(|| format!("the kernel's queues take at most {max_bytes} bytes (fs.mqueue.msgsize_max)"))
}

fn limit(name: &str) -> Option<usize> {
    fs::read_to_string(format!("/proc/sys/fs/mqueue/{name}")).ok()?.trim().parse().ok()
}
