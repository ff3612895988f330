//! The evaluator against tiny LLaMA models with formula weights, whose outputs transformers 5.23 computed in f32.

mod formula;

use formula::{Head, Shape, assert_close, forward, generate};
use llamac_ir::{Real, RopeScaling};

const IDS: [i64; 5] = [1, 5, 9, 2, 7];

#[rustfmt::skip]
const LAST_LOGITS: [f32; 16] = [
    -1.196707, -1.877555, 0.784653, 1.975351, 0.09219, -1.741428, -0.588231, 1.399502, 1.379915, -0.832221, -2.036744,
    0.08115, 1.747106, 0.312079, -1.532741, -1.045945,
];

#[test]
fn causal_model() {
    let outputs = forward(&Shape::default(), &[&IDS], None);
    assert_close(&outputs["logits"], &[0, 4], &LAST_LOGITS);
    #[rustfmt::skip]
    assert_close(&outputs["logits"], &[0, 0], &[
        -0.370089, -1.177664, 0.230082, 1.018719, 0.41703, -0.874564, -0.522364, 0.348136, 0.805632, -0.263044,
        -0.919655, -0.381455, 0.759502, 0.577594, -0.356268, -0.736686,
    ]);
    assert_close(&outputs["hidden.0"], &[0, 4], &[-0.212537, -0.384354, -0.356738, -0.13015]);
    assert_close(&outputs["hidden.1"], &[0, 4], &[0.406926, -0.025303, -0.04855, 1.244528]);
    assert_close(&outputs["hidden.2"], &[0, 4], &[1.351921, 0.561586, -1.20349, 0.469706]);
    assert_close(&outputs["present.0.key"], &[0, 0, 4], &[-3.218775, 4.222735, -1.383869, -4.574111]);
    assert_close(&outputs["present.0.key"], &[0, 1, 4], &[2.035211, 4.388, -1.156983, -3.35464]);
    assert_close(&outputs["present.0.value"], &[0, 0, 4], &[-2.513461, 3.163418, 3.84839, -1.581081]);
}

#[test]
fn greedy_generation_with_a_cache() {
    let tokens = generate(&Shape::default(), &[&IDS], &[&[1; 5]], 8);
    assert_eq!(tokens, [[3, 8, 14, 4, 4, 4, 14, 14]]);
}

#[test]
fn greedy_generation_of_a_left_padded_batch() {
    let rows: [&[i64]; 2] = [&[0, 0, 1, 5, 9], &[3, 1, 5, 9, 2]];
    let masks: [&[i64]; 2] = [&[0, 0, 1, 1, 1], &[1; 5]];
    assert_eq!(generate(&Shape::default(), &rows, &masks, 4), [[5, 14, 14, 14], [12, 7, 11, 11]]);
}

#[test]
fn head_dim_apart_from_the_hidden_size_and_llama3_frequencies() {
    let scaling = RopeScaling::Llama3 {
        factor: Real::new(8.0),
        low: Real::new(1.0),
        high: Real::new(4.0),
        original_max_position: 16,
    };
    let shape = Shape { head_dim: 6, theta: 500.0, scaling, ..Shape::default() };
    let outputs = forward(&shape, &[&IDS], None);
    #[rustfmt::skip]
    assert_close(&outputs["logits"], &[0, 4], &[
        1.814841, 0.628647, -1.18921, -1.492193, 1.064897, 1.438753, -0.278132, -1.829833, -0.368381, 1.336446,
        1.374601, -1.083611, -1.444345, 0.443195, 1.835787, 0.179568,
    ]);
}

#[test]
fn sequence_classification_pools_the_last_token_that_is_not_padding() {
    let shape = Shape { head: Head::Score { labels: 3, pad: 0 }, ..Shape::default() };
    let rows: [&[i64]; 3] = [&[1, 5, 9, 0, 0], &[0, 0, 1, 5, 9], &IDS];
    let masks: [&[i64]; 3] = [&[1, 1, 1, 0, 0], &[0, 0, 1, 1, 1], &[1; 5]];
    let outputs = forward(&shape, &rows, Some(&masks));
    assert_close(&outputs["logits"], &[0], &[1.029865, 1.056381, -0.59253]);
    assert_close(&outputs["logits"], &[1], &[1.029865, 1.056381, -0.59253]);
    assert_close(&outputs["logits"], &[2], &LAST_LOGITS[..3]);
}

#[test]
fn tied_embeddings_and_dynamic_frequencies() {
    let scaling = RopeScaling::Dynamic { factor: Real::new(2.0), max_position: 4 };
    let shape = Shape { head: Head::Tied, scaling, ..Shape::default() };
    let outputs = forward(&shape, &[&IDS], None);
    #[rustfmt::skip]
    assert_close(&outputs["logits"], &[0, 4], &[
        -1.865404, -0.650864, 1.539189, 1.363307, -1.030514, -1.539316, 0.84275, 1.922227, 0.226049, -1.629482,
        -1.210423, 1.433942, 1.386482, -0.974832, -1.982009, 0.198044,
    ]);
}

/// The tests above must be able to fail: each of these models is wrong in one respect.
#[test]
fn a_wrong_model_gives_other_logits() {
    let wrong = [
        Shape { theta: 1.1e4, ..Shape::default() },
        Shape { eps: 1e-3, ..Shape::default() },
        Shape { scaling: RopeScaling::Linear { factor: Real::new(2.0) }, ..Shape::default() },
        Shape { interleaved: true, ..Shape::default() },
        Shape { head: Head::Tied, ..Shape::default() },
    ];
    for shape in wrong {
        let logits = formula::row(&forward(&shape, &[&IDS], None)["logits"], &[0, 4]);
        let worst = logits.iter().zip(LAST_LOGITS).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst > 1e-4, "{shape:?} differs by {worst} only");
    }
}
