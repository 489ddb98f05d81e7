//! A process of a scene: this program again, which plays a part and is talked to by lines.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

/// It is killed when it is dropped.
pub(super) struct Player {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Player {
    /// Starts one with these arguments of the hidden option.
    pub(super) fn start(part: &[&str]) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["demo", "--part"])
            .args(part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let Some(said) = child.stdout.take() else { unreachable!("it was asked for") };
        Ok(Self { child, said: BufReader::new(said) })
    }

    pub(super) fn tell(&mut self, line: &str) -> io::Result<()> {
        let Some(stdin) = &mut self.child.stdin else { unreachable!("it was asked for") };
        stdin.write_all(format!("{line}\n").as_bytes())
    }

    /// The next line that it says.
    pub(super) fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.said.read_line(&mut line)? {
            0 => Err(io::Error::other("a process of the demo ended too early")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Waits until it says this.
    pub(super) fn expect(&mut self, word: &str) -> io::Result<()> {
        match self.hear()? {
            said if said == word => Ok(()),
            said => Err(io::Error::other(format!("a process of the demo said `{said}`"))),
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
