//! Sockets: what only they can do, and that nobody who connects can do harm.
#![cfg(target_os = "linux")]

mod common;

use common::sockets::{MAX_LEN, Place, name, open_descriptors};
use common::{OrdinaryUser, alone, await_child, skip, start_child, wait_until_process_sleeps_in};
use ipc_mq::{
    Batch, BatchReceiver, Channel, ChannelError, ChannelName, DescriptorReceiver, DescriptorSender, Loan,
    PeerCredentials, Pollable, Receiver, RecvError, SendError, Sender, Transport, UnixConfig, UnixReceiver,
    Wait,
};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    libc,
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        socket::{
            AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
        },
        wait::waitpid,
    },
    unistd::{geteuid, pipe},
};
use rstest::rstest;
use std::{
    fs::{self, File},
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    thread,
    time::Duration,
};

const BRIEF: Duration = Duration::from_millis(30);
/// After so many messages of one sender the others are looked at.
const TURN: usize = 64;
const PATIENCE: Wait<'_> = Wait::Forever;
/// Longer than any machine is late.
const LONG: Duration = Duration::from_secs(60);

/// What a packet of ours begins with.
fn header(kind: u32, len: u64) -> Vec<u8> {
    [&b"ipc\x01"[..], &kind.to_le_bytes(), &len.to_le_bytes()].concat()
}

/// Somebody who connects without this crate.
struct Stranger(OwnedFd);

impl Stranger {
    fn connect(path: &Path) -> Self {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Self(socket)
    }

    /// Sends a packet; descriptors are announced, as they have to be.
    fn send(&self, bytes: &[u8], descriptors: &[RawFd]) {
        if !descriptors.is_empty() {
            self.send_unannounced(&header(3, 0), &[]);
        }
        self.send_unannounced(bytes, descriptors);
    }

    fn send_unannounced(&self, bytes: &[u8], descriptors: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), None)
            .unwrap();
    }

    /// Waits until the other end has closed the connection.
    fn await_end(self) {
        assert_eq!(File::from(self.0).read(&mut [0]).unwrap_or(0), 0);
    }
}

fn memfd(content: &[u8], seals: SealFlag) -> File {
    let mut file =
        File::from(memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all(content).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

const ALL_SEALS: SealFlag =
    SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW);

/// Garbage, of each kind: the stranger loses its connection, nothing of it is delivered, no
/// descriptor stays, and the others go on.
#[rstest]
#[case::noise(|stranger: &Stranger| stranger.send(b"hello, is this the web server?", &[]))]
#[case::half_a_header(|stranger: &Stranger| stranger.send(b"ipc\x01\0", &[]))]
#[case::another_version(|stranger: &Stranger| stranger.send(b"ipc\x02\0\0\0\0\0\0\0\0\0\0\0\0", &[]))]
#[case::another_kind(|stranger: &Stranger| stranger.send(&header(9, 0), &[]))]
#[case::a_length_that_is_none(|stranger: &Stranger| stranger.send(&header(0, 5), &[]))]
#[case::a_length_beyond_all_bounds(|stranger: &Stranger| stranger.send(&header(0, u64::MAX), &[]))]
#[case::a_packet_too_long(|stranger: &Stranger| {
    stranger.send(&[header(0, 70_000), vec![0; 70_000]].concat(), &[]);
})]
#[case::a_parcel_without_a_descriptor(|stranger: &Stranger| stranger.send(&header(1, 100), &[]))]
#[case::a_parcel_that_is_a_pipe(|stranger: &Stranger| {
    let (read, _write) = pipe().unwrap();
    stranger.send(&header(1, 100), &[read.as_raw_fd()]);
})]
#[case::a_parcel_that_is_a_file(|stranger: &Stranger| {
    let file = File::open("/proc/self/exe").unwrap();
    stranger.send(&header(1, 100), &[file.as_raw_fd()]);
})]
#[case::an_unsealed_parcel(|stranger: &Stranger| {
    stranger.send(&header(1, 100), &[memfd(&[1; 100], SealFlag::empty()).as_raw_fd()]);
})]
#[case::a_parcel_that_can_shrink(|stranger: &Stranger| {
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW;
    stranger.send(&header(1, 100), &[memfd(&[1; 100], seals).as_raw_fd()]);
})]
#[case::a_parcel_that_can_be_written(|stranger: &Stranger| {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    stranger.send(&header(1, 100), &[memfd(&[1; 100], seals).as_raw_fd()]);
})]
#[case::a_parcel_shorter_than_promised(|stranger: &Stranger| {
    stranger.send(&header(1, 101), &[memfd(&[1; 100], ALL_SEALS).as_raw_fd()]);
})]
#[case::a_parcel_of_nothing(|stranger: &Stranger| {
    stranger.send(&header(1, 0), &[memfd(&[], ALL_SEALS).as_raw_fd()]);
})]
#[case::a_parcel_longer_than_allowed(|stranger: &Stranger| {
    let len = MAX_LEN + 1;
    stranger.send(&header(1, len as u64), &[memfd(&vec![1; len], ALL_SEALS).as_raw_fd()]);
})]
#[case::one_descriptor_too_many(|stranger: &Stranger| {
    stranger.send(&header(0, 0), &[memfd(&[1; 100], ALL_SEALS).as_raw_fd(); 17]);
})]
#[case::a_parcel_that_was_not_announced(|stranger: &Stranger| {
    stranger.send_unannounced(&header(1, 100), &[memfd(&[1; 100], ALL_SEALS).as_raw_fd()]);
})]
#[case::two_announcements(|stranger: &Stranger| {
    stranger.send(&header(3, 0), &[]);
    stranger.send(&header(3, 0), &[]);
})]
#[case::an_announcement_with_a_message(|stranger: &Stranger| {
    stranger.send(&[header(3, 1), vec![1]].concat(), &[]);
})]
#[case::more_descriptors_than_there_can_be(|stranger: &Stranger| {
    let file = memfd(&[1; 100], ALL_SEALS);
    stranger.send(&header(0, 0), &[file.as_raw_fd(); 200]);
})]
fn who_sends_garbage_harms_nobody(#[case] act: fn(&Stranger)) {
    let place = Place::new();
    let channel = place.channel();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"before").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"before");
    let stranger = Stranger::connect(&channel.socket_path());
    act(&stranger);
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)), "it was delivered");
    stranger.await_end();
    assert_eq!(rx.peers().count(), 1);
    tx.send(b"after").unwrap();
    let mut message = rx.recv().unwrap();
    assert_eq!(&*message, b"after");
    assert!(UnixReceiver::take_descriptors(&mut message).is_empty());
}

