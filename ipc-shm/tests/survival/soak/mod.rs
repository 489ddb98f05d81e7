//! A crowd: processes of all parts are killed, stopped and forked at random, in every kind
//! of channel, and afterwards their private logs are balanced.

mod check;
mod log;
mod worker;

use crate::{
    common::{self, Arena, Dice, end_after, fork},
    kinds::{Mpmc, Queue, Spsc},
    report::Tally,
};
use check::Account;
use ipc_shm::{Channel, ChannelError, Shm, Transport};
use log::Log;
use nix::{
    libc,
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    fs::File,
    num::NonZeroUsize,
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};
use worker::{MAX_LEN, Part, Worker};

/// How long a channel is in use before its account is balanced.
const ROUND: Duration = Duration::from_secs(4);
/// Nobody does anything for so long: it hangs.
const HANG: Duration = Duration::from_secs(10);
const CROWD: [Part; 7] =
    [Part::Sender, Part::Sender, Part::Sender, Part::Receiver, Part::Receiver, Part::Receiver, Part::Visitor];

/// What all participants of a round count in, outside of any segment.
#[repr(C)]
pub(super) struct Shared {
    over: AtomicU64,
    order: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
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
        for word in [&self.over, &self.order, &self.sent, &self.received] {
            word.store(0, Ordering::SeqCst);
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) != 0
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

    fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    fn progress(&self, part: Part) -> u64 {
        match part {
            Part::Sender => self.sent.load(Ordering::SeqCst),
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
}

/// Runs for so long, from this seed.
pub(crate) fn run(time: Duration, seed: u64) -> Tally {
    let mut tally = Tally::default();
    println!("soak: seed {seed}, {} s", time.as_secs());
    tally.check(check::notices_what_is_wrong(), || "the accounts are balanced whatever is in them".into());
    adopt_orphans();
    let shared = Shared::new();
    let mut sums: [Sums; 2] = Default::default();
    let mut dice = Dice::new(seed);
    let end = Instant::now() + time;
    let round = ROUND.min(time / 4);
    while Instant::now() < end {
        play::<Spsc>(&mut tally, &mut sums[0], shared, &mut dice, round);
        play::<Mpmc>(&mut tally, &mut sums[1], shared, &mut dice, round);
    }
    for (kind, sums) in [Spsc::KIND, Mpmc::KIND].iter().zip(&mut sums) {
        report(kind.as_str(), sums);
    }
    let kills: u64 = sums.iter().map(|sums| sums.kills).sum();
    println!("soak: {kills} kills survived");
    tally.check(sums.iter().all(|sums| sums.kills > 0 && sums.account.delivered > 0), || {
        "nothing happened".into()
    });
    tally
}

fn report(kind: &str, sums: &mut Sums) {
    let account = &sums.account;
    println!(
        "proof: soak: {kind}: {} rounds, {} killed, {} stopped; {} acknowledged, {} delivered ({} never acknowledged), \
         {} redelivered as promised; lost {}, duplicated {}, reordered {}, invented {}, hung {}, left behind {}",
        sums.rounds,
        sums.kills,
        sums.stops,
        account.acknowledged,
        account.delivered,
        account.unacknowledged,
        account.redelivered,
        account.lost,
        account.duplicated,
        account.reordered,
        account.invented,
        sums.hung,
        sums.left_behind,
    );
    sums.recoveries.sort();
    let rank = |part: f64| {
        let last = sums.recoveries.len().checked_sub(1)?;
        sums.recoveries.get((last as f64 * part) as usize).map(Duration::as_micros)
    };
    if let (Some(p50), Some(p99), Some(max)) = (rank(0.5), rank(0.99), rank(1.0)) {
        println!(
            "proof: soak: {kind}: recovery from the release of the dead one's lock to the next success, of {}: \
             p50 {p50} µs, p99 {p99} µs, max {max} µs",
            sums.recoveries.len()
        );
    }
}

/// A channel's life, and the balance of it.
fn play<K: Queue>(
    tally: &mut Tally,
    sums: &mut Sums,
    shared: &'static Shared,
    dice: &mut Dice,
    time: Duration,
) {
    let (arena, logs) = (Arena::new(), Arena::new());
    shared.start();
    let config = K::varied_config(dice);
    let transient = dice.below(4) == 0;
    let mut crowd = Crowd {
        pattern: Worker {
            id: 0,
            part: Part::Visitor,
            directory: arena.path().into(),
            logs: logs.path().into(),
            name: common::name("x"),
            config: if transient { config.transient() } else { config },
            seed: 0,
        },
        shared,
        members: Vec::new(),
        next_id: 1,
        troubles: Vec::new(),
    };
    for part in CROWD {
        crowd.join(part, dice);
    }
    let end = Instant::now() + time;
    let mut progress = (shared.received(), Instant::now());
    while Instant::now() < end {
        crowd.harass::<K>(sums, dice);
        if shared.received() != progress.0 {
            progress = (shared.received(), Instant::now());
        }
        if progress.1.elapsed() > HANG {
            sums.hung += 1;
            tally.check(false, || format!("{}: nothing was received for {HANG:?}", K::KIND));
            break;
        }
    }
    if !crowd.disperse() {
        sums.hung += 1;
        tally.check(false, || format!("{}: somebody doesn't come to an end", K::KIND));
    }
    for trouble in crowd.troubles.drain(..) {
        tally.check(false, || format!("{}: {trouble}", K::KIND));
    }
    let cleared = std::panic::catch_unwind(|| clear_up(&crowd.pattern, crowd.next_id, shared));
    tally.check(cleared.is_ok(), || format!("{}: it isn't whole afterwards", K::KIND));
    let left = arena.entries();
    sums.left_behind += left.len() as u64;
    tally.check(left.is_empty(), || format!("{}: left behind: {left:?}", K::KIND));
    let account = check::balance(&log::read_all(logs.path()), K::IN_ORDER);
    tally.check(account.is_balanced(), || format!("{}: {account:?}", K::KIND));
    sums.account.add(&account);
    sums.rounds += 1;
}

/// Takes out what is left, makes sure that there is a place for everybody and room for
/// everything, and removes the channel.
fn clear_up(pattern: &Worker, id: u32, shared: &Shared) {
    use ipc_shm::{Receiver, SendError, Sender};
    let shm = Shm::at(&pattern.directory);
    let mut log = Log::create(&pattern.logs, id);
    let channel = shm.open_or_create(&pattern.name, &pattern.config).expect("it can be opened");
    let mut rx = channel.receiver().expect("there is a place for a receiver");
    worker::receive_the_rest(&mut rx, shared, &mut log);
    let mut tx = channel.sender().expect("there is a place for a sender");
    let stat = shm.stat(&pattern.name).expect("it is there");
    assert_eq!(stat.queued_messages, Some(0));
    assert_eq!(stat.lost_messages.unwrap_or(0), 0);
    // All of it can be used: as many go in as come out, twice over.
    let counts = [(); 2].map(|()| {
        let mut count = 0;
        loop {
            match tx.try_send(&[1; MAX_LEN as usize]) {
                Ok(()) => count += 1,
                Err(SendError::WouldBlock) => break,
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..count {
            drop(rx.try_recv().expect("what was sent is there"));
        }
        count
    });
    if let Some(depth) = stat.depth {
        assert_eq!(counts, [depth; 2], "every slot is free");
    }
    assert!(counts[0] > 0 && counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");
    drop((tx, rx, channel));
    match shm.remove(&pattern.name) {
        // A transient one goes by itself.
        Ok(()) | Err(ChannelError::NotFound) => {}
        Err(error) => panic!("{error}"),
    }
}

/// A process of the crowd.
struct Member {
    pid: Pid,
    part: Part,
    /// Stopped until then.
    asleep_until: Option<Instant>,
}

/// The processes around one channel.
struct Crowd {
    pattern: Worker,
    shared: &'static Shared,
    members: Vec<Member>,
    next_id: u32,
    /// How members ended that shouldn't have.
    troubles: Vec<String>,
}

impl Crowd {
    fn join(&mut self, part: Part, dice: &mut Dice) {
        let worker = Worker { id: self.next_id, part, seed: dice.roll(), ..self.pattern.clone() };
        self.next_id += 1;
        let Some(child) = fork() else {
            // SAFETY: takes a number and sets a timer: who is forgotten ends by itself.
            unsafe { libc::alarm(120) };
            end_after(|| worker.live(self.shared))
        };
        self.members.push(Member { pid: child.0, part, asleep_until: None });
    }

    /// Does something to somebody.
    fn harass<K: Queue>(&mut self, sums: &mut Sums, dice: &mut Dice) {
        self.wake_those_due(false);
        self.reap(dice);
        let chosen = dice.below(self.members.len() as u64) as usize;
        let member = &mut self.members[chosen];
        match dice.below(10) {
            0..5 => {
                let _ = kill(member.pid, Signal::SIGKILL);
                sums.kills += 1;
            }
            5..7 if member.part != Part::Visitor => {
                self.wake_those_due(true);
                self.kill_and_watch::<K>(chosen, sums);
                sums.kills += 1;
            }
            _ => {
                let _ = kill(member.pid, Signal::SIGSTOP);
                member.asleep_until = Some(Instant::now() + Duration::from_millis(1 + dice.below(40)));
                sums.stops += 1;
            }
        }
        thread::sleep(Duration::from_micros(500 + dice.below(10_000)));
    }

    fn wake_those_due(&mut self, all: bool) {
        let now = Instant::now();
        for member in &mut self.members {
            if member.asleep_until.is_some_and(|until| all || until <= now) {
                let _ = kill(member.pid, Signal::SIGCONT);
                member.asleep_until = None;
            }
        }
    }

    /// Kills a member and sees how long it takes the others to go on, from the moment when
    /// the kernel says that it is dead.
    fn kill_and_watch<K: Queue>(&self, chosen: usize, sums: &mut Sums) {
        let Member { pid, part, .. } = self.members[chosen];
        let path = self.pattern.directory.join(self.pattern.name.as_str());
        let seat = File::open(&path).ok().and_then(|file| Seat::of::<K>(file, pid));
        let _ = kill(pid, Signal::SIGKILL);
        // Who holds nothing leaves nothing to recover from.
        let Some(seat) = seat else { return };
        let give_up = Instant::now() + Duration::from_secs(1);
        let mut released = Instant::now();
        while seat.is_held_by(pid) {
            released = Instant::now();
            if released > give_up {
                return;
            }
        }
        let before = self.shared.progress(part);
        while self.shared.progress(part) == before {
            if Instant::now() > give_up {
                // Nobody is there to go on, or the watch over progress will say so.
                return;
            }
            std::hint::spin_loop();
        }
        sums.recoveries.push(released.elapsed());
    }

    /// Replaces those who have ended.
    fn reap(&mut self, dice: &mut Dice) {
        for part in self.collect() {
            self.join(part, dice);
        }
    }

    /// The parts of those who have ended.
    fn collect(&mut self) -> Vec<Part> {
        let mut gone = Vec::new();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    if code != 0 {
                        self.troubles.push(format!("a process ended with {code}: see above"));
                    }
                    gone.extend(self.forget(pid));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    if signal != Signal::SIGKILL {
                        self.troubles.push(format!("a process was ended by {signal}"));
                    }
                    gone.extend(self.forget(pid));
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return gone,
                Ok(_) => {}
            }
        }
    }

    fn forget(&mut self, pid: Pid) -> Option<Part> {
        let at = self.members.iter().position(|member| member.pid == pid)?;
        Some(self.members.swap_remove(at).part)
    }

    /// Tells all to stop; false if not all do.
    fn disperse(&mut self) -> bool {
        self.shared.over.store(1, Ordering::SeqCst);
        self.wake_those_due(true);
        let give_up = Instant::now() + HANG;
        while !self.members.is_empty() {
            self.collect();
            if Instant::now() > give_up {
                for member in &self.members {
                    let _ = kill(member.pid, Signal::SIGKILL);
                }
                while waitpid(None, None).is_ok() {}
                return false;
            }
            thread::sleep(Duration::from_micros(500));
        }
        // Forks of theirs may live a moment longer.
        while waitpid(None, None).is_ok() {}
        true
    }
}

/// A participant's place in a segment.
struct Seat {
    file: File,
    byte: u64,
    pid_offset: u64,
}

impl Seat {
    fn of<K: Queue>(file: File, pid: Pid) -> Option<Self> {
        let mut seat = Self { file, byte: 0, pid_offset: 0 };
        for (byte, pid_offset) in K::seats() {
            (seat.byte, seat.pid_offset) = (byte, pid_offset);
            if seat.says(pid) {
                return Some(seat);
            }
        }
        None
    }

    fn says(&self, pid: Pid) -> bool {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, self.pid_offset).is_ok()
            && u64::from_ne_bytes(word) == pid.as_raw() as u64
    }

    /// By the kernel's word: the byte is locked, and nobody else has written down its name.
    fn is_held_by(&self, pid: Pid) -> bool {
        // SAFETY: all zeros is a valid `flock`.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_WRLCK as libc::c_short;
        lock.l_start = self.byte as libc::off_t;
        lock.l_len = 1;
        // SAFETY: the descriptor is open and the structure ours.
        let answer = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        answer == 0 && lock.l_type != libc::F_UNLCK as libc::c_short && self.says(pid)
    }
}

/// Orphans become our children: their ends are seen, too.
fn adopt_orphans() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}
