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
 * g * (round(clamp(v)) - v inside, otherwise 0), and g outside. Inside is where v lies in the
 * interval, or v after rounding, if `rounded`. */
void NAME(fake_quantize_backward)(const REAL *restrict g, const REAL *restrict x,
                                  REAL *restrict gx, const REAL *restrict scale,
                                  const REAL *restrict offset, double *restrict sums, int64_t rows,
                                  int64_t columns, int64_t rounded, REAL low, REAL high,
                                  REAL open_low, REAL open_high, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL s = scale[row], b = offset ? offset[row] : 0; /* x - 0 is x */
        REAL to_scale = 0, to_offset = 0;
        if (rounded) {
            SIMD_SUM(to_scale, to_offset) for (int64_t i = start; i < start + count; i++) {
                const REAL v = (x[i] - b) / s, clipped = ROUND(NAME(clamp)(v, low, high));
                const REAL code = ROUND(v);
                const int inside = INSIDE(code, clipped);
                gx[i] = (inside ? g[i] * s : 0) / s;
                to_scale += g[i] * (clipped - (inside ? v : 0));
                to_offset += inside ? 0 : g[i];
            }
        } else if (sums) {
            SIMD_SUM(to_scale, to_offset) for (int64_t i = start; i < start + count; i++) {
                const REAL v = (x[i] - b) / s, clipped = NAME(clamp)(v, low, high);
                const int inside = INSIDE(v, clipped);
                gx[i] = (inside ? g[i] * s : 0) / s;
                to_scale += g[i] * (ROUND(clipped) - (inside ? v : 0));
                to_offset += inside ? 0 : g[i];
            }
        } else {
            SIMD for (int64_t i = start; i < start + count; i++) {
                const REAL v = (x[i] - b) / s;
                gx[i] = (INSIDE(v, NAME(clamp)(v, low, high)) ? g[i] * s : 0) / s;
            }
        }
        if (sums) {
            sums[2 * block] = to_scale;
            sums[2 * block + 1] = to_offset;
        }
    }
    if (sums) add_blocks(sums, rows, columns, 2);
}

/* gx = g in the row's interval, otherwise 0. The ends are open if the flags are set. sums, if
 * wanted: g below the interval, and g above. */
void NAME(limits)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                  const REAL *restrict lows, const REAL *restrict highs, double *restrict sums,
                  int64_t rows, int64_t columns, int64_t left, int64_t right, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL low = lows[row], high = highs[row];
        const REAL open_low = left ? low : NAN, open_high = right ? high : NAN;
        SIMD for (int64_t i = start; i < start + count; i++)
            gx[i] = INSIDE(x[i], NAME(clamp)(x[i], low, high)) ? g[i] : 0;
        if (sums) { /* in a loop of its own: together, compilers make branches of the comparisons */
            REAL below = 0, above = 0;
            SIMD_SUM(below, above) for (int64_t i = start; i < start + count; i++) {
                const REAL outside = g[i] - gx[i];
                below += x[i] <= low ? outside : 0;
                above += x[i] >= high ? outside : 0;
            }
            sums[2 * block] = below;
            sums[2 * block + 1] = above;
        }
    }
    if (sums) add_blocks(sums, rows, columns, 2);
}

/* y = round(clamp(x) / scale) * scale */
void NAME(clip_quantize)(const REAL *restrict x, REAL *restrict y, const REAL *restrict lows,
                         const REAL *restrict highs, const REAL *restrict scale, int64_t rows,
                         int64_t columns, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL low = lows[row], high = highs[row], s = scale[row];
        SIMD for (int64_t i = start; i < start + count; i++)
            y[i] = ROUND(NAME(clamp)(x[i], low, high) / s) * s;
    }
}

/* y = scale where x >= 0, otherwise -scale; the scale is 1 without a pointer */
void NAME(binarize)(const REAL *restrict x, REAL *restrict y, const REAL *restrict scale,
                    int64_t rows, int64_t columns, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL s = scale ? scale[row] : 1;
        SIMD for (int64_t i = start; i < start + count; i++) y[i] = x[i] >= 0 ? s : -s;
    }
}

