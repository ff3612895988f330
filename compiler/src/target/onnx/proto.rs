//! Models as bytes: ONNX's protocol buffers.
//!
//! The only place that knows the crate of the messages. It writes and never reads: the version of rust-protobuf that
//! the messages need can be made to overflow its stack by what it decodes.

use llamac_ir::DType;
use onnx_protobuf as onnx;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::{DataLocation, DataType};
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::type_proto;
use protobuf::{Message, MessageField};

use super::model::{Attribute, Data, ElementType, Graph, Initializer, Model, Node, Region, Size, ValueInfo};

/// The bytes of `model`; nothing if there are more than the 2 GiB that a message can have.
pub fn encode(model: Model) -> Option<Vec<u8>> {
    let proto = model_proto(model);
    let fits = i32::try_from(proto.compute_size()).is_ok();
    // Every member has a default, so that none is missing, which is the only other reason.
    proto.write_to_bytes().ok().filter(|_| fits)
}

/// Bytes at the start of a model within which its producer is named.
pub(super) const START: u64 = 64;

/// Whether `start`, the first [`START`] bytes of a file, are those of a model that `producer` made and [`encode`] wrote.
pub(super) fn is_made_by(producer: &str, start: &[u8]) -> bool {
    // The version of the format comes first; then opsets, which are short, and the producer as a text.
    let member = [&[2 << 3 | 2, producer.len() as u8], producer.as_bytes()].concat();
    start.first() == Some(&(1 << 3)) && start.windows(member.len()).any(|window| window == member)
}

fn model_proto(model: Model) -> onnx::ModelProto {
    let (producer_name, producer_version) = model.producer;
    onnx::ModelProto {
        ir_version: model.ir_version,
        producer_name: producer_name.to_owned(),
        producer_version: producer_version.to_owned(),
        opset_import: model.opsets.into_iter().map(opset_proto).collect(),
        graph: MessageField::some(graph_proto(model.graph)),
        metadata_props: model.metadata.into_iter().map(|(key, value)| entry(key, value)).collect(),
        ..Default::default()
    }
}

fn opset_proto((domain, version): (&str, i64)) -> onnx::OperatorSetIdProto {
    onnx::OperatorSetIdProto { domain: domain.to_owned(), version, ..Default::default() }
}

fn graph_proto(graph: Graph) -> onnx::GraphProto {
    onnx::GraphProto {
        name: graph.name,
        input: graph.inputs.into_iter().map(value_proto).collect(),
        output: graph.outputs.into_iter().map(value_proto).collect(),
        node: graph.nodes.into_iter().map(node_proto).collect(),
        initializer: graph.initializers.into_iter().map(tensor_proto).collect(),
        ..Default::default()
    }
}

fn node_proto(node: Node) -> onnx::NodeProto {
    onnx::NodeProto {
        name: node.name,
        op_type: node.op.to_owned(),
        domain: node.domain.to_owned(),
        input: node.inputs,
        output: node.outputs,
        attribute: node.attributes.into_iter().map(attribute_proto).collect(),
        ..Default::default()
    }
}

fn attribute_proto((name, value): (&str, Attribute)) -> onnx::AttributeProto {
    let mut proto = onnx::AttributeProto { name: name.to_owned(), ..Default::default() };
    match value {
        Attribute::Int(value) => (proto.type_, proto.i) = (AttributeType::INT.into(), value),
        Attribute::Ints(values) => (proto.type_, proto.ints) = (AttributeType::INTS.into(), values),
        Attribute::Type(dtype) => {
            (proto.type_, proto.i) = (AttributeType::INT.into(), data_type(dtype).into());
        }
        Attribute::Float(value) => (proto.type_, proto.f) = (AttributeType::FLOAT.into(), value),
    }
    proto
}

fn value_proto(value: ValueInfo) -> onnx::ValueInfoProto {
    let shape = onnx::TensorShapeProto {
        dim: value.shape.into_iter().map(dimension).collect(),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: data_type(value.dtype),
        shape: MessageField::some(shape),
        ..Default::default()
    };
    let ty = onnx::TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    onnx::ValueInfoProto { name: value.name, type_: MessageField::some(ty), ..Default::default() }
}

