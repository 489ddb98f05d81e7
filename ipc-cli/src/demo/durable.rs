//! `ipc demo durable`: what becomes of a message when processes are killed.
//!
//! Each answer is found out anew, on a channel of its own: real processes send and receive, are
//! killed (SIGKILL) in the middle of it, and others look for what they left. What a restart of
//! the machine leaves isn't tried: it follows from where a channel keeps its messages.

use super::{player::Player, scenery::Ink, strike};
use crate::{
    address::{Address, Scheme},
    args::Settings,
    backend::{self, Backend, Job, ReceiverOf, SenderOf},
    commands::print,
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
};
use ipc_core::{
    Channel as _, ChannelError, ChannelName, Message as _, Receiver as _, RecvError, SendError, Sender as _,
    Wait,
};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::{
    error::Error,
    io::{self, BufRead as _},
};

/// What stands in the first place of a part of this scene.
pub(super) const PART: &str = "durable";

type Act<T> = Result<T, Box<dyn Error>>;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// To a second receiver, since the first one had it and didn't release it.
    Redelivered,
    Lost,
    /// Its sender is told that the receiver died.
    LostAndTold,
    NotSent,
    /// It is on a disk.
    Kept,
}

impl Fate {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Redelivered => "redelivered",
            Self::Lost => "lost",
            Self::LostAndTold => "lost, told",
            Self::NotSent => "not sent",
            Self::Kept => "kept",
        }
    }
}

/// What happens to whom, and how it is found out what becomes of the message.
type Event = (&'static str, fn(&Address) -> Act<Fate>);

const EVENTS: [Event; 6] = [
    ("sent to nobody; sender dies", sent_to_nobody),
    ("sent to somebody; sender dies", sent_to_somebody),
    ("held; its receiver dies", held),
    ("not yet taken; receiver dies", not_yet_taken),
    ("not yet taken; both die", both_die),
    ("the machine restarts", restart),
];

/// Why that is so.
fn reason(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Mq => "the kernel keeps it until it is taken; who takes it has the only copy",
        Scheme::Sysv => "likewise; both kinds of queue end with the machine, not with a process",
        Scheme::Unix => "only the receiver's socket keeps it, and dies with the receiver",
        Scheme::Shm => "a file keeps it until its receiver releases it; to take it isn't enough",
    }
}

const LABEL_WIDTH: usize = 30;
const COLUMN_WIDTH: usize = 12;

pub(super) fn run() -> Result<Ending, Failure> {
    let interrupt = Interrupt::new().map_err(|error| Failure::io("demo", &error))?;
    interrupt.on_signals().map_err(|error| Failure::io("demo", &error))?;
    let ink = Ink::for_stdout();
    let (mut shown, mut unavailable) = (Vec::new(), None);
    for scheme in Scheme::ALL {
        match Scene::set(scheme, 0) {
            Ok(_) => shown.push(scheme),
            // The others are still worth seeing.
            Err(failure) => unavailable = unavailable.or(Some(failure)),
        }
    }
    print(&format!(
        "{}\n\n",
        ink.heading("Durability: what becomes of a message, tried with real processes")
    ))?;
    let line = |label: String, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>COLUMN_WIDTH$}")).collect();
        print(&format!("  {label}{cells}\n"))
    };
    line(" ".repeat(LABEL_WIDTH), shown.iter().map(|scheme| format!("{scheme}:")).collect())?;
    for (number, (event, find_out)) in EVENTS.iter().enumerate() {
        let mut fates = Vec::new();
        for &scheme in &shown {
            let scene = Scene::set(scheme, number + 1)?;
            let fate = find_out(&scene.0).map_err(|error| Failure::new(Exit::Failure, &scene.0, error));
            if let Some(ending) = interrupt.ending() {
                return Ok(ending);
            }
            fates.push(fate?.as_str().to_owned());
        }
        line(ink.actor(format_args!("{event:<LABEL_WIDTH$}")), fates)?;
    }
    print("\n")?;
    for scheme in shown {
        let address = ink.actor(format_args!("{:<5}", format!("{scheme}:")));
        print(&format!("  {address} {}\n", ink.aside(reason(scheme))))?;
    }
    print(&ink.aside("\n  Not tried is the restart: it leaves what is on a disk, see `ipc recover`.\n"))?;
    unavailable.map_or(Ok(Ending::Done), Err)
}

