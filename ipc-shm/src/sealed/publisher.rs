//! The publishing end: API → ring → audience.

use super::{Guest, LinkError, SealedConfig, audience::Audience, greeting::Part};
use crate::{
    refusal,
    ring::{broadcast::Writer, memory::Words},
    sys::ident,
};
use ipc_core::{BatchSender, EndMark, Loan, Rejected, SendError, Sender, Wait};
use std::ops::{Deref, DerefMut};

/// The publishing end of a sealed broadcast: every subscriber sees every message.
///
/// It writes to memory of its own that all subscribers can only read, waits for none of them,
/// and reads nothing of them but whether they sleep. So no subscriber can hold it up, or change
/// what another one sees, or learn which others there are.
///
/// ```
/// use ipc_shm::{Receiver, Sender, Wait, sealed::{self, Listener, Peers, SealedConfig, SealedPublisher}};
/// # use std::time::Duration;
///
/// # let path = std::env::temp_dir().join(format!("ipc-sealed-publisher-{}", std::process::id()));
/// let listener = Listener::bind(&path, Peers::ourselves())?;
/// let mut tx = SealedPublisher::new(&SealedConfig::new())?;
/// # let there = std::thread::spawn({ let path = path.clone(); move || {
/// // In another process:
/// let link = sealed::connect(&path, &Peers::ourselves(), Wait::Forever)?;
/// let mut rx = link.subscriber(&SealedConfig::new(), Wait::Forever)?;
/// assert_eq!(&*rx.recv()?, b"hello");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # } });
///
/// // As often as somebody comes; in another thread, if nobody is to be waited for here.
/// let guest = listener.accept(Wait::Forever)?.guest(Wait::timeout(Duration::from_secs(1)))?;
/// tx.admit(guest)?;
/// tx.send(b"hello")?;
/// # there.join().unwrap().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SealedPublisher {
    ring: Writer<Words>,
    max_message_len: usize,
    /// Whether a loan was reserved.
    is_reserved: bool,
    /// What a loan lends. As long as the longest loan so far.
    draft: Vec<u8>,
    audience: Audience,
}

impl SealedPublisher {
    /// Makes the memory: [`SealedConfig::capacity_bytes`]. Nobody is there yet.
    ///
    /// # Errors
    ///
    /// [`LinkError::InvalidConfig`], [`LinkError::Unsupported`], and what the system says.
    pub fn new(config: &SealedConfig) -> Result<Self, LinkError> {
        let capacity = config.capacity(ident::page_size_bytes()?)?;
        let audience = Audience::new(Part::Publishes, capacity, 0)?;
        let geometry = audience.memory.broadcast();
        let ring = Writer::attach(audience.memory.words().clone(), geometry, 1)
            .map_err(|corrupt| LinkError::Unsupported(corrupt.0))?;
        let max_message_len = geometry.max_message_len();
        Ok(Self { ring, max_message_len, is_reserved: false, draft: Vec::new(), audience })
    }

    /// Lets a guest see every message that is sent from now on, or learn how many it missed.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if it has come to read a newest value; [`LinkError::HungUp`],
    /// [`LinkError::Forked`], and what the system says.
    ///
    /// # Blocking
    ///
    /// Never.
    pub fn admit(&mut self, guest: Guest) -> Result<(), LinkError> {
        self.audience.admit(guest, self.ring.next())
    }

    /// How many subscribers there are now. Those who have gone are let go of here, and
    /// otherwise as messages are sent and others admitted.
    pub fn subscribers(&mut self) -> usize {
        self.audience.len()
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), SendError> {
        refusal::check(len, self.max_message_len, self.audience.is_ours())
    }
}

impl Sender for SealedPublisher {
    type Loan<'a> = SealedDraft<'a>;

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
        self.is_reserved = false;
        self.check(len)?;
        self.draft.resize(len, 0);
        self.is_reserved = true;
        Ok(true)
    }

    #[inline]
    fn reserved(&mut self) -> SealedDraft<'_> {
        if !self.is_reserved || !self.audience.is_ours() {
            // What was reserved before the fork is the parent's; the commit will say so.
            self.is_reserved = false;
            self.draft.clear();
        }
        SealedDraft { len: self.draft.len(), publisher: self }
    }

    #[inline]
    fn send_wait(&mut self, message: &[u8], _wait: Wait<'_>) -> Result<(), SendError> {
        self.is_reserved = false;
        self.check(message.len())?;
        self.ring.commit_copy(message);
        self.audience.wake();
        Ok(())
    }
}

impl EndMark for SealedPublisher {
    fn send_end(&mut self, _wait: Wait<'_>) -> Result<(), SendError> {
        self.is_reserved = false;
        self.check(0)?;
        self.ring.commit_end();
        self.audience.wake();
        Ok(())
    }
}

impl BatchSender for SealedPublisher {
    /// A batch takes up half the ring at most, or its first message.
    fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M], _wait: Wait<'_>) -> Result<usize, SendError> {
        let Some(first) = messages.first() else { return Ok(0) };
        self.is_reserved = false;
        self.check(first.as_ref().len())?;
        let mut batch = self.ring.batch();
        for message in messages {
            let message = message.as_ref();
            if message.len() > self.max_message_len || !batch.has_room(message.len())? {
                break;
            }
            batch.add_copy(message);
        }
        let sent = batch.commit();
        self.audience.wake();
        Ok(sent)
    }
}

/// Space for one message, in memory of the publisher's own: it is copied when it is committed,
/// since subscribers may be reading what it replaces.
#[derive(Debug)]
pub struct SealedDraft<'a> {
    publisher: &'a mut SealedPublisher,
    len: usize,
}

impl Loan for SealedDraft<'_> {
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn commit(self, _wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        // Only what was never reserved can be refused, or is from before a fork.
        if let Err(error) = self.publisher.check(self.len) {
            return Err(Rejected { loan: self, error });
        }
        let Self { publisher, len } = self;
        publisher.is_reserved = false;
        publisher.ring.commit_copy(&publisher.draft[..len]);
        publisher.audience.wake();
        Ok(())
    }
}

impl Deref for SealedDraft<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.publisher.draft[..self.len]
    }
}

impl DerefMut for SealedDraft<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.publisher.draft[..self.len]
    }
}
