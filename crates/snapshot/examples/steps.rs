//! How long the parts of a step take on a deep stack.

#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement")]

use std::time::{Duration, Instant};
fn main() {
    let root = tempfile::tempdir().unwrap();
    let store = snapshot::Snapshots::open(root.path(), snapshot::Kind::Overlay).unwrap();
    let mut layers = Vec::new();
    let mut parts: [Vec<Duration>; 5] = Default::default();
    for at in 0..500 {
        let t = Instant::now();
        let active = store.prepare(&layers).unwrap();
        let t1 = Instant::now();
        let mount = active.mount().unwrap();
        let t2 = Instant::now();
        sys::root::RootDir::from_fd(mount.try_clone().unwrap().into())
            .create(std::path::Path::new(&format!("f{at}")), 0o644, true)
            .unwrap();
        let t3 = Instant::now();
        drop(mount);
        let t4 = Instant::now();
        layers.push(active.commit().unwrap());
        let t5 = Instant::now();
        for (part, took) in parts
            .iter_mut()
            .zip([t1 - t, t2 - t1, t3 - t2, t4 - t3, t5 - t4])
        {
            part.push(took)
        }
    }
    for (name, part) in ["prepare", "mount", "write", "unmount", "commit"]
        .iter()
        .zip(&mut parts)
    {
        part.sort_unstable();
        println!(
            "{name}: median {:?} p90 {:?} max {:?}",
            part[250], part[450], part[499]
        );
    }
}
