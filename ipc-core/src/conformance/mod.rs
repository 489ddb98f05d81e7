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
//! ipc_core::conformance_main!(InProcess(Local::new()), end_mark, batch_sender, sequenced);
//! ```
//!
//! What a transport's [`Capabilities`] don't promise is not tested. Cases for sub-traits are
//! asked for by name, and asking for one that the transport lacks doesn't compile:
//!
//! | name | tests |
//! |---|---|
//! | `end_mark` | [`EndMark`] |
//! | `priority` | [`PrioritySender`], [`PriorityReceiver`] |
//! | `selective` | [`TypeSender`], [`SelectiveReceiver`] |
//! | `peek` | [`Peek`] |
//! | `descriptors` | [`DescriptorSender`], [`DescriptorReceiver`], on Unix |
//! | `credentials` | [`PeerCredentials`], on Unix |
//! | `batch_sender` | [`BatchSender`] |
//! | `sequenced` | [`Sequenced`] |
//! | `redelivered` | [`Redelivered`] |
//! | `pollable` | [`Pollable`], on Unix |
//! | `pollable_end_mark` | both of them together |
//!
//! # Services
//!
//! What has clients and servers instead of senders and receivers has a suite of its own,
//! instantiated in the same way; all of its cases are for every service:
//!
//! | `main` | fixture | tests |
//! |---|---|---|
//! | [`conformance_main!`](crate::conformance_main) | [`Fixture`] | [`Transport`], sub-traits by name |
//! | [`service_conformance_main!`](crate::service_conformance_main) | [`ServiceFixture`] | [`Client`](crate::Client), [`Server`](crate::Server), [`Request`](crate::Request) |
//!
//! # Broadcasts, losses, newest values
//!
//! Where each message goes to every receiver, a receiver gets what is sent after it was
//! made; so in every case the receivers are there before the sending begins, in other
//! processes too. A lossy channel refuses nothing, so the cases of full channels aren't for
//! it, and the others stay within the room that [`Fixture::config`] sees to. A channel that
//! conflates has cases of its own beside those that send one message at a time.
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

mod batch_sender;
mod batches;
mod broadcasts;
mod child;
mod conflates;
#[cfg(unix)]
mod descriptors;
mod harness;
mod lifecycle;
mod loans;
mod losses;
#[cfg(test)]
mod mutants;
mod order;
mod payload;
mod peek;
#[cfg(unix)]
mod pollable;
mod processes;
mod redelivered;
mod selective;
mod sequenced;
mod services;
mod stage;
mod subtraits;
mod waits;

use crate::{
    BatchSender, Capabilities, Channel, EndMark, Peek, PriorityReceiver, PrioritySender, Redelivered,
    SelectiveReceiver, Sequenced, Transport, TypeSender,
};
#[cfg(unix)]
use crate::{DescriptorReceiver, DescriptorSender, PeerCredentials, Pollable};
use child::Part;
pub use services::{ServiceFixture, ServiceSuite};
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
    ///
    /// Where `depth` means nothing (a channel of the newest value), it is ignored. A channel
    /// that broadcasts must allow for 4 senders and 4 receivers at a time, one that
    /// conflates for a sender and 4 receivers; one that redelivers, for 4 deliveries of a
    /// message.
    fn config(&self, depth: usize, max_message_len: usize) -> <Self::Transport as Transport>::Config;

    /// What the channels made by [`config`](Fixture::config) promise, where the transport
    /// has several kinds and promises only what they have in common.
    fn capabilities(&self) -> Capabilities {
        Self::Transport::CAPABILITIES
    }

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
        let promised = fixture.capabilities();
        let mut suite = Self { fixture: Arc::new(fixture), cases: Vec::new(), parts: Vec::new() };
        suite.cases.extend(order::cases(promised));
        suite.cases.extend(waits::cases(promised));
        suite.cases.extend(loans::cases(promised));
        suite.cases.extend(batches::cases(promised));
        suite.cases.extend(lifecycle::cases(promised));
        suite.cases.extend(processes::cases(promised));
        suite.cases.extend(broadcasts::cases(promised));
        suite.cases.extend(losses::cases(promised));
        suite.cases.extend(conflates::cases(promised));
        suite.parts.extend(processes::parts());
        suite
    }

    /// Plays a part if this process is a child, else runs the cases that the command line
    /// asks for.
    pub fn run(self) -> ExitCode {
        run(self.fixture, self.cases, &self.parts)
    }
}

fn run<F: Surroundings>(fixture: Arc<F>, cases: Vec<Case<F>>, parts: &[Part<F>]) -> ExitCode {
    match child::part_asked_for() {
        Some(part) => child::play(&Stage::new(fixture), parts, &part),
        None => harness::run(fixture, cases),
    }
}

