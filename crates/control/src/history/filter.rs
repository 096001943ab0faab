//! Which records a client wants to see.

use std::time::{Duration, SystemTime};

use proto::control::BuildHistoryRecord;
use refs::{Filter, FilterError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why a filter cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordFilterError {
    #[error("invalid time {0}")]
    Time(String),
    #[error("invalid duration {0}")]
    Duration(String),
    #[error("failed to parse history filters {filter}")]
    Terms { filter: String, source: FilterError },
    #[error("invalid limit {0}")]
    Limit(i32),
}

/// Some filters, one of which must hold; of none all hold.
pub(crate) struct Filters(Vec<Terms>);

/// All of these must hold.
struct Terms {
    comparisons: Vec<Comparison>,
    others: Filter,
}

struct Comparison {
    subject: Subject,
    operator: Operator,
    /// Seconds since the epoch for times, nanoseconds for durations.
    value: i128,
}

#[derive(Clone, Copy)]
enum Subject {
    Started,
    Completed,
    Duration,
}

#[derive(Clone, Copy)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filters {
    pub(crate) fn parse(filters: &[String]) -> Result<Filters, RecordFilterError> {
        let all = filters.iter().map(|filter| Terms::parse(filter));
        Ok(Filters(all.collect::<Result<_, _>>()?))
    }

    pub(crate) fn matches(&self, record: &BuildHistoryRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|terms| terms.matches(record))
    }
}

/// The newest `limit` records, newest first; all of them as they are without a limit.
pub(crate) fn limit(
    mut records: Vec<BuildHistoryRecord>,
    limit: i32,
) -> Result<Vec<BuildHistoryRecord>, RecordFilterError> {
    if limit == 0 {
        return Ok(records);
    }
    let most = usize::try_from(limit).map_err(|_| RecordFilterError::Limit(limit))?;
    records.sort_by_key(|record| std::cmp::Reverse(nanoseconds(record.created_at.as_ref())));
    records.truncate(most);
    Ok(records)
}

impl Terms {
    fn parse(filter: &str) -> Result<Terms, RecordFilterError> {
        let mut comparisons = Vec::new();
        let mut others = Vec::new();
        for field in fields(filter) {
            match Comparison::parse(&field)? {
                Some(comparison) => comparisons.push(comparison),
                None => others.push(field),
            }
        }
        let expression = others.join(",");
        let others = Filter::parse(&[&expression]).map_err(|source| RecordFilterError::Terms {
            filter: filter.to_owned(),
            source,
        })?;
        Ok(Terms {
            comparisons,
            others,
        })
    }

    fn matches(&self, record: &BuildHistoryRecord) -> bool {
        self.comparisons.iter().all(|c| c.matches(record))
            && self.others.matches(|field| match field {
                [name, ..] => value(record, name),
                [] => None,
            })
    }
}

/// The value of a field that filters may name.
fn value(record: &BuildHistoryRecord, name: &str) -> Option<String> {
    match name {
        "ref" => Some(record.r#ref.clone()).filter(|name| !name.is_empty()),
        "status" => Some(status(record).to_owned()),
        "repository" => {
            let source = record.frontend_attrs.get("vcs:source").cloned();
            source.or_else(|| remote(record.frontend_attrs.get("context")?))
        }
        _ => None,
    }
}

fn status(record: &BuildHistoryRecord) -> &'static str {
    match (&record.completed_at, &record.error) {
        (None, _) => "running",
        (Some(_), None) => "completed",
        (Some(_), Some(error)) if error.message.contains("context canceled") => "canceled",
        (Some(_), Some(_)) => "error",
    }
}

/// The repository that a context is in; `None` when it is no URL.
fn remote(context: &str) -> Option<String> {
    let bare = context.split(['#', '?']).next().unwrap_or_default();
    let is_url = ["http://", "https://", "ssh://", "git://"]
        .iter()
        .any(|scheme| context.starts_with(scheme));
    let is_scp_like = || {
        let (host, path) = bare.split_once(':')?;
        let (user, host) = host.split_once('@')?;
        (!user.is_empty() && !host.contains('/') && !path.starts_with("//")).then_some(())
    };
    (is_url || is_scp_like().is_some()).then(|| bare.to_owned())
}

impl Comparison {
    /// Reads a comparison; `None` is a term of another kind.
    fn parse(term: &str) -> Result<Option<Comparison>, RecordFilterError> {
        let operators = [
            (">=", Operator::GreaterOrEqual),
            ("<=", Operator::LessOrEqual),
            (">", Operator::Greater),
            ("<", Operator::Less),
        ];
        let found = operators
            .iter()
            .find_map(|(sign, operator)| Some((term.split_once(sign)?, *operator)));
        let Some(((key, text), operator)) = found else {
            return Ok(None);
        };
        let (subject, value) = match key {
            "startedAt" => (Subject::Started, time(text)?),
            "completedAt" => (Subject::Completed, time(text)?),
            "duration" => {
                let duration = duration(text);
                let invalid = || RecordFilterError::Duration(text.to_owned());
                (Subject::Duration, duration.ok_or_else(invalid)?)
            }
            _ => return Ok(None),
        };
        Ok(Some(Comparison {
            subject,
            operator,
            value,
        }))
    }

