use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

fn locks(patterns: &[&str]) -> Locks {
    Locks::new(patterns).unwrap()
}

fn is_locked(locks: &Locks, path: &str) -> bool {
    let is_directory = path.ends_with('/');
    let path = path.strip_suffix('/').unwrap_or(path);
    locks.of(path.as_bytes(), is_directory).is_some()
}

#[test]
fn the_last_pattern_that_matches_decides() {
    let locks = locks(&["/etc/*", "!/etc/motd", "*.key", "/boot/", "usr/**/site"]);
    for (path, expected) in [
        ("etc/", false),
        ("etc/passwd", true),
        ("etc/ssl/certs/x", true),
        ("etc/motd", false),
        ("etc/motd.key", true),
        ("home/a/b.key", true),
        ("home/a/b.key/c", true),
        ("boot/", true),
        ("boot/vmlinuz", true),
        ("boot", false),
        ("usr/site", true),
        ("usr/lib/perl/site/x", true),
        ("srv/usr/site", false),
        ("var/log", false),
    ] {
        assert_eq!(is_locked(&locks, path), expected, "{path}");
    }
    assert_eq!(locks.of(b"etc/x.key/y", false), Some("*.key"));
    assert_eq!(locks.of(b"etc/x/y", false), Some("/etc/*"));
    assert_eq!(locks.of(b"", true), None, "the root");
}

#[test]
fn nothing_below_a_locked_directory_is_let_out() {
    let locks = locks(&["/etc", "!/etc/motd"]);
    assert!(is_locked(&locks, "etc/motd"));
}

#[test]
fn names_are_bytes() {
    let locks = locks(&["/a/*", "/?x", "name{1,2}"]);
    assert!(locks.of(b"a/\xff\xfe", false).is_some());
    assert!(locks.of(b"\xffx", false).is_some(), "a byte, no character");
    assert!(locks.of("äx".as_bytes(), false).is_none());
    assert!(locks.of(b"name{1,2}", false).is_some(), "braces are braces");
    assert!(locks.of(b"name1", false).is_none());
    assert!(locks.of(b"a\xff/b", false).is_none());
}

/// Were each path above looked at by each pattern, it would take hours.
#[test]
fn a_guest_makes_paths_as_deep_as_it_likes() {
    let locks = locks(&["*.key", "/etc/*/x", "!/d*/e/f", "fo?", "/srv/[ab]/c"]);
    let deep = "a directory of a deep tree/".repeat(100_000);
    assert!(!is_locked(&locks, &(deep.clone() + "end")));
    assert!(is_locked(&locks, &(deep + "end.key")));
}

#[test]
fn what_matches_nothing_or_something_else_than_with_git_is_refused() {
    for (pattern, word) in [
        ("", "matches nothing"),
        ("/", "matches nothing"),
        ("!", "matches nothing"),
        ("/etc//ssl", "matches nothing"),
        ("./etc", "matches nothing"),
        ("/etc/..", "matches nothing"),
        ("#x", "comment"),
        ("etc ", "space"),
        ("etc\\\\ ", "space"),
        ("a\nb", "one line"),
        ("a\\", "backslash"),
        ("a\\/b", "backslash"),
        ("[ab", "has no"),
        ("[[:alpha:]]", "class"),
        ("[a\\]b]", "class"),
        ("[ä]", "class"),
        ("[z-a]", "upside down"),
        ("[^!^", "has no"),
    ] {
        let error = Locks::new(&[pattern]).unwrap_err();
        assert_eq!(error.kind.exit_code(), 2, "{pattern}: {error}");
        assert!(error.to_string().contains(word), "{pattern}: {error}");
    }
    let long = "x".repeat(LONGEST + 1);
    Locks::new(&[long]).unwrap_err();
}

#[test]
fn where_nothing_can_be_locked_nobody_looks() {
    for (pattern, within, outside) in [
        ("/etc/ssl", ["", "etc"], ["usr", "var/etc"]),
        ("etc/ssl/", ["", "etc"], ["usr", "etcetera"]),
        ("/etc/*.d/x", ["etc/b", "etc/a.d"], ["usr", "usr/etc"]),
    ] {
        let locks = locks(&[pattern]);
        for path in within {
            assert!(locks.may_reach_below(path.as_bytes()), "{pattern} {path}");
        }
        for path in outside {
            assert!(!locks.may_reach_below(path.as_bytes()), "{pattern} {path}");
        }
    }
    for pattern in ["x", "*.conf", "x/", "**/a/b", "/*/a"] {
        assert!(locks(&[pattern]).may_reach_below(b"any/where"), "{pattern}");
    }
    let nothing = locks(&["!x"]);
    assert!(!nothing.may_reach_below(b""));
    assert!(nothing.places().is_empty());
    assert_eq!(
        locks(&["/etc/ssl/*.pem", "!/etc/ssl/a"]).places(),
        [b"etc/ssl".to_vec()]
    );
}

