//! A crowd: processes of all parts are killed, stopped and forked at random, in every kind
//! of channel, and afterwards their private logs are balanced.

mod broadcast;
mod check;
mod crowd;
mod latest;
mod log;
mod queue;
mod rpc;
mod worker;

use crate::{
    common::{self, Arena, Dice},
    kinds::{Mpmc, Queue, Spsc},
    report::Tally,
};
use check::Account;
use crowd::Crowd;
use ipc_shm::{ChannelError, Shm, ShmConfig, Transport, WhenFull};
use log::Record;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use worker::{Part, Worker};

/// How long a channel is in use before its account is balanced.
const ROUND: Duration = Duration::from_secs(4);
/// Nobody does anything for so long: it hangs.
const HANG: Duration = Duration::from_secs(10);

/// A kind of channel, what is done with it, and what must come of that.
struct Game {
    title: &'static str,
    /// A channel of whatever size.
    config: fn(&mut Dice) -> ShmConfig,
    /// Whether the channel may go away with its users and come again.
    may_be_transient: bool,
    crowd: &'static [Part],
    /// The places of participants: the byte that each has locked, and where in the file its
    /// process id is.
    seats: fn() -> Vec<(u64, u64)>,
    /// What one who sends or receives does, until it is over.
    live: fn(&Worker, &Shared),
    /// Nobody sends any more: what is to be done before those who receive look for the rest.
    hush: fn(&Worker),
    /// Makes sure, as the participant with this number, that all is well with the channel.
    clear_up: fn(&Worker, u32, &Shared),
    balance: fn(&[Vec<Record>]) -> Account,
    /// What others do after the death of one who played this part.
    progress: fn(&Shared, Part) -> u64,
    /// How long that is watched for where there may be nothing to do: else there is, and who
    /// hasn't done it after [`HANG`] hangs.
    may_be_idle: Option<Duration>,
    describe: fn(&Account) -> String,
    /// Whether what is wrong would be noticed.
    notices: fn() -> bool,
}

const THREE_TO_THREE: &[Part] = &[
    Part::Sender,
    Part::Sender,
    Part::Sender,
    Part::Receiver,
    Part::Receiver,
    Part::Receiver,
    Part::Visitor,
];

const fn queue<K: Queue>(title: &'static str) -> Game {
    Game {
        title,
        config: K::varied_config,
        may_be_transient: true,
        crowd: THREE_TO_THREE,
        seats: K::seats,
        live: queue::live,
        hush: |_| {},
        clear_up: queue::clear_up,
        balance: |logs| check::balance(logs, K::IN_ORDER),
        progress: Shared::progress,
        may_be_idle: None,
        describe: Account::of_queue,
        notices: check::notices_what_is_wrong,
    }
}

const fn broadcast(title: &'static str, config: fn(&mut Dice) -> ShmConfig, balance: Balance) -> Game {
    Game {
        title,
        config,
        may_be_transient: false,
        live: broadcast::live,
        hush: broadcast::hush,
        clear_up: broadcast::clear_up,
        balance,
        describe: Account::of_broadcast,
        notices: broadcast::notices_what_is_wrong,
        ..queue::<Mpmc>("")
    }
}

type Balance = fn(&[Vec<Record>]) -> Account;

static GAMES: [Game; 6] = [
    queue::<Spsc>("spsc"),
    queue::<Mpmc>("mpmc"),
    broadcast(
        "broadcast, reliable",
        |dice| broadcast::config(dice, WhenFull::Wait),
        |logs| broadcast::balance(logs, false),
    ),
    broadcast(
        "broadcast, lossy",
        |dice| broadcast::config(dice, WhenFull::DropOldest),
        |logs| broadcast::balance(logs, true),
    ),
    Game {
        title: "latest",
        config: latest::config,
        may_be_transient: false,
        live: latest::live,
        clear_up: latest::clear_up,
        balance: latest::balance,
        describe: Account::of_latest,
        notices: latest::notices_what_is_wrong,
        ..queue::<Mpmc>("")
    },
    Game {
        title: "rpc",
        config: rpc::config,
        live: rpc::live,
        clear_up: rpc::clear_up,
        balance: rpc::balance,
        progress: rpc::progress,
        // Twice what is promised: a server may have died when nobody waited for an answer.
        may_be_idle: Some(Duration::from_millis(500)),
        describe: Account::of_rpc,
        notices: rpc::notices_what_is_wrong,
        ..queue::<Mpmc>("")
    },
];

/// What all participants of a round count in, outside of any segment.
#[repr(C)]
pub(super) struct Shared {
    over: AtomicU64,
    order: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// Callers who were told that their server died.
    told: AtomicU64,
}

impl Shared {
    fn new() -> &'static Self {
        let len = NonZeroUsize::new(size_of::<Self>()).expect("it isn't empty");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: fresh pages, shared with the children, that are never unmapped.
        let page = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) };
        let page = page.expect("there is memory").cast::<Self>();
        // SAFETY: mapped for good, aligned and long enough; all zeros is a `Shared`, and all
        // of it is atomics.
        unsafe { page.as_ref() }
    }

    fn start(&self) {
        for word in [&self.over, &self.order, &self.sent, &self.received, &self.told] {
            word.store(0, Ordering::SeqCst);
        }
    }

    fn end(&self) {
        self.over.store(1, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) != 0
    }

    fn hush(&self) {
        self.over.store(2, Ordering::SeqCst);
    }

    /// Whether nobody sends any more.
    fn is_quiet(&self) -> bool {
        self.over.load(Ordering::SeqCst) == 2
    }

    fn next_order(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn count_sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::SeqCst);
    }

    fn count_received(&self, count: u64) {
        self.received.fetch_add(count, Ordering::SeqCst);
    }

    fn count_told(&self) {
        self.told.fetch_add(1, Ordering::SeqCst);
    }

    fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    fn progress(&self, part: Part) -> u64 {
        match part {
            Part::Sender => self.sent(),
            _ => self.received(),
        }
    }
}

