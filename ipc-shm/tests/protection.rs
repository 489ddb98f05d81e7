//! Each protection, proven by an attempt: what is attacked, and what comes of it. The last
//! test prints the table.

#[path = "common/attack.rs"]
mod attack;
mod common;

use attack::{
    ALL, Attacker, PAGE, RECEIVES, RING, SENDS, attacked, attempts_on, greeting, memfd, refused, soon,
};
use common::{
    Arena, Child, PATIENCE, end_after, eventually, fork, fork_child, is_root, name, prove, say, serve,
};
use ipc_shm::{
    Broadcast, Channel, ChannelError, Latest, Receiver, RecvError, Sender, ShmConfig, Spsc, Transport, Wait,
    protect::Guarded,
    sealed::{self, LinkError, Listener, Peers, SealedConfig, SealedReceiver},
};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl},
    libc,
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{Resource, setrlimit},
        signal::Signal,
        wait::WaitStatus,
    },
    unistd::{Gid, Uid, chown, ftruncate, setgid, setuid, write},
};
use rstest::rstest;
use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    ptr::NonNull,
    thread,
    time::{Duration, Instant},
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| match role {
        "observe as another" => observe_as_another(Path::new(&arguments[0]), arguments[1].parse().unwrap()),
        other => panic!("no such child: {other}"),
    });
}

/// What becomes of a process that does this.
fn fate(body: impl FnOnce()) -> WaitStatus {
    match fork() {
        Some(child) => child.ended(),
        None => end_after(body),
    }
}

fn is_fault(fate: &WaitStatus) -> bool {
    matches!(fate, WaitStatus::Signaled(_, Signal::SIGSEGV, _))
}

/// Where this process has a file mapped, and with which rights.
fn mappings_of(part: &str) -> Vec<(usize, usize, String)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let ours = maps.lines().filter(|line| line.contains(part));
    ours.map(|line| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        (address(start), address(end), words.next().unwrap().to_owned())
    })
    .collect()
}

fn store(address: usize) {
    // SAFETY: none: this is the attack, and the process that makes it is there to die of it.
    unsafe { (address as *mut u8).write_volatile(1) };
}

fn lossy() -> ShmConfig {
    ShmConfig::new().capacity_bytes(PAGE as u64).mode(0o640)
}

#[test]
fn a_store_through_an_observers_mapping_is_a_fault_and_the_others_go_on() {
    let arena = Arena::new();
    let broadcasts = Broadcast::at(arena.path());
    let channel = broadcasts.create(&name("x"), &lossy()).unwrap();
    let mut tx = channel.sender().unwrap();
    let path = arena.file("x");
    let before = fs::read(&path).unwrap();
    let fate = fate(|| {
        let observer = broadcasts.observe(&name("x")).unwrap();
        let ours: Vec<_> =
            mappings_of(path.to_str().unwrap()).into_iter().filter(|(.., rights)| rights == "r--s").collect();
        assert!(!ours.is_empty(), "mapped for reading only");
        store(ours.last().unwrap().0);
        drop(observer);
    });
    assert!(is_fault(&fate), "{fate:?}");
    assert_eq!(fs::read(&path).unwrap(), before, "not a byte changed");
    let mut rx = channel.receiver().unwrap();
    tx.send(b"on we go").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"on we go");
}

