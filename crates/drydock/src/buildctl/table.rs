//! Columns as Go's `text/tabwriter` sets them with tabs, which is how `buildctl` prints: scripts
//! that split its output on runs of tabs find the same here.

/// The distance of tab stops.
const STOP: usize = 8;

/// Lines of cells, which are printed together so that columns stand below each other.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    /// Adds a line: cells with tabs between them.
    pub(super) fn line(&mut self, text: &str) {
        self.0
            .push(text.split('\t').map(ToOwned::to_owned).collect());
    }

    /// Adds a line of a name and its value.
    pub(super) fn pair(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(&format!("{name}:\t{value}"));
    }

    /// What is to be printed.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for (at, line) in self.0.iter().enumerate() {
            let last = line.len().saturating_sub(1);
            for (column, cell) in line.iter().enumerate() {
                text.push_str(cell);
                if column < last {
                    let width = self.width(at, column).next_multiple_of(STOP);
                    let missing = width - cell.chars().count();
                    text.extend(std::iter::repeat_n('\t', missing.div_ceil(STOP)));
                }
            }
            text.push('\n');
        }
        text
    }

    /// The width of a column at a line: that of the lines above and below that have it, too. What
    /// stands behind the last tab of a line is in no column.
    fn width(&self, at: usize, column: usize) -> usize {
        let has = |line: &&Vec<String>| line.len() > column + 1;
        let above = self.0[..at].iter().rev().take_while(has);
        let below = self.0[at..].iter().take_while(has);
        let widths = above
            .chain(below)
            .map(|line| line[column].chars().count() + 1);
        widths.max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::default();
        table.line("ID\tSIZE\tLAST");
        table.line("0123456789\t5B\t");
        table.line("");
        table.pair("Total", 7);
        assert_eq!(
            table.render(),
            "ID\t\tSIZE\tLAST\n0123456789\t5B\t\n\nTotal:\t7\n"
        );
    }

    #[test]
    fn a_column_begins_anew_behind_a_line_without_it() {
        let mut table = Table::default();
        table.line("a long first cell\tx");
        table.line("plain");
        table.line("b\tx");
        assert_eq!(table.render(), "a long first cell\tx\nplain\nb\tx\n");
    }
}
