//! The directory that names and sockets are kept in: missing, read-only, full, or open to others.
#![cfg(target_os = "linux")]

mod common;

use common::{NOBODY, OrdinaryUser, alone, alone_in_namespaces, fresh_name, in_child, skip};
use ipc_mq::{
    Channel, ChannelError, ChannelName, Receiver, Sender, Sysv, SysvConfig, Transport, Unix, UnixConfig,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, umask},
    unistd::{Uid, chown, geteuid, setresuid},
};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

/// A directory in `IPC_DIR` that goes with its test, for a process of its own.
struct Chosen(PathBuf);

impl Chosen {
    fn new() -> Self {
        let path = std::env::temp_dir().join(fresh_name().as_str());
        fs::create_dir(&path).unwrap();
        // SAFETY: this process has one test and nobody else who reads its environment.
        unsafe { std::env::set_var("IPC_DIR", &path) };
        Self(path)
    }

    /// One that belongs to an ordinary user.
    fn of_ordinary_user() -> Self {
        let chosen = Self::new();
        if geteuid().is_root() {
            chosen.give_to(NOBODY);
        }
        chosen
    }

    /// Of the directory that is made in it.
    fn mode_within(&self) -> u32 {
        fs::metadata(self.0.join(".mq")).unwrap().permissions().mode()
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn give_to(&self, uid: u32) {
        chown(&self.0, Some(Uid::from_raw(uid)), None).unwrap();
    }

    /// Mounts a file system on it, in a namespace of one's own, or changes that.
    fn mount(&self, flags: MsFlags, options: &str) {
        mount(Some("none"), &self.0, Some("tmpfs"), flags, Some(options)).unwrap();
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        // What nobody has mounted can't be unmounted.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn name() -> ChannelName {
    ChannelName::new("x").unwrap()
}

/// What puts something into the directory, and then what takes something away.
fn changes() -> Vec<Result<(), ChannelError>> {
    let (sysv, unix, other) = (Sysv::new(), Unix::new(), ChannelName::new("y").unwrap());
    vec![
        sysv.create(&other, &SysvConfig::new()).map(drop),
        sysv.open_or_create(&other, &SysvConfig::new()).map(drop),
        unix.create(&other, &UnixConfig::new()).map(drop),
        unix.open_or_create(&other, &UnixConfig::new()).map(drop),
        unix.open(&name()).and_then(|channel| channel.receiver()).map(drop),
        unix.remove(&name()),
        sysv.remove(&name()),
    ]
}

/// Both channels are there.
fn look() {
    let (sysv, unix) = (Sysv::new(), Unix::new());
    assert_eq!((sysv.list().unwrap(), unix.list().unwrap()), (vec![name()], vec![name()]));
    let channel = sysv.open(&name()).unwrap();
    channel.sender().unwrap().send(b"through").unwrap();
    assert_eq!(&*channel.receiver().unwrap().recv().unwrap(), b"through");
    unix.open(&name()).unwrap();
    unix.stat(&name()).unwrap();
}

fn make_channels() {
    Sysv::new().create(&name(), &SysvConfig::new()).unwrap();
    Unix::new().create(&name(), &UnixConfig::new()).unwrap();
}

#[test]
fn a_missing_directory_is_named() {
    alone("a_missing_directory_is_named", || {
        let chosen = Chosen::new();
        let missing = chosen.0.join("missing");
        // SAFETY: this process has one test and nobody else who reads its environment.
        unsafe { std::env::set_var("IPC_DIR", &missing) };
        let path = missing.display();
        let expected = format!(
            "the directory {path} doesn't exist: make it with `mkdir -m 700 {path}`, or unset IPC_DIR"
        );
        let answers = [
            Sysv::new().create(&name(), &SysvConfig::new()).map(drop),
            Unix::new().create(&name(), &UnixConfig::new()).map(drop),
        ];
        for answer in answers {
            let Err(ChannelError::InvalidConfig(text)) = answer else { panic!("{answer:?}") };
            assert_eq!(text, expected);
        }
        // It may go while it is in use.
        // SAFETY: as above.
        unsafe { std::env::set_var("IPC_DIR", &chosen.0) };
        let channel = Unix::new().create(&name(), &UnixConfig::new()).unwrap();
        let kept = chosen.0.join(".mq");
        fs::remove_dir_all(&kept).unwrap();
        assert!(matches!(channel.receiver(), Err(ChannelError::NotFound)));
    });
}

#[test]
fn a_read_only_directory_is_named_by_whatever_changes_it_and_is_looked_at() {
    let test = "a_read_only_directory_is_named_by_whatever_changes_it_and_is_looked_at";
    alone_in_namespaces(test, || {
        let chosen = Chosen::new();
        chosen.mount(MsFlags::empty(), "mode=700");
        make_channels();
        chosen.mount(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "");
        let expected = format!("{}: Read-only file system", chosen.0.join(".mq").display());
        for (index, answer) in changes().into_iter().enumerate() {
            let Err(ChannelError::NotPermitted(text)) = answer else { panic!("{index}: {answer:?}") };
            assert_eq!(text, expected, "{index}");
        }
        look();
        chosen.mount(MsFlags::MS_REMOUNT, "");
        Sysv::new().remove(&name()).unwrap();
    });
}

#[test]
fn a_read_only_directory_in_which_there_is_nothing_is_named() {
    alone_in_namespaces("a_read_only_directory_in_which_there_is_nothing_is_named", || {
        let chosen = Chosen::new();
        chosen.mount(MsFlags::MS_RDONLY, "mode=700");
        let answer = Sysv::new().create(&name(), &SysvConfig::new());
        let Err(ChannelError::NotPermitted(text)) = answer else { panic!("{answer:?}") };
        assert_eq!(text, format!("{}: Read-only file system", chosen.0.display()));
    });
}

/// Full of files: there is no place for one more.
#[test]
fn a_full_file_system_is_named_by_whatever_takes_room() {
    alone_in_namespaces("a_full_file_system_is_named_by_whatever_takes_room", || {
        let chosen = Chosen::new();
        chosen.mount(MsFlags::empty(), "mode=700,nr_inodes=40");
        make_channels();
        let fillers = (0..).map(|number| chosen.0.join(format!("filler-{number}")));
        assert!(fillers.take_while(|path| fs::File::create(path).is_ok()).count() > 10);
        let is_of_the_directory = |text: &str| {
            text.starts_with(&format!("the file system of {}/.mq/", chosen.0.display()))
                && text.ends_with("is full: make room, or enlarge it (`ipc doctor` says which and how)")
        };
        look();
        let mut changes = changes();
        for answer in changes.drain(..5) {
            let Err(ChannelError::Limit(text)) = answer else { panic!("{answer:?}") };
            assert!(is_of_the_directory(&text), "{text}");
        }
        // What takes away needs no room, and nothing was half made.
        changes.into_iter().for_each(|change| change.unwrap());
        assert_eq!(fs::read_dir(chosen.0.join(".mq")).unwrap().count(), 0);
    });
}

#[test]
fn a_directory_in_which_others_can_take_names_away_is_refused() {
    if !geteuid().is_root() {
        return skip("it takes root to be two users");
    }
    alone("a_directory_in_which_others_can_take_names_away_is_refused", || {
        umask(Mode::empty());
        let chosen = Chosen::new();
        let somebody = 100_000 + std::process::id();
        let make = || -> Vec<Result<(), ChannelError>> {
            vec![
                Sysv::new().open_or_create(&name(), &SysvConfig::new()).map(drop),
                Unix::new().open_or_create(&name(), &UnixConfig::new()).map(drop),
            ]
        };
        let trusting = || Unix::new().trusting([somebody]).open_or_create(&name(), &UnixConfig::new());
        let expected = |mode: u32| {
            let path = chosen.0.display();
            format!(
                "{path} belongs to user {somebody}, we are user 0, and others can rename and remove what is in it \
                 (mode {mode:03o}): trust that user, have it do `chmod +t {path}`, \
                 or set IPC_DIR to a directory of yours"
            )
        };
        // Before anything is in it, and then.
        for is_made in [false, true] {
            chosen.give_to(somebody);
            for mode in [0o777, 0o770, 0o707] {
                chosen.set_mode(mode);
                let mut refused = make();
                if is_made {
                    refused.push(Unix::new().open(&name()).map(drop));
                    refused.push(Sysv::new().list().map(drop));
                    refused.push(Unix::new().remove(&name()));
                }
                for answer in refused {
                    let Err(ChannelError::NotPermitted(text)) = answer else {
                        panic!("{mode:o}: {answer:?}")
                    };
                    assert_eq!(text, expected(mode));
                }
                assert_eq!(chosen.0.join(".mq").exists(), is_made, "nothing is made there");
            }
            if is_made {
                trusting().unwrap();
                for mode in [0o1777, 0o755] {
                    chosen.set_mode(mode);
                    make().into_iter().for_each(|answer| answer.unwrap());
                }
            }
            // It is the owner's affair, if that is us, and everybody's where it is root.
            chosen.set_mode(0o777);
            chosen.give_to(0);
            make().into_iter().for_each(|answer| answer.unwrap());
        }
        Sysv::new().remove(&name()).unwrap();
        fs::remove_dir_all(chosen.0.join(".mq")).unwrap();
        let ordinary = OrdinaryUser::new();
        make().into_iter().for_each(|answer| answer.unwrap());
        Sysv::new().remove(&name()).unwrap();
        drop(ordinary);
    });
}

/// An umask may take from the owner too.
#[test]
fn the_directory_is_its_owners_whatever_the_umask_of_who_made_it() {
    alone("the_directory_is_its_owners_whatever_the_umask_of_who_made_it", || {
        let chosen = Chosen::of_ordinary_user();
        let _ordinary = OrdinaryUser::new();
        for mask in [0o177, 0o277, 0o477, 0o777] {
            umask(Mode::from_bits_truncate(mask));
            let made = [
                Sysv::new().create(&name(), &SysvConfig::new()).map(drop),
                Unix::new().create(&name(), &UnixConfig::new()).map(drop),
            ];
            umask(Mode::from_bits_truncate(0o022));
            for answer in made {
                answer.unwrap_or_else(|error| panic!("umask {mask:o}: {error}"));
            }
            assert_eq!(chosen.mode_within() & 0o777, 0o700, "umask {mask:o}");
            look();
            Sysv::new().remove(&name()).unwrap();
            fs::remove_dir_all(chosen.0.join(".mq")).unwrap();
        }
    });
}

/// Its maker was killed before it could give back what its umask took.
#[test]
fn a_directory_that_not_even_its_owner_can_enter_is_mended_by_whoever_finds_it() {
    alone("a_directory_that_not_even_its_owner_can_enter_is_mended_by_whoever_finds_it", || {
        let chosen = Chosen::of_ordinary_user();
        let _ordinary = OrdinaryUser::new();
        let kept = chosen.0.join(".mq");
        let set_mode = |mode| fs::set_permissions(&kept, fs::Permissions::from_mode(mode)).unwrap();
        let finders: [fn(); 4] = [
            || drop(Sysv::new().create(&name(), &SysvConfig::new()).unwrap()),
            || drop(Unix::new().create(&name(), &UnixConfig::new()).unwrap()),
            || assert!(matches!(Unix::new().open(&name()), Err(ChannelError::NotFound))),
            || assert!(matches!(Unix::new().remove(&name()), Err(ChannelError::NotFound))),
        ];
        for mode in [0o000, 0o400, 0o600] {
            for find in finders {
                fs::create_dir(&kept).unwrap();
                set_mode(mode);
                find();
                assert_eq!(chosen.mode_within() & 0o777, 0o700, "{mode:o}");
                let _ = Sysv::new().remove(&name());
                fs::remove_dir_all(&kept).unwrap();
            }
        }
        // Who may enter it, but not write to it, may have chosen so.
        fs::create_dir(&kept).unwrap();
        set_mode(0o500);
        assert_eq!(Unix::new().list().unwrap(), []);
        assert!(matches!(
            Unix::new().create(&name(), &UnixConfig::new()),
            Err(ChannelError::NotPermitted(_))
        ));
        assert_eq!(chosen.mode_within() & 0o777, 0o500);
    });
}

/// In a user namespace that has a number for nobody, they all have the same.
#[test]
fn a_strangers_directory_is_refused_where_all_users_look_alike() {
    if !geteuid().is_root() {
        return skip("it takes root to be two users");
    }
    alone("a_strangers_directory_is_refused_where_all_users_look_alike", || {
        let chosen = Chosen::new();
        make_channels();
        let somebody = Uid::from_raw(100_000 + std::process::id());
        let kept = chosen.0.join(".mq");
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o755)).unwrap();
        in_child(|| {
            setresuid(somebody, somebody, somebody).unwrap();
            if unshare(CloneFlags::CLONE_NEWUSER).is_err() {
                return skip("it takes a user namespace of one's own");
            }
            let answers = [
                Unix::new().open(&name()).map(drop),
                Sysv::new().open(&name()).map(drop),
                Sysv::new().list().map(drop),
            ];
            for answer in answers {
                let Err(ChannelError::NotPermitted(text)) = answer else { panic!("{answer:?}") };
                assert!(text.contains("no number in this user namespace"), "{text}");
            }
        });
        Sysv::new().remove(&name()).unwrap();
    });
}

