//! How answers look: tables for people, one line of JSON for programs. And how a yes is asked for.

use std::io::{BufRead, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// One line.
pub fn print_json(value: &impl Serialize) {
    println!("{}", serde_json::to_string(value).expect("reports are plain data"));
}

/// Columns under headings, as wide as needed.
pub fn table(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let heading: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!(" {cell:<width$} "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// 1.5 GiB.
pub fn bytes(amount: u64) -> String {
    indicatif::BinaryBytes(amount).to_string()
}

/// A bar over bytes on stderr; invisible if that is no terminal.
pub fn byte_bar(total_bytes: u64, message: String) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} [{bar:40}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    );
    let bar = ProgressBar::new(total_bytes).with_style(style.expect("a constant template"));
    bar.set_message(message);
    bar
}

/// A bar over blocks on stderr; invisible if that is no terminal.
pub fn block_bar(message: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} blocks {eta}");
    let bar = ProgressBar::new(0).with_style(style.expect("a constant template"));
    bar.set_message(message);
    bar
}

/// A bar for one of several images, on whatever terminal it is added to.
pub fn image_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {percent:>3}% {msg}");
    ProgressBar::new(1).with_style(style.expect("a constant template"))
}

/// A line below such bars.
pub fn summary_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}");
    ProgressBar::new(1).with_style(style.expect("a constant template"))
}

/// Whether somebody at the terminal types `word`, which is the `what` of that which is at stake.
pub fn confirmed(what: &str, word: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("Type the {what} to go on: ");
    // A prompt that can't be shown is one that nobody answers.
    let shown = std::io::stderr().flush().is_ok();
    let mut answer = String::new();
    shown && std::io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim() == word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["vm1".to_owned(), "1".to_owned()], vec!["x".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["NAME", "N"], rows.into_iter()), "  NAME  N\n  vm1   1\n  x     22\n");
    }
}
