//! Scenes at the channels' names: making, opening, sweeping, removing, collecting, looking.
//!
//! A channel is there whole or not at all, and a name that nobody needs goes away.

use crate::{
    common::{end_after, fork, name},
    kinds::{Queue, receiver, sender},
    queues::{come, finish, go},
    scenario::Scenario,
    stage::Stage,
};
use ipc_shm::{ChannelError, Collected, Kind, Receiver, Role, Sender, Shm, ShmChannel, ShmConfig, Transport};
use nix::errno::Errno;
use std::mem;

pub(crate) fn scenarios<K: Queue>() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new(K::KIND.as_str(), name, scene);
    let mut all = vec![
        scene("creator", |stage| create::<K>(stage, false, false)),
        scene("creator, or opener", |stage| create::<K>(stage, true, false)),
        scene("creator, in the way of another", create_in_vain::<K>),
        scene("creator, of huge pages", create_huge::<K>).varying(),
        scene("creator, on a disk", |stage| {
            stage.move_to_disk();
            create::<K>(stage, false, false);
        }),
        scene("sender, comes, on a disk", |stage| {
            stage.move_to_disk();
            come::<K>(stage, Role::Sender);
        }),
        scene("sender, goes last, on a disk", |stage| {
            stage.move_to_disk();
            go::<K>(stage, Role::Sender);
        }),
        scene("recoverer", recover::<K>),
        scene("saver", save::<K>),
        scene("opener", open::<K>),
        scene("opener, who maps all pages", open_and_prefault::<K>),
        scene("opener, of what is no longer needed", sweep::<K>),
        scene("opener, of a transient channel with another's settings", turn_away::<K>),
        scene("second sender", second_sender::<K>).varying(),
        scene("remover", remove::<K>),
        // How often it tries is a matter of time.
        scene("remover, of what is in use", remove_in_vain::<K>).varying(),
        scene("collector, of what is no longer needed", |stage| collect::<K>(stage, false)),
        scene("collector, of what holds messages", |stage| collect::<K>(stage, true)),
        scene("onlooker", look::<K>),
    ];
    if Stage::can_lack() {
        all.extend([
            scene("creator, without unnamed files", |stage| create::<K>(stage, false, true)),
            scene("creator, after one that died without unnamed files", create_and_sweep::<K>),
            scene("creator, of what doesn't fit", create_too_much::<K>),
            // Others make channels there, too.
            scene("creator, in a directory of its own", create_at_home::<K>).varying(),
            scene("creator, kept out of its own directory", create_kept_out::<K>).varying(),
        ]);
    }
    // What happens to names hardly depends on the kind.
    all.into_iter().map(|scenario| scenario.variation(K::KIND == Kind::default())).collect()
}

const NO_UNNAMED_FILES: (&str, Errno) = ("open(O_TMPFILE)", Errno::EOPNOTSUPP);

fn make<K: Queue>(stage: &Stage) -> ShmChannel {
    stage.shm().create(&name("x"), &K::config()).expect("it can be made")
}

/// A transient channel whose users are dead.
fn make_and_die<K: Queue>(stage: &Stage, full: bool) {
    let Some(user) = fork() else {
        end_after(|| {
            let channel = stage.shm().create(&name("x"), &K::config().transient()).unwrap();
            if full {
                sender(&channel).unwrap().try_send(b"there").unwrap();
            }
            mem::forget(channel);
        })
    };
    user.ends_well();
    assert_eq!(stage.arena().entries(), ["x"]);
}

fn create<K: Queue>(stage: &Stage, or_open: bool, named: bool) {
    if named {
        stage.lack(NO_UNNAMED_FILES.0, NO_UNNAMED_FILES.1);
    }
    let shm = stage.shm();
    stage.victim(
        || None,
        |channel| {
            *channel = Some(match or_open {
                true => shm.open_or_create(&name("x"), &K::config())?,
                false => shm.create(&name("x"), &K::config())?,
            });
            Ok(())
        },
    );
    match shm.open(&name("x")) {
        Ok(channel) => drop(channel),
        Err(ChannelError::NotFound) => drop(make::<K>(stage)),
        Err(error) => panic!("half-made: {error:?}"),
    }
    finish(stage);
    sweep_temporary_names::<K>(stage);
}

/// Where there are no unnamed files, a killed creator leaves a temporary name, until the
/// next one that needs one.
fn sweep_temporary_names<K: Queue>(stage: &Stage) {
    let left = stage.arena().entries();
    assert!(left.iter().all(|entry| entry.starts_with(".making-")), "{left:?}");
    if left.is_empty() {
        return;
    }
    stage.lack(NO_UNNAMED_FILES.0, NO_UNNAMED_FILES.1);
    assert!(!stage.dies_at(
        usize::MAX,
        || (),
        |()| Ok(stage.shm().create(&name("x"), &K::config()).map(drop)?)
    ));
    stage.shm().remove(&name("x")).unwrap();
}