#[test]
fn an_observer_changes_no_byte_and_has_no_descriptor_that_could() {
    let arena = Arena::new();
    let broadcasts = Broadcast::at(arena.path());
    let channel = broadcasts.create(&name("x"), &lossy()).unwrap();
    let mut tx = channel.sender().unwrap();
    let mut rx = broadcasts.observe(&name("x")).unwrap();
    tx.send(b"one").unwrap();
    let before = fs::read(arena.file("x")).unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"one");
    assert!(matches!(rx.recv_timeout(Duration::from_millis(30)), Err(RecvError::TimedOut)));
    assert_eq!(fs::read(arena.file("x")).unwrap(), before);
    // Told what it missed, as others are.
    for number in 0..1000_u32 {
        tx.send(&number.to_ne_bytes()).unwrap();
    }
    let Err(RecvError::Lagged { missed }) = rx.try_recv() else { panic!("it was overtaken") };
    assert_eq!(*rx.recv().unwrap(), (missed as u32).to_ne_bytes());
    assert!(matches!(broadcasts.remove(&name("x")), Err(ChannelError::Busy { .. })), "it is present");
    assert!(mappings_of(arena.file("x").to_str().unwrap()).iter().any(|(.., rights)| rights == "r--s"));
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        assert_ne!(target, arena.file("x"), "no descriptor is kept");
    }
}

#[test]
fn a_sleeping_observer_finds_what_comes_and_that_the_name_is_gone() {
    let arena = Arena::new();
    let latests = Latest::at(arena.path());
    let channel = latests.create(&name("x"), &ShmConfig::new()).unwrap();
    let mut tx = channel.sender().unwrap();
    let mut rx = latests.observe(&name("x")).unwrap();
    assert!(rx.read().unwrap().is_none());
    let watcher = thread::spawn(move || {
        assert_eq!(&*rx.receive(soon()).unwrap(), b"new");
        assert_eq!(&*rx.read().unwrap().unwrap(), b"new");
        rx.receive(soon()).map(drop).unwrap_err()
    });
    thread::sleep(Duration::from_millis(20));
    tx.send(b"new").unwrap();
    drop((tx, channel));
    fs::remove_file(arena.file("x")).unwrap();
    let error = watcher.join().unwrap();
    assert!(matches!(error, RecvError::Closed), "{error:?}");
}

#[test]
fn a_reliable_broadcast_is_not_observed() {
    let arena = Arena::new();
    let broadcasts = Broadcast::at(arena.path());
    drop(broadcasts.create(&name("x"), &lossy().when_full(ipc_shm::WhenFull::Wait)).unwrap());
    let error = broadcasts.observe(&name("x")).unwrap_err();
    assert!(matches!(error, ChannelError::Unsupported(_)), "{error:?}");
    assert!(matches!(broadcasts.observe(&name("y")), Err(ChannelError::NotFound)));
    assert!(matches!(Latest::at(arena.path()).observe(&name("x")), Err(ChannelError::Mismatch { .. })));
}

/// Another user, in a group that may read.
fn observe_as_another(directory: &Path, uid: u32) {
    nix::unistd::setgroups(&[]).unwrap();
    setgid(Gid::from_raw(uid)).unwrap();
    setuid(Uid::from_raw(uid)).unwrap();
    let ours = Broadcast::at(directory);
    let error = ours.observe(&name("x")).unwrap_err();
    assert!(matches!(error, ChannelError::NotPermitted(_)), "{error:?}");
    let text = error.to_string();
    for part in ["user 0", &format!("we are user {uid}"), "mode 0640", &format!("group {uid}")] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let trusting = ours.trust([0]);
    // It may read, and not write.
    let error = trusting.open(&name("x")).unwrap_err();
    assert!(matches!(error, ChannelError::NotPermitted(_)), "{error:?}");
    assert!(error.to_string().contains("mode 0640"), "{error}");
    let mut rx = trusting.observe(&name("x")).unwrap();
    say("here");
    assert_eq!(&*rx.receive(soon()).unwrap(), b"for all who may read");
    let error = trusting.observe(&name("y")).unwrap_err();
    assert!(matches!(error, ChannelError::NotPermitted(_)), "mode 0600: {error:?}");
    say("seen");
}

