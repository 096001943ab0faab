//! Platforms, as containerd normalizes and matches them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system on a processor, in Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Go's GOARCH, e.g. `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Go's GOOS, e.g. `linux`.
    #[serde(default)]
    pub os: String,
    /// Version of the OS (Windows).
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Features of the OS (Windows).
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture, e.g. `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform `{0}`: expected `os/arch[/variant]`")]
pub struct ParsePlatformError(pub String);

impl Platform {
    /// The platform that this program was compiled for.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            ..Platform::default()
        }
        .normalized()
    }

    /// The canonical spelling: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
    pub fn normalized(&self) -> Platform {
        let os = match self.os.to_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = self.variant.to_lowercase();
        let architecture = self.architecture.to_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386".to_owned(), String::new()),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64".to_owned(), String::new()),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64".to_owned(), v.to_owned()),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64".to_owned(), String::new()),
            ("aarch64" | "arm64", v) => ("arm64".to_owned(), v.to_owned()),
            ("armhf", _) => ("arm".to_owned(), "v7".to_owned()),
            ("armel", _) => ("arm".to_owned(), "v6".to_owned()),
            ("arm", "" | "7") => ("arm".to_owned(), "v7".to_owned()),
            ("arm", "5" | "6" | "8") => ("arm".to_owned(), format!("v{variant}")),
            _ => (architecture, variant),
        };
        Platform {
            os,
            architecture,
            variant,
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// How well an image for `self` serves a machine of platform `wanted`: `None` not at all,
    /// else the smaller the better (containerd's `platforms.Only`: a newer `arm` runs an older).
    pub fn serves(&self, wanted: &Platform) -> Option<u8> {
        let (have, want) = (self.normalized(), wanted.normalized());
        if have.os != want.os {
            return None;
        }
        let rank = |p: &Platform| match (p.architecture.as_str(), p.variant.as_str()) {
            ("arm", v) => Some(v.trim_start_matches('v').parse::<u8>().ok()?),
            ("amd64", "") => Some(1),
            ("amd64", v) => Some(v.trim_start_matches('v').parse::<u8>().ok()?),
            _ => None,
        };
        if have.architecture == want.architecture {
            if have.variant == want.variant {
                return Some(0);
            }
            let (have, want) = (rank(&have)?, rank(&want)?);
            return (have <= want).then(|| want - have);
        }
        // An arm64 machine runs 32-bit arm images, an amd64 machine 386 images.
        match (have.architecture.as_str(), want.architecture.as_str()) {
            ("arm", "arm64") => Some(20u8.saturating_sub(rank(&have).unwrap_or(0))),
            ("386", "amd64") => Some(20),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    /// `os/arch[/variant]`, as given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    /// Parses `os/arch[/variant]`, or a lone OS or architecture, and normalizes it.
    fn from_str(text: &str) -> Result<Platform, ParsePlatformError> {
        let error = || ParsePlatformError(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let legal = |part: &&str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        if !parts
            .iter()
            .all(|part| legal(&part.split(['(', ')']).next().unwrap_or("")))
        {
            return Err(error());
        }
        let host = Platform::host();
        let os_name = parts[0].split('(').next().unwrap_or("");
        let os_version = parts[0]
            .split_once('(')
            .and_then(|(_, rest)| rest.strip_suffix(')'))
            .unwrap_or("")
            .to_owned();
        let known_os = [
            "linux", "windows", "darwin", "macos", "freebsd", "wasip1", "js",
        ];
        let platform = match parts.as_slice() {
            [one] if known_os.contains(&os_name.to_lowercase().as_str()) => Platform {
                os: os_name.to_owned(),
                os_version,
                architecture: host.architecture.clone(),
                variant: host.variant.clone(),
                ..Platform::default()
            }
            .with_os(one.split('(').next().unwrap_or("")),
            [arch] => {
                let normal = Platform {
                    os: host.os.clone(),
                    architecture: (*arch).to_owned(),
                    ..Platform::default()
                }
                .normalized();
                let known = [
                    "amd64", "386", "arm64", "arm", "ppc64le", "s390x", "riscv64", "loong64",
                    "mips64le", "mips64", "wasm",
                ];
                if !known.contains(&normal.architecture.as_str()) {
                    return Err(error());
                }
                normal
            }
            [_, arch] => Platform {
                os: os_name.to_owned(),
                os_version,
                architecture: (*arch).to_owned(),
                ..Platform::default()
            },
            [_, arch, variant] => Platform {
                os: os_name.to_owned(),
                os_version,
                architecture: (*arch).to_owned(),
                variant: (*variant).to_owned(),
                ..Platform::default()
            },
            _ => return Err(error()),
        };
        Ok(platform.normalized())
    }
}

impl Platform {
    fn with_os(mut self, os: &str) -> Platform {
        os.clone_into(&mut self.os);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_platform_are_equal() {
        for (text, want) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("Linux/armhf", "linux/arm/v7"),
            ("arm64", &format!("{}/arm64", std::env::consts::OS)),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want);
        }
        for bad in ["", "linux/", "a/b/c/d", "nonsense"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_nearest_variant_serves_best() {
        let p = |text: &str| text.parse::<Platform>().unwrap();
        assert_eq!(p("linux/arm/v6").serves(&p("linux/arm/v7")), Some(1));
        assert_eq!(p("linux/arm/v7").serves(&p("linux/arm/v6")), None);
        assert_eq!(p("linux/amd64").serves(&p("linux/amd64")), Some(0));
        assert_eq!(p("linux/arm64").serves(&p("linux/amd64")), None);
    }
}