/* gx = g * inner of the row inside the interval, otherwise g * outer */
void NAME(slopes)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                  const REAL *restrict inner, const REAL *restrict outer, int64_t rows,
                  int64_t columns, REAL low, REAL high, REAL open_low, REAL open_high,
                  int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL a = inner[row], b = outer[row];
        SIMD for (int64_t i = start; i < start + count; i++)
            gx[i] = g[i] * (INSIDE(x[i], NAME(clamp)(x[i], low, high)) ? a : b);
    }
}

/* gx = g (2 - |x|) - g |x| where |x| <= 1, otherwise 0 */
void NAME(triangle)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                    int64_t columns, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        SIMD for (int64_t i = start; i < start + count; i++) {
            const REAL size = x[i] < 0 ? -x[i] : x[i];
            gx[i] = size <= 1 ? g[i] * (2 - size) - g[i] * size : 0;
        }
    }
}

/* y = the level above as many thresholds as lie below x; with `right`, or at x. Of every row there
 * are steps thresholds in ascending order, and one level more. NaN has the last level. */
void NAME(levels)(const REAL *restrict x, REAL *restrict y, const REAL *restrict thresholds,
                  const REAL *restrict levels, int64_t rows, int64_t columns, int64_t steps,
                  int64_t right, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL *restrict t = thresholds + row * steps, *restrict l = levels + row * (steps + 1);
        const REAL first_level = l[0];
        SIMD for (int64_t i = start; i < start + count; i++) y[i] = first_level;
        for (int64_t k = 0; k < steps; k += 4) { /* four at a time, so that y is read less often */
            REAL at[4], to[4];
            for (int j = 0; j < 4; j++) {
                at[j] = k + j < steps ? t[k + j] : INFINITY;
                to[j] = l[k + j < steps ? k + j + 1 : steps];
            }
            const REAL t0 = at[0], t1 = at[1], t2 = at[2], t3 = at[3];
            const REAL l0 = to[0], l1 = to[1], l2 = to[2], l3 = to[3];
            if (right) {
                SIMD for (int64_t i = start; i < start + count; i++) {
                    const REAL v = x[i];
                    REAL q = y[i];
                    q = !(v < t0) ? l0 : q;
                    q = !(v < t1) ? l1 : q;
                    q = !(v < t2) ? l2 : q;
                    y[i] = !(v < t3) ? l3 : q;
                }
            } else {
                SIMD for (int64_t i = start; i < start + count; i++) {
                    const REAL v = x[i];
                    REAL q = y[i];
                    q = !(v <= t0) ? l0 : q;
                    q = !(v <= t1) ? l1 : q;
                    q = !(v <= t2) ? l2 : q;
                    y[i] = !(v <= t3) ? l3 : q;
                }
            }
        }
    }
}

/* y = positive where x > threshold, -negative where x < -threshold, otherwise a zero */
void NAME(ternarize)(const REAL *restrict x, REAL *restrict y, const REAL *restrict threshold,
                     const REAL *restrict positive, const REAL *restrict negative, int64_t rows,
                     int64_t columns, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL t = threshold[row], p = positive[row], n = -negative[row];
        SIMD for (int64_t i = start; i < start + count; i++)
            y[i] = x[i] > t ? p : x[i] < -t ? n : x[i] < 0 ? -(REAL)0 : 0;
    }
}

/* gx = g times the size of the level that x has, or g where that is 0; g above and -g below the
 * thresholds are the sums */
void NAME(ternarize_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                              const REAL *restrict threshold, const REAL *restrict positive,
                              const REAL *restrict negative, double *restrict sums, int64_t rows,
                              int64_t columns, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL t = threshold[row], p = positive[row], n = negative[row];
        REAL above = 0, below = 0;
        SIMD_SUM(above, below) for (int64_t i = start; i < start + count; i++) {
            const int up = x[i] > t, down = x[i] < -t;
            gx[i] = g[i] * (up ? p : down ? n : 1);
            above += up ? g[i] : 0;
            below += down ? -g[i] : 0;
        }
        sums[2 * block] = above;
        sums[2 * block + 1] = below;
    }
    add_blocks(sums, rows, columns, 2);
}

/* y = gain (round(clamp((x - offset) / scale) * steps) / steps - shift). Without pointers the scale
 * is 1 and the offset 0. */
