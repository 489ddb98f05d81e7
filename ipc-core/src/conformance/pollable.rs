//! Receivers that are waited for by `poll(2)` and `epoll(7)`, together with other things.

use super::{
    Capabilities, Case, Fixture, ReceiverOf, SenderOf, cases,
    child::{Cue, Part, say},
    payload::{Stamp, mix},
    processes::AT_ONCE,
    stage::{BRIEF, LEN, Stage, assert_empty, unless_busy},
    subtraits::assert_end,
    waits::{MOMENTS, assert_prompt},
};
use crate::{
    Batch, BatchReceiver, Channel, ChannelError, EndMark, Message, Pollable, Receiver, RecvError, SendError,
    Sender, Transport, Wait,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    os::fd::{AsRawFd, BorrowedFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// So often that a descriptor which becomes readable by a slow clock alone would use up all
/// the patience there is.
const ROUNDS: u64 = 100;

pub(super) fn cases<F: Fixture>(promised: Capabilities) -> Vec<Case<F>>
where
    ReceiverOf<F>: Pollable,
{
    let mut all = cases![
        a_message_makes_an_armed_descriptor_readable,
        arming_tells_what_is_there_already,
        a_message_between_a_look_and_arming_is_told,
        a_waiting_poll_is_woken,
        no_wake_up_is_lost_in_a_race,
        a_poll_that_timed_out_leaves_nothing_broken,
        a_quiet_descriptor_lets_its_poller_sleep,
        the_descriptor_stays_the_same,
        several_channels_are_polled_together,
        a_removed_channel_does_not_hang_a_poller,
    ];
    if cfg!(target_os = "linux") {
        all.extend(cases![epoll_waits_for_several_channels_and_other_things]);
    }
    if promised.broadcasts || promised.conflates {
        all.extend(cases![every_armed_receiver_is_told]);
    }
    if promised.has_many_receivers() {
        all.extend(cases![one_of_several_armed_receivers_gets_the_message]);
    }
    if promised.cross_process {
        all.extend(cases![
            a_message_of_another_process_makes_it_readable,
            a_killed_sender_does_not_hang_a_poller,
        ]);
    }
    all
}

pub(super) fn end_mark_cases<F: Fixture>() -> Vec<Case<F>>
where
    SenderOf<F>: EndMark,
    ReceiverOf<F>: Pollable,
{
    cases![an_end_mark_makes_an_armed_descriptor_readable]
}

pub(super) fn parts<F: Fixture>() -> Vec<Part<F>> {
    vec![Part { name: "send at each word", play: send_at_each_word }]
}

/// Part: sends one stamped message at each word. Arguments: channel, count.
fn send_at_each_word<F: Fixture>(stage: &Stage<F>, cue: &Cue) {
    let mut tx = stage.sender_of(&cue.name(0));
    say("ready");
    for sequence in 0..cue.number(1) {
        cue.wait_for_go();
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
    }
}

fn a_message_makes_an_armed_descriptor_readable<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let start = Instant::now();
    for sequence in 0..ROUNDS {
        assert!(!rx.arm().expect("armed"), "nothing is there");
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        assert!(readable(&mut rx, stage.patience()), "round {sequence}: not readable");
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
        assert_empty(&mut rx);
    }
    assert!(start.elapsed() < stage.patience(), "{ROUNDS} messages took {:?}", start.elapsed());
}

fn arming_tells_what_is_there_already<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for _ in 0..3 {
        assert!(!rx.arm().expect("armed"), "nothing is there");
        stage.send(&mut tx, b"one");
        for _ in 0..2 {
            assert!(rx.arm().expect("armed"), "a message is in the channel");
        }
        rx.receive(stage.patiently()).expect("receive").keep();
        assert!(rx.arm().expect("armed"), "a message is in hand");
        stage.expect(&mut rx, b"one");
    }
    if stage.promised().conflates {
        return;
    }
    stage.send(&mut tx, b"one");
    stage.send(&mut tx, b"two");
    assert_eq!(rx.advance_batch(2, stage.patiently()).expect("a batch"), 2);
    rx.held_batch().release(1);
    assert!(rx.arm().expect("armed"), "the rest of a batch is in hand");
    rx.held_batch().release_all();
    assert!(!rx.arm().expect("armed"), "nothing is there");
}

