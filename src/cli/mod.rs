//! The command line: arguments, one file for each group of commands, and output. The commands
//! themselves are below, in `ops`, `archive` and `serve`.

mod apply;
mod arguments;
mod background;
mod boot;
mod diff;
mod history;
mod holds;
mod images;
mod import;
mod inside;
mod interrupt;
mod keeper;
mod locks;
mod log_lines;
mod manual;
mod mount_helper;
mod mounts;
mod output;
mod patch;
mod progress_bar;
mod render;
mod replace;
mod session;
mod sharing;
mod stores;
mod table;
mod units;
mod working;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use session::Session;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::lease;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Exit code 0.
    Done,
    /// Exit code 3: done, but somebody has to look at what was printed.
    Findings,
}

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    if mount_helper::is_called() {
        return mount_helper::main();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    log_lines::start(arguments.global.log_level());
    // The first process of a namespace: it serves no store.
    if let Command::Inside(inside) = arguments.command {
        return inside.run();
    }
    let json = arguments.global.json;
    // It serves none either, but sees to it that somebody does.
    if let Command::Keeper(keeper) = arguments.command {
        return ended(keeper.run().map(ExitCode::from), json);
    }
    if matches!(&arguments.command, Command::Daemon(daemon) if daemon.keep) {
        let code = Session::new(&arguments.global).and_then(|session| keeper::keep(&session));
        return ended(code.map(ExitCode::from), json);
    }
    // A fold in this process holds leases, whoever else opens the file.
    lease::ignore_break_signal();
    let code = run(arguments).map(|outcome| match outcome {
        Outcome::Done => ExitCode::SUCCESS,
        Outcome::Findings => ExitCode::from(ErrorKind::Findings.exit_code()),
    });
    ended(code, json)
}

fn ended(code: Result<ExitCode>, json: bool) -> ExitCode {
    match code {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&error, json);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run(arguments: Arguments) -> Result<Outcome> {
    let session = match arguments.command {
        // They need neither a store nor a configuration.
        Command::Completions(completions) => return completions.run(),
        Command::Man(man) => return man.run(),
        _ => Session::new(&arguments.global)?,
    };
    session.limit_threads()?;
    match arguments.command {
        Command::Init(init) => init.run(&session),
        Command::Import(import) => import.run(&session),
        Command::Clone(clone) => clone.run(&session),
        Command::Rename(rename) => rename.run(&session),
        Command::Remove(remove) => remove.run(&session),
        Command::List(list) => list.run(&session),
        Command::Status(status) => status.run(&session),
        Command::Mount(mount) => mount.run(&session),
        Command::Unmount(unmount) => unmount.run(&session),
        Command::Fold(fold) => fold.run(&session),
        Command::Hold(hold) => hold.run(&session),
        Command::Release(release) => release.run(&session),
        Command::Lock(lock) => lock.run(&session),
        Command::Unlock(unlock) => unlock.run(&session),
        Command::Log(log) => log.run(&session),
        Command::Metrics(metrics) => metrics.run(&session),
        Command::Why(why) => why.run(&session),
        Command::Check(check) => check.run(&session),
        Command::Collect(collect) => collect.run(&session),
        Command::Diff(diff) => diff.run(&session),
        Command::Patch(patch) => patch.run(&session),
        Command::Revert(revert) => revert.run(&session),
        Command::Commit(commit) => commit.run(&session),
        Command::Discard(discard) => discard.run(&session),
        Command::Upgrade(upgrade) => upgrade.run(&session),
        Command::Inside(_) | Command::Keeper(_) => Ok(Outcome::Done),
        Command::Boot(boot) => boot.run(&session),
        Command::Export(export) => export.run(&session),
        Command::Daemon(daemon) => daemon.run(&session),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    }
}

/// What clap has to say: help and versions on standard output, wrong usage on standard error.
fn usage(error: &clap::Error) -> ExitCode {
    let wrong = error.use_stderr();
    let json = std::env::args_os()
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json");
    if wrong && json {
        let text = error.render().to_string();
        let cause = text.lines().next().unwrap_or_default();
        let cause = cause.strip_prefix("error: ").unwrap_or(cause);
        let error = Error::usage("command line", cause).remedy("see foldfs --help");
        output::print_error(&error, true);
    } else if let Err(error) = error.print() {
        // A reader that has seen enough of the help is no failure.
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            return ExitCode::FAILURE;
        }
    }
    if wrong {
        ExitCode::from(ErrorKind::Usage.exit_code())
    } else {
        ExitCode::SUCCESS
    }
}
