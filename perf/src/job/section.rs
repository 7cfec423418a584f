//! The lines of a job file: sections and settings, whatever they mean.
//!
//! As in fio, `#` and `;` start a comment anywhere in a line, and a key alone says yes (`time_based`).

use super::error::Problem;

/// `[name]` and the settings below it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub name: String,
    /// Where its name stands, from 1.
    pub line: usize,
    pub settings: Vec<Setting>,
}

/// `key=value`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub line: usize,
    pub key: String,
    /// `1` for a key alone.
    pub value: String,
}

/// The sections of a text, or the line that is none of this.
pub(super) fn parse(text: &str) -> Result<Vec<Section>, (usize, Problem)> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, whole) in text.lines().enumerate() {
        let line = index + 1;
        let content = whole.split(['#', ';']).next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let not_understood = || (line, Problem::NotUnderstood(content.to_owned()));
        if let Some(rest) = content.strip_prefix('[') {
            let name = rest.strip_suffix(']').map(str::trim).filter(|name| !name.is_empty());
            let name = name.ok_or_else(not_understood)?.to_owned();
            sections.push(Section { name, line, settings: Vec::new() });
            continue;
        }
        let (key, value) = content.split_once('=').unwrap_or((content, "1"));
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(not_understood());
        }
        let section = sections.last_mut().ok_or_else(|| (line, Problem::NoSection(content.to_owned())))?;
        section.settings.push(Setting { line, key, value });
    }
    Ok(sections)
}
