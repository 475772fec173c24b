//! foldfs: see the library, and docs/commands.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    foldfs::cli::main()
}
