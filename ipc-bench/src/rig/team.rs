//! The measuring processes of a block, as the coordinator sees them.
//!
//! Everything that can happen arrives at one place: replies, the end of a process, a signal
//! to the coordinator, or nothing for too long. So no wait here is for ever, and whichever
//! way a block ends, dropping its [`Team`] ends all processes and takes away what they had in
//! the system. Processes that carry no messages, as those of `locks`, are no [`Team`], but are
//! heard in the same way: [`Rig::listen`], [`Rig::hear`].

use super::peer::{Order, PeerSpec, Reply};
use crate::{
    jobs::transports::region_bytes,
    links::{
        shared,
        site::{self, Ground, Site},
    },
    machine::Placement,
    spec::{Job, LaneSpec, Member, Outcome, Shape, Side},
    trouble::Trouble,
};
use nix::sys::signal::{SigSet, Signal};
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

#[derive(Debug)]
enum Event {
    Said { team: u64, member: Member, line: String },
    Ended { team: u64, member: Member },
    Signal(Signal),
}

/// What is needed to start teams of measuring processes.
#[derive(Debug)]
pub(crate) struct Rig {
    events: mpsc::Receiver<Event>,
    report: mpsc::Sender<Event>,
    /// The processors of the near and the far processes.
    pinned: Option<Placement>,
    /// How long a team may be silent.
    watchdog: Duration,
    teams: u64,
    /// The program of the guests, where there are any.
    guests: Option<PathBuf>,
}

impl Rig {
    /// Takes over the signals that end programs. Call it before there are other threads:
    /// they, and the measuring processes, inherit that these signals are blocked.
    pub(crate) fn new(pinned: Option<Placement>, watchdog: Duration) -> Result<Self, Trouble> {
        site::clear_after_the_killed();
        let (report, events) = mpsc::channel();
        let mut ending = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            ending.add(signal);
        }
        ending.thread_block()?;
        let to_coordinator = report.clone();
        thread::spawn(move || {
            while let Ok(signal) = ending.wait() {
                if to_coordinator.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { events, report, pinned, watchdog, teams: 0, guests: None })
    }

    /// From now on processes stay on these processors.
    pub(crate) fn pin(&mut self, pinned: Option<Placement>) {
        self.pinned = pinned;
    }

    /// From now on teams may be silent for so long.
    pub(crate) fn watch(&mut self, watchdog: Duration) {
        self.watchdog = watchdog;
    }

    /// The number of a new team.
    pub(crate) fn new_team(&mut self) -> u64 {
        self.teams += 1;
        self.teams
    }

    /// From now on what a process of a team says is heard, line by line, and its end.
    pub(crate) fn listen(&self, team: u64, member: Member, stdout: Option<ChildStdout>) {
        let report = self.report.clone();
        thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
                let Ok(line) = line else { break };
                // Nobody listens any more when the run is over.
                let _ = report.send(Event::Said { team, member, line });
            }
            let _ = report.send(Event::Ended { team, member });
        });
    }

    /// The next line of any process of a team; `None` if it has ended.
    ///
    /// # Errors
    ///
    /// If the run is to end, or nothing was heard for too long.
    pub(crate) fn hear(&self, number: u64) -> Result<(Member, Option<String>), Trouble> {
        loop {
            match self.events.recv_timeout(self.watchdog) {
                Ok(Event::Signal(signal)) => return Err(Trouble::Interrupted(signal)),
                Ok(Event::Said { team, member, line }) if team == number => return Ok((member, Some(line))),
                Ok(Event::Ended { team, member }) if team == number => return Ok((member, None)),
                // Of an earlier team, whose processes were ended.
                Ok(Event::Said { .. } | Event::Ended { .. }) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let seconds = self.watchdog.as_secs();
                    return Err(Trouble::Failed(format!(
                        "no measuring process was heard of for {seconds} s: a message is lost, or a process is stuck; \
                         all were ended"
                    )));
                }
            }
        }
    }

    /// Looks whether the run is to end, when there is no team.
    ///
    /// # Errors
    ///
    /// If it is.
    pub(crate) fn check(&self) -> Result<(), Trouble> {
        let signal = self.events.try_iter().find_map(|event| match event {
            Event::Signal(signal) => Some(signal),
            // Of an earlier team, whose processes were ended.
            Event::Said { .. } | Event::Ended { .. } => None,
        });
        signal.map_or(Ok(()), |signal| Err(Trouble::Interrupted(signal)))
    }

    /// The program that drives guests.
    pub(crate) fn invite(&mut self, program: PathBuf) {
        self.guests = Some(program);
    }

    /// Starts the processes that `lanes` are for and has them attach.
    pub(crate) fn start(&mut self, mut lanes: Vec<LaneSpec>) -> Result<Team<'_>, Trouble> {
        let mut regions = Vec::new();
        for lane in &mut lanes {
            if let Some(len_bytes) = region_bytes(lane) {
                let region = shared::create(len_bytes)?;
                lane.region = Some(region.as_raw_fd());
                regions.push(region);
            }
        }
        let number = self.new_team();
        let members = everybody(&lanes);
        let ground = Ground::new(&lanes)?;
        let mut team = Team { number, rig: self, processes: Vec::new(), ground, lanes, regions };
        // The first near one creates, so it goes first.
        for member in members {
            team.spawn(member)?;
            team.order(member, &Order::Attach);
            while !matches!(team.hear()?, (_, Reply::Attached)) {}
        }
        team.ground.forget_names(&team.lanes);
        team.regions.clear();
        Ok(team)
    }
}

