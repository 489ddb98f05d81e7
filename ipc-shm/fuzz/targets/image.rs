//! Whole images, as the fuzzer changes them: see `image`.

#![no_main]

#[path = "../src/image.rs"]
mod image;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static DIRECTORY: LazyLock<image::Directory> = LazyLock::new(image::Directory::new);

fuzz_target!(|script: &[u8]| image::play(script, &DIRECTORY));
