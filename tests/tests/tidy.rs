//! Rules of the house that no compiler checks, as a test: each finding is `file:line: sentence`.
//!
//! Rules see a file twice: as text, and as code, where comments and the insides of literals are blanked
//! (same length, same lines), so that a sample in a string or a word in a comment is no finding. The
//! lexer knows as much Rust as that needs. Every rule has a test below which proves that it can fail.

use std::fmt;
use std::fs;
use std::path::Path;

/// Longest file.
const FILE_LINES_MAX: usize = 800;
/// Longest function that isn't in [`LONG_FUNCTIONS`].
const FUNCTION_LINES_MAX: usize = 100;
/// Functions that may be longer, each with its length: they may shrink, never grow.
const LONG_FUNCTIONS: [(&str, &str, usize); 0] = [];

/// Folders whose code takes events and returns actions, and touches nothing else.
const SANS_IO_ROOMS: [&str; 3] = ["brickd/src/engine/", "client/src/replica/", "wire/src/"];
/// What such code can't name: the world is given to it, so that a simulator can give it another.
const WORLD: [&str; 8] = [
    "std::fs",
    "std::net",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::thread",
    "std::env",
    "rand",
    "getrandom",
];
/// Marks of work that isn't done, or of a test that doesn't run.
const UNFINISHED: [&str; 5] = ["todo!(", "unimplemented!(", "dbg!(", "allow(dead_code", "#[ignore"];
/// Where machines of developers keep their files. (In pieces, or this file would be a finding.)
const MACHINE_PATHS: [&str; 3] = [concat!("/", "work/"), concat!("/", "home/"), concat!("/", "Users/")];
/// Folders that aren't ours to tidy.
const SKIPPED_FOLDERS: [&str; 2] = ["target", ".git"];

#[test]
fn the_tree_is_tidy() {
    let mut sources = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    read_folder(&root, "", &mut sources);
    assert!(sources.iter().any(|source| source.path == "tests/tests/tidy.rs"), "the walk finds this file");

    let mut findings: Vec<Finding> = sources.iter().flat_map(check).collect();
    findings.extend(stale_allowances(&sources));
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}

/// A file that is UTF-8.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
    /// Of Rust: the text without comments and insides of literals. Else empty.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let code = if path.ends_with(".rs") { blank_non_code(text) } else { String::new() };
        Source { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn finding(&self, line: usize, sentence: String) -> Finding {
        Finding { path: self.path.clone(), line, sentence }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    sentence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.sentence)
    }
}

fn read_folder(folder: &Path, prefix: &str, sources: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("a readable folder")).collect();
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("a file type");
        if kind.is_dir() && !SKIPPED_FOLDERS.contains(&name.as_str()) {
            read_folder(&entry.path(), &format!("{path}/"), sources);
        } else if kind.is_file() {
            // Others are binary, or were removed since by whoever works beside us.
            sources.extend(fs::read_to_string(entry.path()).ok().map(|text| Source::new(&path, &text)));
        }
    }
}

fn check(source: &Source) -> Vec<Finding> {
    let rules = [file_length, opening, sans_io, unfinished, machine_paths, whitespace, function_length];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn file_length(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    if !source.is_rust() || lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    let sentence = format!("the file has {lines} lines; split it by concept below {FILE_LINES_MAX}");
    vec![source.finding(FILE_LINES_MAX + 1, sentence)]
}

fn opening(source: &Source) -> Vec<Finding> {
    if !source.is_rust() || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.finding(1, "open the file with `//!`: what it is, its invariants, what it assumes".into())]
}

