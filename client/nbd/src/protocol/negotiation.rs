//! The fixed newstyle handshake as a state machine over bytes.
//!
//! Calling order: send [`Negotiation::greeting`], then alternate between appending received bytes to
//! `input` and calling [`Negotiation::handle_input`] until it says otherwise than [`Step::NeedMore`];
//! whatever it appended to `output` is sent after *each* call. One call handles one option, so that a
//! client that pipelines thousands of questions can't make the answers pile up.
//!
//! After [`Step::Transmission`], what is left in `input` already belongs to the transmission phase.

use bytes::{Buf, BufMut, BytesMut};

use super::constants::{
    ALLOCATION_CONTEXT_ID, ALLOCATION_CONTEXT_NAME, BLOCK_SIZE_MINIMUM, BLOCK_SIZE_PREFERRED,
    EXPORT_NAME_PADDING_BYTES, OPTION_COUNT_MAX, OPTION_LENGTH_MAX, OPTION_MAGIC, PAYLOAD_BYTES_MAX,
    SERVER_MAGIC, handshake_flag, info_type, option_code, option_reply, transmission_flag,
};
use super::option::{ContextQuery, ExportQuery, OptionHeader, OptionRequest, encode_option_reply};

/// The export as the handshake describes it.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its name; the empty name means the same export.
    pub name: String,
    /// A text for people, may be empty.
    pub description: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// What client and server agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Reads are answered in chunks, errors with a text.
    pub structured_replies: bool,
    /// BLOCK_STATUS may be asked: `base:allocation` was selected.
    pub allocation_context: bool,
}

/// What to do after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing complete in `input`: receive more.
    NeedMore,
    /// An option was handled: send `output`, call again.
    Again,
    /// The handshake is over: send `output`, then read requests.
    Transmission(Session),
    /// The client left: send `output`, then close.
    Ended,
}

/// Why a handshake can't go on. The connection is closed; the protocol has no way to tell the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// Client flags we never offered.
    #[error("client flags {0:#x} were not offered")]
    UnknownClientFlags(u32),
    /// Not an option.
    #[error("option magic is {0:#018x}: the client does not speak newstyle NBD")]
    BadOptionMagic(u64),
    /// An option longer than any sensible one.
    #[error("option {code} announces {length} bytes, the maximum is {OPTION_LENGTH_MAX}")]
    OptionTooLong {
        /// The option.
        code: u32,
        /// What it announced.
        length: u32,
    },
    /// Endless haggling.
    #[error("more than {OPTION_COUNT_MAX} options")]
    TooManyOptions,
    /// EXPORT_NAME with a name that isn't ours.
    #[error("export {0:?} does not exist")]
    UnknownExport(String),
    /// EXPORT_NAME with a name that isn't a name.
    #[error("malformed export name: {0}")]
    MalformedExportName(&'static str),
}

/// One client's handshake.
#[derive(Debug)]
pub struct Negotiation {
    export: Export,
    /// None until the client's flags arrived.
    client_no_zeroes: Option<bool>,
    session: Session,
    option_count: usize,
}

impl Negotiation {
    /// Bytes of [`Self::greeting`].
    pub const GREETING_LENGTH: usize = 18;

    /// Starts a handshake about `export`.
    pub fn new(export: Export) -> Self {
        Self { export, client_no_zeroes: None, session: Session::default(), option_count: 0 }
    }

    /// What the server says first.
    pub fn greeting() -> [u8; Self::GREETING_LENGTH] {
        let mut bytes = [0; Self::GREETING_LENGTH];
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        bytes[..8].copy_from_slice(&SERVER_MAGIC.to_be_bytes());
        bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[16..].copy_from_slice(&flags.to_be_bytes());
        bytes
    }

