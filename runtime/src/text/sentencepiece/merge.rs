//! Byte-pair encoding as SentencePiece does it: of all neighbours that make a piece together, those with the best score
//! are merged first, the leftmost where scores are equal.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use llamac_plan::sentencepiece::{PieceKind, byte_piece};

use super::Vocabulary;

/// A part of the text that is one piece so far, or nothing any more.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// Zero once it is merged into the one before.
    length: usize,
    previous: usize,
    next: usize,
    /// Whether it is user-defined, so that it is never merged.
    frozen: bool,
}

/// No symbol.
const NONE: usize = usize::MAX;

/// Two neighbours that may be merged: the rank of what they make, their places, and its length.
type Candidate = Reverse<(u32, usize, usize, usize)>;

/// The ids of a text that was normalized.
pub(in crate::text) fn encode(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
    let mut merging = Merging::new(vocabulary, text);
    merging.run();
    let mut ids = Vec::new();
    let mut after_unknown = false;
    for symbol in merging.symbols.iter().filter(|symbol| symbol.length > 0) {
        for part in merging.taken_back(&text[symbol.start..symbol.start + symbol.length]) {
            let id = vocabulary.id(part).unwrap_or(vocabulary.model.unknown);
            let unknown = id == vocabulary.model.unknown;
            if unknown && vocabulary.model.byte_fallback {
                // All byte pieces are there, or the model would have none.
                ids.extend(part.bytes().filter_map(|byte| vocabulary.id(&byte_piece(byte))));
            } else if !(unknown && after_unknown) {
                ids.push(id);
            }
            after_unknown = unknown;
        }
    }
    ids
}

struct Merging<'a> {
    vocabulary: &'a Vocabulary,
    text: &'a str,
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Candidate>,
    /// Of an unused piece: the length of the left part that it was last made of.
    unused: HashMap<&'a str, usize>,
}

impl<'a> Merging<'a> {
    fn new(vocabulary: &'a Vocabulary, text: &'a str) -> Self {
        let mut symbols = Vec::new();
        let mut push = |start: usize, length: usize, frozen: bool| {
            let i = symbols.len();
            symbols.push(Symbol {
                start,
                length,
                previous: i.checked_sub(1).unwrap_or(NONE),
                next: i + 1,
                frozen,
            });
        };
        let mut at = 0;
        while at < text.len() {
            let found = vocabulary.user_defined(&text[at..]);
            let (start, end) = found.map_or((text.len(), text.len()), |(start, end)| (at + start, at + end));
            for (i, c) in text[at..start].char_indices() {
                push(at + i, c.len_utf8(), false);
            }
            if end > start {
                push(start, end - start, true);
            }
            at = end;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        Self { vocabulary, text, symbols, agenda: BinaryHeap::new(), unused: HashMap::new() }
    }

    fn run(&mut self) {
        for right in 1..self.symbols.len() {
            self.consider(right - 1, right);
        }
        while let Some(Reverse((_, left, right, length))) = self.agenda.pop() {
            let (l, r) = (self.symbols[left], self.symbols[right]);
            // One of them was merged with another since.
            if l.length == 0 || r.length == 0 || l.length + r.length != length {
                continue;
            }
            self.symbols[left].length = length;
            self.symbols[left].next = r.next;
            self.symbols[right].length = 0;
            if r.next != NONE {
                self.symbols[r.next].previous = left;
            }
            self.consider(l.previous, left);
            self.consider(left, r.next);
        }
    }

    /// Notes two neighbours that make a piece.
    fn consider(&mut self, left: usize, right: usize) {
        if left == NONE || right == NONE || self.symbols[left].frozen || self.symbols[right].frozen {
            return;
        }
        let Symbol { start, length: split, .. } = self.symbols[left];
        let length = split + self.symbols[right].length;
        let text = &self.text[start..start + length];
        let Some((rank, kind)) = self.vocabulary.merged(text) else { return };
        self.agenda.push(Reverse((rank, left, right, length)));
        if kind == PieceKind::Unused {
            self.unused.insert(text, split);
        }
    }

    /// The pieces of a symbol: those that an unused piece was made of, in its place.
    fn taken_back(&self, symbol: &'a str) -> Vec<&'a str> {
        if self.unused.is_empty() {
            return vec![symbol];
        }
        let mut parts = Vec::new();
        let mut rest = vec![symbol];
        while let Some(part) = rest.pop() {
            match self.unused.get(part) {
                Some(&split) => rest.extend([&part[split..], &part[..split]]),
                None => parts.push(part),
            }
        }
        parts
    }
}
