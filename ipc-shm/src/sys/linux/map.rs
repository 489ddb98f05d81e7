//! The mapping of a segment: `mmap(2)`, `madvise(2)`, `mprotect(2)`, `mlock(2)`, `msync(2)`.
//!
//! ```text
//! | guard | control pages | data | the same data again | guard |
//! ```
//!
//! Rings are mapped twice in a row, so that a record that runs over the end of one is
//! contiguous all the same; slots aren't. The guard pages fault on whatever strays off either
//! end. No part of it is inherited by a forked child. What is mapped for reading only needs a
//! descriptor that can do no more, and a store to it faults.
//!
//! A file is mapped where nothing is first, once, as a trial, and only then in its place. If it
//! were refused there (for its seals, or for what it stands for), the kernel would have taken
//! the reservation away already: a hole, where the next one to map something gets it, and which
//! we would take for ours. Where that happens all the same, the place isn't touched any more,
//! nor given back. What was mapped for the trial isn't moved: that may bring tables of small
//! pages along, and then no huge page can be mapped as one. A file of the kernel's own memory
//! does without a trial, which takes a tenth of what opening a channel takes: nothing but a lack
//! of memory refuses it, which a trial doesn't foresee.

use super::{attempt, call, errno, fork, limit, once};
use crate::config::{HUGE_PAGE_BYTES, Pages};
use ipc_core::OsError;
use memmap2::{MmapOptions, MmapRaw};
use nix::{
    errno::Errno,
    libc,
    sys::mman::{
        MapFlags, MmapAdvise, MsFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect, msync,
        munmap,
    },
};
use std::{fs::File, mem::ManuallyDrop, num::NonZeroUsize, os::fd::AsFd, ptr::NonNull, sync::OnceLock};

/// A mapped segment. It keeps the file's open file description, and so its locks, until it
/// is dropped, also after the descriptor was closed.
#[derive(Debug)]
pub(crate) struct Mapping {
    reservation: NonNull<u8>,
    reserved_len: usize,
    /// The first byte of the segment; the guard page lies before it.
    base: NonNull<u8>,
    /// How much can be addressed from `base`: control pages, data and its mirror.
    len: usize,
    /// A part, as an offset from the reservation and a length, that may be somebody else's.
    doubtful: OnceLock<(usize, usize)>,
    generation: u32,
}

// SAFETY: a mapping belongs to the process, not to a thread; what is shared in it is
// reached through atomics or through bytes that the ring's algorithm gave to one side.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// What may be done to mapped pages. Anything else is a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

impl From<Access> for ProtFlags {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::PROT_READ,
            Access::ReadWrite => Self::PROT_READ | Self::PROT_WRITE,
        }
    }
}

/// What of a file is mapped, and how: control pages, then lanes of data, each twice in a row
/// if it is to be mirrored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Areas {
    pub(crate) page: usize,
    pub(crate) control_len: usize,
    pub(crate) lane_len: usize,
    pub(crate) lanes: usize,
    pub(crate) mirrored: bool,
    pub(crate) pages: Pages,
    pub(crate) access: Access,
    /// Whether it is tried out first.
    trial: bool,
    /// All of it, as it is addressed.
    len: usize,
}

impl Areas {
    /// All lengths are whole pages. `None` if that is more than can be addressed.
    pub(crate) fn new(
        page: u64,
        control_len: u64,
        lane_len: u64,
        lanes: u64,
        mirrored: bool,
        pages: Pages,
    ) -> Option<Self> {
        let times = if mirrored { 2 } else { 1 };
        let len = lane_len.checked_mul(lanes)?.checked_mul(times)?.checked_add(control_len)?;
        // Guard pages included, and within what offsets can say.
        isize::try_from(len.checked_add(2 * page)?.checked_add(HUGE_PAGE_BYTES)?).ok()?;
        Some(Self {
            page: usize::try_from(page).ok()?,
            control_len: usize::try_from(control_len).ok()?,
            lane_len: usize::try_from(lane_len).ok()?,
            lanes: usize::try_from(lanes).ok()?,
            mirrored,
            pages,
            access: Access::ReadWrite,
            trial: true,
            len: usize::try_from(len).ok()?,
        })
    }

