//! `ipc demo sync`: two processes add to one number, without a lock and with each.
//!
//! Each scene begins anew: a number in shared memory, two processes that add one to it so
//! many times, and then a look at what it comes to. Without a lock, each reads the number,
//! adds one, and stores that; whatever the other one stored in between is lost.

use super::{player::Player, scenery::Ink};
use crate::{
    commands::print,
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
    units::{Span, grouped},
};
use ipc_core::ChannelError;
use ipc_shm::sync::{Barrier, Condvar, Event, LockError, Mutex, Once, RwLock, Semaphore, Shared, State};
use std::{
    error::Error,
    fmt,
    time::{Duration, Instant},
};

/// What stands in the first place of a part of this scene.
pub(super) const PART: &str = "sync";

/// How one of the two adds, and how often.
struct Way {
    name: &'static str,
    times: u64,
    how: &'static str,
    add: fn(&Stage) -> Result<(), Trouble>,
}

type Trouble = Box<dyn Error>;

const WAYS: &[Way] = &[
    Way { name: "no lock", times: 100_000, how: "each reads it, adds one, stores that", add: without },
    Way { name: "mutex", times: 100_000, how: "one has it at a time", add: by_mutex },
    Way { name: "rwlock", times: 100_000, how: "one writes, when nobody reads", add: by_rwlock },
    Way { name: "semaphore", times: 100_000, how: "there is one permit to do so", add: by_semaphore },
    Way { name: "shared", times: 100_000, how: "each change happens at once", add: by_shared },
    Way { name: "condvar", times: 200, how: "they take turns, and tell each other", add: by_condvar },
    Way {
        name: "barrier",
        times: 200,
        how: "one adds, they meet, the other adds, they meet",
        add: by_barrier,
    },
    Way { name: "event", times: 100_000, how: "the second begins when the first is done", add: by_event },
    Way { name: "once", times: 1, how: "whoever comes first adds all of it", add: by_once },
];

/// Where one of the two is.
struct Stage {
    state: State,
    prefix: String,
    /// The first one or the second one.
    is_first: bool,
    times: u64,
}

impl Stage {
    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }
}

pub(super) fn run() -> Result<Ending, Failure> {
    let interrupt = Interrupt::new().map_err(|error| Failure::io("demo", &error))?;
    interrupt.on_signals().map_err(|error| Failure::io("demo", &error))?;
    let ink = Ink::for_stdout();
    let begin = Instant::now();
    say(&format!(
        "{}\n\n  Two processes add one to a number in shared memory, at the same time, over and over.\n\n",
        ink.heading("Synchronization")
    ))?;
    say(&format!("  {:<10} {:>10} {:>10} {:>10}  {:>9}  \n", "", "added", "it is", "lost", "took"))?;
    for (number, way) in WAYS.iter().enumerate() {
        let prefix = format!("demo-{}-{number}", std::process::id());
        let stage = Stage { state: State::new(), prefix, is_first: true, times: way.times };
        let answer = perform(&stage, way);
        strike(&stage);
        if let Some(ending) = interrupt.ending() {
            return Ok(ending);
        }
        let (found, took) = answer.map_err(|error| Failure::new(Exit::Failure, "demo", error))?;
        let added = if way.name == "once" { 1 } else { 2 * way.times };
        let lost = added.saturating_sub(found);
        say(&format!(
            "  {} {:>10} {:>10} {:>10}  {}  {}\n",
            ink.actor(format_args!("{:<10}", way.name)),
            grouped(added),
            grouped(found),
            grouped(lost),
            ink.time(format_args!("{:>9}", Span(took).to_string())),
            ink.aside(way.how),
        ))?;
        if way.name != "no lock" && found != added {
            return Err(Failure::new(Exit::Failure, way.name, format_args!("{} were lost", grouped(lost))));
        }
    }
    say(&ink.aside(format_args!("\n  All of it took {}.\n", Span(begin.elapsed()))))?;
    Ok(Ending::Done)
}

/// Has both processes add; what the number is then, and how long it took.
fn perform(stage: &Stage, way: &Way) -> Result<(u64, Duration), Trouble> {
    drop(numbers(stage)?);
    let mut players = [start(stage, way, "first")?, start(stage, way, "second")?];
    // Both have everything open before any begins.
    for player in &mut players {
        player.expect("ready")?;
    }
    let begin = Instant::now();
    for player in &mut players {
        player.tell("")?;
    }
    for player in &mut players {
        player.expect("done")?;
    }
    let took = begin.elapsed();
    let (mutex, rwlock, mut shared) = numbers(stage)?;
    let found = *mutex.lock()? + *rwlock.read()? + *shared.read()?;
    Ok((found, took))
}

/// The number, in each of its forms.
type Numbers = (Mutex<u64>, RwLock<u64>, Shared<u64>);

