//! Lines that tell which run they are of, their number, and whether they are whole.

use std::{
    io::Write,
    process::ChildStdin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// `run.number`, filling of a length that varies, and a mark at the end.
pub(super) fn line(run: u64, number: u64) -> String {
    let filling = "0123456789abcdefghijklmnopqrstuvwxyz".chars().cycle().skip((number % 36) as usize);
    format!(
        "{run}.{number} {} {run}.{number}!",
        filling.take((number * 7 % 150) as usize).collect::<String>()
    )
}

/// Lines 1 to `count` with their newlines.
pub(super) fn lines(run: u64, count: u64) -> Vec<u8> {
    (1..=count).flat_map(|number| (line(run, number) + "\n").into_bytes()).collect()
}

/// The run and the number of a line, if it is whole.
pub(super) fn parse(text: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (run, number) = text.split_once(' ')?.0.split_once('.')?;
    let (run, number) = (run.parse().ok()?, number.parse().ok()?);
    (text == line(run, number)).then_some((run, number))
}

/// What a process printed: whole lines, and what follows the last newline.
pub(super) fn split(output: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut lines: Vec<&[u8]> = output.split(|&byte| byte == b'\n').collect();
    let rest = lines.pop().unwrap_or_default();
    (lines, rest)
}

/// All lines parsed; one that is torn is an error that shows it.
pub(super) fn parse_all(lines: &[&[u8]]) -> Result<Vec<(u64, u64)>, String> {
    let parse_one = |line: &&[u8]| parse(line).ok_or_else(|| torn(line));
    lines.iter().map(parse_one).collect()
}

fn torn(line: &[u8]) -> String {
    format!("a torn or foreign line: {}", String::from_utf8_lossy(line).escape_debug())
}

/// Writes numbered lines into a process, until it is told to stop or nobody reads.
pub(super) struct Feed {
    enough: Arc<AtomicBool>,
    writer: JoinHandle<u64>,
}

impl Feed {
    pub(super) fn start(mut stdin: ChildStdin, run: u64) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&enough);
        let writer = thread::spawn(move || {
            let written = (1..).take_while(|&number| {
                !stop.load(Ordering::Relaxed)
                    && stdin.write_all((line(run, number) + "\n").as_bytes()).is_ok()
            });
            written.last().unwrap_or(0)
        });
        Self { enough, writer }
    }

    /// Ends the input; how many lines it was. Only while the input is being read.
    pub(super) fn finish(self) -> Result<u64, String> {
        self.enough.store(true, Ordering::Relaxed);
        self.writer.join().map_err(|_| "the thread that feeds lines has panicked".into())
    }
}

#[cfg(test)]
mod tests {
    use super::{line, lines, parse, split};

    #[test]
    fn a_line_knows_its_run_and_number() {
        for (run, number) in [(1, 1), (3, 149), (20, 1_000_000)] {
            assert_eq!(parse(line(run, number).as_bytes()), Some((run, number)));
        }
    }

    #[test]
    fn a_torn_line_is_noticed() {
        let whole = line(2, 77);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole.as_bytes()[..len]), None, "{len}");
        }
        assert_eq!(parse((whole.clone() + &whole).as_bytes()), None);
    }

    #[test]
    fn what_follows_the_last_newline_is_apart() {
        assert_eq!(split(b"a\n\nb"), (vec![&b"a"[..], b""], &b"b"[..]));
        assert_eq!(split(b""), (vec![], &b""[..]));
        assert_eq!(split(&lines(1, 3)).0.len(), 3);
    }
}
