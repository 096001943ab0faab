//! Lines of a source file with the ones at fault marked.

use std::fmt::Write as _;

use client::progress::{SourceExcerpt, SourceRange};

/// Renders the marked lines with some around them, in BuildKit's form. Empty if the ranges do not
/// lie in the file.
pub(crate) fn render(source: &SourceExcerpt) -> String {
    let text = String::from_utf8_lossy(&source.data);
    let lines: Vec<&str> = text.split('\n').collect();
    let marked = |range: &SourceRange| {
        let end = range.end_line.max(range.start_line);
        Some((
            usize::try_from(range.start_line).ok()?,
            usize::try_from(end).ok()?,
        ))
    };
    let ranges: Vec<(usize, usize)> = source.ranges.iter().filter_map(marked).collect();
    let Some(first) = ranges.iter().map(|range| range.0).min() else {
        return String::new();
    };
    let last = ranges
        .iter()
        .map(|range| range.1)
        .max()
        .unwrap_or(first)
        .min(lines.len());
    if first < 1 || first > lines.len() {
        return String::new();
    }
    let (from, to) = widen(first, last, lines.len());
    let mut out = format!("{}:{first}\n--------------------\n", source.filename);
    for (number, line) in (from..=to).zip(&lines[from - 1..to]) {
        let is_marked = ranges
            .iter()
            .any(|(start, end)| (*start..=*end).contains(&number));
        let mark = if is_marked { ">>>" } else { "   " };
        let line = format!(" {number:3} | {mark} {line}");
        let _ = writeln!(out, "{}", line.trim_end_matches('\r'));
    }
    out.push_str("--------------------\n");
    out
}

/// Adds lines on both sides: about two for several lines, four for a single one.
fn widen(mut first: usize, mut last: usize, count: usize) -> (usize, usize) {
    let wanted = if first == last { 4 } else { 2 };
    let mut added = 0;
    while added < wanted {
        if first > 1 {
            first -= 1;
            added += 1;
        }
        if last != count {
            last += 1;
            added += 1;
        }
        // Ends also where there is nothing to add.
        added += 1;
    }
    (first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str, ranges: &[(i32, i32)]) -> String {
        let range = |&(start_line, end_line): &(i32, i32)| SourceRange {
            start_line,
            end_line,
            ..SourceRange::default()
        };
        render(&SourceExcerpt {
            filename: "Dockerfile".into(),
            data: text.as_bytes().to_vec(),
            language: "Dockerfile".into(),
            ranges: ranges.iter().map(range).collect(),
        })
    }

    #[test]
    fn the_line_at_fault_is_marked() {
        let text = "FROM a\n\nRUN one\nRUN two\nRUN three\n\nRUN four\n";
        let expected = "Dockerfile:4\n--------------------\n   2 |     \n   3 |     RUN one\n   \
                        4 | >>> RUN two\n   5 |     RUN three\n   6 |     \n--------------------\n";
        assert_eq!(excerpt(text, &[(4, 4)]), expected);
    }

    #[test]
    fn several_lines_have_fewer_around_them() {
        let text = "a\nb\nc\nd\ne\nf\n";
        let expected = "Dockerfile:3\n--------------------\n   2 |     b\n   3 | >>> c\n   \
                        4 | >>> d\n   5 |     e\n--------------------\n";
        assert_eq!(excerpt(text, &[(3, 4)]), expected);
    }

    #[test]
    fn ranges_outside_of_the_file_give_nothing() {
        assert_eq!(excerpt("a\n", &[(9, 9)]), "");
        assert_eq!(excerpt("a\n", &[(0, 0)]), "");
        assert_eq!(excerpt("a\n", &[(-3, -1)]), "");
        assert_eq!(excerpt("a\n", &[]), "");
    }
}
