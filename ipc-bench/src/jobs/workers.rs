//! Workers, as many as there are, that keep one set of accounts together, in two ways.
//!
//! *Locked*: the accounts are one structure in shared memory under a mutex; each worker takes it
//! for every order. *By queues*: each worker has a part of the accounts for itself, in memory of
//! its own, and orders for another's go there by a queue, one for every pair of workers, so that
//! each line of memory has one who writes to it. Whose part it is follows from the account's
//! number. Orders are taken from a sequence that looks random and is the same for both ways.
//!
//! A worker whose queue is full goes on with what has come for itself, so none waits for
//! another in a circle. When it has no more orders, it says so on all of its queues and goes on
//! until all others have said so.

use super::{crowd::Board, lane::AnyLane};
use crate::{
    coherence::Counter,
    links::{backends::records_bytes, shared::Region, site::Site},
    spec::{Design, Job, LaneSpec, Member, Outcome, Shape, Side},
    trouble::Fallible,
};
use ipc_core::{
    Batch, BatchReceiver, BatchSender, Channel, ChannelName, RecvError, SendError, Transport, Wait,
};
use ipc_shm::{
    ShmConfig, Spsc, SpscReceiver, SpscSender,
    sync::{Mutex, State},
};
use std::thread;

/// How many accounts there are, each on a line of its own.
const ACCOUNTS: usize = 1024;
const ACCOUNT_WORDS: usize = 8;

type Accounts = [[u64; ACCOUNT_WORDS]; ACCOUNTS];

/// After how many orders of its own a worker looks for those of others.
const LOOKS_EVERY: u64 = 64;

/// How many are taken from a queue at a time.
const TAKES: usize = 64;

/// Something that is to be added to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    account: u32,
    amount: u32,
}

/// What comes after the last order of a worker: no account has this number.
const NO_MORE: [u8; 8] = [0xff; 8];

impl Order {
    fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.amount) << 32 | u64::from(self.account)).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; 8]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self { account: word as u32, amount: (word >> 32) as u32 }
    }

    /// Does it: how many, their sum, the least and the most.
    #[inline]
    fn apply(self, accounts: &mut Accounts) {
        let account = &mut accounts[self.account as usize % ACCOUNTS];
        let amount = u64::from(self.amount);
        account[0] += 1;
        account[1] += amount;
        account[2] = if account[2] == 0 { amount } else { account[2].min(amount) };
        account[3] = account[3].max(amount);
    }
}

/// Orders in a sequence: G. Marsaglia, "Xorshift RNGs", 2003.
#[derive(Clone, Debug)]
struct Orders(u64);

