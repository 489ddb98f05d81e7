//! What carries messages between measuring processes: the floors, the bare calls, and every
//! transport of the toolkit, all seen as a [`Link`](link::Link) or as its ends.

pub(crate) mod backends;
pub(crate) mod ends;
pub(crate) mod floor;
pub(crate) mod folder;
pub(crate) mod layers;
pub(crate) mod link;
pub(crate) mod payload;
pub(crate) mod raw_mq;
pub(crate) mod raw_sysv;
pub(crate) mod raw_unix;
pub(crate) mod rpc;
pub(crate) mod sealed;
pub(crate) mod shared;
pub(crate) mod site;
