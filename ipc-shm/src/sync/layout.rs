//! What a value looks like in memory, in words that two programs can compare.
//!
//! Two programs that share a value agree on its bytes, not on the path of its type: one may
//! have it from another version of a crate, or from another language. So a type is known by
//! a description of its layout, `{retries: u32, limits: [u64; 4]}`: the names, types and order
//! of its fields, which are all there is, since such types have no padding. The segment
//! keeps the text, for error messages, and its hash, which decides.

use crate::sys::file;
use ipc_core::OsError;
use std::fs::File;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A type whose layout can be described. [`layout!`](crate::layout) implements it for structs.
pub trait Layout {
    /// Appends the description.
    fn describe(text: &mut String);
}

/// What can be shared: any bytes are a value, all of its bytes count, and it has no pointers.
///
/// That is what [`zerocopy`](crate::zerocopy)'s traits say, which [`layout!`](crate::layout)
/// derives; the compiler checks them.
pub trait Plain: FromBytes + IntoBytes + Immutable + Layout + Send + Sync + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + Layout + Send + Sync + 'static> Plain for T {}

macro_rules! numbers {
    ($($number:ident)*) => {$(
        impl Layout for $number {
            fn describe(text: &mut String) {
                text.push_str(stringify!($number));
            }
        }
    )*};
}

numbers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);

impl Layout for () {
    fn describe(text: &mut String) {
        text.push_str("()");
    }
}

impl<T: Layout> Layout for [T] {
    fn describe(text: &mut String) {
        text.push('[');
        T::describe(text);
        text.push(']');
    }
}

impl<T: Layout, const N: usize> Layout for [T; N] {
    fn describe(text: &mut String) {
        text.push('[');
        T::describe(text);
        text.push_str(&format!("; {N}]"));
    }
}

/// Declares a struct that can be shared, as it is written, and describes its
/// [`Layout`](crate::sync::Layout).
///
/// It becomes `repr(C)`, and [`Plain`](crate::sync::Plain): it is checked that any bytes are a value
/// of it and that there is no padding; so `usize`, references, `bool` and enums are refused
/// (share a `u8` or `u32` instead). The crate must go by its own name, `ipc_shm`, where this is
/// used.
///
/// ```
/// use ipc_shm::sync::Shared;
///
/// ipc_shm::layout! {
///     /// What all workers go by.
///     #[derive(Clone, Copy, Debug, Default, PartialEq)]
///     struct Config {
///         retries: u32,
///         batch: u32,
///         limits: [u64; 4],
///     }
/// }
/// # let mut text = String::new();
/// # <Config as ipc_shm::sync::Layout>::describe(&mut text);
/// # assert_eq!(text, "{retries: u32, batch: u32, limits: [u64; 4]}");
/// # fn share(_: Shared<Config>) {}
/// ```
///
/// Two programs that don't have the same fields have two layouts, so no field depends on a `cfg`:
///
/// ```compile_fail
/// ipc_shm::layout! {
///     struct Config {
///         retries: u32,
///         #[cfg(unix)]
///         batch: u32,
///     }
/// }
/// ```
#[macro_export]
macro_rules! layout {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$($of_field:tt)+])* $field_visibility:vis $field:ident: $type:ty),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive($crate::zerocopy::FromBytes, $crate::zerocopy::IntoBytes, $crate::zerocopy::Immutable)]
        #[zerocopy(crate = "ipc_shm::zerocopy")]
        #[repr(C)]
        $visibility struct $name {
            $($(#[$($of_field)+])* $field_visibility $field: $type,)+
        }

        impl $crate::sync::Layout for $name {
            fn describe(text: &mut ::std::string::String) {
                let mut separator = "{";
                $(
                    $($crate::__always_there!{ $($of_field)+ })*
                    text.push_str(separator);
                    text.push_str(concat!(stringify!($field), ": "));
                    <$type as $crate::sync::Layout>::describe(text);
                    separator = ", ";
                )+
                let _ = separator;
                text.push('}');
            }
        }
    };
}

/// Refuses an attribute by which a field may not be there: its description always is.
#[doc(hidden)]
#[macro_export]
macro_rules! __always_there {
    (cfg $($condition:tt)*) => {
        ::std::compile_error!("a field of a shared struct can't depend on a `cfg`: declare a struct for each case")
    };
    (cfg_attr $($condition:tt)*) => {
        $crate::__always_there!(cfg $($condition)*)
    };
    ($($other:tt)*) => {};
}

/// A layout, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) text: String,
    pub(super) len_bytes: usize,
    pub(super) alignment_bytes: usize,
}

/// Where the text is in the first page, behind the mark of use: its length, and so many bytes.
pub(super) const TEXT: u64 = 2048;
const MOST_TEXT_BYTES: usize = 1024;

impl Described {
    pub(super) fn of<T: Layout>() -> Self {
        let mut text = String::new();
        T::describe(&mut text);
        Self { text, len_bytes: size_of::<T>(), alignment_bytes: align_of::<T>() }
    }

    /// 64-bit FNV-1a of all that must be the same.
    pub(super) fn hash(&self) -> u64 {
        self.summary()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// For people.
    pub(super) fn summary(&self) -> String {
        format!("{} ({} bytes, aligned to {})", self.text, self.len_bytes, self.alignment_bytes)
    }

    /// What is kept of it in the segment.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut summary = self.summary();
        if summary.len() > MOST_TEXT_BYTES {
            let end = (0..=MOST_TEXT_BYTES - 3).rev().find(|&at| summary.is_char_boundary(at)).unwrap_or(0);
            summary.truncate(end);
            summary.push('…');
        }
        let mut bytes = (summary.len() as u64).to_ne_bytes().to_vec();
        bytes.extend(summary.bytes());
        bytes
    }
}

/// The summary that a segment keeps; whatever is there, it is fit to be shown.
pub(super) fn found_in(file: &File) -> Result<String, OsError> {
    let mut len = [0; 8];
    if !file::read_at(file, &mut len, TEXT)? {
        return Ok("nothing".into());
    }
    let len = usize::try_from(u64::from_ne_bytes(len)).unwrap_or(usize::MAX).min(MOST_TEXT_BYTES);
    let mut bytes = vec![0; len];
    file::read_at(file, &mut bytes, TEXT + 8)?;
    Ok(String::from_utf8_lossy(&bytes).escape_debug().to_string().replace("\\u{2026}", "…"))
}
