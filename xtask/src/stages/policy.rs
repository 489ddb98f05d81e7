//! House rules over the sources that no compiler knows. Each rule is a check.

use crate::{report::Outcome, workspace};
use std::{
    fs,
    path::{Path, PathBuf},
};

struct Source {
    path: PathBuf,
    text: String,
}

/// Says what is wrong with a source, as `(line, what)`.
type Rule = fn(&Source) -> Vec<(usize, String)>;

const RULES: [Rule; 3] = [unfinished, undescribed, unsafe_allowed];

/// Put together so that this file doesn't break its own rule.
const UNFINISHED: [&str; 4] =
    [concat!("#[", "ignore"), concat!("to", "do!"), concat!("un", "implemented!"), concat!("db", "g!")];

/// The crates without unsafe code, by their root modules.
const SAFE_CRATES: [&str; 3] = ["ipc-core/src/lib.rs", "ipc-cli/src/main.rs", "xtask/src/main.rs"];

pub(super) fn run() -> Outcome {
    match sources() {
        Ok(sources) => Outcome::of_problems(
            &RULES.map(|rule| apply(rule, &sources)),
            format!("{} sources", sources.len()),
        ),
        Err(error) => Outcome::failed(format!("the sources can't be read: {error}")),
    }
}

fn sources() -> std::io::Result<Vec<Source>> {
    let read = |path: PathBuf| Ok(Source { text: fs::read_to_string(workspace::root().join(&path))?, path });
    workspace::sources()?.into_iter().map(read).collect()
}

fn apply(rule: Rule, sources: &[Source]) -> Vec<String> {
    let of_source = |source| rule(source).into_iter().map(|(line, what)| describe(source, line, &what));
    sources.iter().flat_map(of_source).collect()
}

fn describe(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", source.path.display())
}

/// No test is left out, no code is left for later, no print for debugging is left in.
fn unfinished(source: &Source) -> Vec<(usize, String)> {
    let lines = source.text.lines().zip(1..);
    let code = lines.map(|(line, number)| (line.split("//").next().unwrap_or(line), number));
    let found = code.flat_map(|(code, number)| {
        let words = UNFINISHED.into_iter().filter(|word| code.contains(word));
        words.map(move |word| (number, format!("`{word}` in committed code")))
    });
    found.collect()
}

/// Every file begins by saying what it is.
fn undescribed(source: &Source) -> Vec<(usize, String)> {
    let first = source.text.lines().next().unwrap_or_default();
    let is_script = first.starts_with("#!") && !first.starts_with("#![");
    match first.starts_with("//!") || is_script {
        true => Vec::new(),
        false => vec![(1, "doesn't begin with `//!`".into())],
    }
}

/// Some crates have promised to have no unsafe code.
fn unsafe_allowed(source: &Source) -> Vec<(usize, String)> {
    let promised = SAFE_CRATES.iter().any(|path| source.path == Path::new(path));
    match promised && !source.text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
        true => vec![(1, "has no `#![forbid(unsafe_code)]`".into())],
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Rule, Source, UNFINISHED, undescribed, unfinished, unsafe_allowed};

    fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
        rule(&Source { path: path.into(), text: text.into() }).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn unfinished_code_is_found_but_not_in_comments() {
        for word in UNFINISHED {
            let text = format!("//! {word}\nfn f() {{ {word}() }} // {word}\n");
            assert_eq!(lines(unfinished, "a.rs", &text), [2], "{word}");
        }
    }

    #[test]
    fn a_source_begins_with_what_it_is() {
        for good in ["//! What.\n", "#!/usr/bin/env cargo\n"] {
            assert!(lines(undescribed, "a.rs", good).is_empty(), "{good}");
        }
        for bad in ["", "\n//! What.\n", "#![allow(x)]\n", "use std::fs;\n", "/// What.\n"] {
            assert_eq!(lines(undescribed, "a.rs", bad), [1], "{bad}");
        }
    }

    #[test]
    fn promised_crates_must_forbid_unsafe_code() {
        assert_eq!(
            lines(unsafe_allowed, "ipc-core/src/lib.rs", "//! Core.\n// #![forbid(unsafe_code)]\n"),
            [1]
        );
        assert!(
            lines(unsafe_allowed, "ipc-core/src/lib.rs", "//! Core.\n#![forbid(unsafe_code)]\n").is_empty()
        );
        assert!(lines(unsafe_allowed, "ipc-shm/src/lib.rs", "//! Shm.\n").is_empty());
    }
}
