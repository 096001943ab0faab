//! Tables and JSON for commands that list things.

use std::time::SystemTime;

use serde::Serialize;

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

/// Columns, each as wide as its widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Table {
        Table {
            rows: vec![header.iter().map(ToString::to_string).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) {
        print!("{}", self.render());
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| console::measure_text_width(cell))
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let padding = width.saturating_sub(console::measure_text_width(cell)) + 3;
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', padding));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Prints each of `items` as a JSON object on a line of its own.
pub(crate) fn print_json_lines<T: Serialize>(items: &[T]) -> serde_json::Result<()> {
    for item in items {
        println!("{}", serde_json::to_string(item)?);
    }
    Ok(())
}

/// `3 minutes ago`.
pub(crate) fn ago(time: Option<SystemTime>) -> String {
    let Some(time) = time else {
        return String::new();
    };
    match time.elapsed() {
        Ok(elapsed) => format!("{} ago", duration(elapsed.as_secs())),
        Err(_) => "in the future".to_owned(),
    }
}

/// The largest unit that fits, as `docker ps` says it.
pub(crate) fn duration(seconds: u64) -> String {
    let count = |n: u64, unit: &str| {
        if n == 1 {
            format!("1 {unit}")
        } else {
            format!("{n} {unit}s")
        }
    };
    match seconds {
        0 => "less than a second".to_owned(),
        s if s < 60 => count(s, "second"),
        s if s < 3600 => count(s / 60, "minute"),
        s if s < 48 * 3600 => count(s / 3600, "hour"),
        s if s < 14 * 86_400 => count(s / 86_400, "day"),
        s if s < 60 * 86_400 => count(s / (7 * 86_400), "week"),
        s if s < 2 * 365 * 86_400 => count(s / (30 * 86_400), "month"),
        s => count(s / (365 * 86_400), "year"),
    }
}

/// The first twelve digits of an id.
pub(crate) fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(vec!["1".into(), "web".into()]);
        table.row(vec!["22222".into(), String::new()]);
        assert_eq!(table.render(), "ID      NAME\n1       web\n22222\n");
    }

    #[test]
    fn times_are_in_the_largest_unit() {
        assert_eq!(duration(0), "less than a second");
        assert_eq!(duration(59), "59 seconds");
        assert_eq!(duration(61), "1 minute");
        assert_eq!(duration(7200), "2 hours");
        assert_eq!(duration(40 * 86_400), "5 weeks");
    }

    #[test]
    fn ids_are_cut() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("abc"), "abc");
    }
}
