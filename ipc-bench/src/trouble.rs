//! Why something yields no figures.

use nix::sys::signal::Signal;
use std::error::Error;

/// The result of what can fail for reasons that are only told to the user.
pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Why a block yields no figures.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The user, or the system, wants the whole run to end.
    Interrupted(Signal),
    /// Nobody reads the report any more.
    ReaderGone,
    /// This block failed.
    Failed(String),
}

impl<E: Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}
