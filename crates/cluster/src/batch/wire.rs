//! Numbers and texts as bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::text::Text;

/// The bytes are not what they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The input ends within a value.
    #[error("the input ends within a value")]
    Short,
    /// A number has more than 64 bits, or more bytes than it needs.
    #[error("a number is not in its shortest form of at most 64 bits")]
    Number,
    /// A value has no meaning at its place.
    #[error("a value is out of range")]
    Range,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// Bytes are left after the last value.
    #[error("bytes are left after the last value")]
    Surplus,
}

/// Reads values from bytes. Texts share the memory of the input.
pub(crate) struct Reader {
    input: Bytes,
    at: usize,
}

impl Reader {
    pub(crate) fn new(input: Bytes) -> Self {
        Self { input, at: 0 }
    }

    /// Returns the number of bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.input.len() - self.at
    }

    pub(crate) fn byte(&mut self) -> Result<u8, WireError> {
        let byte = *self.input.get(self.at).ok_or(WireError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let array = self.input[self.at..].first_chunk::<N>().ok_or(WireError::Short)?;
        self.at += N;
        Ok(*array)
    }

    pub(crate) fn fixed(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a number in LEB128. Only the shortest form is valid, so that a value has one form.
    pub(crate) fn number(&mut self) -> Result<u64, WireError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::Number);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                let is_shortest = byte != 0 || shift == 0;
                return if is_shortest { Ok(number) } else { Err(WireError::Number) };
            }
        }
        Err(WireError::Number)
    }

    /// Reads a count of items that take at least `least` bytes each. What is left of the input
    /// bounds it, so that it may be used as a capacity.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, WireError> {
        let count = usize::try_from(self.number()?).map_err(|_| WireError::Short)?;
        if count > self.left() / least { Err(WireError::Short) } else { Ok(count) }
    }

    pub(crate) fn bytes(&mut self, length: u64) -> Result<Bytes, WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Short)?;
        if length > self.left() {
            return Err(WireError::Short);
        }
        let bytes = self.input.slice(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<Text, WireError> {
        let length = self.number()?;
        self.text_of(length)
    }

    pub(crate) fn text_of(&mut self, length: u64) -> Result<Text, WireError> {
        Text::new(self.bytes(length)?).ok_or(WireError::Utf8)
    }

    /// Reads a text that may be missing: its length and one, or zero.
    pub(crate) fn optional_text(&mut self) -> Result<Option<Text>, WireError> {
        match self.number()?.checked_sub(1) {
            None => Ok(None),
            Some(length) => self.text_of(length).map(Some),
        }
    }

    pub(crate) fn end(&self) -> Result<(), WireError> {
        if self.left() == 0 { Ok(()) } else { Err(WireError::Surplus) }
    }
}

/// Writes values as [`Reader`] reads them.
pub(crate) trait Writer {
    fn number(&mut self, number: u64);
    fn text(&mut self, text: &Text);
    fn optional_text(&mut self, text: Option<&Text>);
}

impl Writer for BytesMut {
    #[expect(clippy::cast_possible_truncation, reason = "seven bits are taken")]
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.put_u8(number as u8 | 0x80);
            number >>= 7;
        }
        self.put_u8(number as u8);
    }

    fn text(&mut self, text: &Text) {
        self.number(text.as_bytes().len() as u64);
        self.put_slice(text.as_bytes());
    }

    fn optional_text(&mut self, text: Option<&Text>) {
        match text {
            None => self.number(0),
            Some(text) => {
                self.number(text.as_bytes().len() as u64 + 1);
                self.put_slice(text.as_bytes());
            }
        }
    }
}
