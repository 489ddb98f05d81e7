//! The arrows between the crates: `ipc-core` depends on nothing, the backends don't know of
//! each other, and these chores know none of the crates. Each is a check.

use super::TIME_LIMIT;
use crate::{process, report::Outcome, workspace};

/// A crate, `cargo tree`'s further arguments, and what its normal dependencies must not hold.
type Rule = (&'static str, &'static [&'static str], fn(&str) -> bool);

const RULES: [Rule; 4] = [
    ("ipc-core", &[], |_| true),
    ("ipc-mq", &["--all-features", "--target=all"], |name| name == "ipc-shm"),
    ("ipc-shm", &["--all-features", "--target=all"], |name| name == "ipc-mq"),
    ("xtask", &["--all-features", "--target=all"], |name| name.starts_with("ipc-")),
];

pub(super) fn run() -> Outcome {
    let checks = RULES.map(|(package, arguments, forbidden)| match tree(package, arguments) {
        Ok(tree) => violations(package, &tree, forbidden),
        Err(output) => vec![output],
    });
    Outcome::of_problems(&checks, "ipc-core has none, the backends don't know each other")
}

fn tree(package: &str, arguments: &[&str]) -> Result<String, String> {
    let common = ["tree", "--package", package, "--edges", "normal", "--prefix", "none"];
    let finished = process::run(workspace::cargo(&common).args(arguments), TIME_LIMIT);
    if finished.success { Ok(finished.output) } else { Err(finished.output) }
}

/// The forbidden ones among the lines `name vVERSION …`, of which the first is the crate.
fn violations(package: &str, tree: &str, forbidden: fn(&str) -> bool) -> Vec<String> {
    let lines = tree.lines().skip_while(|line| !is_package(line, package)).skip(1);
    let names = lines.filter_map(|line| line.split_once(" v")).map(|(name, _)| name);
    names.filter(|name| forbidden(name)).map(|name| format!("{package} must not depend on {name}")).collect()
}

fn is_package(line: &str, package: &str) -> bool {
    line.strip_prefix(package).is_some_and(|rest| rest.starts_with(" v"))
}

#[cfg(test)]
mod tests {
    use super::violations;

    const TREE: &str =
        "ipc-mq v0.1.0 (/somewhere/ipc-mq)\nipc-core v0.1.0 (/somewhere/ipc-core)\nnix v0.31.3\n";

    #[test]
    fn a_crate_is_not_its_own_dependency() {
        assert!(violations("ipc-core", "ipc-core v0.1.0 (/somewhere)\n", |_| true).is_empty());
    }

    #[test]
    fn forbidden_dependencies_are_named() {
        assert!(violations("ipc-mq", TREE, |name| name == "ipc-shm").is_empty());
        assert_eq!(violations("ipc-mq", TREE, |name| name == "nix"), ["ipc-mq must not depend on nix"]);
    }

    #[test]
    fn messages_of_cargo_are_no_dependencies() {
        let tree = "    Updating crates.io index v1\nipc-core v0.1.0 (/somewhere)\n";
        assert!(violations("ipc-core", tree, |_| true).is_empty());
    }
}