/// A channel, removed when this is dropped.
struct Scene(Address);

impl Scene {
    fn set(scheme: Scheme, number: usize) -> Result<Self, Failure> {
        struct Creating<'a>(&'a Address);

        impl Job for Creating<'_> {
            type Output = Result<(), ChannelError>;

            fn run<B: Backend>(self, backend: &B) -> Self::Output {
                let settings = match self.0.scheme {
                    // What the user's other queues leave may be little.
                    Scheme::Mq | Scheme::Sysv => {
                        Settings { depth: Some(4), max_message: Some(64), ..Settings::default() }
                    }
                    _ => Settings::default(),
                };
                let config = B::config(&settings).map_err(ChannelError::InvalidConfig)?;
                backend.create(&self.0.name, &config).map(drop)
            }
        }

        let name = ChannelName::new(&format!("demo-{}-{number}", std::process::id()));
        let name = name.map_err(|error| Failure::new(Exit::Usage, "demo", error))?;
        let address = Address::new(scheme, name);
        backend::with(scheme, Creating(&address)).map_err(|error| Failure::channel(&address, &error))?;
        Ok(Self(address))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        strike(&self.0);
    }
}

fn sent_to_nobody(address: &Address) -> Act<Fate> {
    let mut tx = Sending::start(address)?;
    if tx.send("1")? == Sent::Refused {
        return Ok(Fate::NotSent);
    }
    drop(tx);
    let found = Receiving::start(address)?.take_all()?;
    Ok(if found == ["1"] { Fate::Delivered } else { Fate::Lost })
}

fn sent_to_somebody(address: &Address) -> Act<Fate> {
    let mut rx = Receiving::start(address)?;
    Sending::start(address)?.sends(&["1"])?;
    Ok(if rx.take_all()? == ["1"] { Fate::Delivered } else { Fate::Lost })
}

fn held(address: &Address) -> Act<Fate> {
    after_the_receiver(address, "1", Fate::Redelivered)
}

fn not_yet_taken(address: &Address) -> Act<Fate> {
    after_the_receiver(address, "2", Fate::Delivered)
}

/// A receiver is killed that holds the first of two messages; whether its successor finds `which`.
fn after_the_receiver(address: &Address, which: &str, if_found: Fate) -> Act<Fate> {
    let mut rx = Receiving::start(address)?;
    let mut tx = Sending::start(address)?.sends(&["1", "2"])?;
    rx.hold("1")?;
    drop(rx);
    let mut next = Receiving::start(address)?;
    if next.take_all()?.iter().any(|found| found == which) {
        return Ok(if_found);
    }
    Ok(if tx.send("3")? == Sent::ToTheDead { Fate::LostAndTold } else { Fate::Lost })
}

fn both_die(address: &Address) -> Act<Fate> {
    let rx = Receiving::start(address)?;
    drop(Sending::start(address)?.sends(&["1"])?);
    drop(rx);
    let found = Receiving::start(address)?.take_all()?;
    Ok(if found == ["1"] { Fate::Delivered } else { Fate::Lost })
}

/// Where its messages are: in the kernel's memory, or in a file, which may be memory too.
fn restart(address: &Address) -> Act<Fate> {
    struct Looking<'a>(&'a Address);

    impl Job for Looking<'_> {
        type Output = Result<Option<std::path::PathBuf>, ChannelError>;

        fn run<B: Backend>(self, backend: &B) -> Self::Output {
            Ok(backend.stat(&self.0.name)?.path)
        }
    }

    if address.scheme != Scheme::Shm {
        return Ok(Fate::Lost);
    }
    let path = backend::with(address.scheme, Looking(address))?.ok_or("its file can't be found")?;
    let in_memory = statfs(&path)?.filesystem_type() == TMPFS_MAGIC;
    Ok(if in_memory { Fate::Lost } else { Fate::Kept })
}

/// What a sender says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Taken,
    /// Nobody is there to take it.
    Refused,
    /// Whoever took the ones before is dead.
    ToTheDead,
}

impl Sent {
    const ALL: [Self; 3] = [Self::Taken, Self::Refused, Self::ToTheDead];

    fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Refused => "refused",
            Self::ToTheDead => "to the dead",
        }
    }
}

/// A process that sends. It is killed when it is dropped.
struct Sending(Player);

impl Sending {
    fn start(address: &Address) -> Act<Self> {
        start(address, "sender").map(Self)
    }

    fn send(&mut self, message: &str) -> Act<Sent> {
        self.0.tell(message)?;
        let said = self.0.hear()?;
        Sent::ALL.into_iter().find(|sent| sent.as_str() == said).ok_or_else(|| said.into())
    }

    /// Sends these, which must go well.
    fn sends(mut self, messages: &[&str]) -> Act<Self> {
        for message in messages {
            match self.send(message)? {
                Sent::Taken => {}
                other => return Err(format!("a message was {}", other.as_str()).into()),
            }
        }
        Ok(self)
    }
}

/// A process that receives. It is killed when it is dropped.
struct Receiving(Player);

impl Receiving {
    fn start(address: &Address) -> Act<Self> {
        start(address, "receiver").map(Self)
    }

    /// Takes this message and holds it.
    fn hold(&mut self, expected: &str) -> Act<()> {
        self.0.tell("hold")?;
        match self.0.hear()? {
            said if said == expected => Ok(()),
            said => Err(said.into()),
        }
    }

    /// Takes whatever there is.
    fn take_all(&mut self) -> Act<Vec<String>> {
        self.0.tell("take all")?;
        let said = self.0.hear()?;
        let all = said.strip_prefix("all:").ok_or_else(|| said.clone())?;
        Ok(all.split_whitespace().map(str::to_owned).collect())
    }
}

/// Starts a process, and waits until it has opened the channel.
fn start(address: &Address, role: &str) -> Act<Player> {
    let scheme = address.scheme.as_str();
    let mut player = Player::start(&[PART, scheme, address.name.as_str(), role])?;
    player.expect("ready")?;
    Ok(player)
}

/// Plays one of them: `durable SCHEME NAME sender|receiver`.
pub(super) fn play(part: &[String]) -> Result<Ending, Failure> {
    struct Playing<'a>(&'a Address, &'a str);

    impl Job for Playing<'_> {
        type Output = Act<()>;

        fn run<B: Backend>(self, backend: &B) -> Self::Output {
            let channel = backend.open(&self.0.name)?;
            match self.1 {
                "sender" => send::<B>(channel.sender()?),
                "receiver" => receive::<B>(channel.receiver()?),
                other => Err(format!("there is no such part: {other}").into()),
            }
        }
    }

    let address: Address =
        part[1..3].join(":").parse().map_err(|error| Failure::new(Exit::Usage, "demo", error))?;
    if let Err(error) = backend::with(address.scheme, Playing(&address, &part[3])) {
        // Whoever directs shows it.
        say(&format!("{}: {error}", part[3]));
    }
    Ok(Ending::Done)
}

/// Sends each line that it is told.
fn send<B: Backend>(mut tx: SenderOf<B>) -> Act<()> {
    say("ready");
    for message in io::stdin().lock().lines() {
        let sent = match tx.send_wait(message?.as_bytes(), Wait::Never) {
            Ok(()) => Sent::Taken,
            Err(SendError::WouldBlock) => Sent::Refused,
            Err(SendError::PeerDied) => Sent::ToTheDead,
            Err(error) => return Err(error.into()),
        };
        say(sent.as_str());
    }
    Ok(())
}

fn receive<B: Backend>(mut rx: ReceiverOf<B>) -> Act<()> {
    say("ready");
    for order in io::stdin().lock().lines() {
        if order? == "hold" {
            rx.advance(Wait::Never)?;
            let message = rx.held();
            let text = String::from_utf8_lossy(&message).into_owned();
            message.keep();
            say(&text);
            continue;
        }
        let mut all = "all:".to_owned();
        loop {
            match rx.advance(Wait::Never) {
                Ok(()) => all = format!("{all} {}", String::from_utf8_lossy(&rx.held())),
                Err(RecvError::WouldBlock) => break,
                Err(error) => return Err(error.into()),
            }
        }
        say(&all);
    }
    Ok(())
}

/// A director that is gone is noticed at the next order.
fn say(text: &str) {
    let _ = print(&format!("{text}\n"));
}
