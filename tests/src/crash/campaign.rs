//! A cluster under verifying loads, and one step of a schedule after the other done to it.
//!
//! Every event leaves all bricks and NBD servers running, so whatever is refused afterwards is refused
//! wrongly, and I/O that was held up must go on within the I/O timeout. One more image is driven by fio with
//! `--verify`; its NBD server is never killed, because fio can't go on with another.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::healing::healed_by;
use super::load::{Findings, Load, Plan};
use super::schedule::{Absence, Event, Lag, Overlap, Reopen, Step, Targets, draw};
use super::silence::Silence;
use super::tally::Tally;
use crate::cluster::nbd::NbdServer;
use crate::cluster::pattern::Sequence;
use crate::cluster::process::{Process, dump_logs};
use crate::cluster::tools::fio_verify;
use crate::cluster::{Cluster, Options};

/// Longest time for a process to end by itself.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Size of an image.
const IMAGE_MIB: u64 = 64;
/// Extents of an image that a load uses: enough that heal has something to do, few enough to be read whole
/// whenever a server is new.
const EXTENTS: usize = 256;
/// Name of the image that fio writes.
const FIO_IMAGE: &str = "fio";
/// How long a run of fio takes.
const FIO_RUNTIME: Duration = Duration::from_secs(12);

/// What differs from one campaign to the other.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where the schedule and the loads draw their numbers from.
    pub seed: u64,
    /// Images whose NBD servers are killed.
    pub images: usize,
    /// Whether fio drives one more.
    pub fio: bool,
    /// Whether packets may be dropped: only in a network namespace of our own.
    pub can_cut_off: bool,
    /// Disks of the bricks; see [`Options::disks`].
    pub disks: Vec<Option<PathBuf>>,
}

/// A running campaign.
#[derive(Debug)]
pub struct Campaign {
    setup: Setup,
    draws: Sequence,
    cluster: Cluster,
    images: Vec<Image>,
    fio: Option<Fio>,
    silence: Option<Silence>,
    tally: Tally,
    began: Instant,
}

#[derive(Debug)]
struct Image {
    name: String,
    server: Option<NbdServer>,
    load: Load,
}

#[derive(Debug)]
struct Fio {
    server: NbdServer,
    process: Process,
}

impl Campaign {
    /// Starts bricks, NBD servers and loads.
    pub fn start(setup: Setup) -> Campaign {
        let options = Options { disks: setup.disks.clone(), ..Options::as_shipped() };
        let cluster = Cluster::with(&options);
        let size = format!("{IMAGE_MIB}M");
        let image = |number: usize| {
            let name = format!("vm{number}");
            cluster.create_image(&name, &size);
            let server = cluster.serve(&name);
            let number = number as u64;
            let load = Load::start(Plan::scattered(number, IMAGE_MIB << 20, EXTENTS, setup.seed ^ number));
            load.attach(server.socket());
            Image { name, server: Some(server), load }
        };
        let images = (1..=setup.images).map(image).collect();
        let fio = setup.fio.then(|| {
            cluster.create_image(FIO_IMAGE, &size);
            let server = cluster.serve(FIO_IMAGE);
            let process = start_fio(&cluster, &server);
            Fio { server, process }
        });
        let silence = setup.can_cut_off.then(Silence::prepare);
        let tally = Tally { brick_timeout: options.brick_timeout, ..Tally::default() };
        let draws = Sequence::new(setup.seed);
        Campaign { setup, draws, cluster, images, fio, silence, tally, began: Instant::now() }
    }

    /// Where the processes log.
    pub fn logs(&self) -> PathBuf {
        self.cluster.logs()
    }

    /// What happened so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How long it has been running.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The next step of the seed's schedule.
    pub fn step(&mut self) {
        let targets = Targets {
            bricks: self.cluster.bricks.len(),
            images: self.images.len(),
            can_cut_off: self.setup.can_cut_off,
        };
        let Step { event, heals } = draw(&mut self.draws, targets);
        self.cause(event);
        if heals {
            self.note_return();
            self.wait_until_healthy();
        }
        self.keep_fio_running();
    }

