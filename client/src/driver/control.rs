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
    answer_timeout: Duration,
    outbox: Outbox,
    waiting: Rc<RefCell<Waiting>>,
    canceller: RefCell<Canceller>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    replies: HashMap<RequestId, oneshot::Sender<Frame>>,
    ended: bool,
    /// A request wasn't answered in time, and nothing was heard since. Whoever asks more questions doesn't wait for each.
    silent: bool,
}

impl Waiting {
    /// A reply has come; who waits for it, if somebody still does.
    fn answered(&mut self, request: RequestId) -> Option<oneshot::Sender<Frame>> {
        self.silent = false;
        self.replies.remove(&request)
    }
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
                let sender = run_waiting.borrow_mut().answered(frame.header.request);
                if let Some(sender) = sender {
                    let _caller_gave_up = sender.send(frame);
                }
            };
            let _reason = connection.run(run_outbox, cancel, receive).await;
            let mut waiting = run_waiting.borrow_mut();
            waiting.ended = true;
            waiting.replies.clear();
        });
        let (address, canceller) = (address.to_owned(), RefCell::new(canceller));
        Ok(Control { welcome, address, answer_timeout: ANSWER_TIMEOUT, outbox, waiting, canceller })
    }

    /// The same connection, for one who only looks and waits no longer than this for an answer.
    pub(crate) fn answering_within(mut self, answer_timeout: Duration) -> Control {
        self.answer_timeout = answer_timeout;
        self
    }

    /// Sends a request and waits for its reply. A brick that didn't answer one in time isn't asked
    /// again before something is heard of it.
    pub(crate) async fn call(&self, mut header: Header, aux: Vec<u8>) -> Result<Frame, ConnectError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.ended {
                return Err(ConnectError::Closed { address: self.address.clone() });
            }
            if waiting.silent {
                return Err(self.silence());
            }
            header.request = RequestId(waiting.next);
            waiting.next += 1;
            waiting.replies.insert(header.request, sender);
        }
        self.outbox.push(Frame::new(header, aux, Bytes::new()));
        match within(self.answer_timeout, receiver).await {
            Some(Ok(frame)) => Ok(frame),
            Some(Err(_)) => Err(ConnectError::Closed { address: self.address.clone() }),
            None => {
                self.waiting.borrow_mut().silent = true;
                Err(self.silence())
            }
        }
    }

    fn silence(&self) -> ConnectError {
        ConnectError::Timeout { address: self.address.clone(), seconds: self.answer_timeout.as_secs() }
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use brick_wire::{Incarnation, Role, VolumeUuid};

    use super::super::runtime::start_runtime;
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    /// Connected to a brick that says nothing more.
    fn silent_control() -> Control {
        let welcome = Welcome {
            version: 1,
            role: Role::Data,
            blank: false,
            features: 0,
            brick: BrickUuid::NIL,
            volume: VolumeUuid::NIL,
            incarnation: Incarnation::default(),
            cores: 1,
            lanes: 1,
            core: CoreIndex(0),
            credit_bytes: 1 << 20,
            lease_ms: 0,
            reason: String::new(),
            floors: Floors::default(),
        };
        Control {
            address: "a:1".to_owned(),
            answer_timeout: ANSWER_TIMEOUT,
            outbox: Outbox::new(welcome.credit_bytes),
            waiting: Rc::default(),
            canceller: RefCell::new(Canceller::new()),
            welcome,
        }
        .answering_within(LIMIT)
    }

    /// What the future comes to without any wait.
    async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        let mut future = pin!(future);
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    }

    #[test]
    fn a_silent_brick_is_waited_for_once() {
        let mut runtime = start_runtime(256).expect("a runtime");
        runtime.block_on(async {
            let control = silent_control();
            let first = control.ask(Opcode::BrickStatus, Vec::new()).await;
            assert!(matches!(first, Err(ConnectError::Timeout { .. })), "{first:?}");
            // Nothing is waited for: the answer is there when it is first looked for.
            let second = poll_once(control.ask(Opcode::BrickStatus, Vec::new())).await;
            assert!(matches!(second, Poll::Ready(Err(ConnectError::Timeout { .. }))), "{second:?}");
            assert!(control.waiting.borrow_mut().answered(RequestId(0)).is_some(), "the answer was late");
            let third = poll_once(control.ask(Opcode::BrickStatus, Vec::new())).await;
            assert!(third.is_pending(), "{third:?}");
        });
    }
}
