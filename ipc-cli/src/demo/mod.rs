//! `ipc demo`: two processes exchange data, once per model, and the models are compared.
//!
//! The command starts itself anew for each part ([`actor`]) and directs ([`director`]): who
//! is started when, who is killed, what is printed. The actors tell what they do, and how
//! long it took, in lines on their standard output ([`script`]). All figures of the closing
//! table ([`table`]) come from these processes in this run ([`measure`]).
//!
//! `ipc demo protect` is a scene by itself ([`protect`]).

mod actor;
mod director;
mod measure;
mod player;
mod protect;
mod scenery;
mod script;
mod sync;
mod table;

use crate::{
    args,
    exit::{Ending, Failure},
};

pub(crate) fn run(options: &args::Demo) -> Result<Ending, Failure> {
    match &options.part {
        Some(part) if part[0] == sync::PART => sync::play(part),
        Some(part) => actor::play(part),
        None => match options.scene {
            None => director::run(),
            Some(args::Scene::Sync) => sync::run(),
            Some(args::Scene::Protect) => protect::run(options.role.as_deref()),
        },
    }
}
