//! The three-way merge of one file: what both sides have changed, each for itself.

use crate::archive::patch::{ContentId, PathVersion};
use crate::error::Result;
use crate::store::digest::Digest;
use crate::store::metadata::{Content, Metadata};

/// Merges what an image has made of an old version with what a change makes of it. `texts` reads contents, if
/// they are short enough. With the bytes of the result, if they are neither side's; `None`: both have changed
/// the same.
///
/// # Errors
/// Those of `texts`.
pub(super) fn merge(
    old: &PathVersion,
    own: &PathVersion,
    new: &PathVersion,
    texts: &mut dyn FnMut([ContentId; 3]) -> Result<Option<[Vec<u8>; 3]>>,
) -> Result<Option<(PathVersion, Option<Vec<u8>>)>> {
    let Some(mut metadata) = merge_metadata(&old.metadata, &own.metadata, &new.metadata) else {
        return Ok(None);
    };
    let mut bytes = None;
    let content = match of_three(&old.content, &own.content, &new.content) {
        Some(content) => content.clone(),
        None => {
            let ids = [old, own, new].map(PathVersion::content_id);
            let [Some(old), Some(own), Some(new)] = ids else {
                return Ok(None);
            };
            let Some(merged) = texts([old, own, new])?.and_then(merge_texts) else {
                return Ok(None);
            };
            let content = Content::Regular {
                size: merged.len() as u64,
                digest: (!merged.is_empty()).then(|| Digest::of(&merged)),
            };
            bytes = Some(merged);
            content
        }
    };
    metadata.mtime = if content == own.content && content != new.content {
        own.metadata.mtime
    } else if content == new.content && content != own.content {
        new.metadata.mtime
    } else {
        own.metadata.mtime.max(new.metadata.mtime)
    };
    let version = PathVersion {
        content,
        metadata,
        first_name: None,
    };
    Ok(Some((version, bytes)))
}

/// What one of two sides has changed, or both alike.
fn of_three<'a, T: PartialEq>(old: &T, own: &'a T, new: &'a T) -> Option<&'a T> {
    match (own == old, new == old) {
        (true, _) => Some(new),
        (_, true) => Some(own),
        _ => (own == new).then_some(own),
    }
}

/// All but the mtime.
fn merge_metadata(old: &Metadata, own: &Metadata, new: &Metadata) -> Option<Metadata> {
    Some(Metadata {
        mode: *of_three(&old.mode, &own.mode, &new.mode)?,
        uid: *of_three(&old.uid, &own.uid, &new.uid)?,
        gid: *of_three(&old.gid, &own.gid, &new.gid)?,
        mtime: own.mtime,
        xattrs: of_three(&old.xattrs, &own.xattrs, &new.xattrs)?.clone(),
    })
}

/// Line by line, as diff3 does; `None` for what is no text, or if both have changed the same lines.
fn merge_texts([old, own, new]: [Vec<u8>; 3]) -> Option<Vec<u8>> {
    // As diff(1) and git judge it.
    let is_text = |bytes: &Vec<u8>| !bytes.contains(&0);
    if ![&old, &own, &new].into_iter().all(is_text) {
        return None;
    }
    diffy::merge_bytes(&old, &own, &new).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::metadata::Time;

    fn version(text: &str, mode: u32, seconds: i64) -> PathVersion {
        PathVersion {
            content: Content::Regular {
                size: text.len() as u64,
                digest: (!text.is_empty()).then(|| Digest::of(text.as_bytes())),
            },
            metadata: Metadata {
                mode,
                uid: 0,
                gid: 0,
                mtime: Time {
                    seconds,
                    nanoseconds: 0,
                },
                xattrs: Default::default(),
            },
            first_name: None,
        }
    }

    /// The merged text, mode and mtime.
    fn merged(texts: [&str; 3], modes: [u32; 3]) -> Option<(String, u32, i64)> {
        let versions: Vec<_> = (0..3)
            .map(|at| version(texts[at], modes[at], at as i64))
            .collect();
        let mut read = |_| Ok(Some(texts.map(|text| text.as_bytes().to_vec())));
        let (result, bytes) =
            merge(&versions[0], &versions[1], &versions[2], &mut read).unwrap()?;
        let found = versions.iter().zip(texts);
        let found = found.filter(|(it, _)| it.content == result.content);
        let text = match bytes {
            Some(bytes) => String::from_utf8(bytes).unwrap(),
            None => found.map(|(_, text)| String::from(text)).next().unwrap(),
        };
        Some((text, result.metadata.mode, result.metadata.mtime.seconds))
    }

    #[test]
    fn what_one_side_has_changed_is_taken() {
        let modes = [0o644; 3];
        let lines = "a\nb\nc\nd\ne\nf\n";
        let (own, new) = (lines.replace('a', "own"), lines.replace('f', "new"));
        let both = own.replace('f', "new");
        assert_eq!(merged([lines, &own, &new], modes), Some((both, 0o644, 2)));
        // Content on the one side, mode on the other.
        let found = merged([lines, &own, lines], [0o644, 0o644, 0o600]);
        assert_eq!(found, Some((own.clone(), 0o600, 1)));
        let found = merged([lines, lines, &new], [0o644, 0o600, 0o644]);
        assert_eq!(found, Some((new.clone(), 0o600, 2)));
        // Binary content that only one has changed.
        let found = merged(["\0a", "\0a", "\0b"], [0o644, 0o600, 0o644]);
        assert_eq!(found, Some(("\0b".into(), 0o600, 2)));
    }

    #[test]
    fn what_both_have_changed_is_no_merge() {
        let modes = [0o644; 3];
        assert_eq!(merged(["a\n", "b\n", "c\n"], modes), None);
        assert_eq!(merged(["a\n", "a\n", "c\n"], [0o644, 0o600, 0o640]), None);
        let binary = [
            "1\0\n2\n3\n4\n5\n",
            "x\0\n2\n3\n4\n5\n",
            "1\0\n2\n3\n4\ny\n",
        ];
        assert_eq!(merged(binary, modes), None);
    }
}
