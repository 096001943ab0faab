//! Where clients send their spans.

use proto::collector::trace_service_server::{TraceService, TraceServiceServer};
use proto::collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tonic::{Request, Response, Status};

use crate::Recorder;

impl Recorder {
    /// `opentelemetry.proto.collector.trace.v1.TraceService`.
    pub fn server(&self) -> TraceServiceServer<Recorder> {
        TraceServiceServer::new(self.clone())
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE)
    }
}

#[tonic::async_trait]
impl TraceService for Recorder {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.import(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
