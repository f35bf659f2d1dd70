//! The only place that knows YAML: text -> [`Node`]s that know where they stand.
//!
//! `serde_yaml` says what the text means; it does not tell places, so the
//! events of `saphyr-parser` are walked beside it, one for one. Where the two
//! understand a text differently, it is refused: a firewall's rules must not
//! have two readings. Everything is bounded before it is believed: size,
//! depth, and the number of nodes with aliases written out.

use std::{cell::RefCell, fmt};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The largest rule file.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// How deep lists and mappings may be nested; the schema needs 7.
const MAX_DEPTH: usize = 24;
/// Scalars, lists and mappings, aliases written out.
const MAX_NODES: usize = 1_000_000;

/// A position in the text, both from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// The start of a file.
pub(super) const START: Place = Place { line: 1, column: 1 };

/// A piece of YAML.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Nothing: `key:` or `null`.
    Null,
    /// `true` or `false`, not in quotes.
    Bool(bool),
    /// Any other scalar, as it was typed, without its quotes.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping; keys in their order, doubled ones too.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// What it is, with an article, for messages.
    pub(super) const fn what(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Text(_) => "a word or number",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// Why a text is no YAML that we take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) cure: String,
}

impl Refusal {
    fn new(place: Place, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { place, message: message.into(), cure: cure.into() }
    }
}

/// Reads one YAML document.
pub(super) fn parse(text: &str) -> Result<Node, Refusal> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        return Err(Refusal::new(
            START,
            format!("the file is larger than {} MiB", MAX_BYTES >> 20),
            "move long lists into files of their own: `lists: { name: { file: path } }`",
        ));
    }
    let marks = marks(text)?;
    if marks.is_empty() {
        return Err(Refusal::new(
            START,
            "the file is empty",
            "`halfgate init --wan IF --lan IF` writes a first one",
        ));
    }
    let walk = RefCell::new(Walk { marks: &marks, at: 0, nodes: 0, depth: 0, refusal: None });
    let read = NodeSeed(&walk).deserialize(serde_yaml::Deserializer::from_str(text));
    let refusal = walk.into_inner().refusal;
    read.map_err(|error| {
        refusal.unwrap_or_else(|| {
            let place = error
                .location()
                .map_or(START, |location| Place { line: location.line(), column: location.column() });
            Refusal::new(
                place,
                format!("this is not YAML: {error}"),
                "put the text in quotes or fix the line",
            )
        })
    })
}

/// An event, with its place.
struct Mark {
    place: Place,
    kind: MarkKind,
}

enum MarkKind {
    Scalar {
        text: String,
        plain: bool,
    },
    List,
    Map,
    End,
    /// The index of the mark that it stands for.
    Alias(usize),
}

/// All events of the one document that `text` should be.
fn marks(text: &str) -> Result<Vec<Mark>, Refusal> {
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    let mut marks = Vec::new();
    let mut anchors = std::collections::HashMap::new();
    let mut documents = 0_usize;
    let mut depth = 0_usize;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| not_yaml(text, &error))?;
        let place = place_of(span);
        let (kind, anchor, tag) = match event {
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => continue,
            Event::StreamEnd => break,
            Event::DocumentStart(_) => {
                documents = documents.saturating_add(1);
                if documents > 1 {
                    return Err(Refusal::new(
                        place,
                        "a second document begins here",
                        "remove the line `---`",
                    ));
                }
                continue;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                (MarkKind::Scalar { text: text.into_owned(), plain }, anchor, tag)
            }
            Event::SequenceStart(anchor, tag) => (MarkKind::List, anchor, tag),
            Event::MappingStart(anchor, tag) => (MarkKind::Map, anchor, tag),
            Event::SequenceEnd | Event::MappingEnd => (MarkKind::End, 0, None),
            Event::Alias(id) => {
                let target = anchors.get(&id).copied();
                let target = target
                    .ok_or_else(|| Refusal::new(place, "no anchor has this name", "write the value out"))?;
                (MarkKind::Alias(target), 0, None)
            }
        };
        if let Some(tag) = tag {
            return Err(Refusal::new(
                place,
                format!("`{tag}` is a YAML tag, and rule files have none"),
                "for the opposite of something write `not X`; a text that begins with `!` needs quotes",
            ));
        }
        match kind {
            MarkKind::List | MarkKind::Map => depth = depth.saturating_add(1),
            MarkKind::End => depth = depth.saturating_sub(1),
            MarkKind::Scalar { .. } | MarkKind::Alias(_) => {}
        }
        if depth > MAX_DEPTH {
            return Err(too_deep(place));
        }
        if anchor > 0 {
            anchors.insert(anchor, marks.len());
        }
        if marks.len() >= MAX_NODES.saturating_mul(2) {
            return Err(too_many(place));
        }
        marks.push(Mark { place, kind });
    }
    // An empty document is one empty scalar.
    if let [Mark { kind: MarkKind::Scalar { text, plain: true }, .. }] = marks.as_slice()
        && text.is_empty()
    {
        marks.clear();
    }
    Ok(marks)
}

