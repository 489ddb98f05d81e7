//! Segments: made whole or not at all, of exactly the mode and size that were asked for,
//! and gone when they are to be gone, never before.

mod common;

use common::{Arena, Child, Dice, eventually, fork_child, mode_of, name, say, serve, told};
use ipc_shm::{
    Broadcast, Channel, ChannelError, Collected, Kind, Latest, Lifetime, Mpmc, Receiver, RecvError, Role,
    SendError, Sender, Shm, ShmConfig, Spsc, Transport,
    sync::{Shared, State},
};
use rstest::rstest;
use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const PAGE: u64 = 4096;

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let shm = Spsc::at(&arguments[0]);
        match role {
            "create under a umask" => create_under_a_umask(&shm, &arguments[1]),
            "create and remove for ever" => create_and_remove_for_ever(&shm),
            "open, make, remove and collect" => {
                open_make_remove_and_collect(&shm, &arguments[0], &arguments[1])
            }
            "come and dislike it" => come_and_dislike_it(&shm),
            "hold" => hold(&shm, &arguments[1]),
            #[cfg(feature = "crash-points")]
            "come, and fail as the last one leaves" => come_and_fail_as_the_last_one_leaves(&shm),
            #[cfg(feature = "crash-points")]
            "wait for a place that the last one leaves" => wait_for_a_place_that_the_last_one_leaves(&shm),
            #[cfg(feature = "crash-points")]
            "fail to look on as the last one leaves" => {
                fail_to_look_on_as_the_last_one_leaves(&arguments[0], arguments[1].parse().unwrap())
            }
            #[cfg(feature = "crash-points")]
            "come both at once" => come_both_at_once(&shm),
            "make state without address space" => make_state_without_address_space(&State::at(&arguments[0])),
            "attach without address space" => attach_without_address_space(&shm),
            other => panic!("no such child: {other}"),
        }
    });
}

fn one_page() -> ShmConfig {
    ShmConfig::new().capacity_bytes(PAGE)
}

#[rstest]
#[case::everything_masked("077")]
#[case::nothing_masked("000")]
#[case::even_the_owner("777")]
fn the_mode_is_exactly_what_was_asked_for_whatever_the_umask(#[case] umask: &str) {
    let arena = Arena::new();
    Child::spawn("create under a umask", &[arena.path().to_str().unwrap(), umask]).ends_well();
    for mode in [0o600, 0o640, 0o660, 0o666, 0o777] {
        assert_eq!(mode_of(&arena.file(&format!("{mode:o}"))), mode, "umask {umask}");
    }
    assert_eq!(mode_of(&arena.file("default")), 0o600);
}

fn create_under_a_umask(shm: &Spsc, umask: &str) {
    let umask = u32::from_str_radix(umask, 8).unwrap();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
    for mode in [0o600, 0o640, 0o660, 0o666, 0o777] {
        shm.create(&name(&format!("{mode:o}")), &one_page().mode(mode)).unwrap();
    }
    shm.create(&name("default"), &one_page()).unwrap();
}

fn payload(buffer: &mut Vec<u8>, len: usize, number: u64) {
    buffer.clear();
    buffer
        .extend((0..len).map(|at| (at as u64).wrapping_mul(167).wrapping_add(number.wrapping_mul(31)) as u8));
}

#[test]
fn every_length_arrives_intact_wherever_it_starts_in_the_ring() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &one_page()).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let max = tx.max_message_len();
    assert_eq!(max as u64, PAGE - 16);
    let mut buffer = Vec::new();
    let mut number = 0;
    let mut pass = |tx: &mut ipc_shm::SpscSender, rx: &mut ipc_shm::SpscReceiver, len: usize| {
        payload(&mut buffer, len, number);
        tx.try_send(&buffer).unwrap();
        let message = rx.try_recv().unwrap();
        assert!(*message == *buffer, "message {number} of {len} bytes");
        number += 1;
    };
    // Every length, each where the one before has ended …
    for len in 0..=max {
        pass(&mut tx, &mut rx, len);
    }
    // … and those at the brink at every offset there is.
    for _offset in (0..PAGE).step_by(8) {
        for len in [1, 8, 9, 63, 64, 65, max - 16, max - 8, max - 1, max] {
            pass(&mut tx, &mut rx, len);
        }
        // What is sent in a round is a multiple of the page but for this.
        let sent: u64 = [1, 8, 9, 63, 64, 65, max - 16, max - 8, max - 1, max]
            .iter()
            .map(|len| 8 + len.next_multiple_of(8) as u64)
            .sum();
        let short = (2 * PAGE + 8 - sent % PAGE) % PAGE;
        assert_eq!(short % 8, 0);
        pass(&mut tx, &mut rx, (short + PAGE - 8) as usize % PAGE as usize);
    }
}

