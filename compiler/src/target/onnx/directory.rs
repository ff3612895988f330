//! The directory of an export: which files are in it, what it may replace, and how it comes to be.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics, reason};

use super::PRODUCER;
use super::beside::{self, Deed};
use super::config::config_json;
use super::data::DataFile;
use super::genai::genai_config;
use super::layout::{Layout, Names, PLAIN, TRANSFORMERS_JS};
use super::model::{Graph, Model};
use super::proto;
use super::storage::ExternalData;
use crate::driver::Progress;
use crate::output::{Folder, Output, write_fault};
use crate::source::{self, CONFIG, Checkpoint, GENERATION, MappedFile, TOKENIZER_FILES};
use crate::weights::WeightReader;

const GENAI: &str = "genai_config.json";

/// What else is in the folder of an export, beside models and tokenizers.
const FILES: [&str; 4] = [CONFIG, GENERATION, GENAI, JS_FOLDER];

/// Where models for transformers.js are.
const JS_FOLDER: &str = "onnx";

/// Bytes that are copied between two reports of progress.
const STRETCH: u64 = 64 << 20;

/// Where an export goes.
#[derive(Debug)]
pub enum Destination {
    /// A directory of its own.
    Folder(Folder),
    /// The directory of the checkpoint, whose weights the model uses.
    Checkpoint {
        /// The model.
        model: Output,
        /// What happens to the configuration of onnxruntime-genai after the model has its name.
        genai: Genai,
    },
}

/// What happens to `genai_config.json` in the folder of a checkpoint.
#[derive(Debug)]
pub enum Genai {
    /// It stays as it is.
    Stays,
    /// It gets its name.
    Named(Output),
    /// An earlier one goes.
    Removed(PathBuf),
}

/// What is written beside the weights.
pub(super) struct Content<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) layout: Layout,
    pub(super) names: Names,
    pub(super) external: ExternalData,
    /// The longest sequence.
    pub(super) context: u64,
    /// The file of weights that the model uses, if it has one of its own.
    pub(super) data: Option<DataFile>,
    pub(super) model: Model,
}

impl Destination {
    /// Starts the export of `checkpoint` to `path`.
    ///
    /// # Errors
    /// When `path` cannot be written to, or holds something else than an earlier export; when weights shall be used
    /// where they are, and cannot be.
    pub fn create(
        path: &Path,
        checkpoint: &Checkpoint,
        layout: Layout,
        external: ExternalData,
    ) -> Result<Self, Diagnostics> {
        let fault = Diagnostic::new(Code::BadArgument).at(format!("--external-data {external}"));
        if external.is_stored() && layout == Layout::TransformersJs {
            let why =
                "transformers.js has the model in a folder of its own, away from the files of the checkpoint";
            return Err(fault.message(why).help("use --layout flat, or --external-data file").into());
        }
        if external.is_stored() && checkpoint.has_adapters() {
            let why = "weights that adapters change are not in the files of the checkpoint";
            return Err(fault.message(why).help("use --external-data file").into());
        }
        if external.is_stored() && (source::gguf::is_gguf(&checkpoint.path) || checkpoint.is_quantized()) {
            let why = "the files have matrices quantized, or in another order than the graph takes them";
            return Err(fault.message(why).help("use --external-data file").into());
        }
        if external != ExternalData::Reference {
            if same_place(path, &checkpoint.path) {
                return Err(Diagnostic::new(Code::BadArgument)
                    .at(path.display().to_string())
                    .message("this is the checkpoint itself")
                    .help("give the output a folder of its own, or use the weights here with --external-data reference")
                    .into());
            }
            return Ok(Self::Folder(Folder::create(path, guard)?));
        }
        if let Some(why) = out_of_reach(path, checkpoint) {
            return Err(fault.message(why).help("use --external-data copy, or file").into());
        }
        let model = path.join(PLAIN.model);
        if model.exists() && !is_ours(&model) {
            return Err(fault
                .message(format!("{} was not made by llamac: it is not replaced", model.display()))
                .help("move it away, or use --external-data copy with another folder")
                .into());
        }
        Ok(Self::Checkpoint { model: Output::create(&model)?, genai: Genai::Stays })
    }

    /// Makes the finished export visible.
    ///
    /// # Errors
    /// When it cannot be stored or named.
    pub fn publish(self) -> Result<(), Diagnostic> {
        match self {
            Self::Folder(folder) => folder.publish(),
            Self::Checkpoint { model, genai } => {
                model.publish()?;
                match genai {
                    Genai::Stays => Ok(()),
                    Genai::Named(output) => output.publish(),
                    Genai::Removed(path) => fs::remove_file(&path).map_err(|e| write_fault(&path, &e)),
                }
            }
        }
    }

