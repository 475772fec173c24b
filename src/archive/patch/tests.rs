//! Patches that are written and read, and what is refused.

mod hostile;

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use proptest::prelude::*;
use tempfile::TempDir;

use super::content::{BLOCK, block_size};
use super::*;
use crate::error::Error;
use crate::store::content::digest_of;
use crate::store::metadata::{Content, Metadata, Time, Xattrs};

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn file_of(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn id(bytes: &[u8]) -> ContentId {
    ContentId {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
    }
}

fn metadata(mode: u32) -> Metadata {
    let xattr = (b"user.x"[..].into(), b"value"[..].into());
    Metadata {
        mode,
        uid: 1,
        gid: 2,
        mtime: Time {
            seconds: -3,
            nanoseconds: 4,
        },
        xattrs: Xattrs::from([xattr]),
    }
}

fn version(content: Content) -> Option<PathVersion> {
    Some(PathVersion {
        content,
        metadata: metadata(0o644),
        first_name: None,
    })
}

fn regular(bytes: &[u8]) -> Option<PathVersion> {
    version(Content::Regular {
        size: bytes.len() as u64,
        digest: (!bytes.is_empty()).then(|| Digest::of(bytes)),
    })
}

fn entry(path: &str, old: Option<PathVersion>, new: Option<PathVersion>) -> PatchEntry {
    PatchEntry {
        path: path.into(),
        old,
        new,
    }
}

fn other_name(first: usize, version: Option<PathVersion>) -> Option<PathVersion> {
    version.map(|version| PathVersion {
        first_name: Some(first),
        ..version
    })
}

/// Text that does not pack to nothing.
fn text(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    bytes.take(length).collect()
}

fn old_and_new() -> (Vec<u8>, Vec<u8>) {
    let old = text(1, 2000);
    let mut new = old.clone();
    new.splice(500..510, *b"and now something else");
    (old, new)
}

/// One of everything.
fn entries() -> Vec<PatchEntry> {
    let (old, new) = old_and_new();
    let link = version(Content::Symlink {
        target: b"../x"[..].into(),
    });
    let device = version(Content::CharDevice { rdev: 0x501 });
    vec![
        entry("", version(Content::Directory), version(Content::Directory)),
        entry("a", None, version(Content::Directory)),
        entry("a/b", None, regular(b"new content")),
        entry("a/c", None, other_name(2, regular(b"new content"))),
        entry("d", regular(b""), link),
        entry("e", regular(&old), regular(&new)),
        entry("f", device, None),
        entry("g", version(Content::Fifo), version(Content::Socket)),
        entry("h", regular(b"moved"), None),
        entry("i", None, regular(b"moved")),
    ]
}

fn secret(directory: &Path, name: &str, seed: u8) -> (PathBuf, SecretKey) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let path = directory.join(name);
    let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap();
    std::fs::write(&path, pem.as_bytes()).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let read = SecretKey::read(&path).unwrap();
    (path, read)
}

fn write(path: &Path, signer: Option<&SecretKey>, entries: Vec<PatchEntry>) -> PatchTable {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = PatchWriter::new(file, signer, "patch".into()).unwrap();
    let (old, new) = old_and_new();
    let (old_file, new_file) = (file_of(&old), file_of(&new));
    writer
        .add((id(b"new content"), file_of(b"new content").as_fd()), None)
        .unwrap();
    let new = (id(&new), new_file.as_fd());
    writer.add(new, Some((id(&old), old_file.as_fd()))).unwrap();
    let names = (b"one".to_vec(), b"two".to_vec());
    let (table, size) = writer.finish(names, entries).unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().len(), size);
    table
}

