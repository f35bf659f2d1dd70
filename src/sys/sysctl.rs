//! Kernel settings that halfgate needs, saved and put back.
//!
//! Conntrack must not forget a connection before we do (DESIGN 3.10): its
//! timers are raised where ours are longer, its table where ours is larger.
