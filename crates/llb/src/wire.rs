//! Writing protobuf as Go's deterministic marshalling does.
//!
//! A vertex is named by the digest of its bytes, so the bytes must be those that BuildKit's own
//! client library would have written: fields by number, members of a oneof after all other fields
//! (the order of Go's `protoreflect` with `Deterministic`), default values left out, maps by key.

/// Writes fields of one message.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

impl Writer {
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    /// Bytes, also when empty: an element of a list or a set member of a oneof.
    pub(crate) fn element(&mut self, field: u32, value: &[u8]) {
        self.tag(field, LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A sub-message that is present, also when empty.
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        write(&mut inner);
        self.element(field, &inner.0);
    }

    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.element(field, value);
        }
    }

    pub(crate) fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub(crate) fn strings<'a>(&mut self, field: u32, values: impl IntoIterator<Item = &'a String>) {
        for value in values {
            self.element(field, value.as_bytes());
        }
    }

    /// A number that is present, also when 0: a set member of a oneof.
    pub(crate) fn present_uint(&mut self, field: u32, value: u64) {
        self.tag(field, VARINT);
        self.varint(value);
    }

    pub(crate) fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.present_uint(field, value);
        }
    }

    /// `int32`, `int64` and enums: negative values are written as 64 bits.
    pub(crate) fn int(&mut self, field: u32, value: i64) {
        self.uint(field, value.cast_unsigned());
    }

    pub(crate) fn bool(&mut self, field: u32, value: bool) {
        self.uint(field, u64::from(value));
    }

    pub(crate) fn packed_ints(&mut self, field: u32, values: impl IntoIterator<Item = i64>) {
        let mut inner = Writer::default();
        for value in values {
            inner.varint(value.cast_unsigned());
        }
        self.bytes(field, &inner.0);
    }

    /// An entry of a `map<string, …>`. Go writes key and value even when they are defaults.
    pub(crate) fn entry(&mut self, field: u32, key: &str, value: impl FnOnce(&mut Writer)) {
        self.message(field, |entry| {
            entry.element(1, key.as_bytes());
            value(entry);
        });
    }
}
