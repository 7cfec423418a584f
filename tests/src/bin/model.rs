//! Runs the models of the rules exhaustively, or shows which of them notices a broken rule.

use std::process::ExitCode;

use brick_tests::model::{Home, Mutation, Size, find, whole};
use clap::{Parser, Subcommand};

/// Checks five small models of the replication rules.
///
/// Example: models full
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Threads
    #[arg(long, default_value_t = 2, global = true)]
    threads: usize,
    /// Only this model
    #[arg(long, global = true)]
    model: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every model in its large rooms
    Full,
    /// Every model in its small rooms
    Small,
    /// Every broken rule: the property that fails, after how many steps
    Mutations,
    /// One broken rule, with the steps that lead there: its number, or a part of its name
    Trace {
        /// Which
        mutation: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let good = match &arguments.command {
        Command::Full => run_whole(Size::Full, &arguments),
        Command::Small => run_whole(Size::Small, &arguments),
        Command::Mutations => mutations(),
        Command::Trace { mutation } => trace(mutation),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_whole(size: Size, arguments: &Arguments) -> bool {
    let mut good = true;
    let wanted = |home: &Home| arguments.model.as_ref().is_none_or(|model| home.name() == model);
    for home in Home::ALL.into_iter().filter(wanted) {
        for (room, verdict) in whole(home, size, arguments.threads) {
            println!("{room}: {verdict}");
            good &= verdict.is_clean();
        }
    }
    good
}

fn mutations() -> bool {
    let mut good = true;
    println!("rule broken | model, room | property violated | steps | states");
    let mut all = Mutation::ALL.to_vec();
    all.sort_by_key(|mutation| mutation.number().unwrap_or(u8::MAX));
    for mutation in &all {
        let (room, verdict) = find(*mutation);
        match verdict.violated.first() {
            Some((property, way)) => {
                println!("{mutation} | {room} | {property} | {} | {}", way.len() - 1, verdict.states);
            }
            None => {
                println!("{mutation} | {room} | NOT NOTICED | | {}", verdict.states);
                good = false;
            }
        }
    }
    println!("Not in these models: (16), (17) the activity log.");
    good
}

fn trace(wanted: &str) -> bool {
    let matches = |mutation: &&Mutation| {
        mutation.number().is_some_and(|number| number.to_string() == wanted)
            || format!("{mutation:?}").contains(wanted)
    };
    let Some(mutation) = Mutation::ALL.iter().find(matches) else {
        eprintln!("model: no rule is called {wanted}: `models mutations` lists them");
        return false;
    };
    let (room, verdict) = find(*mutation);
    println!("{mutation}\n{room}: {verdict}");
    true
}
