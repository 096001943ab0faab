use super::*;

fn env() -> Env {
    ["A=abcbc", "E=", "S=x y", "P=/usr/lib/a.tar.gz", "é=1"]
        .into_iter()
        .collect()
}

fn expand(expander: Expander, text: &str) -> String {
    match expander.word(text, &env()).result {
        Ok(text) => text,
        Err(ExpandError::Word { source, .. }) => format!("error: {source}"),
        Err(other) => format!("error: {other}"),
    }
}

fn check(cases: &[(&str, &str)]) {
    for (text, want) in cases {
        assert_eq!(expand(Expander::new('\\'), text), *want, "{text}");
    }
}

#[test]
fn every_form_of_a_variable() {
    check(&[
        ("$A", "abcbc"),
        ("${A}x", "abcbcx"),
        ("$Ax", ""),
        ("$U", ""),
        ("${U:-d}", "d"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${A:+s}", "s"),
        ("${E:+s}", ""),
        ("${E+s}", "s"),
        ("${U:-${A:-z}}", "abcbc"),
        ("${U:-\"a } b\"}", "a } b"),
        ("${A:?m}", "abcbc"),
        ("${U:?m}", "error: U: m"),
        ("${U?}", "error: U: is not allowed to be unset"),
        ("${E:?}", "error: E: is not allowed to be empty"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$1a", "a"),
        ("$$", ""),
        ("$é", "1"),
    ]);
}

#[test]
fn globs_trim_and_replace() {
    check(&[
        ("${A#*b}", "cbc"),
        ("${A##*b}", "c"),
        ("${A%b*}", "abc"),
        ("${A%%b*}", "a"),
        ("${P##*/}", "a.tar.gz"),
        ("${P%.*}", "/usr/lib/a.tar"),
        ("${A/b/X}", "aXcbc"),
        ("${A//b/X}", "aXcXc"),
        ("${A//b/}", "acc"),
        ("${A/b?/X}", "aXbc"),
        ("${A/b*/X}", "aX"),
        ("${P//\\//-}", "-usr-lib-a.tar.gz"),
        ("${A%\\*}", "abcbc"),
        (
            "${A#\\x}",
            "error: invalid pattern (\\x) in substitution: invalid escape '\\x'",
        ),
        ("${A/b}", "error: syntax error: missing '/' in ${}"),
        (
            "${A:#b}",
            "error: unsupported modifier (:#) in substitution",
        ),
    ]);
}

#[test]
fn quotes_and_escapes() {
    check(&[
        ("'$A'", "$A"),
        ("\"$A\"", "abcbc"),
        ("\\$A", "$A"),
        ("\"\\$A \\\" \\\\ \\n\"", "$A \" \\ \\n"),
        (
            "'a",
            "error: unexpected end of statement while looking for matching single-quote",
        ),
        (
            "\"a",
            "error: unexpected end of statement while looking for matching double-quote",
        ),
        ("a\\", "a"),
        ("a\\b", "ab"),
    ]);
    let backtick = Expander::new('`');
    assert_eq!(expand(backtick, "a\\b`$A"), "a\\b$A");
    let raw = Expander {
        raw_quotes: true,
        keep_unset: true,
        ..Expander::new('\\')
    };
    assert_eq!(
        expand(raw, "'$A' \"$A\" $U ${U} ${U:-$A}"),
        "'$A' \"abcbc\" $U ${U} ${U:-abcbc}"
    );
    let text = Expander {
        skip_quotes: true,
        ..Expander::new('\\')
    };
    assert_eq!(expand(text, "it's $A"), "it's abcbc");
}

#[test]
fn what_cannot_be_read_is_named() {
    check(&[
        ("${", "error: syntax error: missing '}'"),
        ("${}", "error: syntax error: bad substitution"),
        ("${:}", "error: syntax error: bad substitution"),
        (
            "${A",
            "error: unsupported modifier (\u{fffd}) in substitution",
        ),
        ("${A:-x", "error: syntax error: missing '}'"),
        ("${A^}", "error: unsupported modifier (^) in substitution"),
    ]);
}

#[test]
fn words_split_outside_quotes() {
    let words = |text: &str| Expander::new('\\').words(text, &env()).unwrap();
    assert_eq!(words("a  $S \"$S\" b\\ c"), ["a", "x", "y", "x y", "b c"]);
    assert_eq!(words("80${U:-90}"), ["8090"]);
    assert!(words("$U ''").is_empty());
}

#[test]
fn variables_are_recorded_even_of_wrong_words() {
    let expansion = Expander::new('\\').word("$A ${U:?x}", &env());
    assert!(expansion.result.is_err());
    assert_eq!(expansion.used.into_iter().collect::<Vec<_>>(), ["A"]);
    assert_eq!(expansion.unset.into_iter().collect::<Vec<_>>(), ["U"]);
}

#[test]
fn time_and_memory_are_bounded() {
    let deep = "${U:-".repeat(20_000);
    assert!(Expander::new('\\').word(&deep, &env()).result.is_err());
    let mut large = Env::new();
    large.set("B", "x".repeat(MAX_GROWTH / 2 + 1));
    let error = Expander::new('\\').word("$B$B", &large).result.unwrap_err();
    assert_eq!(error, in_word("$B$B", ExpandError::TooLong));
    let long = "$A".repeat(30_000);
    assert_eq!(
        Expander::new('\\')
            .word(&long, &env())
            .result
            .unwrap()
            .len(),
        150_000
    );
}
