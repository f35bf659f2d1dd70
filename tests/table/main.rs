//! The kernel side's rules, loaded for real in network namespaces of their own:
//! what is loaded, replaced and removed, that nothing else is touched, and that
//! packets take the way that the rules say. The same tests run once more under
//! Debian's kernel in a virtual machine, where nftables can queue by itself.
#![allow(unsafe_code, clippy::disallowed_methods)]

mod cookies;
mod flow;
mod load;
mod missing;
mod output;
mod vm;
mod world;
