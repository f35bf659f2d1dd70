//! The thin binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    halfgate::cli::main()
}
