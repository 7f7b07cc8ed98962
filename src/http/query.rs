//! Query strings and path segments, decoded.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::channel::InvalidChannelName;

/// The parameters of a query string, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string, as forms encode it.
    #[must_use]
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// The first parameter of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
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
