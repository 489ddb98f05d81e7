//! The processes of the demo: what P1, P2 and P3 do.

use super::{
    measure::{Ends, receiving, sending},
    script::{Line, Part, Stage, Step, now, parse_arguments},
};
use crate::{
    address::{Address, Scheme},
    args::Settings,
    backend::{Backend, ReceiverOf, SenderOf},
    exit::{Exit, Failure},
};
use ipc_core::{Channel as _, Receiver as _, RecvError, Sender as _, Wait};
use std::{
    io,
    time::{Duration, Instant},
};

/// How long each exercise is measured.
const MEASURED: Duration = Duration::from_millis(400);
/// Nothing in the demo takes so long, unless the other process is gone.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long P3 looks for a message before it takes it for lost.
const LOOKED_FOR: Duration = Duration::from_millis(200);

const GREETING: &str = "are you there?";
const REPLY: &str = "now I am";
const LAST_WORDS: &str = "remember me";

/// Plays a part to its end (or until it is killed).
pub(crate) fn play(arguments: &[String]) -> Result<(), Failure> {
    let (part, stage) = parse_arguments(arguments)?;
    match stage.scheme() {
        Scheme::Mq => play_over(&ipc_mq::Mq::new(), part, &stage),
        Scheme::Shm => play_over(&ipc_shm::Shm::new(), part, &stage),
    }
}

/// How a backend's endpoints are told to wait.
trait Patient: Backend {
    /// Sleep in the kernel at once.
    fn block(_ends: &mut Ends<Self>) {}

    /// Spin in the program. False if the backend can't.
    fn spin(_ends: &mut Ends<Self>) -> bool {
        false
    }
}

/// A kernel queue's users can only sleep in the kernel.
impl Patient for ipc_mq::Mq {}

impl Patient for ipc_shm::Shm {
    fn block(ends: &mut Ends<Self>) {
        ends.tx.set_waiting(ipc_shm::Waiting::Block);
        ends.rx.set_waiting(ipc_shm::Waiting::Block);
    }

    fn spin(ends: &mut Ends<Self>) -> bool {
        // Two that spin on one processor only keep each other from running.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if processors < 2 {
            return false;
        }
        ends.tx.set_waiting(ipc_shm::Waiting::Spin);
        ends.rx.set_waiting(ipc_shm::Waiting::Spin);
        true
    }
}

fn play_over<B: Patient>(backend: &B, part: Part, stage: &Stage) -> Result<(), Failure> {
    match part {
        Part::P1 => p1(backend, stage),
        Part::P2 => p2(backend, stage),
        Part::P3 => p3(backend, stage),
    }
}

fn p1<B: Patient>(backend: &B, stage: &Stage) -> Result<(), Failure> {
    let config = B::config(&settings(stage)).map_err(|text| Failure::new(Exit::Usage, "demo", text))?;
    let config = B::transient(config);
    let create = |address: &Address| {
        backend.create(&address.name, &config).map_err(|error| Failure::channel(address, &error))
    };
    let there = timed("create", format!("creates {}", stage.there), || create(&stage.there))?;
    let back = timed("create_second", format!("creates {}", stage.back), || create(&stage.back))?;
    let (tx, rx) = (sender::<B>(&there, &stage.there)?, receiver::<B>(&back, &stage.back)?);
    let mut ends = Ends::<B> { tx, rx };
    B::block(&mut ends);
    let text = format!("sends \"{GREETING}\" though nobody is there yet");
    timed("send", text, || ends.tx.send(GREETING.as_bytes()).map_err(sending))?;
    wait_for_cue();

    retrieve::<B>(&mut ends.rx, "the reply")?;
    wait_for_cue();

    let round_trips = ends.round_trips(MEASURED)?;
    figure("block_p50_ns", round_trips.p50.as_nanos());
    figure("block_p99_ns", round_trips.p99.as_nanos());
    for (name, len) in [("small", 8), ("large", stage.len)] {
        let stream = ends.stream(len, MEASURED)?;
        let per_second = stream.messages as f64 / stream.took.as_secs_f64();
        figure(&format!("{name}_messages_per_second"), per_second as u128);
    }
    if B::spin(&mut ends) {
        figure("spin_p50_ns", ends.round_trips(MEASURED)?.p50.as_nanos());
    }
    wait_for_cue();

    let text = format!("sends \"{LAST_WORDS}\"");
    timed("last_words", text, || ends.tx.send(LAST_WORDS.as_bytes()).map_err(sending))?;
    wait_for_cue();
    Ok(())
}

