//! Errors as providers, gateways and proxies report them: in a stream of any format, or in place of
//! a stream.
//!
//! A stream of one dialect may contain an error of another: a gateway translates the events that it
//! knows and forwards the rest, or reports a failure of its own in its own format.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::event::ModelEvent;
use super::mark::Ending;
use crate::json::{Fields, Json, LazyJson};

/// Maximum depth at which a message is searched.
const MAX_DEPTH: u32 = 5;

/// Fields that may have the message, the best first.
const MESSAGES: [&str; 10] = [
    "message",
    "errorText",
    "error",
    "errors",
    "detail",
    "details",
    "error_description",
    "error_message",
    "msg",
    "title",
];

/// Fields that replace a missing message of an error object.
const CODES: [&str; 4] = ["code", "status", "type", "name"];

/// Fields that may accompany an `error` which is the whole event.
const BESIDE: [&str; 18] = [
    "error",
    "errors",
    "type",
    "message",
    "errorText",
    "error_description",
    "error_code",
    "code",
    "status",
    "statusCode",
    "status_code",
    "detail",
    "details",
    "object",
    "param",
    "success",
    "request_id",
    "timestamp",
];

/// Returns whether an event of this SSE type is an error, with any data.
pub(super) fn is_error_type(event_type: &str) -> bool {
    event_type.eq_ignore_ascii_case("error")
}

/// Returns the ending, if this event is an error. In a stream of unknown format, an `error` with
/// other fields may be that of an item.
pub(super) fn failure(event: &ModelEvent<'_>, known: bool) -> Option<Ending> {
    if !event.event_type().is_some_and(is_error_type) {
        return failure_in(event, known);
    }
    let data = event.data().trim();
    let message = || event.json().and_then(|json| message_in(json).or_else(|| json.text()));
    let message = page_title(data).map(Cow::Borrowed).or_else(message);
    Some(Ending::failed(&message.unwrap_or(data.into())))
}

/// Returns the ending, if the data of this event is an error.
pub(super) fn failure_in(event: &ModelEvent<'_>, known: bool) -> Option<Ending> {
    if !names_error(event.data()) {
        return None;
    }
    let fields = fields_of(event.json()?)?;
    let what = what_failed(&fields).filter(|_| known || !is_doubtful(&fields))?;
    Some(ending_of(Some(what)))
}

/// Returns the fields of an object, or of the first item of an array.
fn fields_of(json: Json<'_>) -> Option<Fields<'_>> {
    let object = if json.is_array() { json.items().next()? } else { json };
    Some(object.fields())
}

/// Returns the ending of a generation with this `error` field.
pub(super) fn ending_of(error: Option<Json<'_>>) -> Ending {
    Ending::failed(&error.and_then(said).unwrap_or_default())
}

/// Returns the error message in a body that is not a stream: a JSON document, or an HTML page.
#[must_use]
pub fn complaint(body: &str) -> Option<String> {
    let json = LazyJson::default();
    let message = || message_in(json.of(body)?).map(Cow::into_owned);
    page_title(body.trim()).map(str::to_owned).or_else(message)
}

/// Returns the message of an object, or of the first item of an array.
fn message_in(json: Json<'_>) -> Option<Cow<'_, str>> {
    let fields = fields_of(json)?;
    MESSAGES.iter().find_map(|name| said(fields.get(name)?))
}

/// Returns whether the event may be one of a stream of unknown JSON, and its `error` that of an
/// item.
pub(super) fn is_doubtful(event: &Fields<'_>) -> bool {
    let Some(error) = event.get("error").filter(|error| is_error(*error)) else { return false };
    let says = error.fields().text("message").is_some();
    let is_known = ["choices", "candidates"].iter().any(|name| event.get(name).is_some());
    !says && !is_known && event.present().any(|(name, _)| !BESIDE.contains(&&*name))
}

/// Returns the part of an event that reports an error.
fn what_failed<'a>(event: &Fields<'a>) -> Option<Json<'a>> {
    if let Some(error) = event.get("error").filter(|error| is_error(*error)) {
        // If the error is only a code, the message is the field next to it.
        let beside = event.get("message").filter(|message| message.is_string());
        return Some(beside.filter(|_| error.is_scalar()).unwrap_or(error));
    }
    match event.text("type").as_deref() {
        Some("error") => {
            let mut names = ["errorText", "message", "detail", "code", "type"].iter();
            return names.find_map(|name| event.get(name));
        }
        Some("response.failed") => return event.object("response").get("error"),
        _ => {}
    }
    if event.text("object").is_some_and(|object| object == "error") {
        return event.get("message").or(event.get("object"));
    }
    if let Some(errors) = event.get("errors").filter(|errors| !errors.items().is_empty()) {
        return Some(errors);
    }
    event.items("choices").find_map(|choice| {
        let choice = choice.fields();
        let inside = ["delta", "message"].iter().map(|name| choice.object(name).get("error"));
        let mut errors = std::iter::once(choice.get("error")).chain(inside).flatten();
        errors.find(|error| is_error(*error))
    })
}

