//! `unix:`, sequenced-packet sockets, after `unix(7)`: message passing *with* a connection.
//!
//! A channel has one receiver at a time and any number of senders, each with a connection
//! of its own. Nothing is stored: without a receiver nothing is taken, and what a receiver
//! had not received when it went is gone with its connections. What only this transport can
//! do comes from the connection: the kernel says who sent
//! ([`PeerCredentials`](ipc_core::PeerCredentials)), tells both ends at once when the other
//! one is gone, holds up each sender by itself, and passes descriptors
//! ([`DescriptorSender`](ipc_core::DescriptorSender)).
//!
//! # Either start order
//!
//! A channel is a file that says how it is; a sender finds no channel ([`NotFound`]) or one
//! that has, or has not yet, a receiver. Without one it waits as its
//! [`Wait`](ipc_core::Wait) says, as if the channel were full: `Never` answers
//! [`WouldBlock`], and a receiver that comes wakes those who wait (`inotify(7)`). The receiver
//! holds a lock on the channel's file (`flock(2)`), which the kernel takes back when it dies;
//! whoever has the lock replaces the socket of the dead one, by a rename, so that no sender
//! ever meets a socket that nobody listens to and that isn't replaced when one comes.
//!
//! A connection that broke is told once, [`PeerDied`](ipc_core::SendError::PeerDied): what
//! the dead receiver had not received is lost. The next call connects to its successor.
//!
//! Up to 1,024 senders are taken in at a time (fewer where the process runs out of
//! descriptors; if there isn't one for the first, the receiver is told); those who come then wait
//! at the door until one goes, or there are descriptors again, connected, with what they have
//! sent. There is room for `net.core.somaxconn` of them; to others the channel is full: they wait
//! as their `Wait` says, and look again each hundredth of a second. So does who waits for a
//! receiver in a directory that it may enter but not read, as others' often are.
//!
//! # Packets
//!
//! Each begins with 16 bytes: a mark, what it is, and a length. A message of up to 64 KiB
//! stands behind them. A longer one is put into a sealed `memfd`, and the packet passes its
//! descriptor: its bytes are copied once, by the sender. A receiver maps it only if it is sealed
//! against writing, shrinking and growing and has the promised length. Whoever sends anything
//! else loses the connection, and nothing else happens. A message that there is no memory for is
//! tried 16 times, others having their turns in between; then it is lost, and the error says so.
//!
//! Room for descriptors makes each receive a tenth slower, so a sender announces, in a packet of
//! its own, that the next one passes some. Those that weren't announced the kernel closes as it
//! hands over the packet, in the receiver's call, which a file of a peer's own making could hold
//! up. So that is for senders of the receiver's own user: from others each packet is received with
//! room for all that it could pass. What arrives and nobody takes is closed on a thread apart,
//! memory excepted: it may stand for anything. Nor is a socket closed in place that has received
//! what nobody took: it is shut down, which its peer sees at once, and closed there.
//!
//! # Turns
//!
//! A message that is there takes one system call at each end, as without this crate. A receiver
//! reads on from one sender for at most 64 messages, or until it has none; then it looks at the
//! others and at the door, with one call more, and whoever has something gets the next turn. So
//! a sender waits for at most 64 messages of each other one, and "would block" means that nobody
//! has anything (or that a crowd of 2,048 came and went at this try). To say that takes two calls, and to sleep and be woken two more than a message
//! that is there.
//!
//! [`NotFound`]: ipc_core::ChannelError::NotFound
//! [`WouldBlock`]: ipc_core::SendError::WouldBlock

mod channel;
mod config;
mod connection;
mod line;
mod listener;
mod memory;
mod packet;
mod parcel;
mod peer;
mod receiver;
mod sender;
mod store;
mod sys;
mod transport;
mod turn;

pub use channel::UnixChannel;
pub use config::UnixConfig;
pub use receiver::{UnixBatch, UnixMessage, UnixReceiver};
pub use sender::{UnixLoan, UnixSender};
pub use transport::Unix;
