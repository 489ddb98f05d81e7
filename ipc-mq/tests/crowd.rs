//! A crowd on one channel: every message arrives once, whole, in the order of its sender, and
//! nothing is left. As an ordinary test the crowd is small; `cargo xtask crowd` has
//! `IPC_MQ_CROWD=24x4x100000` ask for more (senders, receivers, messages of each sender).
#![cfg(target_os = "linux")]

mod common;

use common::{await_child, fresh_name, start_child};
use ipc_mq::{
    BatchReceiver, Channel, ChannelName, Mq, MqConfig, Sender, Sysv, SysvConfig, Transport, Unix, UnixConfig,
    Wait,
};
use nix::unistd::pipe;
use std::{
    fs::File,
    io::{Read, Write},
    time::{Duration, Instant},
};

const DEPTH: usize = 10;
const MAX_LEN: usize = 64;
/// The sender of the message after which a receiver goes.
const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Crowd {
    senders: u32,
    receivers: u32,
    each: u32,
}

impl Crowd {
    fn asked_for() -> Self {
        let text = std::env::var("IPC_MQ_CROWD").unwrap_or("6x2x2000".into());
        let numbers: Vec<u32> = text.split('x').map(|number| number.parse().unwrap()).collect();
        let [senders, receivers, each] = numbers[..] else {
            panic!("not SENDERSxRECEIVERSxMESSAGES: {text}")
        };
        Self { senders, receivers, each }
    }
}

#[test]
fn a_crowd_on_a_posix_queue_loses_and_mixes_nothing() {
    let config = MqConfig::new().depth(DEPTH).max_message_len(MAX_LEN);
    let crowd = Crowd::asked_for();
    meet(&Mq::new(), &config, crowd, |name| {
        assert_eq!(Mq::new().stat(name).unwrap().queued_messages, Some(0))
    });
}

#[test]
fn a_crowd_on_a_system_v_queue_loses_and_mixes_nothing() {
    let config = SysvConfig::new().depth(DEPTH).max_message_len(MAX_LEN);
    let crowd = Crowd::asked_for();
    meet(&Sysv::new(), &config, crowd, |name| {
        assert_eq!(Sysv::new().stat(name).unwrap().queued_messages, Some(0));
    });
    let strays = Sysv::new().all_queues().unwrap();
    assert!(
        strays.iter().all(|queue| queue.name.as_ref().is_none_or(|name| !name.as_str().contains("crowd")))
    );
}

#[test]
fn a_crowd_of_senders_over_sockets_loses_and_mixes_nothing() {
    let crowd = Crowd { receivers: 1, ..Crowd::asked_for() };
    meet(&Unix::new(), &UnixConfig::new().max_message_len(MAX_LEN), crowd, |_| {});
}

/// All come, send and receive; `look` sees the channel when all have gone.
fn meet<T: Transport>(transport: &T, config: &T::Config, crowd: Crowd, look: impl Fn(&ChannelName)) {
    let name = ChannelName::new(&format!("{}-crowd", fresh_name())).unwrap();
    let channel = transport.create(&name, config).unwrap();
    let start = Instant::now();
    let mut reports = Vec::new();
    let receivers: Vec<_> = (0..crowd.receivers)
        .map(|_| {
            let (report, ours) = pipe().unwrap();
            let child = start_child(|| receive(&channel, crowd, File::from(ours.try_clone().unwrap())));
            reports.push(File::from(report));
            child
        })
        .collect();
    let senders: Vec<_> =
        (0..crowd.senders).map(|sender| start_child(|| send(&channel, sender, crowd))).collect();
    senders.into_iter().for_each(await_child);
    if crowd.receivers > 1 {
        let mut tx = channel.sender().unwrap();
        (0..crowd.receivers).for_each(|_| tx.send(&stamp(NOBODY, 0)).unwrap());
    }
    let mut tallies = vec![Tally::default(); crowd.senders as usize];
    for report in &mut reports {
        let mut text = String::new();
        report.read_to_string(&mut text).unwrap();
        for (tally, line) in tallies.iter_mut().zip(text.lines()) {
            tally.add(line);
        }
        assert_eq!(text.lines().count(), tallies.len(), "a report is missing");
    }
    receivers.into_iter().for_each(await_child);
    let took = start.elapsed();
    let expected = (0..crowd.each).fold(Tally::default(), |mut tally, sequence| {
        tally.count(sequence);
        tally
    });
    for (sender, tally) in tallies.iter().enumerate() {
        assert_eq!(tally, &expected, "of sender {sender}");
    }
    look(&name);
    transport.remove(&name).unwrap();
    let Crowd { senders, receivers, each } = crowd;
    println!(
        "proof: {}: {senders} senders × {receivers} receivers × {each} messages: all there once, in order, \
         nothing left ({:.1} s)",
        T::SCHEME,
        took.as_secs_f64()
    );
}

/// What was received of one sender. Numbers that are all different and add up so are 0, 1, 2
/// and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    sum: u64,
    squares: u64,
}

impl Tally {
    fn count(&mut self, sequence: u32) {
        self.count += 1;
        self.sum += u64::from(sequence);
        self.squares = self.squares.wrapping_add(u64::from(sequence).pow(2));
    }

    fn add(&mut self, line: &str) {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        self.count += numbers[0];
        self.sum += numbers[1];
        self.squares = self.squares.wrapping_add(numbers[2]);
    }
}

fn stamp(sender: u32, sequence: u32) -> [u8; 12] {
    let mut message = [0; 12];
    message[..4].copy_from_slice(&sender.to_ne_bytes());
    message[4..8].copy_from_slice(&sequence.to_ne_bytes());
    message[8..].copy_from_slice(&(sender ^ sequence.rotate_left(16)).to_ne_bytes());
    message
}

fn send<C: Channel>(channel: &C, sender: u32, crowd: Crowd) {
    let mut tx = channel.sender().unwrap();
    (0..crowd.each).for_each(|sequence| tx.send(&stamp(sender, sequence)).unwrap());
}

fn receive<C: Channel>(channel: &C, crowd: Crowd, mut report: File) {
    let mut rx = channel.receiver().unwrap();
    let mut tallies = vec![Tally::default(); crowd.senders as usize];
    let mut next = vec![0; crowd.senders as usize];
    // One receiver knows how many there are; of several each goes when it is told to.
    let mut left =
        if crowd.receivers == 1 { u64::from(crowd.senders) * u64::from(crowd.each) } else { u64::MAX };
    while left > 0 {
        let message = take(&mut rx);
        let word = |at: usize| u32::from_ne_bytes(message[at..at + 4].try_into().unwrap());
        let (sender, sequence) = (word(0), word(4));
        assert_eq!(message, stamp(sender, sequence), "a torn message");
        if sender == NOBODY {
            break;
        }
        let next = &mut next[sender as usize];
        assert!(sequence >= *next, "message {sequence} of sender {sender} after {next}");
        *next = sequence + 1;
        tallies[sender as usize].count(sequence);
        left -= 1;
    }
    for Tally { count, sum, squares } in tallies {
        writeln!(report, "{count} {sum} {squares}").unwrap();
    }
}

fn take<R: BatchReceiver>(rx: &mut R) -> [u8; 12] {
    let message = rx.receive(Wait::timeout(Duration::from_secs(60))).unwrap();
    message[..].try_into().unwrap()
}
