//! Content negotiation by the `Accept` header (RFC 9110, section 12.5.1).

use http::{HeaderMap, header};

/// A media type of an `Accept` header with its weight.
#[derive(Clone, Debug, PartialEq)]
struct Accepted {
    range: String,
    weight: f32,
}

/// Returns the offered media type that the client prefers; of equal ones, the first. Without an
/// `Accept` header, returns the first. Returns nothing if the client accepts none.
#[must_use]
pub fn negotiate<'a>(headers: &HeaderMap, offers: &[&'a str]) -> Option<&'a str> {
    let accepted: Vec<Accepted> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(Accepted::parse)
        .collect();
    if accepted.is_empty() {
        return offers.first().copied();
    }
    let weighed = offers.iter().map(|offer| (preference(&accepted, offer), *offer));
    let mut best: Option<(Preference, &str)> = None;
    for (preference, offer) in weighed.filter(|((weight, _), _)| *weight > 0.0) {
        if best.is_none_or(|(most, _)| preference > most) {
            best = Some((preference, offer));
        }
    }
    best.map(|(_, offer)| offer)
}

impl Accepted {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let range = parts.next().filter(|range| !range.is_empty())?.to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        Some(Self { range, weight })
    }

    /// Returns how closely the range describes the media type: 3 by name, 2 by family, 1 for all.
    fn closeness(&self, media_type: &str) -> Option<u8> {
        let family = self.range.strip_suffix('*').filter(|family| family.ends_with('/'));
        match (self.range == media_type, self.range.as_str(), family) {
            (true, _, _) => Some(3),
            (_, "*/*" | "*", _) => Some(1),
            (_, _, Some(family)) if media_type.starts_with(family) => Some(2),
            _ => None,
        }
    }
}

/// A client's preference for a media type: its weight, then the closeness of its range.
type Preference = (f32, u8);

/// Returns the preference by the range that describes the media type most closely.
fn preference(accepted: &[Accepted], media_type: &str) -> Preference {
    let close = |range: &Accepted| Some((range.weight, range.closeness(media_type)?));
    let ranges = accepted.iter().filter_map(close);
    ranges.max_by_key(|(_, closeness)| *closeness).unwrap_or((0.0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_offer_wins_and_ours_breaks_ties() {
        const OFFERS: [&str; 2] = ["text/event-stream", "application/json"];
        for (accept, wanted) in [
            (None, Some(OFFERS[0])),
            (Some("*/*"), Some(OFFERS[0])),
            (Some("application/json"), Some(OFFERS[1])),
            (Some("application/json, text/event-stream"), Some(OFFERS[0])),
            (Some("application/json, text/plain, */*"), Some(OFFERS[1])),
            (Some("application/json, text/event-stream;q=0.5"), Some(OFFERS[1])),
            (Some("text/html, application/*;q=0.9, */*;q=0.1"), Some(OFFERS[1])),
            (Some("text/event-stream;q=0, */*"), Some(OFFERS[1])),
            (Some("image/png"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(negotiate(&headers, &OFFERS), wanted, "{accept:?}");
        }
    }
}
