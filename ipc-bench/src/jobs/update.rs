//! A value under a lock, which both processes change.
//!
//! Where it takes time to get at the value, that is so for the lock: until it has come to who takes
//! it, and until it has got back, nobody else has it. So no two of these delays overlap.

use super::{crowd::wait_until, lane::AnyLane};
use crate::{
    links::{
        backends::shm_waiting,
        layers::delay,
        shared::{LINE_BYTES, Region},
        site::{DIRECTIONS, Site},
    },
    spec::{Job, LaneSpec, Layer, Outcome},
    trouble::Fallible,
};
use ipc_shm::sync::{Mutex, State};
use std::sync::atomic::{AtomicU64, Ordering};

/// The processes that take part.
const MEMBERS: u64 = 2;

/// The value, and what the two tell each other beside it: counts that only grow.
pub(crate) struct Updates {
    value: Mutex<u64>,
    delay_ns: u64,
    arrived: &'static AtomicU64,
    finished: &'static AtomicU64,
    runs: u64,
    /// What the value has to be.
    expected: u64,
}

impl Updates {
    /// The memory that the counts take.
    pub(crate) const LEN_BYTES: usize = 2 * LINE_BYTES;

    /// Opens the value, or makes it.
    pub(crate) fn attach(spec: &LaneSpec, region: &'static Region, site: &Site) -> Fallible<Self> {
        let delay_ns = if let Layer::Delay { hop_ns } = spec.layer { hop_ns } else { 0 };
        let name = site.channel(spec, DIRECTIONS[0]);
        let mut value: Mutex<u64> = State::at(&site.directory).open_or_create(&name, || 0)?;
        value.set_waiting(shm_waiting(spec.waiting));
        let [arrived, finished] = [0, 1].map(|line| &region.words(line * LINE_BYTES, 1)[0]);
        Ok(Self { value, delay_ns, arrived, finished, runs: 0, expected: 0 })
    }

    /// Returns when both have counted in this run.
    fn meet(&self, count: &AtomicU64) {
        // AcqRel: pairs with the Acquire in `wait_until`; who comes later comes after what was done.
        count.fetch_add(1, Ordering::AcqRel);
        wait_until(count, self.runs * MEMBERS);
    }

    fn update(&self) -> Fallible<()> {
        let mut value = self.value.lock()?;
        delay(self.delay_ns)?;
        *value += 1;
        delay(self.delay_ns)
    }
}

impl AnyLane for Updates {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        if job != Job::Update {
            return Err(format!("a value under a lock has no such job: {job:?}").into());
        }
        self.runs += 1;
        self.expected += count * MEMBERS;
        self.meet(self.arrived);
        let outcome = Outcome::begin()?;
        for _ in 0..count {
            self.update()?;
        }
        let outcome = outcome.end()?;
        self.meet(self.finished);
        match *self.value.lock()? {
            value if value == self.expected => Ok(outcome),
            value => Err(format!("the value is {value} after {} updates", self.expected).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Updates;
    use crate::{
        jobs::lane::AnyLane,
        links::{
            shared::{Region, create},
            site::{Ground, Site},
        },
        spec::{Job, LaneSpec, Layer, TransportId, Waiting},
    };
    use std::{
        os::fd::{AsRawFd, OwnedFd},
        thread,
    };

    fn attach(site: &Site, memory: &OwnedFd) -> Updates {
        let spec = LaneSpec {
            layer: Layer::Delay { hop_ns: 1_000 },
            ..LaneSpec::sample(TransportId::ShmMutex, Waiting::Adaptive)
        };
        Updates::attach(&spec, Region::map(memory.as_raw_fd()).unwrap(), site).unwrap()
    }

    #[test]
    fn both_change_the_value_and_a_change_by_somebody_else_is_noticed() {
        let (site, memory) = (Ground::new(&[]).unwrap(), create(Updates::LEN_BYTES).unwrap());
        let [first, second] = thread::scope(|scope| {
            let runs = || {
                let mut updates = attach(&site, &memory);
                let before = updates.run(Job::Update, 100).map(|_| ());
                let both = updates.run(Job::Update, 50).and_then(|_| Ok(*updates.value.lock()?));
                (before.is_ok(), both.unwrap())
            };
            [scope.spawn(runs), scope.spawn(runs)].map(|one| one.join().unwrap())
        });
        assert_eq!((first, second), ((true, 300), (true, 300)));
        let other = create(Updates::LEN_BYTES).unwrap();
        let errors = thread::scope(|scope| {
            let run = || attach(&site, &other).run(Job::Update, 10).map(|_| ()).unwrap_err().to_string();
            [scope.spawn(run), scope.spawn(run)].map(|one| one.join().unwrap())
        });
        assert_eq!(errors, ["the value is 320 after 20 updates"; 2]);
    }
}
