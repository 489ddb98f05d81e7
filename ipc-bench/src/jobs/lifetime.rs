//! Whole lives of channels: one is made, opened at both ends, carries some messages one way, and is
//! removed. Each life is timed from before the channel is made to after its last message was
//! received; that it is removed is not part of it.
//!
//! The receiver is told through shared memory that the channel is there, as it has to be told somehow;
//! it polls for that, so that nobody's waking up is taken for a part of the set-up. Then both ends
//! sleep while they wait, as those of all transports can.

use super::{crowd::wait_until, lane::AnyLane, setup::MADE};
use crate::{
    links::{
        backends::{Backend, ReceiverOf, SenderOf},
        shared::{LINE_BYTES, Region},
        site::Site,
    },
    machine::now_ns,
    spec::{Job, LaneSpec, Outcome, Payload, Side},
    stats::{histogram, recorded},
    trouble::Fallible,
};
use ipc_core::{Channel, ChannelName, Receiver, Sender, Transport, Wait};
use nix::time::ClockId;
use std::sync::atomic::{AtomicU64, Ordering};

/// One side of channels that come and go.
pub(crate) struct Lifetimes<B: Backend> {
    transport: B::Transport,
    config: <B::Transport as Transport>::Config,
    name: ChannelName,
    spec: LaneSpec,
    side: Side,
    payload: Payload,
    message: Vec<u8>,
    board: Board,
    /// How many lives there were, and the next message's number: both sides count alike.
    lives: u64,
    next: u64,
}

/// What the two tell each other beside the channel: counts that only grow, and a time.
struct Board {
    made: &'static AtomicU64,
    received: &'static AtomicU64,
    /// When the last message of the last life was received.
    received_ns: &'static AtomicU64,
}

impl<B: Backend> Lifetimes<B> {
    /// The memory that the counts take.
    pub(crate) const LEN_BYTES: usize = 3 * LINE_BYTES;

    pub(crate) fn attach(
        config: <B::Transport as Transport>::Config,
        spec: &LaneSpec,
        side: Side,
        region: &'static Region,
        site: &Site,
    ) -> Fallible<Self> {
        let [made, received, received_ns] = [0, 1, 2].map(|line| &region.words(line * LINE_BYTES, 1)[0]);
        Ok(Self {
            transport: B::transport(site),
            config,
            name: ChannelName::new(&site.channel(spec, MADE))?,
            spec: spec.clone(),
            side,
            payload: spec.payload(),
            message: vec![0; spec.message_len_bytes],
            board: Board { made, received, received_ns },
            lives: 0,
            next: 1,
        })
    }

    /// Makes the channel and sends; how long it took until all was received.
    fn send(&mut self, messages: u64) -> Fallible<u64> {
        let begun_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
        let channel = self.transport.create(&self.name, &self.config)?;
        // Release: pairs with the Acquire in `wait_until`; the channel is there.
        self.board.made.store(self.lives, Ordering::Release);
        let mut tx: SenderOf<B> = channel.sender()?;
        B::set_sender_waiting(&mut tx, self.spec.waiting);
        for number in self.next..self.next + messages {
            self.payload.write(&mut self.message, number);
            tx.send(&self.message)?;
        }
        wait_until(self.board.received, self.lives);
        // Relaxed: `wait_until` has seen what was stored after it.
        let took_ns = self.board.received_ns.load(Ordering::Relaxed).saturating_sub(begun_ns);
        drop((tx, channel));
        self.transport.remove(&self.name)?;
        Ok(took_ns)
    }

    /// Opens it once it is there, and receives.
    fn receive(&mut self, messages: u64) -> Fallible<()> {
        wait_until(self.board.made, self.lives);
        let channel = self.transport.open(&self.name)?;
        let mut rx: ReceiverOf<B> = channel.receiver()?;
        B::set_receiver_waiting(&mut rx, self.spec.waiting);
        for number in self.next..self.next + messages {
            self.payload.check(&rx.receive(Wait::Forever)?, number)?;
        }
        self.board.received_ns.store(now_ns(ClockId::CLOCK_MONOTONIC)?, Ordering::Relaxed);
        drop((rx, channel));
        // Release: pairs with the Acquire in `wait_until`; the time is there, and the end is gone.
        self.board.received.store(self.lives, Ordering::Release);
        Ok(())
    }
}