    /// Does it.
    pub fn cause(&mut self, event: Event) {
        println!("{:8.3} s  {event:?}", self.began.elapsed().as_secs_f64());
        match event {
            Event::KillBrick(absence) => self.kill_brick(absence),
            Event::KillSecond(overlap) => self.kill_second(overlap),
            Event::KillDuringHeal(overlap) => self.kill_during_heal(overlap),
            Event::KillBricks(away) => self.kill_bricks(away),
            Event::KillServer(image, reopen, lag) => self.kill_server(image, reopen, lag),
            Event::KillEverything(reopen, lag) => self.kill_everything(reopen, lag),
            Event::PauseBrick(brick) => self.pause_brick(brick),
            Event::CutOff(brick) => self.cut_off(brick),
            Event::Usurp(image) => self.usurp(image),
        }
    }

    /// Ends the loads and compares: what the images hold with what they may hold, and the copies.
    pub fn finish(mut self) -> Tally {
        self.wait_until_healthy();
        self.end_fio();
        for image in &mut self.images {
            image.load.wait_for_progress();
            image.load.stop();
            let server = image.server.take().expect("events leave it running");
            image.load.check_server(server.socket());
            server.close();
        }
        let bricks: Vec<usize> = (0..self.cluster.bricks.len()).collect();
        self.note_healed(&bricks);
        let names: Vec<&str> = self.images.iter().map(|image| image.name.as_str()).collect();
        self.cluster.assert_all_copies_agree(&names, |name, export| {
            let image = self.images.iter().find(|image| image.name == name).expect("one of them");
            image.load.check_file(export);
        });
        for image in &self.images {
            self.tally.findings.add(image.load.findings());
            self.tally.requests += image.load.requests();
        }
        self.tally.elapsed = self.began.elapsed();
        if !self.tally.violations().is_empty() {
            dump_logs(&self.cluster.logs());
        }
        self.tally
    }

    // --- bricks --------------------------------------------------------------------------------------

    fn kill_brick(&mut self, absence: Absence) {
        let Absence { brick, away } = absence;
        // The records may say so while I/O still waits for what happened before: whoever lost all bricks of an
        // image goes on with those that are back first, and has no other when one of these is killed.
        let was_healthy = self.is_healthy() && {
            self.wait_for_progress();
            self.is_healthy()
        };
        if was_healthy {
            self.begin_measuring();
        }
        self.kill([brick]);
        thread::sleep(away);
        // Else this brick may be the only good one, and I/O waits for it.
        if was_healthy {
            self.wait_for_progress();
            let stall = self.longest_wait();
            self.tally.kill_stall = self.tally.kill_stall.max(stall);
        }
        self.cluster.bricks[brick].start();
        self.tally.count("one brick", 1);
    }

    fn kill_second(&mut self, overlap: Overlap) {
        let Overlap { first, second, gap, away } = overlap;
        self.kill([first]);
        thread::sleep(gap);
        self.kill([second]);
        thread::sleep(away);
        // Who comes first, the stale or the good one?
        let order = if gap > away { [first, second] } else { [second, first] };
        order.iter().for_each(|brick| self.cluster.bricks[*brick].start());
        self.tally.count("a second brick while one is away", 2);
    }

    fn kill_during_heal(&mut self, overlap: Overlap) {
        let Overlap { first, second, gap, away } = overlap;
        self.kill([first]);
        thread::sleep(away);
        self.cluster.bricks[first].start();
        thread::sleep(gap / 4);
        self.kill([second]);
        thread::sleep(gap);
        self.cluster.bricks[second].start();
        self.tally.count("a second brick while one is healed", 2);
    }

