//! A SentencePiece model (`tokenizer.model` of LLaMA-1 and LLaMA-2): the vocabulary and the rules in it, read and
//! checked. Data only: the runtime encodes with it, the compiler writes it in other formats.
//!
//! What is read is a byte-pair model, as every LLaMA has one. The file is a stranger's: each piece is decoded by
//! itself after the count was held to a limit, so memory is bounded by the file and faults name the piece.

mod charsmap;
mod proto;
mod wire;

use std::collections::HashMap;

use prost::Message;

use crate::diagnostic::{Code, Diagnostic, Diagnostics};
pub use charsmap::CharsMap;
use wire::{Damage, Field, Fields};

/// The most pieces: twice the largest vocabulary that is known.
pub const MAX_PIECES: usize = 1 << 19;

/// The longest piece in bytes; SentencePiece has the same limit.
pub const MAX_PIECE_BYTES: usize = 8000;

/// What stands for a space in pieces.
pub const SPACE: char = '\u{2581}';

/// What decoding puts in the place of the unknown piece, unless the model says otherwise.
pub const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// Faulty pieces that are told one by one.
const TOLD: usize = 20;

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// A part of texts, made by merging.
    Normal,
    /// What stands for all that is no piece.
    Unknown,
    /// A sign that no text contains: `<s>`.
    Control,
    /// A part of texts that is never cut and never merged.
    UserDefined,
    /// A step of merging that is taken back in the end.
    Unused,
    /// One byte, `<0x0A>`.
    Byte,
}

/// A piece. Its id is its place in the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its text, with [`SPACE`] for spaces.
    pub text: String,
    /// The higher, the earlier it is merged. Never NaN.
    pub score: f32,
    /// What it is for.
    pub kind: PieceKind,
}

/// A whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct SentencePieceModel {
    /// The vocabulary. Texts are unique; one piece is [`PieceKind::Unknown`].
    pub pieces: Vec<Piece>,
    /// The id of the unknown piece.
    pub unknown: u32,
    /// What decoding puts in its place.
    pub unknown_surface: String,
    /// The id of the piece that opens a text, if there is one.
    pub bos: Option<u32>,
    /// The id of the piece that ends a text, if there is one.
    pub eos: Option<u32>,
    /// Whether what is no piece is spelled in byte pieces, of which there are then all.
    pub byte_fallback: bool,
    /// Whether a space is put before a text, or after it.
    pub add_dummy_prefix: bool,
    /// Whether that space, and the spaces of words, stand after and not before.
    pub whitespace_as_suffix: bool,
    /// Whether spaces at the ends are dropped and runs of them are one.
    pub remove_extra_whitespaces: bool,
    /// Whether spaces become [`SPACE`].
    pub escape_whitespaces: bool,
    /// The rules by which characters are replaced: the size of a trie, the trie, and the texts that it points to. Empty
    /// for none; [`CharsMap`] looks them up.
    pub charsmap: Vec<u8>,
}

