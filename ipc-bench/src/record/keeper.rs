//! A run that is being made, on its way into a file.

use super::{Failure, Head, Line, Row};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
};

/// Keeps a run that is being made, each line out at once. The file of an earlier run stays as it
/// is until something has been measured: one that measured nothing is no reason to lose it.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    /// What makes the whole run doubtful, so that not each row says it again.
    warnings: Vec<String>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nothing has been measured yet: the lines that come before it.
    Waiting { before: Vec<u8> },
    /// It is in the file.
    Kept(File),
}

impl Keeper {
    /// A run that is to be kept at `path`, whose directory is made.
    ///
    /// # Errors
    ///
    /// If nothing can be written there, so that nobody measures for nothing.
    pub(crate) fn new(path: PathBuf, head: Head) -> Result<Self, String> {
        let stage = prepare(&path).map_err(|error| {
            format!("{} can't be written: {error}; give another file with --keep", path.display())
        })?;
        let mut keeper = Self { path, warnings: head.warnings.clone(), stage };
        keeper.write(&Line::Head(head))?;
        Ok(keeper)
    }

    pub(crate) fn row(&mut self, mut row: Row) -> Result<(), String> {
        row.warnings.retain(|warning| !self.warnings.contains(warning));
        if let Stage::Waiting { before } = &self.stage {
            let file = put_in_place(&self.path, before).map_err(|error| self.cant(&error))?;
            self.stage = Stage::Kept(file);
        }
        self.write(&Line::Row(Box::new(row)))
    }

    pub(crate) fn failed(&mut self, what: &str, why: &str) -> Result<(), String> {
        self.write(&Line::Failed(Failure { what: what.into(), why: why.into() }))
    }

    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.write(&Line::End { complete: true })
    }

    /// Where what was measured is, for people.
    pub(crate) fn whereabouts(&self) -> String {
        let path = self.path.display();
        match self.stage {
            Stage::Kept(_) => {
                format!("what was measured is kept in {path}; `ipc-bench report {path}` makes a page of it")
            }
            Stage::Waiting { .. } => format!("nothing was measured, so {path} is as it was"),
        }
    }

    fn write(&mut self, line: &Line) -> Result<(), String> {
        let text = serde_json::to_string(line).map_err(|error| error.to_string())? + "\n";
        let written = match &mut self.stage {
            Stage::Waiting { before } => before.write_all(text.as_bytes()),
            Stage::Kept(file) => file.write_all(text.as_bytes()),
        };
        written.map_err(|error| self.cant(&error))
    }

    fn cant(&self, error: &io::Error) -> String {
        format!("{} can't be written: {error}", self.path.display())
    }
}

/// Sees to it that the file can be made, without touching one that is there. What is no file (a
/// pipe, /dev/stdout) holds no earlier run, and is written at once.
fn prepare(path: &Path) -> io::Result<Stage> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Ok(Stage::Kept(File::options().write(true).open(path)?));
    }
    let beside = beside(path);
    File::create(&beside)?;
    fs::remove_file(&beside)?;
    Ok(Stage::Waiting { before: Vec::new() })
}