/// Excludes the `""`, `false`, `0`, `{}` or `[]` of a server that always sends the field.
fn is_error(error: Json<'_>) -> bool {
    let empty = |value: Json<'_>| matches!(value.raw(), "\"\"" | "false" | "0" | "[]" | "{}");
    match error.is_object() {
        true => error.fields().present().any(|(_, value)| !empty(value)),
        false => !empty(error),
    }
}

/// Returns the message in an error of any shape.
pub(super) fn said(error: Json<'_>) -> Option<Cow<'_, str>> {
    said_within(error, MAX_DEPTH)
}

fn said_within(error: Json<'_>, depth: u32) -> Option<Cow<'_, str>> {
    if let Some(text) = error.text() {
        return (!text.trim().is_empty()).then_some(text);
    }
    let depth = depth.checked_sub(1)?;
    if error.is_array() {
        return error.items().next().and_then(|first| said_within(first, depth));
    }
    let fields = error.fields();
    let message = MESSAGES.iter().find_map(|name| said_within(fields.get(name)?, depth));
    let code = |name: &&str| {
        let code = fields.get(name).filter(|code| code.is_scalar())?;
        code.text().or_else(|| Some(code.raw().into()))
    };
    message.or_else(|| CODES.iter().find_map(code))
}

/// Returns whether the JSON has `error`, `errors` or `errorText` as a name or a whole string: most
/// events do not, and are not parsed. Inside a longer string a quote is written `\"`.
fn names_error(data: &str) -> bool {
    static ERROR: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("\"error"));
    let bytes = data.as_bytes();
    ERROR.find_iter(bytes).any(|at| {
        let before = &bytes[..at];
        let after = &bytes[at + "\"error".len()..];
        let ends = [&b"\""[..], b"s\"", b"Text\""];
        !before.ends_with(b"\\") && ends.iter().any(|end| after.starts_with(end))
    })
}

/// Returns the title of an HTML page, or its first heading.
fn page_title(page: &str) -> Option<&str> {
    if !page.starts_with('<') {
        return None;
    }
    let lower = page.to_ascii_lowercase();
    let text = |name: &str| {
        let from = lower.find(&format!("<{name}"))?;
        let from = from + lower[from..].find('>')? + 1;
        let to = from + lower[from..].find("</")?;
        Some(page[from..to].trim()).filter(|text| !text.is_empty())
    };
    text("title").or_else(|| text("h1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_no_stream_says_what_is_wrong() {
        let cases = [
            ("{\n \"error\": {\"message\": \"Incorrect API key\"}\n}\n", "Incorrect API key"),
            (r#"{"error":"model not found"}"#, "model not found"),
            (r#"{"error":"Unauthorized","message":"the token expired"}"#, "the token expired"),
            (r#"{"error":true,"message":"no"}"#, "no"),
            (r#"{"detail":"Not authenticated"}"#, "Not authenticated"),
            (r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#, "field required"),
            (r#"{"success":false,"errors":[{"code":7,"message":"no route"}]}"#, "no route"),
            (r#"{"errors":["too long"]}"#, "too long"),
            (r#"[{"error":{"code":400,"message":"bad key","status":"X"}}]"#, "bad key"),
            (r#"{"error":{"code":"E42"}}"#, "E42"),
            (r#"{"error":{"error":{"message":"deep"}}}"#, "deep"),
            (r#"{"type":"error","error":{"type":"x","message":"Overloaded"}}"#, "Overloaded"),
            ("<html><head><TITLE>\n502 Bad Gateway</TITLE></head>", "502 Bad Gateway"),
            ("<!doctype html><h1 class=x>Down</h1>", "Down"),
        ];
        for (body, message) in cases {
            assert_eq!(complaint(body).as_deref(), Some(message), "{body}");
        }
        for body in ["", "Unauthorized", "{", "[]", "<html>", "{\"id\":1}", "[[[[]]]]", "\"x\""] {
            assert_eq!(complaint(body), None, "{body}");
        }
    }
}
