//! The inputs of `eval` in a safetensors file, checked all at once.

use std::path::Path;

use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::ir::suggest::nearest;
use llamac_compiler::source::MappedFile;
use llamac_runtime::{Request, Tokens};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::model;

/// The names that a forward knows.
const NAMES: [&str; 4] = ["input_ids", "inputs_embeds", "attention_mask", "position_ids"];

/// What a file asks for, and what in it means nothing.
#[derive(Debug)]
pub struct Inputs {
    /// A forward with every option at its default.
    pub request: Request,
    /// Width of `inputs_embeds`, if those are given.
    pub width: Option<usize>,
    /// Names of tensors that no forward takes, each with the input that it may have been meant to be.
    pub ignored: Vec<(String, Option<&'static str>)>,
}

/// Reads the file at `path`.
///
/// # Errors
/// Every tensor that is missing, or has the wrong dtype, shape or values.
pub fn read(path: &Path) -> Result<Inputs, Diagnostics> {
    let place = path.display().to_string();
    if !path.exists() {
        return Err(model::no_file(path).into());
    }
    let file = MappedFile::open(path.to_owned(), place.clone())?;
    let tensors = SafeTensors::deserialize(file.bytes()).map_err(|e| {
        Diagnostic::new(Code::BadContainer)
            .at(&place)
            .message(e.to_string())
            .expected("a safetensors file of inputs")
            .help("write it with save_file() of the safetensors library")
    })?;
    let reader = Reader { tensors, place };
    reader.inputs()
}

struct Reader<'a> {
    tensors: SafeTensors<'a>,
    place: String,
}

impl Reader<'_> {
    fn inputs(&self) -> Result<Inputs, Diagnostics> {
        let mut faults = Diagnostics::new();
        let ignored = self.ignored();
        let [ids, embeddings, mask, positions] = NAMES.map(|name| self.tensors.tensor(name).ok());
        let main = match (ids, embeddings) {
            (Some(ids), None) => faults.absorb(self.ids(&ids)),
            (None, Some(embeddings)) => faults.absorb(self.embeddings(&embeddings)),
            (found, _) => {
                let fault = Diagnostic::new(Code::BadInputTensor)
                    .at(&self.place)
                    .expected("`input_ids` or `inputs_embeds`")
                    .found(if found.is_some() { "both" } else { "neither" });
                faults.push(match ignored.iter().find_map(|(name, near)| Some((name, (*near)?))) {
                    Some((name, near)) if found.is_none() => {
                        fault.help(format!("should `{name}` be `{near}`?"))
                    }
                    _ => fault,
                });
                None
            }
        };
        let rows = main.as_ref().map(|main| [main.batch, main.seq]);
        let mask = mask.and_then(|mask| faults.absorb(self.numbers("attention_mask", &mask, rows)));
        let positions =
            positions.and_then(|positions| faults.absorb(self.numbers("position_ids", &positions, rows)));
        match main {
            Some(Main { batch, seq, width, tokens }) if faults.is_empty() => {
                let mask = mask.map(|mask| mask.into_iter().map(|real| real != 0).collect());
                let (keep, hidden_states, cached) = (None, false, 0);
                let request = Request { batch, seq, tokens, mask, positions, keep, hidden_states, cached };
                Ok(Inputs { request, width, ignored })
            }
            _ => Err(faults),
        }
    }

    fn ignored(&self) -> Vec<(String, Option<&'static str>)> {
        let given = self.tensors.names();
        let absent = || NAMES.into_iter().filter(|name| !given.contains(name));
        let ignored = given.iter().filter(|name| !NAMES.contains(name));
        let mut ignored: Vec<_> = ignored.map(|name| ((*name).to_owned(), nearest(name, absent()))).collect();
        ignored.sort();
        ignored
    }

    fn ids(&self, tensor: &TensorView<'_>) -> Result<Main, Diagnostics> {
        let numbers = self.numbers("input_ids", tensor, None)?;
        let [batch, seq] = *tensor.shape() else {
            return Err(self.shape("input_ids", "[batch, seq]", tensor));
        };
        let id = |(i, &number): (usize, &i64)| {
            u32::try_from(number).map_err(|_| {
                let place = format!("{}: input_ids[{}, {}]", self.place, i / seq, i % seq);
                Diagnostic::new(Code::BadToken).at(place).expected("a token id").found(number.to_string())
            })
        };
        let ids = numbers.iter().enumerate().map(id).collect::<Result<_, _>>()?;
        Ok(Main { batch, seq, width: None, tokens: Tokens::Ids(ids) })
    }

    fn embeddings(&self, tensor: &TensorView<'_>) -> Result<Main, Diagnostics> {
        const NAME: &str = "inputs_embeds";
        let mut faults = Diagnostics::new();
        if tensor.dtype() != Dtype::F32 {
            faults.push(self.dtype(NAME, "F32", tensor));
        }
        let [batch, seq, width] = *tensor.shape() else {
            faults.extend(self.shape(NAME, "[batch, seq, hidden_size]", tensor));
            return Err(faults);
        };
        let values = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        faults.or(Main { batch, seq, width: Some(width), tokens: Tokens::Embeddings(values) })
    }

    /// A tensor of whole numbers or truth values, of shape `rows` or, if that is not known, of two dimensions.
    fn numbers(
        &self,
        name: &str,
        tensor: &TensorView<'_>,
        rows: Option<[usize; 2]>,
    ) -> Result<Vec<i64>, Diagnostics> {
        let mut faults = Diagnostics::new();
        match rows {
            Some(rows) if tensor.shape() != rows => {
                faults.extend(self.shape(name, &format!("{rows:?}"), tensor))
            }
            None if tensor.shape().len() != 2 => faults.extend(self.shape(name, "[batch, seq]", tensor)),
            _ => {}
        }
        let data = tensor.data();
        let numbers = match tensor.dtype() {
            Dtype::I64 => data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect(),
            Dtype::I32 => data.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes).into()).collect(),
            Dtype::BOOL | Dtype::U8 if name == "attention_mask" => {
                data.iter().map(|&byte| byte.into()).collect()
            }
            _ => {
                let expected = if name == "attention_mask" { "I64, I32 or BOOL" } else { "I64 or I32" };
                faults.push(self.dtype(name, expected, tensor));
                Vec::new()
            }
        };
        faults.or(numbers)
    }

    fn shape(&self, name: &str, expected: &str, tensor: &TensorView<'_>) -> Diagnostics {
        let fault = Diagnostic::new(Code::BadInputTensor).at(format!("{}: {name}", self.place));
        fault.expected(format!("shape {expected}")).found(format!("shape {:?}", tensor.shape())).into()
    }

    fn dtype(&self, name: &str, expected: &str, tensor: &TensorView<'_>) -> Diagnostic {
        let fault = Diagnostic::new(Code::BadInputTensor).at(format!("{}: {name}", self.place));
        fault.expected(expected).found(tensor.dtype().to_string())
    }
}