/// In a process of its own, where nobody else opens descriptors.
#[test]
fn descriptors_of_strangers_are_closed() {
    alone("descriptors_of_strangers_are_closed", || {
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let file = memfd(&[1; 100], ALL_SEALS);
        let before = open_descriptors();
        for count in [1, 16, 17, 18, 200] {
            let stranger = Stranger::connect(&channel.socket_path());
            stranger.send(&header(9, 0), &vec![file.as_raw_fd(); count]);
            assert!(rx.try_recv().is_err());
            stranger.await_end();
            assert_eq!(open_descriptors(), before, "{count} came");
        }
        // Not memory, so it is closed on a thread apart, some time.
        let anything = File::open("/dev/null").unwrap();
        let before = open_descriptors();
        for count in [1, 17, 200] {
            let stranger = Stranger::connect(&channel.socket_path());
            stranger.send(&header(9, 0), &vec![anything.as_raw_fd(); count]);
            assert!(rx.try_recv().is_err());
            stranger.await_end();
            while open_descriptors() != before {
                thread::yield_now();
            }
        }
    });
}

/// The message is whole; what came with it, who listens to the protocol would have expected.
#[test]
fn descriptors_that_were_not_announced_are_not_there() {
    alone("descriptors_that_were_not_announced_are_not_there", || {
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let stranger = Stranger::connect(&channel.socket_path());
        stranger.send(&header(0, 0), &[]);
        assert_eq!(&*rx.recv().unwrap(), b"");
        let file = memfd(&[1; 100], ALL_SEALS);
        let before = open_descriptors();
        stranger.send_unannounced(&[header(0, 5), b"there".to_vec()].concat(), &[file.as_raw_fd(); 3]);
        let mut message = rx.recv().unwrap();
        assert_eq!(&*message, b"there");
        assert!(UnixReceiver::take_descriptors(&mut message).is_empty());
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn who_connects_and_says_nothing_holds_up_nobody() {
    let place = Place::new();
    let channel = place.channel();
    let mut rx = channel.receiver().unwrap();
    let silent: Vec<Stranger> = (0..50).map(|_| Stranger::connect(&channel.socket_path())).collect();
    let mut tx = channel.sender().unwrap();
    tx.send(b"through").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"through");
    drop(silent);
    tx.send(b"again").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"again");
    assert!(rx.try_recv().is_err());
    assert_eq!(rx.peers().count(), 1);
}

/// As long as packets take, one more, and as long as there can be; copied and lent.
#[rstest]
fn messages_of_all_lengths_arrive_whole(
    #[values(0, 1, 65_519, 65_520, 65_521, 65_536, 65_537, 300_000, MAX_LEN)] len: usize,
) {
    let place = Place::new();
    let channel = place.channel();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let message: Vec<u8> = (0..len).map(|index| (index * 31) as u8).collect();
    tx.send(&message).unwrap();
    assert!(*rx.recv().unwrap() == message[..]);
    for cut in [len, len / 2, len.min(3)] {
        let mut loan = tx.loan(len, PATIENCE).unwrap();
        loan.copy_from_slice(&message);
        loan.truncate(cut);
        loan.send().unwrap();
        assert!(*rx.recv().unwrap() == message[..cut], "{cut} of {len}");
    }
    assert!(matches!(tx.send(&vec![0; MAX_LEN + 1]), Err(SendError::TooLong { .. })));
}

#[test]
fn messages_of_all_lengths_go_through_the_smallest_buffer() {
    let place = Place::new();
    let config = UnixConfig::new().max_message_len(MAX_LEN).buffer_bytes(4096);
    let channel = place.transport().create(&name(), &config).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for len in [0, 1, 255, 256, 257, 1000, 1200, 5000, 70_000] {
        tx.try_send(&vec![7; len]).unwrap();
        assert_eq!(&*rx.recv().unwrap(), vec![7; len], "{len}");
    }
}

#[test]
fn a_long_loan_that_finds_no_receiver_is_given_back_as_it_was() {
    let place = Place::new();
    let channel = place.channel();
    let mut tx = channel.sender().unwrap();
    let mut loan = tx.loan(200_000, PATIENCE).unwrap();
    loan.fill(7);
    let rejected = loan.commit(Wait::Never).unwrap_err();
    assert!(matches!(rejected.error, SendError::WouldBlock));
    let mut loan = rejected.loan;
    assert!(loan.iter().all(|&byte| byte == 7));
    loan[0] = 8;
    let mut rx = channel.receiver().unwrap();
    loan.send().unwrap();
    let message = rx.recv().unwrap();
    assert_eq!((message.len(), message[0], message[199_999]), (200_000, 8, 7));
}

#[test]
fn a_receiver_that_is_killed_is_noticed_and_its_successor_takes_over() {
    let place = Place::new();
    let channel = place.channel();
    let mut tx = channel.sender().unwrap();
    for round in 0..5 {
        let receiver = start_child(|| {
            let mut rx = channel.receiver().unwrap();
            rx.recv().unwrap();
            loop {
                thread::park();
            }
        });
        tx.send(&[round]).unwrap();
        assert!(matches!(channel.receiver(), Err(ChannelError::Busy { .. })));
        // Fills up, and waits for room until the receiver is killed.
        let waiter = thread::scope(|threads| {
            let waiter = threads.spawn(|| {
                loop {
                    if let Err(error) = tx.send(&[1; 1000]) {
                        break error;
                    }
                }
            });
            kill(receiver, Signal::SIGKILL).unwrap();
            waitpid(receiver, None).unwrap();
            waiter.join().unwrap()
        });
        assert!(matches!(waiter, SendError::PeerDied), "{waiter:?}");
        // It isn't said twice; there is nobody now.
        assert!(matches!(tx.try_send(b"x"), Err(SendError::WouldBlock)));
    }
    let mut rx = channel.receiver().unwrap();
    tx.send(b"to the successor").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"to the successor");
    drop(rx);
    assert!(matches!(tx.send(b"x"), Err(SendError::PeerDied)));
    place.transport().remove(&name()).unwrap();
    assert!(matches!(tx.send(b"x"), Err(SendError::Closed)));
}