    fn kill_bricks(&mut self, away: Duration) {
        let count = self.cluster.bricks.len();
        self.kill(0..count);
        thread::sleep(away);
        self.start_bricks();
        self.tally.count("all bricks", count as u64);
    }

    fn pause_brick(&mut self, brick: usize) {
        self.wait_until_healthy();
        self.wait_for_progress();
        self.begin_measuring();
        self.cluster.bricks[brick].pause();
        self.wait_for_progress();
        self.note_silence();
        self.cluster.bricks[brick].resume();
        self.tally.count("none: a brick is stopped", 0);
    }

    fn cut_off(&mut self, brick: usize) {
        self.wait_until_healthy();
        self.wait_for_progress();
        self.begin_measuring();
        let port = self.cluster.bricks[brick].port();
        self.silence.as_ref().expect("or this isn't drawn").cut_off(port);
        self.wait_for_progress();
        self.note_silence();
        self.silence.as_ref().expect("as before").end();
        self.tally.count("none: a brick is cut off", 0);
    }

    /// All bricks run again: how long until I/O goes on?
    fn note_return(&mut self) {
        self.begin_measuring();
        self.wait_for_progress();
        let wait = self.longest_wait();
        self.tally.return_stall = self.tally.return_stall.max(wait);
    }

    fn note_silence(&mut self) {
        let stall = self.longest_wait();
        self.tally.silence_stall = self.tally.silence_stall.max(stall);
    }

    /// Kills bricks, all in one moment.
    fn kill(&mut self, bricks: impl IntoIterator<Item = usize>) {
        let bricks: Vec<usize> = bricks.into_iter().collect();
        self.note_healed(&bricks);
        for brick in &bricks {
            self.cluster.bricks[*brick].process().signal(Signal::SIGKILL);
        }
        bricks.iter().for_each(|brick| self.cluster.bricks[*brick].kill());
    }

    fn start_bricks(&mut self) {
        let count = self.cluster.bricks.len();
        let first = self.draws.draw() as usize % count;
        (first..first + count).for_each(|brick| self.cluster.bricks[brick % count].start());
    }

    fn note_healed(&mut self, bricks: &[usize]) {
        let addresses: Vec<String> =
            bricks.iter().map(|brick| self.cluster.bricks[*brick].address()).collect();
        self.tally.healed.add(healed_by(self.cluster.volume(), &addresses));
    }

    // --- NBD servers ---------------------------------------------------------------------------------

    fn kill_server(&mut self, image: usize, reopen: Reopen, lag: Lag) {
        self.images[image].load.detach();
        self.cluster.bricks[lag.brick].pause();
        thread::sleep(lag.time);
        let began = Instant::now();
        self.images[image].server.take().expect("it runs").kill();
        self.cluster.bricks[lag.brick].resume();
        self.serve_again(image, reopen, began);
        self.tally.count("an NBD server", 1);
    }

    fn kill_everything(&mut self, reopen: Reopen, lag: Lag) {
        let count = self.cluster.bricks.len();
        self.note_healed(&(0..count).collect::<Vec<_>>());
        self.cluster.bricks[lag.brick].pause();
        thread::sleep(lag.time);
        for image in &mut self.images {
            image.load.detach();
            image.server.as_mut().expect("it runs").process().signal(Signal::SIGKILL);
        }
        self.cluster.bricks.iter_mut().for_each(|brick| brick.process().signal(Signal::SIGKILL));
        self.cluster.bricks.iter_mut().for_each(|brick| brick.kill());
        let began = Instant::now();
        for image in &mut self.images {
            image.server.take().expect("it ran").kill();
        }
        self.start_bricks();
        for image in 0..self.images.len() {
            self.serve_again(image, reopen, began);
        }
        self.tally.count("all bricks and NBD servers", (count + self.images.len()) as u64);
    }

