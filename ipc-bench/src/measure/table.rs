//! Tables of figures: columns as wide as what is in them, and none that says nothing.

use std::fmt::Write as _;

/// What stands where there is nothing.
const NOTHING: &str = "-";

/// A table that is being made, column by column.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Vec<Option<String>>)>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { columns: Vec::new() }
    }

    /// Adds a column, unless there is nothing in it.
    pub(crate) fn column(&mut self, title: &'static str, cells: impl IntoIterator<Item = Option<String>>) {
        let cells: Vec<_> = cells.into_iter().collect();
        if cells.iter().any(Option::is_some) {
            self.columns.push((title, cells));
        }
    }

    /// The table, a line for each row below the titles: the first column to the left, the
    /// others to the right.
    pub(crate) fn text(&self) -> String {
        let rows = self.columns.first().map_or(0, |(_, cells)| cells.len());
        let mut lines = vec![String::new(); 1 + rows];
        for (index, (title, cells)) in self.columns.iter().enumerate() {
            let shown: Vec<&str> = std::iter::once(*title)
                .chain(cells.iter().map(|cell| cell.as_deref().unwrap_or(NOTHING)))
                .collect();
            let width = shown.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
            for (line, cell) in lines.iter_mut().zip(shown) {
                let _ = match index {
                    0 => write!(line, "{cell:<width$}"),
                    _ => write!(line, " {cell:>width$}"),
                };
            }
        }
        lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

pub(crate) fn decimals(figure: Option<f64>, digits: usize) -> Option<String> {
    figure.map(|figure| format!("{figure:.digits$}"))
}

/// Two decimals as long as they say something.
pub(crate) fn ratio(figure: Option<f64>) -> Option<String> {
    match figure {
        Some(large) if large >= 100.0 => decimals(figure, 0),
        _ => decimals(figure, 2),
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, decimals, ratio};

    #[test]
    fn columns_are_as_wide_as_their_cells_and_empty_ones_are_left_out() {
        let mut table = Table::new();
        table.column("who", ["a", "bcdef"].map(|name| Some(name.to_owned())));
        table.column("never", [None, None]);
        table.column("x", [Some("1".to_owned()), None]);
        table.column("long title", [None, Some("22".to_owned())]);
        let expected = "\
who   x long title
a     1          -
bcdef -         22
";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn figures_have_the_decimals_that_say_something() {
        let ratios = [Some(1.234), Some(123.4), None].map(ratio);
        assert_eq!(ratios, [Some("1.23".to_owned()), Some("123".to_owned()), None]);
        assert_eq!(decimals(Some(2.06), 1).as_deref(), Some("2.1"));
    }
}
