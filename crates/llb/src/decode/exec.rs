//! Checks exec ops.

use proto::pb;

use super::{InvalidOp, optional_index};
use crate::{
    CacheMount, CacheSharing, CdiDevice, ContentMatching, ExecOp, HostIp, Meta, Mount, MountKind,
    NetMode, ProxyEnv, SecretEnv, SecretMount, SecurityMode, SshMount, Ulimit,
};

pub(super) fn decode(op: pb::ExecOp, inputs: usize) -> Result<ExecOp, InvalidOp> {
    let missing = |part| InvalidOp::Missing { op: "exec", part };
    let meta = meta(op.meta.ok_or(missing("meta"))?);
    if meta.args.is_empty() {
        return Err(missing("args"));
    }
    if op.mounts.is_empty() {
        return Err(missing("mounts"));
    }
    let mounts = mounts(op.mounts, inputs)?;
    let Some(root) = mounts.iter().find(|mount| mount.dest == "/") else {
        return Err(missing("rootfs"));
    };
    match root.kind {
        MountKind::Bind => {}
        MountKind::Secret(_) => return Err(InvalidOp::RootMount("SECRET")),
        MountKind::Ssh(_) => return Err(InvalidOp::RootMount("SSH")),
        MountKind::Cache(_) => return Err(InvalidOp::RootMount("CACHE")),
        MountKind::Tmpfs { .. } => return Err(InvalidOp::RootMount("TMPFS")),
    }
    Ok(ExecOp {
        meta,
        mounts,
        network: match op.network {
            0 => NetMode::Sandbox,
            1 => NetMode::Host,
            2 => NetMode::None,
            value => {
                return Err(InvalidOp::UnknownValue {
                    field: "network mode",
                    value,
                });
            }
        },
        security: match op.security {
            0 => SecurityMode::Sandbox,
            1 => SecurityMode::Insecure,
            value => {
                return Err(InvalidOp::UnknownValue {
                    field: "security mode",
                    value,
                });
            }
        },
        secret_env: op
            .secretenv
            .into_iter()
            .map(|env| SecretEnv {
                id: env.id,
                name: env.name,
                optional: env.optional,
            })
            .collect(),
        devices: op
            .cdi_devices
            .into_iter()
            .map(|device| CdiDevice {
                name: device.name,
                optional: device.optional,
            })
            .collect(),
    })
}

fn meta(meta: pb::Meta) -> Meta {
    Meta {
        args: meta.args,
        env: meta.env,
        cwd: meta.cwd,
        user: meta.user,
        proxy_env: meta.proxy_env.map(|proxy| ProxyEnv {
            http_proxy: proxy.http_proxy,
            https_proxy: proxy.https_proxy,
            ftp_proxy: proxy.ftp_proxy,
            no_proxy: proxy.no_proxy,
            all_proxy: proxy.all_proxy,
        }),
        extra_hosts: meta
            .extra_hosts
            .into_iter()
            .map(|line| HostIp {
                host: line.host,
                ip: line.ip,
            })
            .collect(),
        hostname: meta.hostname,
        ulimits: meta
            .ulimit
            .into_iter()
            .map(|limit| Ulimit {
                name: limit.name,
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
        cgroup_parent: meta.cgroup_parent,
        remove_mount_stubs_recursive: meta.remove_mount_stubs_recursive,
        valid_exit_codes: meta.valid_exit_codes,
    }
}

/// Outputs are numbered by the order of the mounts that have one. BuildKit does the same
/// (`gateway/container`, `OutputRefs`): of the number received only its sign counts.
fn mounts(received: Vec<pb::Mount>, inputs: usize) -> Result<Vec<Mount>, InvalidOp> {
    let mut outputs = 0;
    received
        .into_iter()
        .map(|received| {
            let wants_output = received.output >= 0;
            let mut mount = mount(received, inputs)?;
            if wants_output && mount.kind == MountKind::Bind {
                mount.output = Some(outputs);
                outputs += 1;
            }
            Ok(mount)
        })
        .collect()
}

/// One mount, its output not yet numbered.
fn mount(mount: pb::Mount, inputs: usize) -> Result<Mount, InvalidOp> {
    if mount.output < -1 {
        return Err(InvalidOp::Index {
            what: "mount output",
            index: mount.output,
        });
    }
    let kind = match mount.mount_type {
        0 => MountKind::Bind,
        1 => {
            let secret = mount.secret_opt.ok_or(InvalidOp::MountOptions("secret"))?;
            MountKind::Secret(SecretMount {
                id: secret.id,
                uid: secret.uid,
                gid: secret.gid,
                mode: secret.mode,
                optional: secret.optional,
            })
        }
        2 => {
            let ssh = mount.ssh_opt.ok_or(InvalidOp::MountOptions("ssh"))?;
            MountKind::Ssh(SshMount {
                id: ssh.id,
                uid: ssh.uid,
                gid: ssh.gid,
                mode: ssh.mode,
                optional: ssh.optional,
            })
        }
        3 => MountKind::Cache(cache(
            mount.cache_opt.ok_or(InvalidOp::MountOptions("cache"))?,
        )?),
        4 => MountKind::Tmpfs {
            size: mount.tmpfs_opt.map(|tmpfs| tmpfs.size),
        },
        value => {
            return Err(InvalidOp::UnknownValue {
                field: "mount type",
                value,
            });
        }
    };
    // Only these two show an input; what others carry in the field means nothing.
    let input = match kind {
        MountKind::Bind | MountKind::Cache(_) => {
            optional_index("mount input", mount.input, inputs)?
        }
        MountKind::Secret(_) | MountKind::Ssh(_) | MountKind::Tmpfs { .. } => None,
    };
    Ok(Mount {
        input,
        selector: mount.selector,
        dest: mount.dest,
        output: None,
        readonly: mount.readonly,
        kind,
        result_id: mount.result_id,
        content: match mount.content_cache {
            0 => ContentMatching::Default,
            1 => ContentMatching::On,
            2 => ContentMatching::Off,
            value => {
                return Err(InvalidOp::UnknownValue {
                    field: "mount content cache",
                    value,
                });
            }
        },
    })
}

fn cache(cache: pb::CacheOpt) -> Result<CacheMount, InvalidOp> {
    let sharing = match cache.sharing {
        0 => CacheSharing::Shared,
        1 => CacheSharing::Private,
        2 => CacheSharing::Locked,
        value => {
            return Err(InvalidOp::UnknownValue {
                field: "cache sharing option",
                value,
            });
        }
    };
    Ok(CacheMount {
        id: cache.id,
        sharing,
    })
}
