//! Platforms as containerd reads and prints them.
//!
//! `oci::Platform` normalizes what it parses; a `FROM --platform` is kept as it is written, and an
//! op's digest depends on that.

use oci::Platform;

use crate::go;

/// A text that names no platform, in containerd's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlatformError {
    /// Patterns are not supported.
    #[error("{}: wildcards not yet supported: invalid argument", go::quote(.0))]
    Wildcard(String),
    /// The operating system has illegal characters.
    #[error(
        "{} is an invalid OS component of {}: OSAndVersion specifier component must match {}: invalid argument",
        go::quote(.part), go::quote(.text), go::quote(OS_PATTERN)
    )]
    Os {
        /// The component.
        part: String,
        /// The whole text.
        text: String,
    },
    /// A component has illegal characters.
    #[error(
        "{} is an invalid component of {}: platform specifier component must match {}: invalid argument",
        go::quote(.part), go::quote(.text), go::quote(PART_PATTERN)
    )]
    Part {
        /// The component.
        part: String,
        /// The whole text.
        text: String,
    },
    /// A single word that is neither system nor architecture.
    #[error("{}: unknown operating system or architecture: invalid argument", go::quote(.0))]
    Unknown(String),
    /// Too many components.
    #[error("{}: cannot parse platform specifier: invalid argument", go::quote(.0))]
    Form(String),
}

const PART_PATTERN: &str = "^[A-Za-z0-9_.-]+$";
const OS_PATTERN: &str = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$";

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// Parses `os[(version)]/arch[/variant]`, or one of system and architecture alone.
pub(crate) fn parse(text: &str) -> Result<Platform, PlatformError> {
    if text.contains('*') {
        return Err(PlatformError::Wildcard(text.to_owned()));
    }
    let parts: Vec<&str> = text.splitn(4, '/').collect();
    let mut platform = Platform::default();
    for (at, part) in parts.iter().enumerate() {
        if at == 0 {
            set_os(&mut platform, part).ok_or_else(|| PlatformError::Os {
                part: (*part).to_owned(),
                text: text.to_owned(),
            })?;
        } else if part.is_empty() || !part.chars().all(|c| is_word(c) || c == '.') {
            return Err(PlatformError::Part {
                part: (*part).to_owned(),
                text: text.to_owned(),
            });
        }
    }
    match parts.as_slice() {
        [_] if SYSTEMS.contains(&platform.os.as_str()) => {
            platform.architecture = Platform::host().architecture;
        }
        [one] => {
            set_arch(&mut platform, one, "");
            if !ARCHITECTURES.contains(&platform.architecture.as_str()) {
                return Err(PlatformError::Unknown(text.to_owned()));
            }
            platform.os = Platform::host().os;
        }
        [_, arch] => set_arch(&mut platform, arch, ""),
        [_, arch, variant] => {
            set_arch(&mut platform, arch, variant);
            if platform.architecture == "arm64" && platform.variant.is_empty() {
                platform.variant = "v8".to_owned();
            }
            return Ok(platform);
        }
        _ => return Err(PlatformError::Form(text.to_owned())),
    }
    if platform.architecture == "arm" && platform.variant == "v7" {
        platform.variant.clear();
    }
    Ok(platform)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

fn set_os(platform: &mut Platform, part: &str) -> Option<()> {
    let (name, options) = match part.split_once('(') {
        Some((name, options)) => (name, options.strip_suffix(')')?),
        None => (part, ""),
    };
    if name.is_empty() || !name.chars().all(is_word) {
        return None;
    }
    if !options
        .chars()
        .all(|c| is_word(c) || matches!(c, '.' | '%' | '+'))
    {
        return None;
    }
    let mut options = options.split('+');
    platform.os_version = decode(options.next().unwrap_or_default());
    for feature in options {
        if feature.is_empty() {
            return None;
        }
        platform.os_features.push(decode(feature));
    }
    let name = name.to_lowercase();
    platform.os = if name == "macos" {
        "darwin".to_owned()
    } else {
        name
    };
    Some(())
}

fn set_arch(platform: &mut Platform, arch: &str, variant: &str) {
    let os = platform.os.clone();
    let normal = Platform {
        os,
        architecture: arch.to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    }
    .normalized();
    platform.architecture = normal.architecture;
    platform.variant = normal.variant;
}

/// Characters that have a meaning in the text form.
const CODES: [(&str, &str); 5] = [
    ("%", "%25"),
    ("+", "%2B"),
    ("(", "%28"),
    (")", "%29"),
    ("/", "%2F"),
];

fn decode(text: &str) -> String {
    CODES
        .iter()
        .rev()
        .fold(text.to_owned(), |text, (plain, code)| {
            text.replace(code, plain)
        })
}

fn encode(text: &str) -> String {
    CODES.iter().fold(text.to_owned(), |text, (plain, code)| {
        text.replace(plain, code)
    })
}

/// `os/arch[/variant]`.
pub(crate) fn format(platform: &Platform) -> String {
    if platform.os.is_empty() {
        return "unknown".to_owned();
    }
    go::join(&[&platform.os, &platform.architecture, &platform.variant])
}

/// `os[(version)]/arch[/variant]`.
pub(crate) fn format_all(platform: &Platform) -> String {
    let mut features: Vec<&str> = platform.os_features.iter().map(String::as_str).collect();
    features.sort_unstable();
    features.dedup();
    features.retain(|feature| !feature.is_empty());
    if platform.os.is_empty() || (platform.os_version.is_empty() && features.is_empty()) {
        return format(platform);
    }
    let mut os = format!("{}({}", platform.os, encode(&platform.os_version));
    for feature in features {
        os.push('+');
        os.push_str(&encode(feature));
    }
    os.push(')');
    go::join(&[&os, &platform.architecture, &platform.variant])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_kept_as_written() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/arm64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("linux/arm", "linux/arm"),
            ("linux/x86_64", "linux/amd64"),
            (
                "windows(10.0.17763+win32k)/amd64",
                "windows(10.0.17763+win32k)/amd64",
            ),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(format_all(&parse(text).unwrap()), want, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_in_containerds_words() {
        for (text, want) in [
            (
                "foo",
                "\"foo\": unknown operating system or architecture: invalid argument",
            ),
            (
                "a/b/c/d",
                "\"a/b/c/d\": cannot parse platform specifier: invalid argument",
            ),
            (
                "a/*",
                "\"a/*\": wildcards not yet supported: invalid argument",
            ),
            (
                "linux/a b",
                "\"a b\" is an invalid component of \"linux/a b\": platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), want);
        }
    }
}
