//! Build caches written and read again, and such as nobody writes.

use std::collections::BTreeMap;

use oci::Digest;
use time::OffsetDateTime;

use super::config::{Config, Input, Layer, Outcome, Record};
use super::write::record;
use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text)
}

fn entry(id: &str, keys: &[&str], blobs: &[&str]) -> Entry {
    let chain = Chain {
        blobs: blobs.iter().map(|blob| digest(blob)).collect(),
        created: OffsetDateTime::UNIX_EPOCH,
    };
    Entry {
        id: digest(id),
        keys: keys.iter().map(|key| digest(key)).collect(),
        results: vec![(digest(id), chain)],
    }
}

fn sorted(mut imported: Imported) -> Imported {
    imported.links.sort();
    imported.results.sort_by_key(|(id, _)| *id);
    imported
}

fn chains(imported: &Imported) -> BTreeMap<Digest, Vec<Digest>> {
    let layers = |top: &Top| {
        imported
            .layers
            .stack(top.layer)
            .map(|at| imported.layers.blob(at))
    };
    let results = imported.results.iter();
    results
        .map(|(id, top)| (*id, layers(top).collect()))
        .collect()
}

#[test]
fn what_is_written_is_read_again_in_whatever_order_it_comes() {
    let entries = [
        entry("a", &["a", "k"], &["1"]),
        entry("b", &["l"], &["1", "2"]),
        entry("c", &["m"], &[]),
    ];
    let bytes = encode(&entries).unwrap();
    let turned: Vec<Entry> = entries.iter().rev().cloned().collect();
    assert_eq!(encode(&turned).unwrap(), bytes);
    let imported = sorted(decode(&bytes).unwrap());
    let mut links = vec![
        (digest("a"), digest("a")),
        (digest("k"), digest("a")),
        (digest("l"), digest("b")),
        (digest("m"), digest("c")),
    ];
    links.sort();
    assert_eq!(imported.links, links);
    let blobs = chains(&imported);
    assert_eq!(blobs[&digest("b")], [digest("1"), digest("2")]);
    assert_eq!(blobs[&digest("a")], [digest("1")]);
    assert!(!blobs.contains_key(&digest("c")));
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("\"blob\"").count(), 2, "layers are shared");
}

#[test]
fn an_image_carries_only_what_is_made_of_its_layers() {
    let entries = [
        entry("a", &["k"], &["1"]),
        entry("b", &["l"], &["2"]),
        entry("c", &["m"], &["1", "3"]),
    ];
    let image = [digest("1"), digest("2")];
    let bytes = encode_inline(&entries, &image).unwrap().unwrap();
    let imported = decode_inline(&bytes, &image).unwrap();
    assert_eq!(imported.links.len(), 3);
    let blobs = chains(&imported);
    assert_eq!(blobs.len(), 2);
    assert_eq!(blobs[&digest("a")], [digest("1")]);
    assert_eq!(blobs[&digest("b")], [digest("2")]);
    assert!(encode_inline(&entries, &[digest("9")]).unwrap().is_none());
}

#[test]
fn records_of_other_writers_are_passed_over() {
    let other = format!(
        r#"{{"layers":[{{"blob":"{d}","parent":-1}}],"records":[{{"digest":"{d}"}},
        {{"digest":"{d}","layers":[{{"layer":0,"createdAt":"2020-01-01T00:00:00Z"}}],
        "inputs":[[{{"selector":"/x","link":0}}],[{{"link":0}}]]}}]}}"#,
        d = digest("1")
    );
    assert_eq!(decode(other.as_bytes()).unwrap(), Imported::default());
}

#[test]
fn what_names_nothing_is_an_error() {
    let with = |layers: &str, record: &str| {
        let d = digest("1");
        let text = format!(r#"{{"layers":[{layers}],"records":[{{"digest":"{d}",{record}}}]}}"#,);
        decode(text.replace("BLOB", &d.to_string()).as_bytes())
    };
    let own = r#""inputs":[[{"selector":"drydock.key.v1","link":0}]]"#;
    assert!(with("", own).is_ok());
    assert!(with("", &own.replace(":0", ":7")).is_err());
    assert!(with("", &own.replace(":0", ":-7")).is_err());
    let top = format!(r#""layers":[{{"layer":0}}],{own}"#);
    assert!(with("", &top).is_err());
    assert!(with(r#"{"blob":"x","parent":-1}"#, &top).is_err());
    // Without a parent it is layer 0, which is itself.
    assert!(with(r#"{"blob":"BLOB"}"#, &top).is_err());
    assert!(with(r#"{"blob":"BLOB","parent":-1}"#, &top).is_ok());
    assert!(decode(b"7").is_err());
}

/// A config with `layers` layers in one chain, and `records` records that name the top.
fn tower(layers: usize, records: usize) -> Vec<u8> {
    let blob = digest("1").to_string();
    let parents = -1..i64::try_from(layers).unwrap() - 1;
    let layer = |parent| Layer {
        blob: blob.clone(),
        parent,
    };
    let named = |number: usize| Record {
        layers: vec![Outcome {
            layer: i64::try_from(layers).unwrap() - 1,
            created_at: String::new(),
        }],
        inputs: vec![vec![Input {
            selector: KEY.to_owned(),
            link: 0,
        }]],
        ..record(digest(&number.to_string()))
    };
    let config = Config {
        layers: parents.map(layer).collect(),
        records: (0..records).map(named).collect(),
    };
    serde_json::to_vec(&config).unwrap()
}

#[test]
fn what_is_read_takes_no_more_than_what_was_written() {
    let imported = decode(&tower(1000, 20_000)).unwrap();
    assert_eq!(imported.results.len(), 20_000);
    assert_eq!(imported.layers.len(), 1000);
    let top = imported.results[7].1.layer;
    assert_eq!(imported.layers.stack(top).count(), 1000);
}

#[test]
fn more_than_a_build_has_is_refused() {
    for (layers, records, what) in [
        (1001, 1, "more than 1000 layers in a result"),
        (10_001, 1, "more than 10000 layers"),
        (1, 50_001, "more than 50000 records"),
    ] {
        let error = decode(&tower(layers, records)).unwrap_err().to_string();
        assert!(error.ends_with(what), "{error}");
    }
}

#[test]
fn a_result_that_no_reader_takes_is_not_written() {
    let mut deep = entry("a", &["k"], &[]);
    deep.results[0].1.blobs = vec![digest("1"); 1001];
    let imported = decode(&encode(&[deep, entry("b", &["l"], &["1"])]).unwrap()).unwrap();
    assert_eq!(imported.links.len(), 2);
    assert_eq!(chains(&imported).len(), 1);
}
