//! What clients that ask for the history are told.

use std::collections::BTreeMap;

use proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::Status;

use super::History;
use super::filter::{Filters, limit};

/// Events that wait for a slow client.
const QUEUE: usize = 64;

impl History {
    /// The events that `request` asks for: what is there, and then what happens.
    pub(crate) async fn listen(
        &self,
        request: BuildHistoryRequest,
    ) -> Result<mpsc::Receiver<Result<BuildHistoryEvent, Status>>, Status> {
        let name = Some(request.r#ref.clone()).filter(|name| !name.is_empty());
        let filters = Filters::parse(&request.filter)
            .map_err(|error| Status::unknown(rpc::status::chain(&error)))?;
        self.settled(name.as_deref()).await;
        // Before looking, so that nothing in between is missed.
        let mut events = self.inner.events.subscribe();
        let active = self.active(name.as_deref());
        let mut kept = Vec::new();
        if !request.active_only {
            let wanted = name.clone();
            kept = self
                .reading(move |store| match wanted {
                    Some(name) => Ok(store.get(&name)?.into_iter().collect()),
                    None => store.all(),
                })
                .await?;
            // A build that is made anew under its old name shows as it is now.
            kept.retain(|record| !active.contains_key(&record.r#ref));
            kept.retain(|record| filters.matches(record));
            kept = limit(kept, request.limit)
                .map_err(|error| Status::unknown(rpc::status::chain(&error)))?;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let active = active.into_values();
            let active = active.map(|record| event(BuildHistoryEventType::Started, record));
            let kept = kept.into_iter();
            let kept = kept.map(|record| event(BuildHistoryEventType::Complete, record));
            for event in active.chain(kept) {
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if request.early_exit {
                return;
            }
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = sender.closed() => return,
                };
                let event = match event {
                    Ok(event) => event,
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(lost)) => {
                        let message = format!("the client is too slow: {lost} events were lost");
                        // The client may have left.
                        let _ = sender.send(Err(Status::resource_exhausted(message))).await;
                        return;
                    }
                };
                let of = event.record.as_ref().map(|record| &record.r#ref);
                let wanted = name.is_none() || name.as_ref() == of;
                if wanted && sender.send(Ok((*event).clone())).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Records of the builds that run, by name.
    fn active(&self, name: Option<&str>) -> BTreeMap<String, BuildHistoryRecord> {
        let state = self.inner.state();
        let active = state.active.iter();
        active
            .filter(|(of, _)| name.is_none_or(|name| name == of.as_str()))
            .map(|(name, active)| (name.clone(), active.record.clone()))
            .collect()
    }
}

fn event(kind: BuildHistoryEventType, record: BuildHistoryRecord) -> BuildHistoryEvent {
    BuildHistoryEvent {
        r#type: kind.into(),
        record: Some(record),
    }
}
