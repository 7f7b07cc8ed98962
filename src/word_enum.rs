//! Enums whose values have a word each, on the wire, in settings or in metrics.

/// Defines an enum, with the word of each value beside it: the word does not change when the value
/// is renamed.
macro_rules! words {
    (
        $(#[$about:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$meaning:meta])* $value:ident = $word:literal,)+
        }
    ) => {
        $(#[$about])*
        $visibility enum $name {
            $($(#[$meaning])* $value,)+
        }

        impl $name {
            /// Every value, in order.
            #[allow(dead_code, reason = "some enums are never listed")]
            $visibility const ALL: [Self; [$(Self::$value),+].len()] = [$(Self::$value),+];

            /// Returns the word of this value.
            #[must_use]
            $visibility const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }
        }
    };
}

pub(crate) use words;
