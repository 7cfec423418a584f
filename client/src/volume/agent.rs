//! The heal agent: keeps the copies of all images good while nobody has them open.
//!
//! Again and again it looks at the bricks' registers and counters, and takes the images that need it and that nobody
//! holds, a few at a time, under a heal lease. Any number of agents may run: they never talk to each other. The
//! lease says which image is taken, and each goes through the images in an order of its own, so that they seldom meet.
//! A client that opens an image gets it at once and heals by itself; the agent lets go (rule I8).
//!
//! | what it finds | what it does |
//! |---|---|
//! | a data brick that answers and whose copy is old | heals it |
//! | a client that died, every copy there and good, with blocks that may differ | makes the copies equal and closes, so that the maps are clean and the next client opens without a recovery |
//! | an image whose removal some brick missed | finishes it, once every data brick answers |
//! | an arbiter that missed the record of a closed image | gives it the checksums that it lacks |
//! | a brick that lost its registers | teaches it (rule R2) |
//! | an image that wasn't scrubbed for a while, with every data brick there | scrubs it slowly, one at a time, whoever has it open |
//!
//! Whatever is healthy is neither opened nor crawled. A failure is told and tried again later, at growing intervals.

mod jobs;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use brick_wire::ImageUuid;
use tokio::sync::{mpsc, watch};

use self::jobs::Job;
use self::work::End;
use super::heal::HealOutcome;
use super::scrub::PassEnd;
use super::scrub::{ScrubOptions, ScrubOutcome};
use super::survey::Survey;
use super::{Volume, VolumeError};

/// Images of one agent in heal at the same time: enough to hide the pauses of one, few enough to leave the bricks'
/// disks to those who pay for them.
pub const HEALS_MAX: usize = 4;
/// Longest pause before an image that could not be healed is tried again.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Longest pause between two looks while they fail: bricks that return shouldn't wait long for their agents.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How an agent works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentOptions {
    /// Pause between two looks at all images.
    pub interval: Duration,
    /// End when everything was tried once. Nothing is scrubbed then.
    pub once: bool,
    /// When and how fast to scrub; `None` leaves that to others.
    pub scrub: Option<ScrubSchedule>,
}

/// How often images are scrubbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubSchedule {
    /// From the end of one pass to the beginning of the next.
    pub period: Duration,
    /// How fast.
    pub options: ScrubOptions,
}

/// What an agent did, as it happens.
#[derive(Debug)]
pub enum AgentEvent {
    /// An image was taken.
    Started {
        /// The image.
        name: String,
    },
    /// An image's reachable copies are good again.
    Healed(HealOutcome),
    /// A client opened the image in the middle. It heals by itself.
    Yielded {
        /// The image.
        name: String,
    },
    /// The agent was told to stop; the rest is left to the next.
    Interrupted {
        /// The image.
        name: String,
    },
    /// All of an image was scrubbed.
    Scrubbed {
        /// The image.
        name: String,
        /// What was found.
        outcome: ScrubOutcome,
    },
    /// The removal of an image was finished.
    Removed {
        /// The image.
        name: String,
    },
    /// Something failed, and is tried again.
    Failed {
        /// Why.
        error: VolumeError,
        /// After how long.
        retry: Duration,
    },
}

/// What a job tells the agent.
enum Message {
    /// It holds its image.
    Started(Job),
    Ended(Job, Result<End, VolumeError>),
}

/// What may fail, and is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// The look at all images.
    Look,
    /// Teaching bricks that lost their registers.
    Teaching,
    /// A job.
    Image(ImageUuid),
    /// A scrub.
    Scrub(ImageUuid),
}

/// When something is tried again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    failures: u32,
}

/// A running agent.
struct Agent<R> {
    volume: Volume,
    options: AgentOptions,
    /// Makes the order in which it goes through the images its own.
    order: u64,
    report: R,
    running: BTreeSet<ImageUuid>,
    /// One at a time, beside the others.
    scrubbing: Option<ImageUuid>,
    retries: BTreeMap<Subject, Retry>,
    failures: u64,
    messages: mpsc::UnboundedSender<Message>,
    stop: watch::Receiver<bool>,
}

