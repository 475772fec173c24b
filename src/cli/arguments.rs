//! The command line's grammar: what holds for all commands, and their list.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use log::LevelFilter;

use super::{
    apply, boot, diff, history, holds, images, import, inside, keeper, locks, manual, mounts,
    patch, sharing, stores, working,
};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "foldfs",
    version,
    about = "Virtual machine images as plain directory trees that share what they have in common",
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but with findings or differences, \
                  4 store busy or locked.",
    max_term_width = 100
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// The store's directory [default: the configuration's `store`, /var/lib/foldfs]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "FOLDFS_STORE",
        hide_env_values = true
    )]
    pub store: Option<PathBuf>,
    /// The configuration file [default: /etc/foldfs/config.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print results, and errors on standard error, as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more; twice for debugging, three times for every request
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log errors only, and show no progress
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Global {
    /// What `-v` and `-q` mean.
    pub fn log_level(&self) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::Error,
            (false, 0) => LevelFilter::Warn,
            (false, 1) => LevelFilter::Info,
            (false, 2) => LevelFilter::Debug,
            (false, _) => LevelFilter::Trace,
        }
    }
}

/// What every command takes that alters a store.
#[derive(Debug, Args)]
pub struct DryRun {
    /// Only report what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(stores::Init),
    Import(import::Import),
    Clone(images::Clone),
    Rename(images::Rename),
    Remove(images::Remove),
    List(stores::List),
    Status(stores::Status),
    Mount(mounts::Mount),
    Unmount(mounts::Unmount),
    Fold(sharing::Fold),
    Hold(holds::Hold),
    Release(holds::Release),
    Lock(locks::Lock),
    Unlock(locks::Unlock),
    Log(history::Log),
    Metrics(history::Metrics),
    Why(sharing::Why),
    Check(stores::Check),
    Collect(stores::Collect),
    Diff(diff::Diff),
    Patch(patch::Patch),
    Revert(apply::Revert),
    Commit(working::Commit),
    Discard(working::Discard),
    Upgrade(working::Upgrade),
    #[command(hide = true)]
    Inside(inside::Inside),
    Boot(boot::Boot),
    Export(images::Export),
    Daemon(mounts::Daemon),
    #[command(hide = true)]
    Keeper(keeper::Keeper),
    Completions(manual::Completions),
    Man(manual::Man),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn exactly_the_commands_of_today() {
        let command = Arguments::command();
        let names: Vec<&str> = command.get_subcommands().map(|c| c.get_name()).collect();
        let expected = "init import clone rename remove list status mount unmount fold hold release \
                        lock unlock log metrics why check collect diff patch revert commit discard upgrade inside \
                        boot export daemon keeper completions man";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn what_alters_a_store_has_a_dry_run() {
        let command = Arguments::command();
        let with: Vec<&str> = command
            .get_subcommands()
            .filter(|c| c.get_arguments().any(|a| a.get_id() == "dry_run"))
            .map(|c| c.get_name())
            .collect();
        let expected = "init import clone rename remove mount unmount fold hold release \
                        lock unlock check collect revert commit discard upgrade";
        assert_eq!(with.join(" "), expected);
    }

    #[test]
    fn every_command_and_argument_has_help() {
        let command = Arguments::command();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for argument in sub.get_arguments() {
                let id = argument.get_id();
                let hidden = argument.is_hide_set();
                assert!(
                    hidden || argument.get_help().is_some(),
                    "{} {id}",
                    sub.get_name()
                );
            }
        }
    }

    #[test]
    fn an_image_before_the_directory_is_optional() {
        let of = |line: &str| match parse(line).unwrap().command {
            Command::Mount(mount) => (mount.image, mount.directory),
            other => panic!("{other:?}"),
        };
        assert_eq!(of("foldfs mount /mnt"), (None, "/mnt".into()));
        assert_eq!(
            of("foldfs mount web /mnt"),
            (Some("web".into()), "/mnt".into())
        );
        parse("foldfs mount").unwrap_err();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let arguments = parse("foldfs --store /a list --json -vv").unwrap();
        assert_eq!(arguments.global.store, Some("/a".into()));
        assert!(arguments.global.json);
        assert_eq!(arguments.global.log_level(), LevelFilter::Debug);
        parse("foldfs list -v -q").unwrap_err();
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in [
            "foldfs",
            "foldfs fly",
            "foldfs list --dry-run",
            "foldfs clone a",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
