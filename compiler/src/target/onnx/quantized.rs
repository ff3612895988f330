//! Quantized matrices: what they are stored as, and the operators that take them.
//!
//! ```text
//! onnx-ort   linear x, quantize(@w)   →   MatMulNBits x, codes, scales, zeros?, bias?     blocks of rows, packed
//!            embed i, quantize(@w)    →   GatherBlockQuantized codes, i, scales, zeros?
//! onnx-std   linear x, quantize(@w)   →   MatMul x, (DequantizeLinear codes, scales, zeros), all of them transposed
//!            embed i, quantize(@w)    →   DequantizeLinear (Gather codes, i), (Gather scales, i), (Gather zeros, i)
//! ```
//!
//! ONNX Runtime recognises the product of the standard's operators with a transposed matrix and no other. The products
//! of both profiles are its own then. A tied table is stored once: as rows.

use llamac_ir::ops::{Embed, Linear};
use llamac_ir::{DType, NodeId, QuantizedPart, Scheme, Weight, WeightError};
use llamac_plan::diagnostic::Diagnostic;

use super::Profile;
use super::emit::{Emitter, ONE, Operator};
use super::model::{Attribute, ElementType};

/// Why opset 17 cannot take them.
const NO_OPERATOR: &str =
    "opset 17 has no operator for quantized weights; take onnx-std or onnx-ort, or --weights f16";

/// Why `profile` cannot take the quantized `table` of an embedding, if it cannot.
pub(super) fn embed_reason(profile: Profile, table: &Weight, scheme: Scheme) -> Option<String> {
    let columns = table.shape()[1];
    match profile {
        Profile::Portable => Some(NO_OPERATOR.to_owned()),
        Profile::Standard if scheme.bits() == 4 => Some(format!(
            "rows of {scheme} cannot be gathered; store the table as q8, with embed_tokens=q8 in --weights"
        )),
        Profile::Ort if scheme.bits() == 4 && !columns.is_multiple_of(2) => {
            Some(format!("rows of {columns} numbers have no whole bytes in {scheme}; store the table as q8"))
        }
        Profile::Standard | Profile::Ort => None,
    }
}

/// Why `profile` cannot take the product with the quantized matrix of `linear`, if it cannot.
pub(super) fn linear_reason(profile: Profile, linear: &Linear, scheme: Scheme) -> Option<String> {
    let rows = linear.weight.shape()[0];
    match profile {
        Profile::Portable => Some(NO_OPERATOR.to_owned()),
        Profile::Standard if scheme.bits() == 4 && !rows.is_multiple_of(2) => {
            Some(format!("{rows} rows have no whole bytes in {scheme} when they are columns; store it as q8"))
        }
        Profile::Standard | Profile::Ort => None,
    }
}

/// The names of the parts of a matrix.
struct Parts {
    codes: String,
    scales: String,
    zeros: Option<String>,
}

impl Emitter<'_, '_> {
    /// Adds the nodes of a lookup in the quantized table of `embed`.
    pub(super) fn quantized_embed(
        &mut self,
        node: NodeId,
        embed: &Embed,
        scheme: Scheme,
    ) -> Result<(), Diagnostic> {
        let parts = self.rows(node, &embed.table, scheme)?;
        let ids = self.operands(node).swap_remove(0);
        if self.profile == Profile::Ort {
            let operator = Operator::microsoft("GatherBlockQuantized")
                .int("bits", scheme.bits())
                .int("block_size", Scheme::BLOCK)
                .int("gather_axis", 0)
                .int("quantize_axis", 1);
            let inputs = [parts.codes, ids, parts.scales].into_iter().chain(parts.zeros);
            self.add(node, operator, inputs.collect(), ONE);
            return Ok(());
        }
        let gathered = [Some(parts.codes), Some(parts.scales), parts.zeros].into_iter().flatten();
        let gathered: Vec<String> = gathered
            .map(|part| {
                let gather = Operator::new("Gather").int("axis", 0);
                self.add_inner(node, gather, vec![part, ids.clone()])
            })
            .collect();
        self.add(node, dequantize(-1), gathered, ONE);
        Ok(())
    }

    /// Adds the nodes of the product with the quantized matrix of `linear`.
    pub(super) fn quantized_linear(
        &mut self,
        node: NodeId,
        linear: &Linear,
        scheme: Scheme,
    ) -> Result<(), Diagnostic> {
        let mut inputs = self.operands(node);
        if self.profile == Profile::Ort {
            let parts = self.blocks(node, &linear.weight, scheme)?;
            let [rows, columns] = [0, 1].map(|at| linear.weight.shape()[at]);
            let operator = Operator::microsoft("MatMulNBits")
                .int("K", columns)
                .int("N", rows)
                .int("bits", scheme.bits())
                .int("block_size", Scheme::BLOCK);
            inputs.extend([parts.codes, parts.scales]);
            match &linear.bias {
                // Between zeros and bias there is an order of columns.
                Some(bias) => {
                    let bias = self.float(node, bias, "bias")?;
                    inputs.extend([parts.zeros.unwrap_or_default(), String::new(), bias]);
                }
                None => inputs.extend(parts.zeros),
            }
            self.add(node, operator, inputs, ONE);
            return Ok(());
        }
        if self.is_table(&linear.weight) {
            let parts = self.rows(node, &linear.weight, scheme)?;
            let table = self.dequantized(node, parts, 1);
            return self.table_product(node, linear, table);
        }
        let parts = self.columns(node, &linear.weight, scheme)?;
        inputs.push(self.dequantized(node, parts, 0));
        self.matmul(node, linear, inputs)
    }

