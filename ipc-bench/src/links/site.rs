//! Where the channels of a measurement live, and that nothing of them stays.

use super::{
    folder::{self, Folder},
    raw_sysv,
};
use crate::spec::{LaneSpec, Shape, TransportId};
use ipc_core::{ChannelName, Transport};
use nix::mqueue::mq_unlink;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    ops::Deref,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Where the channels of a block live, and that nothing of them stays.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Site {
    /// Names of kernel queues begin with this.
    pub(crate) prefix: String,
    /// A directory of the block's own, for segments.
    pub(crate) directory: PathBuf,
}

impl Site {
    /// The name of one of a lane's channels.
    pub(crate) fn channel(&self, spec: &LaneSpec, direction: &str) -> String {
        format!("{}-{}-{direction}", self.prefix, spec.tag)
    }

    /// Takes away the names that are no longer needed once both sides are attached, so that
    /// the channels go with their processes, however those end.
    pub(crate) fn forget_names(&self, lanes: &[LaneSpec]) {
        let in_the_kernel = |spec: &&LaneSpec| matches!(spec.transport, TransportId::RawMq | TransportId::Mq);
        for spec in lanes.iter().filter(in_the_kernel) {
            for direction in DIRECTIONS {
                // Not there is as good as removed, and there is nothing to be done about other
                // answers.
                let _ = mq_unlink(format!("/{}", self.channel(spec, direction)).as_str());
            }
        }
    }

    /// Takes away everything but the directory.
    fn clear(&self, lanes: &[LaneSpec]) {
        self.forget_names(lanes);
        for spec in lanes {
            for which in DIRECTIONS.into_iter().chain(SETUP_NAMES) {
                let name = self.channel(spec, which);
                match spec.transport {
                    TransportId::RawMq | TransportId::Mq => drop(mq_unlink(format!("/{name}").as_str())),
                    // A System V queue goes when it is removed, and at no other time.
                    TransportId::RawSysv => raw_sysv::remove(&name),
                    TransportId::Sysv => remove_sysv(&name),
                    _ => {}
                }
            }
        }
        if lanes.iter().any(|spec| matches!(spec.shape, Shape::Guests { .. })) {
            self.clear_beside();
        }
    }

    /// Takes away what peers made with our prefix in its name beside the directory: what they put there
    /// outlives a process that was ended.
    fn clear_beside(&self) {
        let beside = self.directory.parent().and_then(|parent| fs::read_dir(parent).ok());
        for entry in beside.into_iter().flatten().flatten() {
            // Some put something of their own before it.
            if entry.file_name().to_string_lossy().contains(&format!("{}-", self.prefix)) {
                // There is nobody to tell, and an error here must not hide the one that led here.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A site of this process's own. All that is there goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Ground {
    site: Site,
    lanes: Vec<LaneSpec>,
    /// Last: it is told by this that nothing is there any more.
    _folder: Folder,
}

impl Ground {
    /// A new one for these lanes, unlike any other at this time.
    pub(crate) fn new(lanes: &[LaneSpec]) -> io::Result<Self> {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let mut folder = Folder::new(&format!("{}{}-{number}", folder::PREFIX, process::id()))?;
        folder.note(&serde_json::to_vec(lanes)?)?;
        Ok(Self::on(folder, lanes.into()))
    }

    fn on(folder: Folder, lanes: Vec<LaneSpec>) -> Self {
        let directory = folder.path().to_owned();
        let prefix = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { site: Site { prefix, directory }, lanes, _folder: folder }
    }
}

impl Deref for Ground {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.site.clear(&self.lanes);
    }
}

/// Takes away everything of coordinators that were killed.
pub(crate) fn clear_after_the_killed() {
    for mut folder in folder::of_the_killed() {
        // Where they aren't noted, there were none.
        let lanes = folder.noted().ok().and_then(|lanes| serde_json::from_slice(&lanes).ok());
        drop(Ground::on(folder, lanes.unwrap_or_default()));
    }
}

fn remove_sysv(name: &str) {
    if let Ok(name) = ChannelName::new(name) {
        // Not there is as good as removed.
        let _ = ipc_mq::Sysv::new().remove(&name);
    }
}

/// Channels that are opened and made again and again.
pub(crate) const SETUP_NAMES: [&str; 2] = ["opened", "made"];

/// From the near to the far process, and back.
pub(crate) const DIRECTIONS: [&str; 2] = ["there", "back"];
