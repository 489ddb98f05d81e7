//! Where a victim is ended, and what it leaves behind for the others to see.
//!
//! A victim is a fork. Where it is to be killed, it sends itself SIGKILL: at a point of the
//! crate's `hooks`, or its tracer does, between two instructions. What it has done it notes
//! down in a page of its own, outside of any segment, which outlives it.

use crate::common::{self, Arena, Forked, end_after, fork, trace};
use ipc_shm::Shm;
use nix::{
    errno::Errno,
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        signal::Signal,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
};
use std::{
    cell::{Cell, RefCell},
    error::Error,
    fs,
    num::NonZeroUsize,
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What a victim's act comes to.
pub(crate) type Act = Result<(), Box<dyn Error>>;

/// When a victim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// When it is done.
    Never,
    /// At the point of this number, killed.
    Point(usize),
    /// The first time that it comes to the point of this key, killed.
    First(u64),
    /// After so many instructions, killed.
    Instruction(usize),
    /// When it is done, but its system call of this number fails.
    Failure { call: usize, fault: Fault },
}

/// How a system call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// As it does when the system is short of something.
    Shortage,
    /// Interrupted by a signal.
    Interrupted,
}

impl Fault {
    fn errno(self, call: &str) -> Errno {
        match self {
            Self::Interrupted => Errno::EINTR,
            Self::Shortage if call.starts_with("open") => Errno::EMFILE,
            Self::Shortage if call.starts_with("mmap") || call.starts_with("madvise") => Errno::ENOMEM,
            Self::Shortage if call.starts_with("posix_fallocate") => Errno::ENOSPC,
            Self::Shortage if call.starts_with("fcntl") || call == "flock" => Errno::ENOLCK,
            Self::Shortage => Errno::EIO,
        }
    }
}

/// The most points that are remembered of one victim.
const TRACE_LEN: usize = 4096;

/// What a victim leaves.
#[repr(C)]
struct Page {
    /// Points that it came to.
    points: AtomicUsize,
    /// Which ones, in order.
    trace: [AtomicU64; TRACE_LEN],
    /// System calls that it made.
    calls: AtomicUsize,
    /// Where, in order.
    callers: [AtomicU64; TRACE_LEN],
    /// How many of them were made to fail.
    failures: AtomicUsize,
    /// How many weren't available.
    lacked: AtomicUsize,
    /// Whatever it wants to have said.
    notes: [AtomicU64; 4],
}

/// What becomes of this process at its points.
struct Plan {
    stop: Stop,
    lacking: Option<Lack>,
    page: &'static Page,
}

/// A system call that isn't available.
#[derive(Clone, Copy, Debug)]
struct Lack {
    call: &'static str,
    errno: Errno,
    /// Only this time, counted from 0.
    time: Option<usize>,
}

/// Set in a victim when its act begins.
static PLAN: OnceLock<Plan> = OnceLock::new();

/// What is known of a victim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// It was done before it was to be killed.
    pub(crate) finished: bool,
    /// The points that it came to, in order.
    pub(crate) points: Vec<u64>,
    /// The points of the system calls that it made, in order.
    pub(crate) calls: Vec<u64>,
    /// How many of them were made to fail.
    pub(crate) failures: usize,
}

