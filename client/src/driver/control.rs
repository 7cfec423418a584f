//! Requests to bricks outside any opened image: registers, status, stamps. One connection to core 0 each
//! (or to every core, for counters), one session per operation.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use brick_wire::decode::Frame;
use brick_wire::handshake::Welcome;
use brick_wire::{BrickUuid, ConnectionGeneration, CoreIndex, Floors, Header, Opcode, RequestId};
use bytes::Bytes;
use monoio::io::Canceller;
use tokio::sync::oneshot;

use super::connection::{Caller, ConnectError, Connection};
use super::outbox::Outbox;
use super::patience::within;

/// How long a brick may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that matches replies to requests.
pub(crate) struct Control {
    pub(crate) welcome: Welcome,
    address: String,
    outbox: Outbox,
    waiting: Rc<RefCell<Waiting>>,
    canceller: RefCell<Canceller>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    replies: HashMap<RequestId, oneshot::Sender<Frame>>,
    ended: bool,
}

impl Control {
    /// Connects to one core of a brick.
    pub(crate) async fn open(
        address: &str,
        caller: &Caller,
        brick: BrickUuid,
        core: CoreIndex,
    ) -> Result<Control, ConnectError> {
        let connection = Connection::open(address, caller, brick, ConnectionGeneration(1), core).await?;
        let welcome = connection.welcome.clone();
        let outbox = Outbox::new(welcome.credit_bytes);
        let waiting = Rc::new(RefCell::new(Waiting::default()));
        let canceller = Canceller::new();
        let (run_outbox, run_waiting, cancel) = (outbox.clone(), waiting.clone(), canceller.handle());
        monoio::spawn(async move {
            let receive = |frame: Frame| {
                let sender = run_waiting.borrow_mut().replies.remove(&frame.header.request);
                if let Some(sender) = sender {
                    let _caller_gave_up = sender.send(frame);
                }
            };
            let _reason = connection.run(run_outbox, cancel, receive).await;
            let mut waiting = run_waiting.borrow_mut();
            waiting.ended = true;
            waiting.replies.clear();
        });
        let canceller = RefCell::new(canceller);
        Ok(Control { welcome, address: address.to_owned(), outbox, waiting, canceller })
    }

    /// Sends a request and waits for its reply.
    pub(crate) async fn call(&self, mut header: Header, aux: Vec<u8>) -> Result<Frame, ConnectError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.ended {
                return Err(ConnectError::Closed { address: self.address.clone() });
            }
            header.request = RequestId(waiting.next);
            waiting.next += 1;
            waiting.replies.insert(header.request, sender);
        }
        self.outbox.push(Frame::new(header, aux, Bytes::new()));
        match within(ANSWER_TIMEOUT, receiver).await {
            Some(Ok(frame)) => Ok(frame),
            Some(Err(_)) => Err(ConnectError::Closed { address: self.address.clone() }),
            None => Err(ConnectError::Timeout {
                address: self.address.clone(),
                seconds: ANSWER_TIMEOUT.as_secs(),
            }),
        }
    }

    /// Itself, unless the life that welcomed us is below its floor, as another brick of its group told: whoever asks
    /// mustn't count it, and it is told not to vote (rule R2).
    pub(crate) async fn unless_retired(self, floors: &Floors) -> Result<Control, ConnectError> {
        if !floors.is_retired(self.welcome.brick, self.welcome.incarnation.start) {
            return Ok(self);
        }
        if !self.welcome.blank {
            let _not_counted_anyhow = self.ask(Opcode::BlankDeclare, Vec::new()).await;
        }
        Err(ConnectError::Retired { address: self.address.clone() })
    }

    /// A request without parameters.
    pub(crate) async fn ask(&self, opcode: Opcode, aux: Vec<u8>) -> Result<Frame, ConnectError> {
        self.call(Header::request(opcode, RequestId(0)), aux).await
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.outbox.close();
        let _all_done = self.canceller.take().cancel();
    }
}
