//! Who is started when, who is killed, and what the audience sees.

use super::{
    scenery::{Ink, diagram, title},
    script::{self, Line, Part, Stage, Step},
    strike,
    table::{self, Figures},
};
use crate::{
    address::Scheme,
    commands::print,
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
    units::Span,
};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// Longer than an actor's own patience.
const PATIENCE: Duration = Duration::from_secs(18);
/// How often a signal to the director is looked for while the actors play.
const GLANCE: Duration = Duration::from_millis(50);

/// The length of the long messages, unless the system's limits leave less.
const LARGE_LEN: usize = 8192;

pub(crate) fn run() -> Result<Ending, Failure> {
    let interrupt = Interrupt::new().map_err(|error| Failure::io("demo", &error))?;
    interrupt.on_signals().map_err(|error| Failure::io("demo", &error))?;
    let ink = Ink::for_stdout();
    let begin = Instant::now();
    let prefix = format!("demo-{}", std::process::id());
    let mut len = LARGE_LEN;
    let mut models = Vec::new();
    let mut unavailable = None;
    for scheme in Scheme::MODELS {
        say(&format!("{}\n{}\n", ink.heading(title(scheme)), diagram(scheme).trim_start_matches('\n')))?;
        let mut play = Play::new(&prefix, Stage::new(scheme, &prefix, len)?, ink, &interrupt);
        match play.perform() {
            Ok(figures) => {
                // Both models are to send messages of one length.
                len = usize::try_from(figures.large_len()).unwrap_or(LARGE_LEN);
                models.push((scheme, figures));
            }
            Err(Mishap::Unavailable(failure)) => {
                // The other model is still worth seeing.
                say("  It can't be shown here; why not stands at the end.\n\n")?;
                unavailable = Some(failure);
            }
            Err(Mishap::Failed(failure)) => {
                drop(play);
                return interrupt.ending().ok_or(failure);
            }
        }
    }
    if !models.is_empty() {
        say(&table::render(&models, ink))?;
        say(&ink.aside(format_args!("  All of it took {}.\n", Span(begin.elapsed()))))?;
    }
    unavailable.map_or(Ok(Ending::Done), Err)
}

/// Why a model's performance came to no end.
enum Mishap {
    /// The stage could not be set.
    Unavailable(Failure),
    /// Something broke.
    Failed(Failure),
}

impl From<Failure> for Mishap {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// One model's performance. When it is dropped its processes and channels are gone.
struct Play<'a> {
    prefix: &'a str,
    stage: Stage,
    ink: Ink,
    interrupt: &'a Interrupt,
    cast: Vec<Actor>,
    heard: Receiver<(Part, Option<Line>)>,
    mouth: Sender<(Part, Option<Line>)>,
    figures: Figures,
}

impl<'a> Play<'a> {
    fn new(prefix: &'a str, stage: Stage, ink: Ink, interrupt: &'a Arc<Interrupt>) -> Self {
        let (mouth, heard) = mpsc::channel();
        Self { prefix, stage, ink, interrupt, cast: Vec::new(), heard, mouth, figures: Figures::default() }
    }

    fn perform(&mut self) -> Result<Figures, Mishap> {
        self.enter(Part::P1)?;
        self.listen(&[Part::P1]).map_err(|failure| match self.interrupt.cause() {
            None => Mishap::Unavailable(failure),
            Some(_) => Mishap::Failed(failure),
        })?;
        self.remark("P2 doesn't exist yet. Now it is started.")?;
        self.enter(Part::P2)?;
        self.cue(Part::P1)?;
        self.listen(&[Part::P1, Part::P2])?;
        self.remark("They measure: round trips, streams of messages …")?;
        self.cue(Part::P2)?;
        self.cue(Part::P1)?;
        self.listen(&[Part::P1, Part::P2])?;
        self.cue(Part::P1)?;
        self.listen(&[Part::P1])?;
        self.kill(Part::P1)?;
        self.cue(Part::P2)?;
        self.listen(&[Part::P2])?;
        self.kill(Part::P2)?;
        self.enter(Part::P3)?;
        self.listen(&[Part::P3])?;
        say("\n")?;
        Ok(std::mem::take(&mut self.figures))
    }

