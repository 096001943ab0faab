//! Media types of layers, OCI's and Docker's.

use oci::media_type as media;

use crate::options::CompressionKind;

/// Docker's type of a layer that must not be pushed.
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
const DOCKER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const OCI_NONDIST: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const OCI_NONDIST_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
const OCI_NONDIST_ZSTD: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";

/// The type of a new layer.
pub(crate) fn layer(kind: CompressionKind) -> &'static str {
    match kind {
        CompressionKind::Uncompressed => media::OCI_LAYER,
        CompressionKind::Gzip => media::OCI_LAYER_GZIP,
        CompressionKind::Zstd => media::OCI_LAYER_ZSTD,
    }
}

/// How a layer of this type is compressed; `None` for types that are not known.
pub(crate) fn compression(kind: &str) -> Option<CompressionKind> {
    Some(match kind {
        media::OCI_LAYER | media::DOCKER_LAYER | OCI_NONDIST | DOCKER_FOREIGN => {
            CompressionKind::Uncompressed
        }
        media::OCI_LAYER_GZIP
        | media::DOCKER_LAYER_GZIP
        | OCI_NONDIST_GZIP
        | DOCKER_FOREIGN_GZIP => CompressionKind::Gzip,
        media::OCI_LAYER_ZSTD | media::DOCKER_LAYER_ZSTD | OCI_NONDIST_ZSTD => {
            CompressionKind::Zstd
        }
        _ => return None,
    })
}

/// Whether a layer of this type stays where it is.
pub(crate) fn is_nondistributable(kind: &str) -> bool {
    matches!(
        kind,
        DOCKER_FOREIGN | DOCKER_FOREIGN_GZIP | OCI_NONDIST | OCI_NONDIST_GZIP | OCI_NONDIST_ZSTD
    )
}

/// The type that a layer of type `kind` has in a manifest with OCI or Docker types; a type that
/// is not known stays. Without `keep_nondist` a layer becomes distributable.
pub(crate) fn converted(kind: &str, oci_types: bool, keep_nondist: bool) -> String {
    let Some(compression) = compression(kind) else {
        return kind.to_owned();
    };
    let stays = keep_nondist && is_nondistributable(kind);
    let text = match (oci_types, stays, compression) {
        (true, false, kind) => layer(kind),
        (true, true, CompressionKind::Uncompressed) => OCI_NONDIST,
        (true, true, CompressionKind::Gzip) => OCI_NONDIST_GZIP,
        (true, true, CompressionKind::Zstd) => OCI_NONDIST_ZSTD,
        (false, true, CompressionKind::Uncompressed) => DOCKER_FOREIGN,
        (false, true, CompressionKind::Gzip) => DOCKER_FOREIGN_GZIP,
        (false, false, CompressionKind::Uncompressed) => media::DOCKER_LAYER,
        (false, false, CompressionKind::Gzip) => media::DOCKER_LAYER_GZIP,
        (false, _, CompressionKind::Zstd) => media::DOCKER_LAYER_ZSTD,
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_convert_both_ways() {
        for kind in [
            CompressionKind::Uncompressed,
            CompressionKind::Gzip,
            CompressionKind::Zstd,
        ] {
            let docker = converted(layer(kind), false, false);
            assert_eq!(compression(&docker), Some(kind));
            assert_eq!(converted(&docker, true, false), layer(kind));
        }
        assert_eq!(converted(DOCKER_FOREIGN_GZIP, true, true), OCI_NONDIST_GZIP);
        assert_eq!(
            converted(DOCKER_FOREIGN_GZIP, true, false),
            media::OCI_LAYER_GZIP
        );
        assert_eq!(converted("application/x", true, false), "application/x");
    }
}
