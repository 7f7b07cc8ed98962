//! Names, patterns and grants: the names that a pattern selects, patterns within other patterns,
//! and the intersection of two.
//!
//! The input: lines. The first two are patterns; the rest are names, in which a `?` is replaced by
//! a name that the first pattern selects.

use fanfare::internals::auth::{Grants, Operation};
use fanfare::internals::channel::{ChannelName, ChannelPattern};

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    let second = lines.next().unwrap_or_default();
    for text in [first, second] {
        assert_eq!(text.parse::<ChannelPattern>().is_ok(), is_pattern(text), "{text:?}");
        assert_eq!(text.parse::<ChannelName>().is_ok(), is_name(text), "{text:?}");
    }
    let patterns = (first.parse::<ChannelPattern>(), second.parse::<ChannelPattern>());
    let (Ok(one), Ok(other)) = patterns else { return };
    let like_the_first = first.replace("**", "x/y").replace('*', "z");
    let names = lines.map(|line| line.replace('?', &like_the_first));
    let names = names.chain([like_the_first.clone(), second.replace('*', "z")]);
    let names: Vec<ChannelName> = names.filter_map(|name| name.parse().ok()).collect();
    for name in &names {
        for pattern in [&one, &other] {
            assert_eq!(pattern.matches(name), selects(pattern, name), "{pattern} on {name}");
        }
    }
    as_grants(&one, &other, &names);
}

/// A second implementation of the rule for names.
fn is_name(text: &str) -> bool {
    let segment = |segment: &str| !matches!(segment, "" | "." | "..");
    text.len() <= 255
        && text.split('/').all(segment)
        && !text.chars().any(|c| c.is_control() || c == '*')
}

fn is_pattern(text: &str) -> bool {
    let plain: Vec<&str> = text.split('/').collect();
    let last = plain.len() - 1;
    let as_name = plain.iter().enumerate().map(|(place, segment)| match *segment {
        "*" => "x",
        "**" if place == last => "xx",
        other => other,
    });
    is_name(&as_name.collect::<Vec<_>>().join("/"))
}

fn selects(pattern: &ChannelPattern, name: &ChannelName) -> bool {
    fn after(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**"], rest) => !rest.is_empty(),
            ([wanted, pattern @ ..], [segment, name @ ..]) => {
                (*wanted == "*" || wanted == segment) && after(pattern, name)
            }
            _ => false,
        }
    }
    let parts = |text: &'_ str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let pattern = parts(pattern.as_str());
    let name = parts(name.as_str());
    let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
    let name: Vec<&str> = name.iter().map(String::as_str).collect();
    after(&pattern, &name)
}

fn granted(pattern: &ChannelPattern) -> Grants {
    let mut grants = Grants::default();
    grants.add(Operation::Subscribe, pattern.clone());
    grants
}

fn as_grants(one: &ChannelPattern, other: &ChannelPattern, names: &[ChannelName]) {
    let held = granted(one);
    let most = granted(other);
    let common = held.within(&most);
    let covered = held.covers_pattern(Operation::Subscribe, other);
    for name in names {
        let by_one = one.matches(name);
        let by_other = other.matches(name);
        assert_eq!(held.covers(Operation::Subscribe, name), by_one);
        assert!(!covered || !by_other || by_one, "{one} does not cover {other}: {name}");
        let both = common.covers(Operation::Subscribe, name);
        assert_eq!(both, by_one && by_other, "{name} of {one} and {other}");
        for operation in [Operation::Publish, Operation::Signal, Operation::Admin] {
            assert!(!held.covers(operation, name), "{operation} was not granted");
        }
    }
    assert_eq!(held.narrowed_to(&most).is_ok(), covered);
    assert!(held.covers_pattern(Operation::Subscribe, one), "a pattern is within itself");
    for pattern in common.patterns(Operation::Subscribe) {
        assert!(held.covers_pattern(Operation::Subscribe, pattern), "{pattern} within {one}");
        assert!(most.covers_pattern(Operation::Subscribe, pattern), "{pattern} within {other}");
    }
    let claim = serde_json::to_value(&held).expect("grants are JSON");
    assert_eq!(Grants::from_claim(&claim).expect("they read back"), held);
}
