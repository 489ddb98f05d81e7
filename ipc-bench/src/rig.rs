//! The two measuring processes of a block, as the coordinator sees them.
//!
//! Everything that can happen arrives at one place: replies, the end of a process, a signal
//! to the coordinator, or nothing for too long. So no wait here is for ever, and whichever
//! way a block ends, dropping its [`Pair`] ends both processes and takes away what they
//! had in the system.

use crate::{
    link::{Job, Outcome, Side},
    peer::{Order, PeerSpec, Reply},
    shared,
    transports::{LaneSpec, Site},
};
use nix::sys::signal::{SigSet, Signal};
use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Why a block yields no figures.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The user, or the system, wants the whole run to end.
    Interrupted(Signal),
    /// Nobody reads the report any more.
    ReaderGone,
    /// This block failed.
    Failed(String),
}

impl<E: Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

#[derive(Debug)]
enum Event {
    Said { pair: u64, side: Side, line: String },
    Ended { pair: u64, side: Side },
    Signal(Signal),
}

/// What is needed to start pairs of measuring processes.
#[derive(Debug)]
pub(crate) struct Rig {
    events: mpsc::Receiver<Event>,
    report: mpsc::Sender<Event>,
    /// The processors of the near and the far process.
    pinned: Option<[usize; 2]>,
    /// How long a pair may be silent.
    watchdog: Duration,
    pairs: u64,
}

impl Rig {
    /// Takes over the signals that end programs. Call it before there are other threads:
    /// they, and the measuring processes, inherit that these signals are blocked.
    pub(crate) fn new(pinned: Option<[usize; 2]>, watchdog: Duration) -> Result<Self, Trouble> {
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
        Ok(Self { events, report, pinned, watchdog, pairs: 0 })
    }

    /// Starts two processes and has them attach to `lanes`.
    pub(crate) fn start(&mut self, mut lanes: Vec<LaneSpec>) -> Result<Pair<'_>, Trouble> {
        let mut regions = Vec::new();
        for lane in &mut lanes {
            if let Some(len_bytes) = lane.transport.region_bytes(lane.message_len_bytes) {
                let region = shared::create(len_bytes)?;
                lane.region = Some(region.as_raw_fd());
                regions.push(region);
            }
        }
        self.pairs += 1;
        let site = Site::new()?;
        let mut pair = Pair { number: self.pairs, rig: self, processes: Vec::new(), site, lanes, regions };
        // The near one creates, so it goes first.
        for side in [Side::Near, Side::Far] {
            pair.spawn(side)?;
            pair.order(side, &Order::Attach);
            while !matches!(pair.hear()?, (_, Reply::Attached)) {}
        }
        pair.site.forget_names(&pair.lanes);
        pair.regions.clear();
        Ok(pair)
    }
}

/// Two measuring processes, attached to the same lanes.
#[derive(Debug)]
pub(crate) struct Pair<'rig> {
    number: u64,
    rig: &'rig Rig,
    /// The near one, then the far one.
    processes: Vec<Process>,
    site: Site,
    lanes: Vec<LaneSpec>,
    /// Kept until both have inherited and mapped them.
    regions: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    stderr: Option<JoinHandle<String>>,
}

impl Pair<'_> {
    /// Has the near process do one job and the far one the other, on the same lane, and
    /// returns what they saw. The far one is ready before the near one begins.
    pub(crate) fn run(&mut self, lane: usize, jobs: [Job; 2], count: u64) -> Result<[Outcome; 2], Trouble> {
        let [near, far] = jobs;
        self.order(Side::Far, &Order::Run { lane, job: far, count });
        while !matches!(self.hear()?, (Side::Far, Reply::Ready)) {}
        self.order(Side::Near, &Order::Run { lane, job: near, count });
        let (mut near, mut far) = (None, None);
        loop {
            match self.hear()? {
                (Side::Near, Reply::Done(outcome)) => near = Some(outcome),
                (Side::Far, Reply::Done(outcome)) => far = Some(outcome),
                (_, Reply::Attached | Reply::Ready) => {}
            }
            match (near, far) {
                (Some(near), Some(far)) => return Ok([near, far]),
                other => (near, far) = other,
            }
        }
    }

    fn spawn(&mut self, side: Side) -> Result<(), Trouble> {
        let processor = self.rig.pinned.map(|pinned| pinned[side as usize]);
        let (site, lanes) = (self.site.clone(), self.lanes.clone());
        let spec = serde_json::to_string(&PeerSpec { side, processor, site, lanes })?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["measuring-process", &spec])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (report, pair) = (self.rig.report.clone(), self.number);
        thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
                let Ok(line) = line else { break };
                // Nobody listens any more when the run is over.
                let _ = report.send(Event::Said { pair, side, line });
            }
            let _ = report.send(Event::Ended { pair, side });
        });
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            // What could be read is what there is to tell.
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let orders = child.stdin.take();
        self.processes.push(Process { child, orders, stderr: Some(stderr) });
        Ok(())
    }

    /// Tells a process what to do. If it is gone, the next [`hear`](Self::hear) says so.
    fn order(&mut self, side: Side, order: &Order) {
        if let Some(orders) = &mut self.processes[side as usize].orders {
            let line = serde_json::to_string(order).expect("orders are plain data");
            let _ = writeln!(orders, "{line}");
        }
    }

    /// The next reply of either process.
    fn hear(&mut self) -> Result<(Side, Reply), Trouble> {
        loop {
            match self.rig.events.recv_timeout(self.rig.watchdog) {
                Ok(Event::Signal(signal)) => return Err(Trouble::Interrupted(signal)),
                Ok(Event::Said { pair, side, line }) if pair == self.number => {
                    return Ok((side, serde_json::from_str(&line)?));
                }
                Ok(Event::Ended { pair, side }) if pair == self.number => {
                    let what = self.processes[side as usize].end(false);
                    return Err(Trouble::Failed(format!("the {} process {what}", side.name())));
                }
                // Of an earlier pair, whose processes were ended.
                Ok(Event::Said { .. } | Event::Ended { .. }) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let seconds = self.rig.watchdog.as_secs();
                    return Err(Trouble::Failed(format!(
                        "neither process was heard of for {seconds} s: both were ended"
                    )));
                }
            }
        }
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.end(true);
        }
        self.site.clear(&self.lanes);
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

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}
