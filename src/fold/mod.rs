//! Fold: what is equal is kept once. Two tiers: content (a private file becomes a stub) and
//! placement (versions move into and out of the shared layer).

pub mod candidates;
mod commit;
pub mod content;
pub mod damage;
pub mod effort;
pub mod examined;
pub mod folding;
mod hashing;
pub mod holds;
mod known_objects;
pub mod placement;
mod replaced;
mod residents;
pub mod settle;
