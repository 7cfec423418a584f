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
