//! The program. Everything is in the library, so that the tests and the benches reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    lwm2m_gateway::main()
}
