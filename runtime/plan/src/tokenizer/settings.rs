//! The files beside a vocabulary: `tokenizer_config.json`, and `special_tokens_map.json` and `added_tokens.json`, which
//! older tokenizers have in the place of its `added_tokens_decoder`.
//!
//! transformers makes every token that they name (`bos_token`, `additional_special_tokens`, entries of
//! `added_tokens_decoder` with `special: true`, …) special in the tokenizer that it loads beside them: matched as a
//! whole when encoding, left out when decoding skips special tokens.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{AddedToken, Spaces};
use crate::diagnostic::{Code, Diagnostic, Diagnostics};

/// The file that says most.
pub const CONFIG: &str = "tokenizer_config.json";

/// The file with the tokens that are special, by what they are for.
pub const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";

/// The file with the ids of tokens that a vocabulary lacks.
pub const ADDED_TOKENS: &str = "added_tokens.json";

/// The member of the config that stands for the two other files.
const DECODER: &str = "added_tokens_decoder";

/// The special tokens that are for nothing that has a name.
const ADDITIONAL: &str = "additional_special_tokens";

/// What the files say, with transformers' defaults for what they leave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// The special tokens. Those that are in no vocabulary are none: the model has no row for them.
    pub special: Vec<AddedToken>,
    /// The token that opens a text.
    pub bos: Option<String>,
    /// The token that ends a text.
    pub eos: Option<String>,
    /// Whether each text is opened by it (`add_bos_token`), if there is one.
    pub add_bos: bool,
    /// Whether each text is ended by it (`add_eos_token`), if there is one.
    pub add_eos: bool,
    /// Which parts of a text get a space before them (`legacy`, `add_prefix_space`).
    pub spaces: Spaces,
    /// Tokens with the ids that they are said to have, in the order of these.
    added: Vec<(u32, AddedToken)>,
    /// Where that is said, for messages.
    added_by: String,
}

impl Default for TokenizerSettings {
    fn default() -> Self {
        Self::of(&Map::new(), Vec::new(), DECODER.to_owned())
    }
}

impl TokenizerSettings {
    /// Reads the files, which `file` hands out by name; `place` is what messages call a file.
    ///
    /// # Errors
    /// `BadTokenizer` where one that is needed is no JSON object, or an id in `added_tokens.json` is none.
    pub fn read<'a>(
        file: impl Fn(&str) -> Option<&'a [u8]>,
        place: impl Fn(&str) -> String,
    ) -> Result<Self, Diagnostics> {
        let mut faults = Diagnostics::new();
        let mut read = |name: &str| {
            let object = file(name).map(|bytes| object(bytes, &place(name))).transpose();
            faults.absorb(object.map_err(Diagnostics::from)).flatten().unwrap_or_default()
        };
        let mut config = read(CONFIG);
        if let Some(decoder) = config.get(DECODER) {
            let added = decoder.as_object().map(decoded).unwrap_or_default();
            let settings = Self::of(&config, added, format!("{}: {DECODER}", place(CONFIG)));
            return faults.or(settings);
        }
        let (special, added) = (read(SPECIAL_TOKENS_MAP), read(ADDED_TOKENS));
        for (key, value) in special {
            match (value, config.get_mut(&key)) {
                (Value::Array(more), Some(Value::Array(tokens))) => tokens.extend(more),
                (value, _) => {
                    config.insert(key, value);
                }
            }
        }
        let name = place(ADDED_TOKENS);
        let added = faults.absorb(with_ids(added, &name)).unwrap_or_default();
        faults.or(Self::of(&config, added, name))
    }

    fn of(config: &Map<String, Value>, mut added: Vec<(u32, AddedToken)>, added_by: String) -> Self {
        added.sort_by_key(|(id, _)| *id);
        let named = |key: &str| Some(AddedToken::read(config.get(key)?)?.content);
        let flag = |key: &str, default| config.get(key).and_then(Value::as_bool).unwrap_or(default);
        let mut special: Vec<AddedToken> =
            added.iter().filter(|(_, token)| token.special).map(|(_, token)| token.clone()).collect();
        let by_key = config.iter().filter(|(key, _)| names_a_token(key)).map(|(_, value)| value);
        let more = config.get(ADDITIONAL).and_then(Value::as_array).into_iter().flatten();
        let tokens = by_key.chain(more).filter_map(AddedToken::read);
        special.extend(tokens.map(|token| AddedToken { special: true, ..token }));
        Self {
            special,
            bos: named("bos_token"),
            eos: named("eos_token"),
            add_bos: flag("add_bos_token", true),
            add_eos: flag("add_eos_token", false),
            spaces: match (flag("add_prefix_space", true), flag("legacy", false)) {
                (false, _) => Spaces::Never,
                (true, true) => Spaces::EveryPart,
                (true, false) => Spaces::Start,
            },
            added,
            added_by,
        }
    }

    /// The tokens that follow on a vocabulary of `size` tokens, whose ids are `size` and so on. `has` says whether a
    /// text is a token of the vocabulary, which is not added again.
    ///
    /// # Errors
    /// `BadTokenizer` where there is a gap in the ids.
    pub fn beyond(&self, size: usize, has: impl Fn(&str) -> bool) -> Result<Vec<&AddedToken>, Diagnostic> {
        let mut texts = HashSet::new();
        let mut tokens = Vec::new();
        for (id, token) in self.added.iter().filter(|(id, _)| *id as usize >= size) {
            if has(&token.content) || !texts.insert(token.content.as_str()) {
                continue;
            }
            let next = size + tokens.len();
            if *id as usize != next {
                let fault = Diagnostic::new(Code::BadTokenizer)
                    .at(format!("{}: {:?}", self.added_by, token.content))
                    .expected(format!("id {next}, the next after the vocabulary"));
                return Err(fault.found(format!("id {id}")));
            }
            tokens.push(token);
        }
        Ok(tokens)
    }
}

