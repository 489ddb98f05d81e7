//! Several users at one channel: who is trusted takes part as far as group and mode let it,
//! in a directory in which nobody else can take names away.

mod common;

use common::{
    Arena, Child, end_after, fork, fork_child, is_root,
    kinds::{Ends, make, named},
    name, say, serve, told,
};
use ipc_shm::{
    Channel, ChannelError, Client, Kind, Receiver, Request, Rpc, Sender, Server, Shm, ShmConfig, Transport,
    Wait,
    sealed::{self, LinkError, Listener, Peers},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, chown, setgid, setgroups, setuid},
};
use rstest::rstest;
use std::{env, fs, os::unix::fs::PermissionsExt, path::Path};

/// A user that nobody is, and a group whose number is another.
fn other_user() -> u32 {
    100_000 + std::process::id()
}

fn common_group() -> u32 {
    other_user() + 1
}

fn skip_unless_root() -> bool {
    if !is_root() {
        common::skip("only root can act as two users");
    }
    !is_root()
}

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let directory = Path::new(&arguments[0]);
        let number = |at: usize| arguments[at].parse::<u32>().unwrap();
        let (uid, groups) = (number(1), arguments[2..].iter().filter_map(|text| text.parse().ok()));
        become_user(uid, &groups.map(Gid::from_raw).collect::<Vec<_>>());
        match role {
            "take part" => take_part(directory, named(arguments.last().unwrap())),
            "make a channel" => {
                make(directory, &shared(named(arguments.last().unwrap()), number(2))).unwrap()
            }
            "be the last one" => be_the_last_one(directory),
            "have no right to" => have_no_right_to(directory),
            "use the directory" => use_the_directory(directory),
            other => panic!("no such child: {other}"),
        }
    });
}

fn become_user(uid: u32, groups: &[Gid]) {
    setgroups(groups).unwrap();
    setgid(Gid::from_raw(uid)).unwrap();
    setuid(Uid::from_raw(uid)).unwrap();
}

/// A channel for all of a group.
fn shared(kind: Kind, group: u32) -> ShmConfig {
    ShmConfig::new().kind(kind).mode(0o660).group(group)
}

/// A directory of root's, and the group that may do this there.
fn shared_arena(mode: u32) -> Arena {
    let arena = Arena::new();
    chown(arena.path(), None, Some(Gid::from_raw(common_group()))).unwrap();
    fs::set_permissions(arena.path(), fs::Permissions::from_mode(mode)).unwrap();
    arena
}

