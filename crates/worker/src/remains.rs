//! What failed steps leave behind: the filesystem as it was, for clients that want to look into it.

use std::time::Duration;

use oci::Digest;
use refs::Refs;
use tokio::task::JoinHandle;

/// How long what a failed step left behind outlives the job that began the step.
const KEPT: Duration = Duration::from_secs(120);

/// Forgets `remains`, once those who joined the failed steps had time to look at it.
pub(crate) fn forget_later(refs: &Refs, remains: Vec<Digest>) {
    // It ends by itself; at the end of the process what is left is found by nobody.
    drop(forget_after(tokio::time::sleep(KEPT), refs, remains));
}

fn forget_after(
    time: impl Future<Output = ()> + Send + 'static,
    refs: &Refs,
    remains: Vec<Digest>,
) -> JoinHandle<()> {
    let refs = refs.clone();
    tokio::spawn(async move {
        time.await;
        remains.iter().for_each(|id| refs.forget(id));
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use content::Content;
    use refs::{Db, Meta, RecordType};
    use snapshot::{Kind, Snapshots};

    use super::*;

    #[tokio::test]
    async fn what_a_failed_step_left_behind_goes_when_its_time_has_come() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let snapshots = Snapshots::open(&at("snapshots"), Kind::Auto).unwrap();
        let content = Content::open(&at("content")).unwrap();
        let db = Db::open(&at("drydock.db")).unwrap();
        let options = refs::Options {
            clock: SystemTime::now,
        };
        let refs = Refs::open(db, snapshots.clone(), content, options).unwrap();
        let left = Digest::of("left by a failed step");
        let meta = Meta {
            description: String::new(),
            record_type: RecordType::Regular,
            created: SystemTime::now(),
        };
        let active = snapshots.prepare(&[]).unwrap();
        let seen = refs.commit(left, None, active, meta).unwrap();

        let (come, time) = tokio::sync::oneshot::channel::<()>();
        let forgotten = forget_after(async move { drop(time.await) }, &refs, vec![left]);
        assert_eq!(refs.exists(&[left]), [true]);
        come.send(()).unwrap();
        forgotten.await.unwrap();
        assert_eq!(refs.exists(&[left]), [false]);
        // Who looks at it keeps it.
        refs.flush().await.unwrap();
        assert_eq!(snapshots.list().unwrap().len(), 1);
        drop(seen);
        refs.flush().await.unwrap();
        assert!(snapshots.list().unwrap().is_empty());
    }
}
