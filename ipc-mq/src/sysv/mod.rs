//! `sysv:`, System V message queues, after `sysvipc(7)`, `msgget(2)` and `msgop(2)`.
//!
//! The kernel knows these queues by number. Ours are found by name: a symbolic link in a
//! directory of this user's own says which key it stands for (see [`SysvChannel::key`]); a C
//! program that is told the key can be the other end. Messages have a type. The same field is seen in one of two
//! ways: [`Sysv::new`] has types, to select by, and delivers by age; [`Sysv::by_priority`]
//! makes priorities of them and delivers the highest first.
//!
//! # Waiting
//!
//! The kernel offers no deadline for these queues, so a wait with one is a plain `msgrcv` or
//! `msgsnd` which a timer's signal interrupts (`timer_create(2)`, `SIGEV_THREAD_ID`): the
//! kernel takes a message or is interrupted, never both, so none is lost, and nothing polls.
//! A signal may come just before the call that it is to interrupt, so from the deadline on
//! the timer repeats, each millisecond, until the wait is over. The signal is
//! [`Sysv::signal`]; its handler only notes whether it is one of these. It is sent to the thread that
//! waits and to no other one, so other threads may wait for it (`sigwait(3)`, `signalfd(2)`) and get
//! none of these; and a thread that blocks it, or all signals, has it unblocked for the wait alone. A
//! program that has a handler of its own for it, or ignores it, is told so by an error; and so it is
//! when a wait has taken a signal of this number that somebody else sent, which is lost. The other ways
//! lose something: a thread that receives for others holds a message when its process has timed out,
//! and trying again after a sleep is late or busy.

mod alarm;
mod channel;
mod config;
mod limits;
mod overview;
mod receiver;
mod registry;
mod sender;
mod sys;
mod transport;

pub use channel::SysvChannel;
pub use config::SysvConfig;
pub use overview::SysvQueue;
pub use receiver::{SysvBatch, SysvMessage, SysvReceiver};
pub use sender::{SysvLoan, SysvSender};
pub use transport::{ByAge, ByPriority, Discipline, Sysv};
