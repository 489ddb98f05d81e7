//! The commands: what they are called, and which one is meant.

mod matrix;
mod test_all;

use crate::isolation;
use std::process::ExitCode;

/// A chore that `cargo xtask` knows by name.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) run: fn() -> ExitCode,
}

const COMMANDS: [&Command; 2] = [&test_all::COMMAND, &matrix::COMMAND];

const USAGE_ERROR: u8 = 2;

/// Runs the command that the arguments name, or lists those there are.
pub(crate) fn dispatch(arguments: &[String]) -> ExitCode {
    match arguments {
        [] => usage_error("a command is missing"),
        [help] if matches!(help.as_str(), "--help" | "-h" | "help") => {
            print!("{}", usage());
            ExitCode::SUCCESS
        }
        [probe] if probe == isolation::PROBE => isolation::probe(),
        [name] => match COMMANDS.iter().find(|command| command.name == name) {
            Some(command) => (command.run)(),
            None => usage_error(&format!("unknown command: {name}")),
        },
        [_, excess, ..] => usage_error(&format!("unexpected argument: {excess}")),
    }
}

fn usage_error(what: &str) -> ExitCode {
    eprint!("xtask: {what}\n\n{}", usage());
    ExitCode::from(USAGE_ERROR)
}

fn usage() -> String {
    let width = COMMANDS.iter().map(|command| command.name.len()).max().unwrap_or(0);
    let lines = COMMANDS.iter().map(|command| format!("  {:width$}  {}\n", command.name, command.summary));
    format!("Usage: cargo xtask COMMAND\n\nCommands:\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::{COMMANDS, dispatch, usage};
    use std::process::ExitCode;

    fn run(arguments: &[&str]) -> ExitCode {
        dispatch(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn unknown_commands_and_arguments_are_usage_errors() {
        for arguments in [&[][..], &["no-such-chore"], &["matrix", "--no-such-option"]] {
            assert_eq!(run(arguments), ExitCode::from(2), "{arguments:?}");
        }
    }

    #[test]
    fn help_names_every_command() {
        assert_eq!(run(&["--help"]), ExitCode::SUCCESS);
        for command in COMMANDS {
            assert!(usage().contains(command.name));
        }
    }
}
