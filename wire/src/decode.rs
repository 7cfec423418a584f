//! Frames from and to byte streams, for the side that copies nothing: payloads are slices of the receive
//! buffer. (A brick places payloads into its own aligned slots and uses [`Header`] directly.)

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::header::{FrameError, Header, aux_trailer, parse_aux};
use crate::limits::HEADER_SIZE;

/// A whole frame, aux trailer checked and cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header, as parsed.
    pub header: Header,
    /// The aux body, without its trailer.
    pub aux: Bytes,
    /// The data part; its CRCs are the reader's to check.
    pub data: Bytes,
}

impl Frame {
    /// A frame whose header takes its lengths from `aux` (a body without trailer) and `data`.
    pub fn new(mut header: Header, aux: Vec<u8>, data: Bytes) -> Frame {
        header.aux_bytes = if aux.is_empty() { 0 } else { aux.len() as u32 + 4 };
        header.data_bytes = data.len() as u32;
        Frame { header, aux: Bytes::from(aux), data }
    }

    /// The bytes before the data part: header, aux and its trailer.
    pub fn head_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.header.frame_bytes() - self.data.len());
        self.put_head(&mut out);
        out
    }

    /// Appends what [`Frame::head_bytes`] returns.
    ///
    /// Panics if `aux` or `data` changed since the header took their lengths: what was sent would put the
    /// stream out of step.
    pub fn put_head(&self, out: &mut impl BufMut) {
        let trailer = aux_trailer(&self.aux);
        let aux_bytes = self.aux.len() + trailer.map_or(0, |trailer| trailer.len());
        assert_eq!(self.header.aux_bytes as usize, aux_bytes, "the header's aux length");
        assert_eq!(self.header.data_bytes as usize, self.data.len(), "the header's data length");
        out.put_slice(&self.header.to_bytes());
        out.put_slice(&self.aux);
        out.put_slice(trailer.as_ref().map_or(&[], |trailer| trailer));
    }
}

/// Cuts frames off the front of `buffer`; `None` when the next one isn't whole yet.
///
/// After an error the stream is out of step: close the connection.
pub fn next_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(header) = peek_header(buffer)? else { return Ok(None) };
    if buffer.len() < header.frame_bytes() {
        return Ok(None);
    }
    buffer.advance(HEADER_SIZE);
    let mut aux = take(buffer, header.aux_bytes as usize);
    let body_bytes = parse_aux(&aux)?.len();
    aux.truncate(body_bytes);
    let data = take(buffer, header.data_bytes as usize);
    Ok(Some(Frame { header, aux, data }))
}

/// The next bytes. Most frames lack a part, and nothing must not keep the buffer alive, nor be counted as a user of it.
fn take(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length == 0 { Bytes::new() } else { buffer.split_to(length).freeze() }
}

/// The header at the front of `buffer`, if it is there.
pub fn peek_header(buffer: &[u8]) -> Result<Option<Header>, FrameError> {
    buffer.first_chunk::<HEADER_SIZE>().map(Header::parse).transpose()
}

#[cfg(test)]
mod tests;
