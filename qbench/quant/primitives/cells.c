/* Loops over the cells that thresholds cut the values into: qbench/quant/primitives/cells.py.
 *
 * g is the gradient of the result, gx that of x.
 */

#ifndef REAL

#include "blocks.h"

#define REAL float
#define NAME(function) function##_float32
#include __FILE__
#undef REAL
#undef NAME
#define REAL double
#define NAME(function) function##_float64
#include __FILE__

#else

/* sums of each row: how many x lie above each of its thresholds, or with `right` at it; their
 * values added up; and all values added up. */
void NAME(cells)(const REAL *restrict x, const REAL *restrict values,
                 const REAL *restrict thresholds, double *restrict sums, int64_t rows,
                 int64_t columns, int64_t steps, int64_t right, int threads) {
    const int width = 2 * (int)steps + 1;
    FOR_BLOCKS {
        BLOCK_HERE
        double *restrict found = sums + block * width, all = 0;
        const REAL *restrict a = x + start, *restrict b = values + start;
        for (int k = 0; k < steps; k++) {
            const REAL t = thresholds[row * steps + k];
            int above = 0;
            double total = 0;
            if (right) {
                SIMD_SUM(above, total) for (int i = 0; i < count; i++) {
                    above += !(a[i] < t);
                    total += !(a[i] < t) ? (double)b[i] : 0;
                }
            } else {
                SIMD_SUM(above, total) for (int i = 0; i < count; i++) {
                    above += !(a[i] <= t);
                    total += !(a[i] <= t) ? (double)b[i] : 0;
                }
            }
            found[k] = above;
            found[steps + k] = total;
        }
        SIMD_SUM(all) for (int i = 0; i < count; i++) all += (double)b[i];
        found[2 * steps] = all;
    }
    add_blocks(sums, rows, columns, width);
}

/* level = the level of u, of which there is one more than thresholds; on a threshold the upper */
static inline void NAME(nearest)(const REAL *restrict u, REAL *restrict level, int count,
                                 const REAL *restrict thresholds, const REAL *restrict levels,
                                 int64_t steps) {
    for (int i = 0; i < count; i++) level[i] = levels[0];
    for (int64_t k = 0; k < steps; k++) {
        const REAL t = thresholds[k], upper = levels[k + 1];
        SIMD for (int i = 0; i < count; i++) level[i] = !(u[i] < t) ? upper : level[i];
    }
}

/* y = alpha sign(u) level(|u|), u = clamp(x / alpha, low, 1) */
void NAME(scaled_levels)(const REAL *restrict x, REAL *restrict y, const REAL *restrict thresholds,
                         const REAL *restrict levels, int64_t columns, int64_t steps, REAL alpha,
                         REAL low, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        REAL size[BLOCK], level[BLOCK];
        const REAL *restrict a = x + start;
        REAL *restrict b = y + start;
        SIMD for (int i = 0; i < count; i++) {
            REAL u = a[i] / alpha;
            u = u < low ? low : u > 1 ? 1 : u;
            size[i] = SIZE(u);
        }
        NAME(nearest)(size, level, count, thresholds, levels, steps);
        SIMD for (int i = 0; i < count; i++)
            b[i] = alpha * ((a[i] / alpha < 0) & (low < 0) ? -level[i] : level[i]);
    }
}

/* gx = g alpha / alpha where u is inside; sums: g (level - u inside, otherwise 0) */
void NAME(scaled_levels_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                                  const REAL *restrict thresholds, const REAL *restrict levels,
                                  double *restrict sums, int64_t columns, int64_t steps, REAL alpha,
                                  REAL low, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        REAL size[BLOCK], level[BLOCK], to_alpha = 0;
        const REAL *restrict a = x + start, *restrict gs = g + start;
        REAL *restrict b = gx + start;
        SIMD for (int i = 0; i < count; i++) {
            REAL u = a[i] / alpha;
            u = u < low ? low : u > 1 ? 1 : u;
            size[i] = SIZE(u);
        }
        NAME(nearest)(size, level, count, thresholds, levels, steps);
        SIMD_SUM(to_alpha) for (int i = 0; i < count; i++) {
            const REAL u = a[i] / alpha;
            const int inside = (u >= low) & (u <= 1);
            const REAL q = (u < 0) & (low < 0) ? -level[i] : level[i];
            b[i] = (inside ? gs[i] * alpha : 0) / alpha;
            to_alpha += gs[i] * (q - (inside ? u : 0));
        }
        sums[block] = to_alpha;
    }
    add_blocks(sums, rows, columns, 1);
}

/* y = sum of scale_k sign(x + shift_k - 1/2) */
void NAME(sign_sum)(const REAL *restrict x, REAL *restrict y, const REAL *restrict shifts,
                    const REAL *restrict scales, int64_t columns, int64_t bases, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        SIMD for (int64_t i = start; i < start + count; i++) y[i] = 0;
        for (int64_t k = 0; k < bases; k++) {
            const REAL v = shifts[k], s = scales[k];
            SIMD for (int64_t i = start; i < start + count; i++)
                y[i] += x[i] + v - (REAL)0.5 >= 0 ? s : -s;
        }
    }
}

/* gx = sum of g scale_k where 0 <= x + shift_k <= 1; sums: that, and g sign, of each k */
void NAME(sign_sum_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                             const REAL *restrict shifts, const REAL *restrict scales,
                             double *restrict sums, int64_t columns, int64_t bases, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        SIMD for (int64_t i = start; i < start + count; i++) gx[i] = -(REAL)0;
        for (int64_t k = bases - 1; k >= 0; k--) { /* autograd adds in this order */
            const REAL v = shifts[k], s = scales[k];
            REAL to_shift = 0, to_scale = 0;
            SIMD_SUM(to_shift, to_scale) for (int64_t i = start; i < start + count; i++) {
                const REAL u = x[i] + v, part = (u >= 0) & (u <= 1) ? g[i] * s : 0;
                gx[i] += part;
                to_shift += part;
                to_scale += u - (REAL)0.5 >= 0 ? g[i] : -g[i];
            }
            sums[2 * bases * block + k] = to_shift;
            sums[2 * bases * block + bases + k] = to_scale;
        }
    }
    add_blocks(sums, rows, columns, 2 * (int)bases);
}

#endif
