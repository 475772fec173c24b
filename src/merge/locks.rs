//! Which paths of a family's images are locked: by patterns with the syntax and the meaning that
//! gitignore(5) gives them, from the root of a view. The last pattern that matches decides, and nothing
//! below a locked directory can be let out of the lock.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{Error, Result};

/// The longest pattern; bytes.
const LONGEST: usize = 4096;

/// Patterns, in their order.
#[derive(Debug, Clone)]
pub struct Locks {
    patterns: Vec<Pattern>,
    matcher: Gitignore,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// The same for the matcher, to which braces mean something that gitignore(5) does not know.
    line: String,
    reach: Reach,
}

/// Where what a pattern locks may be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    /// It locks nothing.
    Nowhere,
    /// At or below the path of these names.
    Below(Vec<Vec<u8>>),
}

impl Default for Locks {
    /// Nothing is locked.
    fn default() -> Self {
        Self {
            patterns: Vec::new(),
            matcher: Gitignore::empty(),
        }
    }
}

impl Locks {
    /// From patterns in their order.
    ///
    /// # Errors
    /// A usage error that says what is wrong with which one.
    pub fn new<T: AsRef<str>>(texts: &[T]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("");
        builder.allow_unclosed_class(false);
        let mut patterns = Vec::with_capacity(texts.len());
        for text in texts {
            let text = text.as_ref();
            let line = line_of(text).map_err(|cause| wrong(text, cause))?;
            builder
                .add_line(None, &line)
                .map_err(|error| wrong(text, &cause_of(error)))?;
            patterns.push(Pattern {
                reach: reach_of(&line),
                text: text.into(),
                line,
            });
        }
        let matcher = builder.build();
        let matcher = matcher.map_err(|error| Error::failed("patterns", cause_of(error)))?;
        Ok(Self { patterns, matcher })
    }

    /// Nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The patterns.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|pattern| &*pattern.text)
    }

    /// The pattern by which something at a path (without a leading '/') is locked: its own, or that of a
    /// directory above it. The root is never locked.
    pub fn of(&self, path: &[u8], is_directory: bool) -> Option<&str> {
        if self.is_empty() || path.is_empty() {
            return None;
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut above = slashes.map(|(at, _)| &path[..at]);
        above
            .find_map(|directory| self.at(directory, true))
            .or_else(|| self.at(path, is_directory))
    }

    fn at(&self, path: &[u8], is_directory: bool) -> Option<&str> {
        let path = Path::new(OsStr::from_bytes(path));
        let Match::Ignore(glob) = self.matcher.matched(path, is_directory) else {
            return None;
        };
        let mut patterns = self.patterns.iter();
        let found = patterns.find(|pattern| pattern.line == glob.original());
        Some(found.map_or_else(|| glob.original(), |pattern| &*pattern.text))
    }

    /// Whether something below a directory may be locked.
    pub fn may_reach_below(&self, directory: &[u8]) -> bool {
        let names = || directory.split(|&byte| byte == b'/');
        let names = || names().filter(|name| !name.is_empty());
        self.patterns.iter().any(|pattern| match &pattern.reach {
            Reach::Nowhere => false,
            Reach::Below(place) => place.iter().zip(names()).all(|(left, right)| left == right),
        })
    }

    /// The paths at or below which all is that may be locked.
    pub fn places(&self) -> Vec<Vec<u8>> {
        let patterns = self.patterns.iter();
        let places = patterns.filter_map(|pattern| match &pattern.reach {
            Reach::Nowhere => None,
            Reach::Below(place) => Some(place.join(&b'/')),
        });
        places.collect()
    }
}

fn wrong(pattern: &str, cause: &str) -> Error {
    Error::usage(format!("pattern {pattern:?}"), cause)
        .remedy("gitignore(5) describes patterns; they begin at the image's root")
}

fn cause_of(error: ignore::Error) -> String {
    match error {
        ignore::Error::Glob { err, .. } => err,
        other => other.to_string(),
    }
}

