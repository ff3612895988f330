use llamac_ir::weight::{Permutation, evaluate};
use llamac_ir::{Real, RopeScaling};
use llamac_plan::diagnostic::Diagnostic;
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use tempfile::TempDir;

use super::*;
use crate::source::testing;

/// A checkpoint of which some projections are f32 and f16, with values of ordinary size.
fn checkpoint() -> (TempDir, Checkpoint) {
    let mut tensors = testing::tensors();
    for (i, (name, (dtype, shape, bytes))) in tensors.iter_mut().enumerate() {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|n: usize| ((n * 37 + i * 11) % 64) as f32 / 8.0 - 4.0).collect();
        let (stored, ty) = match () {
            () if name.contains("layers.1.mlp") => (Dtype::F32, DType::F32),
            () if name.contains("layers.1.self_attn") => (Dtype::F16, DType::F16),
            () => (Dtype::BF16, DType::BF16),
        };
        *dtype = stored;
        *bytes = narrowed(ty, &values);
    }
    let directory = testing::checkpoint(&testing::config(), &tensors);
    let checkpoint = Checkpoint::open(directory.path(), None).unwrap();
    (directory, checkpoint)
}

fn source(checkpoint: &Checkpoint, name: &str) -> Weight {
    let info = checkpoint.tensor(name).unwrap();
    Weight::source(name, info.dtype, &info.shape).unwrap()
}

/// Reads `weight` in tiles of `tile` rows, and of `tile` rows and 3 columns, and compares it with the naive evaluation, to the bit.
fn compare(checkpoint: &Checkpoint, weight: &Weight, tile: usize) {
    let reader = WeightReader::new(checkpoint);
    let expected = evaluate(weight, &mut |name| {
        let info = checkpoint.tensor(name).ok_or("missing")?;
        let mut values = vec![0.0; info.shape.iter().product()];
        widen(info.dtype, checkpoint.bytes(name).ok_or("missing")?, &mut values);
        ArrayD::from_shape_vec(info.shape.clone(), values).map_err(|e| e.to_string())
    })
    .unwrap();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let expected = bits(&expected.as_standard_layout().iter().copied().collect::<Vec<_>>());
    let (rows, elements) = (row_count(weight), row_elements(weight));
    let size = weight.dtype().size();
    let mut found = vec![f32::NAN; rows * elements];
    let mut stored = vec![0xFF; rows * elements * size];
    let mut wide = vec![0xFF; rows * elements * 4];
    for start in (0..rows).step_by(tile) {
        let end = rows.min(start + tile);
        reader.rows(weight, start..end, &mut found[start * elements..end * elements]).unwrap();
        let all = Block::rows(weight, start..end);
        let out = &mut stored[start * elements * size..end * elements * size];
        reader.read(weight, &all, weight.dtype(), out).unwrap();
        for first in (0..elements).step_by(3) {
            let block = Block { rows: start..end, columns: first..elements.min(first + 3) };
            let mut out = vec![0xFF; block.elements() * 4];
            reader.read(weight, &block, DType::F32, &mut out).unwrap();
            for (row, out) in block.rows.zip(out.chunks_exact(block.columns.len() * 4)) {
                wide[(row * elements + first) * 4..][..out.len()].copy_from_slice(out);
            }
        }
    }
    assert_eq!(bits(&found), expected, "{weight}");
    for (dtype, bytes) in [(weight.dtype(), stored), (DType::F32, wide)] {
        let mut widened = vec![f32::NAN; rows * elements];
        widen(dtype, &bytes, &mut widened);
        assert_eq!(bits(&widened), expected, "{weight}");
    }
}

#[test]
fn rows_that_are_only_chosen_keep_their_bytes() {
    let (_directory, checkpoint) = checkpoint();
    let name = |n: &str| format!("model.layers.0.self_attn.{n}_proj.weight");
    let [q, k, v] = ["q", "k", "v"].map(|n| source(&checkpoint, &name(n)));
    let fused = Weight::concat([q, k, v]).unwrap();
    let mut bytes = vec![0; 16 * 8 * 2];
    WeightReader::new(&checkpoint)
        .read(&fused, &Block::rows(&fused, 0..16), DType::BF16, &mut bytes)
        .unwrap();
    let parts = ["q", "k", "v"].map(|n| checkpoint.bytes(&name(n)).unwrap());
    assert_eq!(bytes, parts.concat());
}

