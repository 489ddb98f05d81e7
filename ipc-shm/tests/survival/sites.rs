//! Where the sources access shared memory and make system calls: what there is to be hit,
//! known without running anything.
//!
//! Found by the text: a method named as an atomic operation, given an ordering, and the
//! calls of `sys`'s seam. Should that miss one, a victim comes by it and the run says so;
//! should it find too much, that is never hit.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A place in the sources, as the compiler counts lines and columns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    /// The file's path beneath `src`.
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

const OPERATIONS: [&str; 11] = [
    "load",
    "store",
    "swap",
    "compare_exchange",
    "compare_exchange_weak",
    "fetch_add",
    "fetch_sub",
    "fetch_and",
    "fetch_or",
    "fetch_update",
    "clear",
];
const ORDERINGS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];
const SEAM: [&str; 3] = ["once", "attempt", "call"];
/// What accesses and calls pass through, and hand their caller's place on.
const PASSAGES: [&str; 3] = ["hooks.rs", "ring/memory.rs", "sys/linux/mod.rs"];

/// The places in this crate.
pub(crate) fn of_this_crate() -> BTreeSet<Site> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    let sources: Vec<_> = files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("the sources are there");
            let name = path.strip_prefix(&src).expect("found in it").to_string_lossy().into_owned();
            (name, code_only(&text))
        })
        .collect();
    let of_tests: BTreeSet<String> =
        sources.iter().flat_map(|(name, code)| test_modules(name, code)).collect();
    let mut sites = BTreeSet::new();
    for (name, code) in &sources {
        let is_of_tests = of_tests.iter().any(|module| name.starts_with(module.as_str()));
        if PASSAGES.contains(&name.as_str()) || is_of_tests {
            continue;
        }
        let offsets = match name.starts_with("sys/") {
            true => calls(code),
            false => accesses(code),
        };
        sites.extend(offsets.into_iter().map(|offset| {
            let before = &code[..offset];
            let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            Site {
                file: name.clone(),
                line: 1 + before.iter().filter(|&&byte| byte == b'\n').count() as u32,
                column: (offset - line_start) as u32 + 1,
            }
        }));
    }
    sites
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("the sources are there").path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push(path),
        }
    }
}

/// The source with comments, texts and inline modules of tests blanked out. One byte for
/// one character, so that columns are right.
fn code_only(text: &str) -> Vec<u8> {
    let mut code: Vec<u8> = text.chars().map(|c| if c.is_ascii() { c as u8 } else { b'_' }).collect();
    let mut at = 0;
    while at < code.len() {
        let end = match code[at] {
            b'/' if code[at..].starts_with(b"//") => find(&code, at, b"\n"),
            b'"' => {
                let mut end = at + 1;
                while end < code.len() && code[end] != b'"' {
                    end += if code[end] == b'\\' { 2 } else { 1 };
                }
                end + 1
            }
            // A character, not a lifetime.
            b'\'' if code.get(at + 1) == Some(&b'\\') => find(&code, at + 3, b"'") + 1,
            b'\'' if code.get(at + 2) == Some(&b'\'') => at + 3,
            _ => {
                at += 1;
                continue;
            }
        };
        blank(&mut code, at, end);
        at = end;
    }
    let mut at = find(&code, 0, TEST);
    while at < code.len() {
        let brace = find(&code, at, b"{");
        if brace < find(&code, at, b";") {
            let end = matching(&code, brace, b'{', b'}');
            blank(&mut code, at, end);
        }
        at = find(&code, at + 1, TEST);
    }
    code
}

const TEST: &[u8] = b"#[cfg(test)]";

/// How the names of files begin that are modules of tests: `x.rs`, or `x/` and all in it.
fn test_modules(name: &str, code: &[u8]) -> Vec<String> {
    let folder = match name.rsplit_once('/') {
        Some((folder, "mod.rs")) => format!("{folder}/"),
        Some((folder, file)) => format!("{folder}/{}/", file.trim_end_matches(".rs")),
        None if name == "lib.rs" => String::new(),
        None => format!("{}/", name.trim_end_matches(".rs")),
    };
    let mut found = Vec::new();
    let mut at = find(code, 0, TEST);
    while at < code.len() {
        let item = String::from_utf8_lossy(&code[at + TEST.len()..find(code, at, b";")]).into_owned();
        if let Some(module) = item.trim().strip_prefix("mod ") {
            found.extend([format!("{folder}{module}.rs"), format!("{folder}{module}/")]);
        }
        at = find(code, at + 1, TEST);
    }
    found
}

fn accesses(code: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    for operation in OPERATIONS {
        let pattern = format!(".{operation}(");
        let mut at = find(code, 0, pattern.as_bytes());
        while at < code.len() {
            let open = at + pattern.len() - 1;
            let arguments =
                String::from_utf8_lossy(&code[open..matching(code, open, b'(', b')')]).into_owned();
            let is_atomic = words(&arguments).any(|word| ORDERINGS.contains(&word));
            if is_atomic && !is_static(code, at) {
                found.push(at + 1);
            }
            at = find(code, at + 1, pattern.as_bytes());
        }
    }
    found
}

/// Whether what stands before the dot is a static, which is this process's own.
fn is_static(code: &[u8], dot: usize) -> bool {
    let start = code[..dot].iter().rposition(|byte| !is_of_a_word(*byte)).map_or(0, |at| at + 1);
    let name = &code[start..dot];
    !name.is_empty() && name.iter().all(|byte| !byte.is_ascii_lowercase())
}

fn calls(code: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    for name in SEAM {
        let pattern = format!("{name}(");
        let mut at = find(code, 0, pattern.as_bytes());
        while at < code.len() {
            let before = &code[..at];
            let is_whole = before.last().is_none_or(|byte| !is_of_a_word(*byte) && *byte != b'.');
            if is_whole && !before.ends_with(b"fn ") {
                found.push(at);
            }
            at = find(code, at + 1, pattern.as_bytes());
        }
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn is_of_a_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `pattern` begins, from `start` on; the end of the code if nowhere.
fn find(code: &[u8], start: usize, pattern: &[u8]) -> usize {
    let rest = code.get(start..).unwrap_or_default();
    rest.windows(pattern.len()).position(|window| window == pattern).map_or(code.len(), |at| start + at)
}

/// Behind the bracket that closes the one at `start`.
fn matching(code: &[u8], start: usize, open: u8, close: u8) -> usize {
    let mut depth = 0;
    for (at, &byte) in code.iter().enumerate().skip(start) {
        depth += i32::from(byte == open) - i32::from(byte == close);
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn blank(code: &mut [u8], start: usize, end: usize) {
    let end = end.min(code.len());
    for byte in &mut code[start..end] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}
