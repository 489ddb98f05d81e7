//! What goes with messages over sockets, in memory and as descriptors: how it is made, and what
//! becomes of what a peer passed.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use common::{
    alone,
    faults::{Call, fail, fail_each, mark, trace},
    skip,
    sockets::{Place, name},
};
use ipc_mq::{
    Channel, DescriptorSender, Receiver, RecvError, Sender, Transport, UnixChannel, UnixConfig, UnixReceiver,
    Wait,
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    libc,
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
            UnixAddr, accept, bind, connect, listen, recv, recvmsg, sendmsg, setsockopt, socket,
            sockopt::Linger,
        },
    },
    unistd::Pid,
};
use rstest::rstest;
use std::{
    fs,
    io::{IoSlice, IoSliceMut, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

/// Longer than what stands in a packet.
const LONG: usize = 300_000;
/// Only what hangs takes so long.
const A_LONG_TIME: Duration = Duration::from_secs(60);

/// Where the kernel knows the seal against running it, `vm.memfd_noexec` may forbid other ones.
#[test]
fn a_long_message_is_no_program() {
    let place = Place::new();
    let channel = place.channel();
    let mut tx = channel.sender().unwrap();
    // Somebody else in the receiver's place, who sees what comes.
    let listener = listening_at(&channel.socket_path());
    tx.send(&[7; LONG]).unwrap();
    let peer = accepted(&listener);
    let memory = loop {
        let (mut bytes, mut control) = ([0; 64], nix::cmsg_space!([i32; 1]));
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message =
            recvmsg::<UnixAddr>(peer.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT);
        let passed = message.unwrap().cmsgs().unwrap().find_map(|control| match control {
            ControlMessageOwned::ScmRights(passed) => passed.first().copied(),
            _ => None,
        });
        if let Some(passed) = passed {
            // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
            break unsafe { OwnedFd::from_raw_fd(passed) };
        }
    };
    let seals = SealFlag::from_bits_retain(fcntl(&memory, FcntlArg::F_GET_SEALS).unwrap());
    let against_change = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    assert!(seals.contains(against_change), "{seals:?}");
    let against_running = SealFlag::from_bits_retain(0x20);
    if fs::exists("/proc/sys/vm/memfd_noexec").unwrap() {
        assert!(seals.contains(against_running), "{seals:?}");
    }
}

/// Linux before 6.3 says so.
#[test]
fn where_a_program_can_not_be_ruled_out_long_messages_go_all_the_same() {
    alone("where_a_program_can_not_be_ruled_out_long_messages_go_all_the_same", || {
        let send = || {
            let place = Place::new();
            let channel = place.channel();
            let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
            tx.send(b"hello").unwrap();
            assert_eq!(&*rx.recv().unwrap(), b"hello");
            mark();
            let sent = tx.send(&[7; LONG]);
            mark();
            if sent.is_ok() {
                assert!(*rx.recv().unwrap() == [7; LONG]);
            }
        };
        for nth in 0.. {
            let failed = fail(nth, Errno::EINVAL, send);
            match failed.call {
                Some(libc::SYS_memfd_create) => return assert!(failed.well),
                Some(_) => {}
                None => panic!("no memory was made"),
            }
        }
    });
}

/// Linux before 6.7 maps nothing shared that is sealed against writing, though it be for reading.
#[test]
fn where_sealed_memory_can_not_be_mapped_shared_long_messages_go_all_the_same() {
    alone("where_sealed_memory_can_not_be_mapped_shared_long_messages_go_all_the_same", || {
        let is_shared_mapping = |Call { number, arguments: [_, _, _, flags, descriptor] }| {
            let is_shared = flags as libc::c_int & libc::MAP_SHARED != 0;
            number == libc::SYS_mmap && is_shared && descriptor as libc::c_int != -1
        };
        for len in [LONG, 16 << 20] {
            let receive = || {
                let place = Place::new();
                let channel = place.transport().create(&name(), &UnixConfig::new()).unwrap();
                let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
                let bytes: Vec<u8> = (0..len).map(|index| (index / 4096 + index) as u8).collect();
                tx.send(&bytes).unwrap();
                mark();
                rx.advance(Wait::Never).unwrap();
                mark();
                assert!(*rx.held() == bytes[..]);
            };
            // How many there are is as it pleases.
            fail_each(Errno::EPERM, is_shared_mapping, receive);
        }
    });
}

/// As good as that it arrives: 16 MiB are eight pages then, and not 4,096.
#[test]
fn a_message_of_many_mebibytes_is_in_huge_pages_where_there_are_any() {
    const LEN: usize = 16 << 20;
    let place = Place::new();
    let config = UnixConfig::new().max_message_len(LEN + 1);
    let channel = place.transport().create(&name(), &config).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let bytes: Vec<u8> = (0..=LEN).map(|index| (index / 4096 + index) as u8).collect();
    for len in [LEN, LEN + 1, LEN - 1] {
        tx.send(&bytes[..len]).unwrap();
        let message = rx.recv().unwrap();
        assert!(*message == bytes[..len]);
        let huge = in_huge_pages(message.as_ptr());
        if huge == 0 && !system_gives_huge_pages() {
            return skip("this system gives no huge pages now");
        }
        assert_eq!(huge, len >> 21 << 21, "of {len}");
    }
}

/// Memory of a kind that the kernel refuses to map, so that a try leaves nothing where it was
/// made: what another thread has put there since is not to go with it.
#[test]
fn a_message_that_can_not_be_mapped_unmaps_nothing_of_others() {
    const LEN: usize = 1 << 34;
    alone("a_message_that_can_not_be_mapped_unmaps_nothing_of_others", || {
        let Ok(memory) = memfd_create(c"test", MFdFlags::MFD_HUGETLB | MFdFlags::MFD_ALLOW_SEALING) else {
            return skip("this system has no file system of huge pages");
        };
        nix::unistd::ftruncate(&memory, LEN as i64).unwrap();
        let against_change = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(against_change)).unwrap();
        let receive = || {
            let place = Place::new();
            let config = UnixConfig::new().max_message_len(LEN);
            let channel = place.transport().create(&name(), &config).unwrap();
            let mut rx = channel.receiver().unwrap();
            let stranger = stranger(&channel.socket_path());
            send(&stranger, 3, &[]);
            send_header(&stranger, 1, LEN as u64, &[memory.as_raw_fd()]);
            assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
            assert_eq!(rx.peers().count(), 0);
        };
        let mut tries = 0;
        trace(receive, |process, Call { number, arguments: [start, len, ..] }| match number {
            libc::SYS_mmap if len == LEN as u64 => tries += 1,
            libc::SYS_munmap => assert!(is_mapped(process, start, len), "{start:x} is nobody's, of {len:x}"),
            _ => {}
        });
        assert!(tries > 0, "nobody tried to map it");
    });
}

/// It was the only one with messages, or one of several.
#[rstest]
#[case::alone("case_1_alone", false)]
#[case::one_of_several("case_2_one_of_several", true)]
fn a_message_that_there_is_no_room_for_holds_up_no_other(#[case] test: &str, #[case] was_there: bool) {
    const LEN: usize = 1 << 34;
    alone(&format!("a_message_that_there_is_no_room_for_holds_up_no_other::{test}"), || {
        let place = Place::new();
        let channel = place.transport().create(&name(), &UnixConfig::new().max_message_len(LEN)).unwrap();
        let (mut other, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        if was_there {
            other.send(b"hello").unwrap();
            assert_eq!(&*rx.recv().unwrap(), b"hello");
        }
        let stranger = stranger(&channel.socket_path());
        send(&stranger, 0, &[]);
        assert_eq!(&*rx.recv().unwrap(), b"");
        // It has nothing in it, and needs no memory before it is mapped.
        let memory = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&memory, LEN as i64).unwrap();
        let against_change = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(against_change)).unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
        setrlimit(Resource::RLIMIT_AS, LEN as u64 / 2, hard).unwrap();
        send(&stranger, 3, &[]);
        send_header(&stranger, 1, LEN as u64, &[memory.as_raw_fd()]);
        send(&stranger, 0, &[]);
        for wait in [Wait::Never, Wait::timeout(A_LONG_TIME), Wait::Forever] {
            let error = rx.advance(wait).unwrap_err().to_string();
            assert!(error.contains("mmap"), "{error}");
            // In between it is tried again, and again when it has more.
            other.send(b"hello").unwrap();
            let answer = [(); 3].map(|()| rx.receive(wait).map(drop));
            assert_eq!(answer.iter().filter(|answer| answer.is_ok()).count(), 1, "{answer:?}");
        }
        // It isn't tried for ever. What is lost is said, and what comes behind it is heard.
        let mut tries = 0;
        let lost = loop {
            let error = rx.advance(Wait::Forever).unwrap_err().to_string();
            if error.contains("lost") {
                break error;
            }
            tries += 1;
            assert!(tries < 100, "{error}");
        };
        assert!(lost.contains(&LEN.to_string()), "{lost}");
        assert_eq!(&*rx.recv().unwrap(), b"");
        assert!(matches!(rx.recv_timeout(Duration::from_millis(10)), Err(RecvError::TimedOut)));
        assert_eq!(rx.peers().count(), 2);
    });
}