/// What git says of paths, those of directories with a slash at their end: whether it ignores them. `place`
/// is for its repository. `None` where there is no git, which CI has.
fn git(place: &Path, patterns: &[String], paths: &[String]) -> Option<BTreeMap<String, bool>> {
    let run = |arguments: &[&str], input: &[u8]| {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(place);
        for name in ["GIT_DIR", "GIT_WORK_TREE"] {
            git.env_remove(name);
        }
        git.env("GIT_CONFIG_GLOBAL", "/dev/null");
        git.env("GIT_CONFIG_NOSYSTEM", "1");
        git.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match git.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            spawned => spawned.unwrap(),
        };
        child.stdin.take().unwrap().write_all(input).unwrap();
        Some(child.wait_with_output().unwrap())
    };
    if !place.join(".git").exists() {
        run(&["init", "--quiet"], b"")?;
    }
    let ignore = place.join(".git/info/exclude");
    std::fs::write(ignore, patterns.join("\n") + "\n").unwrap();
    // It looks whether a path is a directory; of what is not there it thinks that it is a file.
    for path in paths.iter().filter(|path| path.ends_with('/')) {
        std::fs::create_dir_all(place.join(path)).unwrap();
    }
    let plain: Vec<&str> = paths
        .iter()
        .map(|path| path.trim_end_matches('/'))
        .collect();
    let arguments = "check-ignore --no-index --stdin -z --verbose --non-matching";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = run(&arguments, plain.join("\0").as_bytes())?;
    let output = String::from_utf8(output.stdout).unwrap();
    let fields: Vec<&str> = output.split('\0').collect();
    let mut said = BTreeMap::new();
    for of_one in fields.chunks_exact(4) {
        let ignored = !of_one[2].is_empty() && !of_one[2].starts_with('!');
        let is_directory = place.join(of_one[3]).is_dir();
        let end = if is_directory { "/" } else { "" };
        said.insert(of_one[3].to_owned() + end, ignored);
    }
    assert!(!said.is_empty(), "git says nothing");
    Some(said)
}

#[test]
fn patterns_mean_what_they_mean_to_git() {
    let name = prop::sample::select(vec!["a", "b", "ab", "a.b", "{a,b}", "a b", "-", "ü"]);
    let path = prop::collection::vec(name, 1..5);
    let path = (path, any::<bool>()).prop_map(|(names, is_directory)| {
        let end = if is_directory { "/" } else { "" };
        names.join("/") + end
    });
    let piece = prop::sample::select(vec![
        "a", "b", "a.b", ".", "*", "**", "?", "[ab]", "[!a]", "[^b]", "[a-b]", "[-a]", "[]a]",
        "[+-9]", "[A-z]", "[!b-]", "[!a-b-z]", "[,-{]", "{a,b}", "\\a", "\\*", "\\ ", " ", "-",
        "ü",
    ]);
    let component = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat());
    let pattern = (
        prop::sample::select(vec!["", "", "", "!"]),
        prop::sample::select(vec!["", "/", "**/"]),
        prop::collection::vec(component, 1..4),
        prop::sample::select(vec!["", "", "/", "/**", "/*"]),
    );
    let pattern = pattern
        .prop_map(|(not, start, names, end)| format!("{not}{start}{}{end}", names.join("/")));
    let case = (
        prop::collection::vec(pattern, 1..5),
        prop::collection::vec(path, 150),
    );
    let rounds = std::env::var("FOLDFS_TEST_OPS");
    let cases = rounds.map_or(40, |text| text.parse::<u32>().unwrap().div_ceil(10));
    let mut runner = TestRunner::new_with_rng(
        Config {
            cases,
            failure_persistence: None,
            ..Config::default()
        },
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let place = tempfile::tempdir().unwrap();
    let ran = runner.run(&case, |(mut patterns, paths)| {
        patterns.retain(|pattern| Locks::new(&[pattern]).is_ok());
        let Some(said) = git(place.path(), &patterns, &paths) else {
            let required = std::env::var_os("FOLDFS_TEST_REQUIRE_ALL");
            assert!(required.is_none_or(|value| value != "1"), "git is missing");
            return Ok(());
        };
        let locks = Locks::new(&patterns).unwrap();
        for (path, ignored) in said {
            prop_assert_eq!(is_locked(&locks, &path), ignored, "{:?} {}", patterns, path);
        }
        Ok(())
    });
    ran.unwrap();
}
