//! Failed requests.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::iter;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use hyper_util::client::legacy;
use rustls::{CertificateError, Error as TlsError};
use serde::Deserialize;
use tower::timeout::error::Elapsed;

use crate::client::Client;
use crate::tls::InvalidCertificates;

/// A failed request. Each message is complete: no source has to be printed as well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be opened.
    #[error("cannot reach a hub at {url}: {}", plain(cause))]
    Unreachable {
        /// The hub's address.
        url: String,
        /// The error of the connection.
        cause: io::Error,
    },
    /// No certificate can be trusted.
    #[error(transparent)]
    Certificates(#[from] InvalidCertificates),
    /// The hub's certificate is not trusted.
    #[error(
        "no secure connection to the hub at {url}: its certificate is not trusted by {}",
        ca_file.as_ref().map_or("this machine".into(), |path| path.display().to_string())
    )]
    Untrusted {
        /// The hub's address.
        url: String,
        /// The file whose certificates are trusted, instead of those that this machine trusts.
        ca_file: Option<PathBuf>,
    },
    /// The TLS handshake failed for another reason.
    #[error("no secure connection to the hub at {url}: {why}")]
    NoTls {
        /// The hub's address.
        url: String,
        /// The reason, with a remedy where one is known.
        why: String,
    },
    /// The response is not HTTP.
    #[error("what answers does not speak HTTP: with TLS, the address begins with https://")]
    NotHttp,
    /// The response is an error.
    #[error("the hub refused: {0}")]
    Refused(Box<Problem>),
    /// A success that is not a hub's: the address, and what was found there.
    #[error("{0} does not answer like a Fanfare hub: {1}")]
    Foreign(String, String),
    /// The connection broke in the middle of the exchange.
    #[error("the connection to the hub broke: {0}")]
    Broken(String),
    /// The response ended in the middle, or exceeded its limit.
    #[error("the hub's answer is incomplete: {}", innermost(.0.as_ref()))]
    Truncated(Box<dyn StdError + Send + Sync>),
    /// No data for too long.
    #[error("the hub said nothing for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// An invalid event stream.
    #[error("the hub's event stream cannot be read: {0}")]
    Stream(#[from] fanfare_sse::ParseError),
    /// An invalid request.
    #[error("this request cannot be sent: {0}")]
    Request(http::Error),
}

impl Error {
    /// Explains why a request has no response.
    pub(crate) fn of_request(error: &legacy::Error, client: &Client) -> Self {
        let url = client.url().to_string();
        if !error.is_connect() {
            return Self::of_connection(error);
        }
        if let Some(refusal) = find::<TlsError>(error) {
            return Self::of_handshake(refusal, client);
        }
        let io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
        let cause = match io {
            Some(io) => io::Error::new(io.kind(), io.to_string()),
            None if find::<Elapsed>(error).is_some() => io::ErrorKind::TimedOut.into(),
            None => io::Error::other(innermost(error)),
        };
        Self::Unreachable { url, cause }
    }

    /// Explains why an open connection broke.
    pub(crate) fn of_connection(error: &(dyn StdError + 'static)) -> Self {
        match find::<hyper::Error>(error) {
            Some(error) if error.is_parse() => Self::NotHttp,
            Some(error) if error.is_incomplete_message() => {
                Self::Broken("it was closed without an answer".into())
            }
            _ => Self::Broken(innermost(error)),
        }
    }

    /// Explains a failed TLS handshake.
    fn of_handshake(error: &TlsError, client: &Client) -> Self {
        let url = client.url().to_string();
        let why = match error {
            TlsError::InvalidCertificate(certificate) => match certificate {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired".into()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet".into()
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    let host = client.url().host();
                    format!("its certificate is not for `{host}`: use a name that it has")
                }
                // A self-signed certificate is "other"; a bad signature comes from an authority
                // with the same name as the right one.
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::Other(_) => {
                    let ca_file = client.ca_file().map(Into::into);
                    return Self::Untrusted { url, ca_file };
                }
                _ => format!("its certificate cannot be used: {error}"),
            },
            TlsError::InvalidMessage(_) => {
                "what answers does not speak TLS: without it, the address begins with http://"
                    .into()
            }
            TlsError::AlertReceived(alert) => format!("it refused the handshake: {alert:?}"),
            other => other.to_string(),
        };
        Self::NoTls { url, why }
    }

