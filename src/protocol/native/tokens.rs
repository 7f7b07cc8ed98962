//! `POST /v1/tokens`: mints a scoped, expiring token, safe to give to a browser.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Native;
use crate::auth::{AuthError, Grants, MintError, Operation};
use crate::channel::ChannelPattern;
use crate::clock::{micros, rfc3339};
use crate::http::{
    Caller, ErrorCode, Problem, Request, Response, json, parse_object, read_document,
};
use crate::ingest::Share;
use crate::limits::MAX_GRANTED_PATTERNS;

/// The lifetime of a token if none is given.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// The document that asks for a token: its grants, subject and lifetime.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    signal: Vec<String>,
    #[serde(default)]
    admin: Vec<String>,
    #[serde(default)]
    metrics: bool,
    #[serde(default, with = "humantime_serde")]
    ttl: Option<Duration>,
    subject: Option<String>,
}

#[derive(Serialize)]
struct TokenDocument {
    token: String,
    expires: String,
}

pub(super) async fn mint(
    native: Arc<Native>,
    request: Request,
    caller: Caller,
) -> Result<Response, Problem> {
    caller.payer().token().map_err(|exceeded| caller.exceeded(&exceeded))?;
    let document = read_document(request, Share::new(native)).await?;
    let right = "JSON such as {\"subscribe\": [\"chat/42\"], \"ttl\": \"1h\"}";
    let document: TokenRequest = parse_object(&document, right)?;
    let wanted = document.grants()?;
    let minter = caller.authenticator().minter().ok_or_else(|| {
        let detail = "this hub signs no tokens: its operator has not set `auth.signing_key`";
        Problem::new(ErrorCode::NotFound, detail)
    })?;
    let subject = document.subject.as_deref().unwrap_or(&caller.principal().name);
    let ttl = document.ttl.unwrap_or(DEFAULT_TTL);
    if caller.principal().key_id.is_none() {
        // Its grants are those of every client, which needs no token for them.
        return Err(Problem::unauthenticated(AuthError::Missing));
    }
    let now = SystemTime::now();
    let minted = minter.mint_for(caller.principal(), &wanted, subject, ttl, now);
    let minted = minted.map_err(|error| problem(&caller, &error))?;
    let mut response =
        json(&TokenDocument { token: minted.token, expires: rfc3339(micros(minted.expires)) })?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

impl TokenRequest {
    fn grants(&self) -> Result<Grants, Problem> {
        let mut grants = Grants::default();
        let lists = [&self.publish, &self.subscribe, &self.signal, &self.admin];
        for (operation, patterns) in Operation::ON_CHANNELS.into_iter().zip(lists) {
            if patterns.len() > MAX_GRANTED_PATTERNS {
                let right = format!("expected up to {MAX_GRANTED_PATTERNS} patterns");
                return Err(Problem::parameter(operation.as_str(), "too long", &right));
            }
            for pattern in patterns {
                let pattern = pattern.parse::<ChannelPattern>().map_err(|error| {
                    Problem::parameter(operation.as_str(), pattern, &error.to_string())
                })?;
                grants.add(operation, pattern);
            }
        }
        if self.metrics {
            grants.add_metrics();
        }
        Ok(grants)
    }
}

fn problem(caller: &Caller, error: &MintError) -> Problem {
    let detail = error.to_string();
    match error {
        MintError::NotCovered(beyond) => caller.forbidden(beyond.operation, &detail),
        MintError::Signing => Problem::new(ErrorCode::Internal, detail),
        MintError::NoTime => {
            Problem::new(ErrorCode::InvalidParameter, detail).with("parameter", "ttl")
        }
        MintError::Subject => {
            Problem::new(ErrorCode::InvalidParameter, detail).with("parameter", "subject")
        }
        _ => Problem::new(ErrorCode::InvalidParameter, detail),
    }
}