fn sans_io(source: &Source) -> Vec<Finding> {
    if !source.is_rust() || !SANS_IO_ROOMS.iter().any(|room| source.path.starts_with(room)) {
        return Vec::new();
    }
    let imported = imports(&source.code);
    let mentioned = source.code.lines().enumerate().flat_map(|(index, line)| {
        let names = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        names.filter(|name| name.contains("::")).map(move |name| (index + 1, name.to_owned()))
    });
    let mut findings: Vec<Finding> = imported
        .into_iter()
        .chain(mentioned)
        .filter_map(|(line, name)| {
            let world = WORLD.iter().find(|world| is_within(&name, world))?;
            let sentence = format!("sans-IO code names `{world}`; take it as an event or a parameter");
            Some(source.finding(line, sentence))
        })
        .collect();
    findings.sort_by_key(|finding| finding.line);
    findings.dedup();
    findings
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let lines = source.code.lines().enumerate();
    let marks = lines.flat_map(|(index, line)| {
        UNFINISHED.iter().filter(|mark| line.contains(**mark)).map(move |mark| (index + 1, *mark))
    });
    marks
        .map(|(line, mark)| source.finding(line, format!("`{mark}` has no place in finished code")))
        .collect()
}

fn machine_paths(source: &Source) -> Vec<Finding> {
    let is_absolute = |line: &str, at: usize| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "_-.~/}".contains(c)))
    };
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for path in MACHINE_PATHS {
            if line.match_indices(path).any(|(at, _)| is_absolute(line, at)) {
                let sentence = format!("`{path}` exists on one machine only; use a relative path");
                findings.push(source.finding(index + 1, sentence));
            }
        }
    }
    findings
}

fn whitespace(source: &Source) -> Vec<Finding> {
    if ![".rs", ".md", ".sh"].iter().any(|ending| source.path.ends_with(ending)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in source.text.split('\n').enumerate() {
        if line.contains('\t') {
            findings.push(source.finding(index + 1, "the line holds a tab; use spaces".into()));
        }
        if line.ends_with(char::is_whitespace) {
            findings.push(source.finding(index + 1, "the line ends in white space; remove it".into()));
        }
    }
    findings
}

fn function_length(source: &Source) -> Vec<Finding> {
    let too_long = functions(&source.code).into_iter().filter(|function| {
        function.lines > allowance(&source.path, &function.name).unwrap_or(FUNCTION_LINES_MAX)
    });
    too_long
        .map(|Function { name, line, lines }| {
            let sentence =
                format!("function `{name}` has {lines} lines; keep its control flow, name its leaves");
            source.finding(line, sentence)
        })
        .collect()
}

fn allowance(path: &str, function: &str) -> Option<usize> {
    let mut allowed = LONG_FUNCTIONS.iter();
    allowed.find(|(file, name, _)| *file == path && *name == function).map(|(_, _, lines)| *lines)
}

/// The ratchet: an allowance that nobody needs any more would let the function grow again.
fn stale_allowances(sources: &[Source]) -> Vec<Finding> {
    let is_needed = |path: &str, name: &str, lines: usize| {
        let mut files = sources.iter().filter(|source| source.path == path);
        files.any(|source| functions(&source.code).iter().any(|f| f.name == name && f.lines == lines))
    };
    let stale = LONG_FUNCTIONS.iter().filter(|(path, name, lines)| !is_needed(path, name, *lines));
    stale
        .map(|(path, name, lines)| {
            let sentence = format!("the allowance of {lines} lines for `{name}` isn't its length; lower it");
            Finding { path: (*path).to_owned(), line: 1, sentence }
        })
        .collect()
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    /// Where `fn` stands, from 1.
    line: usize,
    /// From there to the closing brace.
    lines: usize,
}

fn functions(code: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let is_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !is_word || name.is_empty() {
            continue;
        }
        if let Some(end) = end_of_body(&code[at..]) {
            let line = 1 + code[..at].matches('\n').count();
            let lines = 1 + code[at..at + end].matches('\n').count();
            functions.push(Function { name, line, lines });
        }
    }
    functions
}

/// Where the braces that follow a signature close; `None` if it ends in `;` and has no body.
fn end_of_body(code: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0usize, 0usize);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            '{' => braces += 1,
            '}' if braces == 1 => return Some(at),
            '}' => braces = braces.saturating_sub(1),
            ';' if brackets == 0 && braces == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Whether `name` is `world`, or something in it. Paths with a generic prefix don't matter here.