impl Orders {
    fn of(worker: usize) -> Self {
        // Anything but zero, and different for each.
        Self((worker as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[inline]
    fn next(&mut self) -> Order {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let word = self.0 >> 16;
        Order { account: (word % ACCOUNTS as u64) as u32, amount: 1 + (word >> 32) as u32 % 1000 }
    }
}

/// What another worker is to this one.
struct Colleague {
    tx: SpscSender,
    rx: SpscReceiver,
    /// Orders that are yet to be sent.
    outgoing: Vec<[u8; 8]>,
    /// Whether it has no more orders.
    has_ended: bool,
}

/// One of the workers.
pub(crate) struct Worker {
    index: usize,
    board: Board,
    together: Mutex<Accounts>,
    own: Box<Accounts>,
    /// All, in their order; this one has nothing to send to itself.
    colleagues: Vec<Option<Colleague>>,
    orders: Orders,
    runs: u64,
    /// How many orders all together have done with the lock.
    done_with_lock: u64,
    counter: Result<Counter, String>,
    counted: u64,
}

/// What a worker has done in a run.
#[derive(Debug, Default)]
struct Done {
    orders: u64,
    /// The sum of what it has added, less the sum of its own orders: over all workers, nothing.
    balance: u64,
}

impl Worker {
    /// Attaches; the first one of all makes everything.
    pub(crate) fn attach(
        spec: &LaneSpec,
        member: Member,
        site: &Site,
        region: &'static Region,
    ) -> Fallible<Self> {
        let Shape::Workers { near, far } = spec.shape else {
            return Err("only workers take part in this".into());
        };
        let workers = near + far;
        let index = if member.side == Side::Near { member.index } else { near + member.index };
        let transport = Spsc::at(&site.directory);
        let name = |from: usize, to: usize| ChannelName::new(&site.channel(spec, &format!("{from}-{to}")));
        if index == 0 {
            let config = ShmConfig::new().capacity_bytes(records_bytes(spec));
            for (from, to) in pairs(workers) {
                transport.create(&name(from, to)?, &config)?;
            }
        }
        let colleague = |other: usize| -> Fallible<Option<Colleague>> {
            if other == index {
                return Ok(None);
            }
            let tx = transport.open(&name(index, other)?)?.sender()?;
            let rx = transport.open(&name(other, index)?)?.receiver()?;
            Ok(Some(Colleague { tx, rx, outgoing: Vec::new(), has_ended: false }))
        };
        let accounts = site.channel(spec, "accounts");
        Ok(Self {
            index,
            board: Board::at(region),
            together: State::at(&site.directory)
                .open_or_create(&accounts, || [[0; ACCOUNT_WORDS]; ACCOUNTS])?,
            own: Box::new([[0; ACCOUNT_WORDS]; ACCOUNTS]),
            colleagues: (0..workers).map(colleague).collect::<Fallible<_>>()?,
            orders: Orders::of(index),
            runs: 0,
            done_with_lock: 0,
            counter: Counter::here(),
            counted: 0,
        })
    }

    fn workers(&self) -> u64 {
        self.colleagues.len() as u64
    }

    /// Takes the lock for every order.
    fn with_lock(&mut self, count: u64) -> Fallible<Done> {
        for _ in 0..count {
            let order = self.orders.next();
            order.apply(&mut *self.together.lock()?);
        }
        Ok(Done { orders: count, balance: 0 })
    }

    /// Whether what all have done with the lock is there, once all have done it.
    fn check_what_is_locked(&mut self, count: u64, is_last: bool) -> Fallible<()> {
        self.done_with_lock += self.workers() * count;
        if !is_last {
            return Ok(());
        }
        let found: u64 = self.together.lock()?.iter().map(|account| account[0]).sum();
        match found == self.done_with_lock {
            true => Ok(()),
            false => {
                Err(format!("{} orders were done with the lock, {found} are there", self.done_with_lock)
                    .into())
            }
        }
    }

    /// Sends what is another's, `batch` at a time.
    fn by_queues(&mut self, count: u64, batch: usize) -> Fallible<Done> {
        let mut done = Done::default();
        for colleague in self.colleagues.iter_mut().flatten() {
            colleague.has_ended = false;
        }
        for number in 1..=count {
            let order = self.orders.next();
            done.balance = done.balance.wrapping_sub(order.amount.into());
            let owner = order.account as usize % self.colleagues.len();
            match &mut self.colleagues[owner] {
                None => done.take(order, &mut self.own),
                Some(colleague) => {
                    colleague.outgoing.push(order.to_bytes());
                    if colleague.outgoing.len() >= batch {
                        self.send(owner, &mut done)?;
                    }
                }
            }
            if number % LOOKS_EVERY == 0 {
                self.receive(&mut done)?;
            }
        }
        for owner in 0..self.colleagues.len() {
            if let Some(colleague) = &mut self.colleagues[owner] {
                colleague.outgoing.push(NO_MORE);
                self.send(owner, &mut done)?;
            }
        }
        while self.colleagues.iter().flatten().any(|colleague| !colleague.has_ended) {
            self.receive_or_yield(&mut done)?;
        }
        Ok(done)
    }

    /// Sends what is there for one, and goes on with what comes as long as there is no room.
    fn send(&mut self, owner: usize, done: &mut Done) -> Fallible<()> {
        let mut sent = 0;
        while let Some(colleague) = &mut self.colleagues[owner] {
            let rest = &colleague.outgoing[sent..];
            if rest.is_empty() {
                colleague.outgoing.clear();
                break;
            }
            match colleague.tx.send_batch(rest, Wait::Never) {
                Ok(now) => sent += now,
                Err(SendError::WouldBlock) => self.receive_or_yield(done)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// There may be more workers than processors.
    fn receive_or_yield(&mut self, done: &mut Done) -> Fallible<()> {
        if !self.receive(done)? {
            thread::yield_now();
        }
        Ok(())
    }

    /// Does what has come from the others. False if nothing has.
    fn receive(&mut self, done: &mut Done) -> Fallible<bool> {
        let (workers, index) = (self.colleagues.len(), self.index);
        let mut any = false;
        for colleague in self.colleagues.iter_mut().flatten().filter(|colleague| !colleague.has_ended) {
            match colleague.rx.advance_batch(TAKES, Wait::Never) {
                Ok(_) => {}
                Err(RecvError::WouldBlock) => continue,
                Err(error) => return Err(error.into()),
            }
            any = true;
            let batch = colleague.rx.held_batch();
            for message in batch.iter() {
                let bytes: [u8; 8] = message.try_into().map_err(|_| "an order has 8 bytes")?;
                if bytes == NO_MORE {
                    colleague.has_ended = true;
                    continue;
                }
                let order = Order::from_bytes(bytes);
                if colleague.has_ended || order.account as usize % workers != index {
                    return Err(format!("{order:?} came to worker {index} of {workers}, or too late").into());
                }
                done.take(order, &mut self.own);
            }
            batch.release_all();
        }
        Ok(any)
    }

    /// What this worker's processor has fetched from others since the last time.
    fn count(&mut self) -> Fallible<Result<u64, String>> {
        Ok(match &mut self.counter {
            Ok(counter) => {
                let counted = counter.stop()?;
                Ok(counted - std::mem::replace(&mut self.counted, counted))
            }
            Err(why) => Err(why.clone()),
        })
    }
}

impl Done {
    #[inline]
    fn take(&mut self, order: Order, accounts: &mut Accounts) {
        order.apply(accounts);
        self.orders += 1;
        self.balance = self.balance.wrapping_add(order.amount.into());
    }
}

/// From each to each other one.
fn pairs(workers: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..workers).flat_map(move |from| (0..workers).filter(move |&to| to != from).map(move |to| (from, to)))
}

impl AnyLane for Worker {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        let Job::Work(design) = job else {
            return Err(format!("a worker has no such job: {job:?}").into());
        };
        self.runs += 1;
        let all = self.runs * self.workers();
        self.board.arrive(all);
        let outcome = Outcome::begin()?;
        if let Ok(counter) = &self.counter {
            counter.start()?;
        }
        let done = match design {
            Design::Locked => self.with_lock(count)?,
            Design::Queues { batch } => self.by_queues(count, batch)?,
        };
        let transfers = Some(self.count()?);
        let outcome = outcome.end()?;
        let is_last = self.board.finish() == all;
        if design == Design::Locked {
            self.check_what_is_locked(count, is_last)?;
        }
        Ok(Outcome { messages: done.orders, sum: done.balance, transfers, ..outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::{ACCOUNTS, NO_MORE, Order, Orders, Worker, pairs};
    use crate::{
        jobs::{crowd::Board, lane::AnyLane},
        links::{
            shared::{Region, create},
            site::{Ground, Site},
        },
        spec::{Design, Job, LaneSpec, Member, Outcome, Shape, Side, TransportId, Waiting},
    };
    use ipc_core::{BatchSender, Wait};
    use rstest::rstest;
    use std::{os::fd::AsRawFd, thread};

    fn spec(workers: usize) -> LaneSpec {
        LaneSpec {
            shape: Shape::Workers { near: workers.div_ceil(2), far: workers / 2 },
            ..LaneSpec::sample(TransportId::ShmSpsc, Waiting::Adaptive)
        }
    }

    fn attached(workers: usize, site: &Site) -> Vec<Worker> {
        let memory = create(Board::LEN_BYTES).unwrap();
        let region = Region::map(memory.as_raw_fd()).unwrap();
        let spec = spec(workers);
        spec.shape.members().map(|member| Worker::attach(&spec, member, site, region).unwrap()).collect()
    }

    /// All at once, a thread each.
    fn run(workers: &mut [Worker], design: Design, count: u64) -> Vec<Outcome> {
        thread::scope(|scope| {
            let running: Vec<_> = workers
                .iter_mut()
                .map(|worker| scope.spawn(move || worker.run(Job::Work(design), count).unwrap()))
                .collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        })
    }

    #[rstest]
    fn every_order_is_done_once_by_whoever_it_is_for(
        #[values(1, 2, 5)] number: usize,
        #[values(Design::Locked, Design::Queues { batch: 1 }, Design::Queues { batch: 64 })] design: Design,
    ) {
        let site = Ground::new(&[spec(number)]).unwrap();
        let mut workers = attached(number, &site);
        // More than a queue holds, and no multiple of a batch.
        for count in [1, 5_003] {
            let outcomes = run(&mut workers, design, count);
            assert_eq!(outcomes.iter().map(|outcome| outcome.messages).sum::<u64>(), number as u64 * count);
            assert_eq!(outcomes.iter().fold(0, |sum, outcome| outcome.sum.wrapping_add(sum)), 0);
        }
        let is_own = |index: usize, account: usize| account % number == index;
        let mut orders = 0;
        for (index, worker) in workers.iter().enumerate() {
            for (account, words) in worker.own.iter().enumerate() {
                assert!(words[0] == 0 || is_own(index, account), "{account} is not {index}'s");
                orders += words[0];
            }
        }
        let by_queues = if design == Design::Locked { 0 } else { number as u64 * 5_004 };
        assert_eq!(orders, by_queues);
        let together = workers[0].together.lock().unwrap().iter().map(|words| words[0]).sum::<u64>();
        assert_eq!(together + orders, number as u64 * 5_004);
    }

    #[test]
    fn an_order_that_got_lost_in_what_is_locked_is_noticed() {
        let site = Ground::new(&[spec(1)]).unwrap();
        let mut workers = attached(1, &site);
        run(&mut workers, Design::Locked, 10);
        workers[0].together.lock().unwrap()[3] = [0; 8];
        workers[0]
            .together
            .lock()
            .unwrap()
            .iter_mut()
            .for_each(|words| words[0] = words[0].saturating_sub(1));
        let error = workers[0].run(Job::Work(Design::Locked), 10).unwrap_err().to_string();
        assert!(error.starts_with("20 orders were done with the lock"), "{error}");
    }

    #[test]
    fn an_order_for_somebody_else_ends_the_measurement() {
        let site = Ground::new(&[spec(2)]).unwrap();
        let mut workers = attached(2, &site);
        let tx = &mut workers[0].colleagues[1].as_mut().unwrap().tx;
        tx.send_batch(&[Order { account: 4, amount: 1 }.to_bytes(), NO_MORE], Wait::Never).unwrap();
        let error = workers[1].by_queues(0, 1).err().unwrap().to_string();
        assert!(error.contains("came to worker 1 of 2"), "{error}");
    }

    #[test]
    fn workers_have_orders_of_their_own_for_all_accounts() {
        let taken = |worker| -> Vec<Order> {
            let mut orders = Orders::of(worker);
            (0..50 * ACCOUNTS).map(|_| orders.next()).collect()
        };
        let (first, second) = (taken(0), taken(1));
        assert_ne!(first, second);
        let mut accounts: Vec<_> = first.iter().map(|order| order.account).collect();
        accounts.sort_unstable();
        accounts.dedup();
        assert_eq!(accounts, (0..ACCOUNTS as u32).collect::<Vec<_>>());
        assert!(first.iter().all(|order| Order::from_bytes(order.to_bytes()) == *order));
        assert_eq!(pairs(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(spec(3).shape.members().last(), Some(Member { side: Side::Far, index: 0 }));
    }
}