fn spawn(role: &str, arena: &Arena, groups: &[u32], kind: Kind) -> Child {
    let numbers = groups.iter().map(ToString::to_string);
    let arguments: Vec<_> = [arena.path().to_str().unwrap().to_owned(), other_user().to_string()]
        .into_iter()
        .chain(numbers)
        .chain([kind.to_string()])
        .collect();
    Child::spawn(role, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Waits for somebody else, who may be slow.
fn soon() -> Wait<'static> {
    Wait::timeout(common::PATIENCE)
}

#[rstest]
fn another_user_of_the_group_takes_part_in_a_trusted_users_channel(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    if skip_unless_root() {
        return;
    }
    let arena = shared_arena(0o750);
    make(arena.path(), &shared(kind, common_group())).unwrap();
    let mut stranger = spawn("have no right to", &arena, &[], kind);
    stranger.says("refused");
    stranger.ends_well();
    let mut other = spawn("take part", &arena, &[common_group()], kind);
    other.says("refused unless it trusts");
    // What goes there and back between the two, each asleep until it is woken.
    if kind == Kind::Rpc {
        let mut server = Rpc::at(arena.path()).open(&name("x")).unwrap().server().unwrap();
        other.tell();
        server.next(soon()).unwrap().respond(b"from root").unwrap();
    } else {
        let channel = Shm::at(arena.path()).open(&name("x")).unwrap();
        let mut rx = channel.receiver().unwrap();
        other.tell();
        assert_eq!(&*rx.receive(soon()).unwrap(), b"from another user");
        drop(rx);
        other.tell();
        other.says("at the other end");
        channel.sender().unwrap().send(b"from root").unwrap();
    }
    other.says("received");
    other.kill();
    Ends::open(arena.path()).expect("its roles are free at once").pass(b"anew");
}

fn take_part(directory: &Path, kind: Kind) {
    let refused = Ends::open(directory).unwrap_err();
    assert!(matches!(refused, ChannelError::NotPermitted(_)), "{refused:?}");
    assert!(refused.to_string().contains("belongs to user 0"), "{refused}");
    say("refused unless it trusts");
    assert!(told());
    if kind == Kind::Rpc {
        let mut client = Rpc::at(directory).trust([0]).open(&name("x")).unwrap().client().unwrap();
        assert_eq!(&*client.call(b"from another user", soon()).unwrap(), b"from root");
    } else {
        let channel = Shm::at(directory).trust([0]).open(&name("x")).unwrap();
        let mut tx = channel.sender().unwrap();
        tx.send(b"from another user").unwrap();
        assert!(told());
        drop(tx);
        let mut rx = channel.receiver().unwrap();
        if kind == Kind::Latest {
            // To a fresh reader, what is there is new.
            drop(rx.try_recv().unwrap());
        }
        say("at the other end");
        assert_eq!(&*rx.receive(soon()).unwrap(), b"from root");
    }
    say("received");
    told();
}

fn have_no_right_to(directory: &Path) {
    let refused = Ends::open_trusting(directory, &[0]).unwrap_err();
    assert!(matches!(refused, ChannelError::NotPermitted(_)), "{refused:?}");
    say("refused");
}

#[rstest]
fn what_a_trusted_user_made_is_used_and_anybody_elses_is_not(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    if skip_unless_root() {
        return;
    }
    let arena = shared_arena(0o1770);
    spawn("make a channel", &arena, &[common_group()], kind).ends_well();
    let refused = Ends::open(arena.path()).unwrap_err();
    assert!(matches!(refused, ChannelError::NotPermitted(_)), "{refused:?}");
    let refused = Ends::open_trusting(arena.path(), &[other_user() + 1]).unwrap_err();
    assert!(matches!(refused, ChannelError::NotPermitted(_)), "{refused:?}");
    Ends::open_trusting(arena.path(), &[other_user()]).unwrap().pass(b"root trusts");
}

#[rstest]
fn a_transient_channel_that_one_may_not_take_away_is_used(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    if skip_unless_root() {
        return;
    }
    let arena = shared_arena(0o750);
    let shm = Shm::at(arena.path());
    let channel = shm.create(&name("x"), &shared(kind, common_group()).transient()).unwrap();
    let mut other = spawn("be the last one", &arena, &[common_group()], kind);
    other.says("open");
    drop(channel);
    other.tell();
    other.ends_well();
    // Its owner may.
    assert!(matches!(shm.open(&name("x")), Err(ChannelError::NotFound)));
}

fn be_the_last_one(directory: &Path) {
    let shm = Shm::at(directory).trust([0]);
    let channel = shm.open(&name("x")).unwrap();
    say("open");
    assert!(told());
    drop(channel);
    drop(shm.open(&name("x")).unwrap());
    drop(shm.open_or_create(&name("x"), &ShmConfig::new()).unwrap());
    let answer = shm.create(&name("x"), &ShmConfig::new()).map(drop);
    assert!(matches!(answer, Err(ChannelError::AlreadyExists)), "{answer:?}");
    assert!(matches!(shm.gc().unwrap()[..], [(_, Err(ChannelError::NotPermitted(_)))]));
    Ends::open_trusting(directory, &[0]).unwrap().pass(b"used as it is");
}

/// What a directory's owner and mode are, and whether root uses it, and whether it does when
/// it trusts the owner.
#[rstest]
#[case::all_write_in_another_users(false, 0o777, false, true)]
#[case::a_group_writes_in_another_users(false, 0o770, false, true)]
#[case::each_its_own_in_another_users(false, 0o1777, true, true)]
#[case::another_users_alone(false, 0o755, true, true)]
#[case::all_write_in_ours(true, 0o777, true, true)]
fn a_directory_in_which_any_name_can_be_taken_away_is_refused(
    #[case] is_ours: bool,
    #[case] mode: u32,
    #[case] is_used: bool,
    #[case] is_used_by_who_trusts: bool,
) {
    if skip_unless_root() {
        return;
    }
    let arena = shared_arena(mode);
    if !is_ours {
        chown(arena.path(), Some(Uid::from_raw(other_user())), None).unwrap();
    }
    let shm = Shm::at(arena.path());
    for (shm, is_used) in [(shm.clone(), is_used), (shm.trust([other_user()]), is_used_by_who_trusts)] {
        let answers = [
            shm.create(&name("x"), &ShmConfig::new()).map(drop),
            shm.open(&name("x")).map(drop),
            shm.open_or_create(&name("x"), &ShmConfig::new()).map(drop),
            shm.stat(&name("x")).map(drop),
            shm.list().map(drop),
            shm.gc().map(drop),
            shm.remove(&name("x")),
        ];
        for answer in answers {
            if is_used {
                answer.unwrap();
                continue;
            }
            let error = answer.unwrap_err();
            assert!(matches!(error, ChannelError::NotPermitted(_)), "{error:?}");
            let text = error.to_string();
            for part in [&format!("user {}", other_user()), &format!("{mode:03o}"), "chmod", "IPC_DIR"] {
                assert!(text.contains(part), "{text} (expected: {part})");
            }
        }
    }
}

/// As `/tmp` and `/dev/shm` are, and a directory that an administrator has opened to all.
#[rstest]
#[case::sticky(0o1777)]
#[case::open(0o777)]
fn roots_directory_is_used_by_others(#[case] mode: u32) {
    if skip_unless_root() {
        return;
    }
    spawn("use the directory", &shared_arena(mode), &[], Kind::Mpmc).ends_well();
}

fn use_the_directory(directory: &Path) {
    make(directory, &ShmConfig::new()).unwrap();
    Ends::open(directory).unwrap().pass(b"here");
}

/// In a user namespace that has a number for nobody, they all have the same.
fn where_all_look_alike() -> bool {
    become_user(other_user(), &[]);
    let is_there = unshare(CloneFlags::CLONE_NEWUSER).is_ok();
    if !is_there {
        common::skip("it takes a user namespace of one's own");
    }
    is_there
}

fn is_refused_since_all_look_alike<T>(answer: Result<T, ChannelError>) {
    let Err(ChannelError::NotPermitted(text)) = answer.map(drop) else { panic!("it isn't refused") };
    assert!(text.contains("no number in this user namespace"), "{text}");
}

#[test]
fn a_strangers_channel_is_refused_where_all_users_look_alike() {
    if skip_unless_root() {
        return;
    }
    let arena = shared_arena(0o1777);
    make(arena.path(), &ShmConfig::new().kind(Kind::Mpmc).mode(0o666)).unwrap();
    fork_child(|| {
        if !where_all_look_alike() {
            return;
        }
        let shm = Shm::at(arena.path());
        is_refused_since_all_look_alike(shm.open(&name("x")));
        is_refused_since_all_look_alike(shm.open_or_create(&name("x"), &ShmConfig::new()));
        // Who trusts all that look so says so.
        shm.trust([65_534]).open(&name("x")).unwrap();
    })
    .ends_well();
}

#[test]
fn a_strangers_directory_is_refused_where_all_users_look_alike() {
    if skip_unless_root() {
        return;
    }
    fork_child(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("none"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), Some("mode=1777")).unwrap();
        fs::create_dir("/dev/shm/ipc-65534").unwrap();
        // SAFETY: a child that was forked has no other threads.
        unsafe { env::remove_var("IPC_DIR") };
        if where_all_look_alike() {
            is_refused_since_all_look_alike(Shm::new().list());
            is_refused_since_all_look_alike(Shm::new().create(&name("x"), &ShmConfig::new()));
        }
    })
    .ends_well();
}