impl<B: Backend> AnyLane for Lifetimes<B> {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        let Job::Live { messages } = job else {
            return Err(format!("channels that come and go have no such job: {job:?}").into());
        };
        let mut times_ns = histogram();
        let outcome = Outcome::begin()?;
        for _ in 0..count {
            self.lives += 1;
            match self.side {
                Side::Near => times_ns.record(self.send(messages)?)?,
                Side::Far => self.receive(messages)?,
            }
            self.next += messages;
        }
        Ok(Outcome { latencies_ns: recorded(&times_ns), ..outcome.end()? })
    }
}

#[cfg(test)]
mod tests {
    use super::Lifetimes;
    use crate::{
        jobs::lane::AnyLane,
        links::{
            backends::{self, Backend, Opens},
            shared::{Region, create},
            site::{Ground, Site},
        },
        spec::{Job, LaneSpec, Shape, Side, TransportId, Waiting},
    };
    use ipc_core::Transport;
    use rstest::rstest;
    use std::{
        os::fd::{AsRawFd, OwnedFd},
        thread,
    };

    fn attach<B: Backend>(
        config: <B::Transport as Transport>::Config,
        side: Side,
        site: &Site,
        memory: &OwnedFd,
    ) -> Lifetimes<B> {
        let spec = LaneSpec { shape: Shape::Lives, ..LaneSpec::sample(TransportId::Mq, Waiting::Block) };
        Lifetimes::attach(config, &spec, side, Region::map(memory.as_raw_fd()).unwrap(), site).unwrap()
    }

    /// Several lives, each with more messages than the one before.
    fn live<B: Backend>(config: impl Fn() -> <B::Transport as Transport>::Config + Sync) {
        let (site, memory) = (Ground::new(&[]).unwrap(), create(Lifetimes::<B>::LEN_BYTES).unwrap());
        let all = |side| {
            let mut lives = attach::<B>(config(), side, &site, &memory);
            [1, 10, 2_000].map(|messages| lives.run(Job::Live { messages }, 3).unwrap().latencies_ns)
        };
        thread::scope(|scope| {
            let far = scope.spawn(|| all(Side::Far));
            for times_ns in all(Side::Near) {
                assert_eq!(times_ns.iter().map(|(_, count)| count).sum::<u64>(), 3);
                assert!(times_ns.iter().all(|&(ns, _)| ns > 0), "{times_ns:?}");
            }
            assert!(far.join().unwrap().iter().all(Vec::is_empty), "one of both has the time");
        });
        let names = B::transport(&site).list().unwrap();
        assert!(names.iter().all(|name| !name.to_string().starts_with(&site.prefix)), "{names:?} stays");
    }

    #[rstest]
    fn channels_come_and_go_with_all_their_messages(
        #[values("mq", "sysv", "unix", "spsc", "mpmc")] which: &str,
    ) {
        match which {
            "mq" => live::<backends::Mq>(Default::default),
            "sysv" => live::<backends::Sysv>(Default::default),
            "unix" => live::<backends::Unix>(Default::default),
            "spsc" => live::<backends::ShmSpsc>(|| backends::ShmSpsc::kept(1 << 20)),
            _ => live::<backends::ShmMpmc>(|| backends::ShmMpmc::kept(1 << 20)),
        }
    }

    #[test]
    fn other_jobs_are_refused() {
        let (site, memory) =
            (Ground::new(&[]).unwrap(), create(Lifetimes::<backends::Mq>::LEN_BYTES).unwrap());
        let mut lives = attach::<backends::Mq>(Default::default(), Side::Near, &site, &memory);
        assert!(lives.run(Job::Ping, 1).unwrap_err().to_string().contains("no such job: Ping"));
    }
}
