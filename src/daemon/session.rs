//! One client of the control socket: reads requests, writes answers.
//!
//! A client can be slow, broken or absurd; it costs at most its own session.
//! Requests have a length, silence has an end, what waits to be written is
//! bounded, and whoever asks for nothing makes room for others.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::mpsc,
    time::timeout,
};

use super::{
    events,
    events::Ring,
    outlet::{CHUNKS_WAITING, Outlet, Refusal, SocketOutlet, append},
    protocol::{Line, MAX_REQUEST, Request},
    seats::Seat,
};
use crate::sys::clock::Clock;

/// How long a client may take for things.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To send a request, the first or the next one.
    pub request: Duration,
    /// To take a chunk of an answer.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { request: Duration::from_secs(10), write: Duration::from_secs(10) }
    }
}

/// Who answers requests.
pub trait Backend: Send + Sync + 'static {
    /// Answers one request. Runs on a thread of its own and may wait.
    ///
    /// # Errors
    /// Why it was refused.
    fn handle(&self, request: Request, out: &mut dyn Outlet) -> Result<(), Refusal>;

    /// The events, for those who follow them.
    fn ring(&self) -> &Ring;
}

/// Serves one client until it leaves, or is sent away.
pub async fn serve(stream: UnixStream, backend: Arc<dyn Backend>, seat: Seat, patience: Patience) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let line = tokio::select! {
            // What was asked is answered, if there is a choice.
            biased;
            line = timeout(patience.request, read_line(&mut read)) => line,
            () = seat.is_lost() => {
                let _ = say(&mut write, patience, &refused(IDLE)).await;
                return;
            }
        };
        let request = match line {
            Ok(Ok(Some(line))) => serde_json::from_slice::<Request>(&line),
            Ok(Err(TooLong)) => {
                let _ = say(&mut write, patience, &refused("the request is too long")).await;
                return;
            }
            // It left, or never said anything.
            Ok(Ok(None)) | Err(_) => return,
        };
        if !seat.asks() {
            let _ = say(&mut write, patience, &refused(IDLE)).await;
            return;
        }
        let result = match request {
            Err(error) => say(&mut write, patience, &refused(&format!("not a request: {error}"))).await,
            Ok(Request::Events { follow: true, last }) => {
                follow(&mut read, &mut write, &*backend, last, patience).await
            }
            Ok(request) => answer(&mut write, &backend, request, patience).await,
        };
        if result.is_err() {
            return;
        }
        seat.is_answered();
    }
}

/// What a client hears that made room for another.
const IDLE: &str = "others wait and this connection asked for nothing: connect again";

/// Tells a client why it is not served.
pub async fn send_away(mut stream: UnixStream, why: String) {
    let _ = say(&mut stream, Patience::default(), &refused(&why)).await;
}

fn refused(why: &str) -> Line {
    Line::Error(why.to_owned())
}

struct TooLong;

/// One line without its end; `None` if the client left.
async fn read_line(read: &mut (impl AsyncBufReadExt + Unpin)) -> Result<Option<Vec<u8>>, TooLong> {
    let mut line = Vec::new();
    // `take` bounds what an endless line can cost.
    let mut bounded = read.take(MAX_REQUEST as u64 + 1);
    match bounded.read_until(b'\n', &mut line).await {
        Ok(0) | Err(_) => return Ok(None),
        Ok(_) => {}
    }
    if line.pop() == Some(b'\n') {
        Ok(Some(line))
    } else if line.len() >= MAX_REQUEST {
        Err(TooLong)
    } else {
        // It left in the middle of a line.
        Ok(None)
    }
}

/// The client went away, or does not read.
struct Left;

async fn say(write: &mut (impl AsyncWriteExt + Unpin), patience: Patience, line: &Line) -> Result<(), Left> {
    let mut text = Vec::new();
    append(&mut text, line).map_err(|_| Left)?;
    put(write, patience, &text).await
}

async fn put(write: &mut (impl AsyncWriteExt + Unpin), patience: Patience, chunk: &[u8]) -> Result<(), Left> {
    match timeout(patience.write, write.write_all(chunk)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Left),
    }
}

