//! Channels on a disk: they outlive their users and the machine, and say so if the machine
//! went down under them. And what pages a channel is made of.

mod common;

use common::{Arena, Child, forbid, fork_child, name, refuse, say, serve, told, trace, write_at};
use ipc_shm::{
    Broadcast, Channel, ChannelError, Kind, Latest, Receiver, RecvError, Sender, Shm, ShmConfig, Transport,
    Wait,
    sync::{Shared, State},
};
use nix::{errno::Errno, libc};
use rstest::rstest;
use std::{
    env, fs, mem,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        #[cfg(feature = "crash-points")]
        if role == "come and fail while another one comes" {
            return come_and_fail_while_another_one_comes(&Shm::at(&arguments[0]));
        }
        let channel = Shm::at(&arguments[0]).open(&name("x")).unwrap();
        match role {
            "use" => {
                let mut tx = channel.sender().unwrap();
                tx.send(b"from before").unwrap();
                say("in use");
                told();
            }
            // Ends where something is to be brought to the disk.
            "come" => {
                forbid(SAVING);
                let sender = channel.sender().unwrap();
                say("nothing is to be brought to the disk");
                mem::forget((sender, channel));
            }
            #[cfg(feature = "crash-points")]
            "take long to leave" => take_long_to_leave(channel),
            other => panic!("no such child: {other}"),
        }
    });
}

/// A directory on a disk, removed with all that is in it.
struct Disk(PathBuf);

impl Disk {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Where this very program is: what is built is kept on a disk.
        let parent = env::current_exe().unwrap().parent().unwrap().to_owned();
        let path = parent.join(format!("ipc-shm-disk-{}-{number}", process::id()));
        fs::create_dir(&path).expect("a fresh directory");
        Self(path)
    }

    fn shm(&self) -> Shm {
        Shm::at(&self.0)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.join("x")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a reboot changes as far as a segment can tell: the mark is of another boot.
fn reboot(file: &Path) {
    const MARK: u64 = 1024;
    write_at(file, MARK, &[0xee; 16]);
}

const SAVING: &[libc::c_long] = &[libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_msync];

fn config(kind: Kind) -> ShmConfig {
    ShmConfig::new().kind(kind).capacity_bytes(64 << 10)
}

#[rstest]
fn what_was_sent_outlives_its_sender_and_an_orderly_reboot(#[values(Kind::Spsc, Kind::Mpmc)] kind: Kind) {
    let disk = Disk::new();
    let channel = disk.shm().create(&name("x"), &config(kind)).unwrap();
    let mut tx = channel.sender().unwrap();
    tx.send(b"kept").unwrap();
    channel.sync().unwrap();
    drop((tx, channel));
    reboot(&disk.file());
    let mut rx = disk.shm().open(&name("x")).unwrap().receiver().unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"kept");
}

#[rstest]
fn a_channel_that_was_in_use_when_the_machine_went_down_is_served_only_when_told_to(
    #[values(Kind::Spsc, Kind::Mpmc)] kind: Kind,
) {
    let disk = Disk::new();
    drop(disk.shm().create(&name("x"), &config(kind)).unwrap());
    let mut user = Child::spawn("use", &[disk.path()]);
    user.says("in use");
    user.kill();
    // Nobody has left in good order since.
    reboot(&disk.file());
    for error in [
        disk.shm().open(&name("x")).map(drop).unwrap_err(),
        disk.shm().open_or_create(&name("x"), &config(kind)).map(drop).unwrap_err(),
        disk.shm().create(&name("x"), &config(kind)).map(drop).unwrap_err(),
    ] {
        assert!(matches!(&error, ChannelError::Unrecovered(text) if text.contains("recover")), "{error}");
    }
    assert_eq!(disk.shm().stat(&name("x")).unwrap().kind, kind.as_str());
    disk.shm().recover(&name("x")).unwrap();
    let mut rx = disk.shm().open(&name("x")).unwrap().receiver().unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"from before");
}

