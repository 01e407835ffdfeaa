//! Reading and writing the fixed fields of this crate's own small records, little-endian.

/// Appends fields.
pub(crate) trait PutFields {
    fn put_u8(&mut self, value: u8);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_u128(&mut self, value: u128);
    /// 7 bits a byte, least significant first: small numbers take one byte.
    fn put_varint(&mut self, value: u64);
    /// A length and the bytes.
    fn put_bytes(&mut self, value: &[u8]);
}

impl PutFields for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u128(&mut self, value: u128) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_bytes(&mut self, value: &[u8]) {
        self.put_u32(u32::try_from(value.len()).expect("a field is below 4 GiB"));
        self.extend_from_slice(value);
    }
}

/// Takes fields off the front; `None` where the bytes run out.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    /// `None` if something is left over: a longer record is another format, not this one.
    pub(crate) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_went_in() {
        let mut row = Vec::new();
        row.put_u128(u128::MAX - 1);
        row.put_bytes(b"abc");
        for value in [0, 1, 127, 128, 300, u64::MAX] {
            row.put_varint(value);
        }
        let mut fields = Fields(&row);
        assert_eq!(fields.u128(), Some(u128::MAX - 1));
        assert_eq!(fields.bytes(), Some(&b"abc"[..]));
        for value in [0, 1, 127, 128, 300, u64::MAX] {
            assert_eq!(fields.varint(), Some(value));
        }
        assert_eq!(fields.end(), Some(()));
    }

    #[test]
    fn a_row_that_ends_early_or_late_is_no_row() {
        assert_eq!(Fields(&[0x80; 11]).varint(), None);
        assert_eq!(Fields(&[5, 0, 0, 0, 1]).bytes(), None);
        assert_eq!(Fields(&[1]).end(), None);
    }
}
