//! `ipc recover`: accepts what a channel holds that was in use when the machine went down.

use crate::{
    address::Scheme,
    args::Recover,
    exit::{Ending, Exit, Failure},
};
use ipc_shm::Shm;

pub(crate) fn run(options: &Recover) -> Result<Ending, Failure> {
    let address = &options.address;
    if address.scheme != Scheme::Shm {
        let text = "kernel queues don't outlive the machine: there is nothing to recover";
        return Err(Failure::new(Exit::Usage, address, text));
    }
    match Shm::new().recover(&address.name) {
        Ok(()) => Ok(Ending::Done),
        Err(error) => Err(Failure::channel(address, &error)),
    }
}