#[test]
fn a_message_that_there_was_no_room_for_waits_for_no_more_than_a_turn_of_another() {
    const LEN: usize = 64 << 20;
    const TURN: usize = 64;
    alone("a_message_that_there_was_no_room_for_waits_for_no_more_than_a_turn_of_another", || {
        let place = Place::new();
        let channel = place.transport().create(&name(), &UnixConfig::new()).unwrap();
        let (mut greedy, mut tx) = (channel.sender().unwrap(), channel.sender().unwrap());
        let mut rx = channel.receiver().unwrap();
        for tx in [&mut greedy, &mut tx] {
            tx.send(b"hello").unwrap();
            assert_eq!(&*rx.recv().unwrap(), b"hello");
        }
        tx.send(&vec![7; LEN]).unwrap();
        let pages = fs::read_to_string("/proc/self/statm").unwrap();
        let used = pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096;
        let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
        setrlimit(Resource::RLIMIT_AS, used + LEN as u64 / 2, hard).unwrap();
        assert!(matches!(rx.try_recv(), Err(RecvError::Os(_))));
        setrlimit(Resource::RLIMIT_AS, hard, hard).unwrap();
        let mut before = 0;
        loop {
            while greedy.try_send(b"greedy").is_ok() {}
            if rx.recv().unwrap().len() == LEN {
                break;
            }
            before += 1;
            assert!(before <= TURN, "it waits for {before}");
        }
    });
}

