//! A progress bar on standard error, once work has lasted for a second.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::{Progress, Silent};

/// Work that is done sooner shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows progress if somebody is there to see it: a bar if standard error is a terminal and
/// `wanted`, else nothing.
pub fn progress(wanted: bool) -> Box<dyn Progress> {
    if wanted && stderr().is_terminal() {
        Box::new(Bar::new())
    } else {
        Box::new(Silent)
    }
}

struct Bar {
    bar: ProgressBar,
    begun: Instant,
    shown: AtomicBool,
}

impl Bar {
    fn new() -> Self {
        Self {
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            begun: Instant::now(),
            shown: AtomicBool::new(false),
        }
    }

    fn show_when_due(&self) {
        let due = self.begun.elapsed() >= PATIENCE;
        if due && !self.shown.load(Ordering::Relaxed) && !self.shown.swap(true, Ordering::Relaxed) {
            self.set_style();
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn set_style(&self) {
        let template = if self.bar.length().is_some() {
            "{wide_msg} {bar:30} {binary_bytes:>10} of {binary_total_bytes:>10} {eta:>4}"
        } else {
            "{spinner} {wide_msg} {binary_bytes:>10} {elapsed:>4}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        let unknown = self.bar.length().is_none();
        self.bar.set_length(bytes);
        if unknown && self.shown.load(Ordering::Relaxed) {
            self.set_style();
        }
        self.show_when_due();
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.show_when_due();
    }

    fn message(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.show_when_due();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_sound_and_short_work_shows_nothing() {
        let bar = Bar::new();
        bar.message("hashing");
        bar.set_style();
        bar.total(100);
        bar.set_style();
        bar.advance(40);
        bar.advance(60);
        assert_eq!(bar.bar.position(), 100);
        assert!(!bar.shown.load(Ordering::Relaxed));
        for template in [
            "{wide_msg} {bar:30} {binary_bytes:>10}",
            "{spinner} {elapsed:>4}",
        ] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