fn dimension(size: Size) -> Dimension {
    let value = match size {
        Size::Fixed(value) => dimension::Value::DimValue(value),
        Size::Named(name) => dimension::Value::DimParam(name),
    };
    Dimension { value: Some(value), ..Default::default() }
}

fn tensor_proto(tensor: Initializer) -> onnx::TensorProto {
    let mut proto = onnx::TensorProto {
        name: tensor.name,
        dims: tensor.shape.into_iter().map(|size| size as i64).collect(),
        data_type: match tensor.element {
            ElementType::Of(dtype) => data_type(dtype),
            ElementType::U4 => DataType::UINT4 as i32,
        },
        ..Default::default()
    };
    match tensor.data {
        Data::Inline(bytes) => proto.raw_data = bytes,
        Data::External(Region { file, offset, length }) => {
            proto.data_location = DataLocation::EXTERNAL.into();
            proto.external_data = vec![
                entry("location", file),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ];
        }
    }
    proto
}

fn entry(key: &str, value: String) -> onnx::StringStringEntryProto {
    onnx::StringStringEntryProto { key: key.to_owned(), value, ..Default::default() }
}

/// The number of an element type.
fn data_type(dtype: DType) -> i32 {
    let data_type = match dtype {
        DType::F32 => DataType::FLOAT,
        DType::F16 => DataType::FLOAT16,
        DType::BF16 => DataType::BFLOAT16,
        DType::I64 => DataType::INT64,
        DType::I32 => DataType::INT32,
        DType::Bool => DataType::BOOL,
        DType::U8 => DataType::UINT8,
        DType::I8 => DataType::INT8,
        DType::F8E4M3 => DataType::FLOAT8E4M3FN,
    };
    data_type as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of a message, as `field: bytes or number`, read by hand: an independent look at the encoding.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (first, rest) = bytes.split_first().expect("a varint is whole");
                *bytes = rest;
                value |= u64::from(first & 0x7F) << shift;
                if first & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                2 => varint(&mut bytes) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let (value, rest) = bytes.split_at(length);
            found.push((key >> 3, value.to_vec()));
            bytes = rest;
        }
        found
    }

    fn all(bytes: &[u8], field: u64) -> Vec<Vec<u8>> {
        fields(bytes).into_iter().filter(|(number, _)| *number == field).map(|(_, value)| value).collect()
    }

    fn one(bytes: &[u8], path: &[u64]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for &field in path {
            bytes = all(&bytes, field).into_iter().next().unwrap_or_else(|| panic!("no field {field}"));
        }
        bytes
    }

    fn model() -> Model {
        let input = |name: &str, dtype, shape| ValueInfo { name: name.to_owned(), dtype, shape };
        Model {
            ir_version: 8,
            opsets: vec![("", 17), ("com.microsoft", 1)],
            producer: ("llamac", "0.1.0"),
            metadata: vec![("target", "onnx".to_owned())],
            graph: Graph {
                name: "main".to_owned(),
                inputs: vec![input(
                    "x",
                    DType::F32,
                    vec![Size::Named("batch_size".to_owned()), Size::Fixed(300)],
                )],
                outputs: vec![input("y", DType::F32, vec![])],
                nodes: vec![Node {
                    name: "/n/Softmax".to_owned(),
                    op: "Softmax",
                    domain: "com.microsoft",
                    inputs: vec!["x".to_owned(), String::new()],
                    outputs: vec!["y".to_owned()],
                    attributes: vec![
                        ("axis", Attribute::Int(-1)),
                        ("axes", Attribute::Ints(vec![0, 2])),
                        ("scale", Attribute::Float(0.5)),
                        ("to", Attribute::Type(DType::Bool)),
                    ],
                }],
                initializers: vec![
                    Initializer {
                        name: "i".to_owned(),
                        element: ElementType::Of(DType::I64),
                        shape: vec![1],
                        data: Data::Inline(vec![7, 0, 0, 0, 0, 0, 0, 0]),
                    },
                    Initializer {
                        name: "w".to_owned(),
                        element: ElementType::Of(DType::BF16),
                        shape: vec![2, 3],
                        data: Data::External(Region {
                            file: "model.onnx.data".to_owned(),
                            offset: 65536,
                            length: 12,
                        }),
                    },
                ],
            },
        }
    }

    /// The numbers of the fields are those of the standard's `onnx.proto`.
    #[test]
    fn every_member_has_its_place() {
        let bytes = encode(model()).unwrap();
        let text = |path: &[u64]| String::from_utf8(one(&bytes, path)).unwrap();
        let number = |path: &[u64]| i64::from_le_bytes(one(&bytes, path).try_into().unwrap());
        assert_eq!((number(&[1]), text(&[2]), text(&[3])), (8, "llamac".to_owned(), "0.1.0".to_owned()));
        assert_eq!((text(&[14, 1]), text(&[14, 2])), ("target".to_owned(), "onnx".to_owned()));
        let opsets = all(&bytes, 8);
        assert_eq!(one(&opsets[1], &[1]), b"com.microsoft");
        assert_eq!((one(&opsets[0], &[2])[0], opsets.len()), (17, 2));
        assert_eq!(text(&[7, 2]), "main");

        assert_eq!((text(&[7, 11, 1]), number(&[7, 11, 2, 1, 1])), ("x".to_owned(), 1));
        let dims = all(&one(&bytes, &[7, 11, 2, 1, 2]), 1);
        assert_eq!(one(&dims[0], &[2]), b"batch_size");
        assert_eq!(one(&dims[1], &[1])[..2], [44, 1]);
        assert_eq!((text(&[7, 12, 1]), one(&bytes, &[7, 12, 2, 1, 2])), ("y".to_owned(), vec![]));

        let node = one(&bytes, &[7, 1]);
        assert_eq!(all(&node, 1), [b"x".to_vec(), vec![]]);
        let names = [2, 3, 4, 7].map(|field| one(&node, &[field]));
        assert_eq!(names, [&b"y"[..], b"/n/Softmax", b"Softmax", b"com.microsoft"]);
        let attributes = all(&node, 5);
        let kinds = attributes.iter().map(|attribute| one(attribute, &[20])[0]);
        assert_eq!(kinds.collect::<Vec<_>>(), [2, 7, 1, 2]);
        assert_eq!(one(&attributes[0], &[3]), (-1i64).to_le_bytes());
        assert_eq!(all(&attributes[1], 8).len(), 2);
        assert_eq!(one(&attributes[2], &[2]), 0.5f32.to_le_bytes());
        assert_eq!(one(&attributes[3], &[3])[0], 9);

        let [inline, external] = &all(&one(&bytes, &[7]), 5)[..] else { panic!("two initializers") };
        assert_eq!((one(inline, &[8]), one(inline, &[2])[0]), (b"i".to_vec(), 7));
        assert_eq!(one(inline, &[9]), [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((all(external, 1).len(), one(external, &[2])[0], one(external, &[14])[0]), (2, 16, 1));
        let entries = all(external, 13)
            .into_iter()
            .map(|entry| [1, 2].map(|field| String::from_utf8(one(&entry, &[field])).unwrap()).join("="));
        assert_eq!(entries.collect::<Vec<_>>(), ["location=model.onnx.data", "offset=65536", "length=12"]);
        assert!(all(external, 9).is_empty());
    }

    #[test]
    fn the_same_model_has_the_same_bytes() {
        assert_eq!(encode(model()), encode(model()));
    }

    #[test]
    fn a_model_is_known_by_its_producer() {
        let bytes = encode(model()).unwrap();
        let start = &bytes[..START as usize];
        assert!(is_made_by("llamac", start));
        assert!(!is_made_by("pytorch", start) && !is_made_by("llamac", &start[2..]));
        assert!(!is_made_by("llamac", b"\x08") && !is_made_by("llamac", b""));
    }
}