#[test]
fn a_sender_that_dies_is_told_once_and_one_that_leaves_is_not() {
    let place = Place::new();
    let channel = place.channel();
    let mut rx = channel.receiver().unwrap();
    rx.report_deaths(true);
    let mut leaves = channel.sender().unwrap();
    leaves.send(b"I leave").unwrap();
    drop(leaves);
    assert_eq!(&*rx.recv().unwrap(), b"I leave");
    assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut)));
    let dies = start_child(|| {
        let mut tx = channel.sender().unwrap();
        tx.send(b"I die").unwrap();
        // No farewell: the child's end runs no destructors.
        std::mem::forget(tx);
    });
    let message = rx.recv().unwrap();
    assert_eq!(&*message, b"I die");
    assert_eq!(UnixReceiver::credentials_of(&message).pid, dies.as_raw() as u32);
    assert_eq!(UnixReceiver::credentials_of(&message).uid, geteuid().as_raw());
    drop(message);
    assert!(matches!(rx.recv(), Err(RecvError::PeerDied)));
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    await_child(dies);
}

/// A packet without bytes looks like the end.
#[test]
fn a_stranger_that_sends_nothing_is_not_said_to_have_died() {
    let place = Place::new();
    let channel = place.channel();
    let mut rx = channel.receiver().unwrap();
    rx.report_deaths(true);
    let stranger = Stranger::connect(&channel.socket_path());
    stranger.send(&[], &[]);
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    assert_eq!(rx.peers().count(), 0);
    stranger.await_end();
}

