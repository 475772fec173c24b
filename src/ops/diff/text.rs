//! The lines in which text files differ.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use similar::TextDiff;

use crate::error::{Context, Result};
use crate::merge::compare::{Tree, open_path};
use crate::ops::report::{DiffReport, DiffSide};
use crate::path_bytes::PathBytes;
use crate::sys::copy;

/// Longer files are not compared by lines.
const SIZE_MAX: u64 = 1 << 20;
/// After so long, what is left of two files counts as replaced as a whole.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Lines around a difference.
const CONTEXT: usize = 3;

/// Adds the lines to what the report tells of regular files of other content, of added and of removed
/// ones, as far as they are text: UTF-8 without NUL, 1 MiB at most.
///
/// # Errors
/// Those of reading the trees.
pub(super) fn add(report: &mut DiffReport, old: &mut dyn Tree, new: &mut dyn Tree) -> Result<()> {
    for entry in &mut report.differences {
        let is_text_candidate = |side: &Option<DiffSide>| {
            side.as_ref()
                .is_none_or(|side| side.file_type == "f" && side.size <= SIZE_MAX)
        };
        let differs = match &entry.kind[..] {
            "altered" | "moved" => entry.aspects.iter().any(|aspect| aspect == "content"),
            _ => true,
        };
        if !differs || !is_text_candidate(&entry.old) || !is_text_candidate(&entry.new) {
            continue;
        }
        let origin = entry.from.as_ref().unwrap_or(&entry.path);
        let old_text = read(entry.old.as_ref(), origin, old)?;
        let new_text = read(entry.new.as_ref(), &entry.path, new)?;
        if let (Some(old_text), Some(new_text)) = (old_text, new_text) {
            entry.text = Some(lines(&old_text, &new_text));
        }
    }
    Ok(())
}

/// The text of a file; none where the tree lacks it, `None` if it is no text.
fn read(side: Option<&DiffSide>, path: &PathBytes, tree: &mut dyn Tree) -> Result<Option<String>> {
    if side.is_none_or(|side| side.size == 0) {
        return Ok(Some(String::new()));
    }
    let below = path.as_bytes();
    let file = open_path(tree, below.strip_prefix(b"/").unwrap_or(below))?;
    let bytes = read_all(&file).about(path)?;
    let text = bytes.filter(|bytes| !bytes.contains(&0));
    Ok(text.and_then(|text| String::from_utf8(text).ok()))
}

/// `None` if it is longer than it may be.
fn read_all(file: &OwnedFd) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; SIZE_MAX as usize + 1];
    let length = copy::read_at(file.as_fd(), &mut bytes, 0)?;
    bytes.truncate(length);
    Ok((length as u64 <= SIZE_MAX).then_some(bytes))
}

fn lines(old: &str, new: &str) -> String {
    let mut configuration = TextDiff::configure();
    let diff = configuration.timeout(TIME_MAX).diff_lines(old, new);
    diff.unified_diff().context_radius(CONTEXT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_with_what_is_around_them() {
        let old: String = (0..20).map(|line| format!("{line}\n")).collect();
        let new = old.replace("10\n", "ten\n");
        assert_eq!(
            lines(&old, &new),
            "@@ -8,7 +8,7 @@\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n"
        );
        assert_eq!(lines("", "a\n"), "@@ -0,0 +1 @@\n+a\n");
        assert!(lines("a\n", "a").contains("No newline at end of file"));
    }
}
