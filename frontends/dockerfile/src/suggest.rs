//! "Did you mean": the nearest of the names that exist.

/// How many edits away a name may be.
const MAX_DISTANCE: usize = 2;

/// The option nearest to `value`; `None` when none is near, or when `value` is one of them.
pub(crate) fn nearest<'a>(
    value: &str,
    options: impl IntoIterator<Item = &'a str>,
    case_sensitive: bool,
) -> Option<String> {
    let fold = |text: &str| {
        if case_sensitive {
            text.to_owned()
        } else {
            text.to_lowercase()
        }
    };
    let wanted = fold(value);
    let length = wanted.chars().count();
    let mut best: Option<(usize, String)> = None;
    for option in options {
        let option = fold(option);
        if option == wanted {
            return None;
        }
        // The distance is never less than the difference in length.
        if option.chars().count().abs_diff(length) > MAX_DISTANCE {
            continue;
        }
        let distance = strsim::levenshtein(&wanted, &option);
        if distance <= MAX_DISTANCE && best.as_ref().is_none_or(|(least, _)| distance < *least) {
            best = Some((distance, option));
        }
    }
    let (_, found) = best?;
    let found = if case_sensitive || value != value.to_uppercase() || value == value.to_lowercase()
    {
        found
    } else {
        found.to_uppercase()
    };
    Some(found)
}

/// ` (did you mean x?)`, or nothing.
pub(crate) fn hint(value: &str, options: &[&str], case_sensitive: bool) -> String {
    suffix(nearest(value, options.iter().copied(), case_sensitive).as_deref())
}

/// ` (did you mean x?)`, or nothing.
pub(crate) fn suffix(found: Option<&str>) -> String {
    found
        .map(|found| format!(" (did you mean {found}?)"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_names_are_offered() {
        let options = ["RUN", "FROM", "COPY"];
        for (value, want) in [
            ("RUNN", Some("RUN")),
            ("runn", Some("run")),
            ("Runn", Some("run")),
            ("COPYALL", None),
            ("RUN", None),
        ] {
            assert_eq!(nearest(value, options, false).as_deref(), want, "{value}");
        }
        assert_eq!(hint("frm", &["from"], true), " (did you mean from?)");
    }
}
