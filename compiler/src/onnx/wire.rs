//! What a file's messages would take in memory, found by walking its bytes before anything is decoded.
//!
//! An empty node is two bytes in a file and two hundred in memory, so a small file could ask for all the memory there
//! is. The walk allocates nothing; it visits the messages of `proto` and weighs what decoding them allocates.

use std::mem::size_of;

use bytes::Bytes;

use super::proto::{
    AttributeProto, DimensionProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The deepest nesting of messages; what decodes them has the same limit.
const MAX_DEPTH: usize = 100;

/// A message of `proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    OperatorSetId,
    Entry,
    Graph,
    Function,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Dimension,
}

/// What decoding makes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// A message.
    Message(Kind),
    /// A text, which is copied.
    Text,
    /// Bytes, which are not copied.
    Bytes,
    /// Numbers, which take eight bytes each at most.
    Numbers,
    /// Nothing that grows.
    Fixed,
}

impl Kind {
    /// The field `number` of this message.
    fn field(self, number: u64) -> Field {
        use Field::{Bytes, Fixed, Message, Numbers, Text};
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Message(Self::Graph),
            (Self::Model, 8) => Message(Self::OperatorSetId),
            (Self::Model, 14) | (Self::Tensor, 13) => Message(Self::Entry),
            (Self::Model, 25) => Message(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Message(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) => Message(Self::Tensor),
            (Self::Graph, 11 | 12) => Message(Self::ValueInfo),
            (Self::Node, 5) => Message(Self::Attribute),
            (Self::ValueInfo, 2) => Message(Self::Type),
            (Self::Type, 1 | 8) => Message(Self::TensorType),
            (Self::TensorType, 2) => Message(Self::Shape),
            (Self::Shape, 1) => Message(Self::Dimension),
            (Self::Model, 2 | 3)
            | (Self::OperatorSetId | Self::ValueInfo, 1)
            | (Self::Entry, 1 | 2)
            | (Self::Graph | Self::Dimension, 2)
            | (Self::Function, 1 | 10)
            | (Self::Node, 1..=4 | 7)
            | (Self::Attribute, 1 | 21)
            | (Self::Tensor, 8) => Text,
            (Self::Attribute, 4 | 9) | (Self::Tensor, 4..=7 | 9..=11) => Bytes,
            (Self::Attribute, 7 | 8) | (Self::Tensor, 1) => Numbers,
            _ => Fixed,
        }
    }

    /// Bytes of this message itself in memory.
    fn size(self) -> u64 {
        let size = match self {
            Self::Model => size_of::<ModelProto>(),
            Self::OperatorSetId => size_of::<OperatorSetIdProto>(),
            Self::Entry => size_of::<StringStringEntryProto>(),
            Self::Graph => size_of::<GraphProto>(),
            Self::Function => size_of::<FunctionProto>(),
            Self::Node => size_of::<NodeProto>(),
            Self::Attribute => size_of::<AttributeProto>(),
            Self::Tensor => size_of::<TensorProto>(),
            Self::ValueInfo => size_of::<ValueInfoProto>(),
            Self::Type => size_of::<TypeProto>(),
            Self::TensorType => size_of::<TensorTypeProto>(),
            Self::Shape => size_of::<TensorShapeProto>(),
            Self::Dimension => size_of::<DimensionProto>(),
        };
        size as u64
    }
}

/// What is wrong with the bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where, from the start of the file.
    pub offset: usize,
    /// What.
    pub what: &'static str,
}

/// Bytes of memory that decoding the model in `bytes` takes, without what lists allocate ahead.
///
/// # Errors
/// Where a message is cut, or breaks the rules of the encoding.
pub(super) fn weigh(bytes: &[u8]) -> Result<u64, Damage> {
    let mut walk = Walk { bytes, at: 0 };
    walk.message(Kind::Model, bytes.len(), 0)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    /// Goes through a message that ends at `end`.
    fn message(&mut self, kind: Kind, end: usize, depth: usize) -> Result<u64, Damage> {
        if depth > MAX_DEPTH {
            return Err(self.damage("messages are nested too deeply"));
        }
        let mut weight = kind.size();
        while self.at < end {
            let key = self.number(end)?;
            let field = kind.field(key >> 3);
            weight += match key & 7 {
                0 => {
                    self.number(end)?;
                    size_of::<u64>() as u64
                }
                1 => self.skip(8, end)?,
                5 => self.skip(4, end)?,
                2 => {
                    let length = self.number(end)?;
                    if length > (end - self.at) as u64 {
                        return Err(self.damage("a field reaches beyond the end of its message"));
                    }
                    let to = self.at + length as usize;
                    let weight = match field {
                        Field::Message(inner) => self.message(inner, to, depth + 1)?,
                        Field::Text => size_of::<String>() as u64 + length,
                        Field::Bytes => size_of::<Bytes>() as u64,
                        Field::Numbers => size_of::<u64>() as u64 * length,
                        Field::Fixed => 0,
                    };
                    self.at = to;
                    weight
                }
                // The start and the end of a group, which ONNX has none of: a field that is not known.
                3 | 4 => 0,
                _ => return Err(self.damage("a field has a type that does not exist")),
            };
        }
        Ok(weight)
    }

    fn damage(&self, what: &'static str) -> Damage {
        Damage { offset: self.at, what }
    }

    /// Goes over a number of `size` bytes.
    fn skip(&mut self, size: usize, end: usize) -> Result<u64, Damage> {
        if end - self.at < size {
            return Err(self.damage("a message ends inside a number"));
        }
        self.at += size;
        Ok(size as u64)
    }

    /// Reads a number of variable length: seven bits a byte, the lowest first.
    fn number(&mut self, end: usize) -> Result<u64, Damage> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes[..end].get(self.at) else {
                return Err(self.damage("a message ends inside a number"));
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damage("a number has more than 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_model_weighs_what_it_is_made_of() {
        let node = NodeProto {
            input: vec!["a".to_owned(), String::new()],
            name: "n".repeat(5),
            ..NodeProto::default()
        };
        let graph = GraphProto { node: vec![node.clone(), node], ..GraphProto::default() };
        let model = ModelProto { ir_version: 8, graph: Some(graph), ..ModelProto::default() };
        let node = size_of::<NodeProto>() + 3 * size_of::<String>() + 6;
        let expected = size_of::<ModelProto>() + 8 + size_of::<GraphProto>() + 2 * node;
        assert_eq!(weigh(&model.encode_to_vec()), Ok(expected as u64));
    }

    #[test]
    fn data_weighs_nothing() {
        let tensor = TensorProto { raw_data: vec![7; 1 << 20].into(), ..TensorProto::default() };
        let graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        assert!(weigh(&model.encode_to_vec()).is_ok_and(|weight| weight < 2000));
    }

    #[test]
    fn damage_has_a_place() {
        let cut = Damage { offset: 2, what: "a field reaches beyond the end of its message" };
        assert_eq!(weigh(&[0x3a, 5, 0, 0]), Err(cut));
        assert_eq!(weigh(&[0x08]), Err(Damage { offset: 1, what: "a message ends inside a number" }));
        assert_eq!(weigh(&[0x0f]), Err(Damage { offset: 1, what: "a field has a type that does not exist" }));
        let long = [&[0x08][..], &[0xff; 10]].concat();
        assert_eq!(weigh(&long), Err(Damage { offset: 11, what: "a number has more than 64 bits" }));
    }
}
