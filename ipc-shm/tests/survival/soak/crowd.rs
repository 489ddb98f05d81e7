//! The processes around one channel: killed, stopped, woken, replaced, and their ends seen.

use super::{
    Game, HANG, Shared, Sums,
    worker::{Part, Worker},
};
use crate::common::{Dice, end_after, fork};
use nix::{
    libc,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::FileExt},
    thread,
    time::{Duration, Instant},
};

/// How often those who have ended are replaced while progress is watched for.
const REAP_EVERY: Duration = Duration::from_millis(20);

/// A process of the crowd.
struct Member {
    pid: Pid,
    part: Part,
    /// Stopped until then.
    asleep_until: Option<Instant>,
}

/// The processes around one channel.
pub(super) struct Crowd {
    pub(super) pattern: Worker,
    game: &'static Game,
    shared: &'static Shared,
    members: Vec<Member>,
    pub(super) next_id: u32,
    /// How members ended that shouldn't have.
    pub(super) troubles: Vec<String>,
}

impl Crowd {
    /// All that the game has, at work.
    pub(super) fn gather(
        game: &'static Game,
        pattern: Worker,
        shared: &'static Shared,
        dice: &mut Dice,
    ) -> Self {
        let mut crowd = Self { pattern, game, shared, members: Vec::new(), next_id: 1, troubles: Vec::new() };
        game.crowd.iter().for_each(|&part| crowd.join(part, dice));
        crowd
    }

    fn join(&mut self, part: Part, dice: &mut Dice) {
        let worker = Worker { id: self.next_id, part, seed: dice.roll(), ..self.pattern.clone() };
        self.next_id += 1;
        let Some(child) = fork() else {
            // SAFETY: takes a number and sets a timer: who is forgotten ends by itself.
            unsafe { libc::alarm(120) };
            end_after(|| worker.live(self.game, self.shared))
        };
        self.members.push(Member { pid: child.0, part, asleep_until: None });
    }

    /// Does something to somebody.
    pub(super) fn harass(&mut self, sums: &mut Sums, dice: &mut Dice) {
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
                sums.kills += 1;
                if !self.kill_and_watch(chosen, sums, dice) {
                    let others = self.states();
                    self.troubles.push(format!("nobody went on within {HANG:?} of a death: {others}"));
                    sums.hung += 1;
                }
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
    /// the kernel says that it is dead; false if they don't and should.
    fn kill_and_watch(&mut self, chosen: usize, sums: &mut Sums, dice: &mut Dice) -> bool {
        let Member { pid, part, .. } = self.members[chosen];
        let path = self.pattern.directory.join(self.pattern.name.as_str());
        let seat = File::open(&path).ok().and_then(|file| Seat::of((self.game.seats)(), file, pid));
        let _ = kill(pid, Signal::SIGKILL);
        // Who holds nothing leaves nothing to recover from.
        let Some(seat) = seat else { return true };
        let killed = Instant::now();
        let mut released = killed;
        while seat.is_held_by(pid) {
            released = Instant::now();
            if released - killed > HANG {
                return false;
            }
        }
        let (progress, shared) = (self.game.progress, self.shared);
        let before = progress(shared, part);
        let mut reaped = released;
        while progress(shared, part) == before {
            if released.elapsed() > self.game.may_be_idle.unwrap_or(HANG) {
                sums.idle += 1;
                return self.game.may_be_idle.is_some();
            }
            // Those who could go on may have been killed before, and be dead only now.
            if reaped.elapsed() > REAP_EVERY {
                self.reap(dice);
                reaped = Instant::now();
            }
            std::hint::spin_loop();
        }
        sums.recoveries.push(released.elapsed());
        true
    }

    /// What all are at, as the kernel says it: part, state, where it waits.
    fn states(&self) -> String {
        let state = |member: &Member| {
            let of =
                |what: &str| fs::read_to_string(format!("/proc/{}/{what}", member.pid)).unwrap_or_default();
            let status = of("status");
            let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or(" gone");
            format!("{:?}{state} {}", member.part, of("wchan"))
        };
        self.members.iter().map(state).collect::<Vec<_>>().join(", ")
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

    /// Tells all to stop, those who receive when nobody sends any more; false if not all do.
    pub(super) fn disperse(&mut self) -> bool {
        self.shared.end();
        self.wake_those_due(true);
        let give_up = Instant::now() + HANG;
        while !self.members.is_empty() {
            self.collect();
            if !self.shared.is_quiet() && self.members.iter().all(|member| member.part == Part::Receiver) {
                (self.game.hush)(&self.pattern);
                self.shared.hush();
            }
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
    fn of(seats: Vec<(u64, u64)>, file: File, pid: Pid) -> Option<Self> {
        let mut seat = Self { file, byte: 0, pid_offset: 0 };
        for (byte, pid_offset) in seats {
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
pub(super) fn adopt_orphans() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}
