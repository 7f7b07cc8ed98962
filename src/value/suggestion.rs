//! Suggestions for misspelt names.

/// Minimum letters of a name that counts as a part of another.
const PART: usize = 4;

/// Maximum number of wrong letters.
const MISTAKES: usize = 2;

/// Returns the known name nearest to this one: a few letters differ, or words are left out. `None`
/// if it would be a guess.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = letters(name);
    let distance = |known: &'a str| {
        let right = letters(known);
        let is_part = name.len() >= PART && right.contains(&name);
        let most = (right.len().min(name.len()) / 3).min(MISTAKES);
        // The name may be of any length, and the cost of a comparison is the product of both.
        if !is_part && name.len().abs_diff(right.len()) > most {
            return None;
        }
        let mistakes = strsim::osa_distance(&name, &right);
        (is_part || mistakes <= most).then_some((mistakes, known))
    };
    known.filter_map(distance).min_by_key(|(mistakes, _)| *mistakes).map(|(_, known)| known)
}

/// Returns a name without its word separators, in lower case.
fn letters(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_suggested_only_if_it_is_near() {
        let known = ["listen", "admin_listen", "hosts", "max_connections", "header_timeout"];
        for (name, likely) in [
            ("lisen", Some("listen")),
            ("Listen", Some("listen")),
            ("admin-listen", Some("admin_listen")),
            ("adminlisten", Some("admin_listen")),
            ("max_conections", Some("max_connections")),
            ("connections", Some("max_connections")),
            ("timeout", Some("header_timeout")),
            ("host", Some("hosts")),
            ("nonsense", None),
            ("port", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), likely, "{name}");
        }
    }
}