impl SentencePieceModel {
    /// Reads the contents of a file; `name` is what messages call it.
    ///
    /// # Errors
    /// `BadTokenizer` where the file is damaged or contradicts itself, `UnsupportedModel` for models that do not merge
    /// pairs, or that rewrite what they decode.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, Diagnostics> {
        let fault = |message: String| Diagnostic::new(Code::BadTokenizer).at(name).message(message);
        let damaged = |Damage { offset, what }| {
            fault(format!("byte {offset}: {what}"))
                .expected("a SentencePiece model")
                .help("the file is damaged or was not downloaded in full: fetch it again")
        };
        let mut faults = Diagnostics::new();
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut trainer, mut normalizer) = (None, None);
        let mut fields = Fields::new(bytes);
        while let Some(Field { number, offset, content }) = fields.next().map_err(damaged)? {
            let broken = |what: &str, error: prost::DecodeError| {
                fault(format!("byte {offset}: the {what} cannot be decoded: {error}"))
            };
            match number {
                proto::PIECE if pieces.len() == MAX_PIECES => {
                    let more = fault("it has more pieces than any vocabulary".to_owned());
                    return Err(more.expected(format!("at most {MAX_PIECES}")).into());
                }
                proto::PIECE => {
                    let id = pieces.len();
                    let read = proto::SentencePiece::decode(content)
                        .map_err(|error| broken(&format!("piece {id}"), error))?;
                    pieces.push(piece(read).unwrap_or_else(|(text, why)| {
                        if faults.iter().count() < TOLD {
                            faults.push(at(name, id, &text).message(why));
                        }
                        Piece { text, score: 0.0, kind: PieceKind::Normal }
                    }));
                }
                proto::TRAINER => {
                    let read = proto::TrainerSpec::decode(content);
                    trainer = Some(read.map_err(|error| broken("trainer_spec", error))?);
                }
                proto::NORMALIZER => {
                    let read = proto::NormalizerSpec::decode(content);
                    normalizer = Some(read.map_err(|error| broken("normalizer_spec", error))?);
                }
                proto::DENORMALIZER => {
                    let read = proto::NormalizerSpec::decode(content);
                    let read = read.map_err(|error| broken("denormalizer_spec", error))?;
                    if !read.precompiled_charsmap.is_empty() {
                        return Err(unsupported(name, "it rewrites the text that it decodes").into());
                    }
                }
                _ => {}
            }
        }
        let (Some(trainer), Some(normalizer)) = (trainer, normalizer) else {
            let cut = fault("it has no trainer_spec or no normalizer_spec".to_owned());
            let help = "the file is damaged or was not downloaded in full: fetch it again";
            return Err(cut.expected("a SentencePiece model").help(help).into());
        };
        if trainer.model_type != Some(proto_type::BPE) {
            let kind = match trainer.model_type {
                None | Some(proto_type::UNIGRAM) => "a unigram model",
                Some(proto_type::WORD) => "a model of words",
                Some(proto_type::CHAR) => "a model of characters",
                Some(_) => "a kind of model that does not exist",
            };
            return Err(unsupported(name, &format!("it is {kind}; LLaMA's merge pairs (BPE)")).into());
        }
        if let Err(why) = CharsMap::parse(&normalizer.precompiled_charsmap) {
            faults.push(fault(why).help("the file is damaged or was not downloaded in full: fetch it again"));
        }
        check_vocabulary(&pieces, trainer.byte_fallback, name, &mut faults);
        let unknown = pieces.iter().position(|piece| piece.kind == PieceKind::Unknown);
        let control = |given: Option<String>, default: &str| {
            let text = given.filter(|text| !text.is_empty());
            let text = text.as_deref().unwrap_or(default);
            let found = pieces.iter().position(|p| p.kind == PieceKind::Control && p.text == text);
            found.map(|id| id as u32)
        };
        let (bos, eos) = (control(trainer.bos_piece, "<s>"), control(trainer.eos_piece, "</s>"));
        faults.or(())?;
        Ok(Self {
            unknown: unknown.map_or(0, |id| id as u32),
            pieces,
            unknown_surface: trainer.unk_surface.unwrap_or_else(|| UNKNOWN_SURFACE.to_owned()),
            bos,
            eos,
            byte_fallback: trainer.byte_fallback,
            add_dummy_prefix: normalizer.add_dummy_prefix.unwrap_or(true),
            whitespace_as_suffix: trainer.treat_whitespace_as_suffix,
            remove_extra_whitespaces: normalizer.remove_extra_whitespaces.unwrap_or(true),
            escape_whitespaces: normalizer.escape_whitespaces.unwrap_or(true),
            charsmap: normalizer.precompiled_charsmap,
        })
    }

    /// The model as a file that [`SentencePieceModel::parse`] reads, and SentencePiece's own library.
    pub fn to_bytes(&self) -> Vec<u8> {
        let piece = |piece: &Piece| proto::SentencePiece {
            piece: piece.text.clone(),
            score: piece.score,
            r#type: Some(number(piece.kind)),
        };
        let text = |id: Option<u32>| Some(self.pieces.get(id? as usize)?.text.clone());
        let trainer = proto::TrainerSpec {
            model_type: Some(proto_type::BPE),
            treat_whitespace_as_suffix: self.whitespace_as_suffix,
            byte_fallback: self.byte_fallback,
            unk_surface: Some(self.unknown_surface.clone()),
            bos_piece: text(self.bos),
            eos_piece: text(self.eos),
        };
        let normalizer = proto::NormalizerSpec {
            precompiled_charsmap: self.charsmap.clone(),
            add_dummy_prefix: Some(self.add_dummy_prefix),
            remove_extra_whitespaces: Some(self.remove_extra_whitespaces),
            escape_whitespaces: Some(self.escape_whitespaces),
        };
        let model = proto::ModelProto {
            pieces: self.pieces.iter().map(piece).collect(),
            trainer_spec: Some(trainer),
            normalizer_spec: Some(normalizer),
        };
        model.encode_to_vec()
    }

    /// The ids of the pieces of a kind.
    pub fn of_kind(&self, kind: PieceKind) -> impl Iterator<Item = u32> {
        let ids = self.pieces.iter().enumerate().filter(move |(_, piece)| piece.kind == kind);
        ids.map(|(id, _)| id as u32)
    }
}

