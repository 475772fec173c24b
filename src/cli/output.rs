//! Standard output and standard error.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::error::{Context, Error, Result};

/// Writes text to standard output. A reader that has gone (`| head`) is no error.
///
/// # Errors
/// Standard output cannot be written to for another reason, such as a full disk.
pub fn print(text: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.about("standard output"),
    }
}

/// Writes a value to standard output as JSON for people and programs: indented, one newline.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::failed("standard output", error))?;
    text.push(b'\n');
    print(&text)
}

/// An error as `--json` writes it.
#[derive(Serialize)]
struct JsonError<'a> {
    error: &'a Error,
    exit_code: u8,
}

/// Writes an error to standard error: `foldfs: OBJECT: CAUSE; REMEDY`, or as JSON on one line.
pub fn print_error(error: &Error, json: bool) {
    let text = if json {
        let exit_code = error.kind.exit_code();
        serde_json::to_string(&JsonError { error, exit_code })
            .unwrap_or_else(|_| format!("foldfs: {error}"))
    } else {
        format!("foldfs: {error}")
    };
    // There is nobody left to tell when standard error is closed; the exit code says it.
    if writeln!(io::stderr().lock(), "{text}").is_err() {}
}
