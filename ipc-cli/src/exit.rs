//! How a command ends: exit codes, and errors as one line that says what to do.
//!
//! Scripts rely on the codes, so all of them are given out in this file and nowhere else.

use crate::address::{Address, Scheme};
use ipc_core::{CallError, ChannelError, OsError, PeekError, RecvError, SendError};
use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

/// The exit codes, except those of signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failure = 1,
    Usage = 2,
    NoSuchChannel = 3,
    TimedOut = 4,
    ExistsAlready = 5,
    Busy = 6,
    NotPermitted = 7,
    Corrupt = 8,
}

impl Exit {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Failure,
        Self::Usage,
        Self::NoSuchChannel,
        Self::TimedOut,
        Self::ExistsAlready,
        Self::Busy,
        Self::NotPermitted,
        Self::Corrupt,
    ];
}

/// How a command ends that didn't fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// What was asked for is done.
    Done,
    /// What it ran has ended with this code.
    Code(u8),
    /// A signal of this number ended it in good order.
    Signal(i32),
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::SUCCESS,
            Ending::Code(code) => Self::from(code),
            // What a shell reports for a process that the signal killed.
            Ending::Signal(number) => Self::from(128_u8.wrapping_add(number as u8)),
        }
    }
}

/// Why a command failed: an exit code and one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    text: String,
}

impl Failure {
    /// What went wrong with `subject`, and what to do about it.
    pub(crate) fn new(exit: Exit, subject: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self::bare(exit, format_args!("{subject}: {what}"))
    }

    /// A failure of nothing in particular.
    pub(crate) fn bare(exit: Exit, what: impl fmt::Display) -> Self {
        Self { exit, text: one_line(&what.to_string()) }
    }

    /// What is printed, without the program's name.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Says it on standard error, in one piece. That nobody can be told changes nothing else:
    /// what is under way goes on, and the exit code stays what it is.
    pub(crate) fn report(&self) {
        let _ = io::stderr().write_all(format!("{self}\n").as_bytes());
    }

    /// The channel could not be made, opened, inspected or removed.
    pub(crate) fn channel(address: &Address, error: &ChannelError) -> Self {
        Self::channel_made_with(address, "", error)
    }

    /// The same of a channel for calls.
    pub(crate) fn service(address: &Address, error: &ChannelError) -> Self {
        Self::channel_made_with(address, " --kind rpc", error)
    }

    fn channel_made_with(address: &Address, settings: &str, error: &ChannelError) -> Self {
        let hint = match error {
            ChannelError::NotFound => format!("; create it with: ipc create {address}{settings}"),
            ChannelError::AlreadyExists => format!("; use it as it is, or remove it with: ipc rm {address}"),
            ChannelError::Busy { .. } => format!("; see who uses it with: ipc stat {address}"),
            // Some faults come with an advice of their own.
            ChannelError::Corrupt(what) if what.contains("remove it") => String::new(),
            ChannelError::Corrupt(_) => format!("; remove it with: ipc rm {address}"),
            _ => String::new(),
        };
        Self::new(exit_of_channel_error(error), address, format_args!("{error}{hint}"))
    }

    /// The channel could not be removed.
    pub(crate) fn removal(address: &Address, error: &ChannelError) -> Self {
        let text = match error {
            ChannelError::NotFound => "no such channel; see what there is with: ipc ls".into(),
            ChannelError::Busy { role, pid } => {
                let who = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                format!("the channel is in use by its {role}{who}: stop all who use it first")
            }
            error => return Self::channel(address, error),
        };
        Self::new(exit_of_channel_error(error), address, text)
    }

    /// The System V queue with this number could not be removed.
    pub(crate) fn numbered(id: i32, error: &ChannelError) -> Self {
        let hint = match error {
            ChannelError::NotFound => "; see which there are with: ipc ls --all",
            _ => "",
        };
        Self::new(
            exit_of_channel_error(error),
            format_args!("System V queue {id}"),
            format_args!("{error}{hint}"),
        )
    }