/// Whether all of these addresses are in use.
fn is_mapped(process: Pid, start: u64, len: u64) -> bool {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let ranges = maps.lines().map(|line| {
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).unwrap();
        [from, to].map(|address| u64::from_str_radix(address, 16).unwrap())
    });
    let mut reached = start;
    for [from, to] in ranges {
        if from <= reached && reached < to {
            reached = to;
        }
    }
    reached >= start + len
}

/// How many bytes of the mapping at this address are in huge pages.
fn in_huge_pages(address: *const u8) -> usize {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&format!("{:x}-", address as usize)));
    let line = lines.find(|line| line.starts_with("ShmemPmdMapped:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn system_gives_huge_pages() -> bool {
    use nix::sys::mman::*;
    const HUGE: usize = 2 << 20;
    let memory = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&memory, 2 * HUGE as i64).unwrap();
    for start in [0, HUGE] {
        nix::sys::uio::pwrite(&memory, &[1], start as i64).unwrap();
    }
    let (len, protection) = ((2 * HUGE).try_into().unwrap(), ProtFlags::PROT_READ);
    // SAFETY: a new mapping, wherever the kernel has room for it.
    let start = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &memory, 0).unwrap() };
    let start = start.as_ptr() as usize;
    let aligned = start.next_multiple_of(HUGE);
    // SAFETY: within the mapping; the advice changes no byte.
    let asked = unsafe { libc::madvise(aligned as *mut _, start + 2 * HUGE - aligned, libc::MADV_COLLAPSE) };
    asked == 0
}

/// A stream whose close waits for as long as its other end pleases, which is kept.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (never_reads, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&[0; 65_536]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
    setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 3600 }).unwrap();
    (stream.into(), never_reads)
}

/// Does this within a long time, and not within the hour that a close would take.
fn unhindered<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || done.send(body()));
    is_done.recv_timeout(A_LONG_TIME).expect("a peer's descriptor held it up")
}

