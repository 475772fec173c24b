//! Needs no privilege. The shape of the source: which module may use which, where `unsafe` and
//! `fuser` may stand, how long a file may be (docs/architecture.md).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each may use those after it.
const LAYERS: [&str; 10] = [
    "cli",
    "serve",
    "config",
    "ops",
    "fold",
    "archive",
    "filesystem",
    "merge",
    "store",
    "sys",
];

/// All may use these; they themselves only `error`.
const COMMON: [&str; 3] = ["path_bytes", "progress", "error"];

/// They only tie the others together.
const ROOTS: [&str; 2] = ["lib", "main"];

const LINES_MAX: usize = 600;

/// A source file: its path below the crate and its text.
struct Source {
    path: PathBuf,
    text: String,
}

#[test]
fn dependencies_run_downward() {
    assert_sound(&dependency_faults(&sources("src")));
}

#[test]
fn unsafe_code_stands_in_sys_only() {
    assert_sound(&word_faults(&sources("src"), "unsafe", "src/sys/"));
}

#[test]
fn fuser_is_named_in_serve_only() {
    // An answer that names a registered file of a predecessor is `unsafe` with fuser.
    let mut others = sources("src");
    others.retain(|source| !source.path.ends_with("sys/fuse_device.rs"));
    assert_sound(&word_faults(&others, "fuser", "src/serve/"));
}

#[test]
fn files_are_short() {
    let mut files = sources("src");
    files.extend(sources("tests"));
    assert_sound(&length_faults(&files));
}

#[test]
fn checker_sees_an_upward_use() {
    for text in [
        "use crate::merge::View;",
        "use crate::{sys, merge};",
        "use crate::{\n    sys::copy,\n    merge::{View, Walk},\n};",
        "fn f() -> crate::merge::View { todo!() }",
        "pub(crate) use crate::merge as m;",
        "use super::super::merge::View;",
    ] {
        let faults = dependency_faults(&[source("src/store/layer.rs", text)]);
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert!(faults[0].contains("store uses merge"), "{faults:?}");
    }
}

#[test]
fn checker_accepts_what_is_allowed() {
    for text in [
        "use crate::sys::copy; use crate::error::Result; use crate::progress;",
        "use crate::store::layer::X; use super::layer;",
        "// use crate::merge::View;\n/* crate::merge /* nested */ crate::cli */",
        "const A: &str = \"crate::merge\"; const B: &str = r#\"\"crate::merge\"#; const C: char = '\"';",
        "fn f<'a>(x: &'a str) -> char { '\\'' }",
    ] {
        let faults = dependency_faults(&[source("src/store/digest.rs", text)]);
        assert!(faults.is_empty(), "{text}: {faults:?}");
    }
}

#[test]
fn checker_sees_a_circle_and_a_stranger() {
    let circle = [
        source("src/progress.rs", "use crate::path_bytes::PathBytes;"),
        source("src/path_bytes.rs", "use crate::progress::Progress;"),
    ];
    let faults = dependency_faults(&circle);
    assert!(faults.iter().any(|f| f.contains("circle")), "{faults:?}");
    let faults = dependency_faults(&[source("src/util.rs", "")]);
    assert!(
        faults[0].contains("util is in no layer"),
        "unknown module: {faults:?}"
    );
    let faults = dependency_faults(&[source("src/progress.rs", "use crate::store::X;")]);
    assert_eq!(faults.len(), 1, "{faults:?}");
}

#[test]
fn checker_sees_words_and_length() {
    let bad = source("src/store/a.rs", "fn f() { unsafe { g() } }");
    assert_eq!(word_faults(&[bad], "unsafe", "src/sys/").len(), 1);
    let good = [
        source("src/sys/a.rs", "fn f() { unsafe { g() } }"),
        source("src/store/a.rs", "#![deny(unsafe_code)] // unsafe"),
    ];
    assert!(word_faults(&good, "unsafe", "src/sys/").is_empty());
    let long = source("src/a.rs", &"\n".repeat(LINES_MAX + 1));
    assert_eq!(length_faults(&[long]).len(), 1);
}

fn assert_sound(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.into(),
        text: text.into(),
    }
}

fn sources(below: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut pending = vec![root.join(below)];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(Source {
                    text: fs::read_to_string(&path).unwrap(),
                    path: path.strip_prefix(root).unwrap().to_owned(),
                });
            }
        }
    }
    assert!(!found.is_empty(), "no source below {below}");
    found
}

