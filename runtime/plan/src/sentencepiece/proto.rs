//! The messages of a SentencePiece model that matter here, with the tags of its specification
//! (sentencepiece_model.proto). Everything else is skipped: how it was trained, its self-test.

use prost::Message;

/// The field of a model that holds a piece.
pub(super) const PIECE: u64 = 1;
/// The field that holds a [`TrainerSpec`].
pub(super) const TRAINER: u64 = 2;
/// The field that holds a [`NormalizerSpec`].
pub(super) const NORMALIZER: u64 = 3;
/// The field that holds the [`NormalizerSpec`] of decoded text.
pub(super) const DENORMALIZER: u64 = 5;

/// A piece of the vocabulary; its id is its place.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SentencePiece {
    #[prost(string, tag = "1")]
    pub piece: String,
    #[prost(float, tag = "2")]
    pub score: f32,
    #[prost(int32, optional, tag = "3")]
    pub r#type: Option<i32>,
}

/// A whole model, to be written.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    pub trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub normalizer_spec: Option<NormalizerSpec>,
}

/// What training decided.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    pub model_type: Option<i32>,
    #[prost(bool, tag = "24")]
    pub treat_whitespace_as_suffix: bool,
    #[prost(bool, tag = "35")]
    pub byte_fallback: bool,
    #[prost(string, optional, tag = "44")]
    pub unk_surface: Option<String>,
    #[prost(string, optional, tag = "46")]
    pub bos_piece: Option<String>,
    #[prost(string, optional, tag = "47")]
    pub eos_piece: Option<String>,
}

/// What happens to a text before it is cut.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NormalizerSpec {
    #[prost(bytes = "vec", tag = "2")]
    pub precompiled_charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3")]
    pub add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub escape_whitespaces: Option<bool>,
}
