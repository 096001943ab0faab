//! Clients that judge each source of their builds themselves.

use std::sync::Arc;

use frontend::{ErrorClass, FrontendError, ResolveSource, ResolvedSource};
use llb::SourceOp;
use oci::Platform;
use proto::policysession as wire;
use proto::policysession::policy_verifier_client::PolicyVerifierClient;
use proto::sourcepolicy::PolicyAction;
use proto::{frontend as meta, pb};
use rpc::status::{Detail, Failure};
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::check_policy_response::Result as Answer;

use crate::convert::{self, Shown};

/// The policy of a client, asked through its session.
#[derive(Clone, Debug)]
pub struct Verifier {
    channel: Channel,
}

/// What a client says of a source.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It may be used.
    Allow,
    /// Another is to be judged and used in its place.
    Convert(SourceOp),
    /// More must be known of it first: what pins it, told as the client wants.
    Resolve(Box<ResolveSource>, Shown),
}

impl Verifier {
    /// The client at the other end of `channel`.
    pub fn new(channel: Channel) -> Verifier {
        Verifier { channel }
    }

    /// Asks about `source`, of which `known` is known so far.
    ///
    /// # Errors
    /// When the client does not allow it, with its reasons, or cannot be asked.
    pub async fn judge(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
        known: Option<(ResolvedSource, Shown)>,
    ) -> Result<Verdict, FrontendError> {
        let known = match known {
            Some((known, shown)) => shown.source(known),
            None => meta::ResolveSourceMetaResponse {
                source: Some(to_wire(source)),
                ..meta::ResolveSourceMetaResponse::default()
            },
        };
        let request = wire::CheckPolicyRequest {
            platform: platform.map(convert::platform_to_wire),
            source: Some(known),
            caps: std::collections::BTreeMap::new(),
        };
        let mut client = PolicyVerifierClient::new(self.channel.clone())
            .max_decoding_message_size(rpc::MAX_MESSAGE_SIZE)
            .max_encoding_message_size(rpc::MAX_MESSAGE_SIZE);
        let answer = client
            .check_policy(request)
            .await
            .map_err(|s| refused(&s))?;
        match answer.into_inner().result {
            None => Err(FrontendError::invalid("no decision in policy response")),
            Some(Answer::Decision(decision)) => decided(source, decision),
            Some(Answer::Request(request)) => {
                let asked = request.source.as_ref();
                if asked.is_none_or(|asked| *asked != to_wire(source)) {
                    return Err(FrontendError::invalid(format!(
                        "policy requested another source than \"{}\"",
                        source.identifier
                    )));
                }
                let shown = Shown::of(&request);
                let ask = convert::resolve_source(request).map_err(|s| refused(&s))?;
                Ok(Verdict::Resolve(Box::new(ask), shown))
            }
        }
    }
}

fn decided(source: &SourceOp, decision: wire::DecisionResponse) -> Result<Verdict, FrontendError> {
    match PolicyAction::try_from(decision.action) {
        Ok(PolicyAction::Allow) => Ok(Verdict::Allow),
        Ok(PolicyAction::Convert) => match decision.update {
            Some(update) => Ok(Verdict::Convert(SourceOp {
                identifier: update.identifier,
                attrs: update.attrs,
            })),
            None => Err(FrontendError::invalid(
                "convert action requires updated source",
            )),
        },
        Ok(PolicyAction::Deny) | Err(_) => {
            let name = &source.identifier;
            let text = format!("source \"{name}\" not allowed by policy: action DENY");
            let messages = decision.deny_messages.into_iter().map(|m| m.message);
            let denied = Detail::Denied {
                messages: messages.collect(),
            };
            Err(foreign(Failure::new(Code::Unknown, text).with(denied)))
        }
    }
}

fn to_wire(source: &SourceOp) -> pb::SourceOp {
    pb::SourceOp {
        identifier: source.identifier.clone(),
        attrs: source.attrs.clone(),
    }
}

fn refused(status: &Status) -> FrontendError {
    foreign(Failure::from_status(status))
}

fn foreign(failure: Failure) -> FrontendError {
    FrontendError::Foreign {
        message: failure.message.clone(),
        class: ErrorClass::User,
        received: Arc::new(failure),
        locations: Vec::new(),
    }
}
