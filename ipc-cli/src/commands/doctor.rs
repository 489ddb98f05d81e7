//! `ipc doctor`: is this system fit for channels, and what would make it so?

use super::{print, stat::to_json};
use crate::{
    args,
    doctor::{self, Finding, Verdict},
    exit::{Ending, Exit, Failure},
};
use std::fmt::Write as _;

pub(crate) fn run(options: &args::Doctor) -> Result<Ending, Failure> {
    let findings = doctor::examine();
    print(&if options.json { to_json(&findings) } else { to_text(&findings) })?;
    let missing = findings.iter().find(|finding| finding.verdict == Verdict::Missing);
    missing
        .map_or(Ok(Ending::Done), |finding| Err(Failure::new(Exit::Failure, finding.name, &finding.meaning)))
}

/// A line for each, what it means below it, and what to do where something is to be done.
fn to_text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let Finding { name, value, verdict, meaning, command } = finding;
        let value = value.as_deref().unwrap_or("-");
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{verdict:<7}  {name:<width$}  {value}");
        let _ = writeln!(text, "         {meaning}");
        if let Some(command) = command {
            let how = if *verdict == Verdict::Fine { "to raise it" } else { "to change it" };
            let _ = writeln!(text, "         {how}: {command}");
        }
    }
    let short = findings.iter().filter(|finding| finding.verdict != Verdict::Fine).count();
    let _ = match short {
        0 => writeln!(text, "all is fine"),
        _ => writeln!(text, "{short} of {} could be better", findings.len()),
    };
    text
}
