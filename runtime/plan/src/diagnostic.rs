//! Faults as data: what a file, an argument or the machine did wrong, where, and what would help.
//!
//! A [`Code`] is a row of one table: its number, its sentence and the exit status that it stands for. Libraries
//! return [`Diagnostics`]; only a command prints them and exits. What a code means at length is in `explanation`.

mod explanation;
mod words;

use std::fmt;

pub use words::{printable, reason, shell_word};

/// The class of a fault, which is also the exit status of a command that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The work failed: 1.
    Failed,
    /// The command line is wrong: 2.
    Usage,
    /// A file is wrong: 3.
    BadInput,
    /// A file is right, but llamac cannot do this: 4.
    Unsupported,
    /// Out of memory, disk, context or another limit: 5.
    Resource,
    /// Numbers differ: 6.
    Differ,
    /// A bug in llamac: 70.
    Bug,
}

impl Class {
    /// The exit status.
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::BadInput => 3,
            Self::Unsupported => 4,
            Self::Resource => 5,
            Self::Differ => 6,
            Self::Bug => 70,
        }
    }
}

macro_rules! codes {
    ($($name:ident = $number:literal, $class:ident, $title:literal;)*) => {
        /// The kind of a fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number, as in `E0203`.
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// The class.
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// The sentence of the first line.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    // 00xx: the command line and the machine
    BadArgument = 1, Usage, "invalid argument";
    NotBuiltYet = 2, Unsupported, "this option is not available yet";
    NotBuiltIn = 3, Unsupported, "this program was built without this part";
    Io = 10, Failed, "a file operation failed";
    NoSpace = 11, Resource, "no space left on the device";
    OutOfMemory = 12, Resource, "not enough memory";
    NoThreads = 13, Resource, "the system gives no more threads";
    // 01xx: configuration
    NotACheckpoint = 100, BadInput, "this is not a model that llamac can read";
    BadJson = 101, BadInput, "invalid JSON";
    BadConfigValue = 102, BadInput, "invalid value in the configuration";
    MissingConfigKey = 103, BadInput, "missing key in the configuration";
    InconsistentConfig = 104, BadInput, "the configuration contradicts itself";
    UnsupportedConfig = 105, Unsupported, "this configuration is not supported";
    UnsupportedModel = 106, Unsupported, "this kind of model is not supported";
    // 02xx: tensors
    MissingFile = 200, BadInput, "a file is missing";
    BadContainer = 201, BadInput, "damaged safetensors file";
    MissingTensor = 202, BadInput, "a tensor is missing";
    WrongShape = 203, BadInput, "tensor has the wrong shape";
    WrongDtype = 204, BadInput, "tensor has a dtype that is not supported";
    DuplicateTensor = 205, BadInput, "two tensors have the same meaning";
    MissingHead = 206, BadInput, "the checkpoint has no such head";
    BadIndex = 207, BadInput, "invalid shard index";
    OutOfRange = 208, BadInput, "a number does not fit the dtype that was asked for";
    DamagedTorchFile = 209, BadInput, "damaged PyTorch file";
    ForbiddenPickle = 210, BadInput, "a PyTorch file holds something else than tensors";
    ShardsDisagree = 211, BadInput, "the shards of a checkpoint disagree";
    BadPackedWeight = 213, BadInput, "a quantized weight contradicts itself";
    DamagedGguf = 214, BadInput, "damaged GGUF file";
    // 03xx: artifacts
    NotAnArtifact = 300, BadInput, "this is not a compiled model";
    ArtifactVersion = 301, Unsupported, "the compiled model has another format version";
    DamagedArtifact = 302, BadInput, "the compiled model is damaged";
    // 04xx: running
    BadToken = 400, BadInput, "token id outside the vocabulary";
    ContextFull = 401, Resource, "the context is full";
    BadInputTensor = 402, BadInput, "invalid input tensor";
    WrongHead = 403, BadInput, "the model has another head";
    BadTokenizer = 404, BadInput, "invalid tokenizer";
    NoTokenizer = 405, BadInput, "the model has no tokenizer";
    BadSampling = 406, Usage, "invalid sampling setting";
    NotANumber = 407, Failed, "the model produced a value that is not a number";
    // 05xx: the compiler
    IllegalOp = 500, Unsupported, "an operation cannot be expressed on the target";
    InvalidGraph = 501, Bug, "the graph failed verification";
    // 06xx: ONNX models
    NotOnnx = 600, BadInput, "this is not an ONNX model";
    DamagedOnnx = 601, BadInput, "damaged ONNX model";
    BadExternalData = 602, BadInput, "the data of an ONNX model's tensors is not where it should be";
    OnnxTooLarge = 603, Resource, "the ONNX model is too large to be read";
    OnnxBackend = 604, Unsupported, "the backend cannot run this ONNX model";
    // 07xx: comparing
    NumbersDiffer = 700, Differ, "the numbers differ";
    NothingToCompare = 701, Usage, "these two models have nothing to compare";
    // 08xx: adapters
    NotAnAdapter = 800, BadInput, "this is not an adapter that llamac can read";
    UnsupportedAdapter = 801, Unsupported, "this kind of adapter is not supported";
    AdapterMismatch = 802, BadInput, "the adapter does not fit the model";
    NoPlaceForPrompt = 803, Unsupported, "the output cannot have a soft prompt";
}

impl std::str::FromStr for Code {
    type Err = UnknownCode;

    /// Reads `E0203`, `e203` or `203`.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let digits = text.strip_prefix(['E', 'e']).unwrap_or(text);
        let number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number: Option<u16> = number.and_then(|digits| digits.parse().ok());
        let found = Self::ALL.iter().copied().find(|code| Some(code.number()) == number);
        // Codes of one hundred are of one matter.
        let near = |n: u16| {
            let alike = Self::ALL.iter().copied().filter(|code| code.number() / 100 == n / 100);
            alike.min_by_key(|code| code.number().abs_diff(n))
        };
        found.ok_or_else(|| UnknownCode { nearest: number.and_then(near) })
    }
}

