//! `ipc gc`: removes what killed users of transient channels left.

use super::print;
use crate::{
    address::{Address, Scheme},
    args::Gc,
    exit::{Ending, Failure},
};
use ipc_shm::Shm;
use std::fmt::Write;

/// Nothing is left behind among the kernel's queues, which have no transient ones.
pub(crate) fn run(_options: &Gc) -> Result<Ending, Failure> {
    let collected = Shm::new().gc().map_err(|error| Failure::listing(Scheme::Shm, &error))?;
    let mut text = String::new();
    for (name, outcome) in collected {
        let address = Address::new(Scheme::Shm, name);
        let _ = match outcome {
            Ok(outcome) => writeln!(text, "{address}  {outcome}"),
            Err(error) => writeln!(text, "{address}  left: {error}"),
        };
    }
    print(&text)
}