void NAME(clip_round)(const REAL *restrict x, REAL *restrict y, const REAL *restrict scale,
                      const REAL *restrict offset, int64_t rows, int64_t columns, REAL low,
                      REAL high, REAL steps, REAL gain, REAL shift, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        if (scale) {
            const REAL s = scale[row], b = offset[row];
            SIMD for (int64_t i = start; i < start + count; i++) {
                const REAL v = NAME(clamp)((x[i] - b) / s, low, high);
                y[i] = gain * (ROUND(v * steps) / steps - shift);
            }
        } else {
            SIMD for (int64_t i = start; i < start + count; i++)
                y[i] = ROUND(NAME(clamp)(x[i], low, high) * steps) / steps;
        }
    }
}

/* With v = (x - offset) / scale and h = gain g: gx = h / steps * steps / scale inside the interval,
 * otherwise 0; with a delta, h (1 + delta sign(h) error) / scale, the error being that of rounding.
 * sums, if wanted: gx v, and gx. Both flags are constants, or the loops would have branches. */
INLINE void NAME(clip_round_block)(const REAL *restrict g, const REAL *restrict x,
                                   REAL *restrict gx, int count, int has_scale, int has_delta,
                                   REAL s, REAL b, REAL low, REAL high, REAL open_low,
                                   REAL open_high, REAL steps, REAL delta, REAL gain) {
    SIMD for (int i = 0; i < count; i++) {
        const REAL v = has_scale ? (x[i] - b) / s : x[i], c = NAME(clamp)(v, low, high);
        const REAL h = has_scale ? g[i] * gain : g[i], error = c - ROUND(c * steps) / steps;
        const REAL slope = 1 + (h > 0 ? delta : h < 0 ? -delta : 0) * error;
        const REAL passed = INSIDE(v, c) ? (has_delta ? h * slope : h / steps * steps) : 0;
        gx[i] = has_scale ? passed / s : passed;
    }
}
void NAME(clip_round_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                               const REAL *restrict scale, const REAL *restrict offset,
                               double *restrict sums, int64_t rows, int64_t columns, REAL low,
                               REAL high, REAL open_low, REAL open_high, REAL steps, REAL delta,
                               REAL gain, int threads) {
#define CALL(has_scale, has_delta)                                                                 \
    NAME(clip_round_block)(g + start, x + start, gx + start, count, has_scale, has_delta, s, b,    \
                           low, high, open_low, open_high, steps, delta, gain)
    FOR_BLOCKS {
        BLOCK_HERE
        const REAL s = scale ? scale[row] : 1, b = scale ? offset[row] : 0;
        if (delta != 0)
            scale ? CALL(1, 1) : CALL(0, 1);
        else
            scale ? CALL(1, 0) : CALL(0, 0);
        if (sums) {
            REAL to_scale = 0, to_offset = 0;
            SIMD_SUM(to_scale, to_offset) for (int64_t i = start; i < start + count; i++) {
                to_scale += gx[i] * ((x[i] - b) / s);
                to_offset += gx[i];
            }
            sums[2 * block] = to_scale;
            sums[2 * block + 1] = to_offset;
        }
    }
#undef CALL
    if (sums) add_blocks(sums, rows, columns, 2);
}

/* With z = (x - mean) / deviation: gx = (g - mean(g) - z sum(g z) / (columns - 1)) / deviation,
 * without the second term unless to_mean, and without the third unless to_deviation too. */
void NAME(standardize_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                                double *restrict sums, int64_t columns, int64_t to_mean,
                                int64_t to_deviation, REAL mean, REAL deviation, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        REAL sum = 0, product = 0;
        SIMD_SUM(sum, product) for (int64_t i = start; i < start + count; i++) {
            sum += g[i];
            product += g[i] * ((x[i] - mean) / deviation);
        }
        sums[2 * block] = sum;
        sums[2 * block + 1] = product;
    }
    add_blocks(sums, rows, columns, 2);
    const REAL a = to_mean ? sums[0] / columns : 0;
    const REAL b = to_mean && to_deviation ? sums[1] / (columns - 1) : 0;
    FOR_BLOCKS {
        BLOCK_HERE
        SIMD for (int64_t i = start; i < start + count; i++)
            gx[i] = (g[i] - a - (x[i] - mean) / deviation * b) / deviation;
    }
}

#endif