/// What the run comes to.
#[derive(Debug, Default)]
struct Sums {
    account: Account,
    rounds: u64,
    kills: u64,
    stops: u64,
    hung: u64,
    left_behind: u64,
    /// From the release of a dead one's lock to the next success.
    recoveries: Vec<Duration>,
    /// Deaths after which there was no success as long as that was watched for.
    idle: u64,
}

/// Runs for so long, from this seed, with what has `only` in its title.
pub(crate) fn run(time: Duration, seed: u64, only: Option<&str>) -> Tally {
    let mut tally = Tally::default();
    println!("soak: seed {seed}, {} s", time.as_secs());
    for game in &GAMES {
        tally.check((game.notices)(), || format!("{}: balanced whatever is in the accounts", game.title));
    }
    crowd::adopt_orphans();
    let shared = Shared::new();
    let is_chosen = |game: &&Game| only.is_none_or(|part| game.title.contains(part));
    let mut games: Vec<_> = GAMES.iter().filter(is_chosen).map(|game| (game, Sums::default())).collect();
    let mut dice = Dice::new(seed);
    let end = Instant::now() + time;
    let round = ROUND.min(time / games.len().max(1) as u32);
    while Instant::now() < end {
        for (game, sums) in &mut games {
            play(game, &mut tally, sums, shared, &mut dice, round);
        }
    }
    for (game, sums) in &mut games {
        report(game, sums);
    }
    let kills: u64 = games.iter().map(|(_, sums)| sums.kills).sum();
    println!("soak: {kills} kills survived");
    let happened = |(_, sums): &(&Game, Sums)| sums.kills > 0 && sums.account.delivered > 0;
    tally.check(!games.is_empty() && games.iter().all(happened), || "nothing happened".into());
    tally
}

fn report(game: &Game, sums: &mut Sums) {
    let (title, account) = (game.title, &sums.account);
    println!(
        "proof: soak: {title}: {} rounds, {} killed, {} stopped; {}; \
         lost {}, duplicated {}, reordered {}, invented {}, hung {}, left behind {}",
        sums.rounds,
        sums.kills,
        sums.stops,
        (game.describe)(account),
        account.lost,
        account.duplicated,
        account.reordered,
        account.invented,
        sums.hung + account.unended as u64,
        sums.left_behind,
    );
    sums.recoveries.sort();
    let rank = |part: f64| {
        let last = sums.recoveries.len().checked_sub(1)?;
        sums.recoveries.get((last as f64 * part) as usize).map(Duration::as_micros)
    };
    if let (Some(p50), Some(p99), Some(max)) = (rank(0.5), rank(0.99), rank(1.0)) {
        println!(
            "proof: soak: {title}: recovery from the release of the dead one's lock to the next success, of {}: \
             p50 {p50} µs, p99 {p99} µs, max {max} µs{}",
            sums.recoveries.len(),
            match game.may_be_idle {
                Some(within) => format!("; {} had nothing to do within {within:?}", sums.idle),
                None => String::new(),
            },
        );
    }
}

/// A channel's life, and the balance of it.
fn play(
    game: &'static Game,
    tally: &mut Tally,
    sums: &mut Sums,
    shared: &'static Shared,
    dice: &mut Dice,
    time: Duration,
) {
    let (arena, logs) = (Arena::new(), Arena::new());
    shared.start();
    let config = (game.config)(dice);
    let transient = game.may_be_transient && dice.below(4) == 0;
    let pattern = Worker {
        id: 0,
        part: Part::Visitor,
        directory: arena.path().into(),
        logs: logs.path().into(),
        name: common::name("x"),
        config: if transient { config.transient() } else { config },
        seed: 0,
    };
    let mut crowd = Crowd::gather(game, pattern, shared, dice);
    let end = Instant::now() + time;
    let mut progress = (shared.received(), Instant::now());
    while Instant::now() < end {
        crowd.harass(sums, dice);
        if shared.received() != progress.0 {
            progress = (shared.received(), Instant::now());
        }
        if progress.1.elapsed() > HANG {
            sums.hung += 1;
            tally.check(false, || format!("{}: nothing was received for {HANG:?}", game.title));
            break;
        }
    }
    if !crowd.disperse() {
        sums.hung += 1;
        tally.check(false, || format!("{}: somebody doesn't come to an end", game.title));
    }
    for trouble in crowd.troubles.drain(..) {
        tally.check(false, || format!("{}: {trouble}", game.title));
    }
    let cleared = std::panic::catch_unwind(|| clear_up(game, &crowd.pattern, crowd.next_id, shared));
    tally.check(cleared.is_ok(), || format!("{}: it isn't whole afterwards", game.title));
    let left = arena.entries();
    sums.left_behind += left.len() as u64;
    tally.check(left.is_empty(), || format!("{}: left behind: {left:?}", game.title));
    let account = (game.balance)(&log::read_all(logs.path()));
    tally.check(account.is_balanced(), || format!("{}: {account:?}", game.title));
    sums.account.add(&account);
    sums.rounds += 1;
}

/// Makes sure that all is well with the channel, and removes it.
fn clear_up(game: &Game, pattern: &Worker, id: u32, shared: &Shared) {
    (game.clear_up)(pattern, id, shared);
    match Shm::at(&pattern.directory).remove(&pattern.name) {
        // A transient one goes by itself.
        Ok(()) | Err(ChannelError::NotFound) => {}
        Err(error) => panic!("{error}"),
    }
}
