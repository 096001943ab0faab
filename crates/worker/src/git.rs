//! Git sources.

mod bundle;
mod pins;
mod repository;

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use llb::{SourceOp, SshMount};
use oci::{Digest, redact_url};
use proto::worker as wire;
use refs::{Meta, RecordType, Ref};
use source::{GitError, GitPin, GitRequest, SignatureRules};

use crate::failure::{Class, Failure, blocking, chain};
use crate::op::ssh::{self, Agent};
use crate::sessions::Sessions;
use crate::state::Shared;
pub(crate) use pins::Pins;

/// Who may use the socket of an agent: only the daemon, for which it is made.
const AGENT_MODE: u32 = 0o600;

/// Finds out which commit a source op stands for.
pub(crate) async fn pin(
    shared: &Shared,
    job: &str,
    op: &SourceOp,
    sessions: &Sessions,
) -> Result<GitPin, Failure> {
    let (request, _agent) = request(shared, op, sessions).await?;
    let pin = request.pin().await.map_err(failed)?;
    if request.signature.is_some() {
        let source = redact_url(&op.identifier);
        repository::objects(shared, &request, &pin, &source).await?;
    }
    // It is unpacked now, and need not be fetched once more for its files.
    if request.bundle.is_some() && pin.reference.is_some() {
        let source = redact_url(&op.identifier);
        repository::prefetch(shared, &request, &pin, &source).await?;
    }
    let pins = shared.job(job)?.git_pins;
    pins.add(&request.url, pin.clone());
    Ok(pin)
}

/// Brings in the files of a source op that was pinned to `id`.
pub(crate) async fn realize(
    shared: &Shared,
    job: &str,
    op: &SourceOp,
    id: Digest,
    sessions: &Sessions,
) -> Result<Ref, Failure> {
    let (request, _agent) = request(shared, op, sessions).await?;
    let source = redact_url(&op.identifier);
    let known = shared.job(job)?.git_pins.find(&request.url, id);
    let pin = match known {
        Some(pin) => pin,
        None => request.pin().await.map_err(failed)?,
    };
    if pin.id != id {
        return Err(crate::op::vanished(&format!("commit of {source}")));
    }
    let active = repository::files(shared, &request, &pin, &source).await?;
    let refs = shared.refs.clone();
    let meta = Meta {
        description: format!("git snapshot for {source}"),
        record_type: RecordType::Regular,
        created: SystemTime::now(),
    };
    blocking(move || {
        let layer = vec![refs::LayerSpec::New(active)];
        refs.put_layers(id, layer, meta).map_err(Failure::host)
    })
    .await
}

/// What a source op stands for now; with the raw objects if they are wanted.
pub(crate) async fn resolve(
    shared: &Shared,
    op: &SourceOp,
    with_objects: bool,
    sessions: &Sessions,
) -> Result<wire::GitSource, Failure> {
    let (request, _agent) = request(shared, op, sessions).await?;
    let pin = request.pin().await.map_err(failed)?;
    let mut found = wire::GitSource {
        checksum: pin.object.clone(),
        r#ref: pin.reference.clone().unwrap_or_else(|| pin.commit.clone()),
        ..wire::GitSource::default()
    };
    // A kept repository has the tag itself.
    if pin.object != pin.commit && !request.keep_git_dir {
        found.commit_checksum.clone_from(&pin.commit);
    }
    if with_objects || request.signature.is_some() {
        let source = redact_url(&op.identifier);
        let objects = repository::objects(shared, &request, &pin, &source).await?;
        if objects.commit != pin.object {
            found.commit_checksum = objects.commit;
        }
        if with_objects {
            found.commit_object = objects.commit_object.into();
            found.tag_object = objects.tag_object.into();
        }
    }
    Ok(found)
}

fn failed(error: GitError) -> Failure {
    let class = match error.class() {
        registry::Class::Host => Class::Host,
        _ => Class::User,
    };
    Failure::new(class, chain(&error))
}

