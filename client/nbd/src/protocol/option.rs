//! Options of the handshake: how one is parsed, and how a reply to it is framed.
//!
//! An option is `IHAVEOPT`, a code, a length and that many bytes. The caller has compared the length
//! with [`OPTION_LENGTH_MAX`](super::constants::OPTION_LENGTH_MAX) and holds all of the data.

use bytes::{BufMut, BytesMut};

use super::constants::{
    CONTEXT_QUERY_COUNT_MAX, OPTION_REPLY_MAGIC, STRING_LENGTH_MAX, info_type, option_code, option_reply,
};

/// The fixed part of an option, after its magic was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Eight bytes that must be [`OPTION_MAGIC`](super::constants::OPTION_MAGIC).
    pub magic: u64,
    /// What is asked.
    pub code: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const LENGTH: usize = 16;

    /// Splits the header into its fields; none is checked yet.
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Self {
        let [magic @ .., c0, c1, c2, c3, l0, l1, l2, l3] = *bytes;
        Self {
            magic: u64::from_be_bytes(magic),
            code: u32::from_be_bytes([c0, c1, c2, c3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }
}

/// A well-formed option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionRequest {
    /// Use this export, hang up if there is none.
    ExportName(String),
    /// The client leaves.
    Abort,
    /// List the exports.
    List,
    /// Upgrade to TLS.
    StartTls,
    /// Describe an export.
    Info(ExportQuery),
    /// Describe an export and start transmission.
    Go(ExportQuery),
    /// Allow structured replies.
    StructuredReply,
    /// List metadata contexts.
    ListMetaContext(ContextQuery),
    /// Choose metadata contexts.
    SetMetaContext(ContextQuery),
    /// A code we don't know; its data are ignored.
    Unknown,
}

/// The data of INFO and GO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportQuery {
    /// Export, empty for the default one.
    pub name: String,
    /// The client wants the canonical name.
    pub wants_name: bool,
    /// The client wants the description.
    pub wants_description: bool,
    /// The client wants, and will obey, block sizes.
    pub wants_block_size: bool,
}

/// The data of the two metadata context options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextQuery {
    /// Export, empty for the default one.
    pub export_name: String,
    /// Contexts asked for.
    pub queries: Vec<String>,
}

/// Data that don't parse: the reply type to send, and why, for the person behind the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionFault {
    /// An `ERR_` value of [`option_reply`].
    pub reply_type: u32,
    /// One sentence.
    pub message: &'static str,
}

const fn invalid(message: &'static str) -> OptionFault {
    OptionFault { reply_type: option_reply::ERR_INVALID, message }
}

impl OptionRequest {
    /// Parses the data of option `code`.
    pub fn parse(code: u32, data: &[u8]) -> Result<Self, OptionFault> {
        let mut reader = Reader(data);
        let request = match code {
            option_code::EXPORT_NAME => Self::ExportName(reader.string(data.len())?),
            // Whatever comes with ABORT is to be ignored.
            option_code::ABORT => return Ok(Self::Abort),
            option_code::LIST => Self::List,
            option_code::STARTTLS => Self::StartTls,
            option_code::INFO => Self::Info(ExportQuery::parse(&mut reader)?),
            option_code::GO => Self::Go(ExportQuery::parse(&mut reader)?),
            option_code::STRUCTURED_REPLY => Self::StructuredReply,
            option_code::LIST_META_CONTEXT => Self::ListMetaContext(ContextQuery::parse(&mut reader)?),
            option_code::SET_META_CONTEXT => Self::SetMetaContext(ContextQuery::parse(&mut reader)?),
            _ => return Ok(Self::Unknown),
        };
        if reader.0.is_empty() {
            Ok(request)
        } else {
            Err(invalid("the option has unexpected data at its end"))
        }
    }
}

impl ExportQuery {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, OptionFault> {
        let name_length = reader.u32()? as usize;
        let mut query = Self { name: reader.string(name_length)?, ..Self::default() };
        for _ in 0..reader.u16()? {
            match reader.u16()? {
                info_type::NAME => query.wants_name = true,
                info_type::DESCRIPTION => query.wants_description = true,
                info_type::BLOCK_SIZE => query.wants_block_size = true,
                // EXPORT is sent anyway; unknown ones must be ignored.
                _ => {}
            }
        }
        Ok(query)
    }
}

impl ContextQuery {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, OptionFault> {
        let name_length = reader.u32()? as usize;
        let export_name = reader.string(name_length)?;
        let query_count = reader.u32()? as usize;
        if query_count > CONTEXT_QUERY_COUNT_MAX {
            return Err(OptionFault {
                reply_type: option_reply::ERR_TOO_BIG,
                message: "too many metadata queries in one option",
            });
        }
        let mut queries = Vec::with_capacity(query_count);
        for _ in 0..query_count {
            let length = reader.u32()? as usize;
            queries.push(reader.string(length)?);
        }
        Ok(Self { export_name, queries })
    }
}

