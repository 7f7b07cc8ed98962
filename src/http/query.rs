//! Query strings and path segments, decoded.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::Problem;
use crate::channel::InvalidChannelName;

/// The parameters of a query string, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string, as forms encode it (WHATWG URL, section 5.1), but strictly: bytes that
    /// are not UTF-8 would otherwise become another text than was meant.
    ///
    /// # Errors
    /// The bytes are not UTF-8.
    pub fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        decoded.collect::<Result<_, Problem>>().map(Self)
    }

    /// The first parameter of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The number that `limit` asks for, from 1 to `most`.
    ///
    /// # Errors
    /// It is none, or out of these bounds.
    pub fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.get("limit") else { return Ok(default) };
        match text.parse() {
            Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
            _ => Err(Problem::parameter("limit", text, &format!("expected 1 to {most}"))),
        }
    }

    /// All parameters of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A path, or the rest of one, percent-decoded.
///
/// # Errors
/// The bytes are not UTF-8.
pub fn decode_path(path: &str) -> Result<Cow<'_, str>, InvalidChannelName> {
    percent_decode_str(path).decode_utf8().map_err(|_| InvalidChannelName::NotUtf8)
}

fn decode(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| {
        let right = "expected the percent-encoded bytes of UTF-8 text";
        Problem::parameter("query", text, right)
    })
}