/// A new file in place of the one at `path`, which is there as a whole until the new one is.
fn put_in_place(path: &Path, text: &[u8]) -> io::Result<File> {
    let beside = beside(path);
    let renamed = File::create(&beside).and_then(|mut file| {
        file.write_all(text)?;
        fs::rename(&beside, target(path))?;
        Ok(file)
    });
    if renamed.is_err() {
        // The error that led here is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    renamed
}

/// The file itself, where `path` is a link to it.
fn target(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// A name of this process's own in the same directory.
fn beside(path: &Path) -> PathBuf {
    let mut name = target(path).into_os_string();
    name.push(format!(".{}.new", process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::Keeper;
    use crate::record::{Failure, Head, Row, Run};
    use std::{fs, path::PathBuf};

    /// A directory that goes when the test is over.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ipc-bench-keeper-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn head() -> Head {
        Head::now("quick", vec!["a machine".into()], vec![])
    }

    fn row(transport: &'static str) -> Row {
        Row { experiment: "latency".into(), transport: transport.into(), ..Row::default() }
    }

    #[test]
    fn a_run_is_read_as_it_was_kept_and_an_interrupted_one_as_far_as_it_got() {
        let folder = Folder::new("whole");
        for end in [true, false] {
            let path = folder.0.join(format!("{end}.jsonl"));
            let head = head();
            let mut keeper = Keeper::new(path.clone(), head.clone()).unwrap();
            keeper.failed("mq, 8 bytes", "the far process died").unwrap();
            keeper.row(row("mq")).unwrap();
            if end {
                keeper.end().unwrap();
            }
            let failures = vec![Failure { what: "mq, 8 bytes".into(), why: "the far process died".into() }];
            let expected = Run { head, rows: vec![row("mq")], failures, is_complete: end };
            assert_eq!(Run::read(&path).unwrap(), expected);
            // Killed in the middle of a line.
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, &text[..text.len() - 5]).unwrap();
            let cut = Run::read(&path).unwrap();
            assert!(!cut.is_complete && cut.rows.len() == usize::from(end));
        }
    }

    #[test]
    fn what_makes_the_whole_run_doubtful_is_said_once() {
        let folder = Folder::new("doubtful");
        let path = folder.0.join("run.jsonl");
        let [run, its] = ["a loaded machine", "8 processes share 2"].map(str::to_owned);
        let mut keeper = Keeper::new(path.clone(), Head { warnings: vec![run.clone()], ..head() }).unwrap();
        keeper.row(Row { warnings: vec![run, its.clone()], ..row("mq") }).unwrap();
        assert_eq!(Run::read(&path).unwrap().rows[0].warnings, [its]);
    }

    #[test]
    fn an_earlier_run_is_there_until_the_first_result_of_the_next() {
        let folder = Folder::new("earlier");
        let path = folder.0.join("last.jsonl");
        let mut earlier = Keeper::new(path.clone(), head()).unwrap();
        earlier.row(row("mq")).unwrap();
        earlier.end().unwrap();
        let before = fs::read_to_string(&path).unwrap();

        let mut keeper = Keeper::new(path.clone(), head()).unwrap();
        keeper.failed("sysv", "the near process died").unwrap();
        assert!(keeper.whereabouts().ends_with("last.jsonl is as it was"), "{}", keeper.whereabouts());
        drop(keeper);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        assert_eq!(folder.names(), ["last.jsonl"]);

        let mut keeper = Keeper::new(path.clone(), head()).unwrap();
        keeper.failed("sysv", "the near process died").unwrap();
        keeper.row(row("unix")).unwrap();
        assert!(keeper.whereabouts().contains("is kept in"), "{}", keeper.whereabouts());
        let run = Run::read(&path).unwrap();
        assert_eq!((run.rows, run.failures.len()), (vec![row("unix")], 1));
        assert_eq!(folder.names(), ["last.jsonl"]);
    }

    #[test]
    fn a_link_stays_a_link_to_the_new_run() {
        let folder = Folder::new("link");
        let (file, link) = (folder.0.join("file.jsonl"), folder.0.join("link.jsonl"));
        fs::write(&file, "an earlier run").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        Keeper::new(link.clone(), head()).unwrap().row(row("mq")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(Run::read(&file).unwrap().rows, [row("mq")]);
    }

    #[test]
    fn what_is_no_file_is_written_and_not_replaced() {
        let folder = Folder::new("pipe");
        let path = folder.0.join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs::read_to_string(path).unwrap()
        });
        let mut keeper = Keeper::new(path.clone(), head()).unwrap();
        keeper.row(row("mq")).unwrap();
        drop(keeper);
        assert_eq!(reader.join().unwrap().lines().count(), 2);
        assert!(!fs::metadata(&path).unwrap().is_file());
    }

    #[test]
    fn what_cant_be_written_is_said_before_anything_is_measured() {
        let folder = Folder::new("unwritable");
        let file = folder.0.join("file");
        fs::write(&file, "").unwrap();
        for path in [file.join("last.jsonl"), folder.0.clone()] {
            let error = Keeper::new(path, head()).unwrap_err();
            assert!(error.contains("give another file with --keep"), "{error}");
        }
    }
}
