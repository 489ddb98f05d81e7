//! How the demo looks: the diagrams, and colours where they are wanted.

use crate::address::Scheme;
use std::{fmt, io::IsTerminal};

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ink {
    coloured: bool,
}

impl Ink {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub(crate) fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: std::io::stdout().is_terminal() && !refused }
    }

    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { coloured: false }
    }

    pub(crate) fn heading(self, text: impl fmt::Display) -> String {
        self.paint("1", text)
    }

    pub(crate) fn actor(self, text: impl fmt::Display) -> String {
        self.paint("36", text)
    }

    pub(crate) fn time(self, text: impl fmt::Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn aside(self, text: impl fmt::Display) -> String {
        self.paint("2", text)
    }

    fn paint(self, style: &str, text: impl fmt::Display) -> String {
        if self.coloured { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// What a model is called.
pub(crate) fn title(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Shm => "Shared memory",
        _ => "Message passing",
    }
}

/// How a model works.
pub(crate) fn diagram(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Shm => SHARED_MEMORY,
        _ => MESSAGE_PASSING,
    }
}

const MESSAGE_PASSING: &str = "
   The kernel keeps a queue. Nobody connects to anybody.

     ╭────────╮         ┌──────── kernel ────────┐         ╭────────╮
     │   P1   │  send   │  ┌────┬────┬────┐      │ retrieve│   P2   │
     │        │────────▶│  │ m3 │ m2 │ m1 │──────│────────▶│        │
     │ memory │  copy   │  └────┴────┴────┘      │  copy   │ memory │
     ╰────────╯         └────────────────────────┘         ╰────────╯
";

const SHARED_MEMORY: &str = "
   Both processes map the same pages. The kernel helps only to sleep and wake.

     ╭────────╮         ╔═════ pages of both ════╗         ╭────────╮
     │   P1   │  write  ║  ┌────┬────┬────┬────┐ ║  read   │   P2   │
     │        │◀═══════▶║  │ m1 │ m2 │ m3 │    │ ║◀═══════▶│        │
     │ memory │ in place║  └────┴────┴────┴────┘ ║ in place│ memory │
     ╰────────╯         ╚════════ a ring ════════╝         ╰────────╯
";

#[cfg(test)]
mod tests {
    use super::{Ink, diagram};
    use crate::address::Scheme;

    #[test]
    fn diagrams_fit_80_columns() {
        let lines = Scheme::MODELS.into_iter().flat_map(|scheme| diagram(scheme).lines());
        for line in lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn plain_is_plain() {
        assert_eq!(Ink::plain().heading("x"), "x");
    }
}
