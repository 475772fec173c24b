//! The configuration file: `config.toml.example` lists every key with its default.

use std::fs;
use std::io::ErrorKind as Io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use crate::archive::patch::PublicKey;
use crate::error::{Context, Error, Result};
use crate::store::catalog::Share;
use crate::store::verification::Rate;

/// What is read when `--config` is not given, if it exists.
pub const DEFAULT_FILE: &str = "/etc/foldfs/config.toml";

/// What the configuration says. [`Config::default`] is what an empty file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The store's directory; absolute.
    pub store: PathBuf,
    /// The rule of placement of families that an import founds.
    pub share: Share,
    /// Threads that hash files; 0: one for each core, for a daemon's pass one.
    pub threads: usize,
    /// Threads that answer the kernel, for each mounted image.
    pub session_threads: usize,
    /// From the end of a daemon's pass to the next; `None`: it folds when it is told to.
    pub interval: Option<Duration>,
    /// How long a pass leaves a file alone after it was altered.
    pub quiet: Duration,
    /// Where a daemon serves metrics over HTTP: an address of this host only.
    pub metrics: Option<SocketAddr>,
    /// Which share of the objects that guests open a daemon verifies first.
    pub verify: Rate,
    /// Bytes that a daemon's pass reads in a second; `None`: as fast as it goes.
    pub rate: Option<NonZeroU64>,
    /// Who may have signed a patch; none: it need not be signed.
    pub patch_keys: Vec<PublicKey>,
    /// How many changes of each family, the newest ones, `collect` keeps so that they can be taken back.
    pub keep_changes: u64,
    /// The kernel uses the host's files itself where it can.
    pub passthrough: bool,
    /// Below these paths of an image it does not where content is shared.
    pub coherent: Vec<String>,
}

/// Where programs alter files in place while others have them open.
const COHERENT: [&str; 6] = ["/etc", "/home", "/root", "/run", "/tmp", "/var"];

impl Default for Config {
    fn default() -> Self {
        Self {
            store: PathBuf::from("/var/lib/foldfs"),
            share: Share::Majority,
            threads: 0,
            session_threads: 3,
            interval: Some(Duration::from_secs(5 * 60)),
            quiet: Duration::from_secs(30),
            metrics: None,
            verify: Rate::NEVER,
            rate: None,
            patch_keys: Vec::new(),
            keep_changes: 10,
            passthrough: true,
            coherent: COHERENT.map(String::from).into(),
        }
    }
}

/// One key: its name, the values it may have, and how one is taken over; `None` refuses it.
struct Key {
    name: &'static str,
    allowed: &'static str,
    set: fn(&mut Config, &Value) -> Option<()>,
}