#[test]
fn a_full_ring_refuses_the_next_byte_and_loses_none() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &one_page()).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let max = tx.max_message_len();
    assert!(
        matches!(tx.try_send(&vec![0; max + 1]), Err(SendError::TooLong { len, max: m }) if len == max + 1 && m == max)
    );
    tx.try_send(&vec![7; max]).unwrap();
    // Not even an empty one: its own word would be the one that ends the ring.
    assert!(matches!(tx.try_send(b""), Err(SendError::WouldBlock)));
    assert_eq!(&*rx.try_recv().unwrap(), vec![7; max]);
    // As many as can be, each as small as can be.
    let mut sent = 0_u64;
    while tx.try_send(b"").is_ok() {
        sent += 1;
    }
    assert_eq!(sent, PAGE / 8 - 1);
    for _ in 0..sent {
        assert_eq!(&*rx.try_recv().unwrap(), b"");
    }
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
}

#[test]
fn creators_that_race_and_are_killed_leave_nothing_half_made() {
    let arena = Arena::new();
    let path = arena.path().to_str().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let watcher = thread::spawn({
        let (shm, done) = (arena.shm(), Arc::clone(&done));
        move || {
            let mut seen = 0_u64;
            while !done.load(Ordering::Relaxed) {
                match shm.open(&name("x")) {
                    Ok(channel) => {
                        seen += 1;
                        match channel.receiver() {
                            Ok(mut rx) => assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock))),
                            Err(ChannelError::Busy { .. }) => {}
                            Err(error) => panic!("a channel that is there: {error:?}"),
                        }
                    }
                    Err(ChannelError::NotFound) => {}
                    Err(error) => panic!("half-made: {error:?}"),
                }
            }
            seen
        }
    });
    let spawn = || Child::spawn("create and remove for ever", &[path]);
    let mut makers: Vec<_> = (0..8).map(|_| spawn()).collect();
    makers.iter_mut().for_each(|maker| maker.says("making"));
    let mut dice = Dice::new(1);
    let until = Instant::now() + long_run(Duration::from_millis(1500));
    while Instant::now() < until && !watcher.is_finished() {
        let victim = dice.below(8) as usize;
        makers[victim].kill();
        makers[victim] = spawn();
        makers[victim].says("making");
    }
    done.store(true, Ordering::Relaxed);
    let seen = watcher.join().unwrap();
    assert!(seen > 0, "the watcher saw no channel at all");
    drop(makers);
    // One killed between making and removing it has left it whole.
    match arena.shm().remove(&name("x")) {
        Ok(()) | Err(ChannelError::NotFound) => {}
        Err(error) => panic!("{error:?}"),
    }
    assert_eq!(arena.entries(), [""; 0]);
}

