//! `Upload`: streams that the daemon fetches once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::upload::BytesMessage;
use proto::upload::upload_server::{self, UploadServer};
use tokio_util::io::ReaderStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, Upload};

/// Bytes in one message.
const CHUNK: usize = 64 << 10;

/// The streams offered, by name.
pub(super) struct Uploads(Shared<Mutex<BTreeMap<String, Upload>>>);

pub(super) fn server(uploads: BTreeMap<String, Upload>) -> UploadServer<Uploads> {
    UploadServer::new(Uploads(Arc::new(Mutex::new(uploads))))
}

#[tonic::async_trait]
impl upload_server::Upload for Uploads {
    type PullStream = BoxStream<'static, Result<BytesMessage, Status>>;

    async fn pull(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let path = request
            .metadata()
            .get("urlpath")
            .and_then(|path| path.to_str().ok());
        let name = path.unwrap_or_default().trim_start_matches('/');
        let upload = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        let upload = upload.ok_or_else(|| Status::not_found(format!("no upload `{name}`")))?;
        let chunks = ReaderStream::with_capacity(upload, CHUNK).map(|chunk| match chunk {
            Ok(data) => Ok(BytesMessage { data }),
            Err(error) => Err(Status::unknown(format!(
                "failed to read an upload: {error}"
            ))),
        });
        Ok(Response::new(chunks.boxed()))
    }
}
