//! Channel names and channel patterns: parsed once at the edge, so that no invalid one exists.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::MAX_CHANNEL_NAME_BYTES;

/// The name of a channel: 1 to 255 bytes of UTF-8 in `/`-separated segments, none of them empty,
/// `.` or `..`, without control characters and without `*`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChannelName {
    type Err = InvalidChannelName;

    fn from_str(text: &str) -> Result<Self, InvalidChannelName> {
        check_segments(text)?;
        if text.contains('*') {
            return Err(InvalidChannelName::Wildcard);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<&str> for ChannelName {
    type Error = InvalidChannelName;

    fn try_from(text: &str) -> Result<Self, InvalidChannelName> {
        text.parse()
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Selects channels: `*` stands for one segment, a last `**` for any number of further ones.
/// A pattern without a wildcard selects the one channel of that name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelPattern(Box<str>);

impl ChannelPattern {
    /// Returns the pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the channel that the pattern names, if it has no wildcard.
    #[must_use]
    pub fn exact(&self) -> Option<ChannelName> {
        self.0.parse().ok()
    }

    /// Returns whether the pattern selects this channel.
    #[must_use]
    pub fn matches(&self, name: &ChannelName) -> bool {
        // That of a hub without credentials, for each request.
        if &*self.0 == "**" {
            return true;
        }
        let mut wanted = self.0.split('/');
        let mut given = name.as_str().split('/');
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some("**"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(pattern), Some(segment)) if pattern == segment => {}
                _ => return false,
            }
        }
    }
}

impl From<&ChannelName> for ChannelPattern {
    fn from(name: &ChannelName) -> Self {
        Self(name.as_str().into())
    }
}

impl FromStr for ChannelPattern {
    type Err = InvalidChannelName;

    fn from_str(text: &str) -> Result<Self, InvalidChannelName> {
        check_segments(text)?;
        let mut segments = text.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            if segment.contains('*') && segment != "*" && !(segment == "**" && last) {
                return Err(InvalidChannelName::MisplacedWildcard);
            }
        }
        Ok(Self(text.into()))
    }
}

impl ChannelPattern {
    /// Returns whether this pattern selects every name that the other selects.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let mut outer = self.0.split('/');
        let mut inner = other.0.split('/');
        loop {
            match (outer.next(), inner.next()) {
                (None, None) => return true,
                // One segment or more: the rest of the inner pattern has at least one, too.
                (Some("**"), Some(_)) => return true,
                // One segment, whereas the inner pattern allows several.
                (Some(_), Some("**")) => return false,
                (Some("*"), Some(_)) => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    }

    /// Returns whether some name is selected by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut a = self.0.split('/');
        let mut b = other.0.split('/');
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (Some("**"), Some(_)) | (Some(_), Some("**")) => return true,
                (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for ChannelPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ChannelPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The reason for which a text is not a channel name or pattern. The messages are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChannelName {
    /// No text at all.
    #[error("the channel name is empty: give 1 to 255 bytes, such as `chat/42`")]
    Empty,
    /// Too long.
    #[error("the channel name has {0} bytes: 255 is the most")]
    TooLong(usize),
    /// A control character.
    #[error("the channel name has a control character at byte {0}: use printable text")]
    ControlCharacter(usize),
    /// An empty segment.
    #[error("the channel name has an empty segment: no `/` at either end, and no `//`")]
    EmptySegment,
    /// A `.` or `..` segment.
    #[error("the channel name has a `.` or `..` segment: proxies would rewrite such a path")]
    DotSegment,
    /// A `*` in a name.
    #[error("a channel name has no `*`: wildcards belong to patterns")]
    Wildcard,
    /// A `*` where a pattern has none.
    #[error("misplaced wildcard: `*` is a whole segment, and `**` is the last segment")]
    MisplacedWildcard,
    /// Bytes that are not UTF-8.
    #[error("the channel name is not UTF-8: percent-encode the bytes of its UTF-8 form")]
    NotUtf8,
}

/// Checks what names and patterns have in common.
fn check_segments(text: &str) -> Result<(), InvalidChannelName> {
    if text.is_empty() {
        return Err(InvalidChannelName::Empty);
    }
    if text.len() > MAX_CHANNEL_NAME_BYTES {
        return Err(InvalidChannelName::TooLong(text.len()));
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(InvalidChannelName::ControlCharacter(at));
    }
    for segment in text.split('/') {
        match segment {
            "" => return Err(InvalidChannelName::EmptySegment),
            "." | ".." => return Err(InvalidChannelName::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_segments_of_printable_text() {
        let most = "x".repeat(255);
        for text in ["a", "chat/42", "logs/web/1", "ünïcode/💬", "a b", "...", "a.b", &most] {
            assert_eq!(text.parse::<ChannelName>().map(|name| name.to_string()), Ok(text.into()));
        }
    }

    #[test]
    fn each_bad_name_is_refused_with_the_reason() {
        use InvalidChannelName as Bad;
        let long = "x".repeat(300);
        for (text, why) in [
            ("", Bad::Empty),
            (long.as_str(), Bad::TooLong(300)),
            ("a\nb", Bad::ControlCharacter(1)),
            ("a\u{7f}", Bad::ControlCharacter(1)),
            ("a\u{85}", Bad::ControlCharacter(1)),
            ("/a", Bad::EmptySegment),
            ("a/", Bad::EmptySegment),
            ("a//b", Bad::EmptySegment),
            ("a/../b", Bad::DotSegment),
            (".", Bad::DotSegment),
            ("logs/*", Bad::Wildcard),
        ] {
            assert_eq!(text.parse::<ChannelName>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_selects_by_segment() {
        for (pattern, name, selects) in [
            ("logs/*", "logs/web", true),
            ("logs/*", "logs", false),
            ("logs/*", "logs/web/1", false),
            ("*/web", "logs/web", true),
            ("chat/**", "chat/1", true),
            ("chat/**", "chat/1/2/3", true),
            ("chat/**", "chat", false),
            ("**", "anything/at/all", true),
            ("a", "a", true),
            ("a", "b", false),
        ] {
            let pattern: ChannelPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&name.parse().unwrap()), selects, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_wildcard_is_a_whole_segment() {
        for text in ["lo*s", "**/a", "a/***", "a/b*"] {
            let parsed = text.parse::<ChannelPattern>();
            assert_eq!(parsed, Err(InvalidChannelName::MisplacedWildcard), "{text:?}");
        }
    }
}
