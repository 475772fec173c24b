//! foldfs
