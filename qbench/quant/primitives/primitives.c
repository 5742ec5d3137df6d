/* Loops of the primitives: qbench/quant/primitives says what they compute.
 *
 * g is the gradient of the result, gx that of x. An interval is given by its ends, and by each end
 * again if it is open, else NaN.
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

#define INSIDE(v, clipped) (((clipped) == (v)) & ((v) != open_low) & ((v) != open_high))

/* NaN passes; of two zeros the first is returned. */
static inline REAL NAME(clamp)(REAL v, REAL low, REAL high) {
    v = v < low ? low : v;
    return v > high ? high : v;
}

/* gx = g inside the interval, otherwise 0 */
void NAME(window)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                  int64_t columns, REAL low, REAL high, REAL open_low, REAL open_high,
                  int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        SIMD for (int64_t i = start; i < start + count; i++)
            gx[i] = INSIDE(x[i], NAME(clamp)(x[i], low, high)) ? g[i] : 0;
    }
}

/* y = round(clamp((x - offset) / scale)) * scale + offset */
void NAME(fake_quantize)(const REAL *restrict x, REAL *restrict y, const REAL *restrict scale,
                         const REAL *restrict offset, int64_t rows, int64_t columns, REAL low,
                         REAL high, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL s = scale[row];
        if (offset) {
            const REAL b = offset[row];
            SIMD for (int64_t i = start; i < start + count; i++)
                y[i] = ROUND(NAME(clamp)((x[i] - b) / s, low, high)) * s + b;
        } else {
            SIMD for (int64_t i = start; i < start + count; i++)
                y[i] = ROUND(NAME(clamp)(x[i] / s, low, high)) * s;
        }
    }
}

/* With v = (x - offset) / scale: gx = (g * scale inside, otherwise 0) / scale. sums, if wanted:
 * g * (round(clamp(v)) - v inside, otherwise 0), and g outside. */
void NAME(fake_quantize_backward)(const REAL *restrict g, const REAL *restrict x,
                                  REAL *restrict gx, const REAL *restrict scale,
                                  const REAL *restrict offset, double *restrict sums, int64_t rows,
                                  int64_t columns, REAL low, REAL high, REAL open_low,
                                  REAL open_high, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL s = scale[row], b = offset ? offset[row] : 0; /* x - 0 is x */
        if (sums) {
            REAL to_scale = 0, to_offset = 0;
            SIMD_SUM(to_scale, to_offset) for (int64_t i = start; i < start + count; i++) {
                const REAL v = (x[i] - b) / s, clipped = NAME(clamp)(v, low, high);
                const int inside = INSIDE(v, clipped);
                gx[i] = (inside ? g[i] * s : 0) / s;
                to_scale += g[i] * (ROUND(clipped) - (inside ? v : 0));
                to_offset += inside ? 0 : g[i];
            }
            sums[2 * block] = to_scale;
            sums[2 * block + 1] = to_offset;
        } else {
            SIMD for (int64_t i = start; i < start + count; i++) {
                const REAL v = (x[i] - b) / s;
                gx[i] = (INSIDE(v, NAME(clamp)(v, low, high)) ? g[i] * s : 0) / s;
            }
        }
    }
    if (sums) add_blocks(sums, rows, columns, 2);
}

/* y = round(clamp(x) * steps) / steps */
void NAME(clip_round)(const REAL *restrict x, REAL *restrict y, int64_t columns, REAL low,
                      REAL high, REAL steps, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        SIMD for (int64_t i = start; i < start + count; i++)
            y[i] = ROUND(NAME(clamp)(x[i], low, high) * steps) / steps;
    }
}

/* gx = g / steps * steps inside the interval, otherwise 0 */
void NAME(clip_round_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                               int64_t columns, REAL low, REAL high, REAL open_low, REAL open_high,
                               REAL steps, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        SIMD for (int64_t i = start; i < start + count; i++)
            gx[i] = INSIDE(x[i], NAME(clamp)(x[i], low, high)) ? g[i] / steps * steps : 0;
    }
}

#endif