/// What the op asks for, and the agent that must live as long as git is used.
async fn request(
    shared: &Shared,
    op: &SourceOp,
    sessions: &Sessions,
) -> Result<(GitRequest, Option<Agent>), Failure> {
    let attr = |key: &str| op.attrs.get(key).cloned().unwrap_or_default();
    let flag = |key: &str| attr(key) == "true";
    let rest = op.identifier.strip_prefix("git://").unwrap_or_default();
    let (host_path, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let url = match attr("git.fullurl") {
        full if full.is_empty() => format!("https://{host_path}"),
        full => full,
    };
    let agent = match attr("git.mountsshsock") {
        id if id.is_empty() => None,
        id => Some(agent(shared, &id, sessions).await?),
    };
    let request = GitRequest {
        authorization: authorization(&url, op, sessions).await?,
        url,
        reference: reference.to_owned(),
        subdir: subdir.to_owned(),
        keep_git_dir: flag("git.keepgitdir"),
        checksum: attr("git.checksum"),
        fetch_by_commit: flag("git.fetchbycommit"),
        skip_submodules: flag("git.skipsubmodules"),
        commit_time: attr("git.mtime") == "commit",
        as_bundle: flag("git.checkoutbundle"),
        bundle: bundle::find(shared, op, sessions)?,
        signature: signature(op),
        known_hosts: attr("git.knownsshhosts"),
        scratch: shared.scratch.path().to_owned(),
        ssh_agent: agent.as_ref().map(Agent::socket),
    };
    Ok((request, agent))
}

/// How the op wants signatures verified (BuildKit: `source/git/source.go`).
fn signature(op: &SourceOp) -> Option<SignatureRules> {
    let is_about = |key: &String| key.starts_with("git.sig.");
    let flag = |key: &str| op.attrs.get(key).is_some_and(|value| value == "true");
    op.attrs.keys().any(is_about).then(|| SignatureRules {
        public_key: op.attrs.get("git.sig.pubkey").cloned().unwrap_or_default(),
        reject_expired: flag("git.sig.rejectexpired"),
        require_tag: flag("git.sig.requiresignedtag"),
        ignore_tag: flag("git.sig.ignoresignedtag"),
    })
}

async fn agent(shared: &Shared, id: &str, sessions: &Sessions) -> Result<Agent, Failure> {
    let mount = SshMount {
        id: id.to_owned(),
        uid: 0,
        gid: 0,
        mode: AGENT_MODE,
        optional: false,
    };
    let agent = Agent::forward(sessions, &mount, &shared.scratch).await?;
    agent.ok_or_else(|| ssh::missing(id))
}

/// What the client has for the repository: under the names that the op gives, those for the host
/// first (BuildKit: `source/git/source.go`).
async fn authorization(
    url: &str,
    op: &SourceOp,
    sessions: &Sessions,
) -> Result<Option<registry::Secret>, Failure> {
    let Some(("http" | "https", rest)) = url.split_once("://") else {
        return Ok(None);
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let name = |key: &str| op.attrs.get(key).filter(|name| !name.is_empty());
    let header = name("git.authheadersecret").map(|name| (name, false));
    let token = name("git.authtokensecret").map(|name| (name, true));
    let names: Vec<_> = [header, token].into_iter().flatten().collect();
    let of_host = names
        .iter()
        .map(|(name, token)| (format!("{name}.{host}"), *token));
    let of_all = names.iter().map(|(name, token)| ((*name).clone(), *token));
    for (name, token) in of_host.chain(of_all) {
        let answer = sessions.first(|calls| {
            let name = name.clone();
            async move { calls.secret(&name).await.map_err(Failure::from) }
        });
        // A client without secrets, or none at all: a public repository needs none.
        let Ok(value) = answer.await else { continue };
        let value = String::from_utf8_lossy(&value).trim().to_owned();
        let value = match token {
            true => format!(
                "basic {}",
                STANDARD.encode(format!("x-access-token:{value}"))
            ),
            false => value,
        };
        return Ok(Some(registry::Secret::new(value)));
    }
    Ok(None)
}
