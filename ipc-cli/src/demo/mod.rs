//! `ipc demo`: two processes exchange data, once per model, and the models are compared.
//!
//! The command starts itself anew for each part ([`actor`]) and directs ([`director`]): who
//! is started when, who is killed, what is printed. The actors tell what they do, and how
//! long it took, in lines on their standard output ([`script`]). All figures of the closing
//! table ([`table`]) come from these processes in this run ([`measure`]).
//!
//! `ipc demo durable`, `sync` and `protect` are scenes by themselves ([`durable`], [`sync`],
//! [`protect`]).

mod actor;
mod director;
mod durable;
mod measure;
mod player;
mod protect;
mod scenery;
mod script;
mod sync;
mod table;

use crate::{
    address::Address,
    args,
    backend::{self, Backend, Job},
    exit::{Ending, Failure},
    streams,
};

pub(crate) fn run(options: &args::Demo) -> Result<Ending, Failure> {
    streams::keep_ended_children().map_err(|error| Failure::io("demo", &error))?;
    match &options.part {
        Some(part) if part[0] == sync::PART => sync::play(part),
        Some(part) if part[0] == durable::PART => durable::play(part),
        Some(part) => actor::play(part),
        None => match options.scene {
            None => director::run(),
            Some(args::Scene::Durable) => durable::run(),
            Some(args::Scene::Sync) => sync::run(),
            Some(args::Scene::Protect) => protect::run(options.role.as_deref()),
        },
    }
}

/// Removes the channel, if it is there.
fn strike(address: &Address) {
    struct Striking<'a>(&'a Address);

    impl Job for Striking<'_> {
        type Output = ();

        fn run<B: Backend>(self, backend: &B) {
            // A transient one may be gone already.
            let _ = backend.remove(&self.0.name);
        }
    }

    backend::with(address.scheme, Striking(address));
}
