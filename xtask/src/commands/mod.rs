//! The commands: what they are called, and which one is meant.

mod crash;
mod crowd;
mod fuzz;
mod hostile;
mod locks;
mod matrix;
mod model;
mod soak;
mod survival;
mod test_all;

use crate::isolation;
use std::process::ExitCode;

/// A chore that `cargo xtask` knows by name.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) options: &'static [Opt],
    pub(crate) run: fn(&Given) -> ExitCode,
}

/// What a command can be told.
pub(crate) struct Opt {
    pub(crate) name: &'static str,
    /// What its value is called, if it has one.
    pub(crate) value: Option<&'static str>,
    pub(crate) summary: &'static str,
}

impl Opt {
    fn usage(&self) -> String {
        self.value.map_or_else(|| self.name.into(), |value| format!("{} {value}", self.name))
    }
}

/// What a command was told: its own options, and their values.
#[derive(Debug)]
pub(crate) struct Given(Vec<(&'static str, String)>);

impl Given {
    fn parse(options: &'static [Opt], arguments: &[String]) -> Result<Self, String> {
        let mut given = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(option) = options.iter().find(|option| option.name == argument) else {
                return Err(format!("unexpected argument: {argument}"));
            };
            let value = match option.value {
                None => String::new(),
                Some(_) => arguments.next().ok_or(format!("{argument} takes a value"))?.clone(),
            };
            given.push((option.name, value));
        }
        Ok(Self(given))
    }

    pub(crate) fn has(&self, option: &str) -> bool {
        self.value(option).is_some()
    }

    pub(crate) fn value(&self, option: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| *name == option).map(|(_, value)| value.as_str())
    }
}

const COMMANDS: [&Command; 9] = [
    &test_all::COMMAND,
    &matrix::COMMAND,
    &model::COMMAND,
    &crash::COMMAND,
    &crowd::COMMAND,
    &soak::COMMAND,
    &hostile::COMMAND,
    &locks::COMMAND,
    &fuzz::COMMAND,
];

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
        [name, rest @ ..] => match COMMANDS.iter().find(|command| command.name == name) {
            Some(command) => match Given::parse(command.options, rest) {
                Ok(given) => (command.run)(&given),
                Err(what) => usage_error(&what),
            },
            None => usage_error(&format!("unknown command: {name}")),
        },
    }
}

/// What is wrong with these arguments, if anything is.
pub(crate) fn misunderstood(arguments: &[String]) -> Option<String> {
    let (name, rest) = arguments.split_first()?;
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => Given::parse(command.options, rest).err(),
        None => Some(format!("unknown command: {name}")),
    }
}

fn usage_error(what: &str) -> ExitCode {
    eprint!("xtask: {what}\n\n{}", usage());
    ExitCode::from(USAGE_ERROR)
}

fn usage() -> String {
    let options = |command: &Command| -> Vec<(String, &'static str)> {
        command.options.iter().map(|option| (format!("  {}", option.usage()), option.summary)).collect()
    };
    let entries: Vec<(String, &str)> = COMMANDS
        .iter()
        .flat_map(|command| [vec![(command.name.into(), command.summary)], options(command)].concat())
        .collect();
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = entries.iter().map(|(name, summary)| format!("  {name:width$}  {summary}\n"));
    format!("Usage: cargo xtask COMMAND [OPTION…]\n\nCommands:\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::{COMMANDS, Given, dispatch, misunderstood, usage};
    use std::process::ExitCode;

    fn run(arguments: &[&str]) -> ExitCode {
        dispatch(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn unknown_commands_and_arguments_are_usage_errors() {
        let wrong = [&["matrix", "--no-such-option"][..], &["soak", "--minutes"], &["crash", "soak"]];
        for arguments in [&[][..], &["no-such-chore"]].into_iter().chain(wrong) {
            assert_eq!(run(arguments), ExitCode::from(2), "{arguments:?}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_told_without_running_anything() {
        let why = |line: &str| misunderstood(&line.split(' ').map(Into::into).collect::<Vec<_>>());
        assert_eq!(why("soak --minutes 3"), None);
        assert_eq!(why("soak --hours 3").as_deref(), Some("unexpected argument: --hours"));
        assert_eq!(why("no-such-chore").as_deref(), Some("unknown command: no-such-chore"));
    }

    #[test]
    fn help_names_every_command() {
        assert_eq!(run(&["--help"]), ExitCode::SUCCESS);
        for command in COMMANDS {
            assert!(usage().contains(command.name));
            assert!(command.options.iter().all(|option| usage().contains(&option.usage())));
        }
    }

    #[test]
    fn options_are_given_with_their_values_and_the_last_one_counts() {
        let options = crate::commands::soak::COMMAND.options;
        let given = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
            Given::parse(options, &arguments)
        };
        let both = given(&["--minutes", "3", "--seed", "7", "--minutes", "4"]).unwrap();
        assert_eq!((both.value("--minutes"), both.value("--seed")), (Some("4"), Some("7")));
        assert!(!given(&[]).unwrap().has("--seed"));
        assert!(given(&["--seed"]).is_err());
    }
}
