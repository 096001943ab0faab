//! `buildctl debug dump-metadata`: what the database of a daemon that does not run has in it.
//!
//! The tables are those of `docs/format-database.md`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use redb::{
    Key, ReadOnlyDatabase, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, TableError, Value,
};

use crate::error::hinted;
use crate::paths::Family;

/// The database in a daemon's root.
const FILE: &str = "drydock.db";

/// The most bytes of a value that are shown.
const SHOWN: usize = 64 << 10;

/// Show what is in the database of a daemon, which must not run.
#[derive(Debug, clap::Args)]
pub(super) struct DumpMetadata {
    /// Directory of everything that the daemon keeps.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

pub(super) fn dump(arguments: &DumpMetadata) -> anyhow::Result<()> {
    let root = arguments.root.clone();
    let path = root.unwrap_or_else(|| Family::Buildkit.root()).join(FILE);
    let text = text(&path)?;
    let printed = std::io::stdout().lock().write_all(text.as_bytes());
    printed.context("failed to print")
}

fn text(path: &Path) -> anyhow::Result<String> {
    let failed = || format!("failed to read `{}`", path.display());
    let database = match ReadOnlyDatabase::open(path) {
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
            let why = format!("`{}` is in use", path.display());
            return Err(hinted(why, "stop the daemon first"));
        }
        opened => opened.with_context(failed)?,
    };
    let reading = database.begin_read().with_context(failed)?;
    let mut dump = Dump {
        reading: &reading,
        text: format!("===== {} =====\n", path.display()),
    };
    dump.all().with_context(failed)?;
    Ok(dump.text)
}

struct Dump<'a> {
    reading: &'a ReadTransaction,
    text: String,
}

impl Dump<'_> {
    fn all(&mut self) -> Result<(), redb::Error> {
        let name = |key: &str| format!("{key:?}");
        let hex = |key: &[u8; 32]| format!("sha256:{}", encoded(key));
        self.table::<&str, u64>("refs-meta", |key, value| [name(key), value.to_string()])?;
        for table in ["layers", "refs", "mutable"] {
            self.table::<u64, &[u8]>(table, |key, value| [key.to_string(), shown(value)])?;
        }
        self.table::<&[u8; 32], u64>("ids", |key, value| [hex(key), value.to_string()])?;
        self.table::<u64, (u64, u64)>("usage", |key, (last, count)| {
            [key.to_string(), format!("last {last} ns, {count} times")]
        })?;
        self.table::<(&str, &str), &[u8]>("images", |(image, platform), value| {
            [format!("{image:?} {platform:?}"), shown(value)]
        })?;
        self.table::<&str, &[u8]>("holds", |key, value| [name(key), shown(value)])?;
        self.table::<&[u8; 32], &[u8; 32]>("links", |key, value| [hex(key), hex(value)])?;
        self.table::<&[u8; 32], u64>("durations", |key, value| [hex(key), format!("{value} µs")])?;
        self.table::<&str, &[u8]>("history", |key, value| [name(key), shown(value)])?;
        self.table::<(&[u8; 32], &str), &[u8]>("history_blobs", |(digest, build), value| {
            [format!("{} {build:?}", hex(digest)), shown(value)]
        })
    }

    /// Adds a table, if there is one of that name.
    fn table<K, V>(
        &mut self,
        name: &str,
        entry: impl Fn(K::SelfType<'_>, V::SelfType<'_>) -> [String; 2],
    ) -> Result<(), redb::Error>
    where
        K: Key + 'static,
        V: Value + 'static,
    {
        let table = match self.reading.open_table(TableDefinition::<K, V>::new(name)) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table?,
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "bucket {name:?}:");
        for found in table.iter()? {
            let (key, value) = found?;
            let [key, value] = entry(key.value(), value.value());
            let _ = writeln!(self.text, "  {key}: {value}");
        }
        Ok(())
    }
}

/// JSON as it is, and how long anything else is.
fn shown(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= SHOWN && !text.chars().any(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => format!("({} bytes)", value.len()),
    }
}

fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