    /// Returns whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) | Self::Truncated(_) | Self::Silent(_) => {
                true
            }
            Self::Refused(problem) => problem.is_transient(),
            _ => false,
        }
    }

    /// Returns the stable code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => problem.code.as_deref(),
            _ => None,
        }
    }

    /// Returns the delay that the hub requested before a retry.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after,
            _ => None,
        }
    }
}

/// A problem document of the hub (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Problem {
    /// The status of the response.
    pub status: u16,
    /// The kind of the problem.
    pub title: Option<String>,
    /// What is wrong, and what would be right.
    pub detail: Option<String>,
    /// The stable code of the problem.
    pub code: Option<String>,
    /// Whether the same request may succeed later.
    pub retryable: Option<bool>,
    /// The number of events of a streamed publish that the hub kept.
    pub events: Option<u64>,
    /// The id of the last event that the hub kept.
    pub last_id: Option<String>,
    /// The line of the body that was wrong.
    pub line: Option<u64>,
    /// From the `Retry-After` header.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Reads the body of a refusal: a problem document, or the text of another server.
    #[must_use]
    pub fn read(status: StatusCode, body: &str) -> Self {
        let mut problem: Self = serde_json::from_str(body).unwrap_or_else(|_| {
            let detail = body.trim().lines().next().unwrap_or_default().chars().take(200).collect();
            Self {
                detail: Some(detail).filter(|text: &String| !text.is_empty()),
                ..Self::default()
            }
        });
        problem.status = status.as_u16();
        problem
    }

    /// Returns whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.retryable.unwrap_or(self.status >= 500 || self.status == 429)
    }

    /// Returns the error alone, without the line of the body and the number of events that were
    /// kept.
    #[must_use]
    pub fn sentence(&self) -> String {
        let status = StatusCode::from_u16(self.status).ok();
        let reason = status.and_then(|status| status.canonical_reason()).unwrap_or("refused");
        let sentence = self.detail.as_deref().or(self.title.as_deref()).unwrap_or(reason);
        let place = self.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let sentence = sentence.strip_prefix(&place).unwrap_or(sentence);
        match &self.code {
            Some(code) => format!("{sentence} ({code}, HTTP {})", self.status),
            None => format!("{sentence} (HTTP {})", self.status),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}", self.sentence())?;
        match (self.events, &self.last_id) {
            (Some(0), _) => write!(f, "; no event was kept"),
            (Some(1), Some(id)) => write!(f, "; 1 event was kept: {id}"),
            (Some(n), Some(id)) => write!(f, "; {n} events were kept, up to {id}"),
            (Some(n), None) => write!(f, "; {n} events were kept"),
            (None, _) => Ok(()),
        }
    }
}

/// Iterates over an error and its causes. The cause of an I/O error is the error inside of it,
/// which `source` skips.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |error| {
        let error: &'a (dyn StdError + 'static) = *error;
        match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Returns the part of an I/O error that a user can act on, without the number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "it was reset".into(),
        io::ErrorKind::TimedOut => "no answer from that address".into(),
        io::ErrorKind::UnexpectedEof => "it was closed in the middle".into(),
        _ => error.to_string(),
    }
}

/// Returns the message of the innermost error: hyper wraps it in its own.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    match causes(error).last() {
        Some(last) => last.downcast_ref().map_or_else(|| last.to_string(), plain),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_like_a_sentence() {
        let body = r#"{"title":"Channel closed","status":409,"detail":"`chat/42` is closed",
            "code":"channel_closed","retryable":false,"events":3,"last_id":"e-3"}"#;
        let problem = Problem::read(StatusCode::CONFLICT, body);
        assert!(!problem.is_transient());
        assert_eq!(
            problem.to_string(),
            "`chat/42` is closed (channel_closed, HTTP 409); 3 events were kept, up to e-3"
        );
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_told_as_it_is() {
        let problem = Problem::read(StatusCode::BAD_GATEWAY, "upstream is gone\nmore");
        assert_eq!(problem.to_string(), "upstream is gone (HTTP 502)");
        assert!(problem.is_transient());
        let problem = Problem::read(StatusCode::NOT_FOUND, "");
        assert_eq!(problem.to_string(), "Not Found (HTTP 404)");
        assert!(!problem.is_transient());
    }
}
