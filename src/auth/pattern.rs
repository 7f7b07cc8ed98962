//! The intersection of two channel patterns, as sets of names.

use crate::channel::ChannelPattern;

/// Returns the pattern of the names that both select, or `None` if there are none.
pub(super) fn intersection(a: &ChannelPattern, b: &ChannelPattern) -> Option<ChannelPattern> {
    let mut a = a.as_str().split('/');
    let mut b = b.as_str().split('/');
    let mut common: Vec<&str> = Vec::new();
    loop {
        match (a.next(), b.next()) {
            (None, None) => break,
            (Some("**"), Some(next)) => {
                common.push(next);
                common.extend(b);
                break;
            }
            (Some(next), Some("**")) => {
                common.push(next);
                common.extend(a);
                break;
            }
            (Some("*"), Some(segment)) | (Some(segment), Some("*")) => common.push(segment),
            (Some(one), Some(other)) if one == other => common.push(one),
            _ => return None,
        }
    }
    // A pattern that is too long selects only names that are too long: the intersection is empty.
    common.join("/").parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::ChannelName;

    fn pattern() -> impl Strategy<Value = ChannelPattern> {
        let segment = prop_oneof![Just("a"), Just("b"), Just("*")];
        (prop::collection::vec(segment, 0..4), any::<bool>()).prop_filter_map(
            "a pattern has a segment",
            |(mut segments, rest)| {
                segments.extend(rest.then_some("**"));
                segments.join("/").parse().ok()
            },
        )
    }

    /// Returns all names of up to five segments out of three words, one of which is in no pattern.
    fn names() -> Vec<ChannelName> {
        let mut names = Vec::new();
        let mut last = vec![String::new()];
        for _ in 0..5 {
            let longer = |name: &String| {
                ["a", "b", "c"].map(|word| format!("{name}/{word}").trim_matches('/').to_owned())
            };
            last = last.iter().flat_map(longer).collect();
            names.extend(last.iter().map(|name| name.parse().unwrap()));
        }
        names
    }

    #[test]
    fn containment_table() {
        for (outer, inner, contained) in [
            ("**", "a", true),
            ("**", "**", true),
            ("**", "*", true),
            ("*", "**", false),
            ("*", "*", true),
            ("a/**", "a", false),
            ("a/**", "a/b", true),
            ("a/**", "a/*/c", true),
            ("a/**", "**", false),
            ("a/**", "*/b", false),
            ("a/*", "a/**", false),
            ("a/*/**", "a/**", false),
            ("a/**", "a/*/**", true),
            ("a/*/c", "a/b/c", true),
            ("team-a/**", "team-ab/x", false),
        ] {
            let pattern = |text: &str| text.parse::<ChannelPattern>().unwrap();
            let one = pattern(outer);
            let other = pattern(inner);
            assert_eq!(one.contains(&other), contained, "{inner} within {outer}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_pattern_is_within_another_if_all_its_names_are(a in pattern(), b in pattern()) {
            let all = names().iter().all(|name| !b.matches(name) || a.matches(name));
            prop_assert_eq!(a.contains(&b), all, "{} within {}", b, a);
            prop_assert_eq!(a.overlaps(&b), intersection(&a, &b).is_some());
        }

        #[test]
        fn the_intersection_has_the_names_of_both(a in pattern(), b in pattern()) {
            let common = intersection(&a, &b);
            for name in names() {
                let both = a.matches(&name) && b.matches(&name);
                let found = common.as_ref().is_some_and(|common| common.matches(&name));
                prop_assert_eq!(found, both, "{} of {} and {}", name, a, b);
            }
        }
    }
}