fn unpacked(patch: &PatchFile, id: &ContentId, old: Option<&[u8]>) -> Result<Vec<u8>, Error> {
    let old = old.map(file_of);
    let mut out = Vec::new();
    let old = old.as_ref().map(|file| file.as_fd());
    patch.unpack(id, old, &mut |bytes| {
        out.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(out)
}

/// The text of the error, which names object, cause and remedy.
#[track_caller]
fn refused<T>(result: Result<T, Error>) -> String {
    let error = result.err().expect("it is accepted");
    assert!(
        !error.object.is_empty() && !error.cause.is_empty(),
        "{error:?}"
    );
    assert!(!error.remedy.is_empty(), "{error:?}");
    error.to_string()
}

#[test]
fn what_is_written_is_read() {
    let directory = directory();
    let path = directory.path().join("p");
    let table = write(&path, None, entries());
    let patch = PatchFile::open(&path).unwrap();
    assert_eq!(patch.table(), &table);
    assert_eq!(patch.table().entries, entries());
    assert_eq!((&table.old[..], &table.new[..]), (&b"one"[..], &b"two"[..]));
    let (old, new) = old_and_new();
    assert_eq!(
        unpacked(&patch, &id(b"new content"), None).unwrap(),
        b"new content"
    );
    assert_eq!(unpacked(&patch, &id(&new), Some(&old)).unwrap(), new);
    let delta = patch.content(&id(&new)).unwrap();
    assert_eq!(delta.base, Some(id(&old)));
    assert!(delta.stored() < 200, "{}", delta.stored());
    // The old content itself is not in it.
    assert_eq!(patch.content(&id(b"moved")), None);
    assert_eq!(patch.signer(), None);
}

#[test]
fn a_record_is_a_table_alone() {
    let directory = directory();
    let path = directory.path().join("record");
    let patch = directory.path().join("patch");
    let written = write(&patch, None, entries());
    let (record, table) = encode_record(&written).unwrap();
    assert_eq!(table.entries, written.entries);
    assert!(table.contents.is_empty() && !written.contents.is_empty());
    std::fs::write(&path, &record).unwrap();
    assert_eq!(PatchFile::open_record(&path).unwrap(), table);
    let back = table.reversed();
    assert_eq!(back.entries[2].old, table.entries[2].new);
    let (record, found) = encode_record(&back).unwrap();
    assert_eq!(found, back);
    assert_eq!(found.reversed(), table);
    std::fs::write(&path, &record).unwrap();
    assert_eq!(PatchFile::open_record(&path).unwrap(), back);

    let said = refused(PatchFile::open(&path));
    assert!(said.contains("without the contents"), "{said}");
    let said = refused(PatchFile::open_record(&patch));
    assert!(said.contains("no record of a change"), "{said}");
    for at in 0..record.len() {
        let mut bad = record.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(PatchFile::open_record(&path).is_err(), "byte {at}");
    }
}

#[test]
fn a_content_of_several_blocks_is_told_block_by_block() {
    let directory = directory();
    let path = directory.path().join("p");
    let old = text(7, 2 * BLOCK as usize + 12345);
    let mut new = old[1000..].to_vec();
    new.splice(20 << 20..20 << 20, *b"in between");
    let tail = text(9, 3000);
    new.extend(&tail);
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = PatchWriter::new(file, None, "patch".into()).unwrap();
    let (old_file, new_file) = (file_of(&old), file_of(&new));
    let to = (id(&new), new_file.as_fd());
    writer.add(to, Some((id(&old), old_file.as_fd()))).unwrap();
    let entries = vec![entry("e", regular(&old), regular(&new))];
    writer.finish((Vec::new(), Vec::new()), entries).unwrap();
    let patch = PatchFile::open(&path).unwrap();
    let content = patch.content(&id(&new)).unwrap();
    assert_eq!(content.blocks.len() as u64, new.len() as u64 / BLOCK + 1);
    assert!(content.stored() < 20_000, "{}", content.stored());
    assert!(unpacked(&patch, &id(&new), Some(&old)).unwrap() == new);
    assert_eq!(block_size(BLOCK + 1, 1), 1);
}

#[test]
fn what_has_nothing_in_common_travels_by_itself() {
    let (old, new) = (text(1, 5000), text(2, 5000));
    let path = directory();
    let path = path.path().join("p");
    let mut writer =
        PatchWriter::new(std::fs::File::create(&path).unwrap(), None, "patch".into()).unwrap();
    let (old_file, new_file) = (file_of(&old), file_of(&new));
    let to = (id(&new), new_file.as_fd());
    writer.add(to, Some((id(&old), old_file.as_fd()))).unwrap();
    let entries = vec![entry("e", regular(&old), regular(&new))];
    let (table, _) = writer.finish((Vec::new(), Vec::new()), entries).unwrap();
    assert_eq!(table.contents[0].base, None);
    assert_eq!(
        unpacked(&PatchFile::open(&path).unwrap(), &id(&new), None).unwrap(),
        new
    );
}

#[test]
fn what_changes_while_it_is_read_is_not_written() {
    let file = tempfile::tempfile().unwrap();
    let mut writer = PatchWriter::new(file, None, "patch".into()).unwrap();
    let (was, is) = (file_of(b"was"), file_of(b"is now"));
    let error = refused(writer.add((id(b"was"), is.as_fd()), None));
    assert!(error.contains("changed while it was read"), "{error}");
    let old = Some((id(b"was"), is.as_fd()));
    let error = refused(writer.add((id(b"was"), was.as_fd()), old));
    assert!(error.contains("it is not content"), "{error}");
}

#[test]
fn an_old_content_that_is_another_one_is_refused() {
    let directory = directory();
    let path = directory.path().join("p");
    write(&path, None, entries());
    let patch = PatchFile::open(&path).unwrap();
    let (_, new) = old_and_new();
    let error = refused(unpacked(&patch, &id(&new), Some(b"another")));
    assert!(error.contains("what should be its old content"), "{error}");
    let error = unpacked(&patch, &id(&new), None).unwrap_err();
    assert!(error.cause.contains("is not here"), "{error}");
}

#[test]
fn every_flip_and_every_truncation_is_found() {
    let directory = directory();
    let path = directory.path().join("p");
    let (_, key) = secret(directory.path(), "key", 1);
    for signer in [None, Some(&key)] {
        write(&path, signer, entries());
        let whole = std::fs::read(&path).unwrap();
        PatchFile::open(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            refused(PatchFile::open(&path));
        }
        for at in 0..whole.len() {
            let bits = if signer.is_some() {
                at % 8..at % 8 + 1
            } else {
                0..8
            };
            for bit in bits {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                std::fs::write(&path, &bytes).unwrap();
                refused(PatchFile::open(&path));
            }
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        refused(PatchFile::open(&path));
    }
}

#[test]
fn a_signature_is_of_one_key_and_one_patch() {
    let directory = directory();
    let (path, other) = (directory.path().join("p"), directory.path().join("o"));
    let (_, key) = secret(directory.path(), "key", 1);
    let (_, stranger) = secret(directory.path(), "stranger", 2);
    write(&path, Some(&key), entries());
    let patch = PatchFile::open(&path).unwrap();
    assert_eq!(patch.signer(), Some(&key.public()));
    patch.demand(&[]).unwrap();
    patch.demand(&[stranger.public(), key.public()]).unwrap();
    let error = refused(patch.demand(&[stranger.public()]));
    assert!(error.contains("which is none of `patch_keys`"), "{error}");
    assert!(error.contains(&key.public().to_string()), "{error}");
    write(&other, None, entries());
    let unsigned = PatchFile::open(&other).unwrap();
    unsigned.demand(&[]).unwrap();
    let error = refused(unsigned.demand(&[key.public()]));
    assert!(error.contains("it is not signed"), "{error}");
    // The signature of another patch.
    write(&other, Some(&key), entries()[..9].to_vec());
    let (a, b) = (
        std::fs::read(&path).unwrap(),
        std::fs::read(&other).unwrap(),
    );
    let mixed = [&b[..b.len() - 64], &a[a.len() - 64..]].concat();
    std::fs::write(&other, mixed).unwrap();
    let error = refused(PatchFile::open(&other));
    assert!(error.contains("its signature is not of the key"), "{error}");
    let text = key.public().to_string();
    assert_eq!(text.parse(), Ok(key.public()));
    assert_eq!(
        "MCowBQYDK2VwAyEA".parse::<PublicKey>(),
        Err(super::signature::NotAKey)
    );
}

#[test]
fn a_key_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let (path, _) = secret(directory.path(), "key", 1);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = refused(SecretKey::read(&path));
    assert!(error.contains("others than its owner"), "{error}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    SecretKey::read(&path).unwrap();
    let path = directory.path().join("text");
    std::fs::write(&path, "no key").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = refused(SecretKey::read(&path));
    assert!(error.contains("it is no private key"), "{error}");
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_content_comes_back(old in any_bytes(), cut in any::<prop::sample::Index>(), more in any_bytes()) {
        let mut new = old.clone();
        if !old.is_empty() {
            new.splice(cut.index(old.len()).., more);
        }
        prop_assume!(!new.is_empty() && !old.is_empty() && new != old);
        let directory = directory();
        let path = directory.path().join("p");
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = PatchWriter::new(file, None, "patch".into()).unwrap();
        let (old_file, new_file) = (file_of(&old), file_of(&new));
        let to = (id(&new), new_file.as_fd());
        writer.add(to, Some((id(&old), old_file.as_fd()))).unwrap();
        let entries = vec![entry("e", regular(&old), regular(&new))];
        writer.finish((Vec::new(), Vec::new()), entries).unwrap();
        let patch = PatchFile::open(&path).unwrap();
        prop_assert_eq!(unpacked(&patch, &id(&new), Some(&old)).unwrap(), new);
        prop_assert_eq!(digest_of(old_file.as_fd()).unwrap(), Digest::of(&old));
    }
}