#[test]
fn as_long_as_the_machine_is_up_the_next_one_puts_the_mark_right() {
    let disk = Disk::new();
    drop(disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap());
    let mut user = Child::spawn("use", &[disk.path()]);
    user.says("in use");
    user.kill();
    drop(disk.shm().open(&name("x")).unwrap());
    reboot(&disk.file());
    let mut rx = disk.shm().open(&name("x")).unwrap().receiver().unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"from before");
}

#[rstest]
#[case::of_another_kind(|shm: &Shm| shm.open_or_create(&name("x"), &config(Kind::Spsc)))]
#[case::too_late(|shm: &Shm| shm.create(&name("x"), &config(Kind::Mpmc)))]
fn who_is_refused_puts_the_mark_right_as_well(
    #[case] refused: fn(&Shm) -> Result<ipc_shm::ShmChannel, ChannelError>,
) {
    let disk = Disk::new();
    drop(disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap());
    let mut user = Child::spawn("use", &[disk.path()]);
    user.says("in use");
    user.kill();
    refused(&disk.shm()).map(drop).unwrap_err();
    reboot(&disk.file());
    let mut rx = disk.shm().open_receiver(&name("x")).unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"from before");
}

#[test]
fn where_the_system_does_not_say_when_it_was_started_nothing_is_kept_on_a_disk() {
    if !common::is_root() {
        return common::skip("only root can take /proc away");
    }
    let disk = Disk::new();
    let channel = disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap();
    channel.sender().unwrap().send(b"kept").unwrap();
    let arena = Arena::new();
    let child = fork_child(|| {
        common::take_proc_away();
        let refused = |answer: Result<(), ChannelError>| match answer {
            Err(ChannelError::Unsupported(why)) => assert!(why.contains("mount /proc"), "{why}"),
            other => panic!("{other:?}"),
        };
        refused(disk.shm().open(&name("x")).map(drop));
        refused(disk.shm().create(&name("y"), &config(Kind::Mpmc)).map(drop));
        // In memory there is no such question.
        let channel = Shm::at(arena.path()).create(&name("x"), &config(Kind::Mpmc)).unwrap();
        channel.sender().unwrap().send(b"x").unwrap();
        assert_eq!(&*channel.receiver().unwrap().try_recv().unwrap(), b"x");
    });
    child.ends_well();
    assert!(matches!(disk.shm().open(&name("y")), Err(ChannelError::NotFound)));
    assert_eq!(&*channel.receiver().unwrap().try_recv().unwrap(), b"kept");
}

#[test]
fn an_unrecovered_channel_can_be_removed() {
    let disk = Disk::new();
    drop(disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap());
    let mut user = Child::spawn("use", &[disk.path()]);
    user.says("in use");
    user.kill();
    reboot(&disk.file());
    disk.shm().remove(&name("x")).unwrap();
    drop(disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap());
}

#[test]
fn a_channel_in_use_needs_no_recovery() {
    let disk = Disk::new();
    let channel = disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap();
    let _tx = channel.sender().unwrap();
    assert!(matches!(disk.shm().recover(&name("x")), Err(ChannelError::Busy { .. })));
    assert!(matches!(disk.shm().recover(&name("y")), Err(ChannelError::NotFound)));
}

#[test]
fn one_channel_is_recovered_and_no_other() {
    let disk = Disk::new();
    for other in ["x", "y"] {
        drop(disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap());
        let mut user = Child::spawn("use", &[disk.path()]);
        user.says("in use");
        user.kill();
        if other == "x" {
            fs::rename(disk.file(), disk.0.join("y")).unwrap();
        }
    }
    for file in ["x", "y"] {
        reboot(&disk.0.join(file));
    }
    let before = fs::read(disk.0.join("y")).unwrap();
    disk.shm().recover(&name("x")).unwrap();
    assert_eq!(fs::read(disk.0.join("y")).unwrap(), before, "not a byte changed");
    assert!(matches!(disk.shm().open(&name("y")), Err(ChannelError::Unrecovered(_))));
    drop(disk.shm().open(&name("x")).unwrap());
    disk.shm().recover(&name("y")).unwrap();
    drop(disk.shm().open(&name("y")).unwrap());
}