/// Opens them; a way uses one of them.
fn numbers(stage: &Stage) -> Result<Numbers, ChannelError> {
    let state = &stage.state;
    Ok((
        state.open_or_create(&stage.name("mutex"), || 0)?,
        state.open_or_create(&stage.name("rwlock"), || 0)?,
        state.open_or_create(&stage.name("shared"), || 0)?,
    ))
}

fn strike(stage: &Stage) {
    for what in ["mutex", "rwlock", "shared", "permits", "turn", "meet", "begin", "once"] {
        // Most ways don't use most of them.
        let _ = stage.state.remove(&stage.name(what));
    }
}

fn start(stage: &Stage, way: &Way, which: &str) -> Result<Player, Trouble> {
    Ok(Player::start(&[PART, way.name, &stage.prefix, which])?)
}

fn say(text: &str) -> Result<(), Failure> {
    print(text).map(drop)
}

/// Plays one of the two: `sync WAY PREFIX first|second`.
pub(super) fn play(part: &[String]) -> Result<Ending, Failure> {
    let way = WAYS.iter().find(|way| way.name == part[1]);
    let way = way.ok_or_else(|| Failure::new(Exit::Usage, &part[1], "no such part"))?;
    let (prefix, is_first) = (part[2].clone(), part[3] == "first");
    let stage = Stage { state: State::new(), prefix, is_first, times: way.times };
    (way.add)(&stage).map_err(|error| Failure::new(Exit::Failure, way.name, error))?;
    say("done\n")?;
    Ok(Ending::Done)
}

/// Everything is open; waits for the word to begin.
fn ready() -> Result<(), Trouble> {
    print("ready\n").map_err(Spoilt)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

/// A failure, as an error.
#[derive(Debug)]
struct Spoilt(Failure);

impl fmt::Display for Spoilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.text())
    }
}

impl Error for Spoilt {}

fn without(stage: &Stage) -> Result<(), Trouble> {
    let (_, _, mut number) = numbers(stage)?;
    ready()?;
    for _ in 0..stage.times {
        let read = *number.read()?;
        number.update(|number| *number = read + 1)?;
    }
    Ok(())
}

fn by_mutex(stage: &Stage) -> Result<(), Trouble> {
    let (number, ..) = numbers(stage)?;
    ready()?;
    for _ in 0..stage.times {
        *number.lock()? += 1;
    }
    Ok(())
}

fn by_rwlock(stage: &Stage) -> Result<(), Trouble> {
    let (_, number, _) = numbers(stage)?;
    ready()?;
    for _ in 0..stage.times {
        *number.write()? += 1;
    }
    Ok(())
}

fn by_semaphore(stage: &Stage) -> Result<(), Trouble> {
    let permits = stage.state.open_or_create::<Semaphore>(&stage.name("permits"), || 1)?;
    let (_, _, mut number) = numbers(stage)?;
    ready()?;
    for _ in 0..stage.times {
        let _permit = permits.acquire()?;
        let read = *number.read()?;
        number.update(|number| *number = read + 1)?;
    }
    Ok(())
}

fn by_shared(stage: &Stage) -> Result<(), Trouble> {
    let (_, _, mut number) = numbers(stage)?;
    ready()?;
    for _ in 0..stage.times {
        number.update(|number| *number += 1)?;
    }
    Ok(())
}

fn by_condvar(stage: &Stage) -> Result<(), Trouble> {
    let turn = stage.state.open_or_create::<Condvar>(&stage.name("turn"), || ())?;
    let (number, ..) = numbers(stage)?;
    ready()?;
    let mine = u64::from(!stage.is_first);
    for _ in 0..stage.times {
        *turn.wait_while(number.lock()?, |number| *number % 2 != mine)? += 1;
        turn.notify_all()?;
    }
    Ok(())
}

fn by_barrier(stage: &Stage) -> Result<(), Trouble> {
    let meet = stage.state.open_or_create::<Barrier>(&stage.name("meet"), || 2)?;
    let (_, _, mut number) = numbers(stage)?;
    ready()?;
    for round in 0..2 * stage.times {
        if (round % 2 == 0) == stage.is_first {
            let read = *number.read()?;
            number.update(|number| *number = read + 1)?;
        }
        meet.wait()?;
    }
    Ok(())
}

fn by_event(stage: &Stage) -> Result<(), Trouble> {
    let begin = stage.state.open_or_create::<Event>(&stage.name("begin"), || ())?;
    let (_, _, mut number) = numbers(stage)?;
    ready()?;
    if !stage.is_first {
        begin.wait()?;
    }
    for _ in 0..stage.times {
        let read = *number.read()?;
        number.update(|number| *number = read + 1)?;
    }
    begin.set()?;
    Ok(())
}

fn by_once(stage: &Stage) -> Result<(), Trouble> {
    let once = stage.state.open_or_create::<Once>(&stage.name("once"), || ())?;
    let (_, _, mut number) = numbers(stage)?;
    ready()?;
    let mut answer: Result<(), LockError> = Ok(());
    once.call(|_| answer = number.update(|number| *number += 1))?;
    Ok(answer?)
}