/// A text that is no [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCode {
    /// The code with the nearest number in the same hundred, if the text is a number.
    pub nearest: Option<Code>,
}

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no such code")
    }
}

impl std::error::Error for UnknownCode {}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{:04}", self.number())
    }
}

/// One fault. Its details are boxed, so that results which carry one stay small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic(Box<Details>);

/// What a [`Diagnostic`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The kind.
    pub code: Code,
    /// File, and item in it: `model.safetensors: model.norm.weight`.
    pub at: Option<String>,
    /// What is wrong, where the code's title does not say it all.
    pub message: Option<String>,
    /// What was expected.
    pub expected: Option<String>,
    /// What was found.
    pub found: Option<String>,
    /// A way out.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A fault of kind `code`, without details.
    pub fn new(code: Code) -> Self {
        Self(Box::new(Details { code, at: None, message: None, expected: None, found: None, help: None }))
    }

    /// Names the file, and the item in it.
    pub fn at(mut self, at: impl Into<String>) -> Self {
        self.0.at = Some(at.into());
        self
    }

    /// Says more than the code's title.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.0.message = Some(message.into());
        self
    }

    /// Says what was expected.
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.0.expected = Some(expected.into());
        self
    }

    /// Says what was found.
    pub fn found(mut self, found: impl Into<String>) -> Self {
        self.0.found = Some(found.into());
        self
    }

    /// Says what would help.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }
}

impl std::ops::Deref for Diagnostic {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.code.title())?;
        if let Some(at) = &self.at {
            write!(f, "\n  --> {}", printable(at).replace('\n', "\\n"))?;
        }
        let rows = [
            ("", &self.message),
            ("expected ", &self.expected),
            ("found    ", &self.found),
            ("help: ", &self.help),
        ];
        for (label, text) in rows {
            if let Some(text) = text {
                // Further lines stand below the first.
                write!(f, "\n   {label}{}", printable(text).replace('\n', "\n   "))?;
            }
        }
        Ok(())
    }
}

/// One or more independent faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// None so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Keeps the value of `result`, or its faults.
    pub fn absorb<T>(&mut self, result: Result<T, Self>) -> Option<T> {
        result.map_err(|faults| self.extend(faults)).ok()
    }

    /// `Err` if there is a fault, else `value`.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The faults.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// The exit status: that of the first fault.
    pub fn exit_status(&self) -> u8 {
        self.0.first().map_or(0, |d| d.code.class().exit_status())
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(faults: I) -> Self {
        Self(faults.into_iter().collect())
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_ascending() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
    }

    #[test]
    fn codes_are_read_in_every_spelling() {
        for code in Code::ALL {
            let number = code.number();
            for text in [code.to_string(), format!("e{number}"), number.to_string()] {
                assert_eq!(text.parse(), Ok(*code), "{text}");
            }
        }
        let nearest = |text: &str| text.parse::<Code>().map_err(|unknown| unknown.nearest);
        assert_eq!(nearest("E0212"), Err(Some(Code::ShardsDisagree)));
        assert_eq!(nearest("9999"), Err(None));
        for text in ["", "E", "shape", "-1", "+203", "E0203 ", "99999"] {
            assert_eq!(nearest(text), Err(None), "{text}");
        }
    }

    #[test]
    fn further_lines_are_indented() {
        let fault = Diagnostic::new(Code::InvalidGraph)
            .message("the graph is not valid:\n  %0 = add %x\n    error: x");
        assert_eq!(
            fault.to_string(),
            "error[E0501]: the graph failed verification\n   \
             the graph is not valid:\n     %0 = add %x\n       error: x"
        );
    }

    #[test]
    fn a_place_is_one_line_without_control_characters() {
        let fault = Diagnostic::new(Code::Io).at("a\nb\u{1b}[2J").message("not\u{7} this");
        let text = "error[E0010]: a file operation failed\n  --> a\\nb\\u{1b}[2J\n   not\\u{7} this";
        assert_eq!(fault.to_string(), text);
    }

    #[test]
    fn a_fault_reads_as_documented() {
        let fault = Diagnostic::new(Code::WrongShape)
            .at("model.safetensors: model.layers.1.self_attn.k_proj.weight")
            .expected("[32, 64]  (num_key_value_heads 2 × head_dim 16, hidden_size 64)")
            .found("[64, 64]")
            .help("config.json says num_key_value_heads = 2; these weights have 4");
        assert_eq!(
            fault.to_string(),
            "error[E0203]: tensor has the wrong shape\n  \
             --> model.safetensors: model.layers.1.self_attn.k_proj.weight\n   \
             expected [32, 64]  (num_key_value_heads 2 × head_dim 16, hidden_size 64)\n   \
             found    [64, 64]\n   \
             help: config.json says num_key_value_heads = 2; these weights have 4"
        );
    }
}