impl Volume {
    /// Heals what nobody has open until `stop`, or once; returns how many attempts failed. Ends only when every image
    /// was given back.
    pub async fn heal_agent(
        &self,
        options: AgentOptions,
        stop: impl Future<Output = ()> + 'static,
        report: impl FnMut(AgentEvent),
    ) -> u64 {
        let (stopper, stopped) = watch::channel(false);
        monoio::spawn(async move {
            stop.await;
            stopper.send_replace(true);
            // Kept for as long as somebody listens.
            stopper.closed().await;
        });
        let (messages, received) = mpsc::unbounded_channel();
        let mut agent = Agent {
            volume: self.clone(),
            options,
            order: Volume::fresh_session().0,
            report,
            running: BTreeSet::new(),
            scrubbing: None,
            retries: BTreeMap::new(),
            failures: 0,
            messages,
            stop: stopped,
        };
        agent.run(received).await;
        agent.failures
    }
}

impl<R: FnMut(AgentEvent)> Agent<R> {
    async fn run(&mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            self.look_and_start().await;
            if self.options.once && self.busy() == 0 {
                return;
            }
            // A free place is filled at once, if there is something to fill it with.
            let busy = self.busy();
            let mut pause = std::pin::pin!(monoio::time::sleep(self.options.interval));
            let mut waits = true;
            while waits && self.busy() == busy {
                monoio::select! {
                    message = messages.recv() => self.note(message),
                    _ = stop.wait_for(|stopped| *stopped) => waits = false,
                    () = &mut pause => waits = false,
                }
            }
        }
        while self.busy() > 0 {
            let message = messages.recv().await;
            self.note(message);
        }
    }

    fn busy(&self) -> usize {
        self.running.len() + usize::from(self.scrubbing.is_some())
    }

    /// Looks at all images and takes as many of those that need it as may run at the same time.
    async fn look_and_start(&mut self) {
        if !self.is_due(Subject::Look) {
            return;
        }
        let survey = self.volume.survey_all().await;
        if survey.has_blank() && self.is_due(Subject::Teaching) {
            let taught = self.volume.learn_blank_bricks().await;
            self.settle(Subject::Teaching, taught.err());
        }
        let jobs = match self.volume.jobs(&survey).await {
            Ok(jobs) => jobs,
            Err(error) => return self.settle(Subject::Look, Some(error)),
        };
        self.retries.remove(&Subject::Look);
        self.forget_old_retries();
        let is_due =
            |job: &Job| !self.running.contains(&job.image()) && self.is_due(Subject::Image(job.image()));
        let mut due: Vec<Job> = jobs.into_iter().filter(is_due).collect();
        due.sort_by_key(|job| scatter(job.image(), self.order));
        due.truncate(HEALS_MAX - self.running.len());
        due.into_iter().for_each(|job| self.start(job));
        if let Err(error) = self.start_scrub(&survey).await {
            self.settle(Subject::Look, Some(error));
        }
    }

    /// Takes up the next scrub that is due, unless one is under way.
    async fn start_scrub(&mut self, survey: &Survey) -> Result<(), VolumeError> {
        let Some(schedule) = self.options.scrub.filter(|_| !self.options.once && self.scrubbing.is_none())
        else {
            return Ok(());
        };
        let due = self.volume.scrubs_due(survey, schedule.period).await?;
        let due = due.into_iter().filter(|value| self.is_due(Subject::Scrub(value.image)));
        if let Some(value) = due.min_by_key(|value| scatter(value.image, self.order)) {
            self.scrubbing = Some(value.image);
            self.spawn(Job::Scrub(value, schedule.options));
        }
        Ok(())
    }

    fn is_due(&self, subject: Subject) -> bool {
        let retry = self.retries.get(&subject);
        retry.is_none_or(|retry| !self.options.once && Instant::now() >= retry.at)
    }

    fn start(&mut self, job: Job) {
        self.running.insert(job.image());
        self.spawn(job);
    }

    fn spawn(&self, job: Job) {
        let (volume, messages, mut stop) = (self.volume.clone(), self.messages.clone(), self.stop.clone());
        monoio::spawn(async move {
            let tell = |message| {
                // The agent receives until no job is left.
                let _agent_listens = messages.send(message);
            };
            let result = match &job {
                Job::Heal(value) => {
                    volume.heal_for_agent(value, stop, || tell(Message::Started(job.clone()))).await
                }
                Job::Scrub(value, options) => {
                    volume.scrub_for_agent(value, *options, &mut stop).await.map(|end| match end {
                        PassEnd::Finished(outcome) => End::Scrubbed(outcome),
                        PassEnd::Interrupted | PassEnd::Taken => End::Skipped,
                    })
                }
                Job::Remove(value) => volume.finish_removal(value).await.map(|done| match done {
                    true => End::Removed,
                    false => End::Skipped,
                }),
            };
            tell(Message::Ended(job, result));
        });
    }

    fn note(&mut self, message: Option<Message>) {
        let (job, result) = match message.expect("the agent holds a sender itself") {
            Message::Started(job) => {
                return (self.report)(AgentEvent::Started { name: job.value().name.clone() });
            }
            Message::Ended(job, result) => (job, result),
        };
        let name = job.value().name.clone();
        let subject = match &job {
            Job::Scrub(..) => {
                self.scrubbing = None;
                Subject::Scrub(job.image())
            }
            Job::Heal(_) | Job::Remove(_) => {
                self.running.remove(&job.image());
                Subject::Image(job.image())
            }
        };
        let error = match result {
            Ok(end) => {
                match end {
                    End::Healed(outcome) => (self.report)(AgentEvent::Healed(outcome)),
                    End::Scrubbed(outcome) => (self.report)(AgentEvent::Scrubbed { name, outcome }),
                    End::Removed => (self.report)(AgentEvent::Removed { name }),
                    End::Yielded => (self.report)(AgentEvent::Yielded { name }),
                    End::Interrupted => (self.report)(AgentEvent::Interrupted { name }),
                    End::Skipped => {}
                }
                None
            }
            Err(error) => Some(error),
        };
        self.settle(subject, error);
    }

    /// Something was tried: not again before a pause, which grows with every failure in a row.
    fn settle(&mut self, subject: Subject, error: Option<VolumeError>) {
        let before = self.retries.get(&subject).map_or(0, |retry| retry.failures);
        let failures = if error.is_some() { before + 1 } else { 0 };
        let factor = 1u32 << failures.saturating_sub(1).min(16);
        let longest = if subject == Subject::Look { LOOK_PAUSE_MAX } else { RETRY_PAUSE_MAX };
        let pause = self.options.interval.saturating_mul(factor).min(longest);
        self.retries.insert(subject, Retry { at: Instant::now() + pause, failures });
        if let Some(error) = error {
            self.failures += 1;
            (self.report)(AgentEvent::Failed { error, retry: pause });
        }
    }
}

impl<R> Agent<R> {
    /// What failed long ago and isn't found any more, as its image was healed by somebody else, or removed.
    fn forget_old_retries(&mut self) {
        let once = self.options.once;
        self.retries.retain(|_, retry| once || retry.at.elapsed() < RETRY_PAUSE_MAX);
    }
}

/// The place of an image in an agent's own order: agents that went through the images alike would always be after the
/// same ones.
fn scatter(image: ImageUuid, order: u64) -> u64 {
    let (high, low) = image.0.as_u64_pair();
    // Two rounds of a multiplication by an odd constant spread every bit of both.
    let mixed = (high ^ low ^ order).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
