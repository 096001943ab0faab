//! `RUN --mount=…`.

use crate::expand::ExpandError;
use crate::go;

/// What kind of thing is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache mount at once.
pub(crate) type Sharing = llb::CacheSharing;

/// A mount of a `RUN`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: MountKind,
    pub(crate) from: String,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) readonly: bool,
    pub(crate) size: i64,
    pub(crate) id: String,
    pub(crate) sharing: Option<Sharing>,
    pub(crate) required: bool,
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// A mount that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MountError {
    /// The fields cannot be split.
    #[error("failed to parse csv mounts")]
    Csv(#[source] go::CsvError),
    /// A field's variables cannot be expanded.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// A variable where none is expanded.
    #[error("'{0}' doesn't support variable expansion, define alias stage instead")]
    Variable(&'static str),
    /// A field that needs a value.
    #[error("invalid field '{0}' must be a key=value pair")]
    NotPair(String),
    /// A field of another type of mount.
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    ForeignKey {
        /// The key.
        key: String,
        /// The type of the mount.
        kind: &'static str,
    },
    /// No such field.
    #[error("unexpected key '{key}' in '{field}'{}", crate::suggest::hint(.key, KEYS, true))]
    UnknownKey {
        /// The key.
        key: String,
        /// The whole field.
        field: String,
    },
    /// No such type.
    #[error("unsupported mount type {}{}", go::quote(.0), crate::suggest::hint(.0, KINDS, true))]
    Kind(String),
    /// No such way of sharing.
    #[error("unsupported sharing value {}{}", go::quote(.0), crate::suggest::hint(.0, SHARING, true))]
    Sharing(String),
    /// A value that cannot be read.
    #[error("invalid value for {key}: {value}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A number that cannot be read.
    #[error("invalid value {value} for {key}")]
    Number {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Owner or mode of something that has none.
    #[error("{key} not allowed for {} type mounts", go::quote(.kind))]
    FileInfo {
        /// The key.
        key: &'static str,
        /// The type of the mount.
        kind: &'static str,
    },
    /// Fields that do not fit together.
    #[error("{text}")]
    Combination {
        /// What does not.
        text: String,
        /// How to mend it.
        mend: &'static str,
    },
}

const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];
const KINDS: &[&str] = &["bind", "cache", "secret", "ssh", "tmpfs"];
const SHARING: &[&str] = &["locked", "private", "shared"];

impl MountKind {
    /// The name of the kind.
    pub(crate) fn name(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Cache => "cache",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Secret => "secret",
            MountKind::Ssh => "ssh",
        }
    }

    fn read(value: &str) -> Result<MountKind, MountError> {
        [
            MountKind::Bind,
            MountKind::Cache,
            MountKind::Tmpfs,
            MountKind::Secret,
            MountKind::Ssh,
        ]
        .into_iter()
        .find(|kind| kind.name() == value.to_lowercase())
        .ok_or_else(|| MountError::Kind(value.to_owned()))
    }

    /// Whether `required` has a meaning.
    fn may_be_required(self) -> bool {
        matches!(self, MountKind::Secret | MountKind::Ssh)
    }
}

