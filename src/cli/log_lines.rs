//! Log lines: what happened in words, and then what it happened to, as key=value pairs.

use std::fmt::Write as _;
use std::io::Write as _;

use log::LevelFilter;
use log::kv::{Error, Key, Source, Value, VisitSource};

/// Logs to standard error from now on.
pub fn start(level: LevelFilter) {
    env_logger::Builder::new()
        .filter_level(level)
        .format_target(false)
        .format_key_values(|out, pairs| out.write_all(text(pairs).as_bytes()))
        .init();
}

fn text(pairs: &dyn Source) -> String {
    let mut text = Pairs(String::new());
    match pairs.visit(&mut text) {
        Ok(()) => text.0,
        Err(error) => format!("{} ({error})", text.0),
    }
}

struct Pairs(String);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = value.to_string();
        // What a guest has named must not look like another pair, or another line.
        let special = |letter: char| {
            letter.is_whitespace() || letter.is_control() || "\"\\=".contains(letter)
        };
        match value.is_empty() || value.contains(special) {
            true => write!(self.0, " {key}={value:?}")?,
            false => write!(self.0, " {key}={value}")?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_looks_like_nothing_else() {
        let pairs = [
            ("image", Value::from("web")),
            ("files", Value::from(3)),
            ("empty", Value::from("")),
            ("path", Value::from("/a b\nimage=\"x\"\x1b")),
        ];
        assert_eq!(
            text(&pairs),
            " image=web files=3 empty=\"\" path=\"/a b\\nimage=\\\"x\\\"\\u{1b}\""
        );
    }
}
