//! Inverse frequencies of every scaling rule against those of transformers 5.23 (f32, CPU).

#![allow(clippy::excessive_precision, reason = "numbers are written as the reference prints them")]

use llamac_ir::frequencies::{cos_sin, dynamic, inverse};
use llamac_ir::{Real, RopeScaling};

fn real(value: f64) -> Real {
    Real::new(value)
}

/// Units in the last place between two positive numbers.
fn ulps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: u32) {
    assert_eq!(found.len(), expected.len());
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        assert!(ulps(found, expected) <= tolerance, "frequency {i}: {found:e}, expected {expected:e}");
    }
}

fn assert_rule(theta: f64, scaling: &RopeScaling, expected: &[f32]) {
    assert_close(&inverse(real(theta), 2 * expected.len(), scaling, false), expected, 0);
}

#[rustfmt::skip]
const DEFAULT: [f32; 8] = [
    1.0, 0.3162277639, 0.1000000015, 0.03162277862, 0.009999999776, 0.003162277862, 0.001000000047, 0.0003162277862,
];

#[test]
fn default() {
    assert_rule(1e4, &RopeScaling::Default, &DEFAULT);
    #[rustfmt::skip]
    assert_rule(5e5, &RopeScaling::Default, &[
        1.0, 0.1939227581, 0.0376060307, 0.007292665076, 0.001414213446, 0.0002742481884, 5.318295734e-05,
        1.031338525e-05,
    ]);
}

#[test]
fn linear() {
    #[rustfmt::skip]
    assert_rule(1e4, &RopeScaling::Linear { factor: real(4.0) }, &[
        0.25, 0.07905694097, 0.02500000037, 0.007905694656, 0.002499999944, 0.0007905694656, 0.0002500000119,
        7.905694656e-05,
    ]);
}

/// torch rounds the power of a single number (the stretched base) differently in its last bit.
const ROUNDED_BASE: u32 = 1;

#[test]
fn dynamic_stretches_beyond_the_context_only() {
    let stretched = |length| dynamic(real(1e4), 16, real(2.0), 16, length);
    for length in [1, 8, 16] {
        assert_close(&stretched(length), &DEFAULT, 0);
    }
    #[rustfmt::skip]
    assert_close(&stretched(17), &[
        1.0, 0.3109514117, 0.09669076651, 0.03006612696, 0.009349104017, 0.002907116897, 0.0009039720753,
        0.0002810913429,
    ], ROUNDED_BASE);
    #[rustfmt::skip]
    assert_close(&stretched(32), &[
        1.0, 0.2702961266, 0.07305999845, 0.01974783279, 0.005337763112, 0.001442776644, 0.0003899769508,
        0.0001054092645,
    ], ROUNDED_BASE);
    let rule = RopeScaling::Dynamic { factor: real(2.0), max_position: 16 };
    assert_rule(1e4, &rule, &DEFAULT);
}

#[test]
fn yarn() {
    let rule = |beta_fast, beta_slow, truncate| RopeScaling::Yarn {
        factor: real(4.0),
        original_max_position: 2048,
        beta_fast: real(beta_fast),
        beta_slow: real(beta_slow),
        attention_factor: real(1.138629436111989),
        truncate,
    };
    #[rustfmt::skip]
    assert_rule(1e4, &rule(32.0, 1.0, true), &[
        1.0, 0.3162277639, 0.1000000015, 0.025693506, 0.006249999627, 0.001383496565, 0.0002500000119,
        7.905694656e-05,
    ]);
    #[rustfmt::skip]
    assert_rule(1e4, &rule(16.0, 2.0, false), &[
        1.0, 0.3162277639, 0.1000000015, 0.02660749853, 0.004261618946, 0.0007905694656, 0.0002500000119,
        7.905694656e-05,
    ]);
}

fn llama3(factor: f64) -> RopeScaling {
    let original_max_position = 8192;
    RopeScaling::Llama3 { factor: real(factor), low: real(1.0), high: real(4.0), original_max_position }
}

#[test]
fn llama_3_1() {
    #[rustfmt::skip]
    assert_rule(5e5, &llama3(8.0), &[
        1.0, 0.1939227581, 0.0376060307, 0.007292665076, 0.000524846022, 3.428102355e-05, 6.647869668e-06,
        1.289173156e-06,
    ]);
}

#[test]
fn llama_3_2_1b() {
    #[rustfmt::skip]
    assert_rule(5e5, &llama3(32.0), &[
        1.0, 0.6636012793, 0.4403666258, 0.2922278345, 0.1939227581, 0.1286873817, 0.08539710194, 0.05666961893,
        0.0376060307, 0.02495540865, 0.01656044088, 0.01098952908, 0.007292665076, 0.00483942125, 0.003211446106,
        0.001290548011, 0.0004295567051, 9.708286234e-05, 1.946163866e-05, 1.291476747e-05, 8.570255886e-06,
        5.68723226e-06, 3.774054449e-06, 2.504467147e-06, 1.661967417e-06, 1.10288363e-06, 7.31874934e-07,
        4.856731266e-07, 3.222932889e-07, 2.138742303e-07, 1.419272024e-07, 9.41830649e-08,
    ]);
}

#[test]
fn longrope() {
    let list = |start: f64, step: f64| (0..8u8).map(|i| real(start + step * f64::from(i))).collect();
    let rule = RopeScaling::LongRope {
        short: list(1.0, 0.1),
        long: list(2.0, 0.5),
        original_max_position: 16,
        attention_factor: real(1.224744871391589),
    };
    #[rustfmt::skip]
    assert_rule(1e4, &rule, &[
        1.0, 0.2874797583, 0.08333333582, 0.02432521433, 0.007142857183, 0.002108185319, 0.000624999986,
        0.000186016332,
    ]);
    #[rustfmt::skip]
    assert_close(&inverse(real(1e4), 16, &rule, true), &[
        0.5, 0.1264911145, 0.03333333507, 0.009035078809, 0.002499999944, 0.0007027284009, 0.0001999999949,
        5.749595584e-05,
    ], 0);
}

#[test]
fn angles_at_position_7() {
    let frequencies = inverse(real(1e4), 16, &RopeScaling::Default, false);
    let expected =
        [(0.7539023, 0.6569866), (-0.5994375, 0.8004216), (0.7648422, 0.6442177), (0.9755999, 0.2195561)];
    for (frequency, (cos, sin)) in frequencies.into_iter().zip(expected) {
        let found = cos_sin(7, frequency, 1.0);
        assert!((found.0 - cos).abs() < 1e-7 && (found.1 - sin).abs() < 1e-7, "{found:?}");
        let scaled = cos_sin(7, frequency, 2.0);
        assert_eq!(scaled, (2.0 * found.0, 2.0 * found.1));
    }
}
