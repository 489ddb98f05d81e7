//! `ipc gc`: removes what killed users of transient channels left.

use super::print;
use crate::{
    address::{Address, Scheme},
    args::Gc,
    exit::{Ending, Failure},
};
use ipc_core::{ChannelError, ChannelName};
use ipc_shm::{Shm, Verdict};
use std::fmt::Write;

/// Nothing is left behind among the kernel's queues, which have no transient ones.
pub(crate) fn run(_options: &Gc) -> Result<Ending, Failure> {
    let collected = Shm::new().gc().map_err(|error| Failure::listing(Scheme::Shm, &error))?;
    print(&report(collected))
}

/// A line for each. One that somebody else removed meanwhile was there no more to be left.
fn report(collected: Vec<(ChannelName, Verdict)>) -> String {
    let mut text = String::new();
    for (name, outcome) in collected {
        let address = Address::new(Scheme::Shm, name);
        let _ = match outcome {
            Ok(outcome) => writeln!(text, "{address}  {outcome}"),
            Err(ChannelError::NotFound) => Ok(()),
            Err(error) => writeln!(text, "{address}  left: {error}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::report;
    use ipc_core::{ChannelError, ChannelName};

    #[test]
    fn what_was_removed_meanwhile_is_not_left() {
        let name = |text| ChannelName::new(text).unwrap();
        let collected = vec![
            (name("gone"), Err(ChannelError::NotFound)),
            (name("there"), Err(ChannelError::Limit("why".into()))),
        ];
        assert_eq!(report(collected), "shm:there  left: why\n");
    }
}
