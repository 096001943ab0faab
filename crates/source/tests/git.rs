//! What git servers and other users of the machine see of a request.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::error::Error;

use source::GitRequest;
use testing::http::{Answer, Server};

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[tokio::test]
async fn credentials_of_a_url_go_to_the_server_and_nowhere_else() {
    let server = Server::start(|_| Answer::new(404, "")).unwrap();
    for (credentials, header) in [
        ("user%40x:SECRET", "basic dXNlckB4OlNFQ1JFVA=="),
        ("SECRET", "basic U0VDUkVUOg=="),
    ] {
        let request = GitRequest {
            url: format!("http://{credentials}@{}/r.git", server.host()),
            reference: "main".into(),
            keep_git_dir: true,
            ..GitRequest::default()
        };
        let error = chain(&request.pin().await.unwrap_err());
        assert!(error.contains("xxxxx@"), "{error}");
        assert!(!error.contains("SECRET"), "{error}");
        let calls = server.calls();
        assert_eq!(calls.last().unwrap().header("authorization"), Some(header));
        assert_eq!(
            request.public_url(),
            format!("http://{}/r.git", server.host())
        );
    }
}
