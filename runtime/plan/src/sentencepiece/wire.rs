//! The fields of a message, one after another, where they lie in the file: nothing is decoded or copied, so a count
//! that is too large is told before it takes memory, and damage has a place.

/// What is wrong with the bytes of a message, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// From the start of the message.
    pub offset: usize,
    /// A sentence.
    pub what: &'static str,
}

/// A field with a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub number: u64,
    /// Where its content begins.
    pub offset: usize,
    pub content: &'a [u8],
}

/// The fields of the message in these bytes, of which only those with a length have content.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next field with a length.
    pub fn next(&mut self) -> Result<Option<Field<'a>>, Damage> {
        while self.at < self.bytes.len() {
            let key = self.number()?;
            match key & 7 {
                0 => drop(self.number()?),
                1 => drop(self.take(8)?),
                5 => drop(self.take(4)?),
                2 => {
                    let length = self.number()?;
                    let offset = self.at;
                    return Ok(Some(Field { number: key >> 3, offset, content: self.take(length)? }));
                }
                _ => return Err(self.damage("a field has a type that does not exist")),
            }
        }
        Ok(None)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Damage> {
        let rest = &self.bytes[self.at..];
        let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
        let length = length.ok_or_else(|| self.damage("a field reaches beyond the end of the file"))?;
        self.at += length;
        Ok(&rest[..length])
    }

    /// A number of variable length: seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<u64, Damage> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(self.damage("the file ends inside a number"));
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damage("a number has more than 64 bits"))
    }

    fn damage(&self, what: &'static str) -> Damage {
        Damage { offset: self.at, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_and_numbers_are_passed_over() {
        let bytes =
            [&[0x08, 0x96, 0x01, 0x12, 2, b'a', b'b', 0x1d][..], &[0; 4], &[0x21], &[0; 8], &[0x2a, 0]]
                .concat();
        let mut fields = Fields::new(&bytes);
        assert_eq!(fields.next(), Ok(Some(Field { number: 2, offset: 5, content: b"ab" })));
        assert_eq!(fields.next(), Ok(Some(Field { number: 5, offset: 23, content: b"" })));
        assert_eq!(fields.next(), Ok(None));
    }

    #[test]
    fn damage_has_a_place() {
        let damage = |bytes: &[u8]| Fields::new(bytes).next().unwrap_err();
        assert_eq!(
            damage(&[0x0a, 5, 0]),
            Damage { offset: 2, what: "a field reaches beyond the end of the file" }
        );
        assert_eq!(damage(&[0x08]), Damage { offset: 1, what: "the file ends inside a number" });
        assert_eq!(damage(&[0x0b]), Damage { offset: 1, what: "a field has a type that does not exist" });
        let long = [&[0x08][..], &[0xff; 10]].concat();
        assert_eq!(damage(&long), Damage { offset: 11, what: "a number has more than 64 bits" });
        let huge = [&[0x0a][..], &[0xff; 9], &[1]].concat();
        assert_eq!(damage(&huge).what, "a field reaches beyond the end of the file");
    }
}
