//! What is stored and what it takes.

use std::time::{Duration, SystemTime};

use crate::filter::Filter;
use crate::refs::RecordType;

/// Being asked for again within this time is not recorded.
pub(crate) const TOUCH_PRECISION: Duration = Duration::from_secs(10);

/// One ref or mutable directory, with what it alone keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// A short name, different for every record.
    pub id: String,
    /// Whether it is a directory that changes.
    pub mutable: bool,
    /// Whether somebody uses it, or something on top of it.
    pub in_use: bool,
    /// What would be freed by removing it, in bytes, as `du` counts; 0 for a mutable directory in
    /// use, since it is changing.
    pub size: u64,
    /// The records that it is on top of.
    pub parents: Vec<String>,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last no longer used.
    pub last_used: Option<SystemTime>,
    /// How often it was used.
    pub usage_count: u64,
    /// What made it.
    pub description: String,
    /// What it is.
    pub record_type: RecordType,
    /// Whether an image is made of it.
    pub shared: bool,
}

impl UsageRecord {
    /// Whether `filter` holds for it, with the fields of BuildKit.
    pub fn matches(&self, filter: &Filter) -> bool {
        filter.matches(|field| match field {
            [name, ..] => self.field(name),
            [] => None,
        })
    }

    fn field(&self, name: &str) -> Option<String> {
        let flag = |set: bool| set.then(String::new);
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        match name {
            "id" => text(&self.id),
            "parents" => text(&self.parents.join(";")),
            "description" => text(&self.description),
            "inuse" => flag(self.in_use),
            "mutable" => flag(self.mutable),
            "immutable" => flag(!self.mutable),
            "type" => text(self.record_type.as_str()),
            "shared" => flag(self.shared),
            "private" => flag(!self.shared),
            _ => None,
        }
    }
}
