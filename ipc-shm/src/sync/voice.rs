//! Who lives, by a lock that nobody has but the living.
//!
//! That a participant's own byte is locked says that its place is taken: by itself, by who puts
//! in order what it left, or by who has come in its place and is about to do so. For a lock that
//! makes no difference, since what the dead had is had until it is in order. Where the living
//! are counted, it does. So there each one has a second byte locked, from when what was left in
//! its place is in order until it is gone. It is locked shared, so that who comes needn't wait
//! for the kernel to have done with the one before; others only ask about it.

use super::handle::Handle;
use crate::{
    segment,
    sys::{
        fork::Window,
        lock::{self, Mode},
        map::Anchor,
    },
};
use ipc_core::ChannelError;

/// Where these bytes are: far from those of the places.
const VOICES: u64 = 1 << 20;

fn byte_of(id: u32) -> u64 {
    VOICES + u64::from(id)
}

/// A participant's second byte, locked as long as this lives and its process does.
#[derive(Debug)]
pub(super) struct Voice {
    /// Keeps the description that has the lock: no descriptor does, and no child has it.
    _anchor: Anchor,
}

impl Voice {
    /// Raises the voice of a participant that has put its place in order.
    pub(super) fn raise(handle: &Handle) -> Result<Self, ChannelError> {
        let mut window = Window::open();
        let opened = open(handle, &mut window)?;
        let is_raised = lock::try_lock(&opened.file, byte_of(handle.id()), Mode::Shared)?;
        // Only strangers lock it alone.
        if !is_raised {
            return Err(ChannelError::Corrupt("another program has its voice locked".into()));
        }
        Ok(Self { _anchor: Anchor::new(&opened.file, opened.header.page as usize)? })
    }

    /// Which of these are alive. Whoever has taken another one's place since is among them;
    /// then nothing of that one is left there.
    pub(super) fn heard(
        handle: &Handle,
        ids: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<u32>, ChannelError> {
        // For oneself, nobody has to be asked.
        let (mut living, others): (Vec<u32>, Vec<u32>) = ids.into_iter().partition(|&id| id == handle.id());
        if others.is_empty() {
            return Ok(living);
        }
        let mut window = Window::open();
        let opened = open(handle, &mut window)?;
        for id in others {
            if lock::is_locked(&opened.file, byte_of(id))? {
                living.push(id);
            }
        }
        Ok(living)
    }
}

/// The segment's file, by its name, once more.
fn open(handle: &Handle, window: &mut Window) -> Result<segment::Opened, ChannelError> {
    let opened = segment::open(handle.attachment().place(), window)?;
    match opened.header.instance == handle.attachment().header().instance {
        true => Ok(opened),
        false => Err(ChannelError::NotFound),
    }
}
