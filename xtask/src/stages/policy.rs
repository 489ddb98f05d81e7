//! House rules over the sources that no compiler knows. Each rule is a check.

use crate::{commands, report::Outcome, workspace};
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
const SAFE_CRATES: [&str; 2] = ["ipc-core/src/lib.rs", "xtask/src/main.rs"];

/// A crate with unsafe code in one module, which allows it and says why.
const MOSTLY_SAFE: [(&str, &str); 1] = [("ipc-cli/src/", "streams.rs")];

pub(super) fn run() -> Outcome {
    match sources() {
        Ok(sources) => {
            let mut problems = RULES.map(|rule| apply(rule, &sources)).to_vec();
            problems.push(match fs::read_to_string(workspace::root().join("README.md")) {
                Ok(readme) => [untrue(&readme, &sources), missing(&readme)].concat(),
                Err(error) => vec![format!("README.md can't be read: {error}")],
            });
            Outcome::of_problems(&problems, format!("{} sources", sources.len()))
        }
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

/// The README's programs are the examples, which are compiled, and the tests that it names
/// exist.
fn untrue(readme: &str, sources: &[Source]) -> Vec<String> {
    let examples = sources.iter().filter(|source| source.path.to_string_lossy().contains("/examples/"));
    let programs = examples.filter_map(|source| {
        // The same program stands there once for both backends.
        let program: String = source
            .text
            .lines()
            .filter(|line| !line.starts_with("//!"))
            .map(|line| format!("{line}\n"))
            .collect();
        let shown = readme.contains(&program.replace("ipc_shm", "ipc_mq"));
        (!shown).then(|| format!("README.md doesn't show {} as it is", source.path.display()))
    });
    let is_test = |word: &&str| word.matches('_').count() >= 4 && !word.contains(['/', ' ', '.']);
    let tests = readme.split('`').skip(1).step_by(2).filter(is_test).filter_map(|name| {
        let ways = [format!("fn {name}("), format!("fn {name}<")];
        let exists = sources.iter().any(|source| ways.iter().any(|way| source.text.contains(way)));
        (!exists).then(|| format!("README.md names a test that doesn't exist: {name}"))
    });
    programs.chain(tests).collect()
}

/// The files that the README names or links exist, and so do the chores.
fn missing(readme: &str) -> Vec<String> {
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let quoted = readme.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| word.contains('/') && !word.contains([' ', '\n', ':', '#', '…']);
    let of_ours = |word: &&str| ["ipc-", "xtask/"].iter().any(|head| word.starts_with(head));
    let files = links.filter(is_path).chain(quoted.filter(is_path).filter(of_ours));
    let files = files.filter(|path| !workspace::root().join(path).exists());
    let files = files.map(|path| format!("README.md names a file that doesn't exist: {path}"));
    // Up to the end of the quotation, of the line, or what is said of it.
    let chores = readme.split("cargo xtask ").skip(1).filter_map(|rest| rest.split(['`', '\n', '#']).next());
    let chores = chores.filter_map(|line| {
        let arguments: Vec<String> = line.split_whitespace().map(Into::into).collect();
        let why = commands::misunderstood(&arguments)?;
        Some(format!("README.md names a chore that can't be run: cargo xtask {}: {why}", line.trim_end()))
    });
    files.chain(chores).collect()
}

/// Some crates have promised to have no unsafe code, or only in one place.
fn unsafe_allowed(source: &Source) -> Vec<(usize, String)> {
    let says = |attribute: &str| source.text.lines().any(|line| line.trim() == attribute);
    if SAFE_CRATES.iter().any(|path| source.path == Path::new(path)) && !says("#![forbid(unsafe_code)]") {
        return vec![(1, "has no `#![forbid(unsafe_code)]`".into())];
    }
    let crates = MOSTLY_SAFE.iter();
    let Some((place, module)) =
        crates.filter_map(|(folder, module)| Some((source.path.strip_prefix(folder).ok()?, module))).next()
    else {
        return Vec::new();
    };
    if place == Path::new("main.rs") && !says("#![deny(unsafe_code)]") {
        return vec![(1, "has no `#![deny(unsafe_code)]`".into())];
    }
    let lines = source.text.lines().zip(1..).filter(|_| place != Path::new(module));
    let allows = lines.filter(|(line, _)| line.split("//").next().unwrap_or(line).contains("unsafe_code)"));
    let elsewhere = allows.filter(|(line, _)| line.contains("allow(") || line.contains("expect("));
    elsewhere.map(|(_, number)| (number, format!("unsafe code is for `{module}`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Rule, Source, UNFINISHED, missing, undescribed, unfinished, unsafe_allowed, untrue};

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
    fn the_readme_shows_the_examples_and_names_tests_that_exist() {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let sources = [
            source("ipc-shm/examples/shm_send.rs", "//! Sends.\nuse ipc_shm::Sender;\n"),
            source("ipc-shm/tests/a.rs", "//! Tests.\nfn a_test_that_is_really_there() {}\n"),
        ];
        let readme = "use ipc_mq::Sender;\n`a_test_that_is_really_there`, `cargo doc`, `ipc_mq`";
        assert!(untrue(readme, &sources).is_empty());
        assert_eq!(untrue("`a_test_that_was_once_there`", &sources).len(), 2);
    }

    #[test]
    fn the_readme_names_files_and_chores_that_exist() {
        let readme = "[a](ipc-shm/src/lib.rs), `ipc-shm/src/ring`, `/dev/shm`, `a/b`, [b](#license), `cargo xtask crash`,\n\
                      [c](https://example.org/a), `cargo xtask fuzz --target sealed`\n```\ncargo xtask crowd  # at once\n```\n";
        assert!(missing(readme).is_empty(), "{:?}", missing(readme));
        for wrong in [
            "`ipc-shm/src/no.rs`",
            "[a](ipc-shm/src/no.rs)",
            "![a](ipc-bench/pictures/no.svg)",
            "`cargo xtask no`",
            "`cargo xtask crash --no`",
            "```\ncargo xtask no\n```",
        ] {
            assert_eq!(missing(wrong).len(), 1, "{wrong}");
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

    #[test]
    fn a_crate_with_one_unsafe_module_has_no_other_one() {
        let root = "//! Ipc.\n#![deny(unsafe_code)]\n";
        let allowing = "//! Streams.\n// Why.\n#![allow(unsafe_code)]\n";
        assert_eq!(lines(unsafe_allowed, "ipc-cli/src/main.rs", "//! Ipc.\n"), [1]);
        assert!(lines(unsafe_allowed, "ipc-cli/src/main.rs", root).is_empty());
        assert!(lines(unsafe_allowed, "ipc-cli/src/streams.rs", allowing).is_empty());
        for elsewhere in ["main.rs", "output.rs", "commands/streams.rs"] {
            let path = format!("ipc-cli/src/{elsewhere}");
            assert_eq!(lines(unsafe_allowed, &path, &format!("{root}#[allow(unsafe_code)]\n")), [3]);
        }
    }
}