    /// The same of a file that nobody can seal, in memory of the kernel's own.
    pub(crate) fn in_memory(self) -> Self {
        Self { trial: false, ..self }
    }

    /// The same, for reading only.
    pub(crate) fn for_reading(self) -> Self {
        Self { access: Access::Read, ..self }
    }
}

impl Mapping {
    /// Maps these areas of `file`, which is at least as long. Their pages are to be made
    /// [ready](Self::make_ready).
    pub(crate) fn new(file: impl AsFd, areas: Areas) -> Result<Self, OsError> {
        let file = file.as_fd();
        let Areas { page, control_len, lane_len, lanes, mirrored, pages, access, trial, len } = areas;
        // A huge page is mapped as one where its address and its place in the file agree.
        let alignment = if pages.huge { HUGE_PAGE_BYTES as usize } else { page };
        let mapping = Self::reserve(len, page, alignment)?;
        if trial {
            try_out(file, control_len + lanes * lane_len, access)?;
        }
        if mirrored {
            // Each lane's second image is followed by the first one of the next lane, as it is in
            // the file: both are placed by one call, as the control pages are with the first lane.
            let mut image = control_len + lane_len;
            mapping.put(file, 0, image, 0, access)?;
            for lane in 0..lanes {
                let images = if lane + 1 < lanes { 2 * lane_len } else { lane_len };
                mapping.put(file, image, images, control_len + lane * lane_len, access)?;
                image += images;
            }
        } else {
            mapping.put(file, 0, len, 0, access)?;
        }
        mapping.advise()?;
        Ok(mapping)
    }

    /// Whether this process is the one that mapped it. A forked child has nothing there, or by
    /// now something else.
    pub(crate) fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Changes what may be done to all of the pages, from now on.
    pub(crate) fn protect(&self, access: Access) -> Result<(), OsError> {
        if !self.is_ours() {
            return Ok(());
        }
        call("mprotect", || {
            // SAFETY: our own mapping, which has no gaps; no byte changes. Who stores to it while
            // it is for reading only faults, which is what it is for.
            unsafe { mprotect(self.base.cast(), self.len, access.into()) }
        })
    }

