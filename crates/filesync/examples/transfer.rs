//! How long a tree takes from one directory to another: at first, unchanged, and with one file
//! changed. With an argument, that many files; the directories are in memory.

#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use filesync::{Packets, ReceiveOptions, Received, SendOptions, receive, send};
use futures::StreamExt as _;
use sys::root::RootDir;

/// Files unless told otherwise.
const FILES: usize = 20_000;

/// Each role needs the packets of the other to begin: this is what it takes them from later.
fn later() -> (
    tokio::sync::oneshot::Sender<Packets>,
    impl futures::Stream<Item = Result<filesync::wire::Packet, tonic::Status>> + Unpin,
) {
    let (sender, receiver) = tokio::sync::oneshot::channel::<Packets>();
    let stream = futures::stream::once(receiver).filter_map(|packets| async { packets.ok() });
    (sender, Box::pin(stream.flatten().map(Ok)))
}

async fn sync(from: &Path, to: &Path) -> Received {
    let (to_sender, sender_in) = later();
    let (to_receiver, receiver_in) = later();
    let (packets, sending) = send(
        RootDir::open(from).unwrap(),
        SendOptions::default(),
        sender_in,
    );
    drop(to_receiver.send(packets));
    let (packets, receiving) = receive(
        RootDir::open(to).unwrap(),
        ReceiveOptions::default(),
        receiver_in,
    );
    drop(to_sender.send(packets));
    let (sent, received) = tokio::join!(sending, receiving);
    sent.unwrap();
    received.unwrap()
}

#[tokio::main]
async fn main() {
    let files = std::env::args()
        .nth(1)
        .map_or(FILES, |count| count.parse().unwrap());
    let dirs = tempfile::tempdir_in("/dev/shm").unwrap();
    let (from, to) = (dirs.path().join("from"), dirs.path().join("to"));
    fs::create_dir(&to).unwrap();
    for i in 0..files {
        let dir = from.join(format!("{}/{}", i % 100, i % 10));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(i.to_string()), vec![b'x'; i % 3000]).unwrap();
    }
    for case in ["first", "unchanged", "one changed"] {
        if case == "one changed" {
            fs::write(from.join("1/1/1"), "changed").unwrap();
        }
        let start = Instant::now();
        let received = sync(&from, &to).await;
        println!(
            "{case}: {:?}, {} entries, {} bytes",
            start.elapsed(),
            received.entries,
            received.bytes
        );
    }
}
