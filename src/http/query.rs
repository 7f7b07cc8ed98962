//! Query strings and path segments, decoded.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::problem::{ErrorCode, Problem};
use crate::channel::InvalidChannelName;

/// The id after which a subscription resumes. Clients that cannot set the header spell its name in
/// many ways: each spelling of these words is accepted.
pub const LAST_EVENT_ID: &str = "last_event_id";

/// The parameters of a query string that a handler knows, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Parses a query string as forms encode it (WHATWG URL, section 5.1), but strictly: bytes that
    /// are not UTF-8 would otherwise become another text. Parameters that are not `known` are
    /// ignored, as tracking and cache busters are common. A name that is nearly known is a typing
    /// error, which is refused: ignored, it would do something else than was asked for.
    ///
    /// # Errors
    /// The bytes are not UTF-8, or a parameter is nearly one that is known.
    pub fn parse(query: Option<&str>, known: &[&'static str]) -> Result<Self, Problem> {
        let Some(query) = query else { return Ok(Self::default()) };
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let value = decode(value)?;
            if let Some(name) = recognise(&name, known)? {
                parameters.push((name, value));
            }
        }
        Ok(Self(parameters))
    }

    /// Returns the first parameter of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the number in `limit`, from 1 to `most`.
    ///
    /// # Errors
    /// It is not a number, or out of these bounds.
    pub fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.get("limit") else { return Ok(default) };
        match text.parse() {
            Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
            _ => Err(Problem::parameter("limit", text, &format!("expected 1 to {most}"))),
        }
    }

    /// Returns all parameters of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

/// Returns the known parameter that a name means; nothing if it is unknown.
fn recognise(name: &str, known: &[&'static str]) -> Result<Option<&'static str>, Problem> {
    if let Some(known) = known.iter().find(|known| **known == name) {
        return Ok(Some(known));
    }
    let plain = plain(name);
    if known.contains(&LAST_EVENT_ID) && plain == self::plain(LAST_EVENT_ID) {
        return Ok(Some(LAST_EVENT_ID));
    }
    let mistakes = |known: &&'static str| {
        let right = self::plain(known);
        let most = mistakes_in(known);
        // The distance is computed only if the lengths allow it.
        let near = right.len().abs_diff(plain.len()) <= most;
        let mistakes = near.then(|| strsim::osa_distance(&plain, &right))?;
        (mistakes <= most).then_some((mistakes, *known))
    };
    let Some((_, right)) = known.iter().filter_map(mistakes).min_by_key(|(count, _)| *count) else {
        return Ok(None);
    };
    let detail = format!(
        "there is no parameter `{name}`: write `{right}` if `{right}` is meant, or another name"
    );
    Err(Problem::new(ErrorCode::InvalidParameter, detail).with("parameter", name))
}

/// Returns a name without the differences between spellings of the same words.
fn plain(name: &str) -> String {
    let plain = name.chars().filter(|letter| !matches!(letter, '-' | '_'));
    plain.map(|letter| letter.to_ascii_lowercase()).collect()
}

/// Returns the number of letters up to which a name is mistyped: wrong, missing, too many, or
/// exchanged. In a short name, two make another word.
fn mistakes_in(name: &str) -> usize {
    match name.len() {
        0..=3 => 0,
        4..=6 => 1,
        _ => 2,
    }
}

/// Percent-decodes a path, or the rest of one.
///
/// # Errors
/// The bytes are not UTF-8.
pub(super) fn decode_path(path: &str) -> Result<Cow<'_, str>, InvalidChannelName> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIBE: &[&str] =
        &["channel", "from", LAST_EVENT_ID, "limit", "wait", "coalesce", "bare", "heartbeat"];
    const PUBLISH: &[&str] = &["event", "close", "reason", "format"];
    const LIST: &[&str] = &["prefix", "after", "limit"];

    #[test]
    fn the_id_to_resume_after_has_many_spellings() {
        for name in [
            "last_event_id",
            "lastEventId",
            "lastEventID",
            "lasteventid",
            "Last-Event-ID",
            "last-event-id",
            "LAST_EVENT_ID",
        ] {
            let query = Query::parse(Some(&format!("a=b&{name}=e-1")), SUBSCRIBE).unwrap();
            assert_eq!(query.get(LAST_EVENT_ID), Some("e-1"), "{name}");
            let query = Query::parse(Some(&format!("{name}=e-1")), PUBLISH).unwrap();
            assert_eq!(query.get(LAST_EVENT_ID), None, "{name}");
        }
    }

    #[test]
    fn a_typing_error_is_refused_with_the_right_name() {
        for (known, name, right) in [
            (SUBSCRIBE, "form", "from"),
            (SUBSCRIBE, "frm", "from"),
            (SUBSCRIBE, "From", "from"),
            (SUBSCRIBE, "chanel", "channel"),
            (SUBSCRIBE, "channels", "channel"),
            (SUBSCRIBE, "channel[]", "channel"),
            (SUBSCRIBE, "wati", "wait"),
            (SUBSCRIBE, "limits", "limit"),
            (SUBSCRIBE, "colaesce", "coalesce"),
            (SUBSCRIBE, "coalece", "coalesce"),
            (SUBSCRIBE, "heart_beat", "heartbeat"),
            (SUBSCRIBE, "last_evnet_id", "last_event_id"),
            (SUBSCRIBE, "lastEventIds", "last_event_id"),
            (SUBSCRIBE, "BARE", "bare"),
            (PUBLISH, "evnet", "event"),
            (PUBLISH, "events", "event"),
            (PUBLISH, "colse", "close"),
            (PUBLISH, "fromat", "format"),
            (PUBLISH, "reson", "reason"),
            (LIST, "perfix", "prefix"),
        ] {
            let problem = Query::parse(Some(&format!("{name}=x")), known).unwrap_err();
            let told = format!("{problem:?}");
            assert!(told.contains(&format!("`{name}`")), "{told}");
            assert!(told.contains(&format!("`{right}`")), "{name}: {told}");
        }
    }

    /// Parameters that pages, proxies and trackers add to the URLs of others.
    #[test]
    fn other_parameters_are_ignored() {
        for name in "_ t v x r q p n cb ts ms to at for id ids key uid sid pid cid ref src url uri \
                     lang page sort order dir user users name names type types kind code state \
                     nonce scope token access_token auth sig signature hash date time since until \
                     start end begin offset size count total max min per_page cursor before next \
                     version ver rev build env host port path file topic topics room group tag \
                     tags text data body message msg model session session_id client client_id \
                     request_id trace trace_id debug test mode view tab theme locale tz zone \
                     rand random nocache no_cache cache cachebust cache_buster bust timestamp \
                     utm_source utm_medium utm_campaign utm_term utm_content utm_id gclid dclid \
                     fbclid msclkid yclid twclid ttclid igshid mc_cid mc_eid _ga _gl _hsenc \
                     _hsmi hsCtaTracking vero_id wickedid oly_enc_id rb_clickid s_cid ICID \
                     retry reconnect transport connection EIO jsonp callback withCredentials \
                     authorization Authorization jwt api_key apikey api-key x-api-key"
            .split_whitespace()
        {
            for known in [SUBSCRIBE, PUBLISH, LIST] {
                let query = Query::parse(Some(&format!("{name}=x&{name}")), known);
                assert!(query.is_ok_and(|query| query.0.is_empty()), "{name}");
            }
        }
        for query in ["=", "&&", "=x&", &format!("{}=x", "y".repeat(5000))] {
            assert!(Query::parse(Some(query), SUBSCRIBE).is_ok(), "{query}");
        }
    }
}
