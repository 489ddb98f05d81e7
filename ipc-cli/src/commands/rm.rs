//! `ipc rm`: removes channels, as many of those named as it can.

use super::all_or_done;
use crate::{
    address::Address,
    args::Rm,
    backend::{self, Backend, Job},
    exit::{Ending, Failure},
};

pub(crate) fn run(options: &Rm) -> Result<Ending, Failure> {
    let named = options.addresses.iter().map(remove);
    let numbered = options.sysv_id.iter().map(|&id| remove_queue(id));
    all_or_done(named.chain(numbered).filter_map(Result::err))
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