#[rstest]
fn who_syncs_a_channel_that_was_removed_is_told_so(
    #[values(Kind::Spsc, Kind::Mpmc)] kind: Kind,
    #[values(true, false)] on_disk: bool,
    #[values(true, false)] replaced: bool,
) {
    let (disk, arena) = (Disk::new(), Arena::new());
    let (shm, file) =
        if on_disk { (disk.shm(), disk.file()) } else { (Shm::at(arena.path()), arena.file("x")) };
    let channel = shm.create(&name("x"), &config(kind)).unwrap();
    channel.sync().unwrap();
    // Nobody does that properly while it is open.
    fs::remove_file(file).unwrap();
    let _other = replaced.then(|| shm.create(&name("x"), &config(kind)).unwrap());
    assert!(matches!(channel.sync(), Err(ChannelError::NotFound)));
}

/// What one that was killed has written may not be there after a power loss.
#[test]
fn who_comes_after_one_that_was_killed_sees_to_it_that_the_mark_is_on_the_disk() {
    let disk = Disk::new();
    drop(disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap());
    for _ in 0..2 {
        let mut killed = Child::spawn("come", &[disk.path()]);
        assert_eq!(killed.ended().signal(), Some(libc::SIGSYS), "it stores what the mark doesn't cover");
    }
    let channel = disk.shm().open(&name("x")).unwrap();
    let _sender = channel.sender().unwrap();
    // And once is enough.
    let mut another = Child::spawn("come", &[disk.path()]);
    another.says("nothing is to be brought to the disk");
    another.ends_well();
}

#[test]
fn what_a_channel_begins_with_is_covered_by_the_mark_until_it_is_on_the_disk() {
    let disk = Disk::new();
    let channel = disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap();
    // As if the machine went down: nobody leaves.
    mem::forget(channel);
    reboot(&disk.file());
    let answer = disk.shm().open(&name("x")).map(drop);
    assert!(matches!(answer, Err(ChannelError::Unrecovered(_))), "{answer:?}");
}

#[test]
fn to_sync_a_channel_is_to_bring_its_name_to_the_disk_too() {
    let disk = Disk::new();
    let synced = trace::synced_by(
        || disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap(),
        |channel| {
            channel.sync().unwrap();
            mem::forget(channel);
        },
    );
    for path in [&disk.file(), &disk.0] {
        assert!(synced.contains(path), "{synced:?}");
    }
}

/// Does it in a thread to which the disk reports errors.
fn failing(act: impl FnOnce() + Send) {
    let act = || {
        refuse(SAVING, Errno::EIO as i32);
        act();
    };
    thread::scope(|scope| scope.spawn(act).join().unwrap());
}

#[test]
fn what_could_not_be_written_once_is_not_said_to_be_on_the_disk_later() {
    let disk = Disk::new();
    let channel = disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap();
    let mut tx = channel.sender().unwrap();
    tx.send(b"lost").unwrap();
    failing(|| assert!(matches!(channel.sync(), Err(ChannelError::Os(_)))));
    // The system takes it for done.
    let answer = channel.sync();
    assert!(matches!(answer, Err(ChannelError::Unrecovered(_))), "{answer:?}");
    drop((tx, channel));
    let channel = disk.shm().open(&name("x")).unwrap();
    assert_eq!(&*channel.receiver().unwrap().try_recv().unwrap(), b"lost", "the machine is up");
    drop(channel);
    reboot(&disk.file());
    let answer = disk.shm().open(&name("x")).map(drop);
    assert!(matches!(answer, Err(ChannelError::Unrecovered(_))), "{answer:?}");
    disk.shm().recover(&name("x")).unwrap();
    disk.shm().open(&name("x")).unwrap().sync().unwrap();
}

#[rstest]
fn who_is_told_of_an_error_that_is_told_once_has_all_others_know(
    #[values("who comes", "who goes")] told: &str,
) {
    let disk = Disk::new();
    let channel = disk.shm().create(&name("x"), &config(Kind::Mpmc)).unwrap();
    match told {
        "who comes" => {
            failing(|| assert!(matches!(channel.sender().map(drop), Err(ChannelError::Os(_)))));
            drop(channel);
        }
        _ => {
            let tx = channel.sender().unwrap();
            failing(move || drop((tx, channel)));
        }
    }
    // Those after it leave in good order.
    drop(disk.shm().open(&name("x")).unwrap().sender().unwrap());
    reboot(&disk.file());
    let answer = disk.shm().open(&name("x")).map(drop);
    assert!(matches!(answer, Err(ChannelError::Unrecovered(_))), "{answer:?}");
}

