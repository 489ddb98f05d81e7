//! Scenes at the channels' names: making, opening, sweeping, removing, collecting, looking.
//!
//! A channel is there whole or not at all, and a name that nobody needs goes away.

use crate::{
    common::{end_after, fork, name},
    kinds::Kind,
    queues::finish,
    scenario::Scenario,
    stage::Stage,
};
use ipc_shm::{ChannelError, Collected, Shm, ShmChannel, Transport, Waiting};
use nix::errno::Errno;
use std::mem;

pub(crate) fn scenarios<K: Kind>() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new(K::NAME, name, scene);
    let mut all = vec![
        scene("creator", |stage| create::<K>(stage, false, false)),
        scene("creator, or opener", |stage| create::<K>(stage, true, false)),
        scene("creator, in the way of another", create_in_vain::<K>),
        scene("opener", open::<K>),
        scene("opener, of what is no longer needed", sweep::<K>),
        scene("opener, of a transient channel with another's settings", turn_away::<K>),
        scene("second sender", second_sender::<K>),
        scene("remover", remove::<K>),
        scene("remover, of what is in use", remove_in_vain::<K>),
        scene("collector, of what is no longer needed", |stage| collect::<K>(stage, false)),
        scene("collector, of what holds messages", |stage| collect::<K>(stage, true)),
        scene("onlooker", look::<K>),
    ];
    if Stage::can_lack() {
        all.extend([
            scene("creator, without unnamed files", |stage| create::<K>(stage, false, true)),
            scene("creator, after one that died without unnamed files", create_and_sweep::<K>),
            scene("creator, of what doesn't fit", create_too_much::<K>),
            scene("creator, in a directory of its own", create_at_home::<K>),
        ]);
    }
    all
}

const NO_UNNAMED_FILES: (&str, Errno) = ("open(O_TMPFILE)", Errno::EOPNOTSUPP);

fn make<K: Kind>(stage: &Stage) -> ShmChannel {
    stage.arena.shm().create(&name("x"), &K::config()).expect("it can be made")
}

/// A transient channel whose users are dead.
fn make_and_die<K: Kind>(stage: &Stage, full: bool) {
    let Some(user) = fork() else {
        end_after(|| {
            let channel = stage.arena.shm().create(&name("x"), &K::config().transient()).unwrap();
            if full {
                use ipc_shm::Sender;
                K::sender(&channel, Waiting::Block).unwrap().try_send(b"there").unwrap();
            }
            mem::forget(channel);
        })
    };
    user.ends_well();
    assert_eq!(stage.arena.entries(), ["x"]);
}

fn create<K: Kind>(stage: &Stage, or_open: bool, named: bool) {
    if named {
        stage.lack(NO_UNNAMED_FILES.0, NO_UNNAMED_FILES.1);
    }
    let shm = stage.arena.shm();
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
    finish::<K>(stage);
    sweep_temporary_names::<K>(stage);
}

/// Where there are no unnamed files, a killed creator leaves a temporary name, until the
/// next one that needs one.
fn sweep_temporary_names<K: Kind>(stage: &Stage) {
    let left = stage.arena.entries();
    assert!(left.iter().all(|entry| entry.starts_with(".making-")), "{left:?}");
    if left.is_empty() {
        return;
    }
    stage.lack(NO_UNNAMED_FILES.0, NO_UNNAMED_FILES.1);
    assert!(!stage.dies_at(
        usize::MAX,
        || (),
        |()| Ok(stage.arena.shm().create(&name("x"), &K::config()).map(drop)?)
    ));
    stage.arena.shm().remove(&name("x")).unwrap();
}

fn create_and_sweep<K: Kind>(stage: &Stage) {
    stage.lack(NO_UNNAMED_FILES.0, NO_UNNAMED_FILES.1);
    let shm = stage.arena.shm();
    let make = |channel: &mut Option<ShmChannel>| {
        *channel = Some(shm.create(&name("x"), &K::config())?);
        Ok(())
    };
    // The first point at which there is something to sweep away.
    let mut point = 0;
    while stage.arena.entries().is_empty() {
        assert!(stage.dies_at(point, || None, make), "it leaves something somewhere");
        point += 1;
    }
    assert!(stage.arena.entries()[0].starts_with(".making-"));
    stage.victim(|| None, make);
    if !stage.arena.entries().contains(&"x".to_owned()) {
        assert!(!stage.dies_at(usize::MAX, || None, make));
    }
    finish::<K>(stage);
    sweep_temporary_names::<K>(stage);
}