    /// Starts a process.
    fn enter(&mut self, part: Part) -> Result<(), Failure> {
        let arguments = script::arguments(part, self.prefix, &self.stage);
        let actor = Actor::start(part, &arguments, self.mouth.clone())
            .map_err(|error| Failure::io("starting a process", &error))?;
        self.cast.push(actor);
        Ok(())
    }

    /// Lets a process go on.
    fn cue(&mut self, part: Part) -> Result<(), Failure> {
        let told = self.actor(part)?.lines_to.write_all(b"\n");
        told.map_err(|error| Failure::new(Exit::Failure, format_args!("demo: {part}"), error))
    }

    /// Ends a process the hard way.
    fn kill(&mut self, part: Part) -> Result<(), Failure> {
        let pid = self.actor(part)?.child.id();
        self.cast.retain(|actor| actor.part != part);
        self.remark(&format!("{part} (pid {pid}) is killed: SIGKILL, no last chance."))
    }

    /// Shows what the processes do until each of `parts` waits for its cue (P3: is done).
    fn listen(&mut self, parts: &[Part]) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        let mut awaited = parts.to_vec();
        let mut steps: Vec<(Part, Step)> = Vec::new();
        while !awaited.is_empty() {
            match self.heard.recv_timeout(GLANCE) {
                Ok((part, Some(Line::Did(step)))) => steps.push((part, step)),
                Ok((_, Some(Line::Figure { name, value }))) => drop(self.figures.values.insert(name, value)),
                Ok((part, Some(Line::Cue))) => awaited.retain(|&other| other != part),
                Ok((part, Some(Line::Failed { exit, text }))) => {
                    return Err(Failure::new(exit, format_args!("demo: {part}"), text));
                }
                Ok((Part::P3, None)) => awaited.retain(|&other| other != Part::P3),
                // Of those that were killed, nothing else is expected.
                Ok((part, None)) if self.actor(part).is_err() => {}
                Ok((part, None)) => return Err(failed(part, "ended too early")),
                Err(RecvTimeoutError::Timeout) if self.interrupt.cause().is_some() => {
                    return Err(failed(awaited[0], "interrupted"));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(_) => return Err(failed(awaited[0], "hangs")),
            }
        }
        // What two processes say of themselves may come in another order than it happened.
        steps.sort_by_key(|(_, step)| step.at);
        steps.iter().try_for_each(|(part, step)| self.show(*part, step))
    }

    fn show(&mut self, part: Part, step: &Step) -> Result<(), Failure> {
        let pid = self.actor(part)?.child.id();
        let who = self.ink.actor(format_args!("{part}"));
        let pid = self.ink.aside(format_args!("pid {pid:<8}"));
        let took = self.ink.time(format_args!("{:>8}", Span(step.took)));
        say(&format!("  {who} {pid} {:<51} {took}\n", step.text))
    }

    fn remark(&self, text: &str) -> Result<(), Failure> {
        say(&format!("  {}\n", self.ink.aside(text)))
    }

    fn actor(&mut self, part: Part) -> Result<&mut Actor, Failure> {
        let actor = self.cast.iter_mut().find(|actor| actor.part == part);
        actor.ok_or_else(|| failed(part, "isn't there"))
    }
}

impl Drop for Play<'_> {
    fn drop(&mut self) {
        self.cast.clear();
        strike(&self.stage.there);
        strike(&self.stage.back);
    }
}

/// A process of the play. When it is dropped it is gone.
struct Actor {
    part: Part,
    child: Child,
    lines_to: ChildStdin,
}

impl Actor {
    /// It inherits what we block, and is to: an interrupt at the terminal is for us, who end the
    /// actors in good order. One that it ended by itself would count as having failed.
    fn start(part: Part, arguments: &[String], to: Sender<(Part, Option<Line>)>) -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["demo", "--part"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(lines_to), Some(lines_from)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked for");
        };
        thread::spawn(move || {
            let lines = BufReader::new(lines_from).lines().map_while(Result::ok);
            for line in lines.filter_map(|line| line.parse().ok()) {
                if to.send((part, Some(line))).is_err() {
                    return;
                }
            }
            // Nobody listens any more when the play is over.
            let _ = to.send((part, None));
        });
        Ok(Self { part, child, lines_to })
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It fails if the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(part: Part, what: &str) -> Failure {
    Failure::new(Exit::Failure, format_args!("demo: {part}"), what)
}

fn say(text: &str) -> Result<(), Failure> {
    print(text).map(drop)
}
