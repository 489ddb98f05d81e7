//! A connection on which jobs are done.

use super::{
    clock::Samples,
    idle::watch_idle,
    latency::{WARM_UP, echo, ping},
    throughput::{drain, stream},
    window::{reply, request},
};
use crate::{
    links::link::Link,
    spec::{Job, Outcome},
    trouble::Fallible,
};

/// What jobs are done on, whatever it is. The one dynamic call is outside the measured loop.
pub(crate) trait AnyLane {
    /// Does `job` for `count` messages, round trips or what else it consists of.
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome>;
}

/// A link with the count of its messages, ready for any job of two.
pub(crate) struct Lane<L> {
    pub(super) link: L,
    /// The next message's number. Both sides count alike, and never use one twice: what an
    /// earlier run left behind can't be taken for an answer.
    pub(super) next: u64,
    /// Room for the round trips of a run.
    pub(super) samples: Samples,
}

impl<L: Link> Lane<L> {
    pub(crate) fn new(link: L) -> Self {
        Self { link, next: 1, samples: Samples::default() }
    }
}

impl<L: Link> AnyLane for Lane<L> {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        let messages = match job {
            Job::Ping | Job::Echo => WARM_UP + count,
            Job::Request { in_flight } | Job::Reply { in_flight } => in_flight * count,
            _ => count,
        };
        let numbers = self.next..self.next + messages;
        self.next = numbers.end;
        match job {
            Job::Ping => ping(&mut self.link, numbers, &mut self.samples),
            Job::Echo => echo(&mut self.link, numbers, WARM_UP),
            Job::Stream => stream(&mut self.link, numbers),
            Job::Drain => drain(&mut self.link, numbers),
            Job::Request { in_flight } => request(&mut self.link, numbers, in_flight),
            Job::Reply { .. } => reply(&mut self.link, numbers),
            Job::WatchIdle { pid, for_ms } => watch_idle(&mut self.link, numbers, pid, for_ms),
            Job::Answer => echo(&mut self.link, numbers, 0),
            other => Err(format!("two processes have no such job: {other:?}").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AnyLane, Lane};
    use crate::{
        links::{
            ends::{BatchedReceiver, BatchedSender, Copying, InPlace, ReceivingEnd, SendingEnd},
            link::EndsLink,
        },
        spec::{Job, LaneSpec, Touch, TransportId, Waiting},
    };
    use ipc_core::{
        Channel, ChannelName, Sender, Transport,
        local::{Local, LocalReceiver, LocalSender},
    };
    use rstest::rstest;
    use std::thread;

    type Ends = (LocalSender, LocalReceiver);
    type LocalLane = Lane<EndsLink<InPlace<LocalSender>, InPlace<LocalReceiver>>>;

    fn spec(touch: Touch, batch: usize) -> LaneSpec {
        LaneSpec {
            message_len_bytes: 20,
            touch,
            batch,
            ..LaneSpec::sample(TransportId::ShmSpsc, Waiting::Block)
        }
    }

    /// Those of the near and of the far side.
    fn local_ends() -> [Ends; 2] {
        let local = Local::new();
        let [there, back] = ["there", "back"]
            .map(|name| local.create(&ChannelName::new(name).unwrap(), &Default::default()).unwrap());
        [
            (there.sender().unwrap(), back.receiver().unwrap()),
            (back.sender().unwrap(), there.receiver().unwrap()),
        ]
    }

    fn in_place((tx, rx): Ends) -> LocalLane {
        let spec = spec(Touch::All, 1);
        let (tx, rx) = (InPlace::new(tx, &spec), InPlace::new(rx, &spec));
        Lane::new(EndsLink { tx, rx, payload: spec.payload() })
    }

    fn drive<S, R>([near, far]: [(S, R); 2], spec: &LaneSpec, jobs: [Job; 2]) -> u64
    where
        S: SendingEnd + Send + 'static,
        R: ReceivingEnd + Send + 'static,
    {
        let lane = |(tx, rx)| Lane::new(EndsLink { tx, rx, payload: spec.payload() });
        let (mut near, mut far) = (lane(near), lane(far));
        let answering = thread::spawn(move || far.run(jobs[1], 50).map(|_| ()));
        let outcome = near.run(jobs[0], 50).unwrap();
        answering.join().unwrap().unwrap();
        assert!(outcome.ended_ns >= outcome.started_ns);
        outcome.latencies_ns.iter().map(|(_, count)| count).sum()
    }

    #[rstest]
    #[case::round_trips([Job::Ping, Job::Echo], 50)]
    #[case::one_way([Job::Stream, Job::Drain], 0)]
    #[case::several_in_flight([Job::Request { in_flight: 7 }, Job::Reply { in_flight: 7 }], 0)]
    fn any_transport_of_the_traits_can_be_driven(
        #[case] jobs: [Job; 2],
        #[case] samples: u64,
        #[values(Touch::All, Touch::First, Touch::Copied)] touch: Touch,
    ) {
        let spec = spec(touch, 1);
        let timed = match touch {
            Touch::Copied => {
                let copying = |(tx, rx)| (Copying::new(tx, &spec), Copying::new(rx, &spec));
                drive(local_ends().map(copying), &spec, jobs)
            }
            _ => {
                let in_place = |(tx, rx)| (InPlace::new(tx, &spec), InPlace::new(rx, &spec));
                drive(local_ends().map(in_place), &spec, jobs)
            }
        };
        assert_eq!(timed, samples);
    }

    #[rstest]
    fn batches_of_any_size_carry_a_stream(#[values(2, 16, 50, 300)] batch: usize) {
        let spec = spec(Touch::All, batch);
        let batched =
            |(tx, rx)| (BatchedSender::new(tx, &spec, vec![0; 20]), BatchedReceiver::new(rx, &spec));
        assert_eq!(drive(local_ends().map(batched), &spec, [Job::Stream, Job::Drain]), 0);
    }

    #[test]
    fn a_message_out_of_sequence_ends_the_measurement() {
        let [(mut tx, _), far] = local_ends();
        tx.send(b"not a message of ours").unwrap();
        assert!(in_place(far).run(Job::Drain, 1).is_err());
    }

    #[test]
    fn a_message_that_is_missing_from_a_batch_ends_the_measurement() {
        let [(mut tx, _), (_, rx)] = local_ends();
        let spec = spec(Touch::All, 4);
        for number in [1, 3] {
            let mut message = vec![0; 20];
            spec.payload().write(&mut message, number);
            tx.send(&message).unwrap();
        }
        let (tx, rx) = (InPlace::new(tx, &spec), BatchedReceiver::new(rx, &spec));
        let mut lane = Lane::new(EndsLink { tx, rx, payload: spec.payload() });
        assert!(lane.run(Job::Drain, 2).unwrap_err().to_string().contains("message 2"));
    }
}
