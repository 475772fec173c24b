//! The operations on a store: each has options, a plan that can be printed, and its application.

pub mod report;
pub mod request;
