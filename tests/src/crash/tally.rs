//! What a campaign did, found and measured: a table for people, a line of JSON for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::healing::Healed;
use super::load::Findings;

/// The longest that I/O may stall when one brick is killed.
pub const KILL_STALL_MAX: Duration = Duration::from_secs(3);
/// What a silent brick may cost beyond the time after which it counts as failed: a change of epoch.
pub const SILENCE_SLACK: Duration = Duration::from_secs(1);

/// Figures of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Processes killed, by the kind of event that killed them.
    pub kills: BTreeMap<&'static str, u64>,
    /// Events, by kind.
    pub events: BTreeMap<&'static str, u64>,
    /// Wrong answers.
    pub findings: Findings,
    /// Requests that were checked.
    pub requests: u64,
    /// Runs of fio that ended well.
    pub fio_runs: u64,
    /// The longest I/O stalled when one brick of a healthy group was killed.
    pub kill_stall: Duration,
    /// The longest I/O stalled when one brick of a healthy group fell silent.
    pub silence_stall: Duration,
    /// The longest I/O stalled after bricks came back without which nothing could be served.
    pub return_stall: Duration,
    /// The longest until an image was served again whose NBD server had been killed.
    pub reopen: Duration,
    /// What heal did.
    pub healed: Healed,
    /// After this, a silent brick has failed.
    pub brick_timeout: Duration,
    /// How long it took.
    pub elapsed: Duration,
}

impl Tally {
    /// An event that kills so many processes.
    pub fn count(&mut self, kind: &'static str, kills: u64) {
        *self.events.entry(kind).or_default() += 1;
        *self.kills.entry(kind).or_default() += kills;
    }

    /// Kills so far.
    pub fn kills_total(&self) -> u64 {
        self.kills.values().sum()
    }

    /// What must not be; empty if all is well.
    pub fn violations(&self) -> Vec<String> {
        let mut violations = self.findings.texts.clone();
        let silence_stall_max = self.brick_timeout + SILENCE_SLACK;
        if self.findings.mismatches + self.findings.refusals > violations.len() as u64 {
            violations.push("and more of that kind".to_owned());
        }
        if self.kill_stall >= KILL_STALL_MAX {
            violations
                .push(format!("I/O stalled {:.3} s for one killed brick", self.kill_stall.as_secs_f64()));
        }
        if self.silence_stall >= silence_stall_max {
            violations
                .push(format!("I/O stalled {:.3} s for a silent brick", self.silence_stall.as_secs_f64()));
        }
        violations
    }

    /// One line of JSON.
    pub fn json(&self, seed: u64, disk: &str) -> Value {
        json!({
            "disk": disk,
            "seed": seed,
            "kills": self.kills_total(),
            "kills_by_kind": self.kills,
            "events": self.events,
            "requests": self.requests,
            "fio_runs": self.fio_runs,
            "mismatches": self.findings.mismatches,
            "wrong_refusals": self.findings.refusals,
            "kill_stall_ms": self.kill_stall.as_millis() as u64,
            "silence_stall_ms": self.silence_stall.as_millis() as u64,
            "brick_timeout_ms": self.brick_timeout.as_millis() as u64,
            "return_stall_ms": self.return_stall.as_millis() as u64,
            "reopen_ms": self.reopen.as_millis() as u64,
            "heals": self.healed.heals,
            "compared_blocks": self.healed.compared_blocks,
            "healed_bytes": self.healed.copied_blocks * 4096,
            "heal_wire_bytes": self.healed.wire_bytes,
            "seconds": self.elapsed.as_secs(),
            "violations": self.violations(),
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::as_secs_f64;
        writeln!(f, "  {:<38} {:>6} {:>6}", "", "events", "kills")?;
        for (kind, events) in &self.events {
            writeln!(f, "  {kind:<38} {events:>6} {:>6}", self.kills[kind])?;
        }
        let events: u64 = self.events.values().sum();
        writeln!(f, "  {:<38} {events:>6} {:>6}", "together", self.kills_total())?;
        writeln!(f, "  {:<38} {:>13}", "requests checked", self.requests)?;
        writeln!(f, "  {:<38} {:>13}", "runs of fio verify", self.fio_runs)?;
        writeln!(f, "  {:<38} {:>13}", "mismatches", self.findings.mismatches)?;
        writeln!(f, "  {:<38} {:>13}", "wrong refusals", self.findings.refusals)?;
        writeln!(f, "  {:<38} {:>11.3} s", "longest stall, one brick killed", seconds(&self.kill_stall))?;
        let timeout = format!("longest stall, one silent for {} s", seconds(&self.brick_timeout));
        writeln!(f, "  {timeout:<38} {:>11.3} s", seconds(&self.silence_stall))?;
        writeln!(f, "  {:<38} {:>11.3} s", "longest after a quorum is back", seconds(&self.return_stall))?;
        writeln!(f, "  {:<38} {:>11.3} s", "longest until served again", seconds(&self.reopen))?;
        writeln!(f, "  {:<38} {:>13}", "heals, at least", self.healed.heals)?;
        writeln!(f, "  {:<38} {:>13}", "blocks compared", self.healed.compared_blocks)?;
        writeln!(f, "  {:<38} {:>13}", "bytes healed", self.healed.copied_blocks * 4096)?;
        writeln!(f, "  {:<38} {:>13}", "bytes on the wire for that", self.healed.wire_bytes)?;
        write!(f, "  {:<38} {:>11} s", "time", self.elapsed.as_secs())
    }
}