impl Mount {
    /// The `from` of a mount: all that is looked at before its variables are expanded.
    pub(crate) fn read_from(text: &str) -> Result<String, MountError> {
        let mut from = String::new();
        for field in go::csv_fields(text).map_err(MountError::Csv)? {
            if let Some((key, value)) = field.split_once('=')
                && key.to_lowercase() == "from"
            {
                if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                    return Err(MountError::Variable("from"));
                }
                value.clone_into(&mut from);
            }
        }
        Ok(from)
    }

    /// Reads a mount; `expand` expands the variables of a value.
    pub(crate) fn read(
        text: &str,
        mut expand: impl FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<Mount, MountError> {
        let mut mount = Mount::default();
        let mut readonly = None;
        for field in go::csv_fields(text).map_err(MountError::Csv)? {
            match field.split_once('=') {
                None => mount.set_bare(&field, &mut readonly)?,
                Some((key, value)) => {
                    let value = expand(value)?;
                    mount.set(key.to_lowercase(), value, &field, &mut readonly)?;
                }
            }
        }
        mount.readonly =
            readonly.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
        mount.check()?;
        Ok(mount)
    }

    fn set_bare(&mut self, field: &str, readonly: &mut Option<bool>) -> Result<(), MountError> {
        let key = field.to_lowercase();
        match key.as_str() {
            "readonly" | "ro" => *readonly = Some(true),
            "readwrite" | "rw" => *readonly = Some(false),
            "required" if self.kind.may_be_required() => self.required = true,
            "required" => return Err(self.foreign(key)),
            _ => return Err(MountError::NotPair(field.to_owned())),
        }
        Ok(())
    }

    fn set(
        &mut self,
        key: String,
        value: String,
        field: &str,
        readonly: &mut Option<bool>,
    ) -> Result<(), MountError> {
        let flag = |key: &str, value: &str| {
            go::parse_bool(value).ok_or_else(|| MountError::Value {
                key: key.to_owned(),
                value: value.to_owned(),
            })
        };
        match key.as_str() {
            "type" => self.kind = MountKind::read(&value)?,
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => *readonly = Some(flag(&key, &value)?),
            "readwrite" | "rw" => *readonly = Some(!flag(&key, &value)?),
            "required" if self.kind.may_be_required() => self.required = flag(&key, &value)?,
            "size" if self.kind == MountKind::Tmpfs => {
                self.size =
                    go::ram_in_bytes(&value).map_err(|_| MountError::Value { key, value })?;
            }
            "required" | "size" => return Err(self.foreign(key)),
            "id" => self.id = value,
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(MountError::Sharing(value)),
                });
            }
            "mode" => self.mode = Some(number("mode", value, 8)?),
            "uid" => self.uid = Some(number("uid", value, 10)?),
            "gid" => self.gid = Some(number("gid", value, 10)?),
            "env" => self.env = Some(value),
            _ => {
                return Err(MountError::UnknownKey {
                    key,
                    field: field.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn foreign(&self, key: String) -> MountError {
        MountError::ForeignKey {
            key,
            kind: self.kind.name(),
        }
    }

    fn check(&self) -> Result<(), MountError> {
        let kind = self.kind.name();
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(MountError::FileInfo { key, kind });
                }
            }
        }
        let wrong = |text: &str, mend| {
            let text = text.to_owned();
            Err(MountError::Combination { text, mend })
        };
        let cache_only = "take `sharing` out: only cache mounts have it";
        if self.kind == MountKind::Secret {
            if !self.from.is_empty() {
                return wrong(
                    "secret mount should not have a from",
                    "take `from` out: secrets come from the client",
                );
            }
            if self.sharing.is_some() {
                return wrong("secret mount should not define sharing", cache_only);
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return wrong(
                    "invalid secret mount. one of source, target required",
                    "name the secret: `type=secret,id=token`",
                );
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return wrong(
                    "both source and id can't be set",
                    "keep one of `id` and `source`: they are the same",
                );
            }
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            let text = format!("invalid cache sharing set for {kind} mount");
            return wrong(&text, cache_only);
        }
        Ok(())
    }
}

fn number(key: &'static str, value: String, radix: u32) -> Result<u32, MountError> {
    go::parse_u64(&value, radix, 32)
        .ok()
        .and_then(|number| u32::try_from(number).ok())
        .ok_or(MountError::Number { key, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mount, String> {
        Mount::read(text, |word| Ok(word.to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn mounts_have_defaults() {
        let bind = read("target=/x").unwrap();
        assert!(bind.readonly && bind.kind == MountKind::Bind);
        let cache = read("type=cache,target=/x,sharing=locked,mode=0700,uid=1").unwrap();
        assert_eq!(
            (cache.sharing, cache.mode, cache.uid),
            (Some(Sharing::Locked), Some(0o700), Some(1))
        );
        assert!(!cache.readonly);
        assert!(read("type=cache,target=/x,ro").unwrap().readonly);
        assert!(!read("rw,target=/x").unwrap().readonly);
        assert_eq!(read("type=tmpfs,size=1k,target=/x").unwrap().size, 1024);
    }

    #[test]
    fn mounts_that_make_no_sense_are_refused() {
        for (text, want) in [
            (
                "targt=/x",
                "unexpected key 'targt' in 'targt=/x' (did you mean target?)",
            ),
            ("x", "invalid field 'x' must be a key=value pair"),
            (
                "required",
                "unexpected key 'required' for mount type 'bind'",
            ),
            (
                "type=bnd",
                "unsupported mount type \"bnd\" (did you mean bind?)",
            ),
            ("type=cache,sharing=x", "unsupported sharing value \"x\""),
            ("uid=1", "uid not allowed for \"bind\" type mounts"),
            (
                "type=secret",
                "invalid secret mount. one of source, target required",
            ),
            ("sharing=shared", "invalid cache sharing set for bind mount"),
            ("ro=x", "invalid value for ro: x"),
            ("type=cache,mode=9", "invalid value 9 for mode"),
        ] {
            assert_eq!(read(text).unwrap_err(), want, "{text}");
        }
        assert_eq!(
            Mount::read_from("from=$A"),
            Err(MountError::Variable("from"))
        );
        assert_eq!(Mount::read_from("FROM=a$,target=/x").as_deref(), Ok("a$"));
    }
}
