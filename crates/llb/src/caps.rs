//! The LLB capabilities that this engine has.

/// Every capability that there is, by its id on the wire, in BuildKit's spelling
/// (`solver/pb/caps.go`, at 73ed6825c), mistakes included. What is not here is left out by frontends
/// silently, or refused by them with a clear text.
pub const CAPABILITIES: &[&str] = &[
    "source.image",
    "source.image.resolvemode",
    "source.image.layerlimit",
    "source.image.checksum",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.local.metadatatransfer",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.knownsshhosts",
    "source.git.mountsshsock",
    "source.git.subdir",
    "source.git.checksum",
    "source.git.skipsubmodules",
    "source.git.mtime",
    "source.git.fetchbycommit",
    "source.http",
    "source.http.auth",
    "source.http.checksum",
    "source.http.perm",
    "soruce.http.uidgid",
    "source.http.header",
    "source.imageblob",
    "source.ocilayout",
    "source.buildop.llbfilename",
    "exec.meta.base",
    "exec.meta.cdi",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.meta.removemountstubs.recursive",
    "exec.meta.linux.resources",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.mount.cache.content",
    "exec.cgroup",
    "exec.secretenv",
    "exec.validexitcode",
    "file.base",
    "file.rm.wildcard",
    "file.rm.nofollowsymlink",
    "file.copy.includeexcludepatterns",
    "file.copy.requiredpaths",
    "file.copy.alwaysreplaceexistingdestpaths",
    "file.copy.modestring",
    "file.symlink.create",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "mergeop",
    "diffop",
    "passthroughop",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.sourcedateepoch",
    "exporter.multiple",
    "exporter.session",
    "source.policy",
    "source.policy.session",
    "gc.freespacefilter",
    "history.filter",
];

/// Capabilities of BuildKit that there are not. A graph may name them all the same: whoever carries
/// out its ops says what cannot be done.
const MISSING: &[&str] = &[
    "source.git.signatureverify",
    "source.git.bundle",
    "source.git.checkoutbundle",
    "source.http.signatureverify",
    "exec.meta.network.proxy",
    "exec.meta.security.devices.v1",
    "cache.gha",
    "cache.s3",
    "cache.azblob",
];

/// Whether there is the capability `id`.
pub fn has_capability(id: &str) -> bool {
    CAPABILITIES.contains(&id)
}

/// A vertex needs a capability that this engine does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown API capability {0}")]
pub struct UnknownCapability(pub String);

/// Refuses a capability that nobody knows.
pub(crate) fn require(capability: &str) -> Result<(), UnknownCapability> {
    if CAPABILITIES.contains(&capability) || MISSING.contains(&capability) {
        return Ok(());
    }
    Err(UnknownCapability(capability.to_owned()))
}
