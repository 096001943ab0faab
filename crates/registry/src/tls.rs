//! TLS settings of one host.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::SetupError;
use crate::hosts::{HostConfig, KeyPair};

/// A client configuration for `host`; `protocols` are those offered by ALPN.
pub(crate) fn client_config(
    host: &HostConfig,
    insecure: bool,
    protocols: &[&[u8]],
) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?;
    let found = dir_files(host);
    let builder = if insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
    } else {
        let mut roots = system_roots().clone();
        for path in &host.ca {
            add_authorities(&mut roots, path)?;
        }
        for path in &found.authorities {
            // Files of a directory are found, not named by anyone: a bad one is passed over.
            if let Err(error) = add_authorities(&mut roots, path) {
                tracing::warn!(path = %path.display(), ?error, "certificate authority passed over");
            }
        }
        builder.with_root_certificates(roots)
    };
    // rustls presents one certificate; the last pair named is taken, as a named one is more
    // particular than those of a directory.
    let pair = host.keypairs.last().or(found.pairs.last());
    let mut config = match pair {
        Some(pair) => {
            let (chain, key) = load_pair(pair)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| SetupError::ClientCertificate {
                    path: pair.cert.clone(),
                    source,
                })?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}

/// The system's certificate authorities, read once: that is some hundred files.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "system certificates");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), SetupError> {
    let error = |source| SetupError::Pem {
        path: path.to_owned(),
        source,
    };
    for cert in CertificateDer::pem_file_iter(path).map_err(|e| error(e.into()))? {
        roots
            .add(cert.map_err(|e| error(e.into()))?)
            .map_err(|e| error(e.into()))?;
    }
    Ok(())
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn load_pair(pair: &KeyPair) -> Result<Chain, SetupError> {
    let cert = |e: rustls::pki_types::pem::Error| SetupError::Pem {
        path: pair.cert.clone(),
        source: e.into(),
    };
    let chain = CertificateDer::pem_file_iter(&pair.cert)
        .map_err(cert)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(cert)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|e| SetupError::Pem {
        path: pair.key.clone(),
        source: e.into(),
    })?;
    Ok((chain, key))
}

#[derive(Default)]
struct DirFiles {
    authorities: Vec<PathBuf>,
    pairs: Vec<KeyPair>,
}

fn dir_files(host: &HostConfig) -> DirFiles {
    let mut found = DirFiles::default();
    for dir in &host.tls_dirs {
        let Ok(entries) = fs::read_dir(dir) else {
            continue;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => found.authorities.push(path),
                Some("cert") => {
                    let key = path.with_extension("key");
                    found.pairs.push(KeyPair { key, cert: path });
                }
                _ => {}
            }
        }
    }
    found.authorities.sort();
    found.pairs.sort();
    found
}

/// Takes any certificate: the user said `insecure`.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