fn create_and_remove_for_ever(shm: &Spsc) {
    say("making");
    let config = ShmConfig::new().capacity_bytes(64 * PAGE);
    loop {
        match shm.create(&name("x"), &config) {
            Ok(channel) => drop(channel),
            Err(ChannelError::AlreadyExists) => {}
            Err(error) => panic!("{error:?}"),
        }
        match shm.remove(&name("x")) {
            Ok(()) | Err(ChannelError::NotFound | ChannelError::Busy { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Short by default; `IPC_SHM_LONG_RUN=60` makes it take 60 times as long.
fn long_run(short: Duration) -> Duration {
    short * env::var("IPC_SHM_LONG_RUN").map_or(1, |factor| factor.parse().unwrap())
}

#[rstest]
#[case::kept("kept")]
#[case::transient("transient")]
fn no_live_channel_is_ever_unlinked_by_those_who_open_make_remove_and_collect(#[case] lifetime: &str) {
    let arena = Arena::new();
    let spawn =
        || Child::spawn("open, make, remove and collect", &[arena.path().to_str().unwrap(), lifetime]);
    let mut players: Vec<_> = (0..4).map(|_| spawn()).collect();
    let until = Instant::now() + long_run(Duration::from_millis(1500));
    players.iter_mut().for_each(|player| player.says("playing"));
    let mut dice = Dice::new(2);
    while Instant::now() < until {
        // They say so when a round is over; one of them is killed wherever it is.
        let victim = dice.below(4) as usize;
        players[victim].says("round");
        players[victim].kill();
        players[victim] = spawn();
        players[victim].says("playing");
    }
    for player in &mut players {
        player.tell();
        while player.line() != "done" {}
    }
    players.into_iter().for_each(Child::ends_well);
    match (lifetime, arena.shm().open(&name("x")).map(drop)) {
        (_, Err(ChannelError::NotFound)) => {}
        ("kept", Ok(_)) => arena.shm().remove(&name("x")).unwrap(),
        (_, other) => panic!("all are gone, and the channel is {other:?}"),
    }
    assert_eq!(arena.entries(), [""; 0]);
}

fn open_make_remove_and_collect(shm: &Spsc, directory: &str, lifetime: &str) {
    let lifetime = if lifetime == "kept" { Lifetime::Kept } else { Lifetime::Transient };
    let config = one_page().lifetime(lifetime);
    let stop = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            told();
            stop.store(true, Ordering::Relaxed);
        }
    });
    say("playing");
    let mut dice = Dice::new(u64::from(std::process::id()));
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..50 {
            let opened = match dice.below(5) {
                0 => shm.create(&name("x"), &config),
                1 => shm.open_or_create(&name("x"), &config),
                2 => shm.open(&name("x")),
                3 => {
                    for (_, verdict) in shm.gc().unwrap() {
                        match verdict {
                            // Kept ones aren't its business; the others may be gone meanwhile.
                            Ok(Collected::Kept) => assert_eq!(lifetime, Lifetime::Kept),
                            Ok(_) | Err(ChannelError::NotFound) => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                    continue;
                }
                _ => match shm.remove(&name("x")) {
                    Ok(()) | Err(ChannelError::NotFound | ChannelError::Busy { .. }) => continue,
                    Err(error) => panic!("{error:?}"),
                },
            };
            match opened {
                Ok(channel) => {
                    // Nobody else has it as a sender for long; an attachment goes by name.
                    match channel.sender() {
                        Ok(_) | Err(ChannelError::Busy { role: Role::Sender, .. }) => {}
                        Err(error) => panic!("not linked: {error:?}"),
                    }
                    // What we have mapped is what the name leads to.
                    let maps = fs::read_to_string("/proc/self/maps").unwrap();
                    let mapped = maps.lines().find(|line| line.contains(directory)).unwrap();
                    let linked = fs::metadata(format!("{directory}/x")).unwrap().ino().to_string();
                    let inode = mapped.split_ascii_whitespace().nth(4).unwrap();
                    assert_eq!(inode, linked, "unlinked under us: {mapped}");
                    drop(channel);
                }
                Err(ChannelError::NotFound | ChannelError::AlreadyExists) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        say("round");
    }
    say("done");
}

#[test]
fn a_transient_channel_goes_with_the_last_one_who_leaves_it_empty() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &one_page().transient()).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    drop(channel);
    tx.try_send(b"one").unwrap();
    drop(rx.try_recv().unwrap());
    drop(tx);
    assert_eq!(arena.entries(), ["x"], "the receiver is still there");
    drop(rx);
    assert_eq!(arena.entries(), [""; 0]);
}

#[test]
fn a_transient_channel_stays_for_the_message_that_is_left_in_it() {
    let arena = Arena::new();
    let mut tx = arena.shm().create(&name("x"), &one_page().transient()).unwrap().sender().unwrap();
    tx.try_send(b"left").unwrap();
    drop(tx);
    assert_eq!(arena.entries(), ["x"]);
    let mut rx = arena.shm().open(&name("x")).unwrap().receiver().unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"left");
    drop(rx);
    assert_eq!(arena.entries(), [""; 0]);
}

/// In a process that spawns no others: a child has its parent's descriptors until its
/// `exec`, and their locks with them.
#[test]
fn a_transient_channel_goes_also_with_one_who_didn_t_like_it() {
    let arena = Arena::new();
    Child::spawn("come and dislike it", &[arena.path().to_str().unwrap()]).ends_well();
    assert_eq!(arena.entries(), [""; 0]);
}

fn come_and_dislike_it(shm: &Spsc) {
    let channel = shm.create(&name("x"), &one_page().transient()).unwrap();
    // The others leave while somebody is looking at it.
    let looking = thread::spawn({
        let shm = shm.clone();
        move || {
            for _ in 0..2000 {
                match shm.open_or_create(&name("x"), &ShmConfig::new().capacity_bytes(PAGE + 1).transient()) {
                    Ok(_) | Err(ChannelError::Mismatch { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
                let _ = shm.create(&name("x"), &one_page().transient());
            }
        }
    });
    drop(channel);
    while !looking.is_finished() {
        let _ = shm.open_or_create(&name("x"), &one_page().transient());
    }
    looking.join().unwrap();
}

#[cfg(feature = "crash-points")]
#[test]
fn a_transient_channel_goes_also_with_one_who_couldn_t_come() {
    let arena = Arena::new();
    Child::spawn("come, and fail as the last one leaves", &[arena.path().to_str().unwrap()]).ends_well();
    assert_eq!(arena.entries(), [""; 0]);
}

#[cfg(feature = "crash-points")]
fn come_and_fail_as_the_last_one_leaves(shm: &Spsc) {
    use ipc_shm::hooks::{Moment, observe};
    use std::sync::Mutex;

    static LAST: Mutex<Option<ipc_shm::SpscSender>> = Mutex::new(None);
    observe(|point| {
        let is_it = (point.what, point.moment) == ("mmap", Moment::Before);
        let last = LAST.lock().unwrap().take_if(|_| is_it)?;
        thread::spawn(move || drop(last)).join().unwrap();
        Some(nix::libc::ENOMEM)
    });
    let channel = shm.create(&name("x"), &one_page().transient()).unwrap();
    *LAST.lock().unwrap() = Some(channel.sender().unwrap());
    drop(channel);
    let error = shm.open_receiver(&name("x")).err().unwrap();
    assert!(error.to_string().contains("mmap"), "{error}");
}

/// Those who only look on, and have the channel open while nobody else has.
fn look_on_alone(kind: Kind, arena: &Arena) -> Box<dyn std::any::Any> {
    let config = ShmConfig::new().transient();
    match kind {
        Kind::Broadcast => {
            let broadcasts = Broadcast::at(arena.path());
            let _channel = broadcasts.create(&name("x"), &config).unwrap();
            Box::new(broadcasts.observe(&name("x")).unwrap())
        }
        Kind::Latest => {
            let values = Latest::at(arena.path());
            let _channel = values.create(&name("x"), &config).unwrap();
            Box::new(values.observe(&name("x")).unwrap())
        }
        _ => {
            let state = State::at(arena.path()).transient();
            let _value = state.create::<Shared<u64>>("x", || 1).unwrap();
            Box::new(state.reader::<u64>("x").unwrap())
        }
    }
}

#[rstest]
fn the_last_one_that_looked_on_takes_a_transient_channel_along(
    #[values(Kind::Broadcast, Kind::Latest, Kind::State)] kind: Kind,
) {
    let arena = Arena::new();
    let mut observer = Some(look_on_alone(kind, &arena));
    // What a forked child has of it is none of its business.
    fork_child(|| drop(observer.take())).ends_well();
    assert_eq!(arena.entries(), ["x"]);
    drop(observer);
    assert_eq!(arena.entries(), [""; 0]);
}

#[cfg(feature = "crash-points")]
#[rstest]
fn who_may_not_look_on_may_have_been_the_last_one(#[values(Kind::Spsc, Kind::Broadcast)] kind: Kind) {
    let arena = Arena::new();
    let arguments = [arena.path().to_str().unwrap(), kind.as_str()];
    Child::spawn("fail to look on as the last one leaves", &arguments).ends_well();
    assert_eq!(arena.entries(), [""; 0]);
}

/// One of another kind isn't observed; and one that is, only if there is room for its pages.
#[cfg(feature = "crash-points")]
fn fail_to_look_on_as_the_last_one_leaves(directory: &str, kind: Kind) {
    use ipc_shm::hooks::{Moment, observe};
    use std::sync::Mutex;

    static LAST: Mutex<Option<ipc_shm::ShmChannel>> = Mutex::new(None);
    static KIND: Mutex<Kind> = Mutex::new(Kind::Spsc);
    *KIND.lock().unwrap() = kind;
    observe(|point| {
        let (what, errno) = match *KIND.lock().unwrap() {
            // The header is all that is read.
            Kind::Spsc => (("pread", Moment::After), None),
            _ => (("mmap", Moment::Before), Some(nix::libc::ENOMEM)),
        };
        let last = LAST.lock().unwrap().take_if(|_| (point.what, point.moment) == what)?;
        thread::spawn(move || drop(last)).join().unwrap();
        errno
    });
    let config = ShmConfig::new().kind(kind).transient();
    *LAST.lock().unwrap() = Some(Shm::at(directory).create(&name("x"), &config).unwrap());
    Broadcast::at(directory).observe(&name("x")).unwrap_err();
}

#[cfg(feature = "crash-points")]
#[test]
fn who_waits_for_a_place_has_the_channel_wait_for_it() {
    let arena = Arena::new();
    Child::spawn("wait for a place that the last one leaves", &[arena.path().to_str().unwrap()]).ends_well();
    assert_eq!(arena.entries(), [""; 0]);
}

#[cfg(feature = "crash-points")]
fn wait_for_a_place_that_the_last_one_leaves(shm: &Spsc) {
    static COMES: AtomicBool = AtomicBool::new(false);
    static WAITS: AtomicBool = AtomicBool::new(false);
    // Who finds no place is present from then on, by a page that it maps.
    ipc_shm::hooks::observe(|point| {
        if (point.what, point.moment) == ("mmap", ipc_shm::hooks::Moment::After) {
            WAITS.store(COMES.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        None
    });
    let mut came = 0;
    for _ in 0..300 {
        let last = shm.create(&name("x"), &one_page().transient()).unwrap().sender().unwrap();
        COMES.store(true, Ordering::SeqCst);
        let leaving = thread::spawn(move || {
            while COMES.load(Ordering::SeqCst) && !WAITS.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            drop(last);
        });
        let come = shm.open_sender(&name("x"));
        COMES.store(false, Ordering::SeqCst);
        WAITS.store(false, Ordering::SeqCst);
        leaving.join().unwrap();
        match come {
            Ok(tx) => {
                drop(tx);
                came += 1;
            }
            // The last one was kept from leaving for longer than anybody waits.
            Err(ChannelError::Busy { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(came > 0);
}

/// Neither is in the other's way to find that nobody uses it.
#[cfg(feature = "crash-points")]
#[test]
fn two_that_come_at_once_to_what_a_killed_user_left_do_not_bring_it_back() {
    let arena = Arena::new();
    Child::spawn("come both at once", &[arena.path().to_str().unwrap()]).ends_well();
}

#[cfg(feature = "crash-points")]
fn come_both_at_once(shm: &Spsc) {
    use ipc_shm::hooks::{Moment, observe};
    use std::{cell::Cell, sync::Barrier};

    thread_local! {
        static COMES: Cell<bool> = const { Cell::new(false) };
    }
    static BOTH: Barrier = Barrier::new(2);
    // Both have asked for their first lock before either goes on.
    observe(|point| {
        let is_it = (point.what, point.moment) == ("fcntl(F_OFD_SETLK)", Moment::After);
        if is_it && COMES.replace(false) {
            BOTH.wait();
        }
        None
    });
    let twice = |come: fn(&Spsc) -> Result<ipc_shm::SpscChannel, ChannelError>| {
        let dead = fork_child(|| {
            std::mem::forget(shm.create(&name("x"), &one_page().transient()).unwrap());
        });
        dead.ends_well();
        let come = || {
            COMES.set(true);
            come(shm)
        };
        thread::scope(|scope| [scope.spawn(come), scope.spawn(come)].map(|one| one.join().unwrap()))
    };
    for _ in 0..20 {
        let found = twice(|shm| shm.open(&name("x")));
        assert!(found.iter().all(|one| matches!(one, Err(ChannelError::NotFound))), "{found:?}");
        let made = twice(|shm| shm.create(&name("x"), &one_page().transient()));
        assert_eq!(made.iter().filter(|one| one.is_ok()).count(), 1, "{made:?}");
        assert!(made.iter().any(|one| matches!(one, Err(ChannelError::AlreadyExists))), "{made:?}");
    }
}

#[rstest]
#[case::while_its_user_has_it_open("channel")]
#[case::while_its_user_sends("sender")]
#[case::while_its_user_receives("receiver")]
fn a_transient_channel_whose_users_were_killed_is_not_found(#[case] role: &str) {
    let arena = Arena::new();
    for _ in 0..3 {
        drop(arena.shm().create(&name("y"), &one_page()));
        let channel = arena.shm().create(&name("x"), &one_page().transient()).unwrap();
        let mut user = Child::spawn("hold", &[arena.path().to_str().unwrap(), role]);
        user.says("held");
        drop(channel);
        assert_eq!(arena.entries(), ["x", "y"], "somebody lives");
        user.kill();
        assert!(matches!(arena.shm().open(&name("x")), Err(ChannelError::NotFound)));
        assert_eq!(arena.entries(), ["y"]);
        // And it can be made at once.
        let channel = arena.shm().create(&name("x"), &one_page().transient()).unwrap();
        let mut user = Child::spawn("hold", &[arena.path().to_str().unwrap(), role]);
        user.says("held");
        drop(channel);
        user.kill();
        drop(arena.shm().create(&name("x"), &one_page().transient()).unwrap());
        assert_eq!(arena.entries(), ["y"]);
    }
}

fn hold(shm: &Spsc, role: &str) {
    let channel = shm.open(&name("x")).unwrap();
    let _sender = (role == "sender").then(|| channel.sender().unwrap());
    let _receiver = (role == "receiver").then(|| channel.receiver().unwrap());
    if role != "channel" {
        drop(channel);
        say("held");
        told();
    } else {
        say("held");
        told();
        drop(channel);
    }
}

#[test]
fn a_kept_channel_outlives_all_its_users() {
    let arena = Arena::new();
    drop(arena.shm().create(&name("x"), &one_page()).unwrap());
    for role in ["channel", "sender", "receiver"] {
        let mut user = Child::spawn("hold", &[arena.path().to_str().unwrap(), role]);
        user.says("held");
        user.kill();
    }
    let mut tx = arena.shm().open(&name("x")).unwrap().sender().unwrap();
    tx.try_send(b"still here").unwrap();
    drop(tx);
    let mut rx = arena.shm().open(&name("x")).unwrap().receiver().unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"still here");
    drop(rx);
    arena.shm().remove(&name("x")).unwrap();
    assert_eq!(arena.entries(), [""; 0]);
}

#[rstest]
#[case::a_sender("sender", Role::Sender)]
#[case::a_receiver("receiver", Role::Receiver)]
fn a_channel_in_use_is_not_removed_and_its_user_is_named(#[case] who: &str, #[case] role: Role) {
    let arena = Arena::new();
    drop(arena.shm().create(&name("x"), &one_page()).unwrap());
    let mut user = Child::spawn("hold", &[arena.path().to_str().unwrap(), who]);
    user.says("held");
    let busy = |error: ChannelError| match error {
        ChannelError::Busy { role: found, pid } => assert_eq!((found, pid), (role, Some(user.pid()))),
        other => panic!("{other:?}"),
    };
    busy(arena.shm().remove(&name("x")).unwrap_err());
    let channel = arena.shm().open(&name("x")).unwrap();
    match role {
        Role::Sender => busy(channel.sender().map(drop).unwrap_err()),
        _ => busy(channel.receiver().map(drop).unwrap_err()),
    }
    drop(channel);
    user.tell();
    user.ends_well();
    arena.shm().remove(&name("x")).unwrap();
    assert!(matches!(arena.shm().remove(&name("x")), Err(ChannelError::NotFound)));
}

#[test]
fn a_channel_that_is_only_open_is_not_removed_either() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &one_page()).unwrap();
    assert!(matches!(
        arena.shm().remove(&name("x")),
        Err(ChannelError::Busy { role: Role::User, pid: None })
    ));
    drop(channel);
    arena.shm().remove(&name("x")).unwrap();
}

#[test]
fn an_endpoint_that_finds_no_address_space_leaves_its_role_free() {
    let arena = Arena::new();
    Child::spawn("attach without address space", &[arena.path().to_str().unwrap()]).ends_well();
    let channel = arena.shm().open(&name("x")).unwrap();
    channel.sender().unwrap().try_send(b"room here").unwrap();
    assert_eq!(&*channel.receiver().unwrap().try_recv().unwrap(), b"room here");
}

fn attach_without_address_space(shm: &Spsc) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let channel = shm.create(&name("x"), &ShmConfig::new().capacity_bytes(16 << 20)).unwrap();
    let (_, most) = getrlimit(Resource::RLIMIT_AS).unwrap();
    let vm_pages = fs::read_to_string("/proc/self/statm").unwrap();
    let used = vm_pages.split(' ').next().unwrap().parse::<u64>().unwrap() * PAGE;
    // Short of the guards, of the ring, and of its mirror.
    for short in [4 << 10, 8 << 20, 24 << 20] {
        setrlimit(Resource::RLIMIT_AS, used + short, most).unwrap();
        for _ in 0..50 {
            assert!(matches!(channel.sender().map(drop), Err(ChannelError::Os(_))));
            assert!(matches!(channel.receiver().map(drop), Err(ChannelError::Os(_))));
        }
    }
    setrlimit(Resource::RLIMIT_AS, most, most).unwrap();
    let _both = (channel.sender().unwrap(), channel.receiver().unwrap());
}

#[test]
fn state_that_its_maker_finds_no_address_space_for_is_not_left_behind() {
    let arena = Arena::new();
    Child::spawn("make state without address space", &[arena.path().to_str().unwrap()]).ends_well();
    assert_eq!(arena.entries(), [""; 0]);
}

fn make_state_without_address_space(state: &State) {
    use ipc_shm::sync::{self, arena::Contents};
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let made = || Contents { capacity_bytes: 64 << 20, root: 0_u64 };
    let (_, most) = getrlimit(Resource::RLIMIT_AS).unwrap();
    let vm_pages = fs::read_to_string("/proc/self/statm").unwrap();
    let used = vm_pages.split(' ').next().unwrap().parse::<u64>().unwrap() * PAGE;
    setrlimit(Resource::RLIMIT_AS, used + (8 << 20), most).unwrap();
    for _ in 0..3 {
        let made = [
            state.create::<sync::Arena<u64>>("x", made).map(drop),
            state.open_or_create::<sync::Arena<u64>>("x", made).map(drop),
        ];
        assert!(made.iter().all(|answer| matches!(answer, Err(ChannelError::Os(_)))), "{made:?}");
    }
}

#[test]
fn a_channel_that_was_made_anew_is_not_the_one_that_was_open() {
    let arena = Arena::new();
    let old = arena.shm().create(&name("x"), &one_page()).unwrap();
    fs::rename(arena.file("x"), arena.file("elsewhere")).unwrap();
    let _new = arena.shm().create(&name("x"), &one_page()).unwrap();
    assert!(matches!(old.sender(), Err(ChannelError::NotFound)));
    assert!(matches!(old.receiver(), Err(ChannelError::NotFound)));
}

#[test]
fn a_listing_is_sorted_and_leaves_out_what_no_channel_is_called() {
    let arena = Arena::new();
    for text in ["b", "a", "c"] {
        arena.shm().create(&name(text), &one_page()).unwrap();
    }
    fs::write(arena.file(".hidden"), "").unwrap();
    fs::write(arena.file("not a name"), "").unwrap();
    let names: Vec<_> = arena.shm().list().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn descriptors_and_mappings_are_given_back_on_every_way_out() {
    // A process of its own would be sure; here the files of this arena are counted.
    let arena = Arena::new();
    let path = arena.path().to_str().unwrap().to_owned();
    let maps = || fs::read_to_string("/proc/self/maps").unwrap().matches(&path).count();
    let open_files = || {
        let links =
            fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.starts_with(&path)).count()
    };
    for _ in 0..20 {
        let channel = arena.shm().create(&name("x"), &one_page()).unwrap();
        let (tx, rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        assert!(channel.sender().is_err() && channel.receiver().is_err());
        assert!(arena.shm().create(&name("x"), &one_page()).is_err());
        assert!(arena.shm().open_or_create(&name("x"), &ShmConfig::new().mode(0o666)).is_err());
        assert!(arena.shm().remove(&name("x")).is_err());
        assert_eq!(open_files(), 0, "mappings keep the locks, not descriptors");
        assert_eq!(maps(), 1 + 2 * 2, "an anchor, and each endpoint's control and data, and its mirror");
        drop((tx, rx, channel));
        eventually("the channel is free", || arena.shm().remove(&name("x")).is_ok());
        assert_eq!((open_files(), maps()), (0, 0));
    }
}

/// What the documentation of the kinds says that a channel takes up.
#[rstest]
#[case::spsc(ShmConfig::new().kind(Kind::Spsc).capacity_bytes(20_000), 3 * 4096 + 20_480)]
#[case::mpmc(ShmConfig::new().depth(10).max_message_len(100).participants(20), 2 * 4096 + 8192 + 4096)]
#[case::mpmc_tiny(ShmConfig::new().depth(300).max_message_len(16).participants(1), 2 * 4096 + 4096 + 12_288)]
#[case::latest(ShmConfig::new().kind(Kind::Latest).max_message_len(1000), 2 * 4096 + 16_384 + 4096)]
#[case::rpc(ShmConfig::new().kind(Kind::Rpc).depth(3).max_message_len(100), 2 * 4096 + 16_384 + 4096)]
fn a_channel_takes_up_what_the_documentation_says(#[case] config: ShmConfig, #[case] bytes: u64) {
    let arena = Arena::new();
    drop(Shm::at(arena.path()).create(&name("x"), &config).unwrap());
    assert_eq!(fs::metadata(arena.file("x")).unwrap().len(), bytes);
}

/// The kernel counts calls that read, for each thread.
fn reads_so_far() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    line.expect("the kernel counts them").parse().unwrap()
}

#[rstest]
#[case::next_to_each_other(1 << 16, 16)]
#[case::far_from_each_other(1 << 9, 8192)]
fn who_looks_through_a_queue_does_not_read_slot_by_slot(#[case] depth: u64, #[case] max_message_len: u64) {
    let arena = Arena::new();
    let mpmc = Mpmc::at(arena.path());
    let config = ShmConfig::new().depth(depth).max_message_len(max_message_len).participants(2).transient();
    let channel = mpmc.create(&name("x"), &config).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.try_send(b"first").unwrap();
    rx.try_recv().unwrap();
    tx.try_send(b"second").unwrap();
    drop((channel, tx));
    let most = if max_message_len < 4096 { depth / 64 } else { depth + 64 };
    let reads_of = |act: &mut dyn FnMut()| {
        let before = reads_so_far();
        act();
        reads_so_far() - before
    };
    let mut info = None;
    let of_stat = reads_of(&mut || info = Some(mpmc.stat(&name("x")).unwrap()));
    let info = info.unwrap();
    assert_eq!((info.queued_messages, info.sent_messages), (Some(1), Some(2)));
    assert!(of_stat <= most, "a look takes {of_stat} reads, of {depth} slots");
    rx.try_recv().unwrap();
    let mut last = Some(rx);
    let of_leaving = reads_of(&mut || drop(last.take()));
    assert_eq!(arena.entries(), [""; 0]);
    assert!(of_leaving <= most, "to leave takes {of_leaving} reads, of {depth} slots");
}