    fn matches(&self, record: &BuildHistoryRecord) -> bool {
        const SECOND: i128 = 1_000_000_000;
        let created = nanoseconds(record.created_at.as_ref());
        let completed = record.completed_at.as_ref();
        let of_record = match self.subject {
            Subject::Started => created.div_euclid(SECOND),
            Subject::Completed => nanoseconds(completed).div_euclid(SECOND),
            Subject::Duration => completed.map_or(0, |time| nanoseconds(Some(time)) - created),
        };
        match self.operator {
            Operator::Less => of_record < self.value,
            Operator::LessOrEqual => of_record <= self.value,
            Operator::Greater => of_record > self.value,
            Operator::GreaterOrEqual => of_record >= self.value,
        }
    }
}

pub(super) fn nanoseconds(time: Option<&prost_types::Timestamp>) -> i128 {
    time.map_or(0, |t| {
        i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanos)
    })
}

/// A time, or how long ago it was, in seconds since the epoch.
fn time(text: &str) -> Result<i128, RecordFilterError> {
    if let Some(ago) = duration(text) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or(Duration::ZERO).as_nanos();
        let then = i128::try_from(now).unwrap_or(i128::MAX) - ago;
        return Ok(then.div_euclid(1_000_000_000));
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .map(|time| i128::from(time.unix_timestamp()))
        .map_err(|_| RecordFilterError::Time(text.to_owned()))
}

/// Nanoseconds of a duration as Go writes it: `1h30m`, `-1.5s`, `0`.
fn duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = rest.split_at(end.unwrap_or(rest.len()));
        total += number
            * match unit {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = after;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what is beyond the range is the end of the range"
    )]
    let nanoseconds = total.round() as i128;
    Some(if negative { -nanoseconds } else { nanoseconds })
}

/// The fields of a line of comma-separated values.
fn fields(line: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => match rest.split_once(',') {
                Some((field, after)) => (field.to_owned(), Some(after)),
                None => (rest.to_owned(), None),
            },
        };
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return fields,
        }
    }
}

/// A quoted field, and what follows its comma.
fn unquote(text: &str) -> (String, Option<&str>) {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            field.push_str(rest);
            return (field, None);
        };
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return (field, after.strip_prefix(',')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, created: i64, seconds: Option<i64>) -> BuildHistoryRecord {
        let stamp = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        BuildHistoryRecord {
            r#ref: name.to_owned(),
            created_at: Some(stamp(created)),
            completed_at: seconds.map(|s| stamp(created + s)),
            frontend_attrs: [(
                "context".to_owned(),
                "https://example.com/a/b.git#main".to_owned(),
            )]
            .into(),
            ..BuildHistoryRecord::default()
        }
    }

    fn matches(filter: &str, record: &BuildHistoryRecord) -> bool {
        Filters::parse(&[filter.to_owned()])
            .unwrap()
            .matches(record)
    }

    #[test]
    fn terms_of_one_filter_all_hold() {
        let record = record("abc", 1_000_000_000, Some(90));
        assert!(matches("status==completed,duration>1m", &record));
        assert!(!matches("status==completed,duration>1m30s", &record));
        assert!(matches("startedAt<=2001-09-09T01:46:40Z", &record));
        assert!(matches("startedAt<1h", &record));
        assert!(matches("\"ref~=b\"", &record));
        assert!(matches(
            "repository==\"https://example.com/a/b.git\"",
            &record
        ));
        assert!(matches("status!=running", &record));
    }

    #[test]
    fn of_several_filters_one_holds() {
        let filters = ["ref==x".to_owned(), "ref==abc".to_owned()];
        let filters = Filters::parse(&filters).unwrap();
        assert!(filters.matches(&record("abc", 0, None)));
        assert!(!filters.matches(&record("y", 0, None)));
    }

    #[test]
    fn the_newest_stay() {
        let all = vec![
            record("a", 1, None),
            record("b", 3, None),
            record("c", 2, None),
        ];
        let newest = limit(all.clone(), 2).unwrap();
        let names: Vec<_> = newest.iter().map(|r| r.r#ref.as_str()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(limit(all.clone(), 0).unwrap().len(), 3);
        assert!(limit(all, -1).is_err());
    }

    #[test]
    fn go_durations() {
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration("-1.5s"), Some(-1_500_000_000));
        assert_eq!(duration("3"), None);
        assert!(Filters::parse(&["duration>x".to_owned()]).is_err());
    }
}