fn place_of(span: Span) -> Place {
    Place { line: span.start.line(), column: span.start.col().saturating_add(1) }
}

fn too_deep(place: Place) -> Refusal {
    Refusal::new(
        place,
        format!("nested more than {MAX_DEPTH} deep"),
        "a rule file needs no more than 7 levels",
    )
}

fn too_many(place: Place) -> Refusal {
    Refusal::new(
        place,
        format!("more than {MAX_NODES} values"),
        "move long lists into files of their own: `lists: { name: { file: path } }`",
    )
}

/// A syntax error, with a cure where the cause is a usual one.
fn not_yaml(text: &str, error: &saphyr_parser::ScanError) -> Refusal {
    let marker = error.marker();
    let place = Place { line: marker.line().max(1), column: marker.col().saturating_add(1) };
    let line = text.lines().nth(place.line.saturating_sub(1)).unwrap_or("");
    let indent = line.get(..line.len().saturating_sub(line.trim_start().len())).unwrap_or("");
    let cure = if indent.contains('\t') {
        "indent with spaces: YAML allows no tabs there"
    } else if line.trim_start().starts_with(['%', '@', '`']) || line.contains(": *") || line.contains("[*") {
        "put the text in quotes: its first character has a meaning in YAML"
    } else {
        "check the indentation, that every `{` and `[` is closed, that a space follows each colon, and put texts with `:`, `,` or `#` in quotes"
    };
    Refusal::new(place, format!("this is not YAML: {}", error.info()), cure)
}

/// The walk along the marks, in step with the deserialiser.
struct Walk<'m> {
    marks: &'m [Mark],
    at: usize,
    nodes: usize,
    depth: usize,
    refusal: Option<Refusal>,
}

impl Walk<'_> {
    fn place(&self) -> Place {
        self.marks.get(self.at).map_or(START, |mark| mark.place)
    }

    fn refuse<E: serde::de::Error>(&mut self, refusal: Refusal) -> E {
        let message = refusal.message.clone();
        self.refusal.get_or_insert(refusal);
        E::custom(message)
    }

    fn two_readings<E: serde::de::Error>(&mut self) -> E {
        let place = self.place();
        self.refuse(Refusal::new(
            place,
            "this YAML can be read in two ways",
            "write it more plainly, or put it in quotes",
        ))
    }
}

struct NodeSeed<'w, 'm>(&'w RefCell<Walk<'m>>);

impl<'de> DeserializeSeed<'de> for NodeSeed<'_, '_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let (place, back) = {
            let mut walk = self.0.borrow_mut();
            let place = walk.place();
            walk.nodes = walk.nodes.saturating_add(1);
            if walk.nodes > MAX_NODES {
                return Err(walk.refuse(too_many(place)));
            }
            walk.depth = walk.depth.saturating_add(1);
            if walk.depth > MAX_DEPTH.saturating_add(1) {
                return Err(walk.refuse(too_deep(place)));
            }
            let mut back = None;
            if let Some(Mark { kind: MarkKind::Alias(target), .. }) = walk.marks.get(walk.at) {
                back = Some(walk.at.saturating_add(1));
                walk.at = *target;
            }
            (place, back)
        };
        let kind = deserializer.deserialize_any(KindVisitor(self.0))?;
        let mut walk = self.0.borrow_mut();
        walk.depth = walk.depth.saturating_sub(1);
        if let Some(back) = back {
            walk.at = back;
        }
        Ok(Node { place, kind })
    }
}

struct KindVisitor<'w, 'm>(&'w RefCell<Walk<'m>>);

