//! The memory that long messages are in: seals, mappings and huge pages; `memfd_create(2)`,
//! `mmap(2)`, `madvise(2)`.

use ipc_core::OsError;
use nix::{errno::Errno, libc, sys::uio::pwrite, unistd::ftruncate};
use std::{
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// `fcntl(F_GET_SEALS)`; an error for what isn't a `memfd`.
pub(crate) fn seals(descriptor: BorrowedFd<'_>) -> Result<libc::c_int, Errno> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) })
}

/// What nobody can undo, and what makes a mapping safe to read: no writing through any
/// descriptor or mapping, no shrinking under it, no more seals that matter.
pub(crate) const SEALED: libc::c_int = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

/// `fcntl(F_ADD_SEALS)` of [`SEALED`]. Refused while a writable mapping exists.
pub(crate) fn seal(descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let seals = SEALED | libc::F_SEAL_SEAL;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// How long a huge page is where pages have 4 KiB, in bytes.
const HUGE_PAGE_LEN: usize = 2 << 20;

/// From this length on a message is put into huge pages, in bytes. The kernel makes a small page
/// in about the time it takes to fill it, maps it in the same time again, and so for the end of
/// it; a huge one takes a tenth. Shorter messages are not worth the calls.
const LEAST_IN_HUGE_PAGES: usize = 8 << 20;

/// After it got none, a process doesn't ask for so many messages: to look for some takes time.
const ASKED_AGAIN_AFTER: u32 = 32;

/// Asks for huge pages for a message of this length that is to be written to a new `memfd`, for as
/// many as there are whole ones. Where the system gives none, what is written goes into small ones.
///
/// `MADV_COLLAPSE` gives them whatever `transparent_hugepage/shmem_enabled` says (but `deny`), since
/// Linux 6.1. It wants one small page to be where each is to come.
pub(crate) fn ask_for_huge_pages(memfd: BorrowedFd<'_>, len: usize) -> Result<(), OsError> {
    static MESSAGES_TO_GO: AtomicU32 = AtomicU32::new(0);
    let whole_len = len / HUGE_PAGE_LEN * HUGE_PAGE_LEN;
    let Some(whole_len) = NonZeroUsize::new(whole_len).filter(|_| len >= LEAST_IN_HUGE_PAGES) else {
        return Ok(());
    };
    if MESSAGES_TO_GO.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1)).is_ok() {
        return Ok(());
    }
    // The length may be beyond what the file can have: to write it will say so.
    let Ok(file_len) = libc::off_t::try_from(len) else { return Ok(()) };
    ftruncate(memfd, file_len).map_err(|errno| OsError::new("ftruncate", errno))?;
    for start in (0..file_len).step_by(HUGE_PAGE_LEN).take(whole_len.get() / HUGE_PAGE_LEN) {
        pwrite(memfd, &[0], start).map_err(|errno| OsError::new("pwrite", errno))?;
    }
    let pages = Pages::map(memfd, whole_len, libc::MAP_SHARED);
    if pages.and_then(|pages| pages.advise(libc::MADV_COLLAPSE)).is_err() {
        MESSAGES_TO_GO.store(ASKED_AGAIN_AFTER, Relaxed);
    }
    Ok(())
}

/// Pages of a `memfd`, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages are memory of the process's, owned by this value alone.
unsafe impl Send for Pages {}

// SAFETY: shared, they are only read.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps a `memfd` that is [`SEALED`] and has this length: who sent it can't change it.
    pub(crate) fn sealed(memfd: &impl AsFd, len: NonZeroUsize) -> Result<Self, Errno> {
        // Linux before 6.7 maps nothing shared that is sealed against writing, though it be for
        // reading only; and sealed pages are the same for all either way.
        let pages = Self::map(memfd.as_fd(), len, libc::MAP_PRIVATE)?;
        // Each page is there from now on, or it is known now that one isn't: a file may have
        // holes, and to find at an access that there is no memory for one is a SIGBUS.
        match pages.advise(libc::MADV_POPULATE_READ) {
            // Before Linux 5.14 there is no way to ask.
            Ok(()) | Err(Errno::EINVAL) => Ok(pages),
            Err(errno) => Err(errno),
        }
    }

    /// For reading; long ones where a huge page can be mapped as one, if there is room.
    fn map(memfd: BorrowedFd<'_>, len: NonZeroUsize, sharing: libc::c_int) -> Result<Self, Errno> {
        let (len, number) = (len.get(), memfd.as_raw_fd());
        let wish = if len < LEAST_IN_HUGE_PAGES { ptr::null_mut() } else { room_for_huge_pages(len) };
        // SAFETY: a new mapping. An address is a wish: where something is by then, the kernel takes
        // another one. (With `MAP_FIXED` a mapping that fails leaves a hole where our own was, which
        // another thread's may be in before we know.)
        let start = unsafe { libc::mmap(wish, len, libc::PROT_READ, sharing, number, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { start, len })
    }

    /// `madvise` with advice that changes no byte.
    fn advise(&self, advice: libc::c_int) -> Result<(), Errno> {
        // SAFETY: a mapping of ours; as promised, its bytes stay as they are.
        Errno::result(unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) }).map(drop)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped with this length until drop, from a sealed file: a peer can neither
        // shrink it nor write to it.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours, and nobody borrows from there any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Where a huge page can begin and nothing is now, for so many bytes; it isn't kept free. Null if
/// there is no such place.
fn room_for_huge_pages(len: usize) -> *mut libc::c_void {
    let Some(room) = len.checked_add(HUGE_PAGE_LEN) else { return ptr::null_mut() };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, wherever the kernel has room for it; nobody may access it.
    let start = unsafe { libc::mmap(ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return ptr::null_mut();
    }
    // SAFETY: the mapping just made, which nobody else knows of.
    unsafe { libc::munmap(start, room) };
    start.map_addr(|address| address.next_multiple_of(HUGE_PAGE_LEN))
}