/// What adapters do to weights: sums of several, rows of other lengths, rows that are replaced.
#[test]
fn recipes_of_adapters_are_what_the_naive_evaluation_says() {
    let (_directory, checkpoint) = checkpoint();
    let get = |name: &str| source(&checkpoint, &format!("model.layers.{name}.weight"));
    let (q, k, up, norm) = (
        get("0.self_attn.q_proj"),
        get("1.self_attn.k_proj"),
        get("1.mlp.up_proj"),
        get("0.input_layernorm"),
    );
    let wide = q.convert(DType::F32).unwrap();
    let down = k.convert(DType::F32).unwrap();
    let sum = wide
        .add_low_rank(
            &k,
            &up.slice(0, 8).unwrap().transpose().unwrap().slice(0, 4).unwrap().transpose().unwrap(),
            Real::new(0.37),
        )
        .unwrap();
    let stretched = sum.set_row_norms(&norm).unwrap();
    for weight in [
        Weight::sum([wide.clone(), sum.clone(), stretched.clone()]).unwrap(),
        norm.convert(DType::F32).unwrap().scale(Real::new(-1.7)).unwrap().convert(DType::BF16).unwrap(),
        k.scale(Real::new(0.3)).unwrap(),
        Weight::concat([wide.slice(0, 3).unwrap(), down.clone(), wide.slice(5, 3).unwrap()]).unwrap(),
        stretched.convert(DType::BF16).unwrap(),
        stretched.transpose().unwrap(),
        stretched.quantize(Scheme::Q8).unwrap(),
    ] {
        for tile in [1, 3, 100] {
            compare(&checkpoint, &weight, tile);
        }
    }
}

