//! The end that writes a newest value: API → ring → audience.

use super::{Guest, LinkError, SealedConfig, audience::Audience, greeting::Part, memory};
use crate::{
    refusal,
    ring::{
        latest::{self, Writer},
        memory::{Words, copy_message},
    },
    sys::ident,
};
use ipc_core::{EndMark, Loan, Rejected, SendError, Sender, Wait};
use std::{
    ops::{Deref, DerefMut},
    slice,
};

/// The writing end of a sealed newest value, for any number of readers.
///
/// It writes to memory of its own that all readers can only read, waits for none of them, and
/// reads nothing of them but whether they sleep.
///
/// ```
/// use ipc_shm::{Sender, Wait, sealed::{self, Listener, Peers, SealedConfig, SealedWriter}};
/// # use std::time::Duration;
///
/// # let path = std::env::temp_dir().join(format!("ipc-sealed-writer-{}", std::process::id()));
/// let listener = Listener::bind(&path, Peers::ourselves())?;
/// let mut position = SealedWriter::new(&SealedConfig::new().max_message_len(64))?;
/// position.send(b"52.52 N")?;
/// # let there = std::thread::spawn({ let path = path.clone(); move || {
/// // In another process:
/// let link = sealed::connect(&path, &Peers::ourselves(), Wait::Forever)?;
/// let mut position = link.reader(&SealedConfig::new(), Wait::Forever)?;
/// assert_eq!(&*position.read()?.unwrap(), b"52.52 N");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # } });
///
/// let guest = listener.accept(Wait::Forever)?.guest(Wait::timeout(Duration::from_secs(1)))?;
/// position.admit(guest)?;
/// # there.join().unwrap().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SealedWriter {
    ring: Writer<Words>,
    max_message_len: usize,
    /// What is reserved: a length.
    reserved: Option<usize>,
    audience: Audience,
}

impl SealedWriter {
    /// Makes the memory: for [`SealedConfig::depth`] values of up to
    /// [`SealedConfig::max_message_len`] bytes. Nobody is there yet.
    ///
    /// # Errors
    ///
    /// [`LinkError::InvalidConfig`], [`LinkError::Unsupported`], and what the system says.
    pub fn new(config: &SealedConfig) -> Result<Self, LinkError> {
        let (capacity, longest) = config.slots(ident::page_size_bytes()?)?;
        let audience = Audience::new(Part::Writes, capacity, longest)?;
        let geometry = audience.memory.latest(longest);
        let ring = Writer::attach(audience.memory.words().clone(), geometry)
            .map_err(|corrupt| LinkError::Unsupported(corrupt.0))?;
        Ok(Self { ring, max_message_len: geometry.max_message_len, reserved: None, audience })
    }

    /// Lets a guest read, from the value on that is there now.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if it has come to subscribe to messages; [`LinkError::HungUp`],
    /// [`LinkError::Forked`], and what the system says.
    ///
    /// # Blocking
    ///
    /// Never.
    pub fn admit(&mut self, guest: Guest) -> Result<(), LinkError> {
        self.audience.admit(guest, (0, 0))
    }

    /// How many readers there are now. Those who have gone are let go of here, and otherwise
    /// as values are written and others admitted.
    pub fn readers(&mut self) -> usize {
        self.audience.len()
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), SendError> {
        refusal::check(len, self.max_message_len, self.audience.is_ours())
    }

    /// Space for a payload, in the slot that is written next.
    #[inline]
    fn space(&mut self, len: usize) -> &mut [u8] {
        let bytes = self.ring.memory().bytes(self.ring.payload(), len);
        // SAFETY: mapped for writing as long as the writer lives, `max_message_len` long at least,
        // and written by nobody else: the file is sealed against all other writers. A hostile
        // peer can do no more than read there. The borrow of `self` keeps other slices away.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr(), len) }
    }

    #[inline]
    fn commit(&mut self, len: usize) -> Result<(), SendError> {
        self.reserved = None;
        let committed = self.ring.commit(len);
        self.audience.wake();
        Ok(committed?)
    }
}

impl Sender for SealedWriter {
    type Loan<'a> = SealedValueLoan<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    #[inline]
    fn reserve(&mut self, len: usize, _wait: Wait<'_>) -> Result<(), SendError> {
        self.reserve_now(len).map(drop)
    }

    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        self.reserved = None;
        self.check(len)?;
        self.ring.begin();
        self.reserved = Some(len);
        Ok(true)
    }

    #[inline]
    fn reserved(&mut self) -> SealedValueLoan<'_> {
        if !self.audience.is_ours() {
            // What was reserved before the fork is the parent's; the commit will say so.
            self.reserved = None;
        }
        SealedValueLoan { len: self.reserved.unwrap_or(0), writer: self }
    }

    #[inline]
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.reserve(message.len(), wait)?;
        copy_message(self.space(message.len()), message);
        self.commit(message.len())
    }
}

impl EndMark for SealedWriter {
    /// A version of its own. Readers that have the last value already are told of the end at
    /// once, the others after they were given it.
    fn send_end(&mut self, _wait: Wait<'_>) -> Result<(), SendError> {
        self.reserved = None;
        self.check(0)?;
        let committed = self.ring.commit_end();
        self.audience.wake();
        Ok(committed?)
    }
}

/// Space for one value, in the channel itself: memory of this process's own, to which no peer
/// can write.
#[derive(Debug)]
pub struct SealedValueLoan<'a> {
    writer: &'a mut SealedWriter,
    len: usize,
}

impl Loan for SealedValueLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        // Only a loan that was never reserved can be refused, or one from before a fork.
        if self.writer.reserved.is_none() || !self.writer.audience.is_ours() {
            if let Err(error) = self.writer.reserve(0, wait) {
                return Err(Rejected { loan: self, error });
            }
        }
        match self.writer.commit(self.len) {
            Ok(()) => Ok(()),
            Err(error) => Err(Rejected { loan: self, error }),
        }
    }
}

impl Deref for SealedValueLoan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = self.writer.ring.memory().bytes(self.writer.ring.payload(), self.len);
        // SAFETY: as in `SealedWriter::space`.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for SealedValueLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.writer.space(self.len)
    }
}

impl SealedConfig {
    /// For a writer: the memory for its values, in whole pages, and the longest value, in bytes.
    fn slots(&self, page: u64) -> Result<(u64, u64), LinkError> {
        let longest = self.max_message_len.unwrap_or(Self::DEFAULT_MAX_MESSAGE_LEN);
        let depth = self.depth.unwrap_or(Self::DEFAULT_DEPTH);
        if !(2..=latest::MAX_DEPTH).contains(&depth) {
            return Err(LinkError::InvalidConfig(format!(
                "a depth of {depth} values can't be: give 2 to {}",
                latest::MAX_DEPTH
            )));
        }
        let capacity = crate::config::rounded(latest::slot_bytes(longest).saturating_mul(depth), page)
            .map_err(|error| LinkError::InvalidConfig(error.to_string()))?;
        debug_assert!(memory::depth(capacity, longest) >= depth, "room for what was asked for");
        Ok((capacity, longest))
    }
}