    /// Room for `len` bytes that nobody may access yet, with a guard page on either side.
    fn reserve(len: usize, page: usize, alignment: usize) -> Result<Self, OsError> {
        let reserved_len = NonZeroUsize::new(len + page + alignment)
            .ok_or_else(|| OsError::new("mmap", std::io::ErrorKind::InvalidInput))?;
        let reservation = call("mmap", || {
            // SAFETY: a fresh private reservation that nobody may access; it replaces nothing.
            unsafe { mmap_anonymous(None, reserved_len, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }
        })?;
        let reservation = reservation.cast::<u8>();
        let guard = reservation.as_ptr().addr().wrapping_add(1).next_multiple_of(alignment)
            - reservation.as_ptr().addr();
        // SAFETY: at most `alignment`, by which and a page the reservation is longer than `len`.
        let base = unsafe { reservation.add(guard) };
        let reserved_len = reserved_len.get();
        let (doubtful, generation) = (OnceLock::new(), fork::generation());
        Ok(Self { reservation, reserved_len, base, len, doubtful, generation })
    }

    /// Maps the first `len` bytes of `file` at `at` bytes behind the base.
    fn place(&self, file: impl AsFd, at: usize, len: usize, access: Access) -> Result<(), OsError> {
        try_out(&file, len, access)?;
        self.put(file, at, len, 0, access)
    }

    /// Maps `len` bytes of `file`, which was tried out, from `file_offset` at `at` bytes behind
    /// the base.
    fn put(
        &self,
        file: impl AsFd,
        at: usize,
        len: usize,
        file_offset: usize,
        access: Access,
    ) -> Result<(), OsError> {
        assert!(at + len <= self.len, "a placement beyond the reservation");
        // SAFETY: within the reservation, by the assertion.
        let address = unsafe { self.base.add(at) };
        let Some(whole_len) = NonZeroUsize::new(len) else { return Ok(()) };
        let start = NonZeroUsize::new(address.addr().get());
        let placed = attempt("mmap(MAP_FIXED)", || {
            let (flags, offset) = (MapFlags::MAP_SHARED | MapFlags::MAP_FIXED, file_offset as libc::off_t);
            // SAFETY: it replaces pages of our own reservation, which nothing refers to yet.
            unsafe { mmap(start, whole_len, access.into(), flags, file.as_fd(), offset) }
        });
        placed.map(drop).map_err(|errno| {
            // The kernel has no memory for its own, or a peer has just sealed the file. There may
            // be a hole now, and whoever called this gives up.
            let _ = self.doubtful.set((address.addr().get() - self.reservation.addr().get(), len));
            OsError::new("mmap(MAP_FIXED)", errno)
        })
    }

    /// Has each page of somebody else's memory be there, so that no later access can find that
    /// there is none: a file may have holes.
    fn ask_for(&self, at: usize, len: usize, access: Access) -> Result<(), OsError> {
        if access == Access::ReadWrite {
            // Our own, which was allocated.
            return Ok(());
        }
        // SAFETY: within the reservation: it was placed there.
        let address = unsafe { self.base.add(at) };
        let asked = attempt("madvise(MADV_POPULATE_READ)", || {
            // SAFETY: mapped by `place` for reading; the advice changes no byte.
            unsafe { madvise(address.cast(), len, MmapAdvise::MADV_POPULATE_READ) }
        });
        match asked {
            // Before Linux 5.14 there is no way to ask: the count of the file's pages has to do.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(errno) => Err(OsError::new("madvise(MADV_POPULATE_READ)", errno)),
        }
    }

    /// Returns when what was stored to the first `len` bytes is on the disk: with the metadata
    /// that it takes to find it there, and by the mapping's own description, which is told of
    /// whatever couldn't be written since it was opened. That may take seconds.
    pub(crate) fn sync(&self, len: usize) -> Result<(), OsError> {
        fork::assert_no_window();
        assert!(len <= self.len, "a range beyond the mapping");
        call("msync", || {
            // SAFETY: our own mapping, by the assertion; no byte changes.
            unsafe { msync(self.base.cast(), len, MsFlags::MS_SYNC) }
        })
    }

    /// Keeps forked children from inheriting the pages, all of which are placed.
    fn advise(&self) -> Result<(), OsError> {
        call("madvise(MADV_DONTFORK)", || {
            // SAFETY: the range is our own reservation; the advice changes what a fork inherits.
            unsafe { madvise(self.reservation.cast(), self.reserved_len, MmapAdvise::MADV_DONTFORK) }
        })
    }

    /// Says what else is to hold for the pages. To have them all there takes long.
    pub(crate) fn make_ready(&self, areas: &Areas) -> Result<(), OsError> {
        fork::assert_no_window();
        let (pages, access) = (areas.pages, areas.access);
        if pages.undumped {
            call("madvise(MADV_DONTDUMP)", || {
                // SAFETY: the range is our own reservation; the advice changes what a core dump has.
                unsafe { madvise(self.reservation.cast(), self.reserved_len, MmapAdvise::MADV_DONTDUMP) }
            })?;
        }
        if pages.unswapped {
            let locked = attempt("mlock", || {
                // SAFETY: mapped by `place`; locking changes no byte.
                unsafe { mlock(self.base.cast(), self.len) }
            });
            locked.map_err(|errno| too_much_to_lock(self.len, errno))?;
        }
        if pages.prefaulted {
            let advice = match access {
                Access::Read => MmapAdvise::MADV_POPULATE_READ,
                Access::ReadWrite => MmapAdvise::MADV_POPULATE_WRITE,
            };
            call("madvise(MADV_POPULATE)", || {
                // SAFETY: mapped by `place` for this access; the advice changes no byte.
                unsafe { madvise(self.base.cast(), self.len, advice) }
            })?;
        }
        Ok(())
    }

    /// The address of the byte at `offset`, for a range of `len` bytes.
    ///
    /// # Panics
    ///
    /// If the range isn't within the mapping.
    #[inline]
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.len && len <= self.len - offset, "a range beyond the mapping");
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.base.add(offset) }
    }

    /// How much can be addressed from the base: control pages, data and its mirror.
    #[inline]
    pub(crate) fn len_bytes(&self) -> usize {
        self.len
    }
}