/// The tensor that a forward starts from.
struct Main {
    batch: usize,
    seq: usize,
    width: Option<usize>,
    tokens: Tokens,
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::serialize;

    use super::*;

    type Tensor<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

    fn read_back(tensors: &[Tensor<'_>]) -> Result<Inputs, Diagnostics> {
        let view = |(name, dtype, shape, data): &Tensor<'_>| {
            (
                (*name).to_owned(),
                TensorView::new(*dtype, shape.to_vec(), data).expect("consistent").data().to_vec(),
            )
        };
        let data: Vec<_> = tensors.iter().map(view).collect();
        let views = data.iter().zip(tensors).map(|((name, data), (_, dtype, shape, _))| {
            (name.as_str(), TensorView::new(*dtype, shape.to_vec(), data).expect("consistent"))
        });
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("in.safetensors");
        std::fs::write(&path, serialize(views, None).expect("serializes")).expect("writes");
        read(&path)
    }

    fn i64s(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn i32s(values: &[i32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn every_dtype_of_an_input_is_read() {
        let inputs = read_back(&[
            ("input_ids", Dtype::I32, &[2, 2], i32s(&[1, 2, 3, 4])),
            ("attention_mask", Dtype::BOOL, &[2, 2], vec![0, 1, 1, 1]),
            ("position_ids", Dtype::I64, &[2, 2], i64s(&[0, 0, 5, -1])),
            ("labels", Dtype::I64, &[1], i64s(&[7])),
        ])
        .expect("inputs");
        let request = inputs.request;
        assert_eq!((request.batch, request.seq, inputs.width), (2, 2, None));
        assert_eq!(request.tokens, Tokens::Ids(vec![1, 2, 3, 4]));
        assert_eq!(request.mask, Some(vec![false, true, true, true]));
        assert_eq!(request.positions, Some(vec![0, 0, 5, -1]));
        assert_eq!(inputs.ignored, [("labels".to_owned(), None)]);
        let values: Vec<u8> = [0.5f32, -1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let inputs = read_back(&[("inputs_embeds", Dtype::F32, &[1, 1, 2], values)]).expect("inputs");
        assert_eq!(inputs.request.tokens, Tokens::Embeddings(vec![0.5, -1.0]));
        assert_eq!(inputs.width, Some(2));
    }

    #[test]
    fn all_faults_come_together() {
        let faults = read_back(&[
            ("input_ids", Dtype::I64, &[1, 3], i64s(&[1, -2, 3])),
            ("attention_mask", Dtype::F32, &[1, 2], vec![0; 8]),
            ("position_ids", Dtype::I64, &[3], i64s(&[0, 1, 2])),
        ])
        .expect_err("faults");
        let found: Vec<_> =
            faults.iter().map(|fault| (fault.code, fault.found.clone().unwrap_or_default())).collect();
        let bad = Code::BadInputTensor;
        let expected = [(Code::BadToken, "-2"), (bad, "F32"), (bad, "shape [3]")];
        assert_eq!(found, expected.map(|(code, found)| (code, found.to_owned())));
    }

    #[test]
    fn one_of_ids_and_embeddings_is_given() {
        let ids = || ("input_ids", Dtype::I64, &[1, 1][..], i64s(&[1]));
        let embeddings = ("inputs_embeds", Dtype::F16, &[1, 2][..], vec![0; 4]);
        let found = |tensors: &[Tensor<'_>]| {
            let faults = read_back(tensors).expect_err("faults");
            faults.iter().map(|fault| fault.found.clone().unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(found(&[]), ["neither"]);
        assert_eq!(found(&[ids(), embeddings.clone()]), ["both"]);
        let misspelled = read_back(&[("input_id", Dtype::I64, &[1, 1], i64s(&[1]))]).expect_err("a fault");
        assert!(misspelled.to_string().contains("should `input_id` be `input_ids`?"), "{misspelled}");
        assert_eq!(found(&[embeddings]), ["F16", "shape [1, 2]"]);
    }

    #[test]
    fn a_file_that_is_no_safetensors_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("in.safetensors");
        assert_eq!(
            read(&path).expect_err("missing").iter().next().map(|fault| fault.code),
            Some(Code::MissingFile)
        );
        std::fs::write(&path, b"hello").expect("writes");
        let faults = read(&path).expect_err("no safetensors");
        assert_eq!(faults.exit_status(), 3);
        assert!(faults.to_string().contains("in.safetensors"));
    }
}
