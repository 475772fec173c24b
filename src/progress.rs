//! How long work tells how far it is.

/// Receives the progress of one piece of work. Called from several threads; cheap enough to be
/// called for each file.
pub trait Progress: Send + Sync {
    /// The whole work, as far as it is known now; bytes. May be corrected later.
    fn total(&self, bytes: u64);

    /// So many more bytes are done.
    fn advance(&self, bytes: u64);

    /// What is being done, in a few words, for a person.
    fn message(&self, text: &str);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn total(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn message(&self, _text: &str) {}
}