#[test]
fn a_descriptor_that_can_not_be_closed_holds_up_nobody() {
    let place = Place::new();
    let channel = place.channel();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let (stream, _never_reads) = lingering();
    tx.attach(stream).unwrap();
    tx.send(b"with").unwrap();
    let rx = unhindered(move || {
        // Nobody takes it, so it is closed with the message.
        assert_eq!(&*rx.recv().unwrap(), b"with");
        rx
    });
    // In garbage.
    let (stream, _never_reads) = lingering();
    let stranger = stranger(&channel.socket_path());
    send(&stranger, 3, &[]);
    send(&stranger, 9, &[stream.as_raw_fd()]);
    drop(stream);
    let mut rx = unhindered(move || {
        let mut rx: UnixReceiver = rx;
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
        assert_eq!(rx.peers().count(), 1);
        rx
    });
    // Held when the receiver goes.
    let (stream, _never_reads) = lingering();
    tx.attach(stream).unwrap();
    tx.send(b"held").unwrap();
    rx.advance(Wait::Forever).unwrap();
    unhindered(move || drop(rx));
}

/// The first one who is in is watched by itself, several are watched together.
#[test]
fn who_can_not_be_taken_in_holds_up_nobody_who_is() {
    alone("who_can_not_be_taken_in_holds_up_nobody_who_is", || {
        for insiders in [1, 2] {
            let receive = || {
                let place = Place::new();
                let channel = place.channel();
                let mut rx = channel.receiver().unwrap();
                let mut inside: Vec<_> = (0..insiders).map(|_| channel.sender().unwrap()).collect();
                for tx in &mut inside {
                    tx.send(b"in").unwrap();
                    assert_eq!(&*rx.recv().unwrap(), b"in");
                }
                let mut outside = channel.sender().unwrap();
                outside.send(b"at the door").unwrap();
                mark();
                assert!(matches!(rx.try_recv(), Err(RecvError::Os(_))));
                for tx in &mut inside {
                    for _ in 0..3 {
                        tx.send(b"still in").unwrap();
                        let answer = [(); 2].map(|()| rx.try_recv().map(|message| message.to_vec()));
                        assert!(answer.iter().flatten().eq([b"still in"]), "{answer:?}");
                    }
                }
                mark();
                assert_eq!(&*rx.recv().unwrap(), b"at the door");
            };
            // As with more than `fs.epoll.max_user_watches`.
            let failed = fail_each(Errno::ENOSPC, |call| call.number == libc::SYS_epoll_ctl, receive);
            assert!(failed > 1, "it was tried {failed} times");
        }
    });
}

/// It is in the queue of a socket that is closed before anybody takes it from there.
#[rstest]
#[case::behind_garbage("case_1_behind_garbage", |_, mut rx: UnixReceiver, stranger| {
    send(&stranger, 9, &[]);
    send_lingering(&stranger, 9);
    unhindered(move || {
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
        assert_eq!(rx.peers().count(), 0);
        await_end(stranger);
    });
})]
#[case::behind_no_bytes("case_2_behind_no_bytes", |_, mut rx: UnixReceiver, stranger| {
    (0..3).for_each(|_| send_packet(&stranger, &[], &[]));
    send_lingering(&stranger, 0);
    unhindered(move || {
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
        await_end(stranger);
    });
})]
#[case::before_the_receiver_goes("case_3_before_the_receiver_goes", |_, mut rx: UnixReceiver, stranger| {
    send(&stranger, 0, &[]);
    assert_eq!(&*rx.recv().unwrap(), b"");
    send_lingering(&stranger, 0);
    unhindered(move || {
        drop(rx);
        await_end(stranger);
    });
})]
#[case::at_the_door("case_4_at_the_door", |channel: UnixChannel, mut rx: UnixReceiver, _| {
    assert!(rx.try_recv().is_err());
    let strangers = [(); 3].map(|()| stranger(&channel.socket_path()));
    strangers.iter().for_each(|stranger| send_lingering(stranger, 0));
    unhindered(move || {
        drop(rx);
        strangers.into_iter().for_each(await_end);
    });
})]
#[case::of_another_user("case_5_of_another_user", |channel: UnixChannel, mut rx: UnixReceiver, _| {
    if !nix::unistd::geteuid().is_root() {
        return skip("it takes root to be somebody else");
    }
    // Who isn't allowed.
    assert!(rx.try_recv().is_err());
    let other = common::OrdinaryUser::new();
    let stranger = stranger(&channel.socket_path());
    drop(other);
    send_lingering(&stranger, 0);
    unhindered(move || {
        assert!(rx.try_recv().is_err());
        await_end(stranger);
    });
})]
#[case::to_a_sender("case_6_to_a_sender", |channel: UnixChannel, rx, _| {
    let mut tx = channel.sender().unwrap();
    drop(rx);
    // Somebody else in the receiver's place.
    let listener = listening_at(&channel.socket_path());
    tx.send(b"hello").unwrap();
    let peer = accepted(&listener);
    send_lingering(&peer, 0);
    unhindered(move || drop(tx));
})]
fn what_nobody_received_holds_up_nobody(
    #[case] test: &str,
    #[case] act: fn(UnixChannel, UnixReceiver, OwnedFd),
) {
    // Alone, so that only this is closed apart.
    alone(&format!("what_nobody_received_holds_up_nobody::{test}"), || {
        let place = Place::new();
        let config = UnixConfig::new().mode(0o666);
        let channel = place.transport().create(&name(), &config).unwrap();
        let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(&place.0, permissions).unwrap();
        let rx = channel.receiver().unwrap();
        let stranger = stranger(&channel.socket_path());
        act(channel, rx, stranger);
        // Nor does it a fork, or who opens a channel.
        unhindered(move || {
            common::in_child(|| {});
            drop(place.transport().open(&name()).unwrap().receiver().unwrap());
        });
    });
}

