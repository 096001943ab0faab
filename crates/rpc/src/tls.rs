//! Certificates and keys for TCP, read from files.

use std::io;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// A certificate or key of this size is not one, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// The PEM files of one side.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Who vouches for the other side. A server with one demands certificates of its clients.
    pub ca: Option<PathBuf>,
    /// This side's certificate chain.
    pub cert: Option<PathBuf>,
    /// The certificate's key.
    pub key: Option<PathBuf>,
    /// The name in the server's certificate, if not the one in its address. Clients only.
    pub server_name: Option<String>,
}

/// Why files are of no use for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate without a key, a key without a certificate, or a server without either.
    #[error("tls needs both a certificate and its key")]
    NoIdentity,
}

impl TlsFiles {
    /// The configuration of a server.
    ///
    /// # Errors
    /// A file cannot be read, or certificate or key is missing.
    pub fn server(&self) -> Result<ServerTlsConfig, TlsError> {
        let mut config =
            ServerTlsConfig::new().identity(self.identity()?.ok_or(TlsError::NoIdentity)?);
        if let Some(ca) = &self.ca {
            config = config.client_ca_root(Certificate::from_pem(read(ca)?));
        }
        Ok(config)
    }

    /// The configuration of a client.
    ///
    /// # Errors
    /// A file cannot be read, or of certificate and key there is only one.
    pub fn client(&self) -> Result<ClientTlsConfig, TlsError> {
        let mut config = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            config = config.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some(identity) = self.identity()? {
            config = config.identity(identity);
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }

    fn identity(&self) -> Result<Option<Identity>, TlsError> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(Some(Identity::from_pem(read(cert)?, read(key)?))),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(TlsError::NoIdentity),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE_SIZE {
        return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    std::fs::read(path).map_err(failed)
}