/// A mapping of two files in one row, with a guard page in between: a page of the first, and
/// of the second one a page and a ring, twice in a row. Each is placed when it is there, with
/// its own access.
#[derive(Debug)]
pub(crate) struct Pair {
    mapping: Mapping,
    page: usize,
    ring_len: usize,
}

/// Where the parts of a pair are, as offsets from the base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PairOffsets {
    pub(crate) first: usize,
    pub(crate) second: usize,
    pub(crate) ring: usize,
}

impl Pair {
    /// Room for both; lengths are whole pages. `None` if that is more than can be addressed.
    pub(crate) fn new(page: u64, ring_len: u64) -> Result<Option<Self>, OsError> {
        let len = ring_len.checked_mul(2).and_then(|rings| rings.checked_add(3 * page));
        let Some(len) = len.filter(|len| isize::try_from(len.saturating_add(2 * page)).is_ok()) else {
            return Ok(None);
        };
        // Smaller than a length that can be.
        let (page, ring_len, len) = (page as usize, ring_len as usize, len as usize);
        Ok(Some(Self { mapping: Mapping::reserve(len, page, page)?, page, ring_len }))
    }

    pub(crate) fn offsets(&self) -> PairOffsets {
        PairOffsets { first: 0, second: 2 * self.page, ring: 3 * self.page }
    }

    pub(crate) fn place_first(&self, file: &File, access: Access) -> Result<(), OsError> {
        let first = self.offsets().first;
        self.mapping.place(file, first, self.page, access)?;
        self.mapping.ask_for(first, self.page, access)?;
        self.mapping.advise()
    }

    pub(crate) fn place_second(&self, file: &File, access: Access) -> Result<(), OsError> {
        let (at, len) = (self.offsets(), self.page + self.ring_len);
        self.mapping.place(file, at.second, len, access)?;
        self.mapping.ask_for(at.second, len, access)?;
        self.mapping.put(file, at.ring + self.ring_len, self.ring_len, self.page, access)?;
        self.mapping.advise()
    }

    /// All of it, when both were placed.
    pub(crate) fn into_mapping(self) -> Mapping {
        self.mapping
    }
}

/// Maps the first `len` bytes of `file` where nothing is, for a trial, and takes them away again.
fn try_out(file: impl AsFd, len: usize, access: Access) -> Result<(), OsError> {
    let Some(whole_len) = NonZeroUsize::new(len) else { return Ok(()) };
    let mapped = call("mmap", || {
        // SAFETY: a fresh mapping, which replaces nothing.
        unsafe { mmap(None, whole_len, access.into(), MapFlags::MAP_SHARED, file.as_fd(), 0) }
    })?;
    // SAFETY: mapped just now, and nothing refers to it.
    unsafe { unmap(mapped.cast(), len) };
    Ok(())
}

/// What is locked counts against a limit: each page once for each time it is mapped.
fn too_much_to_lock(len_bytes: usize, errno: Errno) -> OsError {
    let error = match errno {
        Errno::ENOMEM | Errno::EPERM | Errno::EAGAIN => limit::reached(
            format_args!("{len_bytes} bytes of a channel are to be kept from being swapped out"),
            limit::LOCKED_MEMORY,
            "make the channel smaller or without `unswapped`",
        ),
        _ => errno.into(),
    };
    OsError::new("mlock", error)
}