/// What the matcher is told. What it would understand otherwise than git does, and what never matches
/// anything, is refused: somebody relies on it.
fn line_of(text: &str) -> Result<String, &'static str> {
    if text.len() > LONGEST {
        return Err("it is too long");
    }
    if text.contains(['\n', '\0']) {
        return Err("it is more than one line");
    }
    if text.starts_with('#') {
        return Err("it is a comment; write \\# for the character");
    }
    if text.ends_with(char::is_whitespace) && !ends_with_escaped_space(text) {
        return Err("a space at its end does not count; write \"\\ \" for one");
    }
    let body = text.strip_prefix('!').unwrap_or(text);
    let names = body.strip_prefix('/').unwrap_or(body);
    let names = names.strip_suffix('/').unwrap_or(names);
    if names.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err("it matches nothing: an empty name, \".\" or \"..\" is no name of a path");
    }
    let mut line = String::with_capacity(text.len());
    line.push_str(&text[..text.len() - body.len()]);
    // It would take the slash of a class for one that separates names.
    if !body.strip_suffix('/').unwrap_or(body).contains('/') {
        line.push_str("**/");
    }
    let mut rest = body.chars();
    while let Some(char) = rest.next() {
        match char {
            '\\' => match rest.next() {
                None => return Err("it ends with a backslash"),
                Some('/') => return Err("a backslash stands before a slash"),
                Some(escaped) => line.extend(['\\', escaped]),
            },
            '{' | '}' => line.extend(['\\', char]),
            '[' => {
                let (class, length) = class_of(rest.as_str())?;
                line.push_str(&class);
                rest = rest.as_str()[length..].chars();
            }
            char => line.push(char),
        }
    }
    Ok(line)
}

fn ends_with_escaped_space(text: &str) -> bool {
    let before = text.strip_suffix(' ').unwrap_or_default();
    let backslashes = before.chars().rev().take_while(|&char| char == '\\');
    backslashes.count() % 2 == 1
}

/// A class of characters, of which `rest` is what follows its `[`; with the length of that. To git no class
/// has the slash, and ranges are something else to the matcher where one follows another: so it is told each
/// character.
fn class_of(rest: &str) -> Result<(String, usize), &'static str> {
    const OTHERS: &str = "a class of characters may only have plain ones, no \"[\", \"\\\", \"/\"";
    let negated = rest.strip_prefix(['!', '^']);
    let content = negated.unwrap_or(rest);
    let first = content.chars().next().map_or(0, char::len_utf8);
    let end = content.get(first..).and_then(|rest| rest.find(']'));
    let end = first + end.ok_or("a \"[\" has no \"]\"; write \\[ for the character")?;
    let length = rest.len() - content.len() + end + 1;
    let content = &content.as_bytes()[..end];
    if !content.is_ascii() || content.iter().any(|byte| b"\\/[".contains(byte)) {
        return Err(OTHERS);
    }
    let mut has = [false; 128];
    let (mut bytes, mut low) = (content.iter().copied().peekable(), None);
    while let Some(byte) = bytes.next() {
        match (byte, low.take(), bytes.peek().copied()) {
            (b'-', Some(low), Some(high)) => {
                bytes.next();
                let range = has.get_mut(usize::from(low)..=usize::from(high));
                range
                    .ok_or("a range of characters is upside down")?
                    .fill(true);
            }
            _ => {
                has[usize::from(byte)] = true;
                low = Some(byte);
            }
        }
    }
    has[usize::from(b'/')] = negated.is_some();
    // Where these stand they are characters like others.
    let plain = (0..128).filter(|byte| !b"]-!^".contains(byte));
    let order = std::iter::once(b']').chain(plain).chain(*b"!^-");
    let chars = order.filter(|byte| has[usize::from(*byte)]);
    let chars: String = chars.map(char::from).collect();
    let class = match negated {
        Some(_) => format!("[!{chars}]"),
        None if chars.len() == 1 => format!("\\{chars}"),
        None if chars.starts_with(['!', '^']) => return Err(OTHERS),
        None => format!("[{chars}]"),
    };
    Ok((class, length))
}

fn reach_of(line: &str) -> Reach {
    if line.starts_with('!') {
        return Reach::Nowhere;
    }
    let names = line.split('/').filter(|name| !name.is_empty());
    let plain = names.take_while(|name| !name.contains(['*', '?', '[', '\\']));
    Reach::Below(plain.map(|name| name.as_bytes().to_vec()).collect())
}

#[cfg(test)]
mod tests;
