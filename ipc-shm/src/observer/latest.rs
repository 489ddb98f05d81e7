//! Looking on at the newest value: API → ring, and nothing back.

use super::{Outlook, Window};
use crate::{
    latest::{LatestBatch, LatestMessage, Values, readers_asleep},
    ring::{
        latest::{Geometry, Reader},
        memory::Words,
    },
    segment::Onlooker,
    wait::Waiting,
};
use ipc_core::{BatchReceiver, Receiver, RecvError, Sequenced, Wait};

/// A reading end of a channel that holds the newest value, and that only reads
/// ([`Latest::observe`](crate::Latest::observe)).
///
/// It is given what a [`LatestReader`](crate::LatestReader) is given, but nobody knows of it,
/// and it waits as a [`BroadcastObserver`](super::BroadcastObserver) does.
#[derive(Debug)]
pub struct LatestObserver<O: Outlook = Window> {
    values: Values,
    outlook: O,
}

impl LatestObserver {
    pub(crate) fn new(onlooker: Onlooker) -> Self {
        let layout = *onlooker.layout();
        let geometry = Geometry::of(&layout, &onlooker.header().geometry);
        let window = Window::new(onlooker, readers_asleep(&layout));
        Self::at(Reader::attach(window.words.clone(), geometry), window)
    }
}

impl<O: Outlook> LatestObserver<O> {
    pub(crate) fn at(ring: Reader<Words>, outlook: O) -> Self {
        Self { values: Values::new(ring), outlook }
    }

    /// The memory, which can only be loaded from.
    pub(crate) fn memory(&self) -> &Words {
        self.values.memory()
    }

    /// Sets how this endpoint waits for values; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.outlook.set_waiting(waiting);
    }

    /// The value that is there now, new or not; `None` if none was ever written. It counts as
    /// received, and takes the place of a message that was kept.
    ///
    /// # Errors
    ///
    /// [`RecvError::WouldBlock`] if the writer was faster than each of 1,024 copies, fewer if
    /// they come to 64 MiB; [`RecvError::Corrupt`]; [`RecvError::Forked`].
    pub fn read(&mut self) -> Result<Option<LatestMessage<'_>>, RecvError> {
        if !self.outlook.is_ours() {
            return Err(RecvError::Forked);
        }
        self.values.read()
    }

    /// The way of [`advance`](Receiver::advance) when there is nothing yet.
    #[inline(never)]
    fn wait_for_version(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        self.outlook.until(wait, self.values.newer())?;
        self.values.take()
    }
}

impl<O: Outlook + Send> Receiver for LatestObserver<O> {
    type Message<'a>
        = LatestMessage<'a>
    where
        Self: 'a;

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.advance_now()? {
            return Ok(());
        }
        self.wait_for_version(wait)
    }

    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.outlook.is_ours() {
            return Err(RecvError::Forked);
        }
        self.values.advance_now()
    }

    #[inline]
    fn held(&mut self) -> LatestMessage<'_> {
        assert!(self.outlook.is_ours(), "held() in a forked child");
        self.values.held()
    }
}

impl<O: Outlook + Send> BatchReceiver for LatestObserver<O> {
    type Batch<'a>
        = LatestBatch<'a>
    where
        Self: 'a;

    /// There is one newest value, so a batch has one message.
    fn advance_batch(&mut self, _max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.advance(wait).map(|()| 1)
    }

    fn held_batch(&mut self) -> LatestBatch<'_> {
        assert!(self.outlook.is_ours(), "held_batch() in a forked child");
        self.values.held_batch()
    }
}

impl<O: Outlook + Send> Sequenced for LatestObserver<O> {
    /// The version, counted from 0. Numbers that are skipped were values that newer ones
    /// replaced before they were received, and end marks.
    fn sequence_of(message: &LatestMessage<'_>) -> u64 {
        message.number()
    }
}