#[test]
fn a_stranger_at_the_other_end_is_refused_where_all_users_look_alike() {
    if skip_unless_root() {
        return;
    }
    let arena = shared_arena(0o1777);
    let path = arena.file("s");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let Some(child) = fork() else {
        end_after(|| {
            if !where_all_look_alike() {
                return;
            }
            let listener = Listener::bind(&path, Peers::ourselves()).unwrap();
            nix::unistd::write(&writer, b"+").unwrap();
            let Err(LinkError::NotPermitted(text)) = listener.accept(soon()) else { panic!("admitted") };
            assert!(text.contains("no number in this user namespace"), "{text}");
        })
    };
    drop(writer);
    if nix::unistd::read(&reader, &mut [0]).unwrap() == 1 {
        let _ = sealed::connect(&path, &Peers::new().user(other_user()), soon());
    }
    child.ends_well();
}

/// As in the containers whose programs run as nobody.
#[test]
fn user_65534_is_oneself_where_that_number_is_given() {
    if skip_unless_root() {
        return;
    }
    let arena = shared_arena(0o1777);
    fork_child(|| {
        become_user(65_534, &[]);
        make(arena.path(), &ShmConfig::new()).unwrap();
        Ends::open(arena.path()).unwrap().pass(b"one's own");
    })
    .ends_well();
    // Where it isn't known, it may be anybody's.
    fork_child(|| {
        common::take_proc_away();
        become_user(65_534, &[]);
        is_refused_since_all_look_alike(Shm::at(arena.path()).open(&name("x")));
    })
    .ends_well();
}
