//! Outputs on their way to the client.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::filesync::BytesMessage;
use proto::filesync::file_send_client::FileSendClient;
use rpc::tunnel::{Chunk as _, Outgoing};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::SessionError;
use crate::calls::append;

/// The most bytes in one message; BuildKit's clients take 3 MiB.
const CHUNK: usize = 1 << 20;

/// Which output of a client something is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirTarget {
    /// The index of the exporter in the build.
    pub exporter: String,
    /// What the client is told beside the output.
    pub metadata: BTreeMap<String, String>,
    /// Whether all platforms come in one transfer, so that what is not in it may be removed.
    pub multi_platform: bool,
}

impl DirTarget {
    pub(crate) fn write_metadata(&self, metadata: &mut MetadataMap) -> Result<(), SessionError> {
        append(
            metadata,
            "buildkit-attachable-exporter-id",
            std::slice::from_ref(&self.exporter),
        )?;
        for (key, value) in &self.metadata {
            append(
                metadata,
                &format!("exporter-md-{}", key.to_lowercase()),
                std::slice::from_ref(value),
            )?;
        }
        if self.multi_platform {
            append(
                metadata,
                "buildkit-exporter-multi-platform",
                &["1".to_owned()],
            )?;
        }
        Ok(())
    }
}

/// Writes an output file of the client.
///
/// The call is made at once, but its answer comes only with the end: a client's gRPC library tells
/// that it accepts a call with its first message, and a client that takes a file sends none.
pub struct TarWriter {
    outgoing: Option<Outgoing<BytesMessage>>,
    call: JoinHandle<Result<(), Status>>,
}

impl TarWriter {
    pub(crate) fn open(
        channel: Channel,
        request: Request<ReceiverStream<BytesMessage>>,
        outgoing: Outgoing<BytesMessage>,
    ) -> TarWriter {
        let call = tokio::spawn(async move {
            let mut client =
                FileSendClient::new(channel).max_encoding_message_size(rpc::MAX_MESSAGE_SIZE);
            let mut answers = client.diff_copy(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        });
        TarWriter {
            outgoing: Some(outgoing),
            call,
        }
    }

    /// Adds `data`. `false` when the client wants no more, which [`TarWriter::finish`] explains.
    pub async fn write(&mut self, mut data: Bytes) -> bool {
        let Some(outgoing) = &self.outgoing else {
            return false;
        };
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            if !outgoing.send(BytesMessage::new(chunk)).await {
                return false;
            }
        }
        true
    }

    /// Ends the file and waits until the client has it.
    ///
    /// # Errors
    /// When the client could not write it. That it has the content already is none.
    pub async fn finish(mut self) -> Result<(), SessionError> {
        self.outgoing = None;
        match (&mut self.call).await {
            Ok(Err(status)) if status.code() == Code::AlreadyExists => Ok(()),
            Ok(answer) => Ok(answer?),
            Err(error) => Err(Status::internal(format!("an upload was lost: {error}")).into()),
        }
    }
}

impl Drop for TarWriter {
    fn drop(&mut self) {
        self.call.abort();
    }
}