/// Sends a descriptor that can't be closed, and keeps none of it but the other end, for good.
fn send_lingering(socket: &OwnedFd, kind: u32) {
    let (stream, never_reads) = lingering();
    send(socket, kind, &[stream.as_raw_fd()]);
    std::mem::forget(never_reads);
}

/// Waits until the other end has hung up.
fn await_end(socket: OwnedFd) {
    let answer = recv(socket.as_raw_fd(), &mut [0], MsgFlags::empty());
    assert!(matches!(answer, Ok(0) | Err(Errno::ECONNRESET)), "{answer:?}");
    // There is nobody to send to either.
    assert!(nix::sys::socket::send(socket.as_raw_fd(), b"x", MsgFlags::MSG_NOSIGNAL).is_err());
}

/// Of whom everything may be expected: it doesn't announce them.
#[test]
fn a_descriptor_of_another_user_holds_up_nobody_either() {
    use common::{NOBODY, OrdinaryUser};
    if !nix::unistd::geteuid().is_root() {
        return skip("it takes root to be somebody else");
    }
    alone("a_descriptor_of_another_user_holds_up_nobody_either", || {
        let place = Place::new();
        let config = UnixConfig::new().mode(0o666).allow_uids([0, NOBODY]);
        let channel = place.transport().create(&name(), &config).unwrap();
        let mut rx = channel.receiver().unwrap();
        let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(&place.0, permissions).unwrap();
        let other = OrdinaryUser::new();
        let stranger = stranger(&channel.socket_path());
        drop(other);
        let (stream, _never_reads) = lingering();
        send(&stranger, 0, &[stream.as_raw_fd()]);
        drop(stream);
        unhindered(move || {
            assert_eq!(&*rx.recv().unwrap(), b"");
            assert!(rx.try_recv().is_err());
        })
    });
}

fn seqpacket() -> OwnedFd {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

/// Takes the place of who listened there.
fn listening_at(path: &Path) -> OwnedFd {
    let listener = seqpacket();
    let _ = fs::remove_file(path);
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    listener
}

fn accepted(listener: &OwnedFd) -> OwnedFd {
    // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(accept(listener.as_raw_fd()).unwrap()) }
}

fn stranger(path: &Path) -> OwnedFd {
    let socket = seqpacket();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}

/// A packet of this kind without a message.
fn send(socket: &OwnedFd, kind: u32, descriptors: &[i32]) {
    send_header(socket, kind, 0, descriptors);
}

/// A packet of this kind that says that there are so many bytes.
fn send_header(socket: &OwnedFd, kind: u32, len: u64, descriptors: &[i32]) {
    let header = [&b"ipc\x01"[..], &kind.to_le_bytes(), &len.to_le_bytes()].concat();
    send_packet(socket, &header, descriptors);
}

fn send_packet(socket: &OwnedFd, bytes: &[u8], descriptors: &[i32]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), None)
        .unwrap();
}
