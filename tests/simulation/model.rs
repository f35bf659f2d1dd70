//! The parts of the simulation, for the test and for the command.

pub mod attacker;
pub mod endpoint;
pub mod laws;
pub mod network;
pub mod packet;
pub mod rng;
pub mod script;
pub mod story;
pub mod world;

use story::Story;
use world::{Failure, Sum, run};

/// One seed; a failure is run again for its trace.
pub fn simulate(story: Story, seed: u64) -> Result<Sum, Box<Failure>> {
    run(story, seed, false).map_err(|failure| run(story, seed, true).err().unwrap_or(failure))
}
