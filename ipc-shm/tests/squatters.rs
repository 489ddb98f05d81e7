//! Whatever else lies where a channel should be: it is recognised, nothing hangs on it, and
//! the error says what it is and what to do.

mod common;

use common::{Arena, Child, Dice, PATIENCE, is_root, layout, name, serve, within, write_at};
use ipc_shm::{Channel, ChannelError, Receiver, Sender, ShmConfig, Spsc, Transport};
use nix::{
    sys::stat::{Mode, umask},
    unistd::{Gid, Uid, chown, setgid, setuid},
};
use rstest::rstest;
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::Duration,
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let path = Path::new(&arguments[0]);
        match role {
            "meet an unreadable file" => meet_an_unreadable_file(path),
            "use a directory of root's" => use_a_directory_of_roots(path),
            "use the directory of IPC_DIR" => use_the_directory_of_ipc_dir(path),
            "have a private directory" => have_a_private_directory(),
            other => panic!("no such child: {other}"),
        }
    });
}

fn small() -> ShmConfig {
    ShmConfig::new().capacity_bytes(4096)
}

/// What a small channel's file holds.
fn segment() -> Vec<u8> {
    let arena = Arena::new();
    let mut tx = arena.shm().create(&name("x"), &small()).unwrap().sender().unwrap();
    tx.send(b"a message").unwrap();
    drop(tx);
    fs::read(arena.file("x")).unwrap()
}

fn put(arena: &Arena, bytes: &[u8]) {
    fs::write(arena.file("x"), bytes).unwrap();
}

/// How each way of getting at the channel `x` fails, by its name. None of them may hang.
fn attempts(shm: &Spsc) -> Vec<(&'static str, ChannelError)> {
    let shm = shm.clone();
    within(PATIENCE, move || {
        vec![
            ("open", shm.open(&name("x")).map(drop).unwrap_err()),
            ("open_or_create", shm.open_or_create(&name("x"), &small()).map(drop).unwrap_err()),
            (
                "open_or_create, transient",
                shm.open_or_create(&name("x"), &small().transient()).map(drop).unwrap_err(),
            ),
            ("stat", shm.stat(&name("x")).map(drop).unwrap_err()),
        ]
    })
}