fn is_within(name: &str, world: &str) -> bool {
    let name = name.trim_start_matches(':');
    name.strip_prefix(world).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What `use` brings in, groups spelled out: line and path of each leaf.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut leaves = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let is_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let Some(length) = code[at..].find(';').filter(|_| is_word) else { continue };
        let line = 1 + code[..at].matches('\n').count();
        let tree: String = code[at + 4..at + length].split_whitespace().collect::<Vec<_>>().join(" ");
        let mut names = Vec::new();
        spell_out("", &tree, &mut names);
        leaves.extend(names.into_iter().map(|name| (line, name)));
    }
    leaves
}

fn spell_out(prefix: &str, tree: &str, leaves: &mut Vec<String>) {
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        let path = format!("{prefix}{path}");
        leaves.push(path.trim_end_matches("::self").to_owned());
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let inside = tree[open + 1..].trim_end().trim_end_matches('}');
    // The last closing brace is this group's; those of inner groups were trimmed with it and are put back.
    let missing = inside.matches('{').count().saturating_sub(inside.matches('}').count());
    let inside = format!("{inside}{}", "}".repeat(missing));
    let (mut depth, mut start) = (0usize, 0);
    for (at, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                let part = inside[start..at].trim();
                if !part.is_empty() {
                    spell_out(&prefix, part, leaves);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Replaces comments and the insides of literals by spaces; newlines stay.
fn blank_non_code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let identifier = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let blanked = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest, 1),
            'r' | 'b' | 'c' if !identifier => prefixed_literal(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let (skipped, after) = rest.split_at(blanked.max(first.len_utf8()));
        if blanked == 0 {
            code.push(first);
        } else {
            code.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    code
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a string with escapes, whose inside starts at `inside`.
fn string(text: &str, inside: usize) -> usize {
    let mut escaped = false;
    for (at, c) in text[inside..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return inside + at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `b'…'`, `c"…"`; zero if an identifier follows instead.
fn prefixed_literal(text: &str) -> usize {
    let letters = text.len() - text.trim_start_matches(['r', 'b', 'c']).len();
    if letters > 2 {
        return 0;
    }
    let after = &text[letters..];
    let raw = text[..letters].contains('r');
    let hashes = after.len() - after.trim_start_matches('#').len();
    if raw && after[hashes..].starts_with('"') {
        let open = letters + hashes + 1;
        let close = format!("\"{}", "#".repeat(hashes));
        text[open..].find(&close).map_or(text.len(), |at| open + at + close.len())
    } else if !raw && after.starts_with('"') {
        string(text, letters + 1)
    } else if text.starts_with("b'") {
        1 + character(&text[1..])
    } else {
        0
    }
}

/// Length of a character literal; zero for a lifetime.
fn character(text: &str) -> usize {
    let mut inside = text[1..].chars();
    match inside.next() {
        // The character after the backslash may be a quote itself.
        Some('\\') => text.get(3..).and_then(|rest| rest.find('\'')).map_or(0, |at| at + 4),
        Some(c) if inside.next() == Some('\'') => 2 + c.len_utf8(),
        _ => 0,
    }
}

mod self_tests {
    //! Each rule fails on its sample and passes what only looks like one.

    use super::*;

    /// The lines that a rule finds in `text` at `path`.
    fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        rule(&Source::new(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn findings_name_file_and_line() {
        let findings = opening(&Source::new("a/b.rs", "fn main() {}\n"));
        assert!(findings[0].to_string().starts_with("a/b.rs:1: open the file with"));
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(lines(file_length, "a.rs", &"x\n".repeat(801)), [801]);
        assert_eq!(lines(file_length, "a.rs", &"x\n".repeat(800)), []);
        assert_eq!(lines(file_length, "Cargo.lock", &"x\n".repeat(801)), []);
    }

    #[test]
    fn files_without_opening_are_found() {
        for text in
            ["", "use std::fs;\n//! Late.\n", "//!\n", "\n//! After a blank line.\n", "/// Of an item.\n"]
        {
            assert_eq!(lines(opening, "a.rs", text), [1], "{text:?}");
        }
        assert_eq!(lines(opening, "a.rs", "//! What it is.\n"), []);
        assert_eq!(lines(opening, "a.md", "# What it is\n"), []);
    }

    #[test]
    fn the_world_in_a_sans_io_room_is_found() {
        let room = "brickd/src/engine/x.rs";
        for text in [
            "use std::fs;",
            "use std::fs::File;",
            "let x = std::net::TcpStream::connect(a);",
            "use std::{fmt, fs};",
            "use std::{fmt, time::{Duration, Instant}, io};",
            "use std::time::{\nDuration,\nSystemTime as Clock,\n};",
            "use std::net::{self, IpAddr};",
            "let now = std::time::Instant::now();",
            "std::thread::spawn(f);",
            "let x: u64 = rand::random();",
            "use rand::Rng;",
            "getrandom::fill(&mut x);",
            "use ::std::env;",
            "use std::env as surroundings;",
        ] {
            assert_eq!(lines(sans_io, room, text), [1], "{text}");
        }
        for room in SANS_IO_ROOMS {
            assert_eq!(lines(sans_io, &format!("{room}deep/x.rs"), "\nuse std::fs;"), [2]);
        }
        assert_eq!(lines(sans_io, "brickd/src/reactor/x.rs", "use std::fs;"), []);
        for text in [
            "use std::{fmt, time::Duration};",
            "// std::fs is for others",
            "let x = \"std::fs\";",
            "operand::new()",
            "use crate::rand_like::Dice;",
            "use crate::{env, fs};",
        ] {
            assert_eq!(lines(sans_io, room, text), [], "{text}");
        }
    }

    #[test]
    fn unfinished_work_is_found() {
        for mark in UNFINISHED {
            assert_eq!(lines(unfinished, "a.rs", &format!("fn a() {{\n    {mark}\n}}")), [2], "{mark}");
            assert_eq!(lines(unfinished, "a.rs", &format!("// {mark}\nlet x = \"{mark}\";")), [], "{mark}");
        }
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for path in MACHINE_PATHS {
            for text in [format!("{path}x"), format!("a\nb = \"{path}x\""), format!("see ({path})")] {
                let line = text.lines().count();
                assert_eq!(lines(machine_paths, "scripts/a.toml", &text), [line], "{text}");
            }
            for text in
                [format!("https://example.org{path}x"), format!("docs{path}"), format!("${{X}}{path}")]
            {
                assert_eq!(lines(machine_paths, "a.md", &text), [], "{text}");
            }
        }
    }

    #[test]
    fn stray_white_space_is_found() {
        for ending in ["rs", "md", "sh"] {
            let path = format!("a.{ending}");
            assert_eq!(lines(whitespace, &path, "a\n\tb\nc \nd\r\n"), [2, 3, 4]);
            assert_eq!(lines(whitespace, &path, "a\n    b\n\nc"), []);
        }
        assert_eq!(lines(whitespace, "Makefile", "a:\n\tb\n"), []);
    }

    #[test]
    fn long_functions_are_found() {
        let function = |lines: usize| format!("struct S;\nfn long() {{\n{}}}\n", "x();\n".repeat(lines - 2));
        assert_eq!(lines(function_length, "a.rs", &function(101)), [2]);
        assert_eq!(lines(function_length, "a.rs", &function(100)), []);
        let after = format!("trait T {{ fn none(&self, x: [u8; 2]);\n}}\n{}", function(101));
        assert_eq!(lines(function_length, "a.rs", &after), [4]);
        let braces = function(99).replacen("x();", "let x = ('}', \"}\", b'}', r#\"}\"#); // }", 1);
        assert_eq!(lines(function_length, "a.rs", &format!("{braces}{}", "\n".repeat(50))), []);
    }

    #[test]
    fn code_is_what_is_neither_comment_nor_literal() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                     e"),
            (r#"f("a\"b", c)"#, "f(      , c)"),
            (r##"f(r#"a"b"#, c)"##, "f(        , c)"),
            (r"f('a', '\'', '\n', b'x')", "f(   ,     ,     ,     )"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("b\"a\" br\"b\" crab bar", "           crab bar"),
            ("let r = r#fn; // x", "let r = r#fn;     "),
        ] {
            let squeezed = |text: &str| text.split(' ').collect::<String>();
            assert_eq!(squeezed(&blank_non_code(text)), squeezed(code), "{text}");
        }
    }
}