/// Makes the file's pages huge ones, as far as it has whole ones: `MADV_COLLAPSE`, which
/// doesn't depend on the system's settings for transparent huge pages.
pub(crate) fn make_huge(file: impl AsFd, len_bytes: u64) -> Result<(), OsError> {
    let too_large = |_| OsError::new("mmap", std::io::ErrorKind::OutOfMemory);
    let pages = Pages { huge: true, ..Pages::default() };
    let whole = usize::try_from(len_bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES).map_err(too_large)?;
    let page = usize::try_from(super::ident::page_size_bytes()?).map_err(too_large)?;
    let access = Access::ReadWrite;
    let (control_len, len) = (whole, whole);
    let areas =
        Areas { page, control_len, lane_len: 0, lanes: 0, mirrored: false, pages, access, trial: true, len };
    let mapping = Mapping::new(file, areas)?;
    call("madvise(MADV_COLLAPSE)", || {
        // SAFETY: mapped just now; the advice changes no byte.
        Errno::result(unsafe { libc::madvise(mapping.base.as_ptr().cast(), whole, libc::MADV_COLLAPSE) })
    })
    .map(drop)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        // Rather kept than taken from somebody else.
        let (doubtful, doubtful_len) = self.doubtful.get().copied().unwrap_or((self.reserved_len, 0));
        let behind = doubtful + doubtful_len;
        if doubtful > 0 {
            // SAFETY: our own reservation up to there; whoever borrowed from it borrowed `self`.
            unsafe { unmap(self.reservation, doubtful) };
        }
        if behind < self.reserved_len {
            // SAFETY: within the reservation.
            let rest = unsafe { self.reservation.add(behind) };
            // SAFETY: as above, from there on.
            unsafe { unmap(rest, self.reserved_len - behind) };
        }
    }
}

/// Gives back what was mapped.
///
/// # Safety
///
/// It is the caller's own, all of it, and nothing refers to it any more.
unsafe fn unmap(start: NonNull<u8>, len: usize) {
    let _ = once("munmap", || {
        // SAFETY: as the caller promises.
        unsafe { munmap(start.cast(), len) }
    });
}

/// A mapping of a file's first page that nobody reads: it keeps the open file description,
/// and so its locks, after the descriptor was closed.
#[derive(Debug)]
pub(crate) struct Anchor {
    page: ManuallyDrop<MmapRaw>,
    generation: u32,
}

impl Anchor {
    /// Keeps the description behind `file`.
    pub(crate) fn new(file: &File, page: usize) -> Result<Self, OsError> {
        let page = call("mmap", || errno(MmapOptions::new().len(page).map_raw_read_only(file)))?;
        call("madvise(MADV_DONTFORK)", || errno(page.advise(memmap2::Advice::DontFork)))?;
        Ok(Self { page: ManuallyDrop::new(page), generation: fork::generation() })
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            let _ = once("munmap", || {
                // SAFETY: dropped here only, and `self` isn't used afterwards.
                unsafe { ManuallyDrop::drop(&mut self.page) };
                Ok(())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, HUGE_PAGE_BYTES, Mapping};
    use nix::sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    };
    use std::{fs::File, num::NonZeroUsize};

    /// Huge pages of which there are none: that is found out when the kernel has made room.
    #[test]
    fn what_a_file_refuses_leaves_no_hole_in_what_is_reserved() {
        let len = 64 * HUGE_PAGE_BYTES as usize;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        // A system without them has nothing to refuse here.
        let Ok(file) = memfd_create(c"huge", flags).map(File::from) else { return };
        file.set_len(1 << 40).unwrap();
        let mapping = Mapping::reserve(len, 4096, HUGE_PAGE_BYTES as usize).unwrap();
        if mapping.place(&file, 0, len, Access::Read).is_ok() {
            // It has 64 of them to spare.
            return;
        }
        let address = NonZeroUsize::new(mapping.base.as_ptr().addr());
        let (page, fixed) = (NonZeroUsize::new(4096).unwrap(), MapFlags::MAP_FIXED_NOREPLACE);
        // SAFETY: it replaces nothing, or fails.
        let other =
            unsafe { mmap_anonymous(address, page, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE | fixed) };
        if let Ok(other) = other {
            // SAFETY: mapped just now. What is reserved would be unmapped with another's page in it.
            unsafe { munmap(other, 4096) }.unwrap();
            std::mem::forget(mapping);
            panic!("anybody may have got what is taken for ours");
        }
    }
}
