//! Cause and cure of each fault, at length: what a message of one screen has no room for.
//!
//! Markdown, so that pages can be made of it. A text tells what llamac was looking for, the usual cause, and what to
//! do. Names of one file or tensor are not in it; the fault itself has those.

use super::Code;

impl Code {
    /// What the fault means, where it usually comes from, and what helps: three to eight lines of Markdown, blank ones
    /// aside, without a line break at the end.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::BadArgument => {
                "\
An argument is well-formed, but its value makes no sense for this model or in this place: the name
of a pass that does not exist, an empty prompt, an output in the place of another kind of file.

**Cure**: `llamac COMMAND --help` lists the options; `llamac print passes` (or `targets`, `ops`,
`heads`) lists the names that this build knows."
            }
            Self::NotBuiltYet => {
                "\
The command, option or value is planned, and this version does not have it. It is no misspelling:
those end with exit status 2, this ends with 4, so that a script can tell them apart.

**Cure**: the message names what comes closest, where there is something. Otherwise leave the option
out."
            }
            Self::NotBuiltIn => {
                "\
Parts that take long to compile, or need more than most machines have, are left out of the program
unless they are asked for when it is built. This one is such a part.

**Cure**: build llamac with the feature that the message names: `cargo build --release --features
NAME`."
            }
            Self::Io => {
                "\
The system refused to open, read or write a file. Its own words follow: usually a missing folder,
missing permission, or a folder in the place of a file.

**Cure**: check the path with `ls -ld`, also that of the folder an output goes to: outputs are
written there under no name and get their name when they are whole, so the folder itself has to be
writable."
            }
            Self::NoSpace => {
                "\
The disk, or the user's quota, is full. Nothing was left behind: an output appears whole or not at
all, and one that was there before is still there.

**Cure**: free some space, or write to another disk. A compiled model is about as large as the
checkpoint's weights; `--weights bf16` halves f32. A checkpoint that is run without being compiled
first needs that space in the folder for temporary files, which `TMPDIR` chooses."
            }
            Self::OutOfMemory => {
                "\
The system refused memory for the cache of a sequence, for activations or for outputs. Weights are
not among them: they are mapped from the file and can be dropped and read again.

**Cure**: a shorter `--max-context` or `-n`, or `--kv bf16`, makes the cache smaller; fewer texts or
positions at once make outputs smaller. `llamac inspect` tells what a token needs."
            }
            Self::NoThreads => {
                "\
The system refused to start a thread: a limit on processes (`ulimit -u`, or that of a container) is
reached.

**Cure**: ask for fewer with `--threads 1`, or raise the limit. The results are the same for any
number of threads."
            }
            Self::NotACheckpoint => {
                "\
The path is neither a compiled model nor a checkpoint. A checkpoint is a folder with `config.json`
beside `model.safetensors` or `pytorch_model.bin`, in one file or in shards that an index names; a
folder with Meta's `params.json` and `consolidated.00.pth`; or a `.gguf` file.

**Cause**: often the folder above or below the right one, or a download that has not finished.

**Cure**: give the folder that holds `config.json` or `params.json`, or the file. In the cache of
the Hugging Face hub that is `models--OWNER--NAME/snapshots/REVISION`."
            }
            Self::BadJson => {
                "\
A file of the checkpoint is not valid JSON, or not an object where one has to be. The message gives
line and column.

**Cause**: a download that broke off, an error page saved in place of the file, a pointer of Git LFS
that was never replaced by its file, or an edit by hand.

**Cure**: get the file again (`git lfs pull`), or mend the line."
            }
            Self::BadConfigValue => {
                "\
A key of the configuration holds a value of the wrong type or outside of what is possible: a string
for a number, a negative size, a number of layers that no model has.

**Cure**: correct the key in the file. A key that transformers fills in by itself can also be
removed; the value is then the default of its `LlamaConfig`."
            }
            Self::MissingConfigKey => {
                "\
The configuration lacks a key that has no default, such as `model_type`, or a parameter of the
rotary embedding that its `rope_type` needs.

**Cause**: a file written by hand or by a tool of its own; `save_pretrained()` writes all keys.

**Cure**: add the key. The model's paper or its original repository has the value; do not guess one,
since a wrong value gives wrong text and no error."
            }
            Self::InconsistentConfig => {
                "\
Each value of the configuration is possible, but not all of them together: heads that do not divide
into groups for keys and values, a head dimension that rotary embedding cannot halve, factors of
another length than half the head.

**Cure**: compare the keys that the message names with the original model's. If only one was edited,
the others have to follow."
            }
            Self::UnsupportedConfig => {
                "\
The configuration is valid, and asks for something that llamac does not compute: another activation,
weights that are quantized by a method that it does not read, rotary embedding of a part of the
head, attention that is not causal.

**Cure**: for quantized checkpoints, the message says which methods are read; get one of these, or
the original in f32, f16 or bf16. For the rest there is none but another model: leaving the key out
would compute something else."
            }
            Self::UnsupportedModel => {
                "\
The files hold a model, but not one of the LLaMA family in a form that can be read: `model_type` is
not `llama`, or the folder holds an adapter alone, or weights of TensorFlow or another format.

**Cure**: give an adapter with `--lora`, and its base as the checkpoint. A LLaMA in another form can
be loaded with transformers and saved again with `save_pretrained()`, which writes safetensors.
Other architectures cannot be converted."
            }
            Self::MissingFile => {
                "\
A file is not there that another one refers to: a shard that the index names, or a file given as an
argument.

**Cause**: a download that has not finished, or a copy without all shards.

**Cure**: download or copy the checkpoint again. If the name differs by a letter, the message says
so."
            }
            Self::BadContainer => {
                "\
A `.safetensors` file breaks the rules of its format: the header is no JSON, tensors overlap or
leave gaps, or the file is shorter or longer than its header says.

**Cause**: nearly always a download that broke off, or a pointer of Git LFS in place of the file
(about 130 bytes).

**Cure**: compare the file's size with the original's, and download it again."
            }
            Self::MissingTensor => {
                "\
The configuration describes a tensor that no file holds. All that are missing come together, those
of many layers in one fault.

**Cause**: a shard that is missing from the folder, a `num_hidden_layers` that is not this
checkpoint's, or names of another convention.

**Cure**: take configuration and weights from the same source. If the files have a name that differs
by a few letters, the message shows it; rename the tensor there."
            }
            Self::WrongShape => {
                "\
A tensor is there, but its sizes are not those that the configuration gives. The message says which
keys each expected size comes from, and which value would fit.

**Cause**: a configuration of another size of the same model, or `num_key_value_heads` missing or
wrong in a model with grouped attention, or a vocabulary that was extended without its `vocab_size`.

**Cure**: correct the key that the message names, if the weights are right."
            }
            Self::WrongDtype => {
                "\
A weight has a dtype other than F32, F16 and BF16, or a part of a quantized weight another than its
method gives it.

**Cure**: load the checkpoint with transformers, `model.to(torch.bfloat16)`, and save it with
`save_pretrained()`. If it is quantized, take weights and `quantization_config` from the same
source."
            }
            Self::BadPackedWeight => {
                "\
The parts that a quantized weight is stored as do not go together: a column belongs to a group that
has no scale (`g_idx`), a shape that is stored beside the codes is not the model's, none of the
settings in `config_groups` goes with the tensors, or the weight is there unquantized, too.

**Cause**: files of two checkpoints in one folder, a tool that cut or rearranged weights without
their parts, or damage.

**Cure**: take all files from the same source, or quantize again."
            }
            Self::DuplicateTensor => {
                "\
Two tensors stand for the same weight: one name with and one without the prefix `model.`, or one
name in two shards. Which of them counts cannot be known, so none is taken.

**Cure**: remove one of the two, or the shards of the other checkpoint that was copied into the same
folder."
            }
            Self::MissingHead => {
                "\
The head that was asked for, or that `architectures` names, needs a tensor that the checkpoint
lacks. transformers would draw random numbers for it; llamac does not make up weights.

**Cause**: a base model under the name of a classifier that it was never trained as, or
`tie_word_embeddings` that is `false` by mistake.

**Cure**: `--head base` compiles the model without a head. If the output embedding is the input
embedding, set `tie_word_embeddings` to `true`."
            }
            Self::BadIndex => {
                "\
`model.safetensors.index.json` cannot be followed: it has no `weight_map`, or the map names a file
outside of the folder.

**Cure**: get the index again from where the shards come from. A checkpoint with one file needs
none; remove the index if `model.safetensors` holds everything."
            }
            Self::OutOfRange => {
                "\
A weight is too large for the dtype that it is to be stored in: f16 ends at 65504, while f32 and
bf16 reach 3·10³⁸. It would become infinite, and the model's outputs with it.

**Cure**: `--weights bf16` takes as little space and keeps the range; `--weights as-is` changes
nothing."
            }
            Self::DamagedTorchFile => {
                "\
A `.pth` or `.bin` file is a zip file, or in older ones a sequence of pickles: a dictionary that
says where each tensor lies, and the numbers beside it. Here the container is cut, its entries
overlap or are there twice, compressed or encrypted, or a tensor reaches beyond its numbers.

**Cure**: download the file again and compare its size, or save it again with `torch.save()`,
which neither compresses nor encrypts."
            }
            Self::DamagedGguf => {
                "\
A GGUF file begins with its metadata, keys and values, and a list that says where each tensor lies
behind it. Here a number, a length or a place in them cannot be right: the file ends too soon, a
type does not exist, or tensors overlap.

**Cure**: compare the size of the file with that of its source and download it again. Whoever wrote
the file can check it with `gguf-dump` of llama.cpp."
            }
            Self::ForbiddenPickle => {
                "\
The dictionary of a `.pth` or `.bin` file is a pickle, a program that may construct anything that
Python can name. llamac carries out only what dictionaries of tensors need, and this file asks for
something else: the message names it. Nothing was run.

**Cure**: be careful with this file. If it is your own, it holds more than a model's tensors: save
them alone, with `torch.save(model.state_dict(), PATH)` or, better, as safetensors."
            }
            Self::ShardsDisagree => {
                "\
Every file `consolidated.NN.pth` of a checkpoint in Meta's layout holds a part of each matrix, so
all of them have the same tensors, of the same shapes and dtypes. These do not belong together, or
one of them is missing.

**Cure**: fetch all of them from one place; `checklist.chk`, if it is there, has their checksums for
`md5sum -c`."
            }
            Self::NotAnArtifact => {
                "\
The file was expected to be a compiled model, and is not one: not a safetensors file at all, cut
off, or one that llamac did not write.

**Cure**: `llamac compile CHECKPOINT -o model.llamac` makes one. If it was one once, its copy is not
whole: compare sizes, or compile again."
            }
            Self::ArtifactVersion => {
                "\
The model was compiled by an llamac whose format differs from this one's. A version is never guessed
at: reading a plan by the rules of another could give wrong numbers without an error.

**Cure**: compile the checkpoint again with this llamac, which takes about as long as copying it; or
use the llamac that wrote it. `llamac --version` tells this one's."
            }
            Self::DamagedArtifact => {
                "\
Bytes of a compiled model are not those that were written: a checksum differs, or its plan describes
something that cannot be run. Every part that differs is named.

**Cause**: a disk or a copy that lost or changed bytes, or an edit of the file.

**Cure**: copy or compile it again. `llamac verify FILE` checks a file without running it.
`--no-check` opens it without comparing checksums, and computes with the damage."
            }
            Self::BadToken => {
                "\
A token id is negative, or not below the size of the model's vocabulary.

**Cause**: ids from the tokenizer of another model, or a token that was added to the tokenizer while
the model's embedding kept its size.

**Cure**: use the model's own tokenizer: `llamac tokenize MODEL TEXT` prints the ids; `llamac
inspect MODEL` tells the size of the vocabulary."
            }
            Self::ContextFull => {
                "\
The prompt and what was to follow need more positions than the model has (`max_position_embeddings`,
or `--max-context` of its compilation). Nothing is cut off in silence.

**Cure**: shorten the prompt, or ask for fewer tokens with `-n`. If the model was compiled with
`--max-context`, compile it with a larger one. `llamac inspect` tells the limit."
            }
            Self::BadInputTensor => {
                "\
A tensor of `--inputs` is missing, or has another dtype or shape than a forward takes: `input_ids`
I64 [batch, seq] or `inputs_embeds` F32 [batch, seq, hidden_size], and if wanted `attention_mask`
and `position_ids` [batch, seq].

**Cure**: save them in these shapes, for instance with `safetensors.torch.save_file`. A single
sequence has a batch of 1."
            }
            Self::WrongHead => {
                "\
The command needs another head than this model was compiled with: `run` needs a causal language
model, `classify` a sequence classifier. `eval` and `embed` take any.

**Cure**: `llamac inspect MODEL` tells the head; `llamac compile CHECKPOINT --head causal-lm`
compiles another, if the checkpoint holds its weights."
            }
            Self::BadTokenizer => {
                "\
`tokenizer.json`, `tokenizer.model` or `tokenizer_config.json` cannot be read, contradicts itself,
uses something that the tokenizers library does not know, belongs to a model with another
vocabulary, or failed on this text.

**Cure**: fetch the files of this model again. If they are whole, load the tokenizer with
`AutoTokenizer.from_pretrained()` of a current transformers and save it with `save_pretrained()`.
Ids (`llamac run MODEL --ids 1,2,3`) need no tokenizer, if the folder has none."
            }
            Self::NoTokenizer => {
                "\
Text was given or asked for, and there is neither a `tokenizer.json` nor a `tokenizer.model` in the
folder, or in the compiled model, which takes along what its checkpoint had.

**Cure**: put one of them beside `config.json` and compile again. Or give ids: `--ids 1,2,3`."
            }
            Self::BadSampling => {
                "\
A setting of sampling is outside of its range: a temperature has to be positive (0 on the command
line means: no sampling), `top_p` and `min_p` lie between 0 and 1, a repetition penalty is positive.

**Cure**: correct the option; if it was not given, the value comes from `generation_config.json` of
the checkpoint, and the option overrides it."
            }
            Self::NotANumber => {
                "\
The logits hold NaN, or nothing but −∞, so that no token can be chosen.

**Cause**: damaged weights, weights that were converted to f16 beyond its range, or inputs that hold
NaN themselves.

**Cure**: `llamac verify FILE` finds damage of a compiled model; compile with `--weights as-is`. If
the checkpoint itself holds NaN, get it again."
            }
            Self::IllegalOp => {
                "\
The graph still holds an operation that the target cannot take, after all rules that could have
turned it into others. The message tells which operation, why it is illegal, and which rule came
nearest.

**Cause**: `--weights` asks for what the target has no operators for, as q4 with `--target onnx`;
`--passes -NAME` switched off what the target relies on; or this is a bug in llamac.

**Cure**: take the target or the format that the message names, and compile without `--passes`. If
it stays, `--dump-ir DIR` writes the graph after each pass; report it with those files and
`config.json`."
            }
            Self::InvalidGraph => {
                "\
The compiler built a graph that breaks its own rules: types that do not fit, a value used before it
is computed. The message shows the instruction and, after a pass, that pass's name. Nothing was
written.

**Cause**: this is a bug in llamac; no checkpoint may cause it.

**Cure**: `--passes -NAME` leaves out the pass that the message names. Report it with `config.json`
and the files of `--dump-ir DIR`."
            }
            Self::NotOnnx => {
                "\
The file was expected to be an ONNX model, and is not one: it is empty, begins like something else,
or holds no graph.

**Cause**: a pointer of Git LFS or an error page in place of the file, the data of a model
(`model.onnx_data`) in place of the model, or a single tensor.

**Cure**: give the file that ends in `.onnx`, or get it again."
            }
            Self::DamagedOnnx => {
                "\
The file begins like an ONNX model, and breaks the rules of its encoding at the place that the
message names; or a tensor has more or less data than its dimensions and its type call for.

**Cause**: nearly always a download or a copy that broke off.

**Cure**: compare the file's size with the original's, and get it again. If it was exported, export
it again."
            }
            Self::BadExternalData => {
                "\
A tensor of an ONNX model has its data in another file, and not all of it is there: the file is
shorter than the model says, the place is no number, or it lies outside of the model's directory,
which no runtime follows.

**Cause**: data of another model or another export under the same name, or a file that is cut.

**Cure**: get the model and its data again, together, and keep both in one directory."
            }
            Self::OnnxTooLarge => {
                "\
An ONNX model is limited to 2 GiB, its tensors' data in other files aside; no runtime reads more.
The graph without any data may take 128 MiB of memory here, which bounds what a damaged file can ask
for.

**Cure**: export the model with external data (`onnx.save_model(…, save_as_external_data=True)`)."
            }
            Self::OnnxBackend => {
                "\
The file is a readable ONNX model, and tract, which runs it here, cannot: an operator that it does
not know, a dtype that it does not compute with, an input that no forward has, or a token beyond the
vocabulary. Its own words follow.

**Cause**: nearly always a profile or weights for another runtime. tract reads the standard's
primitives, with weights in f32 or f16.

**Cure**: export with `--target onnx`, or run the model with the runtime that it was made for."
            }
            Self::NumbersDiffer => {
                "\
Two computations of the same model were compared, and some number is farther from the reference than
the tolerance allows. What is named is the first place, in the order of computing; later differences
may follow from it.

**Cause**: other weights or narrower ones, as another dtype rounds more; a model of another
checkpoint; or, where nothing of that applies, a bug.

**Cure**: `--tolerance` says how much is allowed. Compile with `--weights as-is` to tell rounding
from other reasons."
            }
            Self::NothingToCompare => {
                "\
Two models can be compared if they read the same and give the same: the same vocabulary or width,
the same head, or at least hidden states of the same shape.

**Cure**: compare a checkpoint with what was compiled from it, with the same `--head`."
            }
            Self::NotAnAdapter => {
                "\
An adapter of the PEFT library is a folder with `adapter_config.json` and the weights beside it,
`adapter_model.safetensors` or `adapter_model.bin`. This path holds something else, or no tensors.

**Cure**: give the folder itself, not a file in it, and fetch all of its files. A whole checkpoint
needs no `--lora`: compile it as it is."
            }
            Self::UnsupportedAdapter => {
                "\
PEFT has many kinds of adapters. `--lora` merges LoRA, with rank-stabilized scales, DoRA, biases,
embeddings, tokens and modules that are saved whole; `--soft-prompt` takes prompt tuning, P-tuning
and prefix tuning. The message names what this one is instead, by the key of its configuration.

**Cure**: most kinds that change weights can be merged with `merge_and_unload()` of PEFT; save the
result and compile that."
            }
            Self::AdapterMismatch => {
                "\
An adapter belongs to the model that it was trained on: it names that model's modules, and its
matrices have their sizes. A tensor of this one has no place in the model, or another size, or two
adapters replace the same tensor.

**Cure**: `base_model_name_or_path` in `adapter_config.json` says which model it was trained on. For
ranks that differ, `adapter_config.json` and the weights are from two adapters."
            }
            Self::NoPlaceForPrompt => {
                "\
A soft prompt is in no weight of the model: it is read before each text, or stands in the cache
when a text begins. A checkpoint of transformers has no place for that, and a graph of ONNX does
not know whether what it is fed begins a text or goes on with one.

**Cure**: compile for the target native, whose runtime begins every sequence with the prompt. Or
leave `--soft-prompt` out, and have the program that runs the model feed it: as `inputs_embeds` to
an export of `--inputs embeds`, or a prefix as `past_key_values`."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_explanation_of_its_own() {
        for (i, code) in Code::ALL.iter().enumerate() {
            let text = code.explanation();
            let lines = text.lines().filter(|line| !line.is_empty()).count();
            assert!((3..=8).contains(&lines), "{code}: {lines} lines");
            assert!(text.lines().all(|line| line.chars().count() <= 100), "{code} has a long line");
            assert!(text.contains("**Cure**: ") && text.ends_with('.'), "{code} ends without a cure");
            assert!(Code::ALL[..i].iter().all(|other| other.explanation() != text), "{code} is told twice");
        }
    }
}
