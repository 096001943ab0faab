//! Ops to bytes; the bytes are those of BuildKit's client library.

use oci::Platform;

use crate::wire::Writer;
use crate::{
    ActionInput, BuildOp, CacheSharing, ContentMatching, CopyAction, ExecOp, FileAction,
    FileActionKind, FileOp, Input, Meta, Mount, MountKind, NetMode, Op, OpKind, Owner, ProxyEnv,
    SecurityMode, UserRef,
};

impl Op {
    /// The op as deterministic protobuf. Its sha256 names the vertex.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        for input in &self.inputs {
            w.message(1, |w| write_input(w, input));
        }
        if let Some(platform) = &self.platform {
            w.message(10, |w| write_platform(w, platform));
        }
        if let Some(filters) = &self.constraints {
            w.message(11, |w| w.strings(1, filters));
        }
        write_kind(&mut w, &self.kind, self.inputs.len());
        w.finish()
    }
}

/// The last op of a definition: it does nothing and names the result.
pub fn encode_terminal(result: Input) -> Vec<u8> {
    let mut w = Writer::default();
    w.message(1, |w| write_input(w, &result));
    w.finish()
}

fn write_input(w: &mut Writer, input: &Input) {
    w.string(1, &input.digest.to_string());
    w.int(2, i64::from(input.output));
}

pub(crate) fn write_platform(w: &mut Writer, platform: &Platform) {
    w.string(1, &platform.architecture);
    w.string(2, &platform.os);
    w.string(3, &platform.variant);
    w.string(4, &platform.os_version);
    w.strings(5, &platform.os_features);
}

/// Writes the member of the oneof; `inputs` is how many inputs the op has.
pub(crate) fn write_kind(w: &mut Writer, kind: &OpKind, inputs: usize) {
    match kind {
        OpKind::Exec(op) => w.message(2, |w| write_exec(w, op)),
        OpKind::Source(op) => w.message(3, |w| {
            w.string(1, &op.identifier);
            for (key, value) in &op.attrs {
                w.entry(2, key, |w| w.element(2, value.as_bytes()));
            }
        }),
        OpKind::File(op) => w.message(4, |w| write_file(w, op, inputs)),
        OpKind::Build(op) => w.message(5, |w| write_build(w, op)),
        OpKind::Merge(op) => w.message(6, |w| {
            for input in &op.inputs {
                w.message(1, |w| w.int(1, index(*input)));
            }
        }),
        OpKind::Diff(op) => w.message(7, |w| {
            w.message(1, |w| w.int(1, index(op.lower)));
            w.message(2, |w| w.int(1, index(op.upper)));
        }),
        OpKind::Passthrough(op) => w.message(8, |w| {
            w.string(1, &op.id);
            w.packed_ints(2, op.outputs.iter().map(|&input| i64::from(input)));
        }),
    }
}

/// −1 stands for "none" in every index.
fn index(value: Option<u32>) -> i64 {
    value.map_or(-1, i64::from)
}

fn write_exec(w: &mut Writer, op: &ExecOp) {
    w.message(1, |w| write_meta(w, &op.meta));
    for mount in &op.mounts {
        w.message(2, |w| write_mount(w, mount));
    }
    w.int(
        3,
        match op.network {
            NetMode::Sandbox => 0,
            NetMode::Host => 1,
            NetMode::None => 2,
        },
    );
    w.int(
        4,
        match op.security {
            SecurityMode::Sandbox => 0,
            SecurityMode::Insecure => 1,
        },
    );
    for secret in &op.secret_env {
        w.message(5, |w| {
            w.string(1, &secret.id);
            w.string(2, &secret.name);
            w.bool(3, secret.optional);
        });
    }
    for device in &op.devices {
        w.message(6, |w| {
            w.string(1, &device.name);
            w.bool(2, device.optional);
        });
    }
}

fn write_meta(w: &mut Writer, meta: &Meta) {
    w.strings(1, &meta.args);
    w.strings(2, &meta.env);
    w.string(3, &meta.cwd);
    w.string(4, &meta.user);
    if let Some(proxy) = &meta.proxy_env {
        w.message(5, |w| write_proxy(w, proxy));
    }
    for line in &meta.extra_hosts {
        w.message(6, |w| {
            w.string(1, &line.host);
            w.string(2, &line.ip);
        });
    }
    w.string(7, &meta.hostname);
    for limit in &meta.ulimits {
        w.message(9, |w| {
            w.string(1, &limit.name);
            w.int(2, limit.soft);
            w.int(3, limit.hard);
        });
    }
    w.string(10, &meta.cgroup_parent);
    w.bool(11, meta.remove_mount_stubs_recursive);
    w.packed_ints(
        12,
        meta.valid_exit_codes.iter().map(|&code| i64::from(code)),
    );
}

fn write_proxy(w: &mut Writer, proxy: &ProxyEnv) {
    w.string(1, &proxy.http_proxy);
    w.string(2, &proxy.https_proxy);
    w.string(3, &proxy.ftp_proxy);
    w.string(4, &proxy.no_proxy);
    w.string(5, &proxy.all_proxy);
}

