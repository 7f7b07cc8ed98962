//! The places where a request may carry a credential, and the pages that may use a cookie.

use http::{HeaderMap, HeaderName, Method, Request, Uri, header};
use percent_encoding::percent_decode_str;

use crate::auth::{AuthError, Credential};

/// The query parameter for clients that cannot set headers, such as `EventSource` (RFC 6750,
/// section 2.3).
const QUERY_TOKEN: &str = "access_token";

/// The header for API keys, beside `Authorization`.
const API_KEY: &str = "x-api-key";

/// The relation of the page to the hub for which a browser sends a request (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Finds the credential of a request. The first place that has anything decides: a wrong one there
/// is never skipped for a better one elsewhere.
///
/// # Errors
/// The first place holds something that is not a credential.
pub(super) fn find<'a>(
    headers: &'a HeaderMap,
    cookie: Option<&str>,
    query: Option<&'a str>,
) -> Result<Credential<'a>, AuthError> {
    if headers.contains_key(header::AUTHORIZATION) {
        return bearer(only(headers, header::AUTHORIZATION.as_str())?).map(Credential::Bearer);
    }
    if headers.contains_key(API_KEY) {
        return only(headers, API_KEY).map(Credential::ApiKey);
    }
    if let Some(token) = cookie.and_then(|name| cookie_of(headers, name)) {
        return Ok(Credential::Cookie(token));
    }
    Ok(query.map_or(Credential::None, Credential::Query))
}

/// Returns the value of a header that must be there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, AuthError> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (Some(Ok(text)), None) => Ok(text.trim()),
        _ => Err(AuthError::Malformed),
    }
}

/// Returns the token (RFC 6750, section 2.1). The scheme ignores case (RFC 9110, section 11.1).
fn bearer(text: &str) -> Result<&str, AuthError> {
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        None if text.eq_ignore_ascii_case("bearer") => Err(AuthError::Malformed),
        _ => Err(AuthError::Scheme),
    }
}

fn cookie_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().trim_matches('"'))
}

/// Returns whether the cookie of a request counts. A browser adds cookies to the requests of any
/// page: only those of the hub's own pages and of `allowed` origins count. `Origin` and
/// `Sec-Fetch-Site` tell them apart, as no page can forge them.
pub(super) fn may_use_cookie<B>(request: &Request<B>, allowed: &[String]) -> bool {
    let headers = request.headers();
    // Any site's sandboxed page has the origin `null`, and `*` names no page.
    let allowed = allowed.iter().filter(|origin| !["null", "*"].contains(&origin.as_str()));
    let site = headers.get(SEC_FETCH_SITE).and_then(|value| value.to_str().ok());
    let same_site = matches!(site, Some("same-origin" | "none"));
    match (headers.get(header::ORIGIN), site) {
        (Some(origin), _) => origin.to_str().is_ok_and(|origin| {
            let foreign = site.is_some() && !same_site;
            allowed.clone().any(|allowed| allowed == origin)
                || (!foreign && is_own(origin, request))
                || site == Some("same-origin")
        }),
        (None, Some(_)) => same_site,
        // An old browser, or none: reading is harmless, as no other page can see the response.
        (None, None) => matches!(*request.method(), Method::GET | Method::HEAD),
    }
}

/// Returns whether a request to a hub without credentials may come from its page. Browsers let any
/// page send requests whose response it cannot read: a hub that only its own machine can reach is
/// still reached by the pages that are open on that machine.
pub(super) fn may_write<B>(request: &Request<B>, allowed: &[String]) -> bool {
    let headers = request.headers();
    let from_page = headers.contains_key(header::ORIGIN) || headers.contains_key(SEC_FETCH_SITE);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    reads || !from_page || allowed.iter().any(|all| all == "*") || may_use_cookie(request, allowed)
}

/// Returns whether the page came from the host that it calls. The scheme is not compared, as a
/// proxy may have ended TLS. Default ports are dropped, as a proxy may have added them.
fn is_own<B>(origin: &str, request: &Request<B>) -> bool {
    let (Some((scheme, page)), Some(host)) = (origin.split_once("://"), called(request)) else {
        return false;
    };
    without_default_port(scheme, page).eq_ignore_ascii_case(without_default_port(scheme, host))
}

/// Returns a host and port, without a port that the scheme implies.
pub(super) fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    authority.strip_suffix(port).unwrap_or(authority)
}

/// Returns the host and port by which the client calls the hub: from the request's target, which
/// HTTP/2 always and HTTP/1.1 rarely has, or from `Host`.
pub(super) fn called<B>(request: &Request<B>) -> Option<&str> {
    let target = request.uri().authority().map(|authority| authority.as_str());
    target.or_else(|| request.headers().get(header::HOST)?.to_str().ok())
}

