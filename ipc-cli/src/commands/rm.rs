//! `ipc rm`: removes channels, as many of those named as it can.

use crate::{
    address::Address,
    args::Rm,
    backend::{self, Backend, Job},
    exit::{Ending, Failure},
};

pub(crate) fn run(options: &Rm) -> Result<Ending, Failure> {
    let named = options.addresses.iter().map(remove);
    let numbered = options.sysv_id.iter().map(|&id| remove_queue(id));
    let failures: Vec<_> = named.chain(numbered).filter_map(Result::err).collect();
    // Each is reported in its turn, and the first decides how the command ends.
    match failures.split_first() {
        None => Ok(Ending::Done),
        Some((first, others)) => Err(others.iter().fold(first.clone(), Failure::and)),
    }
}

fn remove(address: &Address) -> Result<(), Failure> {
    backend::with(address.scheme, Removing(address))
}

fn remove_queue(id: i32) -> Result<(), Failure> {
    ipc_mq::Sysv::new().remove_queue(id).map_err(|error| Failure::numbered(id, &error))
}

struct Removing<'a>(&'a Address);

impl Job for Removing<'_> {
    type Output = Result<(), Failure>;

    fn run<B: Backend>(self, backend: &B) -> Self::Output {
        backend.remove(&self.0.name).map_err(|error| Failure::removal(self.0, &error))
    }
}