    /// Handles the client's flags or one option from the front of `input`.
    pub fn handle_input(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<Step, NegotiationError> {
        let Some(no_zeroes) = self.client_no_zeroes else {
            return self.handle_client_flags(input);
        };
        let Some(header) = input.first_chunk::<{ OptionHeader::LENGTH }>().map(OptionHeader::parse) else {
            return Ok(Step::NeedMore);
        };
        if header.magic != OPTION_MAGIC {
            return Err(NegotiationError::BadOptionMagic(header.magic));
        }
        let length = header.length as usize;
        if length > OPTION_LENGTH_MAX {
            return Err(NegotiationError::OptionTooLong { code: header.code, length: header.length });
        }
        if input.len() < OptionHeader::LENGTH + length {
            return Ok(Step::NeedMore);
        }
        if self.option_count == OPTION_COUNT_MAX {
            return Err(NegotiationError::TooManyOptions);
        }
        self.option_count += 1;
        input.advance(OptionHeader::LENGTH);
        let data = input.split_to(length);
        self.handle_option(header.code, &data, no_zeroes, output)
    }

    fn handle_client_flags(&mut self, input: &mut BytesMut) -> Result<Step, NegotiationError> {
        if input.len() < 4 {
            return Ok(Step::NeedMore);
        }
        let flags = input.get_u32();
        let offered = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        if flags & !u32::from(offered) != 0 {
            return Err(NegotiationError::UnknownClientFlags(flags));
        }
        self.client_no_zeroes = Some(flags & u32::from(handshake_flag::NO_ZEROES) != 0);
        Ok(Step::Again)
    }

    fn handle_option(
        &mut self,
        code: u32,
        data: &[u8],
        no_zeroes: bool,
        output: &mut BytesMut,
    ) -> Result<Step, NegotiationError> {
        let request = match OptionRequest::parse(code, data) {
            Ok(request) => request,
            Err(fault) if code == option_code::EXPORT_NAME => {
                return Err(NegotiationError::MalformedExportName(fault.message));
            }
            Err(fault) => {
                if code == option_code::SET_META_CONTEXT {
                    // A failed selection also replaces the one before.
                    self.session.allocation_context = false;
                }
                encode_option_reply(output, code, fault.reply_type, &[fault.message.as_bytes()]);
                return Ok(Step::Again);
            }
        };
        match request {
            OptionRequest::ExportName(name) => return self.export_name(name, no_zeroes, output),
            OptionRequest::Abort => {
                encode_option_reply(output, code, option_reply::ACK, &[]);
                return Ok(Step::Ended);
            }
            OptionRequest::List => self.list(output),
            OptionRequest::Info(query) => {
                self.describe(code, &query, output);
            }
            OptionRequest::Go(query) => {
                if self.describe(code, &query, output) {
                    return Ok(Step::Transmission(self.session));
                }
            }
            OptionRequest::StructuredReply => {
                self.session.structured_replies = true;
                encode_option_reply(output, code, option_reply::ACK, &[]);
            }
            OptionRequest::ListMetaContext(query) => {
                self.list_meta_contexts(&query, output);
            }
            OptionRequest::SetMetaContext(query) => self.set_meta_context(&query, output),
            OptionRequest::StartTls => {
                encode_option_reply(output, code, option_reply::ERR_UNSUP, &[b"TLS is not supported"]);
            }
            OptionRequest::Unknown => {
                encode_option_reply(output, code, option_reply::ERR_UNSUP, &[b"the option is not known"]);
            }
        }
        Ok(Step::Again)
    }

    fn is_ours(&self, name: &str) -> bool {
        name.is_empty() || name == self.export.name
    }

    /// Flags of the export under what was negotiated so far.
    fn transmission_flags(&self) -> u16 {
        let mut flags = transmission_flag::HAS_FLAGS
            | transmission_flag::SEND_FLUSH
            | transmission_flag::SEND_FUA
            | transmission_flag::SEND_TRIM
            | transmission_flag::SEND_WRITE_ZEROES
            | transmission_flag::CAN_MULTI_CONN;
        if self.export.read_only {
            flags |= transmission_flag::READ_ONLY;
        }
        if self.session.structured_replies {
            flags |= transmission_flag::SEND_DF;
        }
        flags
    }

    fn export_name(
        &self,
        name: String,
        no_zeroes: bool,
        output: &mut BytesMut,
    ) -> Result<Step, NegotiationError> {
        if !self.is_ours(&name) {
            return Err(NegotiationError::UnknownExport(name));
        }
        output.put_u64(self.export.size_bytes);
        output.put_u16(self.transmission_flags());
        if !no_zeroes {
            output.put_bytes(0, EXPORT_NAME_PADDING_BYTES);
        }
        Ok(Step::Transmission(self.session))
    }

    fn list(&self, output: &mut BytesMut) {
        let name = self.export.name.as_bytes();
        let name_length = u32::try_from(name.len()).expect("the export's name was checked by the server");
        encode_option_reply(
            output,
            option_code::LIST,
            option_reply::SERVER,
            &[&name_length.to_be_bytes(), name, self.export.description.as_bytes()],
        );
        encode_option_reply(output, option_code::LIST, option_reply::ACK, &[]);
    }

    /// Answers INFO or GO; true if the export exists.
    fn describe(&self, code: u32, query: &ExportQuery, output: &mut BytesMut) -> bool {
        if !self.is_ours(&query.name) {
            encode_option_reply(output, code, option_reply::ERR_UNKNOWN, &[b"no such export"]);
            return false;
        }
        let export = &self.export;
        let mut fact = |kind: u16, parts: [&[u8]; 3]| {
            let [first, second, third] = parts;
            encode_option_reply(
                output,
                code,
                option_reply::INFO,
                &[&kind.to_be_bytes(), first, second, third],
            );
        };
        let flags = self.transmission_flags().to_be_bytes();
        fact(info_type::EXPORT, [&export.size_bytes.to_be_bytes(), &flags, &[]]);
        if query.wants_name {
            fact(info_type::NAME, [export.name.as_bytes(), &[], &[]]);
        }
        if query.wants_description && !export.description.is_empty() {
            fact(info_type::DESCRIPTION, [export.description.as_bytes(), &[], &[]]);
        }
        if query.wants_block_size {
            // With a minimum that doesn't divide the size, obedient clients could not reach the tail.
            let divides = export.size_bytes.is_multiple_of(u64::from(BLOCK_SIZE_MINIMUM));
            let minimum = if divides { BLOCK_SIZE_MINIMUM } else { 1 };
            let sizes = [minimum, BLOCK_SIZE_PREFERRED, PAYLOAD_BYTES_MAX].map(u32::to_be_bytes);
            fact(info_type::BLOCK_SIZE, [&sizes[0], &sizes[1], &sizes[2]]);
        }
        encode_option_reply(output, code, option_reply::ACK, &[]);
        true
    }

    /// Whether the metadata options may be used with this export; answers with an error if not.
    fn contexts_allowed(&self, code: u32, query: &ContextQuery, output: &mut BytesMut) -> bool {
        if !self.session.structured_replies {
            let message = b"structured replies must be negotiated first";
            encode_option_reply(output, code, option_reply::ERR_INVALID, &[message]);
            return false;
        }
        if !self.is_ours(&query.export_name) {
            encode_option_reply(output, code, option_reply::ERR_UNKNOWN, &[b"no such export"]);
            return false;
        }
        true
    }

    fn list_meta_contexts(&self, query: &ContextQuery, output: &mut BytesMut) {
        let code = option_code::LIST_META_CONTEXT;
        if !self.contexts_allowed(code, query, output) {
            return;
        }
        let namespace = ALLOCATION_CONTEXT_NAME.split_inclusive(':').next();
        let matches = |text: &String| text == ALLOCATION_CONTEXT_NAME || Some(text.as_str()) == namespace;
        if query.queries.is_empty() || query.queries.iter().any(matches) {
            // The identifier is reserved (zero) when listing.
            let parts: [&[u8]; 2] = [&0u32.to_be_bytes(), ALLOCATION_CONTEXT_NAME.as_bytes()];
            encode_option_reply(output, code, option_reply::META_CONTEXT, &parts);
        }
        encode_option_reply(output, code, option_reply::ACK, &[]);
    }

    fn set_meta_context(&mut self, query: &ContextQuery, output: &mut BytesMut) {
        let code = option_code::SET_META_CONTEXT;
        self.session.allocation_context = false;
        if !self.contexts_allowed(code, query, output) {
            return;
        }
        if query.queries.iter().any(|text| text == ALLOCATION_CONTEXT_NAME) {
            self.session.allocation_context = true;
            let id = ALLOCATION_CONTEXT_ID.to_be_bytes();
            let parts: [&[u8]; 2] = [&id, ALLOCATION_CONTEXT_NAME.as_bytes()];
            encode_option_reply(output, code, option_reply::META_CONTEXT, &parts);
        }
        encode_option_reply(output, code, option_reply::ACK, &[]);
    }
}

#[cfg(test)]
mod tests;
