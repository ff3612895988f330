//! A `tokenizer.model` of either kind, alone in its folder. What opens encodes, decodes, and is written for Hugging
//! Face; what was written opens, too.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llamac_compiler::source::TokenizerFiles;
use llamac_fuzz::seed;
use llamac_runtime::text::Tokenizer;

fuzz_target!(
    init: {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let names = ["stories", "vocabularies/user-defined", "vocabularies/ties", "vocabularies/words", "vocabularies/llama3"];
        let read = |name: &str| fs::read(folder.join(name).join("tokenizer.model")).expect("the fixtures are there");
        seed("tokenizer_model", names.map(read));
    },
    |input: &[u8]| {
        let folder = tempfile::tempdir().expect("there is room");
        fs::write(folder.path().join("tokenizer.model"), input).expect("there is room");
        let Ok(files) = TokenizerFiles::read(folder.path()) else { return };
        let text = "  Mia had a red kite.\n  foobar<sep>ﬁA 中文 🙂 12345 <s></s> \u{0} aaaaaaaa";
        if let Ok(Some(tokenizer)) = Tokenizer::from_files(|name| files.file(name), str::to_owned) {
            for ids in [tokenizer.encode(text, true), tokenizer.encode_ordinary(text)] {
                let ids = ids.expect("it encodes");
                tokenizer.decode(&ids, false).expect("what was encoded is decoded");
            }
        }
        if let Ok(written) = files.hugging_face(None, None, &mut Vec::new())
            && let Some((name, json)) = written.first()
        {
            Tokenizer::from_bytes(json, name).expect("what is written opens");
        }
    }
);