    fn dequantized(&mut self, node: NodeId, parts: Parts, axis: i64) -> String {
        let inputs = [parts.codes, parts.scales].into_iter().chain(parts.zeros);
        self.add_inner(node, dequantize(axis), inputs.collect())
    }

    /// Parts as `MatMulNBits` wants them.
    fn blocks(&mut self, node: NodeId, matrix: &Weight, scheme: Scheme) -> Result<Parts, Diagnostic> {
        let packed = |weight: Weight| packed(weight, scheme);
        let codes = self.part(node, matrix, QuantizedPart::Codes, &packed)?;
        let [rows, blocks] = [matrix.shape()[0], matrix.shape()[1].div_ceil(Scheme::BLOCK)];
        let shape = [rows, blocks, Scheme::BLOCK * scheme.bits() / 8];
        let codes = self.tensor(node, &codes, ElementType::Of(DType::U8), &shape, "codes")?;
        let (scales, zeros) = self.scales_and_zeros(node, matrix, scheme)?;
        Ok(Parts { codes, scales, zeros })
    }

    /// Parts of which rows can be looked up.
    fn rows(&mut self, node: NodeId, matrix: &Weight, scheme: Scheme) -> Result<Parts, Diagnostic> {
        let columns = matrix.shape()[1];
        let unpadded = |codes: Weight| match columns.is_multiple_of(Scheme::BLOCK) {
            true => packed(codes, scheme),
            false => packed(codes.transpose()?.slice(0, columns)?.transpose()?, scheme),
        };
        let codes = self.part(node, matrix, QuantizedPart::Codes, &unpadded)?;
        let codes = self.tensor(node, &codes, ElementType::Of(DType::U8), codes.shape(), "codes")?;
        let (scales, zeros) = self.scales_and_zeros(node, matrix, scheme)?;
        Ok(Parts { codes, scales, zeros })
    }

    fn scales_and_zeros(
        &mut self,
        node: NodeId,
        matrix: &Weight,
        scheme: Scheme,
    ) -> Result<(String, Option<String>), Diagnostic> {
        let scales = self.part(node, matrix, QuantizedPart::Scales, &Ok)?;
        let scales = self.tensor(node, &scales, ElementType::Of(DType::F32), scales.shape(), "scales")?;
        // The operators of ONNX Runtime know the usual ones.
        if scheme.zero().is_some() && self.profile == Profile::Ort {
            return Ok((scales, None));
        }
        let zeros = self.part(node, matrix, QuantizedPart::Zeros, &|zeros| packed(zeros, scheme))?;
        let zeros = self.tensor(node, &zeros, ElementType::Of(DType::U8), zeros.shape(), "zeros")?;
        Ok((scales, Some(zeros)))
    }

    /// Parts of the transposed matrix.
    fn columns(&mut self, node: NodeId, matrix: &Weight, scheme: Scheme) -> Result<Parts, Diagnostic> {
        let [rows, columns] = [0, 1].map(|at| matrix.shape()[at]);
        let element = if scheme.bits() == 4 { ElementType::U4 } else { ElementType::Of(DType::U8) };
        let codes = |codes: Weight| packed(codes.transpose()?.slice(0, columns)?, scheme);
        let codes = self.part(node, matrix, QuantizedPart::Codes, &codes)?;
        let codes = self.tensor(node, &codes, element, &[columns, rows], "codes")?;
        let blocks = [columns.div_ceil(Scheme::BLOCK), rows];
        let scales = self.part(node, matrix, QuantizedPart::Scales, &|scales| scales.transpose())?;
        let scales = self.tensor(node, &scales, ElementType::Of(DType::F32), &blocks, "scales")?;
        let zeros = |zeros: Weight| packed(zeros.transpose()?, scheme);
        let zeros = self.part(node, matrix, QuantizedPart::Zeros, &zeros)?;
        let zeros = Some(self.tensor(node, &zeros, element, &blocks, "zeros")?);
        Ok(Parts { codes, scales, zeros })
    }

    /// A part of `matrix`, arranged.
    fn part(
        &self,
        node: NodeId,
        matrix: &Weight,
        part: QuantizedPart,
        arrange: &dyn Fn(Weight) -> Result<Weight, WeightError>,
    ) -> Result<Weight, Diagnostic> {
        let arranged = matrix.quantized_part(part).and_then(arrange);
        arranged.map_err(|error| self.illegal(node, &error.to_string()))
    }
}

fn dequantize(axis: i64) -> Operator {
    Operator::new("DequantizeLinear").with("axis", Attribute::Int(axis)).int("block_size", Scheme::BLOCK)
}

/// Codes of four bits two in a byte.
fn packed(codes: Weight, scheme: Scheme) -> Result<Weight, WeightError> {
    if scheme.bits() == 4 { codes.pack_nibbles() } else { Ok(codes) }
}
