//! What a daemon did since it began, as OpenMetrics text. All of it is counted anyway: nothing is
//! looked up in the store for it.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::error::{Error, Result};
use crate::filesystem::images::Promotions;
use crate::ops::tally::Sum;

/// How an answer over HTTP names the format.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there is to tell.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// When the daemon began; seconds since 1970.
    pub(super) started: i64,
    /// Mounted images.
    pub(super) mounts: u64,
    /// Inodes of them that the kernel refers to.
    pub(super) nodes: u64,
    /// Open files of them.
    pub(super) handles: u64,
    /// Requests of the kernel, by what its protocol calls them.
    pub(super) requests: Vec<(&'static str, u64)>,
    /// Copies of shared files.
    pub(super) promotions: Promotions,
    /// Requests that were refused because of what is locked.
    pub(super) refusals: u64,
    /// Objects that were found damaged.
    pub(super) damaged: u64,
    /// Passes that found nothing altered.
    pub(super) idle_passes: u64,
    /// What passes and folds did.
    pub(super) sums: Vec<Sum>,
}

type Labels = [(&'static str, String); 1];
type Seconds = Counter<f64, AtomicU64>;
type Of = fn(&Sum) -> u64;

impl Numbers {
    /// The text.
    pub(super) fn text(&self) -> Result<String> {
        let mut registry = Registry::with_prefix("foldfs");
        self.daemon(&mut registry);
        self.folds(&mut registry);
        self.left_alone(&mut registry);
        let mut out = String::new();
        text::encode(&mut out, &registry).map_err(|error| Error::failed("metrics", error))?;
        Ok(out)
    }

    fn daemon(&self, registry: &mut Registry) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", version);
        let started = gauge(self.started);
        let help = "When the daemon began, since 1970";
        registry.register_with_unit("start_time", help, Unit::Seconds, started);
        for (name, help, number) in [
            ("mounts", "Mounted images", self.mounts),
            (
                "nodes",
                "Inodes of mounted images that the kernel refers to",
                self.nodes,
            ),
            ("handles", "Open files of mounted images", self.handles),
            (
                "damaged_objects",
                "Objects that were found damaged",
                self.damaged,
            ),
        ] {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            registry.register(name, help, gauge(number));
        }
        let requests = Family::<[(&'static str, &'static str); 1], Counter>::default();
        for &(operation, count) in &self.requests {
            requests.get_or_create(&[("op", operation)]).inc_by(count);
        }
        let help =
            "Requests of the kernel about mounted images, and notices that it forgets inodes";
        registry.register("requests", help, requests);
        let help = "Shared files that were given to an image as its own";
        registry.register("promoted_files", help, counter(self.promotions.files));
        let failures = counter(self.promotions.failures);
        registry.register("promotion_failures", "Promotions that failed", failures);
        let help = "Content that was copied for that";
        let bytes = counter(self.promotions.bytes);
        registry.register_with_unit("promoted", help, Unit::Bytes, bytes);
        let help = "Requests that were refused because a path is locked";
        registry.register("locked_refusals", help, counter(self.refusals));
        let help = "Passes before which nothing had been altered; they are no folds";
        registry.register("idle_passes", help, counter(self.idle_passes));
    }

    fn folds(&self, registry: &mut Registry) {
        let counts: [(&str, &str, Of); 6] = [
            (
                "folds",
                "Passes of the daemon (by=pass) and folds that were asked for (by=fold)",
                |sum| sum.count,
            ),
            ("fold_failures", "Folds that failed", |sum| sum.failed),
            (
                "examined_files",
                "Private files that folds looked at",
                |sum| sum.done.examined,
            ),
            (
                "folded_files",
                "Private files whose content is kept once now",
                |sum| sum.done.folded_files,
            ),
            (
                "shared_paths",
                "Paths that moved into the shared layer",
                |sum| sum.done.shared_paths,
            ),
            (
                "unshared_paths",
                "Paths that left it, or changed their version there",
                |sum| sum.done.unshared_paths,
            ),
        ];
        for (name, help, of) in counts {
            registry.register(name, help, self.by(of));
        }
        let folded = self.by(|sum| sum.done.folded_bytes);
        registry.register_with_unit("folded", "Content of folded files", Unit::Bytes, folded);
        let freed = self.by(|sum| sum.done.freed_bytes);
        let help = "Allocated bytes that folds set free";
        registry.register_with_unit("freed", help, Unit::Bytes, freed);

        let took = Family::<Labels, Seconds>::default();
        let last = Family::<Labels, Gauge>::default();
        for sum in &self.sums {
            let seconds = sum.done.milliseconds as f64 / 1000.0;
            took.get_or_create(&[("by", sum.by.clone())])
                .inc_by(seconds);
            last.get_or_create(&[("by", sum.by.clone())])
                .set(sum.last_ended);
        }
        registry.register_with_unit("fold", "How long folds took", Unit::Seconds, took);
        let help = "When the last fold ended, since 1970";
        registry.register_with_unit("last_fold_time", help, Unit::Seconds, last);
    }

    fn left_alone(&self, registry: &mut Registry) {
        let left = Family::<[(&'static str, String); 2], Counter>::default();
        for sum in &self.sums {
            for (why, files) in [
                ("busy", sum.done.busy_files),
                ("damaged", sum.done.damaged_files),
                ("recent", sum.done.recent_files),
                ("held", sum.done.held_files),
            ] {
                let labels = [("by", sum.by.clone()), ("why", why.to_owned())];
                left.get_or_create(&labels).inc_by(files);
            }
        }
        let help = "How often folds left a private file alone: in use, damaged, altered a moment ago, held";
        registry.register("left_files", help, left);
    }

    fn by(&self, of: impl Fn(&Sum) -> u64) -> Family<Labels, Counter> {
        let family = Family::<Labels, Counter>::default();
        for sum in &self.sums {
            family
                .get_or_create(&[("by", sum.by.clone())])
                .inc_by(of(sum));
        }
        family
    }
}

fn counter(number: u64) -> Counter {
    let counter = Counter::default();
    counter.inc_by(number);
    counter
}

fn gauge(number: i64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(number);
    gauge
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::report::PassReport;

    #[test]
    fn names_have_units_and_the_text_has_an_end() {
        let numbers = Numbers {
            mounts: 2,
            requests: vec![("lookup", 6), ("open", 0)],
            promotions: Promotions {
                files: 3,
                bytes: 4096,
                failures: 1,
            },
            refusals: 9,
            sums: vec![Sum {
                by: "pass".into(),
                count: 5,
                done: PassReport {
                    milliseconds: 1500,
                    folded_bytes: 7,
                    held_files: 8,
                    ..PassReport::default()
                },
                ..Sum::default()
            }],
            ..Numbers::default()
        };
        let text = numbers.text().unwrap();
        for line in [
            "foldfs_mounts 2",
            "foldfs_requests_total{op=\"lookup\"} 6",
            "foldfs_requests_total{op=\"open\"} 0",
            "foldfs_promoted_files_total 3",
            "foldfs_promoted_bytes_total 4096",
            "foldfs_locked_refusals_total 9",
            "foldfs_promotion_failures_total 1",
            "# UNIT foldfs_promoted_bytes bytes",
            "# TYPE foldfs_folds counter",
            "foldfs_folds_total{by=\"pass\"} 5",
            "foldfs_fold_seconds_total{by=\"pass\"} 1.5",
            "foldfs_folded_bytes_total{by=\"pass\"} 7",
            "foldfs_left_files_total{by=\"pass\",why=\"held\"} 8",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
