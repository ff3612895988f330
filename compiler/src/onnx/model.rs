//! From a path to a model whose parts fit together.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use llamac_plan::artifact::BEGINNING;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use prost::Message;

use super::external::{ExternalFile, Files};
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::wire;
use crate::source::{self, Capped, MappedFile};
use crate::target::onnx::models;

/// A message of the encoding has at most this many bytes.
const MAX_FILE: u64 = (1 << 31) - 1;

/// Memory that everything but the data of tensors may take: enough for two hundred thousand nodes.
const MAX_DECODED: u64 = 128 << 20;

/// The first byte of nearly every model: the key of `ir_version`.
const FIRST: u8 = 0x08;

/// An ONNX model.
#[derive(Debug)]
pub struct Model {
    pub(super) proto: ModelProto,
    /// Files of tensors' data, by location.
    pub(super) files: BTreeMap<String, ExternalFile>,
}

/// Whether these are the first bytes of an ONNX model as every exporter writes it: the IR version, a small number, then
/// a field of the model that is a text or a message.
fn begins_like_one(start: &[u8]) -> bool {
    matches!(*start, [FIRST, 1..=0x7f, tag, ..] if tag & 7 == 2 && (2..=25).contains(&(tag >> 3)))
}

impl Model {
    /// The ONNX model at `path`: the file itself if it begins like one, or its name ends in `.onnx` and it is no
    /// compiled model; or that of a directory which holds an exported model and no checkpoint's weights; of several models
    /// the one with the widest weights.
    pub fn locate(path: &Path) -> Option<PathBuf> {
        Self::find(path).filter(|_| !path.is_dir() || !source::has_weights(path))
    }

    /// As [`Model::locate`], also beside a checkpoint's weights.
    pub fn find(path: &Path) -> Option<PathBuf> {
        if path.is_dir() {
            return models().map(|name| path.join(name)).find(|inner| inner.is_file());
        }
        let mut start = Vec::new();
        if path.is_file() {
            File::open(path).and_then(|file| file.take(64).read_to_end(&mut start)).ok()?;
        }
        let compiled = start.get(8..).is_some_and(|header| header.starts_with(BEGINNING.as_bytes()));
        let named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("onnx"));
        (!compiled && (named || begins_like_one(&start))).then(|| path.to_owned())
    }

    /// Opens the model in the file `path`.
    ///
    /// # Errors
    /// `MissingFile` and `Io` where a file cannot be read, `NotOnnx`, `OnnxTooLarge` and `DamagedOnnx`; for data of
    /// tensors `BadExternalData` and `MissingFile`, all faults together up to twenty.
    pub fn open(path: &Path) -> Result<Self, Diagnostics> {
        let file = path.display().to_string();
        let bytes = Bytes::from_owner(MappedFile::open(path.to_owned(), file.clone())?);
        let proto = decode(&file, bytes)?;
        let mut faults = Capped::new(&file);
        let mut files = Files::new(path);
        each_tensor(&proto, &mut |name, tensor| {
            if let Some((expected, found)) = tensor.inconsistency() {
                let fault = Diagnostic::new(Code::DamagedOnnx).at(format!("{file}: {name}"));
                faults.push(fault.message("the tensor contradicts itself").expected(expected).found(found));
            } else if tensor.is_external() {
                files.visit(name, tensor, &mut faults);
            }
        });
        let files = files.check(&mut faults);
        faults.into_diagnostics().or(Self { proto, files })
    }

    /// What is odd, but has one meaning: sentences.
    pub fn warnings(&self) -> Vec<String> {
        let outside = self.files.iter().filter(|(_, file)| file.leads_out);
        let sentence = |(location, _)| {
            format!("{location} is a link out of the model's directory: ONNX Runtime will not follow it")
        };
        outside.map(sentence).collect()
    }

    /// What the model's metadata says of `key`.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        let mut entries = self.proto.metadata_props.iter();
        entries.find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }

    /// The graph.
    pub(super) fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("a model without a graph is not opened")
    }
}

/// Decodes the content of `file`, whose graph is then there.
fn decode(file: &str, bytes: Bytes) -> Result<ModelProto, Diagnostic> {
    let fault = |code| Diagnostic::new(code).at(file);
    let size = bytes.len() as u64;
    if size > MAX_FILE {
        let fault = fault(Code::OnnxTooLarge).expected(format!("at most {MAX_FILE} bytes"));
        return Err(fault.found(format!("{size} bytes")));
    }
    let first = bytes.first().copied();
    let help = source::stand_in(&bytes).unwrap_or("the file is cut or damaged: get it again");
    let broken = |what: String| match first {
        None => fault(Code::NotOnnx).found("an empty file"),
        Some(FIRST) => fault(Code::DamagedOnnx).message(what).help(help),
        Some(_) => fault(Code::NotOnnx).message(what).help(help),
    };
    let weight = wire::weigh(&bytes)
        .map_err(|wire::Damage { offset, what }| broken(format!("{what}, at byte {offset}")))?;
    if weight > MAX_DECODED {
        let fault = fault(Code::OnnxTooLarge).message("the graph takes too much memory");
        return Err(fault
            .expected(format!("at most {MAX_DECODED} bytes"))
            .found(format!("{weight} bytes, from {size} in the file")));
    }
    let proto = ModelProto::decode(bytes).map_err(|error| {
        let text = error.to_string();
        broken(text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text).to_owned())
    })?;
    if proto.graph.is_none() {
        return Err(fault(Code::NotOnnx).found("no graph").help(help));
    }
    if proto.opset_import.is_empty() {
        return Err(fault(Code::DamagedOnnx)
            .message("the model names no version of its operators")
            .help(help));
    }
    Ok(proto)
}

/// Visits every tensor with its name, or one made from its place.
pub(super) fn each_tensor(model: &ModelProto, visit: &mut dyn FnMut(&str, &TensorProto)) {
    model.graph.iter().for_each(|graph| in_graph(graph, visit));
    model.functions.iter().for_each(|function| in_nodes(&function.node, visit));
}

fn in_graph(graph: &GraphProto, visit: &mut dyn FnMut(&str, &TensorProto)) {
    graph.initializer.iter().for_each(|tensor| visit(&tensor.name, tensor));
    in_nodes(&graph.node, visit);
}

fn in_nodes(nodes: &[NodeProto], visit: &mut dyn FnMut(&str, &TensorProto)) {
    for node in nodes {
        for attribute in &node.attribute {
            for tensor in attribute.t.iter().chain(&attribute.tensors) {
                match tensor.name.is_empty() {
                    true => visit(&format!("{}.{}", node.label(), attribute.name), tensor),
                    false => visit(&tensor.name, tensor),
                }
            }
            attribute.g.iter().chain(&attribute.graphs).for_each(|graph| in_graph(graph, visit));
        }
    }
}

impl NodeProto {
    /// What tells the node from others: its name, or that of its first output.
    fn label(&self) -> &str {
        match self.output.first() {
            Some(output) if self.name.is_empty() => output,
            _ => &self.name,
        }
    }
}
