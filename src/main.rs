//! The program. All code is in the library, so that tests and benches can use it.

use std::process::ExitCode;

fn main() -> ExitCode {
    lwm2m_gateway::main()
}
