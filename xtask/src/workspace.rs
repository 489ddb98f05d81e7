//! The workspace: where it is, how `cargo` is called in it, which sources it has.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Where those whom `cargo` runs have their temporary files, if not where the system has them.
static TEMPORARY: OnceLock<PathBuf> = OnceLock::new();

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The folder for what cargo makes.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |target| root().join(target))
}

/// `cargo` with these arguments, in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // What these commands make is made for them alone, and as a whole.
    command.env("CARGO_INCREMENTAL", "0");
    if let Some(folder) = TEMPORARY.get() {
        command.env("TMPDIR", folder);
    }
    command
}

/// From now on those whom `cargo` runs have their temporary files in this folder.
pub(crate) fn set_temporary(folder: &Path) {
    // Who has set it first has it.
    let _ = TEMPORARY.set(folder.into());
}

/// All Rust sources, by their paths within the workspace, sorted. What is hidden and what
/// `cargo` makes are left out.
pub(crate) fn sources() -> io::Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.file_type()? {
                kind if kind.is_dir() && !name.starts_with('.') && name != "target" => {
                    folders.push(entry.path())
                }
                kind if kind.is_file() && name.ends_with(".rs") => {
                    sources.extend(entry.path().strip_prefix(root()).map(Path::to_path_buf));
                }
                _ => {}
            }
        }
    }
    sources.sort();
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::sources;
    use std::path::Path;

    #[test]
    fn the_sources_of_all_crates_are_found() {
        let sources = sources().unwrap();
        for source in ["xtask/src/workspace.rs", "ipc-core/src/lib.rs"] {
            assert!(sources.iter().any(|path| path == Path::new(source)), "{source}");
        }
        assert!(!sources.iter().any(|path| path.starts_with("target")));
    }
}