fn a_message_between_a_look_and_arming_is_told<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for sequence in 0..20 {
        assert_empty(&mut rx);
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        assert!(rx.arm().expect("armed"), "round {sequence}: it is there");
        assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
    }
}

fn a_waiting_poll_is_woken<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for moment in MOMENTS {
        thread::scope(|threads| {
            let waiter = threads.spawn(|| stage.polled(&mut rx).expect("received"));
            thread::sleep(moment);
            let start = Instant::now();
            stage.send(&mut tx, b"worth polling for");
            assert_eq!(waiter.join().expect("no panic"), b"worth polling for");
            assert_prompt(stage, start);
        });
    }
}

/// The sender meets the receiver at another step of looking, arming and polling each time.
fn no_wake_up_is_lost_in_a_race<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    const RACES: u64 = 2000;
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let (received, go) = mpsc::channel();
    thread::scope(|threads| {
        threads.spawn(move || {
            for sequence in 0..RACES {
                let message = stage.polled(&mut rx).expect("received");
                assert_eq!(Stamp::of(&message), Stamp::new(0, sequence));
                received.send(()).expect("the sender listens");
            }
            assert_empty(&mut rx);
        });
        for sequence in 0..RACES {
            for _ in 0..mix(sequence) % 4000 {
                std::hint::spin_loop();
            }
            stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
            go.recv_timeout(2 * stage.patience()).expect("received");
        }
    });
}

fn a_poll_that_timed_out_leaves_nothing_broken<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    for _ in 0..3 {
        assert!(!rx.arm().expect("armed"), "nothing is there");
        // It may become readable without a reason.
        readable(&mut rx, BRIEF);
        let timed_out = rx.advance(Wait::timeout(BRIEF));
        assert!(matches!(timed_out, Err(RecvError::TimedOut)), "{timed_out:?}");
        thread::scope(|threads| {
            let waiter = threads.spawn(|| stage.expect(&mut rx, b"waited for otherwise"));
            thread::sleep(BRIEF);
            stage.send(&mut tx, b"waited for otherwise");
            waiter.join().expect("received");
        });
        // Nobody polls, and nobody is the worse for it.
        for sequence in 0..ROUNDS {
            stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
            assert_eq!(stage.recv_stamp(&mut rx), Stamp::new(0, sequence));
        }
        assert!(!rx.arm().expect("armed"), "nothing is there");
        stage.send(&mut tx, b"polled for again");
        assert!(readable(&mut rx, stage.patience()), "not readable after a poll that timed out");
        stage.expect(&mut rx, b"polled for again");
    }
}

fn a_quiet_descriptor_lets_its_poller_sleep<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let mut slept = 0;
    for round in 0..10 {
        // Also after it was readable.
        if round % 5 == 0 {
            stage.send(&mut tx, b"one");
            stage.expect(&mut rx, b"one");
        }
        assert!(!rx.arm().expect("armed"), "nothing is there");
        slept += u32::from(!readable(&mut rx, BRIEF));
    }
    assert!(slept >= 5, "readable without a reason in {} of 10 moments", 10 - slept);
}

fn the_descriptor_stays_the_same<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let first = rx.descriptor().expect("a descriptor").as_raw_fd();
    for _ in 0..3 {
        stage.send(&mut tx, b"one");
        assert_eq!(stage.polled(&mut rx).expect("received"), b"one");
        assert!(!rx.arm().expect("armed"), "nothing is there");
        assert_eq!(rx.descriptor().expect("a descriptor").as_raw_fd(), first);
    }
}

fn several_channels_are_polled_together<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let (left, right) = (stage.channel(), stage.channel());
    let ((left_tx, mut left_rx), (right_tx, mut right_rx)) = (left.ends(), right.ends());
    let mut senders = [left_tx, right_tx];
    for sequence in 0..ROUNDS {
        assert!(!left_rx.arm().expect("armed") && !right_rx.arm().expect("armed"), "nothing is there");
        let side = (mix(sequence) % 2) as usize;
        stage.send(&mut senders[side], &Stamp::new(0, sequence).message(LEN));
        let descriptors = [left_rx.descriptor(), right_rx.descriptor()];
        assert!(any_readable(descriptors.map(|fd| fd.expect("a descriptor")), stage.patience()));
        let [ready, quiet] = match side {
            0 => [&mut left_rx, &mut right_rx],
            _ => [&mut right_rx, &mut left_rx],
        };
        assert_eq!(Stamp::of(&stage.polled(ready).expect("received")), Stamp::new(0, sequence));
        assert_empty(quiet);
    }
}

