//! Calls to the worker.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use llb::{Definition, Graph, Selector, Vertex};
use oci::Digest;

use super::{Audience, Call, Driver, durations, sessions_of};
use crate::progress::{Fanout, Progress};
use crate::step::{JobNo, OpNo, Outcome, Run};
use crate::{DigestRequest, ErrorClass, JobId, OpError, PinRequest, RunRequest, Sessions};

impl Driver {
    fn spawn(
        &mut self,
        op: OpNo,
        audience: Option<Audience>,
        timed: Option<(Digest, Instant)>,
        call: impl Future<Output = Result<Outcome, OpError>> + Send + 'static,
    ) {
        let abort = self
            .calls
            .spawn(async move { call.await.unwrap_or_else(Outcome::Failed) });
        self.op_of_task.insert(abort.id(), op);
        self.ops.insert(
            op,
            Call {
                abort,
                audience,
                timed,
            },
        );
    }

    fn job_id(&self, job: JobNo) -> JobId {
        self.jobs
            .get(&job)
            .map_or_else(|| JobId::new(""), |entry| entry.id.clone())
    }

    /// Those who are there when a call begins.
    fn audience(&self, members: Vec<(JobNo, Digest)>) -> (Audience, Sessions, Progress) {
        let fanout = Arc::new(Fanout::new());
        for (job, vertex) in &members {
            if let Some(entry) = self.jobs.get(job) {
                fanout.join(*job, *vertex, entry.sink.clone());
            }
        }
        let (sender, sessions) = Sessions::new(sessions_of(&members, &self.jobs));
        let audience = Audience {
            fanout: fanout.clone(),
            sessions: sender,
            members,
        };
        (audience, sessions, Progress::new(fanout))
    }

    pub(super) fn pin(&mut self, op: OpNo, job: JobNo, vertex: Arc<Vertex>) {
        let (audience, sessions, progress) = self.audience(vec![(job, vertex.digest())]);
        let request = PinRequest {
            job: self.job_id(job),
            vertex,
            sessions,
            progress,
        };
        let worker = self.worker.clone();
        self.spawn(op, Some(audience), None, async move {
            Ok(Outcome::Pinned(worker.pin(request).await?.ids))
        });
    }

    pub(super) fn exists(&mut self, op: OpNo, job: JobNo, ids: Vec<Digest>) {
        let (worker, job) = (self.worker.clone(), self.job_id(job));
        self.spawn(op, None, None, async move {
            Ok(Outcome::Exists(worker.exists(&job, &ids).await?))
        });
    }

    pub(super) fn digest(&mut self, op: OpNo, job: JobNo, id: Digest, selectors: Vec<Selector>) {
        let (worker, job) = (self.worker.clone(), self.job_id(job));
        self.spawn(op, None, None, async move {
            let request = DigestRequest { job, id, selectors };
            Ok(Outcome::Digest(worker.digest(request).await?))
        });
    }

    pub(super) fn load(&mut self, op: OpNo, job: JobNo, id: Digest, filename: String) {
        let (worker, job) = (self.worker.clone(), self.job_id(job));
        let index = self.index.clone();
        self.spawn(op, None, None, async move {
            let bytes = worker.load_definition(&job, id, &filename).await?;
            let graph = Definition::decode(bytes).and_then(|definition| Graph::new(&definition));
            let graph = graph.map_err(|error| {
                OpError::new(ErrorClass::User, error.to_string())
                    .while_doing(&format!("failed to load the definition in `{filename}`"))
            })?;
            let durations = durations(&*index, &graph);
            Ok(Outcome::Definition {
                graph: Arc::new(graph),
                durations,
            })
        });
    }

    pub(super) fn run_op(&mut self, run: Run) {
        let (audience, sessions, progress) = self.audience(run.waiters);
        let timed = Some((run.vertex.keying().op_key, Instant::now()));
        let request = RunRequest {
            job: self.job_id(run.job),
            vertex: run.vertex,
            output_ids: run.output_ids,
            inputs: run.inputs,
            sessions,
            ignore_cache: run.ignore_cache,
            progress,
        };
        let worker = self.worker.clone();
        self.spawn(run.op, Some(audience), timed, async move {
            worker.run(request).await?;
            Ok(Outcome::Ran)
        });
    }
}