/// Who has found it before is told of what it is now.
#[test]
fn a_directory_that_is_another_one_by_now_is_seen_to_be() {
    alone("a_directory_that_is_another_one_by_now_is_seen_to_be", || {
        let chosen = Chosen::new();
        make_channels();
        let (sysv, unix) = (Sysv::new(), Unix::new());
        let are_there = || {
            let answers = [sysv.open(&name()).map(drop), unix.open(&name()).map(drop)];
            answers.map(|answer| match answer {
                Ok(()) => Some(true),
                Err(ChannelError::NotFound) => Some(false),
                Err(ChannelError::NotPermitted(_)) => None,
                Err(other) => panic!("{other}"),
            })
        };
        let (kept, aside) = (chosen.0.join(".mq"), chosen.0.join("aside"));
        let (there, gone, refused) = ([Some(true); 2], [Some(false); 2], [None; 2]);
        assert_eq!(are_there(), there);
        fs::rename(&kept, &aside).unwrap();
        assert_eq!(are_there(), gone);
        std::os::unix::fs::symlink(&aside, &kept).unwrap();
        assert_eq!(are_there(), refused);
        fs::remove_file(&kept).unwrap();
        Unix::new().create(&ChannelName::new("y").unwrap(), &UnixConfig::new()).unwrap();
        assert_eq!(are_there(), gone);
        assert_eq!(unix.list().unwrap().len(), 1);
        fs::remove_dir_all(&kept).unwrap();
        fs::rename(&aside, &kept).unwrap();
        assert_eq!(are_there(), there);
        let set_mode = |mode| fs::set_permissions(&kept, fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o720, 0o702] {
            set_mode(mode);
            assert_eq!(are_there(), refused, "{mode:o}");
        }
        set_mode(0o700);
        assert_eq!(are_there(), there);
        if geteuid().is_root() {
            chown(&kept, Some(Uid::from_raw(100_000)), None).unwrap();
            assert_eq!(are_there(), refused);
            chown(&kept, Some(Uid::from_raw(0)), None).unwrap();
            let ordinary = OrdinaryUser::new();
            assert_eq!(are_there(), refused);
            drop(ordinary);
        }
        sysv.remove(&name()).unwrap();
    });
}