fn write_mount(w: &mut Writer, mount: &Mount) {
    w.int(1, index(mount.input));
    w.string(2, &mount.selector);
    w.string(3, &mount.dest);
    // Of these two BuildKit's client leaves the number at 0, which means nothing.
    let unnumbered = matches!(mount.kind, MountKind::Secret(_) | MountKind::Ssh(_));
    w.int(4, if unnumbered { 0 } else { index(mount.output) });
    w.bool(5, mount.readonly);
    w.int(
        6,
        match mount.kind {
            MountKind::Bind => 0,
            MountKind::Secret(_) => 1,
            MountKind::Ssh(_) => 2,
            MountKind::Cache(_) => 3,
            MountKind::Tmpfs { .. } => 4,
        },
    );
    match &mount.kind {
        MountKind::Bind | MountKind::Tmpfs { size: None } => {}
        MountKind::Tmpfs { size: Some(size) } => w.message(19, |w| w.int(1, *size)),
        MountKind::Cache(cache) => w.message(20, |w| {
            w.string(1, &cache.id);
            w.int(
                2,
                match cache.sharing {
                    CacheSharing::Shared => 0,
                    CacheSharing::Private => 1,
                    CacheSharing::Locked => 2,
                },
            );
        }),
        MountKind::Secret(secret) => w.message(21, |w| {
            w.string(1, &secret.id);
            w.uint(2, u64::from(secret.uid));
            w.uint(3, u64::from(secret.gid));
            w.uint(4, u64::from(secret.mode));
            w.bool(5, secret.optional);
        }),
        MountKind::Ssh(ssh) => w.message(22, |w| {
            w.string(1, &ssh.id);
            w.uint(2, u64::from(ssh.uid));
            w.uint(3, u64::from(ssh.gid));
            w.uint(4, u64::from(ssh.mode));
            w.bool(5, ssh.optional);
        }),
    }
    w.string(23, &mount.result_id);
    w.int(
        24,
        match mount.content {
            ContentMatching::Default => 0,
            ContentMatching::On => 1,
            ContentMatching::Off => 2,
        },
    );
}

fn write_build(w: &mut Writer, op: &BuildOp) {
    // −1 is the builder of definitions, the only one.
    w.int(1, -1);
    for (key, input) in &op.inputs {
        w.entry(2, key, |w| w.message(2, |w| w.int(1, index(*input))));
    }
    for (key, value) in &op.attrs {
        w.entry(4, key, |w| w.element(2, value.as_bytes()));
    }
}

fn write_file(w: &mut Writer, op: &FileOp, inputs: usize) {
    for action in &op.actions {
        w.message(2, |w| write_action(w, action, inputs));
    }
}

/// Outcomes of actions are numbered after the inputs of the op.
fn action_index(input: ActionInput, inputs: usize) -> i64 {
    match input {
        ActionInput::Empty => -1,
        ActionInput::Input(index) => i64::from(index),
        ActionInput::Action(index) => i64::from(index) + inputs as i64,
    }
}

fn write_action(w: &mut Writer, action: &FileAction, inputs: usize) {
    w.int(1, action_index(action.input, inputs));
    w.int(2, action_index(action.secondary, inputs));
    w.int(3, index(action.output));
    write_action_kind(w, &action.kind, inputs);
}

pub(crate) fn write_action_kind(w: &mut Writer, kind: &FileActionKind, inputs: usize) {
    match kind {
        FileActionKind::Copy(copy) => w.message(4, |w| write_copy(w, copy, inputs)),
        FileActionKind::MkFile(file) => w.message(5, |w| {
            w.string(1, &file.path);
            w.int(2, mode(Some(file.mode)));
            w.bytes(3, &file.data);
            write_owner(w, 4, file.owner.as_ref(), inputs);
            w.int(5, file.timestamp.unwrap_or(-1));
        }),
        FileActionKind::MkDir(dir) => w.message(6, |w| {
            w.string(1, &dir.path);
            w.int(2, mode(Some(dir.mode)));
            w.bool(3, dir.make_parents);
            write_owner(w, 4, dir.owner.as_ref(), inputs);
            w.int(5, dir.timestamp.unwrap_or(-1));
        }),
        FileActionKind::Rm(rm) => w.message(7, |w| {
            w.string(1, &rm.path);
            w.bool(2, rm.allow_not_found);
            w.bool(3, rm.allow_wildcard);
        }),
        FileActionKind::Symlink(link) => w.message(8, |w| {
            w.string(1, &link.oldpath);
            w.string(2, &link.newpath);
            write_owner(w, 3, link.owner.as_ref(), inputs);
            w.int(4, link.timestamp.unwrap_or(-1));
        }),
    }
}

fn write_copy(w: &mut Writer, copy: &CopyAction, inputs: usize) {
    w.string(1, &copy.src);
    w.string(2, &copy.dest);
    write_owner(w, 3, copy.owner.as_ref(), inputs);
    w.int(4, mode(copy.mode));
    w.bool(5, copy.follow_symlink);
    w.bool(6, copy.dir_copy_contents);
    w.bool(7, copy.attempt_unpack);
    w.bool(8, copy.create_dest_path);
    w.bool(9, copy.allow_wildcard);
    w.bool(10, copy.allow_empty_wildcard);
    w.int(11, copy.timestamp.unwrap_or(-1));
    w.strings(12, &copy.include);
    w.strings(13, &copy.exclude);
    w.bool(14, copy.always_replace);
    w.string(15, &copy.mode_str);
    w.strings(16, &copy.required);
}

/// Permission bits are an `int32` on the wire, −1 for "keep".
fn mode(mode: Option<u32>) -> i64 {
    mode.map_or(-1, |mode| i64::from(mode.cast_signed()))
}

fn write_owner(w: &mut Writer, field: u32, owner: Option<&Owner>, inputs: usize) {
    let Some(owner) = owner else { return };
    w.message(field, |w| {
        for (field, user) in [(1, &owner.user), (2, &owner.group)] {
            match user {
                None => {}
                Some(UserRef::ById(id)) => w.message(field, |w| w.present_uint(2, u64::from(*id))),
                Some(UserRef::ByName { name, input }) => w.message(field, |w| {
                    w.message(1, |w| {
                        w.string(1, name);
                        w.int(2, action_index(*input, inputs));
                    });
                }),
            }
        }
    });
}