#[test]
fn another_user_who_may_read_observes_and_does_no_more() {
    if !is_root() {
        common::skip("only root can act as two users");
        return;
    }
    let uid = 100_000 + std::process::id();
    let arena = Arena::new();
    fs::set_permissions(arena.path(), fs::Permissions::from_mode(0o750)).unwrap();
    chown(arena.path(), None, Some(Gid::from_raw(uid))).unwrap();
    let broadcasts = Broadcast::at(arena.path());
    let channel = broadcasts.create(&name("x"), &lossy().group(uid)).unwrap();
    drop(broadcasts.create(&name("y"), &lossy().mode(0o600).group(uid)).unwrap());
    let error = broadcasts.open_or_create(&name("x"), &lossy().group(uid + 1)).unwrap_err();
    assert!(matches!(error, ChannelError::Mismatch { setting: "group", .. }), "{error:?}");
    let mut tx = channel.sender().unwrap();
    let mut child = Child::spawn("observe as another", &[arena.path().to_str().unwrap(), &uid.to_string()]);
    child.says("here");
    tx.send(b"for all who may read").unwrap();
    child.says("seen");
    child.ends_well();
}

#[test]
fn a_stray_store_outside_of_a_write_window_is_a_fault() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &ShmConfig::new()).unwrap();
    let mut tx = Guarded::new(channel.sender().unwrap()).unwrap();
    let mut rx = Guarded::new(channel.receiver().unwrap()).unwrap();
    let attack = || {
        // What an endpoint has mapped isn't inherited: the child has its own.
        let channel = arena.shm().open(&name("y")).unwrap();
        let mut tx = Guarded::new(channel.sender().unwrap()).unwrap();
        tx.with_write(|tx| tx.send(b"before")).unwrap().unwrap();
        let (start, ..) = mappings_of(arena.file("y").to_str().unwrap()).pop().unwrap();
        tx.with_write(|_| store(start + 64)).unwrap();
        say("in the window");
        store(start + 64);
    };
    let other = arena.shm().create(&name("y"), &ShmConfig::new()).unwrap();
    let fate = fate(attack);
    assert!(is_fault(&fate), "{fate:?}");
    assert_eq!(&*other.receiver().unwrap().recv().unwrap(), b"before");
    // And here all goes on, also after a panic within a window.
    let panic =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tx.with_write(|_| panic!("within"))));
    assert!(panic.is_err());
    assert!(mappings_of(arena.file("x").to_str().unwrap()).iter().all(|(.., rights)| !rights.contains('w')));
    tx.with_write(|tx| tx.send(b"hello")).unwrap().unwrap();
    let message = rx.with_write(|rx| rx.recv().map(|message| message.to_vec())).unwrap().unwrap();
    assert_eq!(message, b"hello");
    let mut rx = rx.into_inner().unwrap();
    drop(tx);
    channel.sender().expect("the role is free").send(b"again").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"again");
}

/// What is at its address in a child is something else, or nothing.
#[test]
fn a_forked_child_strays_nowhere() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &ShmConfig::new()).unwrap();
    let tx = channel.sender().unwrap();
    let fate = fate(|| ipc_shm::protect::stray_store(&tx, 1));
    assert!(matches!(fate, WaitStatus::Exited(_, 0)), "{fate:?}");
}

#[rstest]
#[case::before(true)]
#[case::behind(false)]
fn running_off_either_end_of_a_channel_is_a_fault(#[case] before: bool) {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &ShmConfig::new()).unwrap();
    let fate = fate(|| {
        let channel = arena.shm().open(&name("x")).unwrap();
        let _tx = channel.sender().unwrap();
        let ours: Vec<_> = mappings_of(arena.file("x").to_str().unwrap())
            .into_iter()
            .filter(|(.., rights)| rights == "rw-s")
            .collect();
        let start = ours.iter().map(|ours| ours.0).min().unwrap();
        let end = ours.iter().map(|ours| ours.1).max().unwrap();
        store(if before { start - 1 } else { end });
    });
    assert!(is_fault(&fate), "{fate:?}");
    drop(channel);
}

