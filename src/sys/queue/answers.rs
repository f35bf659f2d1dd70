//! The answers to a batch of packets, in the order in which the packets came.
//!
//! Where packets one behind the other have the same answer, the kernel is given one verdict
//! for all up to the last: it goes through the messages one by one, and most of what a
//! verdict costs is the message. A queue hands packets out, and keeps them, in the order of
//! their numbers, so that all before the first of them have got their answer.

use super::{
    Answer,
    message::{self, About, MAX_VERDICT},
};

/// Verdicts that are not sent yet.
#[derive(Debug)]
pub(super) struct Answers {
    queue: u16,
    bytes: Vec<u8>,
    /// The latest answer, which is not written yet because the next may be the same.
    latest: Option<(Answer, About)>,
}

impl Answers {
    /// None, with room for a batch: `count` verdicts, and octets of rewritten packets.
    pub(super) fn new(queue: u16, count: usize, rewritten: usize) -> Self {
        Self { queue, bytes: Vec::with_capacity(count * (MAX_VERDICT + rewritten)), latest: None }
    }

    /// The answer for the next packet.
    pub(super) fn push(&mut self, id: u32, answer: Answer, rewritten: &[u8]) {
        if matches!(answer, Answer::Rewrite { .. }) {
            self.finish();
            message::write_verdict(&mut self.bytes, self.queue, About::One(id), answer, rewritten);
            return;
        }
        match &mut self.latest {
            Some((latest, about)) if *latest == answer => *about = About::UpTo(id),
            _ => {
                self.finish();
                self.latest = Some((answer, About::One(id)));
            }
        }
    }

    /// The packets that wait up to this one are dropped. They came before all others.
    pub(super) fn drop_refused(&mut self, id: u32) {
        message::write_verdict(&mut self.bytes, self.queue, About::UpTo(id), Answer::Drop, &[]);
    }

    /// Writes what is left, and shows all.
    pub(super) fn finish(&mut self) -> &[u8] {
        if let Some((answer, about)) = self.latest.take() {
            message::write_verdict(&mut self.bytes, self.queue, about, answer, &[]);
        }
        &self.bytes
    }

    /// They are sent.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Answer = Answer::Accept { mark: 1 };
    const B: Answer = Answer::Accept { mark: 2 };

    /// The verdicts for these answers to packets from 1 on.
    fn written(answers: &[Answer]) -> Vec<u8> {
        let mut all = Answers::new(7, 8, 8);
        for (id, answer) in (1..).zip(answers) {
            all.push(id, *answer, &[9; 4]);
        }
        all.finish().to_vec()
    }

    fn expected(verdicts: &[(About, Answer)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (about, answer) in verdicts {
            message::write_verdict(&mut out, 7, *about, *answer, &[9; 4]);
        }
        out
    }

    #[test]
    fn same_answers_one_behind_the_other_are_one_verdict() {
        let rewrite = Answer::Rewrite { mark: 1 };
        for (answers, verdicts) in [
            (&[][..], &[][..]),
            (&[A], &[(About::One(1), A)]),
            (&[A, A, A], &[(About::UpTo(3), A)]),
            (&[A, B, A], &[(About::One(1), A), (About::One(2), B), (About::One(3), A)]),
            (
                &[A, A, Answer::Drop, Answer::Drop, B, A],
                &[
                    (About::UpTo(2), A),
                    (About::UpTo(4), Answer::Drop),
                    (About::One(5), B),
                    (About::One(6), A),
                ],
            ),
            (
                &[A, rewrite, rewrite, A, A],
                &[
                    (About::One(1), A),
                    (About::One(2), rewrite),
                    (About::One(3), rewrite),
                    (About::UpTo(5), A),
                ],
            ),
        ] {
            assert_eq!(written(answers), expected(verdicts), "{answers:?}");
        }
    }

    #[test]
    fn what_was_refused_is_dropped_before_a_verdict_for_many_comes_to_it() {
        let mut all = Answers::new(7, 8, 8);
        all.push(5, A, &[]);
        all.drop_refused(4);
        all.push(6, A, &[]);
        assert_eq!(all.finish(), expected(&[(About::UpTo(4), Answer::Drop), (About::UpTo(6), A)]));
        all.clear();
        assert!(all.finish().is_empty());
    }
}
