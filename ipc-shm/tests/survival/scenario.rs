//! A scene with a victim.

use crate::stage::Stage;

/// A scene with a victim, to be played over and over with another end of the victim. It
/// sets up, has the victim act, checks that the promise is kept, and leaves nothing.
pub(crate) struct Scenario {
    pub(crate) kind: &'static str,
    /// Who does what.
    pub(crate) name: String,
    pub(crate) scene: Box<dyn Fn(&Stage)>,
    /// Short enough to be killed after each of its instructions.
    pub(crate) is_short: bool,
    /// The victim isn't alone, or watches the clock: its way differs from play to play.
    pub(crate) varies: bool,
    /// Much like another one: a smoke of what doesn't depend on the difference leaves it out.
    pub(crate) is_variation: bool,
}

impl Scenario {
    pub(crate) fn new(kind: &'static str, name: impl Into<String>, scene: impl Fn(&Stage) + 'static) -> Self {
        Self {
            kind,
            name: name.into(),
            scene: Box::new(scene),
            is_short: false,
            varies: false,
            is_variation: false,
        }
    }

    /// What it is called in reports.
    pub(crate) fn title(&self) -> String {
        format!("{}: {}", self.kind, self.name)
    }

    /// Has it stepped through.
    pub(crate) fn short(self) -> Self {
        Self { is_short: true, ..self }
    }

    /// Has it left out of smokes, unless `is_first`.
    pub(crate) fn variation(self, is_first: bool) -> Self {
        Self { is_variation: !is_first, ..self }
    }

    /// Has it differ from play to play.
    pub(crate) fn varying(self) -> Self {
        Self { varies: true, ..self }
    }
}
