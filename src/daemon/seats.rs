//! Who is served on the control socket, and who makes room for whom.
//!
//! There are few seats. One process has a share of them and so has one user, but
//! root; and a client that has asked for nothing gives its seat up to whoever comes
//! when all are taken. So no client shuts the others out.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::sys::control::PeerCredentials;

/// How many clients are served at once.
pub const SEATS: usize = 32;

/// How many of them one process may have,
const PER_PROCESS: usize = SEATS / 4;

/// and how many one user, other than root.
const PER_USER: usize = SEATS / 2;

/// Why somebody gets no seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Full {
    /// All are being answered.
    #[error("too many clients at once: try again")]
    Everybody,
    /// This process has its share.
    #[error("this process has {PER_PROCESS} connections to the daemon already: end some")]
    Process,
    /// This user has its share.
    #[error("this user has {PER_USER} connections to the daemon already: end some")]
    User,
}

/// The seats.
#[derive(Debug, Default)]
pub struct Seats {
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    taken: Vec<Sitter>,
    /// Counts clients and pauses: the lowest has waited longest.
    turn: u64,
}

#[derive(Debug)]
struct Sitter {
    id: u64,
    uid: u32,
    pid: i32,
    /// Since which turn it has asked for nothing; `None` while it is answered.
    idle: Option<u64>,
    leave: Arc<Notify>,
}

impl Room {
    fn next(&mut self) -> u64 {
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    /// Takes the seat of whoever of these has asked for nothing for longest.
    fn make_room(&mut self, among: impl Fn(&Sitter) -> bool) -> bool {
        let idle = self.taken.iter().enumerate().filter(|(_, sitter)| among(sitter));
        let longest = idle.filter_map(|(at, sitter)| Some((sitter.idle?, at))).min();
        let Some((_, at)) = longest else { return false };
        self.taken.swap_remove(at).leave.notify_one();
        true
    }
}

impl Seats {
    /// A seat for a client; it may be that of one that asks for nothing.
    ///
    /// # Errors
    /// If everybody whose seat it could have is being answered.
    pub fn take(self: &Arc<Self>, who: &PeerCredentials) -> Result<Seat, Full> {
        let mut room = self.room.lock();
        let (uid, pid) = (who.uid, who.pid);
        let of_process = |sitter: &Sitter| sitter.pid == pid;
        let of_user = |sitter: &Sitter| sitter.uid == uid;
        let count = |room: &Room, among: &dyn Fn(&Sitter) -> bool| {
            room.taken.iter().filter(|sitter| among(sitter)).count()
        };
        if count(&room, &of_process) >= PER_PROCESS && !room.make_room(of_process) {
            return Err(Full::Process);
        }
        if uid != 0 && count(&room, &of_user) >= PER_USER && !room.make_room(of_user) {
            return Err(Full::User);
        }
        if room.taken.len() >= SEATS && !room.make_room(|_| true) {
            return Err(Full::Everybody);
        }
        let id = room.next();
        let leave = Arc::new(Notify::new());
        room.taken.push(Sitter { id, uid, pid, idle: Some(id), leave: Arc::clone(&leave) });
        drop(room);
        Ok(Seat { seats: Arc::clone(self), id, leave })
    }
}

/// One client's seat, free again when it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    id: u64,
    leave: Arc<Notify>,
}

impl Seat {
    /// It asked for something, and keeps its seat until it is answered. `false`: the
    /// seat is another's already.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.set(None)
    }

    /// It was answered.
    pub fn is_answered(&self) {
        let turn = self.seats.room.lock().next();
        let _ = self.set(Some(turn));
    }

    /// Comes back when the seat is another's.
    pub async fn is_lost(&self) {
        self.leave.notified().await;
    }

    fn set(&self, idle: Option<u64>) -> bool {
        let mut room = self.seats.room.lock();
        let sitter = room.taken.iter_mut().find(|sitter| sitter.id == self.id);
        sitter.map(|sitter| sitter.idle = idle).is_some()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.room.lock().taken.retain(|sitter| sitter.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(uid: u32, pid: i32) -> PeerCredentials {
        PeerCredentials { uid, gid: uid, pid, groups: Vec::new() }
    }

    fn is_lost(seat: &Seat) -> bool {
        !seat.asks()
    }

    #[test]
    fn who_asks_for_nothing_makes_room_first_the_one_that_waits_longest() {
        let seats = Arc::new(Seats::default());
        let sitting: Vec<Seat> = (0..SEATS as i32).map(|pid| seats.take(&person(0, pid)).unwrap()).collect();
        assert!(sitting[0].asks());
        sitting[0].is_answered();
        assert!(sitting[1].asks());
        let _new = seats.take(&person(0, 1000)).unwrap();
        assert!(is_lost(&sitting[2]), "0 was answered a moment ago, 1 is being answered");
        assert!(sitting.iter().enumerate().all(|(at, seat)| at == 2 || !is_lost(seat)));
        assert_eq!(seats.room.lock().taken.len(), SEATS);
    }

    #[test]
    fn nobody_who_is_being_answered_makes_room() {
        let seats = Arc::new(Seats::default());
        let mut sitting: Vec<Seat> =
            (0..SEATS as i32).map(|pid| seats.take(&person(0, pid)).unwrap()).collect();
        assert!(sitting.iter().all(Seat::asks));
        assert_eq!(seats.take(&person(0, 1000)).unwrap_err(), Full::Everybody);
        drop(sitting.pop());
        assert!(seats.take(&person(0, 1000)).is_ok());
    }

    #[test]
    fn a_process_and_a_user_have_their_share() {
        let seats = Arc::new(Seats::default());
        let one: Vec<Seat> = (0..PER_PROCESS).map(|_| seats.take(&person(7, 1)).unwrap()).collect();
        assert!(one.iter().all(Seat::asks));
        assert_eq!(seats.take(&person(7, 1)).unwrap_err(), Full::Process);
        let others: Vec<Seat> =
            (PER_PROCESS..PER_USER).map(|pid| seats.take(&person(7, 100 + pid as i32)).unwrap()).collect();
        assert!(others.iter().all(Seat::asks));
        assert_eq!(seats.take(&person(7, 2)).unwrap_err(), Full::User);
        assert!(seats.take(&person(0, 3)).is_ok());
        // Its own idle ones make room, not those of others.
        one[0].is_answered();
        let stranger = seats.take(&person(8, 4)).unwrap();
        let _new = seats.take(&person(7, 1)).unwrap();
        assert!(is_lost(&one[0]) && !is_lost(&stranger));
    }

    #[test]
    fn a_lost_seat_is_told() {
        let seats = Arc::new(Seats::default());
        let sitting: Vec<Seat> = (0..PER_PROCESS).map(|_| seats.take(&person(0, 1)).unwrap()).collect();
        let _new = seats.take(&person(0, 1)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(sitting[0].is_lost());
    }
}