/// The scene of one scenario after the other.
pub(crate) struct Stage {
    memory: Arena,
    disk: Arena,
    is_on_disk: Cell<bool>,
    stop: Cell<Stop>,
    lacking: Cell<Option<Lack>>,
    record: RefCell<Record>,
    page: &'static Page,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let len = NonZeroUsize::new(size_of::<Page>()).expect("it isn't empty");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: fresh pages, shared with the children, that are never unmapped.
        let page = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) };
        let page = page.expect("there is memory").cast::<Page>();
        // SAFETY: mapped for good, aligned and long enough; all zeros is a `Page`, and all
        // of it is atomics.
        let page = unsafe { page.as_ref() };
        #[cfg(feature = "crash-points")]
        observe_once();
        Self {
            memory: Arena::new(),
            disk: Arena::on_disk(),
            is_on_disk: Cell::new(false),
            stop: Cell::new(Stop::Never),
            lacking: Cell::new(None),
            record: RefCell::default(),
            page,
        }
    }

    /// Plays a scene in which the victim stops as told.
    pub(crate) fn play(&self, stop: Stop, scene: &dyn Fn(&Self)) {
        self.stop.set(stop);
        self.lacking.set(None);
        self.is_on_disk.set(false);
        self.page.notes.iter().for_each(|note| note.store(0, Ordering::Relaxed));
        scene(self);
        assert_eq!(self.arena().entries(), [""; 0], "left behind");
    }

    /// Has the scene play on a disk.
    pub(crate) fn move_to_disk(&self) {
        self.is_on_disk.set(true);
    }

    /// Where the channels are.
    pub(crate) fn arena(&self) -> &Arena {
        if self.is_on_disk.get() { &self.disk } else { &self.memory }
    }

    /// The channels on the stage.
    pub(crate) fn shm(&self) -> Shm {
        Shm::at(self.arena().path())
    }

    /// Takes a system call away from the victim.
    pub(crate) fn lack(&self, call: &'static str, errno: Errno) {
        self.lacking.set(Some(Lack { call, errno, time: None }));
    }

    /// Takes the victim's first system call of this kind away.
    pub(crate) fn lack_once(&self, call: &'static str, errno: Errno) {
        self.lack_at(0, call, errno);
    }

    /// Takes the one away before which it makes so many.
    pub(crate) fn lack_at(&self, time: usize, call: &'static str, errno: Errno) {
        self.lacking.set(Some(Lack { call, errno, time: Some(time) }));
    }

    /// Whether an act can do without a system call that is taken away.
    pub(crate) fn can_lack() -> bool {
        cfg!(feature = "crash-points")
    }

    /// Runs `prepare` and then `act` in a child that stops in `act` where the play says so.
    /// An error of `act` is to leave things as they were: it is done again then.
    pub(crate) fn victim<P>(&self, prepare: impl Fn() -> P, act: impl Fn(&mut P) -> Act) {
        self.victim_while(prepare, act, |_| {});
    }

    /// The same, and something happens meanwhile; it is given a way to ask whether the
    /// victim lives.
    pub(crate) fn victim_while<P>(
        &self,
        prepare: impl Fn() -> P,
        act: impl Fn(&mut P) -> Act,
        meanwhile: impl FnOnce(&dyn Fn() -> bool),
    ) {
        self.clear();
        if let Stop::Instruction(steps) = self.stop.get() {
            let done = |mut prepared| {
                act(&mut prepared).expect("nothing stands in the way");
                // What ends in good order isn't what is tested here.
                std::mem::forget(prepared);
            };
            let killed = trace::killed_after(steps, trace::Step::Instruction, prepare, done);
            self.keep_record(!killed);
            return;
        }
        let child = self.start(self.stop.get(), prepare, act);
        meanwhile(&|| is_alive(&child));
        let finished = self.await_end(&child);
        self.keep_record(finished);
    }

    /// Somebody who dies before the victim comes, at the point of this number. False if it
    /// was done before.
    pub(crate) fn dies_at<P>(
        &self,
        point: usize,
        prepare: impl Fn() -> P,
        act: impl Fn(&mut P) -> Act,
    ) -> bool {
        self.clear();
        let child = self.start(Stop::Point(point), prepare, act);
        !self.await_end(&child)
    }

    fn start<P>(&self, stop: Stop, prepare: impl Fn() -> P, act: impl Fn(&mut P) -> Act) -> Forked {
        if let Some(child) = fork() {
            return child;
        }
        end_after(|| {
            let before = Resources::of_this_process(self.arena());
            let mut prepared = prepare();
            let between = Resources::of_this_process(self.arena());
            let plan = Plan { stop, lacking: self.lacking.get(), page: self.page };
            assert!(PLAN.set(plan).is_ok(), "a victim acts once");
            let answer = act(&mut prepared);
            let Stop::Failure { call, fault } = stop else {
                answer.expect("nothing stands in the way");
                std::mem::forget(prepared);
                return;
            };
            let failed = self.page.calls.load(Ordering::Relaxed) > call;
            if let Err(error) = answer {
                assert!(failed, "an error of no call: {error}");
                assert_eq!(fault, Fault::Shortage, "interrupted and not tried again: {error}");
                between.are_there_again(self.arena(), &format!("leaked after: {error}"));
                act(&mut prepared).expect("it works when nothing fails");
            }
            drop(prepared);
            before.are_there_again(self.arena(), "leaked");
        })
    }

    /// True if the victim was done, false if it was killed.
    fn await_end(&self, child: &Forked) -> bool {
        match child.ended() {
            WaitStatus::Exited(_, 0) => true,
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => false,
            other => panic!("the victim came to another end: {other:?}"),
        }
    }

    fn clear(&self) {
        let page = self.page;
        for count in [&page.points, &page.calls, &page.failures, &page.lacked] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// Keeps what is known of the victim, before somebody else uses the page.
    fn keep_record(&self, finished: bool) {
        let page = self.page;
        let count = page.points.load(Ordering::Relaxed);
        let calls = page.calls.load(Ordering::Relaxed);
        assert!(count <= TRACE_LEN && calls <= TRACE_LEN, "more than is remembered: {count}, {calls}");
        self.record.replace(Record {
            finished,
            points: page.trace[..count].iter().map(|point| point.load(Ordering::Relaxed)).collect(),
            calls: page.callers[..calls].iter().map(|point| point.load(Ordering::Relaxed)).collect(),
            failures: page.failures.load(Ordering::Relaxed),
        });
    }

    /// What is known of the last play's victim.
    pub(crate) fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    /// Sweeps away what a scene that failed has left.
    pub(crate) fn clean_up(&self) {
        for entry in self.arena().entries() {
            let _ = fs::remove_file(self.arena().file(&entry));
        }
    }

    /// In a victim: something is done, once more.
    pub(crate) fn note(&self, which: usize) {
        self.page.notes[which].fetch_add(1, Ordering::Relaxed);
    }

    /// How often the last victim has noted that.
    pub(crate) fn noted(&self, which: usize) -> u64 {
        self.page.notes[which].load(Ordering::Relaxed)
    }
}