impl<F: Fixture> Suite<F>
where
    SenderOf<F>: EndMark,
{
    /// Adds the cases for [`EndMark`].
    #[must_use]
    pub fn end_mark(mut self) -> Self {
        self.cases.extend(subtraits::end_mark_cases(self.fixture.capabilities()));
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

impl<F: Fixture> Suite<F>
where
    SenderOf<F>: TypeSender,
    ReceiverOf<F>: SelectiveReceiver,
{
    /// Adds the cases for [`TypeSender`] and [`SelectiveReceiver`].
    #[must_use]
    pub fn selective(mut self) -> Self {
        self.cases.extend(selective::cases());
        self
    }
}

impl<F: Fixture> Suite<F>
where
    ReceiverOf<F>: Peek,
{
    /// Adds the cases for [`Peek`].
    #[must_use]
    pub fn peek(mut self) -> Self {
        self.cases.extend(peek::cases());
        self
    }
}

#[cfg(unix)]
impl<F: Fixture> Suite<F>
where
    SenderOf<F>: DescriptorSender,
    ReceiverOf<F>: DescriptorReceiver,
{
    /// Adds the cases for [`DescriptorSender`] and [`DescriptorReceiver`].
    #[must_use]
    pub fn descriptors(mut self) -> Self {
        self.cases.extend(descriptors::cases());
        self
    }
}

#[cfg(unix)]
impl<F: Fixture> Suite<F>
where
    ReceiverOf<F>: PeerCredentials,
{
    /// Adds the cases for [`PeerCredentials`].
    #[must_use]
    pub fn credentials(mut self) -> Self {
        self.cases.extend(descriptors::credentials_cases());
        self
    }
}

impl<F: Fixture> Suite<F>
where
    SenderOf<F>: BatchSender,
{
    /// Adds the cases for [`BatchSender`].
    #[must_use]
    pub fn batch_sender(mut self) -> Self {
        self.cases.extend(batch_sender::cases(self.fixture.capabilities()));
        self.parts.extend(batch_sender::parts());
        self
    }
}

impl<F: Fixture> Suite<F>
where
    ReceiverOf<F>: Sequenced,
{
    /// Adds the cases for [`Sequenced`].
    #[must_use]
    pub fn sequenced(mut self) -> Self {
        self.cases.extend(sequenced::cases(self.fixture.capabilities()));
        self
    }
}

impl<F: Fixture> Suite<F>
where
    ReceiverOf<F>: Redelivered,
{
    /// Adds the cases for [`Redelivered`].
    #[must_use]
    pub fn redelivered(mut self) -> Self {
        self.cases.extend(redelivered::cases(self.fixture.capabilities()));
        self
    }
}

#[cfg(unix)]
impl<F: Fixture> Suite<F>
where
    ReceiverOf<F>: Pollable,
{
    /// Adds the cases for [`Pollable`].
    #[must_use]
    pub fn pollable(mut self) -> Self {
        self.cases.extend(pollable::cases(self.fixture.capabilities()));
        self.parts.extend(pollable::parts());
        self
    }

    /// Adds the cases for [`Pollable`] receivers of an [`EndMark`].
    #[must_use]
    pub fn pollable_end_mark(mut self) -> Self
    where
        SenderOf<F>: EndMark,
    {
        self.cases.extend(pollable::end_mark_cases());
        self
    }
}

/// What the selection of cases asks for.
impl Capabilities {
    /// A full channel makes its sender wait, so that nothing is dropped.
    const fn fills(self) -> bool {
        !self.lossy && !self.conflates
    }

    /// Each message goes to one receiver; what nobody has received waits for somebody.
    const fn shares(self) -> bool {
        !self.broadcasts && !self.conflates
    }

    /// What one receiver gets comes in the order of sending, whoever sent it.
    const fn keeps_one_order(self) -> bool {
        !self.broadcasts && !self.connects
    }

    /// Several receivers at once share what is sent.
    const fn has_many_receivers(self) -> bool {
        self.shares() && !self.exclusive && !self.one_receiver
    }
}

/// The `main` of a backend's conformance test: a [`Fixture`], then the sub-traits to be
/// tested (`end_mark`, `priority`, …). See the [module](crate::conformance).
#[macro_export]
macro_rules! conformance_main {
    ($fixture:expr $(, $capability:ident)* $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::conformance::Suite::new($fixture)$(.$capability())*.run()
        }
    };
}

/// What a stage, the harness and the children need of a fixture, whatever it makes.
trait Surroundings: Send + Sync + 'static {
    fn environment(&self) -> Vec<(String, String)>;
    fn patience(&self) -> Duration;
}

impl<F: Fixture> Surroundings for F {
    fn environment(&self) -> Vec<(String, String)> {
        Fixture::environment(self)
    }

    fn patience(&self) -> Duration {
        Fixture::patience(self)
    }
}

/// One test.
struct Case<F: Surroundings> {
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