#[cfg(target_os = "linux")]
fn epoll_waits_for_several_channels_and_other_things<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    for trigger in [EpollFlags::empty(), EpollFlags::EPOLLET] {
        let (left, right) = (stage.channel(), stage.channel());
        let ((left_tx, left_rx), (right_tx, right_rx)) = (left.ends(), right.ends());
        let (mut senders, mut receivers) = ([left_tx, right_tx], [left_rx, right_rx]);
        let (mut near, mut far) = UnixStream::pair().expect("a pair of sockets");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll descriptor");
        let event = |number| EpollEvent::new(EpollFlags::EPOLLIN | trigger, number);
        for (number, rx) in (0..).zip(&mut receivers) {
            epoll.add(rx.descriptor().expect("a descriptor"), event(number)).expect("added");
        }
        epoll.add(&far, event(2)).expect("added");
        for sequence in 0..ROUNDS {
            for rx in &mut receivers {
                assert!(!rx.arm().expect("armed"), "nothing is there");
            }
            let source = mix(sequence) % 3;
            match source {
                2 => near.write_all(&[7]).expect("written"),
                side => {
                    stage.send(&mut senders[side as usize], &Stamp::new(0, sequence).message(LEN));
                }
            }
            let deadline = Instant::now() + stage.patience();
            loop {
                assert!(Instant::now() < deadline, "round {sequence}: source {source} is not readable");
                let mut events = [EpollEvent::empty(); 3];
                let timeout = EpollTimeout::try_from(stage.patience()).unwrap_or(EpollTimeout::MAX);
                let count = match epoll.wait(&mut events, timeout) {
                    Ok(count) => count,
                    Err(Errno::EINTR) => continue,
                    Err(error) => panic!("epoll_wait: {error}"),
                };
                if events[..count].iter().any(|event| event.data() == source) {
                    break;
                }
                // One of the others said so without a reason.
                for rx in &mut receivers {
                    rx.arm().expect("armed");
                }
            }
            match source {
                2 => far.read_exact(&mut [0]).expect("read"),
                side => {
                    let message = stage.polled(&mut receivers[side as usize]).expect("received");
                    assert_eq!(Stamp::of(&message), Stamp::new(0, sequence));
                }
            }
            receivers.iter_mut().for_each(assert_empty);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn epoll_waits_for_several_channels_and_other_things<F: Fixture>(_: &Stage<F>) {}

/// Where a removal doesn't disturb who is in, messages go on; where it closes the channel,
/// the poller learns that.
fn a_removed_channel_does_not_hang_a_poller<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    for moment in MOMENTS {
        let channel = stage.channel();
        let (mut tx, mut rx) = channel.ends();
        thread::scope(|threads| {
            let poller = threads.spawn(|| stage.polled(&mut rx));
            thread::sleep(moment);
            match channel.transport.remove(&channel.name) {
                Ok(()) | Err(ChannelError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            let sent = tx.try_send(b"afterwards");
            match (sent, poller.join().expect("no panic")) {
                (Ok(()), Ok(message)) => assert_eq!(message, b"afterwards"),
                (Err(SendError::Closed), Err(RecvError::Closed)) => {}
                other => panic!("sent and received: {other:?}"),
            }
        });
    }
}

fn every_armed_receiver_is_told<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let mut receivers = [channel.receiver(), channel.receiver(), channel.receiver()];
    let mut tx = channel.sender();
    for sequence in 0..ROUNDS / 3 {
        for rx in &mut receivers {
            assert!(!rx.arm().expect("armed"), "nothing is there");
        }
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        for rx in &mut receivers {
            assert!(readable(rx, stage.patience()), "round {sequence}: not readable");
            assert_eq!(stage.recv_stamp(rx), Stamp::new(0, sequence));
        }
    }
}

fn one_of_several_armed_receivers_gets_the_message<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let [mut one, mut other] = [channel.receiver(), channel.receiver()];
    let mut tx = channel.sender();
    for sequence in 0..ROUNDS {
        assert!(!one.arm().expect("armed") && !other.arm().expect("armed"), "nothing is there");
        stage.send(&mut tx, &Stamp::new(0, sequence).message(LEN));
        let descriptors = [one.descriptor(), other.descriptor()];
        assert!(any_readable(descriptors.map(|fd| fd.expect("a descriptor")), stage.patience()));
        let (first, second) = match readable(&mut one, Duration::ZERO) {
            true => (&mut one, &mut other),
            false => (&mut other, &mut one),
        };
        assert_eq!(Stamp::of(&stage.polled(first).expect("received")), Stamp::new(0, sequence));
        assert_empty(second);
    }
}

fn an_end_mark_makes_an_armed_descriptor_readable<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: EndMark,
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        assert!(!rx.arm().expect("armed"), "nothing is there");
        tx.send_end(stage.patiently()).expect("an end mark");
        assert!(readable(&mut rx, stage.patience()), "not readable");
        assert!(rx.arm().expect("armed"), "an end mark is there");
        assert_end(rx.advance(Wait::Never));
    }
    assert!(start.elapsed() < stage.patience(), "{ROUNDS} end marks took {:?}", start.elapsed());
    assert_empty(&mut rx);
}