fn is_alive(child: &Forked) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(child.0), flags).expect("our child") == WaitStatus::StillAlive
}

/// What a process has that it could forget to give back.
#[derive(Debug, PartialEq, Eq)]
struct Resources {
    descriptors: usize,
    /// Mappings of segments, and reservations around them.
    mappings: usize,
}

impl Resources {
    fn of_this_process(arena: &Arena) -> Self {
        let ours = arena.path().to_str().expect("ASCII");
        let maps = fs::read_to_string("/proc/self/maps").expect("there is /proc");
        let lines: Vec<&str> = maps.lines().collect();
        let is_ours = |&at: &usize| {
            let line = lines[at];
            line.contains(ours) || line.contains("/ipc-") || is_reservation(&lines, at)
        };
        Self {
            descriptors: fs::read_dir("/proc/self/fd").expect("there is /proc").count(),
            mappings: (0..lines.len()).filter(is_ours).count(),
        }
    }
}

impl Resources {
    /// At once, or when what is closed apart is closed.
    fn are_there_again(&self, arena: &Arena, otherwise: &str) {
        let give_up = Instant::now() + common::PATIENCE;
        while Self::of_this_process(arena) != *self && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(Self::of_this_process(arena), *self, "{otherwise}");
    }
}

/// Memory that nobody may access and that isn't a file's: unless it lies beside no file but
/// beside memory of the process's own, as what guards a thread's stack, or what a heap may grow
/// into.
fn is_reservation(lines: &[&str], at: usize) -> bool {
    let ends = |line: &str| line.split([' ', '-']).nth(1).map(str::to_owned);
    let begins = |line: &str| line.split('-').next().map(str::to_owned);
    let before = at.checked_sub(1).map(|before| lines[before]);
    let after = lines.get(at + 1).copied();
    let before = before.filter(|line| ends(line) == begins(lines[at]));
    let after = after.filter(|line| begins(line) == ends(lines[at]));
    let is_beside = |what: &str| before.into_iter().chain(after).any(|line| line.contains(what));
    lines[at].contains("---p 00000000 00:00 0") && (is_beside("-s ") || !is_beside("rw-p 00000000 00:00 0"))
}

/// A point as a number: file, line, column, moment.
#[cfg(feature = "crash-points")]
pub(crate) fn key(file: &str, line: u32, column: u32, is_after: bool) -> u64 {
    // FNV-1a; the callers' paths may begin anywhere above `src`.
    let file = file.rsplit_once("src/").map_or(file, |(_, file)| file);
    let hash =
        file.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from(hash) << 32 | u64::from(line) << 12 | u64::from(column) << 1 | u64::from(is_after)
}

#[cfg(feature = "crash-points")]
fn observe_once() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| ipc_shm::hooks::observe(observe));
}

/// At each point of each process that forks from here.
#[cfg(feature = "crash-points")]
fn observe(point: &ipc_shm::hooks::Point) -> Option<i32> {
    use ipc_shm::hooks::Moment;
    let plan = PLAN.get()?;
    let site = point.site;
    let number = plan.page.points.fetch_add(1, Ordering::Relaxed);
    let key = key(site.file(), site.line(), site.column(), point.moment == Moment::After);
    if let Some(entry) = plan.page.trace.get(number) {
        entry.store(key, Ordering::Relaxed);
    }
    if plan.stop == Stop::Point(number) || plan.stop == Stop::First(key) {
        die();
    }
    if point.moment == Moment::After || !site.file().contains("/sys/") {
        return None;
    }
    if let Some(lack) = plan.lacking.filter(|lack| lack.call == point.what) {
        let time = plan.page.lacked.fetch_add(1, Ordering::Relaxed);
        if lack.time.is_none_or(|lacking| lacking == time) {
            return Some(lack.errno as i32);
        }
    }
    let made = plan.page.calls.fetch_add(1, Ordering::Relaxed);
    if let Some(entry) = plan.page.callers.get(made) {
        entry.store(key, Ordering::Relaxed);
    }
    match plan.stop {
        // They can't fail on what is mapped, so nothing could be done about it either.
        Stop::Failure { call, fault }
            if call == made && !["munmap", "mmap(MAP_FIXED)"].contains(&point.what) =>
        {
            plan.page.failures.fetch_add(1, Ordering::Relaxed);
            Some(fault.errno(point.what) as i32)
        }
        _ => None,
    }
}

#[cfg(feature = "crash-points")]
fn die() -> ! {
    let _ = nix::sys::signal::raise(Signal::SIGKILL);
    loop {
        nix::unistd::pause();
    }
}

/// Waits until the endpoint whose flag this is has gone to sleep, or `alive` says no.
pub(crate) fn until_asleep(stage: &Stage, flag: u64, alive: &dyn Fn() -> bool) {
    let file = stage.arena().file("x");
    common::eventually("it sleeps", || !alive() || common::is_waited_at(&file, flag));
}
