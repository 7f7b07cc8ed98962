//! Names of channels that were removed after the front of the log.

use std::collections::VecDeque;

use super::table::Table;
use crate::text::Text;

/// Maximum number of names: far more channels than are removed while a command is under way, which
/// is the time for which a command may still name a life that is over.
const MAX_NAMES: usize = 100_000;

/// The latest names that were added.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    names: Table<Text, ()>,
    order: VecDeque<Text>,
}

impl Gone {
    pub(super) fn contains(&self, name: &Text) -> bool {
        self.names.get(name.as_bytes()).is_some()
    }

    pub(super) fn add(&mut self, name: &Text) {
        if self.contains(name) {
            return;
        }
        if self.names.len() >= MAX_NAMES
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(oldest.as_bytes());
        }
        let name = name.detached();
        self.names.insert(name.clone(), ());
        self.order.push_back(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_names_is_bounded() {
        let mut gone = Gone::default();
        for number in 0..=MAX_NAMES {
            let name = Text::from(number.to_string());
            gone.add(&name);
            gone.add(&name);
        }
        assert_eq!((gone.names.len(), gone.order.len()), (MAX_NAMES, MAX_NAMES));
        assert!(!gone.contains(&"0".into()) && gone.contains(&"1".into()));
    }
}
