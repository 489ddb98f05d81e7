//! What every transport must do, as tests that a backend instantiates with one line.
//!
//! In the backend's `Cargo.toml`:
//!
//! ```toml
//! [dev-dependencies]
//! ipc-core = { workspace = true, features = ["conformance"] }
//!
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! and in its `tests/conformance.rs`:
//!
//! ```
//! use ipc_core::{conformance::Fixture, local::{Local, LocalConfig}};
//!
//! struct InProcess(Local);
//!
//! impl Fixture for InProcess {
//!     type Transport = Local;
//!
//!     fn transport(&self) -> Local {
//!         self.0.clone()
//!     }
//!
//!     fn config(&self, depth: usize, max_message_len: usize) -> LocalConfig {
//!         LocalConfig::new().depth(depth).max_message_len(max_message_len)
//!     }
//! }
//!
//! ipc_core::conformance_main!(InProcess(Local::new()), end_mark);
//! ```
//!
//! What a transport's [`Capabilities`](crate::Capabilities) don't promise is not tested;
//! cases for sub-traits are asked for by name (`end_mark`, `priority`), and asking for one
//! that the transport lacks doesn't compile.
//!
//! # Processes
//!
//! Cases with several processes start this same executable again. An environment variable
//! tells the copy that it is to play a part in a case instead of running any; it does so
//! and exits. A part is killed with SIGKILL and paused with SIGSTOP, for real.
//!
//! # Time
//!
//! Every wait has a deadline ([`Fixture::patience`]), every child is killed by a guard, and
//! a case that doesn't end is reported as failed while the others go on.

mod batches;
mod child;
mod harness;
mod lifecycle;
mod loans;
#[cfg(test)]
mod mutants;
mod order;
mod payload;
mod processes;
mod stage;
mod subtraits;
mod waits;

use crate::{Channel, EndMark, PriorityReceiver, PrioritySender, Transport};
use child::Part;
use stage::Stage;
use std::{process::ExitCode, sync::Arc, time::Duration};

/// What the suite must know about a backend.
///
/// The expression given to [`conformance_main!`](crate::conformance_main) is evaluated in
/// every child process as well: there the fixture must lead to the same namespace, by
/// reading what [`environment`](Fixture::environment) handed over if need be. It is dropped
/// at the end, in the children too (not in a killed one).
pub trait Fixture: Send + Sync + 'static {
    /// The transport under test.
    type Transport: Transport;

    /// The namespace under test; each call leads to the same.
    fn transport(&self) -> Self::Transport;

    /// How to make a channel with room, at whatever position, for at least `depth` messages
    /// of up to `max_message_len` bytes at once, and not for very many more: tests fill it.
    /// Both are asked for explicitly, in the sense of
    /// [`Transport::open_or_create`].
    fn config(&self, depth: usize, max_message_len: usize) -> <Self::Transport as Transport>::Config;

    /// A long message by this transport's measure, in bytes: channels of depth 2 are made
    /// for it.
    fn large_message_len(&self) -> usize {
        8 * 1024
    }

    /// What child processes find in their environment on top of this process's.
    fn environment(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// How long something may take that should take no time at all.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }
}

/// The cases for one transport: what [`conformance_main!`](crate::conformance_main) runs.
pub struct Suite<F: Fixture> {
    fixture: Arc<F>,
    cases: Vec<Case<F>>,
    parts: Vec<Part<F>>,
}

impl<F: Fixture> Suite<F> {
    /// All cases that the transport's capabilities promise.
    pub fn new(fixture: F) -> Self {
        let mut cases = order::cases();
        cases.extend(waits::cases());
        cases.extend(loans::cases());
        cases.extend(batches::cases());
        cases.extend(lifecycle::cases());
        cases.extend(processes::cases());
        Self { fixture: Arc::new(fixture), cases, parts: processes::parts() }
    }

    /// Plays a part if this process is a child, else runs the cases that the command line
    /// asks for.
    pub fn run(self) -> ExitCode {
        let Self { fixture, cases, parts } = self;
        match child::part_asked_for() {
            Some(part) => child::play(&Stage::new(fixture), &parts, &part),
            None => harness::run(fixture, cases),
        }
    }
}

impl<F: Fixture> Suite<F>
where
    SenderOf<F>: EndMark,
{
    /// Adds the cases for [`EndMark`].
    #[must_use]
    pub fn end_mark(mut self) -> Self {
        self.cases.extend(subtraits::end_mark_cases());
        self
    }
}

impl<F: Fixture> Suite<F>
where
    SenderOf<F>: PrioritySender,
    ReceiverOf<F>: PriorityReceiver,
{
    /// Adds the cases for [`PrioritySender`] and [`PriorityReceiver`].
    #[must_use]
    pub fn priority(mut self) -> Self {
        self.cases.extend(subtraits::priority_cases());
        self
    }
}

/// The `main` of a backend's conformance test: a [`Fixture`], then the sub-traits to be
/// tested (`end_mark`, `priority`). See the [module](crate::conformance).
#[macro_export]
macro_rules! conformance_main {
    ($fixture:expr $(, $capability:ident)* $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::conformance::Suite::new($fixture)$(.$capability())*.run()
        }
    };
}

/// One test.
struct Case<F: Fixture> {
    /// What it shows, as a sentence.
    name: &'static str,
    /// Panics where the transport doesn't.
    run: fn(&Stage<F>),
}

/// The functions named, as cases named after them.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        vec![$($crate::conformance::Case { name: stringify!($case), run: $case::<F> }),*]
    };
}
use cases;

type ChannelOf<F> = <<F as Fixture>::Transport as Transport>::Channel;
type SenderOf<F> = <ChannelOf<F> as Channel>::Sender;
type ReceiverOf<F> = <ChannelOf<F> as Channel>::Receiver;
