//! The receiver of a sealed channel and a peer that does what the fuzzer says: see `sealed`.

#![no_main]

extern crate libc;

#[path = "../src/sealed.rs"]
mod sealed;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| sealed::play(script));
