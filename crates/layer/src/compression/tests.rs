use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::*;

/// Bytes that compress like text, the same each time.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let word = format!("{:x} ", (state >> 33) % 5000);
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn compressed(compression: Compression, threads: usize, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = compress_with(compression, Vec::new(), threads).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn decompressed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(bytes)?.read_to_end(&mut out)?;
    Ok(out)
}

/// What the program of that name makes of the bytes.
fn piped(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program}");
    output.stdout
}

#[test]
fn every_form_comes_back() {
    for compression in [
        Compression::None,
        Compression::default(),
        Compression::Zstd(3),
    ] {
        for length in [0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20] {
            let bytes = sample(length);
            let out = compressed(compression, 2, &bytes);
            assert!(
                decompressed(&out).unwrap() == bytes,
                "{compression:?} {length}"
            );
        }
    }
}

#[test]
fn output_does_not_depend_on_the_number_of_threads() {
    let bytes = sample(9 << 20);
    for compression in [Compression::Gzip(6), Compression::ZSTD] {
        let one = compressed(compression, 1, &bytes);
        for threads in [2, 3, 8] {
            assert!(
                compressed(compression, threads, &bytes) == one,
                "{compression:?} {threads}"
            );
        }
    }
}

#[test]
fn gzip_reads_what_is_written_and_the_other_way_round() {
    let bytes = sample(3 << 20);
    for level in 0..=9 {
        let out = compressed(Compression::Gzip(level), 2, &bytes);
        assert!(piped("gzip", &["-dc"], &out) == bytes, "{level}");
    }
    assert!(decompressed(&piped("gzip", &["-c"], &bytes)).unwrap() == bytes);
}

#[test]
fn members_and_frames_one_after_another_are_one_stream() {
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let two = [
            compressed(compression, 1, b"one "),
            compressed(compression, 1, b"two"),
        ];
        assert_eq!(decompressed(&two.concat()).unwrap(), b"one two");
    }
    let skippable = [&[0x5f, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..]];
    let frame = compressed(Compression::ZSTD, 1, b"data");
    assert_eq!(
        decompressed(&[&skippable.concat()[..], &frame].concat()).unwrap(),
        b"data"
    );
}

#[test]
fn old_formats_are_read() {
    use bzip2::write::BzEncoder;
    use xz2::write::XzEncoder;
    let bytes = sample(200_000);
    let mut bzip2 = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&bytes).unwrap();
    assert!(decompressed(&bzip2.finish().unwrap()).unwrap() == bytes);
    let mut xz = XzEncoder::new(Vec::new(), 1);
    xz.write_all(&bytes).unwrap();
    assert!(decompressed(&xz.finish().unwrap()).unwrap() == bytes);
}

#[test]
fn a_stream_cut_short_is_an_error() {
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let out = compressed(compression, 2, &sample(2 << 20));
        for length in [out.len() - 1, out.len() / 2, 12] {
            assert!(
                decompressed(&out[..length]).is_err(),
                "{compression:?} {length}"
            );
        }
        let mut changed = out.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x55;
        assert!(decompressed(&changed).is_err(), "{compression:?}");
    }
}

#[test]
fn reading_ahead_gives_the_same_bytes_and_errors() {
    let bytes = sample(3 << 20);
    let mut out = Vec::new();
    read_ahead(io::Cursor::new(bytes.clone()))
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    assert!(out == bytes);
    let short = compressed(Compression::GZIP, 1, &bytes)[..5000].to_vec();
    let stream = decompress(io::Cursor::new(short)).unwrap();
    assert!(read_ahead(stream).unwrap().read_to_end(&mut out).is_err());
    // Dropped in the middle: the thread notices at its next chunk.
    drop(read_ahead(io::repeat(0)).unwrap());
}
