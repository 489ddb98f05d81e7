//! Runs cases: each on a thread of its own, so that one that hangs is a failure and not
//! the end of the run.

use super::{Case, Stage, Surroundings};
use libtest_mimic::{Arguments, Failed, Trial};
use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe, UnwindSafe},
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
};

/// A case may use up its patience this many times.
const WAITS_PER_CASE: u32 = 6;

thread_local! {
    static PANICS_ON_PURPOSE: Cell<bool> = const { Cell::new(false) };
}

/// Runs the cases that the command line asks for.
pub(super) fn run<F: Surroundings>(fixture: Arc<F>, cases: Vec<Case<F>>) -> ExitCode {
    let arguments = Arguments::from_args();
    hide_panics_on_purpose();
    let trials = cases.into_iter().map(|case| {
        let fixture = Arc::clone(&fixture);
        Trial::test(format!("conformance::{}", case.name), move || {
            verdict(fixture, &case).map_err(Failed::from)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs one case: why it failed, if it did.
pub(super) fn verdict<F: Surroundings>(fixture: Arc<F>, case: &Case<F>) -> Result<(), String> {
    let limit = fixture.patience() * WAITS_PER_CASE;
    let (done, outcome) = mpsc::channel();
    let run = case.run;
    let thread = thread::Builder::new().name(case.name.into()).spawn(move || {
        let stage = Stage::new(fixture);
        let result = panic::catch_unwind(AssertUnwindSafe(|| run(&stage)));
        drop(stage);
        // Nobody listens any more if the limit was exceeded.
        let _ = done.send(result.map_err(|payload| text_of(&*payload)));
    });
    let thread = thread.map_err(|error| format!("no thread for the case: {error}"))?;
    match outcome.recv_timeout(limit) {
        Ok(result) => {
            // The thread has only to return.
            let _ = thread.join();
            result
        }
        Err(RecvTimeoutError::Timeout) => Err(format!("hung: still not done after {limit:?}")),
        Err(RecvTimeoutError::Disconnected) => Err("the case's thread vanished".into()),
    }
}

/// Whether `action` panics. It does so on purpose, hence silently.
pub(super) fn panics(action: impl FnOnce() + UnwindSafe) -> bool {
    PANICS_ON_PURPOSE.set(true);
    let result = panic::catch_unwind(action);
    PANICS_ON_PURPOSE.set(false);
    result.is_err()
}

fn hide_panics_on_purpose() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !PANICS_ON_PURPOSE.get() {
            report(info);
        }
    }));
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}
