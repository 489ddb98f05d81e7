//! `mq:`, the kernel's POSIX queues, after `mq_overview(7)`.
//!
//! The queue of channel `orders` is called `/orders`, and its messages are the plain bytes
//! that were sent: a C program with `mq_open` and `mq_receive` can be the other end.

mod channel;
mod config;
mod limits;
mod list;
mod notification;
mod receiver;
mod sender;
mod sys;
mod transport;

pub use channel::MqChannel;
pub use config::MqConfig;
pub use receiver::{MqBatch, MqMessage, MqReceiver};
pub use sender::{MqLoan, MqSender};
pub use transport::Mq;
