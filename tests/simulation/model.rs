//! The parts of the simulation, for the test and for the command.

pub mod attacker;
pub mod endpoint;
pub mod laws;
pub mod network;
pub mod packet;
pub mod rng;
pub mod script;
pub mod world;

use world::{Failure, Sum, run};

/// One seed; a failure is run again for its trace.
pub fn simulate(seed: u64) -> Result<Sum, Box<Failure>> {
    run(seed, false).map_err(|failure| run(seed, true).err().unwrap_or(failure))
}