/// Blocks of which the last is short, tiles that begin within a block, rows of several matrices, and parts of them.
#[test]
fn quantized_recipes_are_what_the_naive_evaluation_says() {
    let (_directory, checkpoint) = checkpoint();
    let get = |name: &str| source(&checkpoint, &format!("model.layers.{name}_proj.weight"));
    let (up, down, q) = (get("1.mlp.up"), get("1.mlp.down"), get("0.self_attn.q"));
    let wide = Weight::concat(vec![up.clone(); 6]).unwrap().transpose().unwrap();
    assert!(row_elements(&wide) > 64 && !row_elements(&wide).is_multiple_of(Scheme::BLOCK));
    let base = Weight::concat([wide.clone(), wide.slice(1, 3).unwrap()]).unwrap();
    for scheme in Scheme::ALL {
        let quantized = base.quantize(scheme).unwrap();
        let [codes, scales, zeros] = QuantizedPart::ALL.map(|part| quantized.quantized_part(part).unwrap());
        for weight in [
            down.quantize(scheme).unwrap().slice(1, 4).unwrap().transpose().unwrap(),
            Weight::concat([q.quantize(scheme).unwrap(), q.quantize(Scheme::Q8).unwrap()]).unwrap(),
            codes.transpose().unwrap().slice(0, row_elements(&base)).unwrap(),
            scales.transpose().unwrap(),
            zeros.transpose().unwrap(),
            quantized,
            codes,
            scales,
            zeros,
        ] {
            for tile in [1, 3, 5, 100] {
                compare(&checkpoint, &weight, tile);
            }
        }
        if scheme.bits() == 4 {
            let quantized = base.quantize(scheme).unwrap();
            for part in [QuantizedPart::Codes, QuantizedPart::Zeros] {
                let part = quantized.quantized_part(part).unwrap();
                let turned = part.transpose().unwrap().slice(1, 2).unwrap();
                for weight in [part.pack_nibbles().unwrap(), turned.pack_nibbles().unwrap()] {
                    for tile in [1, 3, 100] {
                        compare(&checkpoint, &weight, tile);
                    }
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_stored_is_told_with_its_tensor() {
    let mut tensors = testing::tensors();
    let name = |layer: usize| format!("model.layers.{layer}.self_attn.q_proj.weight");
    let v = name(0).replace("q_proj", "v_proj");
    for (name, value) in [(name(0), f32::NAN), (name(1), 1e9), (v.clone(), 0.5)] {
        let (_, shape, bytes) = tensors.get_mut(&name).unwrap();
        *bytes = narrowed(DType::BF16, &vec![value; shape.iter().product()]);
    }
    let directory = testing::checkpoint(&testing::config(), &tensors);
    let checkpoint = Checkpoint::open(directory.path(), None).unwrap();
    let reader = WeightReader::new(&checkpoint);
    let [first, second] = [0, 1].map(|layer| source(&checkpoint, &name(layer)));
    let v = source(&checkpoint, &v);
    let order = Permutation::InterleavedToHalf { heads: 2, head_dim: 4 };
    let fault = |weight: &Weight| reader.tensor(weight).unwrap_err().to_string();
    let both = Weight::concat([v.slice(0, 2).unwrap(), second.permute(order).unwrap()]).unwrap();
    insta::assert_snapshot!(fault(&both.quantize(Scheme::Q4).unwrap()), @"model.safetensors: model.layers.1.self_attn.q_proj.weight: 998244350 is more than q4 can hold");
    insta::assert_snapshot!(fault(&both.convert(DType::F16).unwrap()), @"model.safetensors: model.layers.1.self_attn.q_proj.weight: 998244350 is more than f16 can hold");
    insta::assert_snapshot!(fault(&first.transpose().unwrap().quantize(Scheme::Q8).unwrap()), @"model.safetensors: model.layers.0.self_attn.q_proj.weight: NaN is no number to compute with");
    insta::assert_snapshot!(Diagnostic::from(reader.tensor(&second.quantize(Scheme::Q4A).unwrap()).unwrap_err()).to_string(), @"
    error[E0208]: a number does not fit the dtype that was asked for
      --> model.safetensors: model.layers.1.self_attn.q_proj.weight
       expected numbers that q4a can hold
       found    998244350
       help: keep the checkpoint's own dtype, or use `--weights bf16`
    ");
}

#[test]
fn literal_integers_are_exact() {
    let (_directory, checkpoint) = checkpoint();
    let weight = Weight::literal(DType::I64, &[2], &[16_777_217.0, -9_007_199_254_740_991.0]).unwrap();
    let mut bytes = vec![0; 16];
    WeightReader::new(&checkpoint).read(&weight, &Block::whole(&weight), DType::I64, &mut bytes).unwrap();
    assert_eq!(bytes, [16_777_217i64, -9_007_199_254_740_991].map(i64::to_le_bytes).concat());
}

#[test]
fn every_recipe_is_what_the_naive_evaluation_says() {
    let (_directory, checkpoint) = checkpoint();
    let get = |name: &str| source(&checkpoint, name);
    let q = get("model.layers.0.self_attn.q_proj.weight");
    let up = get("model.layers.1.mlp.up_proj.weight");
    let down = get("model.layers.1.mlp.down_proj.weight");
    let half = q.permute(Permutation::InterleavedToHalf { heads: 2, head_dim: 4 }).unwrap();
    let low_rank = down.add_low_rank(
        &up.slice(3, 2).unwrap().transpose().unwrap().transpose().unwrap(),
        &up,
        Real::new(0.5),
    );
    assert!(low_rank.is_err(), "the rank of b is not that of a");
    let b = down.transpose().unwrap().slice(0, 3).unwrap().transpose().unwrap();
    let a = get("model.layers.1.mlp.down_proj.weight").slice(1, 3).unwrap();
    let low_rank = down.add_low_rank(&a, &b, Real::new(0.3)).unwrap();
    let inv_freq = Weight::new(WeightExpr::InvFreq {
        theta: Real::new(1e4),
        head_dim: 16,
        scaling: RopeScaling::Linear { factor: Real::new(4.0) },
        set: FrequencySet::Short,
    })
    .unwrap();
    for weight in [
        q.clone(),
        q.slice(3, 4).unwrap(),
        Weight::concat([q.clone(), half.clone(), q.slice(1, 1).unwrap()]).unwrap(),
        Weight::concat_columns([q.clone(), half.clone(), q.slice(0, 8).unwrap()]).unwrap(),
        half.permute(Permutation::HalfToInterleaved { heads: 2, head_dim: 4 }).unwrap(),
        half,
        down.transpose().unwrap(),
        q.transpose().unwrap().convert(DType::F32).unwrap(),
        q.convert(DType::F16).unwrap().transpose().unwrap().slice(2, 5).unwrap(),
        Weight::literal(DType::I64, &[2, 3], &[1.0, -2.0, 3.0, 4.0, 5.0, 6.0]).unwrap().transpose().unwrap(),
        Weight::literal(DType::Bool, &[3], &[1.0, 0.0, 1.0]).unwrap(),
        low_rank.transpose().unwrap(),
        low_rank,
        inv_freq,
        get("model.norm.weight"),
        get("model.layers.1.self_attn.k_proj.weight"),
    ] {
        for tile in [1, 3, 5, 100] {
            compare(&checkpoint, &weight, tile);
        }
    }
}

proptest! {
    /// Recipes of random depth: each number of the program wraps the recipe once more.
    #[test]
    fn random_recipes_agree(
        first in 0usize..4,
        program in prop::collection::vec((0u8..7, 0usize..100, 0usize..100), 0..6),
        tile in 1usize..20,
    ) {
        let (_directory, checkpoint) = checkpoint();
        let names = ["0.self_attn.q_proj", "1.self_attn.k_proj", "1.mlp.up_proj", "1.mlp.down_proj"];
        let mut weight = source(&checkpoint, &format!("model.layers.{}.weight", names[first]));
        for (step, x, y) in program {
            let rows = row_count(&weight);
            weight = match step {
                0 => {
                    let start = x % rows;
                    weight.slice(start, 1 + y % (rows - start)).unwrap()
                }
                1 if rows < 50 => Weight::concat([weight.clone(), weight.slice(x % rows, 1).unwrap(), weight]).unwrap(),
                2 if rows.is_multiple_of(2) => {
                    let order = Permutation::InterleavedToHalf { heads: 1, head_dim: rows };
                    weight.permute(if x % 2 == 0 { order } else { order.inverse() }).unwrap()
                }
                3 => weight.transpose().unwrap(),
                4 => {
                    let rank = 1 + x % rows.min(row_elements(&weight)).min(3);
                    let a = weight.slice(y % (rows - rank + 1), rank).unwrap();
                    let b = weight.transpose().unwrap().slice(0, rank).unwrap().transpose().unwrap();
                    weight.add_low_rank(&a, &b, Real::new(y as f64 / 1000.0)).unwrap()
                }
                5 if weight.dtype().is_float() => {
                    weight.convert(DType::F32).unwrap().quantize(Scheme::ALL[x % 3]).unwrap()
                }
                6 if row_elements(&weight) < 50 => Weight::concat_columns([weight.clone(), weight]).unwrap(),
                _ => weight,
            };
        }
        compare(&checkpoint, &weight, tile);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (_directory, checkpoint) = checkpoint();
    let reader = WeightReader::new(&checkpoint);
    let q = source(&checkpoint, "model.layers.0.self_attn.q_proj.weight");
    let rows = |range: Range<usize>, length: usize| reader.rows(&q, range, &mut vec![0.0; length]);
    assert_eq!(rows(2..4, 16), Ok(()));
    assert_eq!(rows(8..8, 0), Ok(()));
    for (range, length) in [(0..9, 72), (7..9, 16), (0..1, 7), (Range { start: 3, end: 2 }, 0)] {
        assert!(matches!(rows(range, length), Err(ReadError::Rows { .. })));
    }
    let columns = |columns: Range<usize>, length: usize| {
        reader.read(&q, &Block { rows: 0..1, columns }, DType::BF16, &mut vec![0; length])
    };
    assert_eq!(columns(5..8, 6), Ok(()));
    for (range, length) in [(5..9, 8), (5..8, 5), (Range { start: 8, end: 7 }, 0)] {
        assert!(matches!(columns(range, length), Err(ReadError::Rows { .. })));
    }
    let load = |name: &str, dtype, shape: &[usize]| {
        reader.tensor(&Weight::source(name, dtype, shape).unwrap()).unwrap_err()
    };
    assert!(matches!(load("model.norm.wait", DType::BF16, &[8]), ReadError::Missing { .. }));
    assert!(matches!(load("model.norm.weight", DType::F32, &[8]), ReadError::Type { .. }));
    assert!(matches!(load("model.norm.weight", DType::BF16, &[4, 2]), ReadError::Type { .. }));
    let fault = Diagnostic::from(load("model.norm.weight", DType::F32, &[8]));
    assert!(fault.to_string().contains("the recipe says f32[8], the checkpoint has bf16[8]"), "{fault}");
}
