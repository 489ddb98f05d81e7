//! A process's part in a segment that it only reads: no byte of the file changes by it, and
//! it needs no right to change one.
//!
//! Its descriptor is opened for reading, its pages are mapped for reading, so that a store
//! to them is a fault whatever went wrong. It has no place among the participants, since a
//! place is taken by a write lock and signed in an entry; it shares the presence byte, by a
//! read lock, and so keeps the segment from being taken away. Nobody waits for it, and nobody
//! knows that it sleeps.
//!
//! If it is the last one out, it does as others do, as far as it may write: who has to leave that
//! to those who come next isn't told.

use super::{
    Header, Layout, Place, Target,
    attachment::{leave, turn_away},
    file::Opened,
    open::open_to_read,
};
use crate::{
    ring::memory::Words,
    sys::{
        fork::{self, Window},
        map::Mapping,
    },
};
use ipc_core::ChannelError;
use std::sync::Arc;

/// A read-only endpoint's part in a segment.
#[derive(Debug)]
pub(crate) struct Onlooker {
    /// Gone only while it is being dropped.
    mapping: Option<Arc<Mapping>>,
    place: Place,
    target: Target,
    header: Header,
    layout: Layout,
    generation: u32,
}

impl Onlooker {
    /// Opens a segment that exists, if its header is as `check` wants it.
    pub(crate) fn open(
        place: Place,
        check: impl FnOnce(&Opened) -> Result<(), ChannelError>,
    ) -> Result<Self, ChannelError> {
        let mut window = Window::open();
        let opened = open_to_read(&place, &mut window)?;
        let mapped = check(&opened).and_then(|()| {
            let areas = opened.header.areas()?.for_reading();
            Ok((areas, Mapping::new(&opened.file, areas)?))
        });
        let (areas, mapping) = match mapped {
            Ok(mapped) => mapped,
            Err(error) => {
                turn_away(&place, opened, window);
                return Err(error);
            }
        };
        let Opened { file, header, metadata } = opened;
        // The mapping keeps the lock, and the rest may take long.
        drop(file);
        drop(window);
        let onlooker = Self {
            mapping: Some(Arc::new(mapping)),
            place,
            target: Target::new(metadata.identity),
            layout: header.layout(),
            header,
            generation: fork::generation(),
        };
        onlooker.mapping().make_ready(&areas)?;
        Ok(onlooker)
    }

    fn mapping(&self) -> &Arc<Mapping> {
        self.mapping.as_ref().expect("mapped until dropped")
    }

    /// The segment's memory, which can only be loaded from. Whoever keeps the words keeps the
    /// presence.
    pub(crate) fn words(&self) -> Words {
        Words::new(self.mapping())
    }

    /// What the segment's first page says.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Where things are.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether this process is the one that opened it, and not a fork of it.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Whether the name still leads to this segment.
    pub(crate) fn is_named(&self) -> bool {
        self.place.leads_to(&self.target)
    }
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        // The lock goes with it.
        self.mapping = None;
        leave(&self.place, &self.header, self.generation, true);
    }
}
