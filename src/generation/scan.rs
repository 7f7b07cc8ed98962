//! Finds the end of the JSON in the arguments of a tool call, which arrive in pieces.

/// Scan state of the JSON in a tool call's arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanProgress {
    depth: u32,
    quoted: bool,
    escaped: bool,
    whole: bool,
    /// Whether another value has begun after the whole one.
    again: bool,
}

impl ScanProgress {
    /// Scans the next piece of the text.
    pub(super) fn read(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.quoted {
                self.quoted = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            match byte {
                b'{' | b'[' if self.whole => self.again = true,
                _ if self.whole => {}
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    self.whole = self.depth == 0;
                }
                b'"' => self.quoted = true,
                _ => {}
            }
        }
    }

    /// Returns whether an object or an array has begun and not ended.
    pub(super) fn is_partial(self) -> bool {
        self.depth > 0
    }

    /// Returns whether an object or an array has ended.
    pub(super) fn is_whole(self) -> bool {
        self.whole
    }

    /// Returns whether another value has begun after the whole one.
    pub(super) fn goes_on(self) -> bool {
        self.again
    }
}
