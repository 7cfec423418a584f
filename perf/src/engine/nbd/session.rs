//! A job over one connection: requests out, replies in.
//!
//! Invariant: a slot is a request in flight, and its number the request's cookie; what the server says of
//! other cookies ends the connection.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use brick_nbd::protocol::RequestHeader;
use brick_nbd::protocol::constants::command;
use bytes::BytesMut;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::NbdError;
use super::connection::{Closer, Stream};
use super::replies::{OutOfStep, Replies};
use crate::engine::timer::Timer;
use crate::load::{Next, Started};
use crate::meter::Meter;
use crate::pattern::{Kind, Request};
use crate::random::Random;

/// A job that runs over a connection.
pub(super) struct Session {
    state: RefCell<State>,
    /// Something completed, or failed.
    progress: Notify,
    /// There is something to write, or nothing any more.
    output: Notify,
    block_bytes_max: usize,
}

/// Never borrowed across an await.
struct State {
    meter: Meter,
    closer: Closer,
    place: String,
    slots: Vec<Option<Started>>,
    free: Vec<u32>,
    /// Requests that weren't written yet.
    output: BytesMut,
    /// The last request was appended: the writer ends behind it.
    ends: bool,
    /// The connection can't be used any more.
    broken: bool,
    failure: Option<NbdError>,
    /// What is written unless the job wants more: random bytes, from another place for each slot.
    random: Vec<u8>,
}

impl Session {
    pub fn new(
        meter: Meter,
        closer: Closer,
        place: String,
        block_bytes_max: usize,
        seed: u64,
    ) -> Rc<Session> {
        let depth = meter.depth();
        let mut random = vec![0; block_bytes_max + depth as usize * SLOT_STEP_BYTES];
        Random::new(seed).fill(&mut random);
        let state = State {
            meter,
            closer,
            place,
            slots: vec![None; depth as usize],
            free: (0..depth).rev().collect(),
            output: BytesMut::new(),
            ends: false,
            broken: false,
            failure: None,
            random,
        };
        Rc::new(Session {
            state: RefCell::new(state),
            progress: Notify::const_new(),
            output: Notify::const_new(),
            block_bytes_max,
        })
    }

    /// Runs the job to its end, and leaves.
    pub async fn run(
        self: Rc<Self>,
        reader: OwnedReadHalf<Stream>,
        writer: OwnedWriteHalf<Stream>,
        has_ring: bool,
    ) -> Result<Meter, NbdError> {
        let timer = Timer::new(has_ring).map_err(NbdError::Timer)?;
        let reading = monoio::spawn(self.clone().read(reader));
        let writing = monoio::spawn(self.clone().write(writer));
        self.start_requests(&timer).await;
        self.state.borrow_mut().leave();
        self.output.notify_one();
        writing.await;
        // Everything was answered; nobody waits for a server that doesn't hang up.
        self.state.borrow().closer.close();
        reading.await;
        let Session { state, .. } = Rc::into_inner(self).expect("the tasks are gone");
        let State { meter, failure, .. } = state.into_inner();
        failure.map_or(Ok(meter), Err)
    }

    /// Starts what the meter says until the job is over and nothing is in flight.
    async fn start_requests(&self, timer: &Timer) {
        loop {
            let next = self.state.borrow_mut().fill();
            self.output.notify_one();
            let time = match next {
                Next::At(at_ns) => self.state.borrow().meter.time_until(at_ns),
                _ if self.state.borrow().is_idle() => return,
                _ => {
                    self.progress.notified().await;
                    continue;
                }
            };
            if let Err(error) = timer.sleep(time).await {
                self.state.borrow_mut().fail(NbdError::Timer(error));
            }
        }
    }

    /// Writes what was appended since the last time, again and again.
    async fn write(self: Rc<Self>, mut writer: OwnedWriteHalf<Stream>) {
        let mut spare = BytesMut::new();
        loop {
            let ends = {
                let mut state = self.state.borrow_mut();
                std::mem::swap(&mut state.output, &mut spare);
                state.ends
            };
            if !spare.is_empty() {
                let (result, buffer) = writer.write_all(spare).await;
                spare = buffer;
                spare.clear();
                if let Err(error) = result {
                    self.state.borrow_mut().break_off(error);
                    self.progress.notify_one();
                    break;
                }
            } else if ends {
                break;
            } else {
                self.output.notified().await;
            }
        }
    }

