//! The program. All code is in the library, so that tests and benches can use it.

use std::process::ExitCode;

/// Every notification allocates some twenty times, on several threads.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lwm2m_gateway::main()
}
