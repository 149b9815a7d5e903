//! A fuzzer's bytes as numbers and parts. What is missing is zero, so that every input is a whole one.

/// Bytes that are taken from the front.
pub struct Words<'a>(pub &'a [u8]);

impl<'a> Words<'a> {
    /// Whether all were taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        array[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        array
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next bytes, as many of these as there are.
    pub fn part(&mut self, bytes: usize) -> &'a [u8] {
        let (part, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        part
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// More portions than this say nothing new of one PDU, and take a fuzzer's time.
const PORTIONS_MAX: usize = 64;

/// Bytes in portions of two alternating lengths; 0, and the last of many portions: all that is left.
pub fn portions(mut bytes: &[u8], lengths: [u8; 2]) -> impl Iterator<Item = &[u8]> {
    let mut turn = 0;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let length = match usize::from(lengths[turn % 2]) {
            0 => bytes.len(),
            _ if turn == PORTIONS_MAX => bytes.len(),
            length => length.min(bytes.len()),
        };
        turn += 1;
        let (portion, rest) = bytes.split_at(length);
        bytes = rest;
        Some(portion)
    })
}
