//! Places in a source text.

/// Lines of a text, both ends included, counted from 1.
///
/// BuildKit spells such a place as one range for each line; [`LineSpan::ranges`] does that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineSpan {
    /// The first line.
    pub start: u32,
    /// The last line, never before `start`.
    pub end: u32,
}

impl LineSpan {
    /// One line.
    pub fn line(line: u32) -> LineSpan {
        LineSpan {
            start: line,
            end: line,
        }
    }

    /// From `start` to `end`; an `end` before `start` means `start` alone.
    pub fn new(start: u32, end: u32) -> LineSpan {
        LineSpan {
            start,
            end: end.max(start),
        }
    }

    /// One `((line, character), (line, character))` range for each line.
    pub fn ranges(self) -> Vec<((i32, i32), (i32, i32))> {
        (self.start..=self.end)
            .map(|line| {
                let line = i32::try_from(line).unwrap_or(i32::MAX);
                ((line, 0), (line, 0))
            })
            .collect()
    }
}