/// A key of this form names a token: `bos_token`, `eos_token`, `image_token`, … but not `add_bos_token`.
fn names_a_token(key: &str) -> bool {
    key.ends_with("_token") && !key.starts_with("add_")
}

fn object(bytes: &[u8], name: &str) -> Result<Map<String, Value>, Diagnostic> {
    let fault = |why: String| Diagnostic::new(Code::BadTokenizer).at(name).message(why);
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(fault("it is not a JSON object".to_owned())),
        Err(e) => Err(fault(e.to_string())),
    }
}

/// The entries of `added_tokens_decoder`; those of another shape are not tokens.
fn decoded(entries: &Map<String, Value>) -> Vec<(u32, AddedToken)> {
    let entry = |(id, entry): (&String, &Value)| Some((id.parse().ok()?, AddedToken::read(entry)?));
    entries.iter().filter_map(entry).collect()
}

/// The entries of `added_tokens.json`. Which of them are special is said elsewhere.
fn with_ids(entries: Map<String, Value>, name: &str) -> Result<Vec<(u32, AddedToken)>, Diagnostics> {
    let entry = |(content, id): (String, Value)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok((id, AddedToken::new(content, false))),
        None => {
            let fault = Diagnostic::new(Code::BadTokenizer).at(format!("{name}: {content:?}"));
            Err(fault.expected("the id of the token").found(id.to_string()).into())
        }
    };
    entries.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of files with these contents.
    fn read(config: &str, special: &str, added: &str) -> Result<TokenizerSettings, Diagnostics> {
        let files = [(CONFIG, config), (SPECIAL_TOKENS_MAP, special), (ADDED_TOKENS, added)];
        let file = |name: &str| {
            let (_, text) = files.iter().find(|(found, _)| *found == name)?;
            (!text.is_empty()).then_some(text.as_bytes())
        };
        TokenizerSettings::read(file, |name| format!("d/{name}"))
    }

    fn special(settings: &TokenizerSettings) -> Vec<&str> {
        settings.special.iter().map(|token| token.content.as_str()).collect()
    }

    #[test]
    fn the_config_stands_for_the_other_files_where_it_has_their_contents() {
        let (map, added) =
            (r#"{"bos_token": "[BOS]", "additional_special_tokens": ["b"]}"#, r#"{"[STOP]": 9}"#);
        let old = read(r#"{"bos_token": "<s>", "additional_special_tokens": ["a"]}"#, map, added).unwrap();
        assert_eq!((old.bos.as_deref(), special(&old)), (Some("[BOS]"), vec!["[BOS]", "a", "b"]));
        assert_eq!(old.beyond(9, |_| false).unwrap(), [&AddedToken::new("[STOP]".to_owned(), false)]);
        let config = r#"{"bos_token": "<s>", "add_eos_token": true,
            "added_tokens_decoder": {"9": {"content": "[PAD]", "lstrip": true, "special": true}, "x": 1}}"#;
        // They are not looked at.
        for (map, added) in [(map, added), ("{", "[]")] {
            let new = read(config, map, added).unwrap();
            assert_eq!((new.bos.as_deref(), special(&new)), (Some("<s>"), vec!["[PAD]", "<s>"]));
            let [pad] = new.beyond(9, |_| false).unwrap()[..] else { panic!("{new:?}") };
            assert!(pad.lstrip && pad.special && pad.content == "[PAD]" && new.add_bos && new.add_eos);
        }
    }

    #[test]
    fn added_tokens_follow_on_the_vocabulary() {
        let settings = read("", "", r#"{"c": 4, "<s>": 1, "a": 2, "b": 3}"#).unwrap();
        let texts = |size: usize, has: &str| {
            let tokens = settings.beyond(size, |text| text == has)?;
            Ok::<_, Diagnostic>(tokens.iter().map(|token| token.content.as_str()).collect::<Vec<_>>())
        };
        assert_eq!(texts(2, "").unwrap(), ["a", "b", "c"]);
        assert_eq!(texts(3, "").unwrap(), ["b", "c"]);
        assert_eq!(texts(5, "").unwrap(), [""; 0]);
        let fault = texts(2, "a").unwrap_err();
        assert_eq!(fault.at.as_deref(), Some("d/added_tokens.json: \"b\""));
        assert_eq!(
            (fault.expected.as_deref(), fault.found.as_deref()),
            (Some("id 2, the next after the vocabulary"), Some("id 3"))
        );
    }

    #[test]
    fn faults_name_the_files_all_of_them() {
        let faults = read("{", "[]", r#"{"a": -1}"#).unwrap_err();
        let places: Vec<_> = faults.iter().map(|fault| fault.at.as_deref().unwrap_or_default()).collect();
        assert_eq!(
            places,
            ["d/tokenizer_config.json", "d/special_tokens_map.json", "d/added_tokens.json: \"a\""]
        );
        assert_eq!(
            read("", "", "").unwrap(),
            TokenizerSettings { added_by: "d/added_tokens.json".to_owned(), ..Default::default() }
        );
    }
}
