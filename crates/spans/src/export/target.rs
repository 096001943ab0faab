//! A collector, and how it is reached.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use proto::collector::ExportTraceServiceRequest;
use proto::collector::trace_service_client::TraceServiceClient;
use rpc::tls::{TlsError, TlsFiles};
use tokio::net::UnixStream;
use tonic::Request;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, Endpoint};
use url::Url;

use crate::BoxError;
use crate::resource::pairs;

/// How long one sending may take, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why spans cannot be sent as the environment says.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// `OTEL_TRACES_EXPORTER` names something else than `otlp` or `none`.
    #[error("unsupported opentelemetry exporter {0}")]
    Exporter(String),
    /// `OTEL_EXPORTER_OTLP_PROTOCOL` names something else than `grpc` or `http/protobuf`.
    #[error("unsupported otlp protocol {0}")]
    Protocol(String),
    /// The collector's address is none.
    #[error("invalid otlp endpoint `{0}`")]
    Endpoint(String),
    /// Certificates or keys cannot be used.
    #[error("failed to set up tls for spans")]
    Tls(#[source] TlsError),
    /// The client cannot be made.
    #[error("failed to set up sending of spans")]
    Client(#[source] BoxError),
}

/// A collector.
pub(super) struct Target {
    how: How,
    headers: HeaderMap,
    timeout: Duration,
}

enum How {
    Grpc(Channel),
    Http { client: reqwest::Client, url: Url },
}

impl Target {
    /// The collector that the environment names, if it does.
    pub(super) fn asked_for(
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Target>, ExporterError> {
        let own = |name: &str| variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
        let any = |name: &str| variable(&format!("OTEL_EXPORTER_OTLP_{name}"));
        let either = |name: &str| own(name).or_else(|| any(name));
        match variable("OTEL_TRACES_EXPORTER").as_deref() {
            Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => return Err(ExporterError::Exporter(other.to_owned())),
            None if either("ENDPOINT").is_none() => return Ok(None),
            None => {}
        }
        let milliseconds = either("TIMEOUT").and_then(|text| text.parse().ok());
        let files = TlsFiles {
            ca: either("CERTIFICATE").map(PathBuf::from),
            cert: either("CLIENT_CERTIFICATE").map(PathBuf::from),
            key: either("CLIENT_KEY").map(PathBuf::from),
            server_name: None,
        };
        let timeout = milliseconds.map_or(TIMEOUT, Duration::from_millis);
        let protocol = either("PROTOCOL").unwrap_or_else(|| "grpc".to_owned());
        let how = match protocol.as_str() {
            "grpc" => {
                let endpoint = either("ENDPOINT");
                let endpoint = endpoint.unwrap_or_else(|| "http://localhost:4317".to_owned());
                let secure = either("INSECURE").as_deref() != Some("true");
                How::Grpc(grpc(&endpoint, secure, &files)?)
            }
            "http/protobuf" => How::Http {
                client: registry::http_client(concat!("drydock/", env!("CARGO_PKG_VERSION")))
                    .map_err(|error| ExporterError::Client(error.into()))?,
                url: http_url(own("ENDPOINT"), any("ENDPOINT"))?,
            },
            other => return Err(ExporterError::Protocol(other.to_owned())),
        };
        Ok(Some(Target {
            how,
            headers: headers(&either("HEADERS").unwrap_or_default()),
            timeout,
        }))
    }

    pub(super) async fn send(&self, spans: ExportTraceServiceRequest) -> Result<(), BoxError> {
        match &self.how {
            How::Grpc(channel) => {
                let mut client = TraceServiceClient::new(channel.clone());
                let mut request = Request::new(spans);
                request.set_timeout(self.timeout);
                *request.metadata_mut() = MetadataMap::from_headers({
                    let mut headers = request.metadata().clone().into_headers();
                    headers.extend(self.headers.clone());
                    headers
                });
                client.export(request).await?;
            }
            How::Http { client, url } => {
                let request = client
                    .post(url.clone())
                    .timeout(self.timeout)
                    .headers(self.headers.clone())
                    .header(http::header::CONTENT_TYPE, "application/x-protobuf")
                    .body(spans.encode_to_vec());
                request.send().await?.error_for_status()?;
            }
        }
        Ok(())
    }
}

/// A connection that is made when it is needed.
fn grpc(text: &str, secure: bool, files: &TlsFiles) -> Result<Channel, ExporterError> {
    let invalid = || ExporterError::Endpoint(text.to_owned());
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        return Ok(endpoint.connect_with_connector_lazy(connector));
    }
    // A bare `host:port`, for which `OTEL_EXPORTER_OTLP_INSECURE` says how it is reached.
    let with_scheme = match (text.contains("://"), secure) {
        (true, _) => text.to_owned(),
        (false, true) => format!("https://{text}"),
        (false, false) => format!("http://{text}"),
    };
    let url = Url::parse(&with_scheme).map_err(|_| invalid())?;
    let mut endpoint = Endpoint::from_shared(with_scheme).map_err(|_| invalid())?;
    match url.scheme() {
        "http" => {}
        "https" => {
            let mut tls = files.client().map_err(ExporterError::Tls)?;
            if files.ca.is_none() {
                tls = tls.ca_certificates(roots());
            }
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|error| ExporterError::Client(error.into()))?;
        }
        _ => return Err(invalid()),
    }
    Ok(endpoint.connect_lazy())
}