fn a_message_of_another_process_makes_it_readable<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let mut rx = channel.receiver();
    let mut sender = stage.start("send at each word", &[&channel.name, &ROUNDS]);
    sender.expect_line("ready");
    let start = Instant::now();
    for sequence in 0..ROUNDS {
        assert!(!rx.arm().expect("armed"), "nothing is there");
        sender.go();
        assert!(readable(&mut rx, stage.patience()), "round {sequence}: not readable");
        let message = stage.polled(&mut rx).expect("received");
        assert_eq!(Stamp::of(&message), Stamp::new(0, sequence));
    }
    assert!(start.elapsed() < stage.patience(), "{ROUNDS} messages took {:?}", start.elapsed());
    sender.finish();
}

/// Not even one that dies while it writes.
fn a_killed_sender_does_not_hang_a_poller<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Pollable,
{
    let channel = stage.channel();
    let mut rx = channel.receiver();
    for round in 1..4 {
        let mut sender = stage.start("hold a loan", &[&channel.name]);
        sender.expect_line("ready");
        assert_eq!(Stamp::of(&stage.polled(&mut rx).expect("received")), Stamp::new(0, 0));
        assert!(!rx.arm().expect("armed"), "nothing is there");
        sender.kill();
        thread::scope(|threads| {
            let poller = threads.spawn(|| stage.polled(&mut rx).expect("received"));
            let successor = unless_busy(AT_ONCE, || channel.channel().sender());
            let message = Stamp::new(round, 1).message(LEN);
            stage.send(&mut successor.expect("the role is free"), &message);
            assert_eq!(poller.join().expect("no panic"), message);
        });
    }
}

impl<F: Fixture> Stage<F>
where
    ReceiverOf<F>: Pollable,
{
    /// The next message, waited for as an event loop does it.
    #[track_caller]
    fn polled(&self, rx: &mut ReceiverOf<F>) -> Result<Vec<u8>, RecvError> {
        let deadline = Instant::now() + self.patience();
        loop {
            match rx.advance(Wait::Never) {
                Ok(()) => return Ok(rx.held().to_vec()),
                Err(RecvError::WouldBlock) => {}
                Err(error) => return Err(error),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !rx.arm()? {
                assert!(readable(rx, left), "not readable in {:?}", self.patience());
            }
            assert!(!left.is_zero(), "readable all the time, and nothing there");
        }
    }
}

/// Whether the receiver's descriptor becomes readable in time.
#[track_caller]
fn readable<R: Pollable>(rx: &mut R, timeout: Duration) -> bool {
    any_readable([rx.descriptor().expect("a descriptor")], timeout)
}

/// Whether one of these becomes readable in time.
#[track_caller]
fn any_readable<const N: usize>(descriptors: [BorrowedFd<'_>; N], timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let mut polled = descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, not to spin through the last millisecond.
        let left_ms = left.as_nanos().div_ceil(1_000_000);
        match poll(&mut polled, PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => {
                let events = polled.iter().filter_map(PollFd::revents);
                let wrong = PollFlags::POLLNVAL | PollFlags::POLLERR;
                let events: PollFlags = events.collect();
                assert!(!events.intersects(wrong), "a descriptor that can't be polled: {events:?}");
                return true;
            }
            Err(error) => panic!("poll: {error}"),
        }
    }
}
