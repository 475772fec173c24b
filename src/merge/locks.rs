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
    all: Gitignore,
    /// Those of names, wherever these are: they are asked about a name, not about a path, for a guest makes
    /// paths as long as it likes.
    of_names: Gitignore,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// The same for the matcher, to which braces mean something that gitignore(5) does not know.
    line: String,
    /// It lets something out of the lock.
    is_negated: bool,
    /// What it matches begins with these names.
    place: Vec<Vec<u8>>,
    depth: Depth,
}

/// How many names a path has that a pattern matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Any number, and only the last one counts.
    Name,
    /// So many.
    Exactly(usize),
    /// Any number.
    Any,
}

impl Default for Locks {
    /// Nothing is locked.
    fn default() -> Self {
        Self {
            patterns: Vec::new(),
            all: Gitignore::empty(),
            of_names: Gitignore::empty(),
        }
    }
}

impl Locks {
    /// From patterns in their order.
    ///
    /// # Errors
    /// A usage error that says what is wrong with which one.
    pub fn new<T: AsRef<str>>(texts: &[T]) -> Result<Self> {
        let builder = || {
            let mut builder = GitignoreBuilder::new("");
            builder.allow_unclosed_class(false);
            builder
        };
        let (mut all, mut of_names) = (builder(), builder());
        let mut patterns = Vec::with_capacity(texts.len());
        for text in texts {
            let text = text.as_ref();
            let line = line_of(text).map_err(|cause| wrong(text, cause))?;
            let refused = |error| wrong(text, &cause_of(error));
            let pattern = Pattern::new(text, line);
            all.add_line(None, &pattern.line).map_err(refused)?;
            if pattern.depth == Depth::Name {
                of_names.add_line(None, &pattern.line).map_err(refused)?;
            }
            patterns.push(pattern);
        }
        let built = |builder: GitignoreBuilder| {
            let built = builder.build();
            built.map_err(|error| Error::failed("patterns", cause_of(error)))
        };
        Ok(Self {
            patterns,
            all: built(all)?,
            of_names: built(of_names)?,
        })
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
        let deepest = self.deepest_match(path);
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(at, _)| at).chain([path.len()]);
        let (mut start, mut depth) = (0, 0);
        for end in ends {
            depth += 1;
            let is_directory = is_directory || end < path.len();
            let found = match depth <= deepest {
                true => self.match_of(&self.all, &path[..end], is_directory),
                false => self.match_of(&self.of_names, &path[start..end], is_directory),
            };
            if found.is_some() {
                return found;
            }
            start = end + 1;
        }
        None
    }

    fn match_of<'a>(
        &'a self,
        matcher: &'a Gitignore,
        path: &[u8],
        is_directory: bool,
    ) -> Option<&'a str> {
        let path = Path::new(OsStr::from_bytes(path));
        let Match::Ignore(glob) = matcher.matched(path, is_directory) else {
            return None;
        };
        let mut patterns = self.patterns.iter();
        let found = patterns.find(|pattern| pattern.line == glob.original());
        Some(found.map_or_else(|| glob.original(), |pattern| &*pattern.text))
    }

    /// How many of its first names a path can have for a pattern to match that is not of names.
    fn deepest_match(&self, path: &[u8]) -> usize {
        let patterns = self.patterns.iter();
        let depths = patterns.map(|pattern| match pattern.depth {
            Depth::Exactly(depth) if pattern.may_be_at(path) => depth,
            Depth::Any if pattern.may_be_at(path) => usize::MAX,
            _ => 0,
        });
        depths.max().unwrap_or(0)
    }

    /// Whether something below a directory may be locked.
    pub fn may_reach_below(&self, directory: &[u8]) -> bool {
        let mut locking = self.patterns.iter().filter(|pattern| !pattern.is_negated);
        locking.any(|pattern| pattern.may_be_at(directory))
    }

    /// The paths at or below which all is that may be locked.
    pub fn places(&self) -> Vec<Vec<u8>> {
        let locking = self.patterns.iter().filter(|pattern| !pattern.is_negated);
        locking.map(|pattern| pattern.place.join(&b'/')).collect()
    }
}

impl Pattern {
    fn new(text: &str, line: String) -> Self {
        // Its classes have no slash, those of the line may.
        let body = text.strip_prefix('!').unwrap_or(text);
        let body = body.strip_suffix('/').unwrap_or(body);
        let names: Vec<&str> = body.split('/').filter(|name| !name.is_empty()).collect();
        let is_plain = |name: &&&str| !name.contains(['*', '?', '[', '\\']);
        let place = names.iter().take_while(is_plain);
        let depth = match names[..] {
            ["**"] => Depth::Any,
            ["**", name] if name != "**" => Depth::Name,
            [_] if !body.starts_with('/') => Depth::Name,
            _ if names.contains(&"**") => Depth::Any,
            _ => Depth::Exactly(names.len()),
        };
        let place = match depth {
            Depth::Name => Vec::new(),
            _ => place.map(|name| name.as_bytes().to_vec()).collect(),
        };
        Self {
            is_negated: line.starts_with('!'),
            place,
            depth,
            text: text.into(),
            line,
        }
    }

    /// Whether it may match a path, or something below it.
    fn may_be_at(&self, path: &[u8]) -> bool {
        let names = path.split(|&byte| byte == b'/');
        let names = names.filter(|name| !name.is_empty());
        self.place
            .iter()
            .zip(names)
            .all(|(left, right)| left == right)
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

#[cfg(test)]
mod tests;
