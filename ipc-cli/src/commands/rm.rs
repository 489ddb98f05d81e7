//! `ipc rm`: removes channels, as many of those named as it can.

use crate::{
    address::Address,
    args::Rm,
    backend::{self, Backend, Job},
    exit::{Ending, Failure},
};

pub(crate) fn run(options: &Rm) -> Result<Ending, Failure> {
    let failures = options.addresses.iter().filter_map(|address| remove(address).err());
    // The first failure is the one that is returned, but each is reported in its turn.
    let mut first = None;
    for failure in failures {
        match first {
            None => first = Some(failure),
            Some(_) => eprintln!("{failure}"),
        }
    }
    first.map_or(Ok(Ending::Done), Err)
}

fn remove(address: &Address) -> Result<(), Failure> {
    backend::with(address.scheme, Removing(address))
}

struct Removing<'a>(&'a Address);

impl Job for Removing<'_> {
    type Output = Result<(), Failure>;

    fn run<B: Backend>(self, backend: &B) -> Self::Output {
        backend.remove(&self.0.name).map_err(|error| Failure::channel(self.0, &error))
    }
}