fn dependency_faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let module = module_of(&source.path);
        if ROOTS.contains(&module.as_str()) {
            continue;
        }
        if !LAYERS.contains(&module.as_str()) && !COMMON.contains(&module.as_str()) {
            faults.push(format!(
                "{}: {module} is in no layer",
                source.path.display()
            ));
            continue;
        }
        for used in used_modules(source) {
            if used != module {
                if !may_use(&module, &used) {
                    faults.push(format!("{}: {module} uses {used}", source.path.display()));
                }
                graph.entry(module.clone()).or_default().insert(used);
            }
        }
    }
    for start in graph.keys() {
        let mut reached = BTreeSet::new();
        let mut pending: Vec<&String> = graph[start].iter().collect();
        while let Some(module) = pending.pop() {
            if reached.insert(module) {
                pending.extend(graph.get(module).into_iter().flatten());
            }
        }
        if reached.contains(start) {
            faults.push(format!("{start} uses itself in a circle"));
        }
    }
    faults
}

fn may_use(module: &str, used: &str) -> bool {
    let rank = |name| LAYERS.iter().position(|layer| *layer == name);
    match (rank(module), rank(used)) {
        (Some(user), Some(used)) => user < used,
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) => used == "error",
    }
}

/// The module directly below the crate's root that a file belongs to.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix("src").unwrap();
    let first = below.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The top modules that a file names by `crate::` or by as many `super::` as lead to the root.
fn used_modules(source: &Source) -> BTreeSet<String> {
    let code = code_only(&source.text);
    let below = source.path.strip_prefix("src").unwrap();
    let is_mod = below.file_name().is_some_and(|name| name == "mod.rs");
    let depth = below.iter().count() - usize::from(is_mod);
    let to_root = "super::".repeat(depth);
    let mut used = BTreeSet::new();
    for prefix in ["crate::", to_root.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !is_word(c) && c != '$') {
                used.extend(heads(&code[at + prefix.len()..]));
            }
        }
    }
    used.retain(|name| LAYERS.contains(&name.as_str()) || COMMON.contains(&name.as_str()));
    used
}

/// The first segments of a path or of each path in a group in braces.
fn heads(text: &str) -> Vec<String> {
    let word = |text: &str| -> String { text.chars().take_while(|c| is_word(*c)).collect() };
    let text = text.trim_start();
    let Some(group) = text.strip_prefix('{') else {
        return vec![word(text)];
    };
    let mut depth = 0;
    let mut expects = true;
    let mut found = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects = true,
            c if depth == 0 && expects && is_word(c) => {
                found.push(word(&group[at..]));
                expects = false;
            }
            _ => {}
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_faults(sources: &[Source], word: &str, allowed: &str) -> Vec<String> {
    let named = |source: &Source| {
        code_only(&source.text)
            .split(|c| !is_word(c))
            .any(|token| token == word)
    };
    sources
        .iter()
        .filter(|source| !source.path.starts_with(allowed) && named(source))
        .map(|source| format!("{}: {word} outside {allowed}", source.path.display()))
        .collect()
}

fn length_faults(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| source.text.lines().count() > LINES_MAX)
        .map(|source| format!("{}: over {LINES_MAX} lines", source.path.display()))
        .collect()
}

/// The text without comments and without what stands in strings and characters.
fn code_only(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if c == '"' {
            string(rest, 1)
        } else if c == 'r' && !code.ends_with(is_word) && raw_hashes(rest).is_some() {
            raw_string(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
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
    at
}

fn string(text: &str, start: usize) -> usize {
    let mut escaped = false;
    for (at, c) in text[start..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return start + at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_hashes(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    text[1 + hashes..].starts_with('"').then_some(hashes)
}

fn raw_string(text: &str) -> usize {
    let hashes = raw_hashes(text).unwrap_or(0);
    let end = format!("\"{}", "#".repeat(hashes));
    let start = hashes + 2;
    text[start..]
        .find(&end)
        .map_or(text.len(), |at| start + at + end.len())
}

/// The length of a character literal, 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text[1..].char_indices();
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |at| at + 4),
        Some((_, c)) if text[1 + c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
        _ => 0,
    }
}
