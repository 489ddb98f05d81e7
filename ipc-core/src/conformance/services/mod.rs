//! Request and response: what every service must do, whoever makes it.

pub(super) mod answers;
pub(super) mod given_up;
pub(super) mod kills;
pub(super) mod processes;
pub(super) mod waits;

use super::{
    Case, Surroundings,
    child::Part,
    payload::Stamp,
    stage::{DEPTH, LEN, Stage, leave_nothing, unused_name},
};
use crate::{CallError, ChannelError, ChannelName, Client, RecvError, Request, Server, Wait};
use std::{ops::Deref, process::ExitCode, sync::Arc, time::Duration};

/// What the suite must know about a kind of service.
///
/// The expression given to [`service_conformance_main!`](crate::service_conformance_main) is
/// evaluated in every child process as well, see [`Fixture`](super::Fixture).
pub trait ServiceFixture: Send + Sync + 'static {
    /// A service that this process has made or opened.
    type Service: Send + Sync;
    /// Its calling ends.
    type Client: Client + 'static;
    /// Its answering ends.
    type Server: Server + 'static;

    /// Makes a service with room for at least `depth` calls under way at once, of requests and
    /// responses of up to `max_message_len` bytes, and not for very many more: tests fill it.
    /// Up to 12 clients and 12 servers of it are there at once.
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    fn create(
        &self,
        name: &ChannelName,
        depth: usize,
        max_message_len: usize,
    ) -> Result<Self::Service, ChannelError>;

    /// Opens a service that exists.
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    fn open(&self, name: &ChannelName) -> Result<Self::Service, ChannelError>;

    /// Removes a service.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; [`ChannelError::Busy`] where one that is in use stays.
    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError>;

    /// A client of the service.
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    fn client(&self, service: &Self::Service) -> Result<Self::Client, ChannelError>;

    /// A server of the service.
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    fn server(&self, service: &Self::Service) -> Result<Self::Server, ChannelError>;

    /// Whether clients and servers may be in different processes.
    fn cross_process(&self) -> bool {
        true
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

/// The cases for one kind of service: what
/// [`service_conformance_main!`](crate::service_conformance_main) runs.
pub struct ServiceSuite<F: ServiceFixture> {
    pub(super) services: Arc<Services<F>>,
    pub(super) cases: Vec<Case<Services<F>>>,
    parts: Vec<Part<Services<F>>>,
}

impl<F: ServiceFixture> ServiceSuite<F> {
    /// All cases.
    pub fn new(fixture: F) -> Self {
        let mut cases = Vec::new();
        cases.extend(answers::cases());
        cases.extend(waits::cases());
        cases.extend(given_up::cases());
        if fixture.cross_process() {
            cases.extend(processes::cases());
            cases.extend(kills::cases());
        }
        Self { services: Arc::new(Services(fixture)), cases, parts: processes::parts() }
    }

    /// Plays a part if this process is a child, else runs the cases that the command line
    /// asks for.
    pub fn run(self) -> ExitCode {
        super::run(self.services, self.cases, &self.parts)
    }
}

/// The `main` of the conformance test of a kind of service, from its [`ServiceFixture`]. See
/// the [module](crate::conformance).
#[macro_export]
macro_rules! service_conformance_main {
    ($fixture:expr $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::conformance::ServiceSuite::new($fixture).run()
        }
    };
}

/// A fixture of services, for a stage.
pub(super) struct Services<F>(pub(super) F);

impl<F: ServiceFixture> Surroundings for Services<F> {
    fn environment(&self) -> Vec<(String, String)> {
        self.0.environment()
    }

    fn patience(&self) -> Duration {
        self.0.patience()
    }
}

type ServiceStage<F> = Stage<Services<F>>;
type TicketOf<F> = <<F as ServiceFixture>::Client as Client>::Ticket;

impl<F: ServiceFixture> ServiceStage<F> {
    /// A new service of [`DEPTH`] and [`LEN`].
    #[track_caller]
    fn service(&self) -> Made<F> {
        let name = unused_name();
        let service = self.fixture().0.create(&name, DEPTH, LEN).expect("create a service");
        Made { name, services: Arc::clone(self.fixture()), service: Some(service) }
    }

    /// In a child: a service that exists.
    #[track_caller]
    fn open(&self, name: &ChannelName) -> F::Service {
        self.fixture().0.open(name).expect("open the service")
    }

    /// Requests an answer to a stamped message.
    #[track_caller]
    fn submit(&self, client: &mut F::Client, stamp: Stamp) -> TicketOf<F> {
        client.submit(&stamp.message_up_to(LEN), self.patiently()).expect("submit")
    }

    /// The next request, which must be stamped.
    #[track_caller]
    fn take(&self, server: &mut F::Server) -> Stamp {
        server.advance(self.patiently()).expect("a request");
        let request = server.held();
        let stamp = Stamp::of(&request);
        // It stays the server's.
        std::mem::forget(request);
        stamp
    }

