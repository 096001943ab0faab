//! Which span of which trace (W3C Trace Context).

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher as _;

use http::HeaderMap;

/// The header that says for which span a call is made.
pub(crate) const HEADER: &str = "traceparent";

/// The bit of the flags that says that the trace is kept by those who made it.
const SAMPLED: u8 = 1;

/// Names a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
    pub(crate) flags: u8,
}

impl SpanContext {
    /// The first span of a new trace.
    #[must_use]
    pub fn root() -> SpanContext {
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&random());
        trace[8..].copy_from_slice(&random());
        SpanContext {
            trace,
            span: random(),
            flags: SAMPLED,
        }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn child(&self) -> SpanContext {
        SpanContext {
            span: random(),
            ..*self
        }
    }

    /// Reads a `traceparent`: `00-<trace>-<span>-<flags>`, of which later versions may say more.
    #[must_use]
    pub fn parse(text: &str) -> Option<SpanContext> {
        let mut parts = text.split('-');
        let version = parts.next()?;
        let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
        let known = version == "00" && parts.next().is_none();
        let later = version.len() == 2 && version != "00" && version != "ff";
        if !known && !later {
            return None;
        }
        let mut context = SpanContext {
            trace: [0; 16],
            span: [0; 8],
            flags: 0,
        };
        hex::decode_to_slice(trace, &mut context.trace).ok()?;
        hex::decode_to_slice(span, &mut context.span).ok()?;
        let mut byte = [0];
        hex::decode_to_slice(flags, &mut byte).ok()?;
        context.flags = byte[0];
        (context.trace != [0; 16] && context.span != [0; 8]).then_some(context)
    }

    /// The span that a call with these headers is made for.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<SpanContext> {
        SpanContext::parse(headers.get(HEADER)?.to_str().ok()?)
    }

    /// What a call for this span says.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let mut text = String::with_capacity(55);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "00-{}-{}-{:02x}",
            hex::encode(self.trace),
            hex::encode(self.span),
            self.flags
        );
        text
    }

    /// Whether those who made the trace keep it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Bits that nobody else has. Names of spans need not be secret.
fn random() -> [u8; 8] {
    // Never all zero, which is no name.
    (RandomState::new().hash_one(0) | 1).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_it_is_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = SpanContext::parse(text).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.traceparent(), text);
        let child = context.child();
        assert_eq!(child.trace, context.trace);
        assert_ne!(child.span, context.span);
        assert_ne!(SpanContext::root(), SpanContext::root());
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736ab-00f067aa0ba902b7-01",
        ] {
            assert_eq!(SpanContext::parse(text), None, "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more";
        assert!(!SpanContext::parse(later).unwrap().is_sampled());
    }
}