/// Takes fields off the front of an option's data.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], OptionFault> {
        let (field, rest) =
            self.0.split_at_checked(length).ok_or(invalid("the option ends before its fields do"))?;
        self.0 = rest;
        Ok(field)
    }

    fn u16(&mut self) -> Result<u16, OptionFault> {
        let field = self.take(2)?;
        Ok(u16::from_be_bytes([field[0], field[1]]))
    }

    fn u32(&mut self) -> Result<u32, OptionFault> {
        let field = self.take(4)?;
        Ok(u32::from_be_bytes([field[0], field[1], field[2], field[3]]))
    }

    fn string(&mut self, length: usize) -> Result<String, OptionFault> {
        if length > STRING_LENGTH_MAX {
            return Err(invalid("a string is longer than 4096 bytes"));
        }
        let field = self.take(length)?;
        let text = std::str::from_utf8(field).map_err(|_| invalid("a string is not UTF-8"))?;
        if text.contains('\0') { Err(invalid("a string contains NUL")) } else { Ok(text.to_owned()) }
    }
}

/// Appends one reply to option `code`: magic, code, type, length, and the parts of its data.
pub fn encode_option_reply(output: &mut BytesMut, code: u32, reply_type: u32, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("replies to options consist of a few bounded strings");
    output.put_u64(OPTION_REPLY_MAGIC);
    output.put_u32(code);
    output.put_u32(reply_type);
    output.put_u32(length);
    for part in parts {
        output.put_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_fields() {
        let header = OptionHeader::parse(&[
            b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T', // magic
            0, 0, 0, 7, // code: GO
            0, 0, 1, 2, // length: 258
        ]);
        assert_eq!(
            header,
            OptionHeader { magic: super::super::constants::OPTION_MAGIC, code: 7, length: 258 }
        );
    }

    #[test]
    fn go_with_information_requests() {
        let data = [
            0, 0, 0, 2, // name length
            b'v', b'm', // name
            0, 3, // information requests
            0, 3, // BLOCK_SIZE
            0, 1, // NAME
            0, 99, // unknown: ignored
        ];
        let query = ExportQuery {
            name: "vm".into(),
            wants_name: true,
            wants_description: false,
            wants_block_size: true,
        };
        assert_eq!(OptionRequest::parse(7, &data), Ok(OptionRequest::Go(query)));
    }

    #[test]
    fn set_meta_context() {
        let data = [
            0, 0, 0, 0, // export name length
            0, 0, 0, 2, // queries
            0, 0, 0, 5, b'b', b'a', b's', b'e', b':', // first
            0, 0, 0, 1, b'x', // second
        ];
        let expected = ContextQuery { export_name: String::new(), queries: vec!["base:".into(), "x".into()] };
        assert_eq!(OptionRequest::parse(10, &data), Ok(OptionRequest::SetMetaContext(expected)));
    }

    #[test]
    fn malformed_data_are_refused() {
        let refused = |code, data: &[u8]| OptionRequest::parse(code, data).expect_err("must not parse");
        assert_eq!(refused(3, b"x").reply_type, option_reply::ERR_INVALID, "LIST carries nothing");
        assert_eq!(refused(7, &[0, 0, 0, 9, b'a']).reply_type, option_reply::ERR_INVALID, "name cut short");
        assert_eq!(refused(7, &[255; 8]).reply_type, option_reply::ERR_INVALID, "4 GiB name");
        assert_eq!(refused(7, &[0, 0, 0, 1, 0xff, 0, 0]).reply_type, option_reply::ERR_INVALID, "not UTF-8");
        assert_eq!(refused(7, &[0, 0, 0, 1, 0, 0, 0]).reply_type, option_reply::ERR_INVALID, "NUL");
        assert_eq!(refused(10, &[0, 0, 0, 0, 255, 255, 255, 255]).reply_type, option_reply::ERR_TOO_BIG);
        assert_eq!(OptionRequest::parse(2, b"ignored"), Ok(OptionRequest::Abort));
    }

    proptest! {
        #[test]
        fn any_data_parse_or_are_refused(code in 0u32..12, data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = OptionRequest::parse(code, &data);
        }

        #[test]
        fn encoded_query_parses_back(name in "[a-z0-9/]{0,40}", queries in proptest::collection::vec("[a-z:]{0,20}", 0..8)) {
            let mut data = BytesMut::new();
            data.put_u32(u32::try_from(name.len()).unwrap());
            data.put_slice(name.as_bytes());
            data.put_u32(u32::try_from(queries.len()).unwrap());
            for query in &queries {
                data.put_u32(u32::try_from(query.len()).unwrap());
                data.put_slice(query.as_bytes());
            }
            let expected = ContextQuery { export_name: name, queries };
            prop_assert_eq!(OptionRequest::parse(9, &data), Ok(OptionRequest::ListMetaContext(expected)));
            // One byte less never parses.
            prop_assert!(OptionRequest::parse(9, &data[..data.len() - 1]).is_err());
        }
    }
}
