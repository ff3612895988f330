//! Containers of compiled models, written in the plainest way and without checksums: what a reader has to take that
//! does not compare them. Tests put what they like into one.

use llamac_plan::artifact::{FORMAT, PAD, VERSION};
use llamac_plan::layout::ALIGNMENT;

/// Header and data of a container of `tensors`, each aligned.
pub fn container<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> (Vec<u8>, Vec<u8>) {
    let mut header = format!(r#"{{"__metadata__":{{"format":"{FORMAT}","version":"{VERSION}"}}"#);
    let mut data = Vec::new();
    let mut add = |name: &str, bytes: &[u8]| {
        let (start, end) = (data.len(), data.len() + bytes.len());
        let shape = format!(r#""dtype":"U8","shape":[{}]"#, bytes.len());
        header.push_str(&format!(r#","{name}":{{{shape},"data_offsets":[{start},{end}]}}"#));
        data.extend(bytes);
    };
    for (i, (name, bytes)) in tensors.into_iter().enumerate() {
        add(name, bytes);
        add(&format!("{PAD}{i}"), &vec![0; bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()]);
    }
    header.push('}');
    let padded = (8 + header.len()).next_multiple_of(ALIGNMENT) - 8;
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    (header.into_bytes(), data)
}

/// The file of this header and these data.
pub fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}