fn assert_corrupt(arena: &Arena, what: &str) {
    for (attempt, error) in attempts(&arena.shm()) {
        assert!(matches!(error, ChannelError::Corrupt(_)), "{attempt}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(what), "{attempt}: {text} (expected: {what})");
        assert!(text.contains("remove"), "{attempt} doesn't say what to do: {text}");
    }
    let shm = arena.shm();
    let error = within(PATIENCE, move || shm.create(&name("x"), &small()).map(drop)).unwrap_err();
    assert!(matches!(error, ChannelError::Corrupt(_)), "{error:?}");
}

/// Removing does what the error said, and then the channel can be made.
fn assert_removable(arena: &Arena) {
    let shm = arena.shm();
    within(PATIENCE, move || shm.remove(&name("x"))).unwrap();
    drop(arena.shm().create(&name("x"), &small()).unwrap());
}

#[rstest]
#[case::empty(0)]
#[case::one_byte(1)]
#[case::within_the_magic(7)]
#[case::the_magic_alone(8)]
#[case::one_byte_short_of_a_header(127)]
#[case::a_header_and_nothing_else(128)]
#[case::one_byte_short_of_a_page(4095)]
#[case::one_page(4096)]
#[case::no_data(3 * 4096)]
#[case::one_byte_short(4 * 4096 - 1)]
fn a_file_that_was_truncated_is_corrupt(#[case] len: usize) {
    let arena = Arena::new();
    put(&arena, &segment()[..len]);
    assert_corrupt(&arena, "");
    assert_removable(&arena);
}

#[rstest]
#[case::one_byte_more(1)]
#[case::one_page_more(4096)]
fn a_file_that_is_too_long_is_corrupt(#[case] more: usize) {
    let arena = Arena::new();
    let mut bytes = segment();
    bytes.resize(bytes.len() + more, 0);
    put(&arena, &bytes);
    assert_corrupt(&arena, "size");
    assert_removable(&arena);
}

#[rstest]
#[case(1)]
#[case(128)]
#[case(4096)]
#[case(4 * 4096)]
fn a_file_of_random_bytes_is_corrupt(#[case] len: usize) {
    let arena = Arena::new();
    let mut dice = Dice::new(len as u64);
    for _ in 0..20 {
        put(&arena, &(0..len).map(|_| dice.roll() as u8).collect::<Vec<_>>());
        assert_corrupt(&arena, "");
    }
    assert_removable(&arena);
}

#[rstest]
#[case::not_ours(0, &[0], "segment")]
#[case::the_other_byte_order(8, &0x0102_0304_u32.swap_bytes().to_ne_bytes(), "byte order")]
#[case::the_other_pointer_width(12, &(96 - usize::BITS).to_ne_bytes(), "pointer width")]
#[case::a_later_abi(16, &5_u16.to_ne_bytes(), "ABI version is 5, this program expects 4")]
#[case::an_earlier_abi(16, &3_u16.to_ne_bytes(), "ABI version is 3, this program expects 4")]
#[case::a_kind_to_come(20, &99_u32.to_ne_bytes(), "kind of channel 99")]
#[case::a_lifetime_to_come(24, &99_u32.to_ne_bytes(), "lifetime 99")]
#[case::a_fence_mode_to_come(28, &99_u32.to_ne_bytes(), "fence mode 99")]
#[case::flags_to_come(32, &(1_u32 << 31).to_ne_bytes(), "flags")]
#[case::a_length_that_is_none(40, &u64::MAX.to_ne_bytes(), "length")]
#[case::larger_pages(48, &65536_u64.to_ne_bytes(), "page size is 65536, this program expects 4096")]
#[case::no_pages(48, &0_u64.to_ne_bytes(), "page size")]
#[case::no_capacity(56, &0_u64.to_ne_bytes(), "capacity")]
#[case::more_capacity_than_file(56, &8192_u64.to_ne_bytes(), "settings")]
#[case::an_odd_capacity(56, &4095_u64.to_ne_bytes(), "capacity")]
#[case::a_boundless_capacity(56, &(u64::MAX - 4095).to_ne_bytes(), "capacity")]
#[case::slots_in_a_ring(64, &1_u64.to_ne_bytes(), "settings")]
#[case::longer_messages_than_fit(72, &8192_u64.to_ne_bytes(), "settings")]
#[case::three_participants_of_two(80, &3_u32.to_ne_bytes(), "settings")]
#[case::a_lane_too_many(84, &1_u32.to_ne_bytes(), "settings")]
#[case::deliveries_that_are_not_counted(88, &1_u32.to_ne_bytes(), "settings")]
#[case::a_policy_to_come(92, &99_u32.to_ne_bytes(), "policy when full 99")]
#[case::a_policy_of_other_kinds(92, &2_u32.to_ne_bytes(), "settings")]
fn a_header_of_another_make_is_refused_and_both_sides_are_named(
    #[case] at: u64,
    #[case] bytes: &[u8],
    #[case] what: &str,
) {
    let arena = Arena::new();
    put(&arena, &segment());
    drop(arena.shm().open(&name("x")).expect("as it was, it can be opened"));
    write_at(&arena.file("x"), at, bytes);
    assert_corrupt(&arena, what);
    assert_removable(&arena);
}

#[test]
fn a_later_minor_version_is_no_obstacle() {
    let arena = Arena::new();
    put(&arena, &segment());
    write_at(&arena.file("x"), 18, &7_u16.to_ne_bytes());
    let mut rx = arena.shm().open(&name("x")).unwrap().receiver().unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"a message");
}

