//! PyTorch's files (`.pth`, `.bin`): where their tensors are, read without running anything that they say.
//!
//! Such a file is a pickle, a program for a small machine that may construct whatever Python can name, with storages
//! of plain numbers beside it. The machine here (`pickle`) knows the instructions and the few names (`globals`)
//! that `state_dict`s of tensors are made of; the first other one ends the reading. Nothing is called, every offset is
//! checked, and the numbers stay in the mapped file: a tensor is a range of it with strides. Memory is bounded by the
//! machine's limit of steps, whatever the file says.
//!
//! Two containers are read: the zip file of torch 1.6 and later (`zip`), whose entries have to be stored as they
//! are, and the sequence of pickles before it (`legacy`). Checksums are not compared, as in torch. Not here: what the
//! tensors mean.

mod globals;
mod legacy;
mod pickle;
mod state;
mod zip;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::file::{self, MappedFile};
use super::safetensors::StoredTensor;

/// The tensors of `file`.
///
/// # Errors
/// As [`parse`].
pub fn read(file: &MappedFile) -> Result<Vec<StoredTensor>, Diagnostics> {
    // A zip file has a header before each storage.
    file::in_pieces(std::slice::from_ref(file), || parse(file.name(), file.bytes()))
}

/// The tensors of the file whose whole content is `bytes`, in the order of the file's dictionary; `file` names it in
/// messages.
///
/// # Errors
/// `DamagedTorchFile`, `ForbiddenPickle` and `DuplicateTensor`: a container that is cut, or whose entries overlap, are
/// there twice, compressed or encrypted; a pickle that is more than a dictionary of tensors; tensors outside of their
/// storages. What is wrong with single tensors is told of the first twenty.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<StoredTensor>, Diagnostics> {
    if bytes.starts_with(zip::MAGIC) {
        return zip::parse(file, bytes);
    }
    if bytes.starts_with(legacy::MAGIC) {
        return legacy::parse(file, bytes);
    }
    let fault = damaged(file).expected("a file of torch.save()");
    Err(match (file::stand_in(bytes), bytes.get(257..262) == Some(b"ustar")) {
        (Some(help), _) => fault.help(help),
        (None, true) => fault
            .found("a tar archive, as versions of PyTorch before 0.2 wrote")
            .help("load and save it with a later version"),
        (None, false) => fault
            .found(format!("{} bytes of something else", bytes.len()))
            .help("the file is cut or is something else: download it again"),
    }
    .into())
}

fn damaged(at: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::DamagedTorchFile).at(at)
}

#[cfg(test)]
mod tests;
