//! Devices by the Container Device Interface: files in which vendors say what a container needs to
//! use a device.
//!
//! The files are read anew for every question: they are few and small, and a driver that was
//! installed a moment ago counts. What is wrong in a file costs only the devices of that file.

mod edit;
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use llb::CdiDevice;
use oci_spec::runtime::Spec;

use crate::failure::Failure;
use file::{Edits, File};

/// Where devices are described, and who may have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Directories of descriptions; a later one is stronger. None: there are no devices.
    pub directories: Vec<PathBuf>,
    /// Devices, or kinds of devices, that every build may have.
    pub auto_allowed: Vec<String>,
}

/// Names other devices than its own a class of devices.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Says that every build may have a device.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// All devices of this machine.
pub(crate) struct Devices {
    /// By qualified name, `vendor/class=name`.
    known: BTreeMap<String, Known>,
    files: Vec<File>,
}

struct Known {
    file: usize,
    edits: Edits,
    annotations: BTreeMap<String, String>,
    auto_allow: bool,
}

impl Devices {
    /// Reads what there is.
    pub(crate) fn read(options: &DeviceOptions) -> Devices {
        let mut devices = Devices {
            known: BTreeMap::new(),
            files: Vec::new(),
        };
        for directory in &options.directories {
            let mut here = BTreeMap::new();
            let mut twice = BTreeSet::new();
            for file in file::read_all(directory) {
                let index = devices.files.len();
                for device in &file.devices {
                    let name = format!("{}={}", file.kind, device.name);
                    let mut annotations = file.annotations.clone();
                    annotations.extend(device.annotations.clone());
                    let known = Known {
                        file: index,
                        edits: device.edits.clone(),
                        auto_allow: auto_allow(options, &file.kind, &name, &annotations),
                        annotations,
                    };
                    if here.insert(name.clone(), known).is_some() {
                        twice.insert(name);
                    }
                }
                devices.files.push(file);
            }
            for name in twice {
                let directory = directory.display();
                tracing::warn!(%name, %directory, "a device is described twice; neither counts");
                here.remove(&name);
                devices.known.remove(&name);
            }
            devices.known.extend(here);
        }
        devices
    }

    /// The devices that are meant, by qualified name; one that is optional may be missing.
    ///
    /// A device is named whole (`vendor/class=name`), by its kind alone (the first of them), with
    /// `*` for all of a kind, or by the class of its annotation.
    pub(crate) fn find(&self, wanted: &[CdiDevice]) -> Result<Vec<String>, Failure> {
        let mut found: Vec<String> = Vec::new();
        for device in wanted {
            let names = self.meant(&device.name);
            if names.is_empty() && !device.optional {
                return Err(Failure::user(format!(
                    "required device \"{}\" is not registered",
                    device.name
                )));
            }
            for name in names {
                if !found.contains(name) {
                    found.push(name.clone());
                }
            }
        }
        Ok(found)
    }

    fn meant(&self, text: &str) -> Vec<&String> {
        let (kind, name) = text.split_once('=').unwrap_or((text, ""));
        let of_kind = || {
            let starts = format!("{kind}=");
            let names = self.known.keys();
            names.filter(move |known| known.starts_with(&starts))
        };
        let has_vendor = kind
            .split_once('/')
            .is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty());
        let names: Vec<&String> = match name {
            _ if !has_vendor => Vec::new(),
            "" => of_kind().take(1).collect(),
            "*" => of_kind().collect(),
            _ => self
                .known
                .get_key_value(text)
                .map(|(name, _)| name)
                .into_iter()
                .collect(),
        };
        if !names.is_empty() {
            return names;
        }
        let of_class = |known: &Known| known.annotations.get(CLASS).is_some_and(|c| c == text);
        let known = self.known.iter();
        known
            .filter(|(_, known)| of_class(known))
            .map(|(name, _)| name)
            .collect()
    }

    /// Gives a container the devices that are meant.
    pub(crate) fn inject(&self, spec: &mut Spec, wanted: &[CdiDevice]) -> Result<(), Failure> {
        let mut applied = BTreeSet::new();
        for name in self.find(wanted)? {
            let known = &self.known[&name];
            // What a file says for all its devices comes before the first of them, once.
            if applied.insert(known.file) {
                edit::apply(spec, &self.files[known.file].edits)?;
            }
            edit::apply(spec, &known.edits)?;
        }
        Ok(())
    }

    /// What is told of the named devices.
    pub(crate) fn describe(&self, names: &[String]) -> Vec<proto::worker::Device> {
        let known = names
            .iter()
            .filter_map(|name| self.known.get_key_value(name));
        known
            .map(|(name, known)| proto::worker::Device {
                name: name.clone(),
                annotations: known.annotations.clone(),
                auto_allow: known.auto_allow,
            })
            .collect()
    }

    /// The names of all.
    pub(crate) fn names(&self) -> Vec<String> {
        self.known.keys().cloned().collect()
    }
}

fn auto_allow(
    options: &DeviceOptions,
    kind: &str,
    name: &str,
    annotations: &BTreeMap<String, String>,
) -> bool {
    let allowed = &options.auto_allowed;
    let by_file = annotations.get(AUTO_ALLOW).map(String::as_str);
    allowed.iter().any(|given| given == name || given == kind)
        || matches!(by_file, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

#[cfg(test)]
mod tests;
