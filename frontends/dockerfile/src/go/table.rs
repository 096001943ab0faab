//! Text in columns, as `text/tabwriter` aligns it.

/// Rows of cells that are padded to equal columns; the last column is not padded.
pub(crate) struct Table {
    padding: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with `padding` blanks between columns.
    pub(crate) fn new(padding: usize) -> Table {
        Table {
            padding,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows
            .push(cells.iter().map(|cell| (*cell).to_owned()).collect());
    }

    /// The text, one line for each row.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if column + 1 < row.len() {
                    let pad = widths[column] + self.padding - cell.chars().count();
                    out.extend(std::iter::repeat_n(' ', pad));
                }
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(3);
        table.row(["NAME", "X"]);
        table.row(["a", "long"]);
        assert_eq!(table.render(), "NAME   X\na      long\n");
    }
}