#[test]
fn secrets_are_neither_dumped_nor_swapped_out() {
    let arena = Arena::new();
    let config = ShmConfig::new().capacity_bytes(PAGE as u64).undumped(true).unswapped(true);
    let channel = arena.shm().create(&name("x"), &config).unwrap();
    let _tx = channel.sender().unwrap();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let path = arena.file("x");
    let mut ours = smaps.split("VmFlags:").zip(smaps.split("VmFlags:").skip(1));
    let endpoints = ours
        .by_ref()
        .filter(|(before, _)| before.contains(path.to_str().unwrap()) && before.contains("rw-s"));
    let mut seen = 0;
    for (_, flags) in endpoints {
        let flags: Vec<_> = flags.lines().next().unwrap().split_whitespace().collect();
        assert!(flags.contains(&"dd") && flags.contains(&"lo") && flags.contains(&"dc"), "{flags:?}");
        seen += 1;
    }
    assert!(seen > 0, "the sender's pages are listed");
    let fate = fate(|| {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK, 0, 0).unwrap();
        if is_root() {
            let uid = 100_000 + std::process::id();
            chown(arena.path(), Some(Uid::from_raw(uid)), None).unwrap();
            chown(&path, Some(Uid::from_raw(uid)), None).unwrap();
            setuid(Uid::from_raw(uid)).unwrap();
        }
        let error = arena.shm().open(&name("x")).unwrap().receiver().unwrap_err();
        assert!(error.to_string().contains("ulimit -l"), "{error}");
    });
    assert!(matches!(fate, WaitStatus::Exited(_, 0)), "{fate:?}");
}

// Sealed channels: the peer is the attacker.

/// What a receiver says that is given this.
fn given(bytes: &[u8], descriptors: &[RawFd]) -> LinkError {
    let arena = Arena::new();
    let (link, attacker) = attacked(&arena);
    attacker.send(bytes, descriptors);
    link.receiver(&SealedConfig::new(), soon()).map(drop).unwrap_err()
}

