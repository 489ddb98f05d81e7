//! The command line, as clap reads it.

mod inspection;
mod settings;

use crate::{
    address::{Address, InvalidAddress},
    exit::{Exit, Failure},
    units::parse_duration,
};
use clap::{
    Parser, Subcommand, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind},
};
pub(crate) use inspection::{Doctor, Peek};
pub(crate) use settings::{CreateIfMissing, Settings, Trust};
use std::{error::Error, ffi::OsString, time::Duration};

/// Channels between processes: kernel queues and shared memory.
#[derive(Debug, Parser)]
#[command(name = "ipc", version, max_term_width = 100, disable_help_subcommand = true, after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Addresses:
  mq:NAME    a kernel queue (message passing, POSIX)
  sysv:NAME  a kernel queue (message passing, System V)
  unix:NAME  a socket (message passing with a connection: a receiver must be there)
  shm:NAME   a ring in shared memory
  NAME is 1 to 200 of A-Z a-z 0-9 . _ - and starts with neither a dot nor a dash.

Exit codes:
  0 done · 1 other failure · 2 usage · 3 no such channel · 4 timed out, full or empty
  5 exists already · 6 busy (role taken, or all places) · 7 not permitted · 8 corrupt
  130, 143: ended by SIGINT, SIGTERM

Environment:
  IPC_DIR   the directory of the shm: channels, and of what finds the sysv: and unix: ones

Other users:
  shm: in a directory in IPC_DIR that all may read and enter: create it with --mode 660 --group GID;
  the others open it with --trust-uid, the number of its owner. unix: the same, with --mode 666
  --allow-uid UID,UID; and chmod 711 for the directory .mq in there. mq: --mode 666, and
  --trust-uid unless the owner is root.

Example:
  ipc send shm:orders --create '42 apples'
  ipc recv shm:orders --create --count 1";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Create(Create),
    Send(Send),
    Recv(Recv),
    Call(Call),
    Serve(Serve),
    Ls(Ls),
    Stat(Stat),
    Peek(Peek),
    Doctor(Doctor),
    Rm(Rm),
    Lock(Lock),
    Gc(Gc),
    Recover(Recover),
    Demo(Demo),
}

/// Make a channel
///
/// Without options a shm: channel is a work queue with room for 1 MiB, for messages of up to
/// 8 KiB; it is kept until it is removed, and is its owner's alone (0600). A mq: channel has the
/// kernel's default depth and message size.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The channel: SCHEME:NAME (see ipc --help)
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Send messages: arguments, or standard input
///
/// Each MESSAGE is sent as it is. Without any, standard input is read and split as --framing
/// says; it is sent as it comes, in bounded memory. What was sent is in the channel and stays
/// there whatever becomes of this process. But a unix: channel stores nothing: what its receiver has
/// not taken when that ends is lost, though it counts as sent.
#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// The channel: SCHEME:NAME (see ipc --help)
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    /// Messages, instead of standard input (after -- if one begins with a dash)
    #[arg(value_name = "MESSAGE", allow_negative_numbers = true)]
    pub(crate) messages: Vec<OsString>,
    /// Wait at most this long for room, for each message: 250ms, 5s, 2m, 1h; 0: don't wait
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// mq, sysv: messages of a higher priority overtake those of a lower one (0, the lowest);
    /// on a sysv channel where they are received with --priority
    #[arg(long, value_name = "N")]
    pub(crate) priority: Option<u32>,
    /// sysv: the messages' type, to be selected by (32768, which is priority 0; where messages are
    /// received with --priority, lower types overtake higher ones)
    #[arg(long = "type", value_name = "N", conflicts_with = "priority")]
    pub(crate) message_type: Option<u64>,
    /// How standard input is split into messages
    #[arg(long, value_name = "FRAMING", default_value = "lines", conflicts_with = "messages")]
    pub(crate) framing: SendFraming,
    /// Mark the end after the last message, for `ipc recv --until-end`
    ///
    /// In shared memory the mark is apart from all messages. On a kernel queue it is the
    /// empty message, so an empty message in the input is refused there (exit 2) before it
    /// is sent. Where receivers share the messages (a work queue, a kernel queue), a mark ends one of
    /// them.
    #[arg(long)]
    pub(crate) end: bool,
    #[command(flatten)]
    pub(crate) trust: Trust,
    #[command(flatten)]
    pub(crate) create: CreateIfMissing,
}

