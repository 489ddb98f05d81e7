//! Why something yields no figures.

use nix::sys::signal::Signal;
use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

/// The result of what can fail for reasons that are only told to the user.
pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Why a block yields no figures.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The user, or the system, wants the whole run to end.
    Interrupted(Signal),
    /// Nobody reads the report any more.
    ReaderGone,
    /// Nothing that is measured here would mean anything, and why.
    Unfit(Vec<String>),
    /// This block failed.
    Failed(String),
}

impl<E: Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Says it on standard output, with an end of line.
pub(crate) fn print(text: &str) -> Result<(), Trouble> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Trouble::ReaderGone),
        other => Ok(other?),
    }
}

/// What the program ends with; why it isn't success is said.
pub(crate) fn code(answer: Result<ExitCode, Trouble>) -> ExitCode {
    match answer {
        Ok(code) => code,
        Err(Trouble::Interrupted(signal)) => {
            eprintln!("ipc-bench: interrupted ({signal})");
            ExitCode::from(128 + signal as u8)
        }
        Err(Trouble::ReaderGone) => ExitCode::SUCCESS,
        Err(Trouble::Unfit(reasons)) => {
            eprintln!("ipc-bench: what would be measured here means nothing:");
            reasons.iter().for_each(|why| eprintln!("  - {why}"));
            eprintln!("  --anyway measures nevertheless, and says so with the figures");
            ExitCode::from(2)
        }
        Err(Trouble::Failed(why)) => {
            eprintln!("ipc-bench: {why}");
            ExitCode::FAILURE
        }
    }
}