/// Whoever takes messages together is told behind them, by whatever it calls next.
#[rstest]
#[case::by_a_batch(|rx: &mut UnixReceiver| rx.advance_batch(8, Wait::Never).map(drop))]
#[case::by_a_message(|rx: &mut UnixReceiver| rx.advance(Wait::timeout(BRIEF)))]
#[case::by_whoever_watches_it(|rx: &mut UnixReceiver| rx.arm().map(drop))]
fn a_death_behind_a_batch_is_told_once(#[case] next: fn(&mut UnixReceiver) -> Result<(), RecvError>) {
    let place = Place::new();
    let channel = place.channel();
    let mut rx = channel.receiver().unwrap();
    rx.report_deaths(true);
    await_child(start_child(|| {
        let mut tx = channel.sender().unwrap();
        tx.send(b"I die").unwrap();
        tx.send(b"now").unwrap();
        // No farewell: the child's end runs no destructors.
        std::mem::forget(tx);
    }));
    // Not before all of them are released.
    for (held, released) in [(2, 0), (2, 1), (1, 0), (1, 1)] {
        assert_eq!(rx.advance_batch(8, Wait::Forever).unwrap(), held);
        rx.held_batch().release(released);
    }
    assert!(matches!(next(&mut rx), Err(RecvError::PeerDied)));
    assert!(matches!(rx.advance_batch(8, Wait::Never), Err(RecvError::WouldBlock)));
    assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut)));
}

#[test]
fn a_sender_that_fills_its_buffer_holds_up_no_other() {
    let place = Place::new();
    let channel = place.channel();
    let mut rx = channel.receiver().unwrap();
    let (mut greedy, mut modest) = (channel.sender().unwrap(), channel.sender().unwrap());
    for tx in [&mut modest, &mut greedy] {
        tx.send(b"hello").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"hello");
    }
    let mut sent = 0;
    while greedy.try_send(b"greedy").is_ok() {
        sent += 1;
    }
    assert!(sent > 2 * TURN, "{sent} would be too few to wait for");
    // It is known to have one message behind the other.
    for _ in 0..5 {
        assert_eq!(&*rx.recv().unwrap(), b"greedy");
    }
    modest.try_send(b"modest").unwrap();
    let mut seen = 0;
    while &*rx.recv().unwrap() != b"modest" {
        seen += 1;
    }
    assert!(seen <= TURN, "the modest one waited for {seen} messages of the greedy one");
}

#[test]
fn a_removed_channel_ends_the_wait_for_a_receiver() {
    let place = Place::new();
    let channel = place.channel();
    let mut tx = channel.sender().unwrap();
    thread::scope(|threads| {
        let waiter = threads.spawn(|| tx.send(b"to nobody"));
        thread::sleep(BRIEF);
        place.transport().remove(&name()).unwrap();
        assert!(matches!(waiter.join().unwrap(), Err(SendError::Closed)));
    });
}

