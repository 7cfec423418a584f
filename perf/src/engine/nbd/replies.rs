//! What arrives from an NBD server, cut into simple replies. Bytes in, replies out; no socket.

use brick_nbd::protocol::constants::SIMPLE_REPLY_MAGIC;

/// Received bytes that aren't used up. Its size is fixed: a reply with its payload has room beside as much.
#[derive(Debug)]
pub(super) struct Replies {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// The header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    /// 0 if all is well.
    pub error: u32,
    /// What the request said.
    pub cookie: u64,
}

/// Something else than a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent something else than a simple reply to a request in flight")]
pub(super) struct OutOfStep;

impl Replies {
    /// For replies with so much payload at most.
    pub fn new(payload_bytes_max: usize) -> Replies {
        let length = 2 * (HEADER_BYTES + payload_bytes_max).max(RECEIVE_BYTES_MIN);
        Replies { buffer: vec![0; length].into_boxed_slice(), start: 0, end: 0 }
    }

    /// The memory to receive into, from where on; [`Replies::received`] brings it back.
    pub fn lend(&mut self) -> (Box<[u8]>, usize) {
        // Only what is left of one reply is moved.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        (std::mem::take(&mut self.buffer), self.end)
    }

    /// The memory, with so much more in it.
    pub fn received(&mut self, buffer: Box<[u8]>, bytes: usize) {
        self.buffer = buffer;
        self.end += bytes;
    }

    /// The header of the next reply, if it is there.
    pub fn peek(&self) -> Result<Option<ReplyHeader>, OutOfStep> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [m0, m1, m2, m3, e0, e1, e2, e3, cookie @ ..] = *header;
        if u32::from_be_bytes([m0, m1, m2, m3]) != SIMPLE_REPLY_MAGIC {
            return Err(OutOfStep);
        }
        let error = u32::from_be_bytes([e0, e1, e2, e3]);
        Ok(Some(ReplyHeader { error, cookie: u64::from_be_bytes(cookie) }))
    }

    /// The payload of the reply that was peeked at, if all of it is there; the reply is used up then.
    pub fn take(&mut self, payload_bytes: usize) -> Option<&[u8]> {
        let payload = self.start + HEADER_BYTES;
        if payload + payload_bytes > self.end {
            return None;
        }
        self.start = payload + payload_bytes;
        Some(&self.buffer[payload..self.start])
    }
}

const HEADER_BYTES: usize = 16;
/// Enough for one call to fetch the replies to many small requests.
const RECEIVE_BYTES_MIN: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All replies that are there, with payloads as long as their cookies say.
    fn drain(replies: &mut Replies) -> Vec<(u32, u64, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some(header) = replies.peek().expect("replies only") {
            let Some(payload) = replies.take(header.cookie as usize) else { break };
            found.push((header.error, header.cookie, payload.to_vec()));
        }
        found
    }

    proptest! {
        /// However the network cuts the stream.
        #[test]
        fn every_reply_comes_out_whole(
            payloads in proptest::collection::vec(0usize..5000, 0..200),
            cuts in proptest::collection::vec(1usize..300_000, 1..20),
        ) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for (index, length) in payloads.into_iter().enumerate() {
                stream.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
                stream.extend((index as u32).to_be_bytes());
                stream.extend((length as u64).to_be_bytes());
                stream.extend(vec![index as u8; length]);
                expected.push((index as u32, length as u64, vec![index as u8; length]));
            }
            let (mut replies, mut found, mut sent) = (Replies::new(5000), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                if sent == stream.len() {
                    break;
                }
                let (mut buffer, from) = replies.lend();
                prop_assert!(from < buffer.len(), "there is always room");
                let count = (*cut).min(stream.len() - sent).min(buffer.len() - from);
                buffer[from..from + count].copy_from_slice(&stream[sent..sent + count]);
                replies.received(buffer, count);
                sent += count;
                found.extend(drain(&mut replies));
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn something_else_is_noticed() {
        let mut replies = Replies::new(0);
        let (mut buffer, _) = replies.lend();
        buffer[..HEADER_BYTES].fill(1);
        replies.received(buffer, HEADER_BYTES - 1);
        assert_eq!(replies.peek(), Ok(None), "not enough to judge");
        let (buffer, _) = replies.lend();
        replies.received(buffer, 1);
        assert_eq!(replies.peek(), Err(OutOfStep));
    }
}
