//! All connections to one brick, one per core, kept up: what the replica core calls a link.
//!
//! A link is up when every core has welcomed us and the image is attached everywhere. When one
//! connection breaks all are closed and opened again under the next generation, which makes the brick drain
//! what the old ones had in flight before it welcomes the new ones (rule I1).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use brick_wire::body::Attach;
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::{BrickUuid, ConnectionGeneration, CoreIndex, Floors, Header, Opcode, RequestId};
use bytes::Bytes;
use monoio::io::Canceller;
use tokio::sync::Notify;

use super::clock::{self, jittered};
use super::connection::{Caller, ConnectError, Connection};
use super::outbox::Outbox;
use crate::replica::{HANDLE, LinkInfo};

/// First pause before connecting again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// A link that breaks sooner than this will probably break again: the pause grows.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// Longest pause before connecting again: what a returned brick waits to be noticed.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// The same after a refusal, which the brick logs.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a link tells its owner.
pub(crate) enum LinkEvent {
    /// Up; the brick told these floors.
    Up(LinkInfo, Floors),
    /// Down, and not because the owner said so.
    Down,
    /// Could not be brought up; it is tried again.
    Failed,
    /// A frame arrived from a core.
    Frame(CoreIndex, Frame),
}

/// Where to, and what for.
#[derive(Clone, Debug)]
pub(crate) struct LinkConfig {
    pub(crate) address: String,
    pub(crate) brick: BrickUuid,
    pub(crate) caller: Caller,
    pub(crate) attach: Attach,
}

/// The owner's side of a link.
pub(crate) struct Link {
    shared: Rc<Shared>,
}

struct Shared {
    config: LinkConfig,
    state: RefCell<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    outboxes: Vec<Outbox>,
    canceller: Canceller,
    /// The owner took the link down: it is not told again.
    reset: bool,
    stopped: bool,
}

impl Link {
    /// Starts to connect. `notify` is called from tasks of this thread, never from within a call to the
    /// link.
    pub(crate) fn start(config: LinkConfig, notify: impl Fn(LinkEvent) + 'static) -> Link {
        let shared = Rc::new(Shared { config, state: RefCell::default(), wake: Notify::new() });
        monoio::spawn(keep_up(shared.clone(), Rc::new(notify)));
        Link { shared }
    }

    /// Sends a frame to a core; vanishes if the link is down.
    pub(crate) fn send(&self, core: CoreIndex, frame: Frame) {
        if let Some(outbox) = self.shared.state.borrow().outboxes.get(usize::from(core.0)) {
            outbox.push(frame);
        }
    }

    /// Takes the link down and connects again. The owner gets no [`LinkEvent::Down`].
    pub(crate) fn reset(&self) {
        let mut state = self.shared.state.borrow_mut();
        state.reset = true;
        state.take_down();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.stopped = true;
        state.reset = true;
        state.take_down();
        self.shared.wake.notify_one();
    }
}

impl State {
    fn take_down(&mut self) {
        for outbox in self.outboxes.drain(..) {
            outbox.close();
        }
        let canceller = std::mem::take(&mut self.canceller);
        let _all_done = canceller.cancel();
    }
}

async fn keep_up(shared: Rc<Shared>, notify: Rc<impl Fn(LinkEvent) + 'static>) {
    let mut generation = ConnectionGeneration(0);
    let mut pause = PAUSE_MIN;
    while !shared.state.borrow().stopped {
        generation.0 += 1;
        shared.state.borrow_mut().reset = false;
        match connect_all(&shared, generation).await {
            Ok(connections) if !shared.state.borrow().stopped => {
                let up_at = clock::now();
                run(&shared, &notify, connections).await;
                let lived = clock::now().since(up_at);
                pause = if lived < SHORT_LIFE { (pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
                rest(&shared, pause).await;
            }
            Ok(_) => break,
            Err(error) => {
                tracing::debug!(brick = shared.config.address, %error, "no link");
                notify(LinkEvent::Failed);
                rest(&shared, pause).await;
                let refused = matches!(error, ConnectError::Refused { .. } | ConnectError::Retired { .. });
                pause = (pause * 2).min(if refused { REFUSED_PAUSE_MAX } else { PAUSE_MAX });
            }
        }
    }
}

/// Sleeps, but not longer than the link is wanted.
async fn rest(shared: &Shared, pause: Duration) {
    monoio::select! {
        () = monoio::time::sleep(jittered(pause)) => {}
        () = shared.wake.notified() => {}
    }
}

async fn connect_all(
    shared: &Shared,
    generation: ConnectionGeneration,
) -> Result<Vec<Connection>, ConnectError> {
    let config = &shared.config;
    let open = |core| Connection::open(&config.address, &config.caller, config.brick, generation, core);
    let first = open(CoreIndex(0)).await?;
    let cores = first.welcome.cores;
    let mut connections = vec![first];
    for core in 1..cores {
        connections.push(open(CoreIndex(core)).await?);
    }
    Ok(connections)
}

/// Runs all connections until one of them ends, then ends the others.
async fn run(shared: &Rc<Shared>, notify: &Rc<impl Fn(LinkEvent) + 'static>, connections: Vec<Connection>) {
    let welcome = connections[0].welcome.clone();
    let outboxes: Vec<Outbox> =
        connections.iter().map(|connection| Outbox::new(connection.welcome.credit_bytes)).collect();
    let canceller = Canceller::new();
    let mut tasks = Vec::new();
    let ended = Rc::new(Notify::new());
    for (index, (connection, outbox)) in connections.into_iter().zip(&outboxes).enumerate() {
        outbox.push(attach_frame(shared.config.attach));
        let (outbox, cancel, ended) = (outbox.clone(), canceller.handle(), ended.clone());
        let (shared, notify) = (shared.clone(), notify.clone());
        tasks.push(monoio::spawn(async move {
            let receive = |frame: Frame| {
                // The answer to the attach says nothing that the first request won't say.
                if frame.header.opcode != Opcode::Attach && !shared.state.borrow().reset {
                    notify(LinkEvent::Frame(CoreIndex(index as u16), frame));
                }
            };
            let error = connection.run(outbox, cancel, receive).await;
            if !shared.state.borrow().reset {
                tracing::info!(brick = shared.config.address, %error, "link down");
            }
            ended.notify_one();
        }));
    }
    {
        let mut state = shared.state.borrow_mut();
        state.outboxes = outboxes;
        state.canceller = canceller;
    }
    let info = LinkInfo {
        incarnation: welcome.incarnation,
        cores: welcome.cores,
        lanes: welcome.lanes,
        blank: welcome.blank,
        lease: Duration::from_millis(u64::from(welcome.lease_ms)),
    };
    notify(LinkEvent::Up(info, welcome.floors));
    ended.notified().await;
    let told = {
        let mut state = shared.state.borrow_mut();
        state.take_down();
        std::mem::replace(&mut state.reset, true)
    };
    if !told {
        notify(LinkEvent::Down);
    }
    for task in tasks {
        task.await;
    }
}

fn attach_frame(attach: Attach) -> Frame {
    let mut header = Header::request(Opcode::Attach, RequestId(0));
    header.image = HANDLE;
    Frame::new(header, attach.to_bytes(), Bytes::new())
}
