//! cli.
pub mod check;
pub mod init;
pub mod test;