/// Who may enter a directory but not read it can't watch it.
#[test]
fn a_sender_of_another_user_waits_for_a_receiver() {
    if !geteuid().is_root() {
        return skip("it takes root to be somebody else");
    }
    let place = Place::new();
    let config = UnixConfig::new().mode(0o666).allow_uids([0, common::NOBODY]);
    let channel = place.transport().create(&name(), &config).unwrap();
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o711)).unwrap();
    let waits = |outcome: fn(&Result<(), SendError>) -> bool| {
        let child = start_child(|| {
            let _other = OrdinaryUser::new();
            let channel = place.transport().trusting([0]).open(&name()).unwrap();
            let answer = channel.sender().unwrap().send_timeout(b"at last", LONG);
            assert!(outcome(&answer), "{answer:?}");
        });
        wait_until_process_sleeps_in(child, &[libc::SYS_ppoll]);
        child
    };
    let sender = waits(Result::is_ok);
    let mut rx = channel.receiver().unwrap();
    assert_eq!(&*rx.recv_timeout(LONG).unwrap(), b"at last");
    await_child(sender);
    drop(rx);
    let sender = waits(|answer| matches!(answer, Err(SendError::Closed)));
    place.transport().remove(&name()).unwrap();
    await_child(sender);
}

#[test]
fn others_are_let_in_by_the_list_and_by_nothing_else() {
    if !geteuid().is_root() {
        return skip("it takes root to be somebody else");
    }
    alone("others_are_let_in_by_the_list_and_by_nothing_else", || {
        let place = Place::new();
        for (index, uids) in [vec![0], vec![0, common::NOBODY]].into_iter().enumerate() {
            let name = ChannelName::new(&format!("channel-{index}")).unwrap();
            let config = UnixConfig::new().mode(0o666).allow_uids(uids.clone());
            let mut rx = place.transport().create(&name, &config).unwrap().receiver().unwrap();
            fs::set_permissions(&place.0, fs::Permissions::from_mode(0o755)).unwrap();
            let allowed = uids.contains(&common::NOBODY);
            let other = OrdinaryUser::new();
            // Not without trusting root's directory.
            assert!(matches!(place.transport().open(&name), Err(ChannelError::NotPermitted(_))));
            let channel = place.transport().trusting([0]).open(&name).unwrap();
            match channel.sender() {
                Ok(mut tx) => {
                    assert!(allowed);
                    tx.send(b"let in").unwrap();
                }
                Err(error) => assert!(!allowed && matches!(error, ChannelError::NotPermitted(_)), "{error}"),
            }
            // Who doesn't ask is not let in either.
            let stranger = Stranger::connect(&channel.socket_path());
            stranger.send(&[header(0, 5), b"force".to_vec()].concat(), &[]);
            drop(other);
            let received: Vec<Vec<u8>> =
                std::iter::from_fn(|| rx.try_recv().ok().map(|message| message.to_vec())).collect();
            let expected: &[&[u8]] = if allowed { &[b"let in", b"force"] } else { &[] };
            assert_eq!(received, expected);
        }
    });
}

#[test]
fn a_process_out_of_descriptors_goes_on_with_those_who_are_in() {
    alone("a_process_out_of_descriptors_goes_on_with_those_who_are_in", || {
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let mut inside = channel.sender().unwrap();
        inside.send(b"in").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"in");
        let outside = Stranger::connect(&channel.socket_path());
        outside.send(&[header(0, 3), b"out".to_vec()].concat(), &[]);
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        inside.send(b"still in").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"still in");
        assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut)), "and it doesn't spin");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        // There is room at the door again when one goes.
        drop(inside);
        assert_eq!(&*rx.recv().unwrap(), b"out");
    });
}

/// The sender stays, and so do its messages without descriptors.
#[test]
fn a_process_that_may_have_no_more_descriptors_says_so_and_blames_nobody() {
    alone("a_process_that_may_have_no_more_descriptors_says_so_and_blames_nobody", || {
        let place = Place::new();
        let channel = place.channel();
        let mut rx = channel.receiver().unwrap();
        let mut tx = channel.sender().unwrap();
        tx.send(b"in").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"in");
        tx.attach(File::open("/dev/null").unwrap().into()).unwrap();
        tx.send(b"with a descriptor").unwrap();
        tx.send(b"without").unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        let error = rx.recv().map(drop).unwrap_err();
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"without");
        assert_eq!(rx.peers().count(), 1);
        // The same behind the first message of a batch.
        tx.send(b"first").unwrap();
        tx.attach(File::open("/dev/null").unwrap().into()).unwrap();
        tx.send(b"with a descriptor").unwrap();
        tx.send(b"without").unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        assert_eq!(rx.advance_batch(8, Wait::Forever).unwrap(), 1);
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        rx.held_batch().release_all();
        let error = rx.advance_batch(8, Wait::Forever).map(drop).unwrap_err();
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        assert_eq!(&*rx.recv().unwrap(), b"without");
    });
}