    /// Takes replies until the server hangs up.
    async fn read(self: Rc<Self>, mut reader: OwnedReadHalf<Stream>) {
        let mut replies = Replies::new(self.block_bytes_max);
        loop {
            let (buffer, from) = replies.lend();
            let (result, slice) = reader.read(buffer.slice_mut(from..)).await;
            let count = *result.as_ref().unwrap_or(&0);
            replies.received(slice.into_inner(), count);
            let outcome = match result {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.state.borrow_mut().take(&mut replies).map_err(io::Error::other),
                Err(error) => Err(error),
            };
            let ended = outcome.is_err();
            if let Err(error) = outcome {
                self.state.borrow_mut().break_off(error);
                // A writer that waits has nobody to write to any more.
                self.output.notify_one();
            }
            self.progress.notify_one();
            if ended {
                return;
            }
        }
    }
}

impl State {
    /// Starts requests while there is room, and says what comes then.
    fn fill(&mut self) -> Next {
        while let Some(slot) = self.free.pop() {
            match self.meter.next_request() {
                Next::Start(started) => {
                    self.append(slot, &started);
                    self.slots[slot as usize] = Some(started);
                }
                other => {
                    self.free.push(slot);
                    return other;
                }
            }
        }
        Next::AfterCompletion
    }

    /// Appends a request to what is to be written.
    fn append(&mut self, slot: u32, started: &Started) {
        let Request { kind, offset_bytes, length_bytes } = started.request;
        let (kind, payload) = match kind {
            Kind::Read => (command::READ, 0),
            Kind::Write => (command::WRITE, length_bytes as usize),
            Kind::Sync | Kind::DataSync => (command::FLUSH, 0),
        };
        let cookie = u64::from(slot);
        let length = length_bytes as u32;
        RequestHeader { flags: 0, kind, cookie, offset_bytes, length }.encode(&mut self.output);
        if payload > 0 {
            let from = self.output.len();
            let random = slot as usize * SLOT_STEP_BYTES;
            self.output.extend_from_slice(&self.random[random..random + payload]);
            self.meter.prepare(started, &mut self.output[from..]);
        }
    }

    /// Appends the request to leave.
    fn leave(&mut self) {
        if !self.broken {
            let header =
                RequestHeader { flags: 0, kind: command::DISC, cookie: 0, offset_bytes: 0, length: 0 };
            header.encode(&mut self.output);
        }
        self.ends = true;
    }

    /// Takes the replies that are there.
    fn take(&mut self, replies: &mut Replies) -> Result<(), OutOfStep> {
        while let Some(header) = replies.peek()? {
            let slot = usize::try_from(header.cookie).map_err(|_| OutOfStep)?;
            let started = *self.slots.get(slot).and_then(Option::as_ref).ok_or(OutOfStep)?;
            let Request { kind, offset_bytes, length_bytes } = started.request;
            let has_payload = kind == Kind::Read && header.error == 0;
            let payload_bytes = if has_payload { length_bytes as usize } else { 0 };
            let Some(content) = replies.take(payload_bytes) else { return Ok(()) };
            self.slots[slot] = None;
            self.free.push(slot as u32);
            if header.error == 0 {
                self.meter.complete(started, content);
            } else {
                let (place, code) = (self.place.clone(), header.error);
                self.fail(NbdError::Request { place, kind, offset_bytes, length_bytes, code });
            }
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.broken || self.free.len() == self.slots.len()
    }

    fn fail(&mut self, error: NbdError) {
        self.meter.stop();
        self.failure.get_or_insert(error);
    }

    /// The connection is gone. Nobody minds once everything was answered.
    fn break_off(&mut self, source: io::Error) {
        if !self.ends {
            let place = self.place.clone();
            self.fail(NbdError::Broken { place, source });
        }
        self.broken = true;
        self.ends = true;
        self.output.clear();
        // Whoever still reads or writes would wait for ever.
        self.closer.close();
    }
}

/// How far apart the blocks of two slots start in the random bytes, so that neighbours differ.
const SLOT_STEP_BYTES: usize = 8;
