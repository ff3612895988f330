//! The element types of `ggml`.

use llamac_ir::{BlockFormat, DType};

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// Its number in files.
    pub id: u32,
    /// Its name.
    pub name: &'static str,
    /// Numbers of a block; 1 where each is by itself.
    pub numbers: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

/// How the numbers of a tensor are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Plain(DType),
    Blocks(BlockFormat),
}

impl GgmlType {
    /// How its numbers are read, if they can be.
    pub(super) fn reading(&self) -> Option<Reading> {
        match self.name {
            "F32" => Some(Reading::Plain(DType::F32)),
            "F16" => Some(Reading::Plain(DType::F16)),
            "BF16" => Some(Reading::Plain(DType::BF16)),
            name => {
                let format = BlockFormat::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(name))?;
                Some(Reading::Blocks(format))
            }
        }
    }
}

/// The type of number `id`, if there is one.
pub(super) fn by_id(id: u32) -> Option<&'static GgmlType> {
    TYPES.iter().find(|ty| ty.id == id)
}

/// Every type; those that the project has given up are not among them.
pub(super) static TYPES: [GgmlType; 34] = {
    const fn of(id: u32, name: &'static str, numbers: usize, bytes: usize) -> GgmlType {
        GgmlType { id, name, numbers, bytes }
    }
    [
        of(0, "F32", 1, 4),
        of(1, "F16", 1, 2),
        of(2, "Q4_0", 32, 18),
        of(3, "Q4_1", 32, 20),
        of(6, "Q5_0", 32, 22),
        of(7, "Q5_1", 32, 24),
        of(8, "Q8_0", 32, 34),
        of(9, "Q8_1", 32, 40),
        of(10, "Q2_K", 256, 84),
        of(11, "Q3_K", 256, 110),
        of(12, "Q4_K", 256, 144),
        of(13, "Q5_K", 256, 176),
        of(14, "Q6_K", 256, 210),
        of(15, "Q8_K", 256, 292),
        of(16, "IQ2_XXS", 256, 66),
        of(17, "IQ2_XS", 256, 74),
        of(18, "IQ3_XXS", 256, 98),
        of(19, "IQ1_S", 256, 50),
        of(20, "IQ4_NL", 32, 18),
        of(21, "IQ3_S", 256, 110),
        of(22, "IQ2_S", 256, 82),
        of(23, "IQ4_XS", 256, 136),
        of(24, "I8", 1, 1),
        of(25, "I16", 1, 2),
        of(26, "I32", 1, 4),
        of(27, "I64", 1, 8),
        of(28, "F64", 1, 8),
        of(29, "IQ1_M", 256, 56),
        of(30, "BF16", 1, 2),
        of(34, "TQ1_0", 256, 54),
        of(35, "TQ2_0", 256, 66),
        of(39, "MXFP4", 32, 17),
        of(40, "NVFP4", 64, 36),
        of(41, "Q1_0", 128, 18),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_what_the_recipes_take_them_for() {
        let blocks = TYPES.iter().filter_map(|ty| match ty.reading()? {
            Reading::Blocks(format) => Some((ty, format)),
            Reading::Plain(dtype) => {
                assert_eq!((ty.numbers, ty.bytes), (1, dtype.size()));
                None
            }
        });
        let mut formats = Vec::new();
        for (ty, format) in blocks {
            assert_eq!((ty.numbers, ty.bytes), (format.numbers(), format.bytes()), "{}", ty.name);
            formats.push(format);
        }
        formats.sort();
        assert_eq!(formats, BlockFormat::ALL);
    }
}