#[rstest]
#[case::a_sender(layout::SENDER, layout::LEDGER, "sender's position")]
#[case::a_receiver(layout::RECEIVER, layout::RELEASED, "receiver's position")]
fn a_position_beyond_all_bounds_is_corrupt(#[case] page: u64, #[case] at: u64, #[case] what: &str) {
    let arena = Arena::new();
    for position in [1 << 63, u64::MAX - 7, 3] {
        put(&arena, &segment());
        write_at(&arena.file("x"), page + at, &position.to_ne_bytes());
        let channel = arena.shm().open(&name("x")).unwrap();
        let error = match page {
            layout::SENDER => channel.sender().map(drop).unwrap_err(),
            _ => channel.receiver().map(drop).unwrap_err(),
        };
        assert!(matches!(error, ChannelError::Corrupt(_)), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn a_directory_in_place_of_a_channel_is_told_from_one() {
    let arena = Arena::new();
    fs::create_dir(arena.file("x")).unwrap();
    assert_corrupt(&arena, "");
    // Not even removing takes a directory away.
    let error = arena.shm().remove(&name("x")).unwrap_err();
    assert!(matches!(error, ChannelError::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains("by hand"), "{error}");
}

#[rstest]
#[case::to_nothing("nothing")]
#[case::to_a_channel("channel")]
#[case::to_a_directory(".")]
#[case::to_itself("x")]
#[case::to_a_device("/dev/zero")]
fn a_symbolic_link_is_not_followed(#[case] target: &str) {
    let arena = Arena::new();
    drop(arena.shm().create(&name("channel"), &small()).unwrap());
    symlink(target, arena.file("x")).unwrap();
    assert_corrupt(&arena, "symbolic link");
    assert_removable(&arena);
    drop(arena.shm().open(&name("channel")).expect("the target isn't touched"));
}

#[test]
fn a_fifo_keeps_nobody_waiting() {
    let arena = Arena::new();
    nix::unistd::mkfifo(&arena.file("x"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_corrupt(&arena, "not a regular file");
    assert_removable(&arena);
}

#[test]
fn a_socket_is_told_from_a_channel() {
    let arena = Arena::new();
    let _listener = UnixListener::bind(arena.file("x")).unwrap();
    assert_corrupt(&arena, "socket");
    assert_removable(&arena);
}

/// A user that nobody is.
fn nobody() -> u32 {
    100_000 + std::process::id()
}

fn skip_unless_root() -> bool {
    if !is_root() {
        common::skip("only root can act as two users");
    }
    !is_root()
}

fn become_nobody(uid: u32) {
    setgid(Gid::from_raw(uid)).unwrap();
    setuid(Uid::from_raw(uid)).unwrap();
}

/// A directory that a user who is nobody may write to.
fn nobodys_arena() -> Arena {
    let arena = Arena::new();
    chown(arena.path(), Some(Uid::from_raw(nobody())), None).unwrap();
    arena
}

#[test]
fn another_users_file_is_not_opened_even_if_it_is_a_channel() {
    if skip_unless_root() {
        return;
    }
    let arena = Arena::new();
    put(&arena, &segment());
    chown(&arena.file("x"), Some(Uid::from_raw(nobody())), None).unwrap();
    for (attempt, error) in attempts(&arena.shm()) {
        assert!(matches!(error, ChannelError::NotPermitted(_)), "{attempt}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(&nobody().to_string()) && text.contains("user 0"), "{attempt}: {text}");
    }
    let error = arena.shm().create(&name("x"), &small()).unwrap_err();
    assert!(matches!(error, ChannelError::NotPermitted(_)), "{error:?}");
}

#[test]
fn a_file_that_may_not_be_read_is_not_permitted() {
    if skip_unless_root() {
        return;
    }
    let arena = nobodys_arena();
    let uid = nobody().to_string();
    Child::spawn("meet an unreadable file", &[arena.path().to_str().unwrap(), &uid]).ends_well();
}

fn meet_an_unreadable_file(directory: &Path) {
    become_nobody(fs::metadata(directory).unwrap().uid());
    let shm = Spsc::at(directory);
    drop(shm.create(&name("x"), &small()).unwrap());
    for mode in [0o000, 0o200, 0o400] {
        fs::set_permissions(directory.join("x"), fs::Permissions::from_mode(mode)).unwrap();
        let error = shm.open(&name("x")).unwrap_err();
        assert!(matches!(error, ChannelError::NotPermitted(_)), "{mode:o}: {error:?}");
        assert!(error.to_string().contains(directory.to_str().unwrap()), "{error}");
        let error = shm.create(&name("x"), &small()).unwrap_err();
        assert!(matches!(error, ChannelError::NotPermitted(_)), "{mode:o}: {error:?}");
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o600)).unwrap();
    for answer in [shm.open(&name("y")), shm.create(&name("y"), &small())] {
        let error = answer.map(drop).unwrap_err();
        assert!(matches!(error, ChannelError::NotPermitted(_)), "a directory without x: {error:?}");
    }
}

#[test]
fn a_directory_that_may_not_be_written_to_is_not_permitted() {
    if skip_unless_root() {
        return;
    }
    let arena = Arena::new();
    fs::set_permissions(arena.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Child::spawn("use a directory of root's", &[arena.path().to_str().unwrap()]).ends_well();
    assert_eq!(arena.entries(), [""; 0]);
}

fn use_a_directory_of_roots(directory: &Path) {
    become_nobody(nobody());
    let shm = Spsc::at(directory);
    for answer in [shm.create(&name("x"), &small()), shm.open_or_create(&name("x"), &small())] {
        let error = answer.map(drop).unwrap_err();
        assert!(matches!(error, ChannelError::NotPermitted(_)), "{error:?}");
        assert!(error.to_string().contains(directory.to_str().unwrap()), "{error}");
    }
    assert!(matches!(shm.open(&name("x")), Err(ChannelError::NotFound)));
}

enum Refused {
    InvalidConfig,
    NotPermitted,
}

#[rstest]
#[case::missing("missing", Refused::InvalidConfig, "mkdir")]
#[case::a_file("file", Refused::NotPermitted, "IPC_DIR")]
#[case::a_link_to_a_directory("link", Refused::NotPermitted, "IPC_DIR")]
#[case::a_link_to_nothing("dangling", Refused::NotPermitted, "IPC_DIR")]
fn a_directory_that_is_none_is_refused_with_advice(
    #[case] which: &str,
    #[case] how: Refused,
    #[case] advice: &str,
) {
    let arena = Arena::new();
    fs::write(arena.file("file"), "").unwrap();
    fs::create_dir(arena.file("directory")).unwrap();
    symlink("directory", arena.file("link")).unwrap();
    symlink("nothing", arena.file("dangling")).unwrap();
    let shm = Spsc::at(arena.file(which));
    let mut failures = attempts(&shm);
    failures.push(("create", shm.create(&name("x"), &small()).map(drop).unwrap_err()));
    failures.push(("remove", shm.remove(&name("x")).unwrap_err()));
    failures.push(("list", shm.list().map(drop).unwrap_err()));
    for (attempt, error) in failures {
        match how {
            Refused::InvalidConfig => assert!(matches!(error, ChannelError::InvalidConfig(_)), "{error:?}"),
            Refused::NotPermitted => assert!(matches!(error, ChannelError::NotPermitted(_)), "{error:?}"),
        }
        assert!(error.to_string().contains(advice), "{attempt}: {error}");
    }
}

#[test]
fn the_variable_names_the_directory_and_it_must_exist() {
    let arena = Arena::new();
    let run = |directory: &Path| {
        let directory = directory.to_str().unwrap();
        Child::spawn_with("use the directory of IPC_DIR", &[directory], |command| {
            command.env("IPC_DIR", directory);
        })
        .ends_well();
    };
    run(arena.path());
    assert_eq!(arena.entries(), ["x"]);
    run(&arena.file("missing"));
}

fn use_the_directory_of_ipc_dir(directory: &Path) {
    let answer = Spsc::new().create(&name("x"), &small());
    if directory.is_dir() {
        drop(answer.unwrap());
        assert_eq!(Spsc::new().stat(&name("x")).unwrap().path, Some(directory.join("x")));
    } else {
        let error = answer.map(drop).unwrap_err();
        assert!(matches!(error, ChannelError::InvalidConfig(_)), "{error:?}");
        assert!(error.to_string().contains("mkdir"), "{error}");
    }
}

#[test]
fn the_private_directory_is_made_at_need_and_must_be_private() {
    if skip_unless_root() {
        return;
    }
    Child::spawn_with("have a private directory", &[""], |command| {
        command.env_remove("IPC_DIR");
    })
    .ends_well();
}

fn have_a_private_directory() {
    /// Removed by whoever made it, also after a failure.
    struct Guard(PathBuf);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
    let uid = nobody();
    let directory = PathBuf::from(format!("/dev/shm/ipc-{uid}"));
    let _guard = Guard(directory.clone());
    // Root stays behind to change the directory; the effective user counts.
    nix::unistd::seteuid(Uid::from_raw(uid)).unwrap();
    let shm = Spsc::new();
    assert!(matches!(shm.open(&name("x")), Err(ChannelError::NotFound)));
    assert!(matches!(shm.stat(&name("x")), Err(ChannelError::NotFound)));
    assert!(matches!(shm.remove(&name("x")), Err(ChannelError::NotFound)));
    assert!(shm.list().unwrap().is_empty());
    assert!(!directory.exists(), "looking makes nothing");
    drop(shm.create(&name("x"), &small()).unwrap());
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700);
    drop(shm.open(&name("x")).unwrap());

    let refused = |advice: &str| {
        for (attempt, error) in attempts(&shm) {
            assert!(matches!(error, ChannelError::NotPermitted(_)), "{attempt}: {error:?}");
            assert!(error.to_string().contains(advice), "{attempt}: {error}");
        }
    };
    for mode in [0o777, 0o722, 0o770, 0o1777] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        refused("chmod 700");
    }
    for mask in [0o177, 0o277, 0o477, 0o777] {
        fs::remove_dir_all(&directory).unwrap();
        umask(Mode::from_bits_truncate(mask));
        let made = shm.create(&name("x"), &small()).map(drop);
        umask(Mode::from_bits_truncate(0o022));
        made.unwrap_or_else(|error| panic!("umask {mask:o}: {error}"));
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700, "umask {mask:o}");
        drop(shm.open(&name("x")).unwrap());
    }
    // What the umask took, its maker may have been killed before it could give it back.
    for mode in [0o000, 0o400, 0o600] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        drop(shm.open(&name("x")).unwrap_or_else(|error| panic!("{mode:o}: {error}")));
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700, "{mode:o}");
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    drop(shm.open(&name("x")).expect("others may look"));

    nix::unistd::seteuid(Uid::from_raw(0)).unwrap();
    chown(&directory, Some(Uid::from_raw(0)), None).unwrap();
    nix::unistd::seteuid(Uid::from_raw(uid)).unwrap();
    refused("IPC_DIR");
    nix::unistd::seteuid(Uid::from_raw(0)).unwrap();
}

#[test]
fn a_lock_on_the_directory_that_is_not_given_back_is_reported() {
    let arena = Arena::new();
    drop(arena.shm().create(&name("y"), &small()).unwrap());
    let directory = fs::File::open(arena.path()).unwrap();
    let lock = nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let shm = arena.shm();
    let answers = within(PATIENCE, move || {
        (shm.create(&name("x"), &small()).map(drop), shm.open(&name("y")).map(drop))
    });
    let error = answers.0.unwrap_err();
    assert!(matches!(error, ChannelError::Limit(_)), "{error:?}");
    assert!(error.to_string().contains(arena.path().to_str().unwrap()), "{error}");
    answers.1.expect("opening takes no part in it");
    drop(lock);
    arena.shm().remove(&name("y")).unwrap();
    assert_eq!(arena.entries(), [""; 0]);
}

#[test]
fn a_remover_that_never_ends_keeps_nobody_waiting_for_ever() {
    use nix::{
        fcntl::{FcntlArg, fcntl},
        libc,
    };
    let arena = Arena::new();
    drop(arena.shm().create(&name("x"), &small()).unwrap());
    let file = fs::OpenOptions::new().read(true).write(true).open(arena.file("x")).unwrap();
    // As a remover does that was stopped before it could unlink.
    let mut lock = libc::flock { l_type: 0, l_whence: 0, l_start: 0, l_len: 1, l_pid: 0 };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let shm = arena.shm();
    let answer = within(PATIENCE, move || shm.open(&name("x")).map(drop));
    assert!(matches!(answer, Err(ChannelError::Busy { .. })), "{answer:?}");
    drop(file);
    drop(arena.shm().open(&name("x")).unwrap());
}

#[test]
fn a_channel_spoiled_while_it_is_open_is_no_worse() {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &small()).unwrap();
    let mut tx = channel.sender().unwrap();
    let mut rx = channel.receiver().unwrap();
    // The header was read, and isn't read again.
    write_at(&arena.file("x"), 0, &[0xff; 128]);
    tx.send(b"on we go").unwrap();
    assert_eq!(&*rx.recv_timeout(Duration::from_secs(1)).unwrap(), b"on we go");
    assert!(matches!(arena.shm().open(&name("x")), Err(ChannelError::Corrupt(_))));
    drop(tx);
    assert!(matches!(channel.sender(), Err(ChannelError::Corrupt(_))));
}