    /// Writes all of `content`, and returns the number of bytes. What is not as one may expect it goes to `warnings`.
    ///
    /// # Errors
    /// When it cannot be written, or a weight not read; when there is no writing the tokenizer.
    pub(super) fn write(
        &mut self,
        content: Content<'_>,
        warnings: &mut Vec<String>,
        progress: &dyn Progress,
    ) -> Result<u64, Diagnostics> {
        let Content { checkpoint, layout, names, external, context, data, mut model } = content;
        let genai = genai_config(checkpoint, &model.graph, names.model, context);
        if genai.is_none() && layout == Layout::Genai {
            return Err(not_for_genai(&model.graph).into());
        }
        let config = config_json(checkpoint, names, &model.graph);
        let mut total = 0;
        match self {
            Self::Folder(folder) => {
                let bytes = encode(model)?;
                let mut files =
                    checkpoint.tokenizer.complete(&checkpoint.tokenizer_path, context, warnings)?;
                if layout != Layout::Genai {
                    files.push((CONFIG, config));
                    files.extend(checkpoint.generation_json.clone().map(|bytes| (GENERATION, bytes)));
                }
                if layout != Layout::TransformersJs {
                    files.extend(genai.map(|bytes| (GENAI, bytes)));
                }
                files.push((names.model, bytes));
                if external == ExternalData::Copy {
                    total += copy(checkpoint, folder, progress)?;
                }
                if let Some(data) = data {
                    data.write(WeightReader::new(checkpoint), folder.file(Path::new(names.data))?, progress)?;
                    total += data.length();
                }
                for (name, bytes) in files {
                    put(folder.file(Path::new(name))?, &bytes)?;
                    total += bytes.len() as u64;
                }
            }
            Self::Checkpoint { model: output, genai: beside } => {
                warnings.extend(hard_links(checkpoint));
                let path = output.path().with_file_name(GENAI);
                match (beside::deed(&path, output.path(), genai.as_deref()), genai) {
                    (Deed::Write, Some(config)) => {
                        model.metadata.push(beside::written(&config));
                        let file = Output::create(&path)?;
                        put(&file, &config)?;
                        total += config.len() as u64;
                        *beside = Genai::Named(file);
                    }
                    (Deed::Remove, _) => *beside = Genai::Removed(path),
                    (Deed::Keep, _) => {
                        let path = path.display();
                        warnings.push(format!(
                            "{path} is not as llamac wrote it: it stays, and may not fit the model"
                        ));
                    }
                    (Deed::Write | Deed::Nothing, _) => {}
                }
                let bytes = encode(model)?;
                put(output, &bytes)?;
                total += bytes.len() as u64;
            }
        }
        Ok(total)
    }
}

fn encode(model: Model) -> Result<Vec<u8>, Diagnostic> {
    proto::encode(model).ok_or_else(|| {
        Diagnostic::new(Code::InvalidGraph).message("the model without its weights is larger than 2 GiB")
    })
}

/// Which files of weights the checker of ONNX refuses because they have more names than one: sentences.
fn hard_links(checkpoint: &Checkpoint) -> Vec<String> {
    let several = |file: &&MappedFile| fs::metadata(file.path()).is_ok_and(|file| file.nlink() > 1);
    let sentence = |file: &MappedFile| {
        let path = file.path().display();
        format!("{path} is a hard link: ONNX Runtime reads it, but onnx.load and onnx.checker refuse to")
    };
    checkpoint.files().iter().filter(several).map(sentence).collect()
}

fn put(output: &Output, bytes: &[u8]) -> Result<(), Diagnostic> {
    output.file().write_all(bytes).map_err(|e| write_fault(output.path(), &e))
}

/// Copies the files of the checkpoint's weights as they are; where the file system can, they share their storage.
fn copy(checkpoint: &Checkpoint, folder: &mut Folder, progress: &dyn Progress) -> Result<u64, Diagnostic> {
    let mut total: u64 = checkpoint.files().iter().map(|file| file.bytes().len() as u64).sum();
    progress.start(total);
    for file in checkpoint.files() {
        let output = folder.file(Path::new(file.name()))?;
        let fault = |e: io::Error| write_fault(output.path(), &e);
        let mut from = File::open(file.path()).map_err(|e| read_fault(file.path(), &e))?;
        let mut to = output.file();
        loop {
            match io::copy(&mut (&mut from).take(STRETCH), &mut to).map_err(fault)? {
                0 => break,
                bytes => progress.advance(bytes),
            }
        }
    }
    if let Some(name) = checkpoint.index()
        && let Some(index) = source::read_file(&checkpoint.path.join(name), source::MAX_TOKENIZER_FILE)?
    {
        put(folder.file(Path::new(name))?, &index)?;
        total += index.len() as u64;
    }
    Ok(total)
}

fn read_fault(path: &Path, error: &io::Error) -> Diagnostic {
    let fault = Diagnostic::new(Code::Io).at(path.display().to_string());
    fault.message(format!("it cannot be read: {}", reason(error)))
}

/// Why a model at `path` cannot use the files of the checkpoint: runtimes refuse what is not in the same directory, and
/// links that leave it.
fn out_of_reach(path: &Path, checkpoint: &Checkpoint) -> Option<String> {
    let here = &checkpoint.path;
    if !same_place(path, here) {
        return Some(format!("the output has to be the checkpoint's own directory, {}", here.display()));
    }
    let root = fs::canonicalize(here).ok()?;
    let is_link = |file: &&MappedFile| fs::canonicalize(file.path()).ok() != Some(root.join(file.name()));
    let link = checkpoint.files().iter().find(is_link)?;
    Some(format!("{} is a link, which runtimes do not follow", link.path().display()))
}