#[test]
fn descriptors_that_are_not_what_they_should_be_are_refused() {
    let len = PAGE as u64 + RING;
    for (missing, why) in ALL.into_iter().zip(["sealed further", "shrunk", "grown", "written to by others"]) {
        let seals: Vec<_> = ALL.into_iter().filter(|&seal| seal != missing).collect();
        let (file, _) = memfd(len, &seals);
        refused(&given(&greeting(SENDS, RING), &[file.as_raw_fd()]), why);
    }
    for wrong in [PAGE as u64, len - PAGE as u64 / 2, len + PAGE as u64] {
        let (file, _) = memfd(wrong, &ALL);
        refused(&given(&greeting(SENDS, RING), &[file.as_raw_fd()]), &format!("has {wrong} bytes"));
    }
    let holes = File::from(memfd_create(c"holes", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    ftruncate(&holes, len as i64).unwrap();
    let seals = SealFlag::from_bits_retain(ALL.iter().fold(0, |all, seal| all | seal));
    fcntl(&holes, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    refused(&given(&greeting(SENDS, RING), &[holes.as_raw_fd()]), "has memory for 0");
    let arena = Arena::new();
    fs::write(arena.file("regular"), vec![0; len as usize]).unwrap();
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    let strangers = [
        File::open(arena.file("regular")).unwrap(),
        File::open(arena.path()).unwrap(),
        File::open("/dev/null").unwrap(),
        File::open("/dev/zero").unwrap(),
        File::open("/proc/self/mem").unwrap(),
        File::from(reader),
    ];
    for stranger in &strangers {
        let error = given(&greeting(SENDS, RING), &[stranger.as_raw_fd()]);
        assert!(matches!(error, LinkError::Refused(_)), "{error:?}");
    }
    let (file, _) = memfd(len, &ALL);
    refused(&given(&greeting(SENDS, RING), &[]), "0 descriptors");
    refused(&given(&greeting(SENDS, RING), &[file.as_raw_fd(); 2]), "2 descriptors");
    refused(&given(&greeting(SENDS, RING), &[file.as_raw_fd(); 253]), "253 descriptors");
}

/// Pages beyond the end are counted as the file's, though none of what is read is there.
#[test]
fn holes_that_are_hidden_are_filled_before_anything_is_read() {
    let len = PAGE as i64 + RING as i64;
    let file = File::from(memfd_create(c"holes", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    ftruncate(&file, len).unwrap();
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, len, len).unwrap();
    let seals = SealFlag::from_bits_retain(ALL.iter().fold(0, |all, seal| all | seal));
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    let pages = |file: &File| file.metadata().unwrap().blocks() * 512 / PAGE as u64;
    assert_eq!(pages(&file), 2);
    let arena = Arena::new();
    let (link, attacker) = attacked(&arena);
    attacker.send(&greeting(SENDS, RING), &[file.as_raw_fd()]);
    let mut rx = link.receiver(&SealedConfig::new(), soon()).unwrap();
    assert_eq!(pages(&file), 4);
    assert!(matches!(rx.try_recv().map(drop), Err(RecvError::WouldBlock)));
}

#[test]
fn descriptors_are_neither_lost_nor_kept_where_there_may_be_no_more_of_them() {
    // In a process of its own, whose limit it is.
    fork_child(|| {
        let arena = Arena::new();
        let (link, attacker) = attacked(&arena);
        let (file, _) = memfd(PAGE as u64 + RING, &ALL);
        attacker.send(&greeting(SENDS, RING), &[file.as_raw_fd(); 3]);
        let open_ones = || (0..1024).filter(|&number| fcntl_getfd(number).is_ok()).count();
        let before = open_ones();
        // There may be one more than there are, and the first of the three takes it.
        let most = File::open("/dev/null").unwrap().as_raw_fd() as u64 + 1;
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let error = link.receiver(&SealedConfig::new(), soon()).map(drop).unwrap_err();
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        // The link is gone as well.
        eventually("what came is closed", || open_ones() == before - 1);
    })
    .ends_well();
}

fn fcntl_getfd(number: RawFd) -> nix::Result<i32> {
    // SAFETY: the number may be any.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })
}

#[test]
fn a_capacity_beyond_all_bounds_is_refused_whatever_is_accepted() {
    for capacity in [1 << 62, u64::MAX - PAGE as u64 + 1] {
        let arena = Arena::new();
        let (link, attacker) = attacked(&arena);
        let (file, _) = memfd(PAGE as u64 + RING, &ALL);
        attacker.send(&greeting(SENDS, capacity), &[file.as_raw_fd()]);
        let error = link.receiver(&SealedConfig::new().max_capacity_bytes(u64::MAX), soon()).unwrap_err();
        assert!(matches!(error, LinkError::Refused(_) | LinkError::Unsupported(_)), "{error:?}");
    }
}

/// `vm.memfd_noexec` may forbid other ones; before Linux 6.3 there are only those.
#[rstest]
#[case::where_that_can_be_said(false)]
#[case::where_it_can_not(true)]
fn memory_that_is_handed_over_is_no_program(#[case] is_old: bool) {
    let fate = fate(|| {
        let arena = Arena::new();
        let (link, attacker) = attacked(&arena);
        if is_old {
            common::refuse_flag(libc::SYS_memfd_create, 1, libc::MFD_NOEXEC_SEAL, libc::EINVAL);
        }
        // What the attacker gives isn't looked at before the sender has given its own.
        let _ = link.sender(&SealedConfig::new(), Wait::timeout(Duration::from_millis(1)));
        let file = attacker.receive().expect("the sender's memory");
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap();
        assert_eq!(seals & F_SEAL_EXEC == 0, is_old, "{seals:#x}");
    });
    assert!(matches!(fate, WaitStatus::Exited(_, 0)), "{fate:?}");
}

const F_SEAL_EXEC: i32 = 0x20;

#[test]
fn strangers_are_closed_by_a_few_threads_however_many_there_are() {
    let threads = || {
        fs::read_dir("/proc/self/task")
            .unwrap()
            .flatten()
            .filter(|task| {
                fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "ipc-closer\n")
            })
            .count()
    };
    let null = File::open("/dev/null").unwrap();
    for _ in 0..8 {
        refused(&given(&greeting(SENDS, RING), &[null.as_raw_fd(); 253]), "253 descriptors");
        let threads = threads();
        assert!(threads <= 32, "{threads} threads close");
    }
}

#[test]
fn greetings_that_are_not_what_they_should_be_are_refused() {
    let (file, _) = memfd(PAGE as u64 + RING, &ALL);
    let file = [file.as_raw_fd()];
    refused(&given(b"hello", &file), "5 bytes");
    refused(&given(&[0; 64], &file), "isn't one of this toolkit");
    refused(&given(&[0xff; 65000], &file), "65000 bytes");
    refused(&given(&greeting(RECEIVES, RING), &file), "it receives, too");
    refused(&given(&greeting(7, RING), &file), "neither");
    for capacity in [0, 1, RING + 8, u64::MAX, 1 << 63, (64 << 20) + RING] {
        refused(&given(&greeting(SENDS, capacity), &file), "capacity");
    }
    for at in 8..16 {
        let mut damaged = greeting(SENDS, RING);
        damaged[at] ^= 0x40;
        refused(&given(&damaged, &file), "expects");
    }
}

#[test]
fn a_handshake_that_is_never_finished_is_over_when_it_was_to_be() {
    let arena = Arena::new();
    for is_sender in [false, true] {
        let briefly = || Wait::timeout(Duration::from_millis(30));
        let (link, attacker) = attacked(&arena);
        let error = match is_sender {
            true => link.sender(&SealedConfig::new(), briefly()).map(drop).unwrap_err(),
            false => link.receiver(&SealedConfig::new(), briefly()).map(drop).unwrap_err(),
        };
        assert!(matches!(error, LinkError::TimedOut), "{error:?}");
        drop(attacker);
        let (link, attacker) = attacked(&arena);
        drop(attacker);
        let error = match is_sender {
            true => link.sender(&SealedConfig::new(), soon()).map(drop).unwrap_err(),
            false => link.receiver(&SealedConfig::new(), soon()).map(drop).unwrap_err(),
        };
        assert!(matches!(error, LinkError::HungUp), "{error:?}");
    }
}

/// A receiver whose sender is the attacker, who has the ring at `memory + PAGE`.
fn victim(arena: &Arena, len: u64) -> (SealedReceiver, Attacker, NonNull<u8>) {
    let (link, attacker) = attacked(arena);
    let (file, memory) = memfd(PAGE as u64 + len, &ALL);
    attacker.send(&greeting(SENDS, len), &[file.as_raw_fd()]);
    let rx = link.receiver(&SealedConfig::new(), soon()).unwrap();
    (rx, attacker, memory)
}

/// Goes once round the ring, as far as it comes. Each call answers, whatever is there.
fn go_round(rx: &mut SealedReceiver) -> [u64; 3] {
    let mut answers = [0; 3];
    for _ in 0..=RING / 16 {
        match rx.try_recv() {
            Ok(message) => {
                assert!(message.len() <= RING as usize);
                answers[0] += 1;
            }
            Err(RecvError::End) => answers[2] += 1,
            Err(error) => {
                match error {
                    RecvError::Corrupt(_) => answers[1] += 1,
                    RecvError::WouldBlock => answers[2] += 1,
                    other => panic!("{other:?}"),
                }
                break;
            }
        }
    }
    answers
}

#[test]
fn whatever_each_byte_is_changed_to_every_call_answers() {
    let arena = Arena::new();
    let (mut rx, _attacker, memory) = victim(&arena, RING);
    let len = PAGE + RING as usize;
    let mut image = vec![0_u8; len];
    // Full of messages of 8 bytes, that never end.
    for record in image[PAGE..].chunks_mut(16) {
        record[..8].copy_from_slice(&(8 << 8 | 1_u64).to_ne_bytes());
    }
    let put = |at: usize, byte: u8| {
        // SAFETY: within our own mapping, which the victim only reads, by atomics.
        unsafe { memory.as_ptr().wrapping_add(at).write_volatile(byte) };
    };
    image.iter().enumerate().for_each(|(at, &byte)| put(at, byte));
    let mut answers = [0; 3];
    let changes: [fn(u8) -> u8; 6] = [
        |_| 0,
        |_| 0xff,
        |byte| byte ^ 1,
        |byte| byte ^ 0x80,
        |byte| byte.wrapping_add(1),
        |byte| byte.wrapping_sub(1),
    ];
    // What is in the first page beside the words to wake by, a receiver never looks at.
    for at in (0..len).filter(|at| *at >= PAGE || (256..392).contains(at)) {
        for change in changes {
            put(at, change(image[at]));
            for (sum, count) in answers.iter_mut().zip(go_round(&mut rx)) {
                *sum += count;
            }
            put(at, image[at]);
        }
    }
    let [messages, corrupt, nothing] = answers;
    prove(&format!(
        "sealed: every byte changed: {messages} messages, {corrupt} times corrupt, {nothing} times nothing"
    ));
    assert!(corrupt > 0 && messages > 0 && nothing > 0);
}

#[test]
fn a_receiver_whose_deadline_is_near_does_not_hang_with_a_peer_that_wakes_it_all_the_time() {
    let arena = Arena::new();
    let (mut rx, _attacker, memory) = victim(&arena, RING);
    rx.set_waiting(ipc_shm::Waiting::Block);
    let memory = memory.as_ptr().addr();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let peer = thread::spawn({
        let stop = stop.clone();
        move || {
            let mut number = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let bell = (memory + 256) as *const std::sync::atomic::AtomicU32;
                // SAFETY: mapped for good, aligned, and used by atomics only.
                unsafe { &*bell }.store(number, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    let started = Instant::now();
    assert!(matches!(rx.recv_timeout(Duration::from_millis(50)), Err(RecvError::TimedOut)));
    assert!(started.elapsed() < PATIENCE);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    peer.join().unwrap();
}

#[test]
fn a_peer_that_talks_on_the_socket_is_corrupt() {
    let arena = Arena::new();
    let (mut rx, attacker, _) = victim(&arena, RING);
    attacker.send(b"blah blah", &[]);
    assert!(matches!(rx.receive(soon()), Err(RecvError::Corrupt(_))));
}

/// What an attacker that receives can do with what a sender gave it.
fn attempts() -> Vec<(&'static str, String)> {
    let arena = Arena::new();
    let (link, attacker) = attacked(&arena);
    let (acknowledgements, at) = memfd(PAGE as u64, &ALL);
    attacker.send(&greeting(RECEIVES, 0), &[acknowledgements.as_raw_fd()]);
    let mut tx = link.sender(&SealedConfig::new().capacity_bytes(RING), soon()).unwrap();
    tx.send(b"sealed").unwrap();
    let file = attacker.receive().expect("the sender's memory");
    let table = attempts_on(&file);
    // Its own words are its own: whatever it says, the sender answers.
    for released in [8, u64::MAX, 1 << 62, 3, 1 << 40] {
        // SAFETY: within our own mapping, aligned, and read by atomics elsewhere.
        unsafe { at.as_ptr().wrapping_add(168).cast::<u64>().write_volatile(released) };
        while tx.try_send(&[1; 1000]).is_ok() {}
        assert!(tx.send_timeout(&[1; 1000], Duration::from_millis(1)).is_err());
    }
    table
}

/// The outcomes of what other tests prove one by one, in a line each.
#[test]
fn attacks_and_what_comes_of_them() {
    let mut table = attempts();
    for (attack, outcome) in &table {
        assert!(outcome.starts_with("refused"), "{attack}: {outcome}");
    }
    let arena = Arena::new();
    let broadcasts = Broadcast::at(arena.path());
    drop(broadcasts.create(&name("x"), &lossy()).unwrap());
    let died = |body: &dyn Fn()| match fate(body) {
        WaitStatus::Signaled(_, signal, _) => format!("{signal} in the attacker, the others go on"),
        other => format!("{other:?}"),
    };
    let path = arena.file("x");
    let store_by_observer = died(&|| {
        let _observer = broadcasts.observe(&name("x")).unwrap();
        store(mappings_of(path.to_str().unwrap()).pop().unwrap().0);
    });
    table.push(("observer: store through its mapping", store_by_observer));
    let stray = died(&|| {
        let _tx = Guarded::new(broadcasts.open(&name("x")).unwrap().sender().unwrap()).unwrap();
        store(mappings_of(path.to_str().unwrap()).pop().unwrap().0);
    });
    table.push(("guarded: store outside of the window", stray));
    let off_the_end = died(&|| {
        let _tx = broadcasts.open(&name("x")).unwrap().sender().unwrap();
        let end = mappings_of(path.to_str().unwrap()).iter().map(|ours| ours.1).max().unwrap();
        store(end);
    });
    table.push(("any: run off the end", off_the_end));
    for (attack, outcome) in &table[table.len() - 3..] {
        assert!(outcome.starts_with("SIGSEGV"), "{attack}: {outcome}");
    }
    std::os::unix::fs::symlink("x", arena.file("link")).unwrap();
    let link = broadcasts.observe(&name("link")).unwrap_err();
    assert!(matches!(link, ChannelError::Corrupt(_)), "{link:?}");
    table.push((
        "named: a symbolic link in place of a channel",
        format!("refused ({link})").replace(arena.path().to_str().unwrap(), "…"),
    ));
    let wrong = Listener::bind(arena.file("s"), Peers::new().user(4_000_000)).unwrap();
    let _attacker = Attacker::connect(&arena.file("s"));
    let error = wrong.accept(soon()).unwrap_err();
    assert!(matches!(error, LinkError::NotPermitted(_)), "{error:?}");
    table.push(("sealed: another user connects", "refused (not permitted)".into()));
    table.push(("sealed: from another user namespace", from_another_namespace()));
    for (attack, outcome) in &table {
        prove(&format!("attack: {attack}: {outcome}"));
    }
}

/// In a namespace of its own, a process that is root there isn't here.
fn from_another_namespace() -> String {
    use nix::sched::{CloneFlags, unshare};
    let arena = Arena::new();
    let path = arena.file("s");
    let listener = Listener::bind(&path, Peers::new().user(nix::unistd::geteuid().as_raw() + 1)).unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let Some(child) = fork() else {
        end_after(|| {
            let done = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
            write(&writer, &[u8::from(done.is_ok())]).unwrap();
            if done.is_ok() {
                // It connects as whom it was, whatever it calls itself.
                let uid = nix::unistd::geteuid().as_raw();
                let link = sealed::connect(&path, &Peers::new().user(uid).user(65534), soon());
                drop(link);
            }
        })
    };
    let mut is_done = [0];
    nix::unistd::read(&reader, &mut is_done).unwrap();
    if is_done[0] == 0 {
        child.ended();
        common::skip("this system makes no user namespaces for us");
        return "not tried: no user namespaces here".into();
    }
    let error = listener.accept(soon()).unwrap_err();
    assert!(matches!(error, LinkError::NotPermitted(_)), "{error:?}");
    child.ends_well();
    "refused (not permitted)".into()
}

#[test]
fn a_named_channel_of_one_sender_has_no_observers() {
    // By type: `Spsc::observe` doesn't exist. By kind: another kind's is a mismatch.
    let arena = Arena::new();
    drop(Spsc::at(arena.path()).create(&name("x"), &ShmConfig::new()).unwrap());
    let error = Broadcast::at(arena.path()).observe(&name("x")).unwrap_err();
    assert!(matches!(error, ChannelError::Mismatch { .. }), "{error:?}");
}
