//! Ops that BuildKit wrote, read and written again.

use base64::Engine as _;
use bytes::Bytes;
use llb::{OpMetadata, Vertex};

#[test]
fn ops_written_by_buildkit_are_read_and_written_to_the_same_bytes() {
    let ops = include_str!("data/ops.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in ops {
        let raw = Bytes::from(
            base64::engine::general_purpose::STANDARD
                .decode(line)
                .unwrap(),
        );
        let vertex = Vertex::decode(raw.clone(), OpMetadata::default()).unwrap();
        assert_eq!(vertex.op().encode(), raw, "{:?}", vertex.op());
        count += 1;
    }
    assert!(count > 40, "{count}");
}