/// Of two that come at once, one is done before the other is told.
#[cfg(feature = "crash-points")]
#[test]
fn who_is_told_of_an_error_has_those_know_who_came_meanwhile() {
    let disk = Disk::new();
    Child::spawn("come and fail while another one comes", &[disk.path()]).ends_well();
}

#[cfg(feature = "crash-points")]
fn come_and_fail_while_another_one_comes(shm: &Shm) {
    use ipc_shm::hooks::{Moment, observe};
    use std::sync::Mutex;

    static OTHER: Mutex<Option<ipc_shm::ShmChannel>> = Mutex::new(None);
    observe(|point| {
        let is_it = (point.what, point.moment) == ("msync", Moment::Before);
        let channel = OTHER.lock().unwrap().take_if(|_| is_it)?;
        thread::spawn(move || mem::forget(channel.sender().unwrap())).join().unwrap();
        Some(Errno::EIO as i32)
    });
    let channel = shm.create(&name("x"), &config(Kind::Mpmc)).unwrap();
    *OTHER.lock().unwrap() = Some(shm.open(&name("x")).unwrap());
    assert!(matches!(channel.receiver().map(drop), Err(ChannelError::Os(_))));
    let answer = channel.sync();
    assert!(matches!(answer, Err(ChannelError::Unrecovered(_))), "{answer:?}");
}

#[cfg(feature = "crash-points")]
#[test]
fn while_the_last_one_brings_all_to_the_disk_others_come() {
    let disk = Disk::new();
    let shm = disk.shm();
    drop(shm.create(&name("x"), &config(Kind::Mpmc)).unwrap());
    let mut last = Child::spawn("take long to leave", &[disk.path()]);
    last.says("on its way to the disk");
    let channel = shm.open(&name("x")).unwrap();
    let mut tx = channel.sender().unwrap();
    last.tell();
    last.ends_well();
    // It knows that it isn't the last one any more.
    tx.send(b"kept").unwrap();
    reboot(&disk.file());
    let answer = shm.open(&name("x")).map(drop);
    assert!(matches!(answer, Err(ChannelError::Unrecovered(_))), "{answer:?}");
    drop((tx, channel));
    assert_eq!(&*shm.open_receiver(&name("x")).unwrap().try_recv().unwrap(), b"kept");
}

#[cfg(feature = "crash-points")]
fn take_long_to_leave(channel: ipc_shm::ShmChannel) {
    use ipc_shm::hooks::{Moment, observe};
    use std::sync::atomic::AtomicBool;

    static LEAVES: AtomicBool = AtomicBool::new(false);
    let sender = channel.sender().unwrap();
    observe(|point| {
        let is_it = (point.what, point.moment) == ("fsync", Moment::Before);
        if is_it && LEAVES.swap(false, Ordering::Relaxed) {
            say("on its way to the disk");
            told();
        }
        None
    });
    LEAVES.store(true, Ordering::Relaxed);
    drop((sender, channel));
}

/// Those who only look on may be the last ones as well.
#[rstest]
fn the_last_one_that_looked_on_leaves_in_good_order(
    #[values(Kind::Broadcast, Kind::Latest, Kind::State)] kind: Kind,
) {
    let disk = Disk::new();
    let open: fn(&Path) -> Result<(), ChannelError> = match kind {
        Kind::Broadcast => {
            let broadcasts = Broadcast::at(&disk.0);
            let channel = broadcasts.create(&name("x"), &ShmConfig::new()).unwrap();
            let tx = channel.sender().unwrap();
            let observer = broadcasts.observe(&name("x")).unwrap();
            drop((tx, channel));
            drop(observer);
            |path| Broadcast::at(path).open(&name("x")).map(drop)
        }
        Kind::Latest => {
            let values = Latest::at(&disk.0);
            let channel = values.create(&name("x"), &ShmConfig::new()).unwrap();
            let tx = channel.sender().unwrap();
            let observer = values.observe(&name("x")).unwrap();
            drop((tx, channel));
            drop(observer);
            |path| Latest::at(path).open(&name("x")).map(drop)
        }
        _ => {
            let state = State::at(&disk.0);
            let value = state.create::<Shared<u64>>("x", || 1).unwrap();
            let reader = state.reader::<u64>("x").unwrap();
            drop(value);
            drop(reader);
            |path| State::at(path).open::<Shared<u64>>("x").map(drop)
        }
    };
    reboot(&disk.file());
    open(&disk.0).unwrap();
}