    fn serve_again(&mut self, index: usize, reopen: Reopen, began: Instant) {
        let image = &mut self.images[index];
        let arguments: &[&str] = match reopen {
            Reopen::Takeover => &["--takeover"],
            Reopen::Lease => &[],
        };
        let server = match self.cluster.try_serve(&image.name, arguments) {
            Ok(server) => server,
            Err(reason) => {
                self.tally.findings.refusal(format!("{} isn't served again: {reason}", image.name));
                let again = self.cluster.try_serve(&image.name, &["--takeover"]);
                again.unwrap_or_else(|reason| panic!("{} is never served again: {reason}", image.name))
            }
        };
        self.tally.reopen = self.tally.reopen.max(began.elapsed());
        image.load.attach(server.socket());
        image.server = Some(server);
    }

    /// The old server has requests from its clients that it hasn't seen yet when it goes on: none of them
    /// may be done, and it has to end.
    fn usurp(&mut self, index: usize) {
        let image = &mut self.images[index];
        let mut old = image.server.take().expect("it runs");
        image.load.detach();
        old.process().stop();
        image.load.break_connections();
        self.serve_again(index, Reopen::Takeover, Instant::now());
        old.process().signal(Signal::SIGCONT);
        let status = old.process().wait(END_LIMIT);
        let told = old.process().stderr();
        if status.success() || !told.contains("took the image over") {
            self.tally.findings.mismatch(format!("a server that lost its image ends with {status}: {told}"));
        }
        self.tally.count("none: an NBD server is usurped", 0);
    }

    // --- the loads -----------------------------------------------------------------------------------

    fn names(&self) -> Vec<String> {
        let fio = self.fio.iter().map(|_| FIO_IMAGE.to_owned());
        self.images.iter().map(|image| image.name.clone()).chain(fio).collect()
    }

    fn is_healthy(&self) -> bool {
        self.names().iter().all(|name| self.cluster.health(name)["state"] == "healthy")
    }

    /// Waits until every copy of every image is good.
    pub fn wait_until_healthy(&self) {
        for name in self.names() {
            self.cluster.wait_for_state(&name, "healthy");
        }
    }

    fn wait_for_progress(&self) {
        self.images.iter().for_each(|image| image.load.wait_for_progress());
    }

    fn begin_measuring(&self) {
        self.images.iter().for_each(|image| image.load.begin_measuring());
    }

    fn longest_wait(&self) -> Duration {
        let waits = self.images.iter().map(|image| image.load.longest_wait());
        let (wait, kind) = waits.max().unwrap_or_default();
        println!("            longest wait {:.3} s, of a {kind}", wait.as_secs_f64());
        wait
    }

    fn keep_fio_running(&mut self) {
        let Some(fio) = &mut self.fio else { return };
        if fio.process.ended().is_some() {
            check_fio(&mut fio.process, &mut self.tally);
            fio.process = start_fio(&self.cluster, &fio.server);
        }
    }

    fn end_fio(&mut self) {
        let Some(mut fio) = self.fio.take() else { return };
        check_fio(&mut fio.process, &mut self.tally);
        fio.server.close();
    }
}

fn start_fio(cluster: &Cluster, server: &NbdServer) -> Process {
    let mut command = fio_verify(&server.uri(), &format!("{IMAGE_MIB}M"), FIO_RUNTIME);
    // Enough to be in the way of every event, and no more: the machine has other loads.
    command.args(["--rate_iops=,400", "--iodepth=16"]).current_dir(cluster.logs());
    cluster.spawn(command, "fio")
}

/// Waits for its end, and counts a bad one.
fn check_fio(process: &mut Process, tally: &mut Tally) {
    let status = process.wait(FIO_RUNTIME + END_LIMIT);
    if status.success() {
        tally.fio_runs += 1;
        return;
    }
    let told = format!("fio ends with {status}: {}{}", process.stdout(), process.stderr());
    let findings: &mut Findings = &mut tally.findings;
    match told.contains("verify:") {
        true => findings.mismatch(told),
        false => findings.refusal(told),
    }
}