const KEYS: &[Key] = &[
    Key {
        name: "store",
        allowed: "an absolute path",
        set: |config, value| {
            let path = Path::new(value.as_str()?);
            config.store = path.is_absolute().then(|| path.to_owned())?;
            Some(())
        },
    },
    Key {
        name: "share",
        allowed: "\"majority\" or \"all\"",
        set: |config, value| {
            config.share = Share::from_name(value.as_str()?)?;
            Some(())
        },
    },
    Key {
        name: "threads",
        allowed: "a number from 0 to 1024",
        set: |config, value| {
            config.threads = count(value, 0..=1024)?;
            Some(())
        },
    },
    Key {
        name: "session_threads",
        allowed: "a number from 1 to 64",
        set: |config, value| {
            config.session_threads = count(value, 1..=64)?;
            Some(())
        },
    },
    Key {
        name: "interval",
        allowed: "a time from \"1s\" to \"30days\", or \"never\"",
        set: |config, value| {
            config.interval = match value.as_str()? {
                "never" => None,
                _ => Some(time(value, 1)?),
            };
            Some(())
        },
    },
    Key {
        name: "quiet",
        allowed: "a time from \"0s\" to \"30days\"",
        set: |config, value| {
            config.quiet = time(value, 0)?;
            Some(())
        },
    },
    Key {
        name: "metrics",
        allowed: "a port of this host only, like \"127.0.0.1:9469\" or \"[::1]:9469\", or \"never\"",
        set: |config, value| {
            config.metrics = match value.as_str()? {
                "never" => None,
                text => {
                    let address: SocketAddr = text.parse().ok()?;
                    let own = address.ip().is_loopback() && address.port() != 0;
                    Some(own.then_some(address)?)
                }
            };
            Some(())
        },
    },
    Key {
        name: "verify",
        allowed: "\"never\", \"always\" or a number from 0.0 to 1.0",
        set: |config, value| {
            config.verify = match value {
                Value::String(word) if word == "never" => Rate::NEVER,
                Value::String(word) if word == "always" => Rate::ALWAYS,
                Value::Integer(share) => Rate::new(*share as f64)?,
                value => Rate::new(value.as_float()?)?,
            };
            Some(())
        },
    },
    Key {
        name: "rate",
        allowed: "a number of MiB from 0 to 1048576",
        set: |config, value| {
            let mebibytes = count(value, 0..=1 << 20)? as u64;
            config.rate = NonZeroU64::new(mebibytes << 20);
            Some(())
        },
    },
    Key {
        name: "patch_keys",
        allowed: "a list of public keys for Ed25519, each the line between the first and the last one of \
                  what `openssl pkey -in KEY -pubout` prints",
        set: |config, value| {
            let keys = value.as_array()?.iter();
            let keys = keys.map(|key| key.as_str()?.parse().ok());
            config.patch_keys = keys.collect::<Option<_>>()?;
            Some(())
        },
    },
    Key {
        name: "keep_changes",
        allowed: "a number from 0 to 1000000",
        set: |config, value| {
            config.keep_changes = count(value, 0..=1_000_000)? as u64;
            Some(())
        },
    },
    Key {
        name: "passthrough",
        allowed: "true or false",
        set: |config, value| {
            config.passthrough = value.as_bool()?;
            Some(())
        },
    },
    Key {
        name: "coherent",
        allowed: "a list of absolute paths in images, like [\"/etc\", \"/var\"]",
        set: |config, value| {
            let path = |value: &Value| {
                let path = value.as_str()?;
                let plain = |part| !matches!(part, Component::ParentDir | Component::CurDir);
                let is_plain = Path::new(path).components().all(plain);
                (path.starts_with('/') && is_plain).then(|| path.to_owned())
            };
            config.coherent = value.as_array()?.iter().map(path).collect::<Option<_>>()?;
            Some(())
        },
    },
];

/// A time like "30s", "5min" or "1h 30min", of at least so many seconds.
fn time(value: &Value, least: u64) -> Option<Duration> {
    let time = humantime::parse_duration(value.as_str()?).ok()?;
    let allowed = Duration::from_secs(least)..=Duration::from_secs(30 * 24 * 60 * 60);
    allowed.contains(&time).then_some(time)
}

fn count(value: &Value, range: std::ops::RangeInclusive<i64>) -> Option<usize> {
    let value = value.as_integer().filter(|value| range.contains(value))?;
    usize::try_from(value).ok()
}

