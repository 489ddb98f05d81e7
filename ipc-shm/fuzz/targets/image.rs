//! Whole images, as the fuzzer changes them: see `image`.

#![no_main]

#[path = "../src/image.rs"]
mod image;

use libfuzzer_sys::fuzz_target;

// A directory for each script: what is made for all of them would be left behind.
fuzz_target!(|script: &[u8]| image::play(script, &image::Directory::new()));
