//! Exporters that a client decides on once it has seen the result.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::exporter::exporter_client::ExporterClient;
use proto::exporter::{ExporterRequest, FinalizeExportRequest, FindExportersRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::{Session, SessionError};

/// The most exporters that a client may ask for; one is usual.
const MAX_EXPORTERS: usize = 100;

/// An output that a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedExporter {
    /// The exporter's name.
    pub kind: String,
    /// With what.
    pub attrs: BTreeMap<String, String>,
}

impl Session {
    /// Asks the client what is to become of a result: its metadata and the names of its refs. A
    /// client that does not answer such questions wants nothing more.
    ///
    /// # Errors
    /// What the client says against the result.
    pub async fn find_exporters(
        &self,
        metadata: &BTreeMap<String, Bytes>,
        refs: Vec<String>,
    ) -> Result<Vec<WantedExporter>, SessionError> {
        let request = FindExportersRequest {
            metadata: metadata.clone(),
            refs,
        };
        let Some(answer) = answered(self.exporters().find_exporters(request).await)? else {
            return Ok(Vec::new());
        };
        if answer.exporters.len() > MAX_EXPORTERS {
            return Err(SessionError::Invalid("it asks for too many exporters"));
        }
        let wanted = |exporter: ExporterRequest| WantedExporter {
            kind: exporter.r#type,
            attrs: exporter.attrs,
        };
        Ok(answer.exporters.into_iter().map(wanted).collect())
    }

    /// Tells the client what all exporters have said.
    ///
    /// # Errors
    /// When the client does not take the build for done.
    pub async fn finalize_export(
        &self,
        response: &BTreeMap<String, String>,
    ) -> Result<(), SessionError> {
        let request = FinalizeExportRequest {
            exporter_response: response.clone(),
        };
        answered(self.exporters().finalize_export(request).await).map(drop)
    }

    fn exporters(&self) -> ExporterClient<Channel> {
        ExporterClient::new(self.channel())
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE)
    }
}

/// The answer; `None` when the client has none to give (BuildKit: `solver/llbsolver/export.go`).
fn answered<T>(answer: Result<tonic::Response<T>, Status>) -> Result<Option<T>, SessionError> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if matches!(status.code(), Code::Unimplemented | Code::Unavailable) => Ok(None),
        Err(status) => Err(status.into()),
    }
}