/// Whom the machine trusts.
fn roots() -> impl Iterator<Item = Certificate> {
    let found = rustls_native_certs::load_native_certs().certs;
    found.into_iter().map(|certificate| {
        let encoded = STANDARD.encode(&certificate);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        Certificate::from_pem(pem)
    })
}

/// Where spans are posted to: an address for spans alone is taken as it is, one for all of telemetry
/// is what the path of spans is put behind.
fn http_url(own: Option<String>, any: Option<String>) -> Result<Url, ExporterError> {
    let (text, whole) = match (own, any) {
        (Some(own), _) => (own, true),
        (None, Some(any)) => (any, false),
        (None, None) => ("http://localhost:4318".to_owned(), false),
    };
    let invalid = || ExporterError::Endpoint(text.clone());
    let mut url = Url::parse(&text).map_err(|_| invalid())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid());
    }
    if !whole {
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

/// Headers of the environment; names and values that cannot be any are passed over.
fn headers(list: &str) -> HeaderMap {
    pairs(list)
        .filter_map(|(name, value)| {
            let name: HeaderName = name.to_lowercase().parse().ok()?;
            let mut value: HeaderValue = value.parse().ok()?;
            // Tokens are given so.
            value.set_sensitive(true);
            Some((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_posted_below_the_endpoint() {
        let url = |own: Option<&str>, any: Option<&str>| {
            http_url(own.map(str::to_owned), any.map(str::to_owned)).map(String::from)
        };
        assert_eq!(url(None, None).unwrap(), "http://localhost:4318/v1/traces");
        assert_eq!(
            url(None, Some("https://a:1/b/")).unwrap(),
            "https://a:1/b/v1/traces"
        );
        assert_eq!(
            url(Some("http://a/b"), Some("http://c")).unwrap(),
            "http://a/b"
        );
        assert!(url(None, Some("a:1")).is_err());
    }

    #[tokio::test]
    async fn a_collector_is_reached_in_several_ways() {
        let files = TlsFiles::default();
        for good in ["http://a:1", "a:1", "unix:///a/b", "https://a"] {
            assert!(grpc(good, false, &files).is_ok(), "{good}");
        }
        for bad in ["ftp://a:1", "http://", ""] {
            assert!(grpc(bad, false, &files).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_are_given_in_a_list() {
        let headers = headers("Authorization=Basic%20abc, x-a=b,bad header=c,=d");
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["authorization"], "Basic abc");
    }
}