/// Receive messages and print them, until stopped
///
/// Several messages are taken at once, written, and only then released: when this process is
/// killed, nothing is lost from a shm: channel of kind mpmc or spsc (what it had written last may
/// come again). Where each message is delivered once at most (--max-deliveries 1), it takes one at
/// a time, which is lost then. A mq: channel can't take a message back when the process is killed,
/// so there it takes one at a time, and only when a pipe has room for the longest.
///
/// When the output is closed, what was not written stays in the channel; on mq: and sysv: the
/// message that it was about to write goes back to the end of the queue. If that stays full for 5
/// seconds, or this user may not send to it, or a second signal comes, the message is lost, and
/// that is said (exit 1); on unix: it is at once.
///
/// Messages of up to 4 KiB are written whole: a pipe takes them so or not at all. In a file, a
/// kill can cut the one that is being written; where nothing is lost it comes again, whole, to the
/// next receiver.
///
/// Ends with whichever of --count, --drain, --timeout and --until-end comes first. What is on its way
/// to a unix: channel then is lost: it stores nothing, and its senders take it for sent. SIGINT and
/// SIGTERM end it after the batch that is being written (130, 143); if nobody takes the output
/// for a second then, or on a second signal, at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Recv {
    /// The channel: SCHEME:NAME (see ipc --help)
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End with 4 when no message came for so long: 250ms, 5s, 2m, 1h; 0: don't wait
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// End when the channel is empty
    #[arg(long)]
    pub(crate) drain: bool,
    /// mq, sysv: take the highest priority first (a mq channel always does)
    #[arg(long)]
    pub(crate) priority: bool,
    /// sysv: take messages of this type only, and leave the others
    #[arg(long = "type", value_name = "N", conflicts_with = "priority")]
    pub(crate) message_type: Option<u64>,
    /// End where `ipc send --end` marked the end (which is ignored without this option); where
    /// receivers share the messages, a mark ends one of them
    #[arg(long)]
    pub(crate) until_end: bool,
    /// How messages are printed
    #[arg(long, value_name = "FRAMING", default_value = "lines")]
    pub(crate) framing: RecvFraming,
    #[command(flatten)]
    pub(crate) trust: Trust,
    #[command(flatten)]
    pub(crate) create: CreateIfMissing,
}

/// Call a service: send a request, print the response
///
/// Each REQUEST is a call of its own, one after the other. Without any, standard input is the
/// request. The channel is one of kind rpc. If the server dies with the request, that is said
/// (exit 1); whether it acted on it isn't known then. When nobody reads the output any more, the
/// requests that are left are not sent, and that is said too (exit 1).
#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The channel: shm:NAME
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    /// Requests, instead of standard input (after -- if one begins with a dash)
    #[arg(value_name = "REQUEST", allow_negative_numbers = true)]
    pub(crate) requests: Vec<OsString>,
    /// Wait at most this long for each response: 250ms, 5s, 2m, 1h
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print the responses alone, without a newline after each
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) trust: Trust,
    #[command(flatten)]
    pub(crate) create: CreateIfMissing,
}

/// Serve calls: run a command for each request
///
/// The command reads the request from its standard input; what it prints is the response. If
/// it fails, or prints more than fits, the call is declined and the caller told so. What it leaves
/// running in the background isn't waited for: the response is what was printed up to a tenth of a
/// second after its end. Any number of servers share the work.
///
/// SIGINT and SIGTERM are handed on to the command that runs, and end the server as soon as that
/// has ended; a second signal ends it at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The channel: shm:NAME
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    /// End after so many requests
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End with 4 when no request came for so long: 250ms, 5s, 2m, 1h
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) trust: Trust,
    #[command(flatten)]
    pub(crate) create: CreateIfMissing,
    /// The command, and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