#[test]
fn a_channel_in_memory_is_gone_with_the_machine_and_bears_no_mark() {
    let arena = Arena::new();
    let shm = Shm::at(arena.path());
    let channel = shm.create(&name("x"), &config(Kind::Mpmc)).unwrap();
    let mut tx = channel.sender().unwrap();
    tx.send(b"x").unwrap();
    channel.sync().unwrap();
    reboot(&arena.file("x"));
    assert_eq!(&*channel.receiver().unwrap().try_recv().unwrap(), b"x");
}

#[test]
fn a_transient_channel_on_a_disk_goes_with_its_last_user() {
    let disk = Disk::new();
    let channel = disk.shm().create(&name("x"), &config(Kind::Mpmc).transient()).unwrap();
    drop(channel.sender().unwrap());
    drop(channel);
    assert!(!disk.file().exists());
}

/// How much of what this process has mapped of a file lies in huge pages, and how much in
/// memory at all, in KiB.
fn mapped_kib(path: &Path) -> (u64, u64) {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let path = path.to_str().unwrap();
    let (mut ours, mut huge, mut resident) = (false, 0, 0);
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            ours = line.ends_with(path);
        } else if ours {
            let kib = || line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
            match first {
                "ShmemPmdMapped:" | "FilePmdMapped:" => huge += kib(),
                "Rss:" => resident += kib(),
                _ => {}
            }
        }
    }
    (huge, resident)
}

#[rstest]
fn huge_pages_are_had_or_the_channel_is_not_made(#[values(Kind::Spsc, Kind::Mpmc)] kind: Kind) {
    let arena = Arena::new();
    let shm = Shm::at(arena.path());
    let config = ShmConfig::new().kind(kind).capacity_bytes(3 << 20).huge_pages(true).prefault(true);
    match shm.create(&name("x"), &config) {
        Ok(channel) => {
            let mut tx = channel.sender().unwrap();
            tx.send(b"x").unwrap();
            let (huge, _) = mapped_kib(&arena.file("x"));
            assert!(huge >= 2048, "{huge} KiB in huge pages");
            assert_eq!(shm.stat(&name("x")).unwrap().capacity_bytes, Some(4 << 20));
            drop(shm.open_or_create(&name("x"), &config).unwrap());
            let small = ShmConfig::new().huge_pages(false);
            assert!(matches!(shm.open_or_create(&name("x"), &small), Err(ChannelError::Mismatch { .. })));
        }
        Err(error) => {
            assert!(
                matches!(&error, ChannelError::Unsupported(text) if text.contains("huge pages")),
                "{error}"
            );
            assert!(arena.entries().is_empty());
        }
    }
}

#[rstest]
#[case(true)]
#[case(false)]
fn prefaulted_pages_are_mapped_before_they_are_used(#[case] prefault: bool) {
    const CAPACITY: u64 = 4 << 20;
    let arena = Arena::new();
    let shm = Shm::at(arena.path());
    let config = ShmConfig::new().capacity_bytes(CAPACITY).prefault(prefault);
    let channel = shm.create(&name("x"), &config).unwrap();
    let mut rx = channel.receiver().unwrap();
    assert!(matches!(rx.receive(Wait::Never), Err(RecvError::WouldBlock)));
    let (_, resident) = mapped_kib(&arena.file("x"));
    assert_eq!(resident * 1024 >= CAPACITY, prefault, "{resident} KiB are mapped");
}
