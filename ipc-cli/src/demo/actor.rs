//! The processes of the demo: what P1, P2 and P3 do.

use super::{
    measure::{Ends, receiving, sending},
    script::{Line, Part, Stage, Step, now, parse_arguments},
};
use crate::{
    address::{Address, Scheme},
    args::Settings,
    backend::{Backend, ReceiverOf, SenderOf},
    exit::{Ending, Exit, Failure},
};
use ipc_core::{Channel as _, ChannelError, Receiver as _, RecvError, Sender as _, Transport, Wait};
use std::{
    io::{self, Write as _},
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

/// Room for messages in a kernel queue and their length: from what is usual to what a tight
/// limit leaves.
const QUEUES: [(usize, usize); 4] = [(10, 8192), (10, 1024), (4, 256), (2, 64)];

/// Plays a part to its end (or until it is killed). The director is told how that went.
pub(crate) fn play(arguments: &[String]) -> Result<Ending, Failure> {
    let (part, stage) = parse_arguments(arguments)?;
    let played = match stage.scheme() {
        Scheme::Mq => play_over(&ipc_mq::Mq::new(), part, &stage),
        // Scripts name the two models only.
        _ => play_over(&ipc_shm::Shm::new(), part, &stage),
    };
    if let Err(failure) = played {
        tell(&Line::Failed { exit: failure.exit, text: failure.text().into() });
    }
    Ok(Ending::Done)
}

/// How a backend's endpoints are told to wait.
trait Patient: Backend + Sized {
    /// Sleep in the kernel at once.
    fn block(_ends: &mut Ends<Self>) {}

    /// Spin for a moment in the program, then sleep. False if the backend can't.
    fn spin_first(_ends: &mut Ends<Self>) -> bool {
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

    fn spin_first(ends: &mut Ends<Self>) -> bool {
        ends.tx.set_waiting(ipc_shm::Waiting::Adaptive);
        ends.rx.set_waiting(ipc_shm::Waiting::Adaptive);
        true
    }
}

fn play_over<B: Patient>(backend: &B, part: Part, stage: &Stage) -> Result<(), Failure> {
    match part {
        Part::P1 => p1(backend, stage).inspect_err(|_| {
            // Even if the director, who does so too, was killed. There may be none.
            for address in [&stage.there, &stage.back] {
                let _ = backend.remove(&address.name);
            }
        }),
        Part::P2 => p2(backend, stage),
        Part::P3 => p3(backend, stage),
    }
}

fn p1<B: Patient>(backend: &B, stage: &Stage) -> Result<(), Failure> {
    let ((there, back), len) = create_both(backend, stage)?;
    figure("large_len", len as u128);
    let (tx, rx) = (sender::<B>(&there, &stage.there)?, receiver::<B>(&back, &stage.back)?);
    let mut ends = Ends::<B> { tx, rx };
    B::block(&mut ends);
    let text = format!("sends \"{GREETING}\" though nobody is there yet");
    timed("send", text, || ends.tx.send(GREETING.as_bytes()).map_err(sending))?;
    wait_for_cue()?;

    retrieve::<B>(&mut ends.rx, "the reply")?;
    wait_for_cue()?;

    let round_trips = ends.round_trips(MEASURED)?;
    figure("block_p50_ns", round_trips.p50.as_nanos());
    figure("block_p99_ns", round_trips.p99.as_nanos());
    for (name, len) in [("small", 8), ("large", len)] {
        let stream = ends.stream(len, MEASURED)?;
        let per_second = stream.messages as f64 / stream.took.as_secs_f64();
        figure(&format!("{name}_messages_per_second"), per_second as u128);
    }
    if B::spin_first(&mut ends) {
        figure("adaptive_p50_ns", ends.round_trips(MEASURED)?.p50.as_nanos());
    }
    wait_for_cue()?;

    let text = format!("sends \"{LAST_WORDS}\"");
    timed("last_words", text, || ends.tx.send(LAST_WORDS.as_bytes()).map_err(sending))?;
    wait_for_cue()
}

fn p2<B: Patient>(backend: &B, stage: &Stage) -> Result<(), Failure> {
    let open =
        |address: &Address| backend.open(&address.name).map_err(|error| Failure::channel(address, &error));
    let there = timed("open", format!("opens {}", stage.there), || open(&stage.there))?;
    let back = timed("open_second", format!("opens {}", stage.back), || open(&stage.back))?;
    let (tx, rx) = (sender::<B>(&back, &stage.back)?, receiver::<B>(&there, &stage.there)?);
    let mut ends = Ends::<B> { tx, rx };
    B::block(&mut ends);
    retrieve::<B>(&mut ends.rx, "what waits there")?;
    timed("reply", format!("replies \"{REPLY}\""), || ends.tx.send(REPLY.as_bytes()).map_err(sending))?;
    wait_for_cue()?;

    ends.echo()?;
    ends.count()?;
    ends.count()?;
    if B::spin_first(&mut ends) {
        ends.echo()?;
    }
    B::block(&mut ends);
    wait_for_cue()?;

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
    wait_for_cue()
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

/// Both channels, as large as the system grants, and the longest message they take.
fn create_both<B: Backend>(backend: &B, stage: &Stage) -> Result<(Pair<B>, usize), Failure> {
    let mut sizes: Vec<_> = match stage.scheme() {
        Scheme::Mq => QUEUES.into_iter().filter(|&(_, len)| len <= stage.len).collect(),
        _ => vec![(0, stage.len)],
    };
    // The last one's refusal is final.
    let last = sizes.pop().ok_or_else(|| Failure::new(Exit::Usage, "demo", "no room for a message"))?;
    for (depth, len) in sizes {
        match create(backend, stage, depth, len) {
            Err((_, ChannelError::Limit(_))) => {}
            Err((address, error)) => return Err(Failure::channel(address, &error)),
            Ok(pair) => return Ok((pair, len)),
        }
    }
    match create(backend, stage, last.0, last.1) {
        Err((address, error)) => Err(Failure::channel(address, &error)),
        Ok(pair) => Ok((pair, last.1)),
    }
}

/// Both channels, or neither.
fn create<'s, B: Backend>(
    backend: &B,
    stage: &'s Stage,
    depth: usize,
    len: usize,
) -> Result<Pair<B>, (&'s Address, ChannelError)> {
    let settings = match stage.scheme() {
        Scheme::Mq => Settings { depth: Some(depth), max_message: Some(len as u64), ..Settings::default() },
        _ => Settings::default(),
    };
    let create = |address: &'s Address| {
        let made = B::config(&settings).map_err(ChannelError::InvalidConfig).and_then(|config| {
            let config = B::transient(config);
            clocked(|| backend.create(&address.name, &config))
        });
        made.map_err(|error| (address, error))
    };
    let (there, there_when) = create(&stage.there)?;
    match create(&stage.back) {
        Ok((back, back_when)) => {
            there_when.tell("create", format!("creates {}", stage.there));
            back_when.tell("create_second", format!("creates {}", stage.back));
            Ok((there, back))
        }
        Err(refused) => {
            drop(there);
            // It is tried again, smaller, or reported as it is.
            let _ = backend.remove(&stage.there.name);
            Err(refused)
        }
    }
}

/// The channels of both directions.
type Pair<B> = (<B as Transport>::Channel, <B as Transport>::Channel);

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

/// When something was done.
struct When {
    at: Duration,
    took: Duration,
}

impl When {
    /// Tells what was done then, and how long it took as a figure of this name.
    fn tell(self, name: &str, text: String) {
        figure(&format!("{name}_ns"), self.took.as_nanos());
        did(self.at, self.took, text);
    }
}

/// Does it, and looks at the clock.
fn clocked<T, E>(what: impl FnOnce() -> Result<T, E>) -> Result<(T, When), E> {
    let (at, start) = (now(), Instant::now());
    let done = what()?;
    Ok((done, When { at, took: start.elapsed() }))
}

/// Does it and tells it.
fn timed<T>(name: &str, text: String, what: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let (done, when) = clocked(what)?;
    when.tell(name, text);
    Ok(done)
}

fn did(at: Duration, took: Duration, text: String) {
    tell(&Line::Did(Step { at, took, text }));
}

fn figure(name: &str, value: u128) {
    tell(&Line::Figure { name: name.into(), value: u64::try_from(value).unwrap_or(u64::MAX) });
}

fn tell(line: &Line) {
    // A director that is gone is noticed at the next cue.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Says so, then waits to be told to go on.
fn wait_for_cue() -> Result<(), Failure> {
    tell(&Line::Cue);
    match io::stdin().read_line(&mut String::new()) {
        Ok(len) if len > 0 => Ok(()),
        _ => Err(Failure::new(Exit::Failure, "demo", "the director is gone")),
    }
}
