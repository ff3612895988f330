//! The names that a pickle of tensors may use, all of them.

use crate::source::safetensors::{DTYPES, StoredDtype};

/// What a name of a pickle stands for. Nothing but [`super::pickle`] acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// A dictionary, made of nothing.
    OrderedDict,
    /// A tensor from storage, offset, sizes, strides and what does not matter here.
    RebuildTensor,
    /// The tensor that is its first argument.
    RebuildParameter,
    /// A rebuilding function with its arguments, of a subclass of tensors.
    RebuildFromType,
    /// Sizes, from a tuple.
    Size,
    /// A kind of storages, by their elements.
    Storage(StoredDtype),
    /// Something that may stand around in a dictionary and is never used: a dtype, a device, a class of tensors.
    Inert,
}

/// The storages with elements of a type, by the names of their classes.
const STORAGES: [(&str, &str); 10] = [
    ("FloatStorage", "F32"),
    ("DoubleStorage", "F64"),
    ("HalfStorage", "F16"),
    ("BFloat16Storage", "BF16"),
    ("LongStorage", "I64"),
    ("IntStorage", "I32"),
    ("ShortStorage", "I16"),
    ("CharStorage", "I8"),
    ("ByteStorage", "U8"),
    ("BoolStorage", "BOOL"),
];

/// The names of element types in `torch`.
const DTYPE_NAMES: [&str; 14] = [
    "float32",
    "float",
    "float64",
    "double",
    "float16",
    "half",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
];

/// What `module.name` stands for, if it may be used.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch", "Size") => Global::Size,
        ("torch.storage", "UntypedStorage" | "TypedStorage") => Global::Storage(dtype("U8")),
        ("torch", "device" | "Tensor") | ("torch.nn.parameter", "Parameter") => Global::Inert,
        ("torch", name) if DTYPE_NAMES.contains(&name) => Global::Inert,
        ("torch", name) => {
            let (_, element) = STORAGES.iter().find(|(class, _)| *class == name)?;
            Global::Storage(dtype(element))
        }
        _ => return None,
    })
}

fn dtype(name: &str) -> StoredDtype {
    DTYPES.into_iter().find(|dtype| dtype.name == name).expect("the storages have types that the format has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_tensors_are_known() {
        assert_eq!(find("torch", "BFloat16Storage"), Some(Global::Storage(dtype("BF16"))));
        assert_eq!(find("torch", "bfloat16"), Some(Global::Inert));
        for (module, name) in [
            ("os", "system"),
            ("builtins", "eval"),
            ("__builtin__", "exec"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch._utils", "_rebuild_tensor_v2 "),
            ("collections", "Counter"),
            ("", ""),
        ] {
            assert_eq!(find(module, name), None, "{module}.{name}");
        }
    }
}
