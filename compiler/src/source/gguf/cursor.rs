//! Reads the parts of a header one after the other, never beyond the end of the file.

/// What a part was to be where the file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where the part begins.
    pub(super) at: usize,
    /// Bytes that it would have.
    pub(super) wanted: u64,
}

/// A place in a file.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes before the place.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8], Cut> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let Some(taken) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return Err(Cut { at: self.at, wanted: length });
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Cut> {
        let bytes = self.take(N as u64)?;
        Ok(*bytes.first_chunk().expect("as many were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Cut> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Cut> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Cut> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Cut> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length and as many bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Cut> {
        let length = self.u64()?;
        self.take(length)
    }
}