/// Removes the token from the query, so that no later code and no log sees it.
pub(super) fn take_query_token(uri: &mut Uri) -> Option<String> {
    let query = uri.query().filter(|query| query.contains(QUERY_TOKEN))?;
    let is_token = |pair: &&str| pair.split('=').next() == Some(QUERY_TOKEN);
    let token = query.split('&').find(is_token)?;
    let token = token.split_once('=').map_or("", |(_, token)| token);
    let token = percent_decode_str(token).decode_utf8_lossy().into_owned();
    let rest: Vec<_> = query.split('&').filter(|pair| !is_token(pair)).collect();
    let path = uri.path();
    let target =
        if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = target.parse().ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
    Some(token)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(headers: &[(&'static str, &'static str)], query: Option<&str>) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        match find(&map, Some("session"), query) {
            Ok(Credential::Bearer(text)) => format!("bearer {text}"),
            Ok(Credential::ApiKey(text)) => format!("key {text}"),
            Ok(Credential::Cookie(text)) => format!("cookie {text}"),
            Ok(Credential::Query(text)) => format!("query {text}"),
            Ok(Credential::None) => "none".into(),
            Err(error) => error.as_str().into(),
        }
    }

    #[test]
    fn the_first_place_that_has_anything_decides() {
        let cookie = ("cookie", "a=b; session=\"c\"; session=d");
        for (headers, query, expected) in [
            (vec![], None, "none"),
            (vec![], Some("q"), "query q"),
            (vec![cookie], Some("q"), "cookie c"),
            (vec![cookie, ("x-api-key", "k")], Some("q"), "key k"),
            (vec![cookie, ("x-api-key", "k"), ("authorization", "bearer  t")], None, "bearer t"),
            (vec![("authorization", "Basic dTpw"), ("x-api-key", "k")], None, "malformed"),
            (vec![("authorization", "sk-123")], None, "malformed"),
            (vec![("authorization", "Bearer"), ("x-api-key", "k")], None, "malformed"),
            (vec![("x-api-key", "k"), ("x-api-key", "l")], None, "malformed"),
            (vec![("cookie", "mysession=1; session2=2")], None, "none"),
        ] {
            assert_eq!(shown(&headers, query), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_token_leaves_nothing_of_itself_in_the_query() {
        for (before, token, after) in [
            ("/v1/events?a=1&access_token=x.y&b=2", Some("x.y"), "/v1/events?a=1&b=2"),
            ("/v1/events?access_token=x%2Ey", Some("x.y"), "/v1/events"),
            ("/v1/events?access_token=x&access_token=y", Some("x"), "/v1/events"),
            ("/v1/events?access_token", Some(""), "/v1/events"),
            ("http://hub/v1/events?access_token=x", Some("x"), "http://hub/v1/events"),
            ("/v1/events?my_access_token=x", None, "/v1/events?my_access_token=x"),
            ("/access_token?a=1", None, "/access_token?a=1"),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            assert_eq!(take_query_token(&mut uri).as_deref(), token, "{before}");
            assert_eq!(uri.to_string(), after, "{before}");
        }
    }

    #[test]
    fn a_cookie_speaks_only_for_pages_that_may_use_it() {
        let allowed = ["https://app.example.com".to_owned(), "null".to_owned()];
        for (method, origin, site, may) in [
            ("GET", None, None, true),
            ("POST", None, None, false),
            ("DELETE", None, None, false),
            ("POST", None, Some("same-origin"), true),
            ("POST", None, Some("none"), true),
            ("POST", None, Some("same-site"), false),
            ("GET", None, Some("cross-site"), false),
            ("GET", Some("https://app.example.com"), Some("cross-site"), true),
            ("POST", Some("https://app.example.com"), None, true),
            ("POST", Some("https://app.example.com.evil.example"), None, false),
            ("POST", Some("http://app.example.com"), None, false),
            ("GET", Some("https://evil.example"), Some("cross-site"), false),
            ("GET", Some("https://evil.example"), None, false),
            ("POST", Some("null"), None, false),
            ("POST", Some("null"), Some("cross-site"), false),
            ("POST", Some("https://hub.example:4100"), None, true),
            ("POST", Some("https://hub.example:4100"), Some("same-origin"), true),
            // `Sec-Fetch-Site` overrides a host that looks the same.
            ("POST", Some("https://hub.example:4100"), Some("cross-site"), false),
            ("POST", Some("https://hub.example"), None, false),
            ("POST", Some("https://hub.example:443"), None, false),
        ] {
            let mut request = Request::builder().method(method).uri("/v1/channels/a");
            request = request.header("host", "hub.example:4100");
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            let request = request.body(()).unwrap();
            assert_eq!(may_use_cookie(&request, &allowed), may, "{method} {origin:?} {site:?}");
        }
    }

    #[test]
    fn a_default_port_makes_no_other_origin() {
        for (host, origin, may) in [
            ("hub.example:443", "https://hub.example", true),
            ("hub.example", "https://hub.example:443", true),
            ("hub.example:443", "https://hub.example:443", true),
            ("hub.example:80", "http://hub.example", true),
            ("hub.example", "http://hub.example:80", true),
            ("[2001:db8::1]:443", "https://[2001:db8::1]", true),
            ("HUB.example", "https://hub.example", true),
            ("hub.example:80", "https://hub.example", false),
            ("hub.example:443", "http://hub.example", false),
            ("hub.example:8443", "https://hub.example", false),
            ("hub.example:443", "https://evil.example", false),
            ("[2001:db8::80]", "http://[2001:db8::]", false),
        ] {
            let request = Request::post("/v1/channels/a").header("host", host);
            let request = request.header("origin", origin).body(()).unwrap();
            assert_eq!(may_write(&request, &[]), may, "{origin} to {host}");
        }
    }
}
