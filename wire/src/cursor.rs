//! Bounds-checked reading and plain writing of little-endian fields: the one way bodies are coded.

/// A body ended early, or held a value out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Fewer bytes than the fields need.
    #[error("the body ends in the middle of a field")]
    Truncated,
    /// More bytes than the fields need.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
    /// A field holds a value that has no meaning.
    #[error("field {field} holds {value}, which is out of range")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// A text is not UTF-8.
    #[error("field {field} is not UTF-8")]
    NotUtf8 {
        /// Which field.
        field: &'static str,
    },
}

/// Reads fields off the front of a slice.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], BodyError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(BodyError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BodyError> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(BodyError::Truncated)?;
        self.rest = rest;
        Ok(*array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, BodyError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, BodyError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, BodyError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, BodyError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text of at most `bytes_max` bytes: u16 length, then UTF-8.
    pub fn text(&mut self, field: &'static str, bytes_max: usize) -> Result<String, BodyError> {
        let length = self.u16()?;
        if usize::from(length) > bytes_max {
            return Err(BodyError::OutOfRange { field, value: u64::from(length) });
        }
        let bytes = self.bytes(usize::from(length))?;
        String::from_utf8(bytes.to_vec()).map_err(|_| BodyError::NotUtf8 { field })
    }

    /// Everything left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Whether every byte was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Refuses bytes after the last field.
    pub fn finish(self) -> Result<(), BodyError> {
        if self.rest.is_empty() { Ok(()) } else { Err(BodyError::Trailing(self.rest.len())) }
    }
}

/// Appends fields to a byte vector.
pub trait Put {
    /// One byte.
    fn put_u8(&mut self, value: u8);
    /// Two bytes.
    fn put_u16(&mut self, value: u16);
    /// Four bytes.
    fn put_u32(&mut self, value: u32);
    /// Eight bytes.
    fn put_u64(&mut self, value: u64);
    /// u16 length, then the bytes. Panics beyond 64 KiB: callers checked their limit.
    fn put_text(&mut self, text: &str);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_text(&mut self, text: &str) {
        self.put_u16(u16::try_from(text.len()).expect("texts are bounded by their limit"));
        self.extend_from_slice(text.as_bytes());
    }
}

/// A body that travels in aux, or stands in a register or a file.
pub trait Body: Sized {
    /// Appends the fields.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads the fields, all of them.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, BodyError>;

    /// The fields as a vector.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads a whole body and refuses what follows it.
    fn from_bytes(bytes: &[u8]) -> Result<Self, BodyError> {
        let mut reader = Reader::new(bytes);
        let body = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian() {
        let mut bytes = Vec::new();
        bytes.put_u8(0x01);
        bytes.put_u16(0x0203);
        bytes.put_u32(0x0405_0607);
        bytes.put_u64(0x0809_0a0b_0c0d_0e0f);
        bytes.put_text("ü");
        assert_eq!(
            bytes,
            [1, 3, 2, 7, 6, 5, 4, 0xf, 0xe, 0xd, 0xc, 0xb, 0xa, 9, 8, /* length */ 2, 0, 0xc3, 0xbc]
        );
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(0x01));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u32(), Ok(0x0405_0607));
        assert_eq!(reader.u64(), Ok(0x0809_0a0b_0c0d_0e0f));
        assert_eq!(reader.text("t", 2).as_deref(), Ok("ü"));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_field_cut_short_is_an_error_and_takes_nothing() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u32(), Err(BodyError::Truncated));
        assert_eq!(reader.bytes(4), Err(BodyError::Truncated));
        assert_eq!(reader.bytes(usize::MAX), Err(BodyError::Truncated));
        assert_eq!(reader.rest(), [1, 2, 3]);
        assert!(reader.is_empty());
    }

    #[test]
    fn texts_keep_their_limit_and_are_utf8() {
        let long = Reader::new(&[3, 0, b'a', b'b', b'c']).text("t", 2);
        assert_eq!(long, Err(BodyError::OutOfRange { field: "t", value: 3 }));
        assert_eq!(Reader::new(&[3, 0, b'a', b'b']).text("t", 9), Err(BodyError::Truncated));
        assert_eq!(Reader::new(&[1, 0, 0xff]).text("t", 9), Err(BodyError::NotUtf8 { field: "t" }));
    }

    #[test]
    fn what_follows_the_last_field_is_refused() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.finish(), Err(BodyError::Trailing(2)));
    }
}
