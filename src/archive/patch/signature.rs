//! Who made a patch: Ed25519 (RFC 8032) over its SHA-256. Keys are as OpenSSL writes them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::error::{Context, Error, Result};
use crate::store::digest::Digest;

/// Before the digest that is signed, so that no signature of something else is one of a patch.
const PURPOSE: &[u8] = b"foldfs patch, format 1\0";
/// No key file is longer.
const KEY_FILE_MAX: u64 = 4096;
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

fn signed_bytes(digest: &Digest) -> Vec<u8> {
    [PURPOSE, digest.as_bytes()].concat()
}

/// The key that signs patches.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Reads a key file: PKCS #8 in PEM, as `openssl genpkey -algorithm ed25519` makes it.
    ///
    /// # Errors
    /// It is not there, no such key, or not its owner's alone.
    pub fn read(path: &Path) -> Result<Self> {
        let about = format!("key {}", path.display());
        let file = File::open(path).about(&about)?;
        if file.metadata().about(&about)?.mode() & 0o077 != 0 {
            return Err(Error::failed(&about, "others than its owner may use it")
                .remedy("give it mode 0600, or make a new one if somebody has read it"));
        }
        let mut text = String::new();
        let read = file.take(KEY_FILE_MAX).read_to_string(&mut text);
        let key = read
            .ok()
            .and_then(|_| SigningKey::from_pkcs8_pem(&text).ok());
        key.map(Self).ok_or_else(|| {
            Error::failed(&about, "it is no private key for Ed25519 in PEM")
                .remedy("make one with `openssl genpkey -algorithm ed25519 -out FILE`")
        })
    }

    /// The key that its signatures are verified with.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The signature of a patch of this digest.
    pub(super) fn sign(&self, digest: &Digest) -> [u8; 64] {
        self.0.sign(&signed_bytes(digest)).to_bytes()
    }
}

/// The key that a signature is verified with. Its text is the line between the first and the last one
/// of what `openssl pkey -in KEY -pubout` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    pub(super) fn bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        (!key.is_weak()).then_some(Self(key))
    }

    /// Whether this is its signature of a patch of this digest.
    pub(super) fn has_signed(&self, digest: &Digest, signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        let verified = self.0.verify_strict(&signed_bytes(digest), &signature);
        verified.is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pem = self.0.to_public_key_pem(LineEnding::LF);
        let pem = pem.map_err(|_| fmt::Error)?;
        let text = pem.trim().strip_prefix(BEGIN).unwrap_or_default();
        f.write_str(text.strip_suffix(END).unwrap_or_default().trim())
    }
}

/// Text that is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAKey;

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let pem = format!("{BEGIN}\n{}\n{END}\n", text.trim());
        let key = VerifyingKey::from_public_key_pem(&pem).map_err(|_| NotAKey)?;
        Self::from_bytes(&key.to_bytes()).ok_or(NotAKey)
    }
}
