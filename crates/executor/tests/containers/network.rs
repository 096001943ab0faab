//! The bridge.

use std::time::Duration;

use executor::Network;
use executor::publish::{Protocol, publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Machine, read};

#[tokio::test]
async fn containers_reach_each_other_and_the_host_and_are_published() {
    let machine = Machine::with_network(true).await;
    let script = "ip -4 -o addr show eth0 | awk '{print $4}'; ip route | head -1; \
                  while :; do nc -l -p 7000 -e cat; done";
    let run = machine
        .shell(script)
        .with(|run| run.network = Network::Bridge);
    let server = run.start().await.unwrap();
    let ip = server.ip().unwrap();
    assert!(ip.is_private());

    // The server may not listen yet, which `nc` says on its error stream.
    let script = format!(
        "for i in $(seq 100); do echo hello | nc {ip} 7000 2> /dev/null && break; sleep 0.1; done; \
         ping -c1 -W2 $(ip route | awk '/default/ {{print $3}}') > /dev/null && echo host"
    );
    let run = machine
        .shell(&script)
        .with(|run| run.network = Network::Bridge);
    assert_eq!(run.text().await, "hello\nhost\n");

    let published = publish(Protocol::Tcp, ([127, 0, 0, 1], 0).into(), (ip, 7000).into());
    let published = published.await.unwrap();
    // Between two connections `nc` does not listen for a moment.
    let echo = async {
        loop {
            match ask(published.address()).await {
                Ok(answer) if !answer.is_empty() => return answer,
                Ok(_) | Err(_) => {}
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), echo)
        .await
        .unwrap();
    assert_eq!(answer, "ping");
}

#[tokio::test]
async fn addresses_differ_and_links_go_with_their_containers() {
    let machine = Machine::with_network(true).await;
    let start = || {
        let run = machine
            .run(&["sleep", "60"])
            .with(|run| run.network = Network::Bridge);
        async { run.start().await.unwrap() }
    };
    let (one, two) = tokio::join!(start(), start());
    assert_ne!(one.ip(), two.ip());
    let mut mine = machine
        .run(&["ip", "-o", "link"])
        .with(|run| run.network = Network::Bridge);
    mine.stdio = executor::Stdio::Pipes { stdin: false };
    let mut three = mine.start().await.unwrap();
    let text = read(three.stdout.take()).await;
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[tokio::test]
async fn without_a_bridge_asking_for_it_is_an_error() {
    let machine = Machine::start().await;
    let run = machine
        .run(&["true"])
        .with(|run| run.network = Network::Bridge);
    let error = run.start().await.unwrap_err();
    assert_eq!(error.to_string(), "this daemon has no bridge network");
}

async fn ask(address: std::net::SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"ping").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