/// The request is answered on a thread of its own; what it says comes through a
/// short channel. If the client leaves, the channel closes, and the thread
/// stops at its next line.
async fn answer(
    write: &mut (impl AsyncWriteExt + Unpin),
    backend: &Arc<dyn Backend>,
    request: Request,
    patience: Patience,
) -> Result<(), Left> {
    let (chunks, mut waiting) = mpsc::channel(CHUNKS_WAITING);
    let backend = Arc::clone(backend);
    let work = tokio::task::spawn_blocking(move || {
        let mut out = SocketOutlet::new(chunks);
        let end = match backend.handle(request, &mut out) {
            Ok(()) => Line::Done(true),
            Err(Refusal::Said(why)) => Line::Error(why),
            Err(Refusal::Gone) => return,
        };
        let _ = out.send(end).and_then(|()| out.flush());
    });
    while let Some(chunk) = waiting.recv().await {
        put(write, patience, &chunk).await?;
    }
    match work.await {
        Ok(()) => Ok(()),
        Err(_) => say(write, patience, &refused("the daemon could not answer: see its log")).await,
    }
}

/// Sends events as they happen, until the client says anything or leaves.
async fn follow(
    read: &mut (impl AsyncBufReadExt + Unpin),
    write: &mut (impl AsyncWriteExt + Unpin),
    backend: &dyn Backend,
    last: Option<usize>,
    patience: Patience,
) -> Result<(), Left> {
    let ring = backend.ring();
    let mut next = ring.start(last);
    loop {
        // Before looking, so that nothing that happens in between is missed.
        let news = ring.news();
        tokio::pin!(news);
        news.as_mut().enable();
        let (gap, events, after) = ring.since(next, 256);
        next = after;
        let mut chunk = Vec::new();
        if gap > 0 {
            let lost = events::of_loss(gap, Clock::wall(Duration::ZERO));
            append(&mut chunk, &Line::Event(Box::new(lost))).map_err(|_| Left)?;
        }
        for event in &events {
            append(&mut chunk, &Line::Event(Box::new((**event).clone()))).map_err(|_| Left)?;
        }
        put(write, patience, &chunk).await?;
        if events.is_empty() {
            tokio::select! {
                () = news => {}
                // Whatever it says: it no longer only listens.
                _ = read.fill_buf() => return say(write, patience, &Line::Done(true)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::seats::Seats, sys::control::PeerCredentials};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers `connections` with many lines, `confirm` with a refusal, and
    /// panics at `unload`.
    struct Fake {
        ring: Ring,
        said: AtomicUsize,
        gone: AtomicUsize,
    }

    impl Fake {
        fn new() -> Arc<Self> {
            Arc::new(Self { ring: Ring::new(16), said: AtomicUsize::new(0), gone: AtomicUsize::new(0) })
        }
    }

    impl Backend for Fake {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is all the same to it")]
        fn handle(&self, request: Request, out: &mut dyn Outlet) -> Result<(), Refusal> {
            match request {
                Request::Connections { .. } => {
                    for number in 0..200_000 {
                        out.send(Line::Note(format!("connection number {number}"))).inspect_err(|_| {
                            self.gone.fetch_add(1, Ordering::SeqCst);
                        })?;
                        self.said.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(())
                }
                Request::Confirm {} => Err("nothing to confirm".into()),
                Request::Unload {} => panic!("on purpose"),
                _ => Ok(()),
            }
        }

        fn ring(&self) -> &Ring {
            &self.ring
        }
    }

    const SHORT: Patience =
        Patience { request: Duration::from_millis(300), write: Duration::from_millis(300) };

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn client(backend: &Arc<Fake>, patience: Patience) -> (UnixStream, tokio::task::JoinHandle<()>) {
        let (here, there) = UnixStream::pair().unwrap();
        let backend: Arc<dyn Backend> = Arc::<Fake>::clone(backend);
        let who = PeerCredentials::of(&here).unwrap();
        let seat = Arc::new(Seats::default()).take(&who).unwrap();
        (here, tokio::spawn(serve(there, backend, seat, patience)))
    }

    async fn ask(stream: &mut BufReader<UnixStream>, request: &str) -> Vec<String> {
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(b"\n").await.unwrap();
        lines(stream).await
    }

    async fn lines(stream: &mut BufReader<UnixStream>) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap() == 0 {
                return lines;
            }
            let end = line.starts_with(r#"{"done""#) || line.starts_with(r#"{"error""#);
            lines.push(line.trim_end().to_owned());
            if end {
                return lines;
            }
        }
    }

    #[test]
    fn a_client_may_ask_again_and_again() {
        run(async {
            let backend = Fake::new();
            let (stream, _session) = client(&backend, SHORT);
            let mut stream = BufReader::new(stream);
            assert_eq!(ask(&mut stream, r#"{"request":"status"}"#).await, [r#"{"done":true}"#]);
            let refused = ask(&mut stream, r#"{"request":"confirm"}"#).await;
            assert_eq!(refused, [r#"{"error":"nothing to confirm"}"#]);
            let nonsense = ask(&mut stream, "hello").await;
            assert!(nonsense[0].starts_with(r#"{"error":"not a request"#), "{nonsense:?}");
            let nonsense = ask(&mut stream, "\u{0}\u{1}").await;
            assert!(nonsense[0].starts_with(r#"{"error":"not a request"#), "{nonsense:?}");
            assert_eq!(ask(&mut stream, r#"{"request":"status"}"#).await, [r#"{"done":true}"#]);
        });
    }

    #[test]
    fn a_long_answer_comes_whole() {
        run(async {
            let (stream, _session) = client(&Fake::new(), Patience::default());
            let answer = ask(&mut BufReader::new(stream), r#"{"request":"connections"}"#).await;
            assert_eq!(answer.len(), 200_001);
            assert_eq!(answer[199_999], r#"{"note":"connection number 199999"}"#);
        });
    }

    #[test]
    fn who_does_not_read_is_sent_away_and_costs_little() {
        run(async {
            let backend = Fake::new();
            let (mut stream, session) = client(&backend, SHORT);
            stream.write_all(b"{\"request\":\"connections\"}\n").await.unwrap();
            session.await.unwrap();
            // The thread that answers notices at its next chunk.
            while backend.gone.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            // What was said before: the socket's buffer and the short channel.
            assert!(backend.said.load(Ordering::SeqCst) < 100_000);
            drop(stream);
        });
    }

    #[test]
    fn who_says_nothing_is_sent_away() {
        run(async {
            let (stream, session) = client(&Fake::new(), SHORT);
            session.await.unwrap();
            drop(stream);
        });
    }

    #[test]
    fn who_never_ends_a_line_is_sent_away() {
        run(async {
            let (stream, session) = client(&Fake::new(), Patience::default());
            let (read, mut write) = stream.into_split();
            let endless = tokio::spawn(async move { while write.write_all(&[b'x'; 4096]).await.is_ok() {} });
            let mut said = String::new();
            let _ = BufReader::new(read).read_line(&mut said).await;
            assert_eq!(said, "{\"error\":\"the request is too long\"}\n");
            session.await.unwrap();
            endless.await.unwrap();
        });
    }

    #[test]
    fn who_leaves_in_the_middle_is_forgotten() {
        run(async {
            let (mut stream, session) = client(&Fake::new(), Patience::default());
            stream.write_all(b"{\"request\":").await.unwrap();
            drop(stream);
            session.await.unwrap();
        });
    }

    #[test]
    fn a_panic_is_an_answer() {
        run(async {
            let (stream, _session) = client(&Fake::new(), Patience::default());
            let mut stream = BufReader::new(stream);
            let answer = ask(&mut stream, r#"{"request":"unload"}"#).await;
            assert_eq!(answer, [r#"{"error":"the daemon could not answer: see its log"}"#]);
            assert_eq!(ask(&mut stream, r#"{"request":"status"}"#).await, [r#"{"done":true}"#]);
        });
    }

    #[test]
    fn followers_get_what_was_and_what_comes() {
        run(async {
            let backend = Fake::new();
            let event = |number| events::of_loss(number, std::time::SystemTime::UNIX_EPOCH);
            backend.ring.push((1..4).map(event));
            let (stream, session) = client(&backend, Patience::default());
            let mut stream = BufReader::new(stream);
            stream.write_all(b"{\"request\":\"events\",\"follow\":true,\"last\":2}\n").await.unwrap();
            let mut lines = Vec::new();
            for number in 0..3 {
                if number == 2 {
                    backend.ring.push([event(4)]);
                }
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                lines.push(line);
            }
            assert!(lines[0].contains(r#""lost":2"#) && lines[1].contains(r#""lost":3"#), "{lines:?}");
            assert!(lines[2].contains(r#""lost":4"#), "{lines:?}");
            drop(stream);
            session.await.unwrap();
        });
    }
}