fn create_too_much<K: Kind>(stage: &Stage) {
    stage.lack("posix_fallocate", Errno::ENOSPC);
    let shm = stage.arena.shm();
    stage.victim(
        || (),
        |()| match shm.create(&name("x"), &K::config()) {
            Err(ChannelError::Limit(_)) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    );
    drop(make::<K>(stage));
    finish::<K>(stage);
}

/// The directory is there before and after; to the victim it seems missing, once.
fn create_at_home<K: Kind>(stage: &Stage) {
    let shm = Shm::new();
    let own = name(&format!("survival-{}", std::process::id()));
    stage.lack_once("open", Errno::ENOENT);
    stage.victim(
        || None,
        |channel| {
            *channel = Some(shm.create(&own, &K::config())?);
            Ok(())
        },
    );
    match shm.remove(&own) {
        Ok(()) | Err(ChannelError::NotFound) => {}
        Err(error) => panic!("{error:?}"),
    }
}

fn create_in_vain<K: Kind>(stage: &Stage) {
    drop(make::<K>(stage));
    let shm = stage.arena.shm();
    stage.victim(
        || (),
        |()| match shm.create(&name("x"), &K::config()) {
            Err(ChannelError::AlreadyExists) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => panic!("there is one already"),
        },
    );
    finish::<K>(stage);
}

fn open<K: Kind>(stage: &Stage) {
    drop(make::<K>(stage));
    let shm = stage.arena.shm();
    stage.victim(
        || None,
        |channel| {
            *channel = Some(shm.open(&name("x"))?);
            Ok(())
        },
    );
    finish::<K>(stage);
}

fn assert_swept(stage: &Stage) {
    assert!(matches!(stage.arena.shm().open(&name("x")), Err(ChannelError::NotFound)));
    assert_eq!(stage.arena.entries(), [""; 0]);
}

fn sweep<K: Kind>(stage: &Stage) {
    make_and_die::<K>(stage, false);
    let shm = stage.arena.shm();
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
fn turn_away<K: Kind>(stage: &Stage) {
    make_and_die::<K>(stage, true);
    let shm = stage.arena.shm();
    let larger = K::config().capacity_bytes(1 << 20).transient();
    stage.victim(
        || (),
        |()| match shm.open_or_create(&name("x"), &larger) {
            Err(ChannelError::Mismatch { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => panic!("it is another one"),
        },
    );
    let channel = shm.open(&name("x")).unwrap();
    let mut rx = K::receiver(&channel, Waiting::Block).unwrap();
    {
        use ipc_shm::Receiver;
        assert_eq!(*rx.try_recv().unwrap(), *b"there");
    }
    drop((rx, channel));
}

fn second_sender<K: Kind>(stage: &Stage) {
    let channel = make::<K>(stage);
    let first = K::sender(&channel, Waiting::Block).unwrap();
    let shm = stage.arena.shm();
    stage.victim(
        || shm.open(&name("x")).unwrap(),
        |channel| match K::sender(channel, Waiting::Block) {
            // With company, if the kind permits it.
            Ok(_) | Err(ChannelError::Busy { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        },
    );
    drop((first, channel));
    finish::<K>(stage);
}

fn remove<K: Kind>(stage: &Stage) {
    drop(make::<K>(stage));
    let shm = stage.arena.shm();
    stage.victim(|| (), |()| Ok(shm.remove(&name("x"))?));
    match shm.open(&name("x")) {
        Ok(channel) => drop(channel),
        Err(ChannelError::NotFound) => drop(make::<K>(stage)),
        Err(error) => panic!("half-removed: {error:?}"),
    }
    finish::<K>(stage);
}

fn remove_in_vain<K: Kind>(stage: &Stage) {
    let channel = make::<K>(stage);
    let rx = K::receiver(&channel, Waiting::Block).unwrap();
    let shm = stage.arena.shm();
    stage.victim(
        || (),
        |()| match shm.remove(&name("x")) {
            Err(ChannelError::Busy { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => panic!("somebody has it open"),
        },
    );
    drop((rx, channel));
    finish::<K>(stage);
}

fn collect<K: Kind>(stage: &Stage, full: bool) {
    make_and_die::<K>(stage, full);
    let shm = stage.arena.shm();
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
        let mut rx = K::receiver(&channel, Waiting::Block).unwrap();
        use ipc_shm::Receiver;
        assert_eq!(*rx.try_recv().unwrap(), *b"there");
    } else {
        assert_swept(stage);
    }
}

fn look<K: Kind>(stage: &Stage) {
    let channel = make::<K>(stage);
    let tx = K::sender(&channel, Waiting::Block).unwrap();
    let shm = stage.arena.shm();
    stage.victim(|| (), |()| Ok(shm.stat(&name("x")).map(drop)?));
    drop((tx, channel));
    finish::<K>(stage);
}
