//! The binary `ipc`, run as a user runs it: real processes, real channels.

mod calls;
mod closed;
mod commands;
mod creating;
mod demo;
mod doctor;
mod ends;
mod kernel;
mod listing;
mod lock;
mod read_only;
mod stopping;
mod support;
mod transfer;
mod unheard;
mod users;
mod wrong_input;