    /// Answers what was taken; whether there was somebody to answer.
    #[track_caller]
    fn respond(&self, server: &mut F::Server) -> bool {
        let request = server.held();
        let answer = answer_to(Stamp::of(&request));
        request.respond(&answer).expect("respond")
    }

    /// Takes the next request and answers it.
    #[track_caller]
    fn serve_one(&self, server: &mut F::Server) -> Stamp {
        let stamp = self.take(server);
        assert!(self.respond(server), "the caller of {stamp:?} waits, and is taken for gone");
        stamp
    }

    /// Collects an answer: that to this request.
    #[track_caller]
    fn collect(&self, client: &mut F::Client, ticket: TicketOf<F>, stamp: Stamp) {
        let response = client.collect(ticket, self.patiently()).expect("an answer");
        assert_answers(&response, stamp);
    }

    /// A call and its answer, within the patience.
    #[track_caller]
    fn call(&self, client: &mut F::Client, stamp: Stamp) {
        let response = client.call(&stamp.message_up_to(LEN), self.patiently()).expect("an answer");
        assert_answers(&response, stamp);
    }

    /// Makes calls of round 0 until there is no room.
    #[track_caller]
    fn fill(&self, client: &mut F::Client) -> Vec<TicketOf<F>> {
        /// No fixture's service has more places.
        const FULL_AT_LATEST: u64 = 100_000;
        let mut tickets = Vec::new();
        for sequence in 0..FULL_AT_LATEST {
            match client.submit(&Stamp::new(0, sequence).message(LEN), Wait::Never) {
                Ok(ticket) => tickets.push(ticket),
                Err(CallError::WouldBlock) => return tickets,
                Err(error) => panic!("call {sequence} of a service to be filled: {error}"),
            }
        }
        panic!("not full after {FULL_AT_LATEST} calls: let the fixture make a smaller service")
    }

    /// How many calls can be under way now; none is afterwards.
    #[track_caller]
    fn free_places(&self, client: &mut F::Client) -> usize {
        let tickets = self.fill(client);
        let count = tickets.len();
        tickets.into_iter().for_each(|ticket| client.abandon(ticket));
        count
    }

    /// [`DEPTH`] calls can be under way, at the latest when the patience is at an end.
    #[track_caller]
    fn assert_no_place_is_lost(&self, client: &mut F::Client) {
        let mut tickets = Vec::new();
        for sequence in 0..DEPTH as u64 {
            let lost = DEPTH as u64 - sequence;
            match client.submit(&Stamp::new(0, sequence).message(LEN), self.patiently()) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => panic!("of {DEPTH} places, {lost} don't come free: {error:?}"),
            }
        }
    }
}

/// A service that is removed at the end of the case. Bind it before its endpoints, so that
/// they are gone by then.
struct Made<F: ServiceFixture> {
    name: ChannelName,
    services: Arc<Services<F>>,
    service: Option<F::Service>,
}

impl<F: ServiceFixture> Made<F> {
    fn service(&self) -> &F::Service {
        self.service.as_ref().expect("it is there until it is dropped")
    }

    #[track_caller]
    fn client(&self) -> F::Client {
        self.services.0.client(self.service()).expect("a client")
    }

    #[track_caller]
    fn server(&self) -> F::Server {
        self.services.0.server(self.service()).expect("a server")
    }

    #[track_caller]
    fn ends(&self) -> (F::Client, F::Server) {
        (self.client(), self.server())
    }
}

impl<F: ServiceFixture> Drop for Made<F> {
    fn drop(&mut self) {
        self.service.take();
        leave_nothing(&self.name, self.services.patience(), || self.services.0.remove(&self.name));
    }
}

/// In the stamp of an answer, beside the round of its request.
const ANSWER: u32 = 1 << 31;

fn answer_to(request: Stamp) -> Vec<u8> {
    Stamp::new(request.round | ANSWER, request.sequence).message_up_to(LEN)
}

#[track_caller]
fn assert_answers(response: &[u8], request: Stamp) {
    let stamp = Stamp::of(response);
    assert_eq!(stamp, Stamp::new(request.round | ANSWER, request.sequence), "the answer to {request:?}");
}

/// No request is there.
#[track_caller]
fn assert_idle(server: &mut impl Server) {
    match server.next(Wait::Never) {
        Err(RecvError::WouldBlock) => {}
        Err(error) => panic!("without a request, the server was told: {error}"),
        Ok(request) => panic!("one request too many: {:?}", Stamp::of(&request)),
    }
}

/// An answer that can be shown.
fn shown(answer: Result<impl Deref<Target = [u8]>, CallError>) -> Result<Vec<u8>, CallError> {
    answer.map(|response| response.to_vec())
}

/// The call ended with this error, or the wait for it did.
macro_rules! assert_told {
    ($answer:expr, $error:pat) => {{
        let answer = $answer;
        assert!(matches!(answer, Err($error)), "{} was expected: {answer:?}", stringify!($error));
    }};
}
use assert_told;
