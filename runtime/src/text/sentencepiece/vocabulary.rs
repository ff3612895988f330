//! The pieces of a model, found by text, by id and by what a text begins with.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use llamac_plan::sentencepiece::{CharsMap, Piece, PieceKind, SentencePieceModel};

/// The most bytes of pieces that are searched for in texts: those that are never cut, and special ones.
const MAX_SEARCHED: usize = 1 << 19;

/// A model, ready for encoding.
pub(in crate::text) struct Vocabulary {
    pub model: SentencePieceModel,
    pub charsmap: Option<CharsMap>,
    ids: HashMap<Box<str>, u32>,
    /// By id: the place of the score among all scores, the best first. Equal scores have one place.
    ranks: Vec<u32>,
    user_defined: Option<DoubleArrayAhoCorasick<u32>>,
}

impl Vocabulary {
    /// Prepares a model.
    ///
    /// # Errors
    /// Where it holds more than can be searched for, or its rules for characters are damaged.
    pub fn new(mut model: SentencePieceModel) -> Result<Self, String> {
        let searched = |kind: PieceKind| model.of_kind(kind).map(|id| &model.pieces[id as usize]);
        let bytes = searched(PieceKind::UserDefined).chain(searched(PieceKind::Control));
        let bytes: usize = bytes.map(|piece| piece.text.len()).sum();
        if bytes > MAX_SEARCHED {
            return Err(format!(
                "control and user-defined pieces are {bytes} bytes long, more than {MAX_SEARCHED}"
            ));
        }
        let charsmap = CharsMap::parse(&std::mem::take(&mut model.charsmap))?;
        let user_defined: Vec<(&str, u32)> = model
            .of_kind(PieceKind::UserDefined)
            .map(|id| (model.pieces[id as usize].text.as_str(), id))
            .collect();
        let user_defined = match user_defined.is_empty() {
            true => None,
            false => {
                let builder = DoubleArrayAhoCorasickBuilder::new().match_kind(MatchKind::LeftmostLongest);
                Some(builder.build_with_values(user_defined).map_err(|e| e.to_string())?)
            }
        };
        let ids = model.pieces.iter().zip(0..).map(|(piece, id)| (piece.text.as_str().into(), id)).collect();
        let ranks = ranks(&model.pieces);
        Ok(Self { model, charsmap, ids, ranks, user_defined })
    }

    /// All pieces, by id.
    pub fn pieces(&self) -> &[Piece] {
        &self.model.pieces
    }

    /// The piece with this id.
    pub fn piece(&self, id: u32) -> Option<&Piece> {
        self.model.pieces.get(id as usize)
    }

    /// The id of the piece with this text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The piece that merging may make of `text`, and its rank.
    pub fn merged(&self, text: &str) -> Option<(u32, PieceKind)> {
        let id = self.id(text)?;
        let kind = self.model.pieces[id as usize].kind;
        let made = matches!(kind, PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused);
        made.then(|| (self.ranks[id as usize], kind))
    }

    /// The first user-defined piece in `text`, the longest where several begin at one place: where it is.
    pub fn user_defined(&self, text: &str) -> Option<(usize, usize)> {
        let found = self.user_defined.as_ref()?.leftmost_find_iter(text).next()?;
        Some((found.start(), found.end()))
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vocabulary({} pieces)", self.model.pieces.len())
    }
}

/// The place of each piece's score.
fn ranks(pieces: &[Piece]) -> Vec<u32> {
    // Scores are not NaN. Zero is one score, whatever its sign.
    let better = |a: u32, b: u32| {
        let (a, b) = (pieces[a as usize].score, pieces[b as usize].score);
        b.partial_cmp(&a).unwrap_or(Ordering::Equal)
    };
    let mut order: Vec<u32> = (0..pieces.len() as u32).collect();
    order.sort_by(|&a, &b| better(a, b));
    let mut ranks = vec![0; pieces.len()];
    let mut rank = 0;
    for (i, &id) in order.iter().enumerate() {
        if i > 0 && better(order[i - 1], id) != Ordering::Equal {
            rank += 1;
        }
        ranks[id as usize] = rank;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_have_one_rank() {
        let piece = |score| Piece { text: String::new(), score, kind: PieceKind::Normal };
        let scores = [-1.0, 0.0, -0.0, 3.5, f32::NEG_INFINITY, f32::INFINITY, -1.0];
        assert_eq!(ranks(&scores.map(piece)), [3, 2, 2, 1, 4, 0, 3]);
    }
}
