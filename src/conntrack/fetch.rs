//! Reading ahead, for who knows what comes: nothing is waited for, nothing changes.

/// Brings things into the processor's cache without waiting for them.
pub trait Fetch {
    /// Asks for so many octets from here on. Does not read them; they may be nobody's.
    fn fetch_at(&self, begin: *const u8, octets: usize);

    /// Asks for all of `what`. Does not read it.
    fn fetch<T>(&self, what: &T) {
        self.fetch_at(std::ptr::from_ref(what).cast(), size_of::<T>());
    }
}
