//! The text of pieces, as SentencePiece decodes them.

use llamac_plan::sentencepiece::{PieceKind, SPACE, byte_of};
use llamac_plan::tokenizer::Spaces;

use super::Vocabulary;

/// What stands in the place of a byte that is part of no character.
const REPLACEMENT: char = '\u{FFFD}';

/// The text of `pieces`. Of special ones it is the name, text like any other; those that are left out are empty.
///
/// The space before the first word is dropped if encoding would have put it there. Bytes become characters one by one,
/// so that a byte which is part of none harms no other.
pub(in crate::text) fn decode(vocabulary: &Vocabulary, pieces: &[String], spaces: Spaces) -> String {
    let model = &vocabulary.model;
    let strips = spaces.before(true) && (model.add_dummy_prefix || model.remove_extra_whitespaces);
    let mut text = String::new();
    let mut bytes = Vec::new();
    let mut at_start = true;
    for piece in pieces {
        let kind = vocabulary.id(piece).map(|id| model.pieces[id as usize].kind);
        if let (Some(PieceKind::Byte), Some(byte)) = (kind, byte_of(piece)) {
            bytes.push(byte);
            continue;
        }
        characters(&mut bytes, &mut text);
        at_start &= text.is_empty();
        match kind {
            Some(PieceKind::Unknown) => text.push_str(&model.unknown_surface),
            Some(PieceKind::Control) | None => text.push_str(piece),
            Some(_) => {
                let stripped = piece.strip_prefix(SPACE).filter(|_| at_start && strips);
                // A model that drops spaces at the start of a text drops all of them.
                at_start &= stripped.is_none() || model.remove_extra_whitespaces;
                let rest = stripped.unwrap_or(piece).chars();
                text.extend(rest.map(|c| if c == SPACE { ' ' } else { c }));
            }
        }
    }
    characters(&mut bytes, &mut text);
    text
}

/// Takes the bytes of a run as text.
fn characters(bytes: &mut Vec<u8>, text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| REPLACEMENT));
    }
    bytes.clear();
}