/// Whether both paths are there and lead to the same folder.
fn same_place(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// Says why a folder that is not empty must stay: it holds something that no export does, or no model of ours.
fn guard(path: &Path) -> Result<(), Diagnostic> {
    let names = || [PLAIN].into_iter().chain(TRANSFORMERS_JS);
    let mut known = [&FILES[..], &TOKENIZER_FILES].concat();
    known.extend(names().flat_map(|names| [names.model, names.data]));
    let stranger = ["", JS_FOLDER].iter().find_map(|folder| stranger(path, folder, &known));
    let models: Vec<PathBuf> =
        names().map(|names| path.join(names.model)).filter(|model| model.exists()).collect();
    let why = match (stranger, models.iter().find(|model| !is_ours(model))) {
        (Some(stranger), _) => format!("{} is not of an export", stranger.display()),
        (None, Some(foreign)) => format!("llamac did not make {}", foreign.display()),
        (None, None) if models.is_empty() => "it holds no model that llamac made".to_owned(),
        (None, None) => return Ok(()),
    };
    Err(Diagnostic::new(Code::BadArgument)
        .at(path.display().to_string())
        .message(format!("the folder is not empty, and {why}: it is not replaced"))
        .help("give the output a folder of its own"))
}

/// Something in a `folder` of the directory `root` that is none of the `known` paths in that directory.
fn stranger(root: &Path, folder: &str, known: &[&str]) -> Option<PathBuf> {
    let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let mut names: Vec<PathBuf> = entries.map(|entry| Path::new(folder).join(entry.file_name())).collect();
    names.sort();
    let stranger = names.into_iter().find(|name| known.iter().all(|known| Path::new(known) != name))?;
    Some(root.join(stranger))
}

/// Whether llamac made the model at `path`.
fn is_ours(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(proto::START).read_to_end(&mut start));
    read.is_ok() && proto::is_made_by(PRODUCER, &start)
}

fn not_for_genai(graph: &Graph) -> Diagnostic {
    let fault = Diagnostic::new(Code::BadArgument).at("--layout genai");
    let names: Vec<&str> = graph.inputs.iter().map(|input| input.name.as_str()).take(4).collect();
    fault
        .message("onnxruntime-genai runs causal language models with a cache, and feeds no other inputs than theirs")
        .found(format!("a model of {}, …", names.join(", ")))
        .help("use --layout flat")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files; models begin as `producer` begins them.
    fn folder(names: &[&str], producer: &'static str) -> tempfile::TempDir {
        let model = Model {
            ir_version: 8,
            opsets: vec![("", 17), ("com.microsoft", 1)],
            producer: (producer, "9.9.9"),
            metadata: Vec::new(),
            graph: Graph {
                name: "g".repeat(100),
                inputs: Vec::new(),
                outputs: Vec::new(),
                nodes: Vec::new(),
                initializers: Vec::new(),
            },
        };
        let bytes = proto::encode(model).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if name.ends_with(".onnx") { &bytes[..] } else { b"x" }).unwrap();
        }
        folder
    }

    #[test]
    fn an_earlier_export_may_be_replaced() {
        for names in [
            &["model.onnx", "model.onnx.data", "config.json", "genai_config.json"][..],
            &["onnx/model.onnx", "onnx/model.onnx_data", "config.json", "tokenizer.json"],
            &["onnx/model_q4.onnx", "onnx/model_q4.onnx_data", "onnx/model.onnx"],
        ] {
            assert_eq!(guard(folder(names, "llamac").path()), Ok(()));
        }
    }

    #[test]
    fn what_an_export_does_not_hold_is_not_replaced() {
        let why = |names: &[&str], producer| {
            let folder = folder(names, producer);
            let fault = guard(folder.path()).unwrap_err();
            fault.message.clone().unwrap().replace(&folder.path().display().to_string(), "DIR")
        };
        let stranger = |name: &str| {
            format!("the folder is not empty, and DIR/{name} is not of an export: it is not replaced")
        };
        let none = "the folder is not empty, and it holds no model that llamac made: it is not replaced";
        assert_eq!(why(&["model.onnx", "notes.txt"], "llamac"), stranger("notes.txt"));
        assert_eq!(why(&["model.onnx", "onnx/decoder.onnx"], "llamac"), stranger("onnx/decoder.onnx"));
        assert_eq!(why(&["model.onnx", "model.safetensors"], "llamac"), stranger("model.safetensors"));
        let foreign = |name: &str| {
            format!("the folder is not empty, and llamac did not make DIR/{name}: it is not replaced")
        };
        assert_eq!(why(&["model.onnx", "model.onnx.data", "config.json"], "pytorch"), foreign("model.onnx"));
        assert_eq!(why(&["onnx/model_q4.onnx", "config.json"], "pytorch"), foreign("onnx/model_q4.onnx"));
        assert_eq!(why(&["config.json"], "llamac"), none);
    }
}
