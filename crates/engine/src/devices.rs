//! Which devices the steps of a build may use.
//!
//! A step asks for devices by name, kind or class; the worker knows which those are. A build may use
//! what its client granted and what every build may have (BuildKit: `llbsolver/vertex.go`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use llb::{CdiDevice, OpKind};
use oci::Digest;
use worker_client::Worker;

/// What a client granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Granted {
    /// Only what every build may have.
    #[default]
    Nothing,
    /// These, by the names under which steps ask for them; with the device that is meant where the
    /// name is an alias, else empty.
    Named(BTreeMap<String, String>),
    /// Everything.
    All,
}

impl Granted {
    /// Adds what stands behind `device=`; nothing is all devices.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            *self = Granted::All;
            return Ok(());
        }
        let mut fields = text.split(',');
        let device = fields.next().unwrap_or_default();
        let mut alias = None;
        for field in fields {
            match field.split_once('=') {
                Some(("alias", name)) => alias = Some(name).filter(|name| !name.is_empty()),
                Some((key, _)) => return Err(format!("unknown device config key \"{key}\"")),
                None => return Err(format!("invalid device config \"{field}\"")),
            }
        }
        let (name, meant) = match alias {
            Some(alias) => (alias, device),
            None => (device, ""),
        };
        match self {
            Granted::Nothing => {
                *self = Granted::Named(BTreeMap::from([(name.to_owned(), meant.to_owned())]));
            }
            Granted::Named(names) => drop(names.insert(name.to_owned(), meant.to_owned())),
            Granted::All => {}
        }
        Ok(())
    }
}

/// The steps of `graph` with the devices that they get, where that is not just what they ask for.
///
/// # Errors
/// When a device is not there, or must not be used.
pub(crate) async fn allow(
    worker: &Worker,
    granted: &Granted,
    graph: &llb::Graph,
) -> Result<HashMap<Digest, OpKind>, String> {
    let mut changed = HashMap::new();
    if *granted == Granted::All {
        return Ok(changed);
    }
    for vertex in graph.vertices() {
        if let OpKind::Exec(exec) = &vertex.op().kind
            && !exec.devices.is_empty()
        {
            let mut exec = exec.clone();
            exec.devices = allowed(worker, granted, exec.devices).await?;
            changed.insert(vertex.digest(), OpKind::Exec(exec));
        }
    }
    Ok(changed)
}

async fn allowed(
    worker: &Worker,
    granted: &Granted,
    wanted: Vec<CdiDevice>,
) -> Result<Vec<CdiDevice>, String> {
    let empty = BTreeMap::new();
    let names = match granted {
        Granted::Named(names) => names,
        Granted::Nothing | Granted::All => &empty,
    };
    let (mut allowed, mut others) = (Vec::new(), Vec::new());
    for mut device in wanted {
        match names.get(&device.name) {
            Some(meant) if !meant.is_empty() => {
                device.name.clone_from(meant);
                allowed.push(device);
            }
            _ => others.push(device),
        }
    }
    if others.is_empty() {
        return Ok(allowed);
    }
    let find = async |wanted: &[CdiDevice]| {
        let found = worker.devices(wanted).await;
        found.map_err(|error| error.message)
    };
    let found = find(&others).await?;
    let mut given = BTreeSet::new();
    if !found.is_empty() {
        for name in names.keys() {
            let one = CdiDevice {
                name: name.clone(),
                optional: false,
            };
            given.extend(find(&[one]).await?.into_iter().map(|device| device.name));
        }
    }
    let mut forbidden = Vec::new();
    for device in found {
        if !device.auto_allow && !given.contains(&device.name) {
            forbidden.push(device.name);
            continue;
        }
        allowed.push(CdiDevice {
            name: device.name,
            optional: false,
        });
    }
    match &forbidden[..] {
        [] => Ok(allowed),
        [one] => Err(format!(
            "device {one} is requested by the build but not allowed"
        )),
        more => Err(format!(
            "devices {} are requested by the build but not allowed",
            more.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_add_up() {
        let mut granted = Granted::default();
        granted.add("a/b=c").unwrap();
        granted.add("a/b=d,alias=gpu").unwrap();
        let names = BTreeMap::from([
            ("a/b=c".to_owned(), String::new()),
            ("gpu".to_owned(), "a/b=d".to_owned()),
        ]);
        assert_eq!(granted, Granted::Named(names));
        assert_eq!(
            granted.add("a/b=c,x=y").unwrap_err(),
            "unknown device config key \"x\""
        );
        assert!(granted.add("a/b=c,x").is_err());
        granted.add("").unwrap();
        granted.add("a/b=c").unwrap();
        assert_eq!(granted, Granted::All);
    }
}