/// How `send` splits its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SendFraming {
    /// A message a line, without its newline; a last line without one is a message too, so
    /// that the final newline of a text doesn't matter
    Lines,
    /// The bytes as they come, in messages of up to the maximum size
    Chunks,
    /// Records: a 4-byte little-endian length, then so many bytes
    Prefixed,
}

/// How `recv` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecvFraming {
    /// Each message and a newline, the last one too
    Lines,
    /// The bytes alone
    Raw,
    /// Records: a 4-byte little-endian length, then the bytes
    Prefixed,
}

/// List the channels
///
/// One that can't be read (damaged, or someone else's) is listed with its problem. Where the
/// system shows no list of its queues, one line on standard error says so, and the exit code is
/// still 0; it is not if listing fails otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// An array of what `ipc stat --json` prints (with `problem` where one can't be read)
    #[arg(long)]
    pub(crate) json: bool,
    /// List the System V queues too that are nobody's channels here, as others left them
    #[arg(long)]
    pub(crate) all: bool,
}

/// Show what is known about a channel
#[derive(Debug, clap::Args)]
pub(crate) struct Stat {
    /// The channel: SCHEME:NAME (see ipc --help)
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    /// An object with all keys, null where there is no such thing
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) trust: Trust,
}

/// Remove channels and what they hold
///
/// All of them are tried; the exit code is that of the first that failed. A shm: channel in use
/// is refused. A mq: channel loses its name at once, and who has it open goes on with it unseen.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// The channels: SCHEME:NAME (see ipc --help)
    #[arg(value_name = "ADDR", required_unless_present = "sysv_id")]
    pub(crate) addresses: Vec<Address>,
    /// Remove the System V queue with this number too, as `ipc ls --all` shows it
    #[arg(long, value_name = "ID")]
    pub(crate) sysv_id: Vec<i32>,
}

/// Run a command that nobody else runs meanwhile, as flock(1) does
///
/// The lock is a mutex in shared memory: one of that name that programs use (`ipc_shm::sync`), or
/// a new one, which stays until it is removed. Exits as the command does; 4 if the lock wasn't
/// had in time. `ipc stat` shows who has it, and since when.
///
/// If the last owner died with it, that is said, and it goes on; unless programs keep a value in
/// it, which may be half changed then (exit 8).
///
/// SIGHUP, SIGINT, SIGQUIT and SIGTERM are handed on to the command, and the lock is held until it
/// has ended. (What is pressed at a terminal, Ctrl-C, reaches the command from there.) If this
/// process is killed otherwise, the lock is no longer held, though the command may still run.
#[derive(Debug, clap::Args)]
pub(crate) struct Lock {
    /// The lock: shm:NAME
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
    /// Wait at most this long: 250ms, 5s, 2m, 1h
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Don't wait
    #[arg(long = "try", conflicts_with = "timeout")]
    pub(crate) r#try: bool,
    /// Take the value that a dead owner left as it is
    #[arg(long)]
    pub(crate) repair: bool,
    /// The command, and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Remove what killed users of transient shm: channels left, and say why the rest stays
///
/// Only empty channels go that, by the kernel's word, nobody has open, never one that was made
/// with `ipc create`. Nothing depends on this: whoever opens such a channel does the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Gc {}

/// Serve a shm: channel on a disk again that was in use when the machine went down
///
/// What it holds may be incomplete, old or mixed up: after a power loss some of its pages are
/// older than others. This accepts that; `ipc rm` is the other way out.
#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// The channel: shm:NAME
    #[arg(value_name = "ADDR")]
    pub(crate) address: Address,
}

