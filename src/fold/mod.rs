//! Fold: what is equal is kept once. Two tiers: content (a private file becomes a stub) and
//! placement (versions move into and out of the shared layer).

mod commit;
pub mod placement;