/// The numbers of kinds of models.
mod proto_type {
    pub(super) const UNIGRAM: i32 = 1;
    pub(super) const BPE: i32 = 2;
    pub(super) const WORD: i32 = 3;
    pub(super) const CHAR: i32 = 4;
}

/// The byte that a piece of the form `<0xNN>` stands for, with two digits in capitals as SentencePiece writes them.
pub fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let written = digits.len() == 2 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if written { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The piece that stands for a byte.
pub fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn at(name: &str, id: usize, text: &str) -> Diagnostic {
    let shown: String = text.chars().take(40).collect();
    Diagnostic::new(Code::BadTokenizer).at(format!("{name}: piece {id} {shown:?}"))
}

fn unsupported(name: &str, what: &str) -> Diagnostic {
    Diagnostic::new(Code::UnsupportedModel).at(name).message(what).help(
        "load it with AutoTokenizer.from_pretrained() of transformers and save it with save_pretrained(): \
         llamac reads the tokenizer.json",
    )
}

/// The number of a kind in files.
fn number(kind: PieceKind) -> i32 {
    match kind {
        PieceKind::Normal => 1,
        PieceKind::Unknown => 2,
        PieceKind::Control => 3,
        PieceKind::UserDefined => 4,
        PieceKind::Unused => 5,
        PieceKind::Byte => 6,
    }
}

/// A piece of the file, or its text and what is wrong with it.
fn piece(read: proto::SentencePiece) -> Result<Piece, (String, &'static str)> {
    let proto::SentencePiece { piece: text, score, r#type } = read;
    let kind = match r#type.unwrap_or(1) {
        1 => PieceKind::Normal,
        2 => PieceKind::Unknown,
        3 => PieceKind::Control,
        4 => PieceKind::UserDefined,
        5 => PieceKind::Unused,
        6 => PieceKind::Byte,
        _ => return Err((text, "it is of a kind that does not exist")),
    };
    if text.is_empty() {
        return Err((text, "a piece has at least one character"));
    }
    if text.contains('\0') {
        return Err((text, "a piece holds no character 0"));
    }
    if text.len() >= MAX_PIECE_BYTES {
        return Err((text, "a piece is shorter than 8000 bytes"));
    }
    if score.is_nan() {
        return Err((text, "its score is not a number"));
    }
    Ok(Piece { text, score, kind })
}

/// What SentencePiece checks, too: no text twice, one unknown piece, and bytes all or none.
fn check_vocabulary(pieces: &[Piece], byte_fallback: bool, name: &str, faults: &mut Diagnostics) {
    let mut tell = |fault: Diagnostic| {
        if faults.iter().count() < TOLD {
            faults.push(fault);
        }
    };
    let mut ids: HashMap<&str, usize> = HashMap::with_capacity(pieces.len());
    let mut bytes = [false; 256];
    let mut unknown = None;
    for (id, piece) in pieces.iter().enumerate() {
        let text = piece.text.as_str();
        // An empty text was told before.
        if !text.is_empty()
            && let Some(first) = ids.insert(text, id)
        {
            tell(at(name, id, text).message(format!("piece {first} has the same text")));
        }
        match (piece.kind, byte_of(text)) {
            (PieceKind::Unknown, _) => {
                if let Some(first) = unknown.replace(id) {
                    tell(at(name, id, text).message(format!("piece {first} is the unknown piece, too")));
                }
            }
            (PieceKind::Byte, _) if !byte_fallback => {
                let why = "it stands for a byte, but the model has no byte fallback";
                tell(at(name, id, text).message(why));
            }
            (PieceKind::Byte, Some(byte)) => bytes[usize::from(byte)] = true,
            (PieceKind::Byte, None) => {
                tell(at(name, id, text).message("it stands for a byte").expected("<0x00> to <0xFF>"));
            }
            _ => {}
        }
    }
    let fault = |message: String| Diagnostic::new(Code::BadTokenizer).at(name).message(message);
    if unknown.is_none() {
        tell(fault("it has no unknown piece".to_owned()));
    }
    if byte_fallback && let Some(byte) = bytes.iter().position(|there| !there) {
        let missing = byte_piece(byte as u8);
        tell(fault("the model has byte fallback, but not all byte pieces".to_owned()).expected(missing));
    }
}

#[cfg(test)]
mod tests;