impl KindVisitor<'_, '_> {
    /// Takes the scalar at hand as it was typed.
    fn typed<E: serde::de::Error>(&self, may: impl Fn(&str, bool) -> bool) -> Result<String, E> {
        let mut walk = self.0.borrow_mut();
        match walk.marks.get(walk.at) {
            Some(Mark { kind: MarkKind::Scalar { text, plain }, .. }) if may(text, *plain) => {
                walk.at = walk.at.saturating_add(1);
                Ok(text.clone())
            }
            _ => Err(walk.two_readings()),
        }
    }

    fn step<E: serde::de::Error>(&self, is: impl Fn(&MarkKind) -> bool) -> Result<(), E> {
        let mut walk = self.0.borrow_mut();
        if walk.marks.get(walk.at).is_some_and(|mark| is(&mark.kind)) {
            walk.at = walk.at.saturating_add(1);
            return Ok(());
        }
        Err(walk.two_readings())
    }
}

impl<'de> Visitor<'de> for KindVisitor<'_, '_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Kind, E> {
        self.typed(|_, plain| plain).map(|_| Kind::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Kind, E> {
        self.typed(|_, plain| plain).map(|_| Kind::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Kind, E> {
        self.typed(|_, plain| plain).map(Kind::Text)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Kind, E> {
        self.typed(|_, plain| plain).map(Kind::Text)
    }

    fn visit_i128<E: serde::de::Error>(self, _: i128) -> Result<Kind, E> {
        self.typed(|_, plain| plain).map(Kind::Text)
    }

    fn visit_u128<E: serde::de::Error>(self, _: u128) -> Result<Kind, E> {
        self.typed(|_, plain| plain).map(Kind::Text)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Kind, E> {
        self.typed(|_, plain| plain).map(Kind::Text)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Kind, E> {
        self.typed(|typed, _| typed == value).map(Kind::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        self.step(|kind| matches!(kind, MarkKind::List))?;
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element_seed(NodeSeed(self.0))? {
            nodes.push(node);
        }
        self.step(|kind| matches!(kind, MarkKind::End))?;
        Ok(Kind::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        self.step(|kind| matches!(kind, MarkKind::Map))?;
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(NodeSeed(self.0))? {
            entries.push((key, access.next_value_seed(NodeSeed(self.0))?));
        }
        self.step(|kind| matches!(kind, MarkKind::End))?;
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        let refusal = parse(text).unwrap_err();
        format!("{}:{} {} ({})", refusal.place.line, refusal.place.column, refusal.message, refusal.cure)
    }

    #[test]
    fn every_node_knows_its_place() {
        let node = parse("a: 1\nb: [x, &y {c: null}]\nd: *y\n").unwrap();
        let Kind::Map(entries) = node.kind else { panic!() };
        let places: Vec<_> =
            entries.iter().map(|(k, v)| (k.place.line, k.place.column, v.place.column)).collect();
        assert_eq!(places, [(1, 1, 4), (2, 1, 4), (3, 1, 4)]);
        let Kind::Map(aliased) = &entries[2].1.kind else { panic!() };
        assert!(matches!(aliased[0].1.kind, Kind::Null));
    }

    #[test]
    fn doubled_keys_are_kept_for_the_schema_to_name() {
        let Kind::Map(entries) = parse("a: 1\na: 2\n").unwrap().kind else { panic!() };
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn bombs_are_refused_early() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(",")));
        }
        let message = refused(&bomb);
        assert!(message.contains("values") || message.contains("repetition"), "{message}");
        assert!(refused(&"[".repeat(100_000)).contains("1:"));
        assert!(refused("a: &a [*a]").contains("nested more than 24 deep"));
        assert!(refused(&"x".repeat(MAX_BYTES + 1)).contains("larger than 8 MiB"));
        assert!(refused(&"- a\n".repeat(MAX_NODES + 1)).contains("more than 1000000 values"));
    }

    #[test]
    fn usual_slips_get_a_cure() {
        assert!(refused("rules:\n\t- a").contains("2:") && refused("rules:\n\t- a").contains("spaces"));
        assert!(refused("from: !lan").contains("1:7 `!lan` is a YAML tag"));
        assert!(refused("a: 1\n---\nb: 2\n").contains("2:1 a second document"));
        assert!(refused("").contains("empty") && refused("# only a comment\n").contains("empty"));
        assert!(refused("a: [1, 2\nb: 3\n").contains("closed"));
        assert!(refused("a: *nothing").contains("1:"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[-a\\[\\]{}:,*&!#'\"|>?%@` \n\t0]{0,40}") {
            let _ = parse(&text);
        }
    }
}
