use super::proto::{NormalizerSpec, SentencePiece, TrainerSpec};
use super::*;

const NAME: &str = "tokenizer.model";

/// A field of a message with a length.
fn field(number: u64, content: &impl Message) -> Vec<u8> {
    let mut bytes = vec![(number << 3 | 2) as u8];
    prost::encode_length_delimiter(content.encoded_len(), &mut bytes).unwrap();
    [bytes, content.encode_to_vec()].concat()
}

fn of(text: &str, score: f32, kind: i32) -> SentencePiece {
    SentencePiece { piece: text.to_owned(), score, r#type: Some(kind) }
}

fn model(pieces: &[SentencePiece], trainer: &TrainerSpec, normalizer: &NormalizerSpec) -> Vec<u8> {
    let pieces: Vec<u8> = pieces.iter().flat_map(|piece| field(proto::PIECE, piece)).collect();
    [pieces, field(proto::TRAINER, trainer), field(proto::NORMALIZER, normalizer)].concat()
}

fn bpe() -> TrainerSpec {
    TrainerSpec { model_type: Some(proto_type::BPE), ..TrainerSpec::default() }
}

fn small() -> Vec<SentencePiece> {
    vec![of("<unk>", 0.0, 2), of("<s>", 0.0, 3), of("</s>", 0.0, 3), of("a", -1.5, 1), of("▁a", -0.0, 1)]
}

fn faults(bytes: &[u8]) -> Vec<String> {
    let faults = SentencePieceModel::parse(bytes, NAME).unwrap_err();
    faults.iter().map(|fault| fault.to_string()).collect()
}

#[test]
fn what_is_left_out_has_the_defaults_of_sentencepiece() {
    let read = SentencePieceModel::parse(&model(&small(), &bpe(), &NormalizerSpec::default()), NAME).unwrap();
    assert_eq!((read.unknown, read.bos, read.eos), (0, Some(1), Some(2)));
    assert_eq!(read.unknown_surface, " ⁇ ");
    assert!(read.add_dummy_prefix && read.remove_extra_whitespaces && read.escape_whitespaces);
    assert!(!read.byte_fallback && !read.whitespace_as_suffix && read.charsmap.is_empty());
    let piece = Piece { text: "a".to_owned(), score: -1.5, kind: PieceKind::Normal };
    assert_eq!(read.pieces[3], piece);
    assert_eq!(read.of_kind(PieceKind::Control).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn what_is_given_is_read() {
    let mut pieces = small();
    pieces[1].piece = "<bos>".to_owned();
    pieces.extend((0..=255).map(|byte| of(&byte_piece(byte), 0.0, 6)));
    let trainer = TrainerSpec {
        byte_fallback: true,
        treat_whitespace_as_suffix: true,
        unk_surface: Some("?".to_owned()),
        bos_piece: Some("<bos>".to_owned()),
        ..bpe()
    };
    let off = Some(false);
    let normalizer = NormalizerSpec {
        precompiled_charsmap: b"\0\0\0\0x\0".to_vec(),
        add_dummy_prefix: off,
        remove_extra_whitespaces: off,
        escape_whitespaces: off,
    };
    // A field that nobody knows is passed over.
    let bytes = [model(&pieces, &trainer, &normalizer), vec![0x7a, 1, 0xff]].concat();
    let read = SentencePieceModel::parse(&bytes, NAME).unwrap();
    assert_eq!((read.bos, read.eos, read.unknown_surface.as_str()), (Some(1), Some(2), "?"));
    assert!(!(read.add_dummy_prefix || read.remove_extra_whitespaces || read.escape_whitespaces));
    assert!(read.byte_fallback && read.whitespace_as_suffix);
    assert_eq!((read.charsmap, read.pieces.len()), (b"\0\0\0\0x\0".to_vec(), 261));
}

#[test]
fn faulty_pieces_are_told_together_each_by_its_number() {
    let mut pieces = small();
    pieces.extend([
        of("", 0.0, 1),
        of("x", f32::NAN, 1),
        of("a", 0.0, 1),
        of("<0x41>", 0.0, 6),
        of("<unk2>", 0.0, 2),
        of("y", 0.0, 7),
        of("n\0", 0.0, 1),
        of(&"l".repeat(MAX_PIECE_BYTES), 0.0, 1),
    ]);
    let told = faults(&model(&pieces, &bpe(), &NormalizerSpec::default()));
    let expected = [
        "tokenizer.model: piece 5 \"\"\n   a piece has at least one character",
        "piece 6 \"x\"\n   its score is not a number",
        "piece 10 \"y\"\n   it is of a kind that does not exist",
        "piece 11 \"n\\0\"\n   a piece holds no character 0",
        "piece 12 \"llllllllllllllllllllllllllllllllllllllll\"\n   a piece is shorter than 8000 bytes",
        "piece 7 \"a\"\n   piece 3 has the same text",
        "piece 8 \"<0x41>\"\n   it stands for a byte, but the model has no byte fallback",
        "piece 9 \"<unk2>\"\n   piece 0 is the unknown piece, too",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.contains(expected) && told.contains("E0404"), "{told}");
    }
}

#[test]
fn what_is_missing_is_told() {
    let byte_fallback = TrainerSpec { byte_fallback: true, ..bpe() };
    let told = faults(&model(&small()[1..], &byte_fallback, &NormalizerSpec::default()));
    assert!(told[0].contains("no unknown piece") && told[1].contains("expected <0x00>"), "{told:?}");
    let whole = model(&small(), &bpe(), &NormalizerSpec::default());
    for bytes in [&whole[..whole.len() - 2], b"", b"\x0a\x00"] {
        assert!(faults(bytes)[0].contains("no trainer_spec or no normalizer_spec"));
    }
    assert!(faults(&whole[..whole.len() - 3])[0].contains(": a field reaches beyond the end"));
    assert!(faults(b"\x0a\x03\x0a\x01\xff")[0].contains("byte 2: the piece 0 cannot be decoded"));
}

#[test]
fn other_kinds_of_models_are_refused() {
    for (kind, word) in [
        (None, "unigram"),
        (Some(1), "unigram"),
        (Some(3), "words"),
        (Some(4), "characters"),
        (Some(9), "kind"),
    ] {
        let trainer = TrainerSpec { model_type: kind, ..bpe() };
        let told = faults(&model(&small(), &trainer, &NormalizerSpec::default()));
        assert!(told[0].contains("E0106") && told[0].contains(word), "{told:?}");
    }
    let damaged =
        NormalizerSpec { precompiled_charsmap: vec![0, 0, 0, 0, 0xff], ..NormalizerSpec::default() };
    assert!(faults(&model(&small(), &bpe(), &damaged))[0].contains("its table of characters: invalid utf-8"));
    let rewriting = NormalizerSpec { precompiled_charsmap: vec![1], ..NormalizerSpec::default() };
    let bytes = [model(&small(), &bpe(), &NormalizerSpec::default()), field(proto::DENORMALIZER, &rewriting)];
    assert!(faults(&bytes.concat())[0].contains("rewrites the text that it decodes"));
}

#[test]
fn too_many_pieces_are_told_before_they_are_kept() {
    let told = faults(&[0x0a, 0].repeat(MAX_PIECES + 1));
    assert!(told[0].contains("more pieces than any vocabulary"), "{told:?}");
}

#[test]
fn byte_pieces_have_two_capital_digits() {
    assert!((0..=255).all(|byte| byte_of(&byte_piece(byte)) == Some(byte)));
    for text in ["<0x0a>", "<0xA>", "<0x+1>", "0x41", "<0x041>", "<0xé>"] {
        assert_eq!(byte_of(text), None, "{text}");
    }
}