impl Config {
    /// Reads `file`; without one, [`DEFAULT_FILE`] if it exists.
    ///
    /// # Errors
    /// Usage errors that name the file and the key: a file that is not there or not TOML, an
    /// unknown key, a value that is not allowed.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == Io::NotFound && file.is_none() => Ok(Self::default()),
            Err(error) if error.kind() == Io::NotFound => {
                Err(Error::usage(path.display(), "there is no such file")
                    .remedy("name a file that exists, or leave --config away"))
            }
            Err(error) => Err(error).about(path.display()),
        }
    }

    /// What the text of `file` means.
    fn parse(text: &str, file: &Path) -> Result<Self> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map_or(1, |before| before.matches('\n').count() + 1);
            Error::usage(
                format!("{}, line {line}", file.display()),
                error.message().trim_end(),
            )
        })?;
        let mut config = Self::default();
        for (name, value) in &table {
            let object = format!("{}: {name}", file.display());
            let Some(key) = KEYS.iter().find(|key| key.name == name) else {
                let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
                return Err(Error::usage(object, "this key is not known")
                    .remedy(format!("use any of: {}", known.join(", "))));
            };
            (key.set)(&mut config, value).ok_or_else(|| {
                Error::usage(object, format!("{value} is not allowed"))
                    .remedy(format!("set it to {}", key.allowed))
            })?;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../config.toml.example");

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("/etc/c.toml"))
    }

    #[test]
    fn the_example_lists_every_key_with_its_default() {
        let table: Table = EXAMPLE.parse().unwrap();
        for key in KEYS {
            assert!(table.contains_key(key.name), "{} is missing", key.name);
        }
        assert_eq!(table.len(), KEYS.len());
        assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn every_key_of_the_example_says_why() {
        let lines: Vec<&str> = EXAMPLE.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                assert!(at > 0 && lines[at - 1].starts_with("# "), "{line}");
            }
        }
    }

    #[test]
    fn every_key_is_taken_over() {
        let text = "store = '/s'\nshare = 'all'\nthreads = 3\nsession_threads = 1\n\
             interval = '1h 30min'\nquiet = '1500ms'\nverify = 0.01\nrate = 3";
        let config = parse(text).unwrap();
        let default = Config::default();
        assert_eq!(config.store, Path::new("/s"));
        assert_eq!(config.share, Share::All);
        assert_eq!((config.threads, config.session_threads), (3, 1));
        assert_eq!(config.rate, NonZeroU64::new(3 << 20));
        assert_eq!(config.interval, Some(Duration::from_secs(5400)));
        assert_eq!(config.quiet, Duration::from_millis(1500));
        assert_eq!(Some(config.verify), Rate::new(0.01));
        assert_eq!(parse("verify = 'always'").unwrap().verify, Rate::ALWAYS);
        assert_eq!(parse("verify = 1").unwrap().verify, Rate::ALWAYS);
        parse("verify = 1.5").unwrap_err();
        let metrics = parse("metrics = '[::1]:9469'").unwrap().metrics;
        assert_eq!(metrics.unwrap().to_string(), "[::1]:9469");
        for other in [
            "0.0.0.0:9469",
            "192.168.1.1:9469",
            "127.0.0.1:0",
            "localhost:9469",
            "9469",
        ] {
            parse(&format!("metrics = '{other}'")).unwrap_err();
        }
        let key = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        let keys = parse(&format!("patch_keys = ['{key}']"))
            .unwrap()
            .patch_keys;
        assert_eq!(keys[0].to_string(), key);
        for other in ["patch_keys = 'x'", "patch_keys = ['x']", "patch_keys = [1]"] {
            parse(other).unwrap_err();
        }
        assert_ne!(config, default);
        assert_eq!(parse("interval = 'never'").unwrap().interval, None);
    }

    #[test]
    fn errors_name_file_key_and_allowed_values() {
        for (text, expected) in [
            (
                "threds = 1",
                "/etc/c.toml: threds: this key is not known; \
                 use any of: store, share, threads, session_threads, interval, quiet, metrics, verify, rate, \
                 patch_keys, keep_changes, passthrough, coherent",
            ),
            (
                "share = \"some\"",
                "/etc/c.toml: share: \"some\" is not allowed; set it to \"majority\" or \"all\"",
            ),
            (
                "threads = -1",
                "/etc/c.toml: threads: -1 is not allowed; set it to a number from 0 to 1024",
            ),
            (
                "interval = '31days'",
                "/etc/c.toml: interval: \"31days\" is not allowed; \
                 set it to a time from \"1s\" to \"30days\", or \"never\"",
            ),
            (
                "store = 'here'",
                "/etc/c.toml: store: 'here' is not allowed; set it to an absolute path",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind.exit_code(), 2);
            // How TOML quotes a value is not ours.
            assert_eq!(
                error.to_string().replace('\'', "\""),
                expected.replace('\'', "\"")
            );
        }
        let error = parse("share = 'all'\nthreads = = 1").unwrap_err();
        assert_eq!(error.object, "/etc/c.toml, line 2");
        let missing = Config::load(Some(Path::new("/nonexistent/c.toml"))).unwrap_err();
        assert_eq!(missing.kind.exit_code(), 2);
        assert!(missing.object.contains("/nonexistent/c.toml"));
    }
}