    /// This failure, and then another one on a line of its own.
    #[must_use]
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.text = format!("{}\n{other}", self.text);
        self
    }

    /// The channels of a transport could not be listed.
    pub(crate) fn listing(scheme: Scheme, error: &ChannelError) -> Self {
        Self::new(exit_of_channel_error(error), scheme, error)
    }

    /// The message `which` (`line 3`) was not sent.
    pub(crate) fn send(address: &Address, which: impl fmt::Display, error: &SendError) -> Self {
        let hint = match error {
            SendError::WouldBlock | SendError::TimedOut => {
                format!("; receive from it with: ipc recv {address}")
            }
            SendError::TooLong { .. } => "; the messages before it are sent".into(),
            SendError::Closed => format!("; create it anew with: ipc create {address}"),
            SendError::PeerDied => {
                "; what it had not received is lost, and to send again waits for the next receiver".into()
            }
            SendError::Corrupt(_) => format!("; remove it with: ipc rm {address}"),
            _ => String::new(),
        };
        Self::new(exit_of_send_error(error), address, format_args!("{which}: {error}{hint}"))
    }

    /// No message was received.
    pub(crate) fn recv(address: &Address, error: &RecvError) -> Self {
        let hint = match error {
            RecvError::Closed => format!("; create it anew with: ipc create {address}"),
            RecvError::Corrupt(_) => format!("; remove it with: ipc rm {address}"),
            _ => String::new(),
        };
        Self::new(exit_of_recv_error(error), address, format_args!("{error}{hint}"))
    }

    /// No message was shown.
    pub(crate) fn peek(address: &Address, error: &PeekError) -> Self {
        let exit = match error {
            PeekError::Closed => Exit::NoSuchChannel,
            PeekError::Os(error) => exit_of_os_error(error),
            _ => Exit::Failure,
        };
        Self::new(exit, address, error)
    }

    /// The request `which` (`request 3`) has no response.
    pub(crate) fn call(address: &Address, which: impl fmt::Display, error: &CallError) -> Self {
        let hint = match error {
            CallError::TimedOut => format!("; see who serves it with: ipc stat {address}"),
            CallError::Closed => format!("; create it anew with: ipc create {address} --kind rpc"),
            CallError::Corrupt(_) => format!("; remove it with: ipc rm {address}"),
            _ => String::new(),
        };
        Self::new(exit_of_call_error(error), address, format_args!("{which}: {error}{hint}"))
    }

    /// A file of this process (`standard input`) failed.
    pub(crate) fn io(subject: &str, error: &io::Error) -> Self {
        Self::new(Exit::Failure, subject, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ipc: {}", self.text)
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> Self {
        Self::from(failure.exit as u8)
    }
}

fn exit_of_channel_error(error: &ChannelError) -> Exit {
    match error {
        ChannelError::NotFound => Exit::NoSuchChannel,
        ChannelError::AlreadyExists | ChannelError::Mismatch { .. } => Exit::ExistsAlready,
        ChannelError::Busy { .. } => Exit::Busy,
        ChannelError::NotPermitted(_) => Exit::NotPermitted,
        ChannelError::InvalidName(_) | ChannelError::InvalidConfig(_) => Exit::Usage,
        ChannelError::Corrupt(_) | ChannelError::Unrecovered(_) => Exit::Corrupt,
        ChannelError::Os(error) => exit_of_os_error(error),
        // Limits of the system, and what it can't do at all.
        _ => Exit::Failure,
    }
}

fn exit_of_send_error(error: &SendError) -> Exit {
    match error {
        SendError::WouldBlock | SendError::TimedOut => Exit::TimedOut,
        SendError::Closed => Exit::NoSuchChannel,
        SendError::Corrupt(_) => Exit::Corrupt,
        SendError::Os(error) => exit_of_os_error(error),
        _ => Exit::Failure,
    }
}

fn exit_of_recv_error(error: &RecvError) -> Exit {
    match error {
        RecvError::WouldBlock | RecvError::TimedOut => Exit::TimedOut,
        RecvError::Closed => Exit::NoSuchChannel,
        RecvError::Corrupt(_) => Exit::Corrupt,
        RecvError::Os(error) => exit_of_os_error(error),
        _ => Exit::Failure,
    }
}

fn exit_of_call_error(error: &CallError) -> Exit {
    match error {
        CallError::WouldBlock | CallError::TimedOut => Exit::TimedOut,
        CallError::Closed => Exit::NoSuchChannel,
        CallError::Corrupt(_) => Exit::Corrupt,
        CallError::Os(error) => exit_of_os_error(error),
        _ => Exit::Failure,
    }
}

fn exit_of_os_error(error: &OsError) -> Exit {
    match error.error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NotPermitted,
        _ => Exit::Failure,
    }
}

/// Errors are one line, whatever the texts in them hold.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Exit, Failure};
    use ipc_core::{ChannelError, OsError, RecvError, Role, SendError};
    use rstest::rstest;

    fn failure(error: ChannelError) -> Failure {
        Failure::channel(&"shm:orders".parse().unwrap(), &error)
    }

    #[test]
    fn a_missing_channel_says_how_to_make_it() {
        assert_eq!(
            failure(ChannelError::NotFound).to_string(),
            "ipc: shm:orders: no such channel; create it with: ipc create shm:orders"
        );
    }

    #[rstest]
    #[case(ChannelError::NotFound, 3)]
    #[case(ChannelError::AlreadyExists, 5)]
    #[case(ChannelError::Mismatch { setting: "depth", asked: "2".into(), found: "3".into() }, 5)]
    #[case(ChannelError::Busy { role: Role::Sender, pid: None }, 6)]
    #[case(ChannelError::NotPermitted("no".into()), 7)]
    #[case(ChannelError::InvalidConfig("no".into()), 2)]
    #[case(ChannelError::Limit("no".into()), 1)]
    #[case(ChannelError::Corrupt("no".into()), 8)]
    #[case(ChannelError::Unsupported("no".into()), 1)]
    #[case(ChannelError::Os(OsError::new("open", std::io::ErrorKind::PermissionDenied)), 7)]
    #[case(ChannelError::Os(OsError::new("open", std::io::ErrorKind::OutOfMemory)), 1)]
    fn each_outcome_has_its_code(#[case] error: ChannelError, #[case] code: i32) {
        assert_eq!(failure(error).exit as i32, code);
    }

    #[test]
    fn full_and_empty_channels_are_time_outs() {
        let address = "mq:x".parse().unwrap();
        assert_eq!(Failure::send(&address, "line 1", &SendError::WouldBlock).exit, Exit::TimedOut);
        assert_eq!(Failure::recv(&address, &RecvError::TimedOut).exit, Exit::TimedOut);
    }

    #[test]
    fn who_loses_its_receiver_learns_that_another_one_may_come() {
        let text = Failure::send(&"unix:x".parse().unwrap(), "line 1", &SendError::PeerDied).to_string();
        assert!(text.contains("is lost") && text.contains("next receiver"), "{text}");
    }

    #[test]
    fn an_error_is_one_line() {
        let text = failure(ChannelError::Corrupt("two\nlines\x1b[31m".into())).to_string();
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\x1b'));
    }
}
