//! Needs no privilege. docs/semantics.md promises nothing without a test: each of its sentences
//! names one, and each that is named exists.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The document's paragraphs, list items and table rows, each in one line, without headings.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let is_row = line.starts_with('|');
        if line.is_empty() || line.starts_with('#') || line.starts_with("|---") {
            open = false;
        } else if open && !is_row && !line.starts_with("- ") {
            let last = blocks.last_mut().unwrap();
            last.push(' ');
            last.push_str(line.trim());
        } else {
            blocks.push(line.to_owned());
            open = !is_row;
        }
    }
    blocks
}

/// `file.rs::test` between backticks.
fn references(block: &str) -> Vec<(&str, &str)> {
    let code = block.split('`').skip(1).step_by(2);
    code.filter_map(|code| code.split_once(".rs::")).collect()
}

/// The text of each file below tests/, by its name without `.rs`; some names occur twice.
fn test_files() -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.file_stem().unwrap().to_str().unwrap();
                let text = fs::read_to_string(&path).unwrap();
                files.entry(name.to_owned()).or_default().push_str(&text);
            }
        }
    }
    files
}

/// Whether a test of this name stands there, by itself or as a line of a macro that makes tests.
fn has_test(text: &str, name: &str) -> bool {
    let function = format!("fn {name}() {{");
    let of_macro = format!("{name}: ");
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        match line {
            _ if line.starts_with(&function) => return is_test,
            _ if line.starts_with(&of_macro) => return text.contains("fn $name() {"),
            _ => is_test = line == "#[test]" || is_test && line.starts_with('#'),
        }
    }
    false
}

/// What is wrong with a document.
fn faults(document: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut table_has_test = false;
    for block in blocks(document) {
        let references = references(&block);
        for (file, name) in &references {
            match files.get(*file) {
                None => faults.push(format!("there is no {file}.rs below tests/")),
                Some(text) if has_test(text, name) => {}
                Some(_) => faults.push(format!("{file}.rs has no test {name}")),
            }
        }
        // The paragraph before a table may name the test of all rows that name none.
        if block.starts_with('|') {
            if references.is_empty() && !table_has_test {
                faults.push(format!("no test for: {block}"));
            }
            continue;
        }
        table_has_test = !references.is_empty();
        if references.is_empty() {
            faults.push(format!("no test for: {block}"));
        }
    }
    faults
}

#[test]
fn each_sentence_of_the_semantics_has_a_test() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/semantics.md");
    let faults = faults(&fs::read_to_string(path).unwrap(), &test_files());
    assert!(
        faults.is_empty(),
        "docs/semantics.md:\n{}",
        faults.join("\n")
    );
}

#[test]
fn the_check_sees_what_is_missing() {
    let text = "#[test]\nfn there() {\n}\n\nfn no_test() {\n}\n";
    let files = BTreeMap::from([(String::from("file"), String::from(text))]);
    let good = "# Head\n\n- One\n  sentence. `file.rs::there`\n\nText: `file.rs::there`\n\n| a | b |\n|---|---|\n| c | d |\n";
    assert_eq!(faults(good, &files), Vec::<String>::new());
    for (bad, what) in [
        (
            "- A sentence.\n- Another. `file.rs::there`",
            "no test for: - A sentence.",
        ),
        ("- A sentence. `file.rs::gone`", "file.rs has no test gone"),
        (
            "- A sentence. `file.rs::no_test`",
            "file.rs has no test no_test",
        ),
        (
            "- A sentence. `other.rs::there`",
            "there is no other.rs below tests/",
        ),
        ("Text.\n", "no test for: Text."),
    ] {
        assert_eq!(faults(bad, &files), [what], "{bad}");
    }
    let table = "Text.\n\n| a | b |\n|---|---|\n| c | `file.rs::there` |\n";
    assert_eq!(faults(table, &files).len(), 2, "text and head name none");
}
