//! What `fork(2)` must not break: [`ipc_core::fork`], of which this makes sure that it runs.

pub(crate) use ipc_core::fork::{Private, generation};

use ipc_core::fork::{self, Window};
use nix::libc;
use std::os::fd::RawFd;

/// The [`generation`], for whoever is to notice forks that come.
pub(crate) fn begin() -> u32 {
    fork::notice(|| {
        // SAFETY: the handlers are functions of this program, made to run there and more than once.
        let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        assert_eq!(failed, 0, "pthread_atfork: out of memory");
    })
}

extern "C" fn before() {
    fork::before();
}

extern "C" fn in_parent() {
    fork::in_parent();
}

extern "C" fn in_child() {
    fork::in_child(|number| {
        // SAFETY: the copy of a descriptor that its owner, of another generation, won't use.
        unsafe { libc::close(number) };
    });
}

/// What `make` makes, and no forked child has; `number` is that of its descriptor.
pub(crate) fn private<D, E>(
    make: impl FnOnce() -> Result<D, E>,
    number: impl FnOnce(&D) -> RawFd,
) -> Result<Private<D>, E> {
    begin();
    let window = Window::open();
    let owner = make()?;
    let number = number(&owner);
    Ok(Private::new(owner, number, &window))
}
