//! One run: a job in a process of its own, `fio` or `brick-perf`, and what its report says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::sample::Sample;
use crate::cluster::Cluster;
use crate::cluster::command::{brick_perf, run};

/// Figures of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What the job measured.
    pub figures: Sample,
    /// Processor time (microseconds) and context switches of its process, if that belongs to brick.
    pub own: Option<(f64, f64)>,
}

/// Where runs happen.
#[derive(Debug)]
pub struct Runner {
    /// Takes jobs and reports.
    folder: PathBuf,
    /// The volume file.
    volume: PathBuf,
    /// The one CPU that loads run on, if not on any.
    cpu: Option<u32>,
}

impl Runner {
    /// For a cluster's volume, with a folder of the cluster's.
    pub fn of(cluster: &Cluster) -> Runner {
        let folder = cluster.path("runs");
        fs::create_dir(&folder).expect("a folder for the runs");
        Runner { folder, volume: cluster.volume().to_path_buf(), cpu: None }
    }

    /// The same, with `brick-perf` on one CPU.
    pub fn on_cpu(self, cpu: u32) -> Runner {
        Runner { cpu: Some(cpu), ..self }
    }

    /// A job for `brick-perf`.
    pub fn perf(&self, job: &str, name: &str) -> Run {
        let (input, output) = self.files(job, name);
        let mut command = match self.cpu {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.arg("--cpu-list").arg(cpu.to_string()).arg(brick_perf().get_program());
                command
            }
            None => brick_perf(),
        };
        command.arg("run").arg(&input).arg("-v").arg(&self.volume);
        run(command.args(["--output-format", "json", "--output"]).arg(&output)).ok();
        let report = read_json(&output);
        let own = &report["jobs"][0]["brick_perf"];
        let of = |key: &str| own[key].as_f64().expect("brick-perf says it");
        let cpu_us = (of("usr_ns") + of("sys_ns")) / 1000.0;
        let switches = of("voluntary_ctx") + of("involuntary_ctx");
        Run { figures: Sample::from_json(&report), own: Some((cpu_us, switches)) }
    }

    /// A job for `fio`, in a network namespace if one is named.
    pub fn fio(&self, job: &str, name: &str, namespace: Option<&str>) -> Run {
        let (input, output) = self.files(job, name);
        let mut command = match namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, "fio"]);
                command
            }
            None => Command::new("fio"),
        };
        command.arg(&input).arg("--output-format=json").arg(format!("--output={}", output.display()));
        run(&mut command).ok();
        Run { figures: Sample::from_json(&read_json(&output)), own: None }
    }

    fn files(&self, job: &str, name: &str) -> (PathBuf, PathBuf) {
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        fs::write(file("fio"), job).expect("the folder of the runs takes files");
        (file("fio"), file("json"))
    }
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // fio may warn in front of its report.
    let start = text.find('{').unwrap_or_else(|| panic!("{}: no report: {text}", path.display()));
    serde_json::from_str(&text[start..]).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