fn p2<B: Patient>(backend: &B, stage: &Stage) -> Result<(), Failure> {
    let open = |address: &Address| {
        backend.open(&address.name).map_err(|error| Failure::channel(address, &error))
    };
    let there = timed("open", format!("opens {}", stage.there), || open(&stage.there))?;
    let back = timed("open_second", format!("opens {}", stage.back), || open(&stage.back))?;
    let (tx, rx) = (sender::<B>(&back, &stage.back)?, receiver::<B>(&there, &stage.there)?);
    let mut ends = Ends::<B> { tx, rx };
    B::block(&mut ends);
    retrieve::<B>(&mut ends.rx, "what waits there")?;
    timed("reply", format!("replies \"{REPLY}\""), || ends.tx.send(REPLY.as_bytes()).map_err(sending))?;
    wait_for_cue();

    ends.echo()?;
    ends.count()?;
    ends.count()?;
    if B::spin(&mut ends) {
        ends.echo()?;
    }
    B::block(&mut ends);
    wait_for_cue();

    // Taken and not released: what becomes of it is the question.
    let start = Instant::now();
    ends.rx.advance(Wait::timeout(PATIENCE)).map_err(receiving)?;
    let text = {
        let message = ends.rx.held();
        let text = String::from_utf8_lossy(&message).into_owned();
        ipc_core::Message::keep(message);
        text
    };
    figure("last_words_delivered", u128::from(text == LAST_WORDS));
    did(now(), start.elapsed(), format!("takes \"{text}\" and holds it"));
    wait_for_cue();
    Ok(())
}

fn p3<B: Backend>(backend: &B, stage: &Stage) -> Result<(), Failure> {
    let address = &stage.there;
    let channel = backend.open(&address.name).map_err(|error| Failure::channel(address, &error))?;
    let mut rx = receiver::<B>(&channel, address)?;
    let start = Instant::now();
    let (found, text) = match rx.advance(Wait::timeout(LOOKED_FOR)) {
        Ok(()) => (1, format!("finds \"{}\" in the channel", String::from_utf8_lossy(&rx.held()))),
        Err(RecvError::TimedOut) => (0, "finds nothing: the message went with P2".into()),
        Err(error) => return Err(receiving(error)),
    };
    figure("held_message_redelivered", found);
    did(now(), start.elapsed(), text);
    Ok(())
}

fn settings(stage: &Stage) -> Settings {
    match stage.scheme() {
        Scheme::Mq => Settings {
            depth: Some(stage.depth),
            max_message: Some(stage.len as u64),
            ..Settings::default()
        },
        Scheme::Shm => Settings::default(),
    }
}

fn sender<B: Backend>(channel: &B::Channel, address: &Address) -> Result<SenderOf<B>, Failure> {
    channel.sender().map_err(|error| Failure::channel(address, &error))
}

fn receiver<B: Backend>(channel: &B::Channel, address: &Address) -> Result<ReceiverOf<B>, Failure> {
    channel.receiver().map_err(|error| Failure::channel(address, &error))
}

fn retrieve<B: Backend>(rx: &mut ReceiverOf<B>, what: &str) -> Result<(), Failure> {
    let start = Instant::now();
    rx.advance(Wait::timeout(PATIENCE)).map_err(receiving)?;
    // A message's time is when it is there, whenever the wait for it began.
    let (at, took) = (now(), start.elapsed());
    did(at, took, format!("retrieves {what}: \"{}\"", String::from_utf8_lossy(&rx.held())));
    Ok(())
}

/// Does it, tells it, and reports how long it took as a figure of this name.
fn timed<T>(name: &str, text: String, what: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let (at, start) = (now(), Instant::now());
    let done = what()?;
    let took = start.elapsed();
    figure(&format!("{name}_ns"), took.as_nanos());
    did(at, took, text);
    Ok(done)
}

fn did(at: Duration, took: Duration, text: String) {
    println!("{}", Line::Did(Step { at, took, text }));
}

fn figure(name: &str, value: u128) {
    println!("{}", Line::Figure { name: name.into(), value: u64::try_from(value).unwrap_or(u64::MAX) });
}

/// Says so, then waits to be told to go on. A director that is gone needs no play.
fn wait_for_cue() {
    println!("{}", Line::Cue);
    if !matches!(io::stdin().read_line(&mut String::new()), Ok(len) if len > 0) {
        std::process::exit(0);
    }
}