fn create_and_sweep<K: Queue>(stage: &Stage) {
    stage.lack(NO_UNNAMED_FILES.0, NO_UNNAMED_FILES.1);
    let shm = stage.shm();
    let make = |channel: &mut Option<ShmChannel>| {
        *channel = Some(shm.create(&name("x"), &K::config())?);
        Ok(())
    };
    // The first point at which there is something to sweep away.
    let mut point = 0;
    while stage.arena().entries().is_empty() {
        assert!(stage.dies_at(point, || None, make), "it leaves something somewhere");
        point += 1;
    }
    assert!(stage.arena().entries()[0].starts_with(".making-"));
    stage.victim(|| None, make);
    if !stage.arena().entries().contains(&"x".to_owned()) {
        assert!(!stage.dies_at(usize::MAX, || None, make));
    }
    finish(stage);
    sweep_temporary_names::<K>(stage);
}

fn create_too_much<K: Queue>(stage: &Stage) {
    stage.lack("posix_fallocate", Errno::ENOSPC);
    let shm = stage.shm();
    stage.victim(
        || (),
        |()| match shm.create(&name("x"), &K::config()) {
            Err(ChannelError::Limit(_)) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    );
    drop(make::<K>(stage));
    finish(stage);
}

/// The directory is there before and after; to the victim it seems missing, once. It is the
/// user's own, so if we are killed ourselves, what is left is to be collectable.
fn create_at_home<K: Queue>(stage: &Stage) {
    let shm = Shm::new();
    let own = name(&format!("survival-{}", std::process::id()));
    stage.lack_once("open", Errno::ENOENT);
    stage.victim(
        || None,
        |channel| {
            *channel = Some(shm.create(&own, &K::config().transient())?);
            Ok(())
        },
    );
    match shm.remove(&own) {
        Ok(()) | Err(ChannelError::NotFound) => {}
        Err(error) => panic!("{error:?}"),
    }
}

/// The directory is as it should be; to the victim it seems once as if a umask had shut it.
fn create_kept_out<K: Queue>(stage: &Stage) {
    let shm = Shm::new();
    let own = name(&format!("survival-{}", std::process::id()));
    // It is there for sure.
    drop(shm.create(&own, &K::config().transient()).expect("it can be made"));
    stage.lack_once("open", Errno::EACCES);
    stage.victim(
        || (),
        |()| match shm.create(&own, &K::config().transient()) {
            Err(ChannelError::NotPermitted(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => panic!("it couldn't be entered"),
        },
    );
    assert!(matches!(shm.remove(&own), Err(ChannelError::NotFound)));
}

fn create_in_vain<K: Queue>(stage: &Stage) {
    drop(make::<K>(stage));
    let shm = stage.shm();
    stage.victim(
        || (),
        |()| match shm.create(&name("x"), &K::config()) {
            Err(ChannelError::AlreadyExists) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => panic!("there is one already"),
        },
    );
    finish(stage);
}

fn open<K: Queue>(stage: &Stage) {
    drop(make::<K>(stage));
    let shm = stage.shm();
    stage.victim(
        || None,
        |channel| {
            *channel = Some(shm.open(&name("x"))?);
            Ok(())
        },
    );
    finish(stage);
}

/// Whether or not the system has huge pages to give.
fn create_huge<K: Queue>(stage: &Stage) {
    let config = ShmConfig::new().kind(K::KIND).capacity_bytes(2 << 20).huge_pages(true);
    let shm = stage.shm();
    stage.victim(
        || None,
        |channel| match shm.create(&name("x"), &config) {
            Ok(made) => {
                *channel = Some(made);
                Ok(())
            }
            Err(ChannelError::Limit(_) | ChannelError::Unsupported(_)) => Ok(()),
            Err(error) => Err(error.into()),
        },
    );
    match shm.remove(&name("x")) {
        Ok(()) | Err(ChannelError::NotFound) => {}
        Err(error) => panic!("{error:?}"),
    }
}

fn open_and_prefault<K: Queue>(stage: &Stage) {
    let shm = stage.shm();
    drop(shm.create(&name("x"), &K::config().prefault(true)).unwrap());
    stage.victim(
        || None,
        |endpoint| {
            *endpoint = Some(sender(&shm.open(&name("x"))?)?);
            Ok(())
        },
    );
    finish(stage);
}

fn recover<K: Queue>(stage: &Stage) {
    stage.move_to_disk();
    drop(make::<K>(stage));
    let shm = stage.shm();
    stage.victim(|| (), |()| Ok(shm.recover(&name("x"))?));
    finish(stage);
}

fn save<K: Queue>(stage: &Stage) {
    stage.move_to_disk();
    let channel = make::<K>(stage);
    let mut tx = sender(&channel).unwrap();
    tx.try_send(b"there").unwrap();
    stage.victim(
        || stage.shm().open(&name("x")).unwrap(),
        |channel| match channel.sync() {
            // What couldn't be written once isn't said to be on the disk by another try.
            Err(ChannelError::Unrecovered(_)) => Ok(()),
            answer => Ok(answer?),
        },
    );
    drop((tx, channel));
    assert_eq!(*receiver(&stage.shm().open(&name("x")).unwrap()).unwrap().try_recv().unwrap(), *b"there");
    finish(stage);
}

fn assert_swept(stage: &Stage) {
    assert!(matches!(stage.shm().open(&name("x")), Err(ChannelError::NotFound)));
    assert_eq!(stage.arena().entries(), [""; 0]);
}

fn sweep<K: Queue>(stage: &Stage) {
    make_and_die::<K>(stage, false);
    let shm = stage.shm();
    stage.victim(
        || (),
        |()| match shm.open(&name("x")) {
            Err(ChannelError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
            // What can't be read is taken for needed.
            Ok(_) => Err("it was not swept away".into()),
        },
    );
    assert_swept(stage);
}

/// Who comes with other wishes mustn't be taken for a user by the last one, who goes
/// meanwhile.
fn turn_away<K: Queue>(stage: &Stage) {
    make_and_die::<K>(stage, true);
    let shm = stage.shm();
    let other = K::config().mode(0o640).transient();
    stage.victim(
        || (),
        |()| match shm.open_or_create(&name("x"), &other) {
            Err(ChannelError::Mismatch { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => panic!("it is another one"),
        },
    );
    let channel = shm.open(&name("x")).unwrap();
    let mut rx = receiver(&channel).unwrap();
    assert_eq!(*rx.try_recv().unwrap(), *b"there");
    drop((rx, channel));
}

fn second_sender<K: Queue>(stage: &Stage) {
    let channel = make::<K>(stage);
    let first = sender(&channel).unwrap();
    let shm = stage.shm();
    stage.victim(
        || shm.open(&name("x")).unwrap(),
        |channel| match sender(channel) {
            // With company, if the kind permits it.
            Ok(_) | Err(ChannelError::Busy { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        },
    );
    drop((first, channel));
    finish(stage);
}

fn remove<K: Queue>(stage: &Stage) {
    drop(make::<K>(stage));
    let shm = stage.shm();
    stage.victim(|| (), |()| Ok(shm.remove(&name("x"))?));
    match shm.open(&name("x")) {
        Ok(channel) => drop(channel),
        Err(ChannelError::NotFound) => drop(make::<K>(stage)),
        Err(error) => panic!("half-removed: {error:?}"),
    }
    finish(stage);
}

fn remove_in_vain<K: Queue>(stage: &Stage) {
    let channel = make::<K>(stage);
    let rx = receiver(&channel).unwrap();
    let shm = stage.shm();
    stage.victim(
        || (),
        |()| match shm.remove(&name("x")) {
            Err(ChannelError::Busy { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => panic!("somebody has it open"),
        },
    );
    drop((rx, channel));
    finish(stage);
}

fn collect<K: Queue>(stage: &Stage, full: bool) {
    make_and_die::<K>(stage, full);
    let shm = stage.shm();
    stage.victim(
        || (),
        |()| {
            let expected = if full { Collected::HoldsMessages } else { Collected::Removed };
            for (_, verdict) in shm.gc()? {
                let verdict = verdict?;
                if verdict != expected {
                    return Err(verdict.to_string().into());
                }
            }
            Ok(())
        },
    );
    if full {
        let channel = shm.open(&name("x")).unwrap();
        let mut rx = receiver(&channel).unwrap();
        assert_eq!(*rx.try_recv().unwrap(), *b"there");
    } else {
        assert_swept(stage);
    }
}

fn look<K: Queue>(stage: &Stage) {
    let channel = make::<K>(stage);
    let tx = sender(&channel).unwrap();
    let shm = stage.shm();
    stage.victim(|| (), |()| Ok(shm.stat(&name("x")).map(drop)?));
    drop((tx, channel));
    finish(stage);
}
