//! [`Definition`] to and from the wire.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use proto::pb;

use crate::decode::digest;
use crate::{
    DecodeError, Definition, LinuxResources, Location, OpMetadata, Position, ProgressGroup, Range,
    SourceInfo, SourceMap,
};

impl Definition {
    /// Takes a definition from the wire. Of its ops nothing is looked at.
    ///
    /// # Errors
    /// A key of a map that is no digest.
    pub fn from_pb(definition: pb::Definition) -> Result<Definition, DecodeError> {
        let mut metadata = BTreeMap::new();
        for (key, value) in definition.metadata {
            metadata.insert(digest(&key)?, value.into());
        }
        let source = definition.source.map(source_map).transpose()?;
        Ok(Definition {
            ops: definition.def,
            metadata,
            source,
        })
    }

    /// Takes a definition from bytes, as in a file of a result.
    ///
    /// # Errors
    /// Bytes that are no definition, or a key of a map that is no digest.
    pub fn decode(bytes: Bytes) -> Result<Definition, DecodeError> {
        let definition = pb::Definition::decode(bytes).map_err(DecodeError::ParseDefinition)?;
        Definition::from_pb(definition)
    }

    /// The definition as it travels.
    pub fn to_pb(&self) -> pb::Definition {
        pb::Definition {
            def: self.ops.clone(),
            metadata: self
                .metadata
                .iter()
                .map(|(key, value)| (key.to_string(), value.into()))
                .collect(),
            source: self.source.as_ref().map(source_map_to_pb),
        }
    }

    /// The definition as bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_pb().encode_to_vec()
    }
}

impl From<pb::OpMetadata> for OpMetadata {
    fn from(metadata: pb::OpMetadata) -> OpMetadata {
        OpMetadata {
            ignore_cache: metadata.ignore_cache,
            description: metadata.description,
            export_cache: metadata.export_cache.map(|export| export.value),
            caps: metadata.caps,
            progress_group: metadata.progress_group.map(|group| ProgressGroup {
                id: group.id,
                name: group.name,
                weak: group.weak,
            }),
            linux_resources: metadata.linux_resources.map(|limits| LinuxResources {
                memory: limits.memory,
                memory_swap: limits.memory_swap,
                cpu_shares: limits.cpu_shares,
                cpu_period: limits.cpu_period,
                cpu_quota: limits.cpu_quota,
                cpuset_cpus: limits.cpuset_cpus,
                cpuset_mems: limits.cpuset_mems,
            }),
        }
    }
}

impl From<&OpMetadata> for pb::OpMetadata {
    fn from(metadata: &OpMetadata) -> pb::OpMetadata {
        pb::OpMetadata {
            ignore_cache: metadata.ignore_cache,
            description: metadata.description.clone(),
            export_cache: metadata.export_cache.map(|value| pb::ExportCache { value }),
            caps: metadata.caps.clone(),
            progress_group: metadata.progress_group.as_ref().map(Into::into),
            linux_resources: metadata
                .linux_resources
                .as_ref()
                .map(|limits| pb::LinuxResources {
                    memory: limits.memory,
                    memory_swap: limits.memory_swap,
                    cpu_shares: limits.cpu_shares,
                    cpu_period: limits.cpu_period,
                    cpu_quota: limits.cpu_quota,
                    cpuset_cpus: limits.cpuset_cpus.clone(),
                    cpuset_mems: limits.cpuset_mems.clone(),
                }),
        }
    }
}

impl From<&ProgressGroup> for pb::ProgressGroup {
    fn from(group: &ProgressGroup) -> pb::ProgressGroup {
        pb::ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }
    }
}

fn source_map(source: pb::Source) -> Result<SourceMap, DecodeError> {
    let mut locations = BTreeMap::new();
    for (key, value) in source.locations {
        let places = value.locations.into_iter().map(location).collect();
        locations.insert(digest(&key)?, places);
    }
    let mut infos = Vec::with_capacity(source.infos.len());
    for info in source.infos {
        let definition = info.definition.map(Definition::from_pb).transpose()?;
        infos.push(SourceInfo {
            filename: info.filename,
            data: info.data,
            definition: definition.map(Box::new),
            language: info.language,
        });
    }
    Ok(SourceMap { locations, infos })
}

fn location(location: pb::Location) -> Location {
    let position = |position: Option<pb::Position>| {
        let position = position.unwrap_or_default();
        Position {
            line: position.line,
            character: position.character,
        }
    };
    Location {
        source_index: location.source_index,
        ranges: location
            .ranges
            .into_iter()
            .map(|range| Range {
                start: position(range.start),
                end: position(range.end),
            })
            .collect(),
    }
}

fn source_map_to_pb(source: &SourceMap) -> pb::Source {
    pb::Source {
        locations: source
            .locations
            .iter()
            // An entry whose value is empty is written without a value, over which buildkitd falls.
            .filter(|(_, places)| !places.is_empty())
            .map(|(key, places)| {
                let locations = places.iter().map(Into::into).collect();
                (key.to_string(), pb::Locations { locations })
            })
            .collect(),
        infos: source.infos.iter().map(Into::into).collect(),
    }
}

impl From<&SourceInfo> for pb::SourceInfo {
    fn from(info: &SourceInfo) -> pb::SourceInfo {
        pb::SourceInfo {
            filename: info.filename.clone(),
            data: info.data.clone(),
            definition: info.definition.as_deref().map(Definition::to_pb),
            language: info.language.clone(),
        }
    }
}

impl From<Range> for pb::Range {
    fn from(range: Range) -> pb::Range {
        let position = |position: Position| {
            Some(pb::Position {
                line: position.line,
                character: position.character,
            })
        };
        pb::Range {
            start: position(range.start),
            end: position(range.end),
        }
    }
}

impl From<&Location> for pb::Location {
    fn from(location: &Location) -> pb::Location {
        pb::Location {
            source_index: location.source_index,
            ranges: location.ranges.iter().map(|&range| range.into()).collect(),
        }
    }
}