/// Watch two processes exchange data, once per model, and compare
///
/// Or watch what becomes of a message when its sender, its receiver or both are killed:
/// `ipc demo durable`; what goes wrong without a lock, and with each: `ipc demo sync`; what becomes
/// of those who spoil a channel, without protection and with it: `ipc demo protect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Another scene
    #[arg(value_name = "SCENE")]
    pub(crate) scene: Option<Scene>,
    /// Play this part of it, for the demo that started this process
    #[arg(long = "as", hide = true, num_args = 2, value_names = ["ROLE", "DIRECTORY"], requires = "scene")]
    pub(crate) role: Option<Vec<String>>,
    /// Play this part, for the demo that started this process
    #[arg(long, hide = true, num_args = 4, value_names = ["PART", "SCHEME", "NAME", "LEN"])]
    pub(crate) part: Option<Vec<String>>,
}

/// What `ipc demo` shows besides the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scene {
    /// Senders and receivers are killed, and others look for their messages
    Durable,
    /// Two processes count, without a lock and with each
    Sync,
    /// A process stores, truncates or corrupts where it shouldn't
    Protect,
}

/// Reads the command line. `Err(Ok(text))` is what help and version print.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Args, Result<String, Failure>> {
    Args::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(error.render().to_string()),
        _ => Err(usage_failure(&error)),
    })
}

/// What clap says in a paragraph, in one line.
fn usage_failure(error: &clap::Error) -> Failure {
    if let Some(invalid) = error.source().and_then(|source| source.downcast_ref::<InvalidAddress>()) {
        let value = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.escape_debug().to_string(),
            _ => "the address".into(),
        };
        return Failure::new(Exit::Usage, if value.is_empty() { "\"\"" } else { &value }, invalid);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        || error.kind() == ErrorKind::MissingSubcommand
    {
        return Failure::bare(Exit::Usage, "a command is missing; see: ipc --help");
    }
    let rendered = error.render().to_string();
    let paragraph = rendered.strip_prefix("error: ").unwrap_or(&rendered);
    let lines = paragraph
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        // The tips guess, and mostly wrong: the help says it better.
        .filter(|line| !line.is_empty() && !line.starts_with("tip:"));
    let text = lines.collect::<Vec<_>>().join(" ");
    Failure::bare(Exit::Usage, format_args!("{text}; see: ipc {}--help", command_of(&rendered)))
}

/// Which subcommand's help to point to, from the usage line: `send ` or nothing.
fn command_of(rendered: &str) -> String {
    let usage = rendered.lines().find_map(|line| line.trim().strip_prefix("Usage: ipc ")).unwrap_or("");
    match usage.split_whitespace().next() {
        Some(word) if word.chars().all(|c| c.is_ascii_lowercase()) => format!("{word} "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Args, parse};
    use crate::exit::Exit;
    use clap::CommandFactory;
    use rstest::rstest;

    fn usage_error(line: &str) -> String {
        let failure = parse(line.split(' ').map(Into::into)).unwrap_err().unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        failure.to_string()
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[rstest]
    #[case("ipc", "ipc: a command is missing; see: ipc --help")]
    #[case("ipc bogus", "ipc: unrecognized subcommand 'bogus'; see: ipc --help")]
    #[case(
        "ipc stat",
        "ipc: the following required arguments were not provided: <ADDR>; see: ipc stat --help"
    )]
    #[case(
        "ipc stat orders",
        "ipc: orders: not an address: write mq:NAME or sysv:NAME (kernel queue), unix:NAME (socket) or shm:NAME (shared memory)"
    )]
    #[case(
        "ipc stat mq:a/b",
        "ipc: mq:a/b: a channel name can't hold '/': use letters, digits, dots, dashes and underscores"
    )]
    fn usage_errors_are_one_line(#[case] line: &str, #[case] expected: &str) {
        assert_eq!(usage_error(line), expected);
    }

    #[rstest]
    #[case("ipc recv mq:x --timeout 5")]
    #[case("ipc recv mq:x --count -1")]
    #[case("ipc send mq:x --framing raw")]
    #[case("ipc create shm:x --capacity lots")]
    #[case("ipc create shm:x --mode 999")]
    #[case("ipc rm")]
    fn wrong_values_are_usage_errors_of_one_line(#[case] line: &str) {
        assert_eq!(usage_error(line).lines().count(), 1);
    }
}
