//! The binary `ipc`, run as a user runs it: real processes, real channels.

mod calls;
mod demo;
mod ends;
mod listing;
mod lock;
mod stopping;
mod support;
mod transfer;
mod wrong_input;
