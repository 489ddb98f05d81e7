//! `ipc create`: makes a channel.

use crate::{
    args::Create,
    backend::{self, Backend, Job},
    exit::{Ending, Failure},
};

pub(crate) fn run(options: &Create) -> Result<Ending, Failure> {
    backend::with(options.address.scheme, Creating(options))
}

struct Creating<'a>(&'a Create);

impl Job for Creating<'_> {
    type Output = Result<Ending, Failure>;

    fn run<B: Backend>(self, backend: &B) -> Self::Output {
        let Create { address, settings } = self.0;
        let config = backend::config::<B>(address, settings)?;
        match backend.create(&address.name, &config) {
            Ok(_) => Ok(Ending::Done),
            Err(error) => Err(Failure::channel(address, &error)),
        }
    }
}
