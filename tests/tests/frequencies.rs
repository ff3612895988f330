//! Dynamic NTK frequencies are computed by the runtime and by the reference evaluator, each for itself: the same bits.

use llamac_ir::{Real, frequencies};
use llamac_runtime::dynamic_frequencies;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dynamic_frequencies_are_the_same_bits(
        theta in 1.5f64..1e7,
        factor in 0.1f64..64.0,
        half in 2usize..130,
        max_position in 1u64..1 << 18,
        length in 1u64..1 << 21,
    ) {
        let mut found = vec![0.0; half];
        dynamic_frequencies(theta, factor, max_position, length, &mut found);
        let real = |x: f64| Real::from(x);
        let expected = frequencies::dynamic(real(theta), 2 * half, real(factor), max_position, length as i64);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&found), bits(&expected));
    }
}
