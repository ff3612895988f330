//! Sums of tiles that cannot be added up in the result itself.

use std::mem::MaybeUninit;

use llamac_plan::layout::PANEL;

use super::Sums;
use super::linear::Panels;
use crate::kernels::math;
use crate::kernels::simd::Simd;

/// Sums beside the result, where it has no room for whole tiles, or a bias is to be added.
pub(super) struct Beside<const P: usize, const T: usize>(MaybeUninit<[[Sums<f32>; P]; T]>);

/// # Safety (of every function)
/// The instruction set of `S` is available, and the tiles and panels are those of the part.
impl<const P: usize, const T: usize> Beside<P, T> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Copies the sums that columns before `start` left in the result, and says where each tile is.
    #[inline(always)]
    pub(super) unsafe fn resume<S: Simd>(
        &mut self,
        panels: &Panels<'_>,
        [panel, tile]: [usize; 2],
        start: usize,
    ) -> [[*mut f32; P]; T] {
        let sums = self.0.write([[Sums([[0.0; 16]; 16]); P]; T]);
        let mut places = [[std::ptr::null_mut(); P]; T];
        for t in 0..T {
            for p in 0..P {
                places[t][p] = sums[t][p].0.as_mut_ptr().cast();
                let (lanes, out) = panels.outputs(panel + p, tile + t);
                for m in (0..panels.part.rows(tile + t)).filter(|_| start > 0) {
                    // SAFETY: the lanes are inside the result's rows.
                    unsafe {
                        let sum = math::load::<S>(out.wrapping_add(m * panels.place.stride), lanes);
                        S::store(sums[t][p].0[m].as_mut_ptr(), sum);
                    }
                }
            }
        }
        places
    }

    /// Leaves the sums in the result, with the bias after the last column. They were begun by [`Beside::resume`].
    #[inline(always)]
    pub(super) unsafe fn leave<S: Simd>(&self, panels: &Panels<'_>, [panel, tile]: [usize; 2], end: usize) {
        let part = panels.part;
        let bias = part.bias.filter(|_| end == part.tasks.weight.layout().cols);
        // SAFETY: the caller's promise.
        let sums = unsafe { self.0.assume_init_ref() };
        for (t, sums) in sums.iter().enumerate() {
            for (p, sums) in sums.iter().enumerate() {
                let (lanes, out) = panels.outputs(panel + p, tile + t);
                // SAFETY: the lanes are inside the result's rows; there is a bias for each output.
                unsafe {
                    let bias = bias.map(|bias| math::load::<S>(bias[(panel + p) * PANEL..].as_ptr(), lanes));
                    for (m, sums) in sums.0.iter().enumerate().take(part.rows(tile + t)) {
                        let mut sum = S::load(sums.as_ptr());
                        if let Some(bias) = bias {
                            sum = S::add(sum, bias);
                        }
                        math::store::<S>(out.wrapping_add(m * panels.place.stride), lanes, sum);
                    }
                }
            }
        }
    }
}