/// All who take part in any of the lanes, the near ones first.
fn everybody(lanes: &[LaneSpec]) -> Vec<Member> {
    let of = |side| {
        let members = lanes.iter().flat_map(|lane| lane.shape.members());
        let mut indices: Vec<_> =
            members.filter(|member| member.side == side).map(|member| member.index).collect();
        indices.sort_unstable();
        indices.dedup();
        indices.into_iter().map(move |index| Member { side, index })
    };
    of(Side::Near).chain(of(Side::Far)).collect()
}

/// Measuring processes, attached to their lanes.
#[derive(Debug)]
pub(crate) struct Team<'rig> {
    number: u64,
    rig: &'rig Rig,
    processes: Vec<Process>,
    ground: Ground,
    lanes: Vec<LaneSpec>,
    /// Kept until all have inherited and mapped them.
    regions: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Process {
    member: Member,
    child: Child,
    orders: Option<ChildStdin>,
    stderr: Option<JoinHandle<String>>,
}

impl Team<'_> {
    /// Has the near processes of a lane do one job and the far ones the other, and returns
    /// what they saw. The far ones are ready before the near ones begin.
    pub(crate) fn run(&mut self, lane: usize, jobs: [Job; 2], count: u64) -> Result<Outcomes, Trouble> {
        let mut members: Vec<Member> = self.lanes[lane].shape.members().collect();
        let mut outcomes = Outcomes::default();
        for (side, job) in [(Side::Far, jobs[1]), (Side::Near, jobs[0])] {
            let its: Vec<Member> = members.iter().copied().filter(|member| member.side == side).collect();
            for &member in &its {
                self.order(member, &Order::Run { lane, job, count });
            }
            let mut unready = its.len();
            while unready > 0 {
                match self.hear()? {
                    (member, Reply::Ready) => unready -= usize::from(member.side == side),
                    (member, Reply::Done(outcome)) => outcomes.add(&mut members, member, outcome)?,
                    (_, Reply::Attached) => {}
                }
            }
        }
        while !members.is_empty() {
            if let (member, Reply::Done(outcome)) = self.hear()? {
                outcomes.add(&mut members, member, outcome)?;
            }
        }
        Ok(outcomes)
    }

    /// The process id of a member.
    pub(crate) fn pid(&self, member: Member) -> Option<u32> {
        self.processes.iter().find(|process| process.member == member).map(|process| process.child.id())
    }

    fn spawn(&mut self, member: Member) -> Result<(), Trouble> {
        let processor = self.rig.pinned.as_ref().map(|pinned| pinned.of(member));
        let (site, lanes) = (Site::clone(&self.ground), self.lanes.clone());
        let is_guest = lanes
            .iter()
            .any(|lane| matches!(lane.shape, Shape::Guests { .. }) && lane.shape.includes(member));
        let program = match &self.rig.guests {
            Some(guests) if is_guest => guests.clone(),
            _ => std::env::current_exe()?,
        };
        let other_processor = self.rig.pinned.as_ref().map(|pinned| pinned.of(member.opposite()));
        let spec = serde_json::to_string(&PeerSpec { member, processor, other_processor, site, lanes })?;
        let mut child = Command::new(program)
            .args(["measuring-process", &spec])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take();
        self.rig.listen(self.number, member, child.stdout.take());
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            // What could be read is what there is to tell.
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let orders = child.stdin.take();
        self.processes.push(Process { member, child, orders, stderr: Some(stderr) });
        Ok(())
    }

    /// Tells a process what to do. If it is gone, the next [`hear`](Self::hear) says so.
    fn order(&mut self, member: Member, order: &Order) {
        if let Some(orders) = self.process(member).and_then(|process| process.orders.as_mut()) {
            let line = serde_json::to_string(order).expect("orders are plain data");
            let _ = writeln!(orders, "{line}");
        }
    }

    fn process(&mut self, member: Member) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.member == member)
    }

    /// The next reply of any process.
    fn hear(&mut self) -> Result<(Member, Reply), Trouble> {
        match self.rig.hear(self.number)? {
            (member, Some(line)) => Ok((member, serde_json::from_str(&line)?)),
            (member, None) => {
                let what = self.process(member).map_or_else(String::new, |process| process.end(false));
                Err(Trouble::Failed(format!("the {member} {what}")))
            }
        }
    }
}

impl Drop for Team<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.end(true);
        }
    }
}

/// What the processes of a run saw: the near ones, then the far ones.
#[derive(Debug, Default)]
pub(crate) struct Outcomes(pub(crate) [Vec<Outcome>; 2]);

impl Outcomes {
    fn add(
        &mut self,
        waiting_for: &mut Vec<Member>,
        member: Member,
        outcome: Outcome,
    ) -> Result<(), Trouble> {
        let at = waiting_for
            .iter()
            .position(|&other| other == member)
            .ok_or_else(|| Trouble::Failed(format!("the {member} answered what nobody had asked")))?;
        waiting_for.swap_remove(at);
        self.0[member.side as usize].push(outcome);
        Ok(())
    }
}

impl Process {
    /// Ends the process (by force, or because it is ending by itself), and says how it
    /// went.
    fn end(&mut self, force: bool) -> String {
        self.orders = None;
        if force {
            // It fails only if the process has ended by itself.
            let _ = self.child.kill();
        }
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let stderr = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        match stderr.as_str() {
            "" => format!("ended early ({status})"),
            said => format!("ended early ({status}): {said}"),
        }
    }
}
