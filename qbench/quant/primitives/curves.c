/* Loops of the primitives whose gradients follow curves: qbench/quant/primitives/curves.py.
 *
 * g is the gradient of the result, gx that of x. In float32 a curve is computed by polynomials, to
 * within 2e-7. Where that leaves open which level is the nearest, loops count the values.
 */

#ifndef REAL

#include "blocks.h"
#include "exp2.h"

/* log2(v) for normal v > 0 */
static inline float log2_float32(float v) {
    union {
        float value;
        int32_t bits;
    } parts = {v};
    int32_t exponent = ((parts.bits >> 23) & 255) - 127;
    parts.bits = (parts.bits & 0x7fffff) | 0x3f800000;
    const int above = parts.value > 1.41421356f;
    const float m = above ? parts.value * 0.5f : parts.value;
    const float f = (m - 1.0f) / (m + 1.0f), f2 = f * f; /* log2(m) = 2 artanh(f) / ln 2 */
    float p = 0.320598898f;
    p = p * f2 + 0.412198583f;
    p = p * f2 + 0.577078016f;
    p = p * f2 + 0.961796694f;
    p = p * f2 + 2.88539008f;
    return (float)(exponent + above) + f * p;
}

static inline float power_float32(float base, float exponent) {
    const float v = exponent * log2_float32(base);
    return exp2_float32(v < -100.0f ? -100.0f : v > 100.0f ? 100.0f : v);
}

static inline float tanh_float32(float v) {
    const float size = fabsf(v) > 15.0f ? 15.0f : fabsf(v), v2 = v * v;
    const float far = 1.0f - 2.0f / (1.0f + exp2_float32(2.88539008f * size));
    return size < 0.04f ? v * (1.0f - v2 * (0.33333333f - 0.13333333f * v2)) : copysignf(far, v);
}

static inline double log2_float64(double v) { return log2(v); }
static inline double power_float64(double base, double exponent) { return pow(base, exponent); }
static inline double tanh_float64(double v) { return tanh(v); }

#define REAL float
#define NAME(function) function##_float32
#include __FILE__
#undef REAL
#undef NAME
#define REAL double
#define NAME(function) function##_float64
#include __FILE__

#else

#undef INTERVAL_HERE

/* y = 2 round((tanh(w) / twice + 1/2) steps) / steps - 1, or NaN if the value before rounding is
 * closer than margin to the middle between two integers. close: how many are so, for each block. */
void NAME(tanh_weight)(const REAL *restrict w, REAL *restrict y, double *restrict close,
                       int64_t columns, REAL twice, REAL steps, REAL margin, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        REAL near = 0;
        SIMD_SUM(near) for (int64_t i = start; i < start + count; i++) {
            const REAL v = (NAME(tanh)(w[i]) / twice + (REAL)0.5) * steps, code = ROUND(v);
            const int is_near = SIZE(v - code) > (REAL)0.5 - margin;
            y[i] = is_near ? NAN : 2 * (code / steps) - 1;
            near += is_near ? 1 : 0;
        }
        close[block] = near;
    }
}

/* With t = tanh(w): gx = gt (1 - t^2) + share sign(w) (1 - t^2) where |w| is the largest, with
 * gt = g 2 / twice. share is the gradient of the largest |t|, in equal parts: it is 0 if passes is.
 * sums: of gt t, and the number of the largest. */
void NAME(tanh_weight_backward)(const REAL *restrict g, const REAL *restrict w, REAL *restrict gx,
                                double *restrict sums, int64_t columns, int64_t passes, REAL twice,
                                REAL steps, REAL largest, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        REAL to_twice = 0, ties = 0;
        SIMD_SUM(to_twice, ties) for (int64_t i = start; i < start + count; i++) {
            const REAL t = NAME(tanh)(w[i]), gt = 2 * g[i] / steps * steps / twice;
            gx[i] = gt * (1 - t * t);
            to_twice += gt * t;
            ties += SIZE(w[i]) == largest ? 1 : 0;
        }
        sums[2 * block] = to_twice;
        sums[2 * block + 1] = ties;
    }
    const double ties_of_first = sums[1];
    add_blocks(sums, rows, columns, 2);
    if (!passes) return;
    const REAL t = NAME(tanh)(largest);
    const REAL share = (REAL)(-2 * sums[0] / twice / sums[1]) * (1 - t * t);
    FOR_BLOCKS {
        if ((block ? sums[2 * block + 1] : ties_of_first) == 0) continue;
        BLOCK_HERE
        SIMD for (int64_t i = start; i < start + count; i++)
            gx[i] += w[i] == largest ? share : w[i] == -largest ? -share : 0;
    }
}

/* y = sign(x) round(steps u^gamma) / steps, u = clamp(slope |x| - shift + 1/2, 0, 1). Without
 * is_signed, of x, and no sign. gamma is 1 without has_gamma. close as above, with has_gamma.
 * Both flags are constants where this is called, or the loops would have branches. */
#define INTERVAL_HERE                                                                              \
    const REAL sign = is_signed ? (REAL)((x[i] > 0) - (x[i] < 0)) : 1;                             \
    const REAL size = is_signed ? SIZE(x[i]) : x[i];                                               \
    const REAL v = slope * size - shift + (REAL)0.5, u = v < 0 ? 0 : v > 1 ? 1 : v;                \
    const REAL positive = u > 0 ? u : 1;                                                           \
    const REAL power = !has_gamma ? u : u > 0 ? NAME(power)(positive, gamma) : 0;
INLINE double NAME(interval_block)(const REAL *restrict x, REAL *restrict y, int count,
                                   int is_signed, int has_gamma, REAL slope, REAL shift, REAL gamma,
                                   REAL steps, REAL margin) {
    REAL near = 0;
    SIMD_SUM(near) for (int i = 0; i < count; i++) {
        INTERVAL_HERE
        const REAL w = steps * power, code = ROUND(w);
        const int is_near = has_gamma & (SIZE(w - code) > (REAL)0.5 - margin);
        y[i] = is_near ? NAN : is_signed ? sign * (code / steps) : code / steps;
        near += is_near ? 1 : 0;
    }
    return near;
}
void NAME(interval)(const REAL *restrict x, REAL *restrict y, double *restrict close,
                    int64_t columns, int64_t is_signed, int64_t has_gamma, REAL slope, REAL shift,
                    REAL gamma, REAL steps, REAL margin, int threads) {
    const int64_t rows = 1;
#define CALL(is_signed, has_gamma)                                                                 \
    NAME(interval_block)(x + start, y + start, count, is_signed, has_gamma, slope, shift, gamma,   \
                         steps, margin)
    FOR_BLOCKS {
        BLOCK_HERE
        close[block] = has_gamma ? (is_signed ? CALL(1, 1) : CALL(0, 1))
                                 : (is_signed ? CALL(1, 0) : CALL(0, 0));
    }
#undef CALL
}

/* With u, v as above and gs = g sign(x): gx = gv slope sign(x) where gv = gs d(u^gamma)/du inside.
 * sums: gv, gv (|x| - centre), gs u^gamma ln u. */
INLINE void NAME(interval_block_backward)(const REAL *restrict g, const REAL *restrict x,
                                          REAL *restrict gx, double *restrict sums, int count,
                                          int is_signed, int has_gamma, REAL slope, REAL shift,
                                          REAL centre, REAL gamma, REAL steps) {
    REAL to_shift = 0, to_slope = 0, to_gamma = 0;
    SIMD_SUM(to_shift, to_slope, to_gamma) for (int i = 0; i < count; i++) {
        INTERVAL_HERE
        const REAL gs = sign * g[i] / steps * steps;
        const REAL gv = u == v ? (has_gamma ? gs * (gamma * power / positive) : gs) : 0;
        gx[i] = gv * slope * sign;
        to_shift += gv;
        to_slope += gv * (size - centre);
        if (has_gamma)
            to_gamma += gs * power * (NAME(log2)(positive) * (REAL)0.69314718055994530942);
    }
    sums[0] = to_shift;
    sums[1] = to_slope;
    sums[2] = to_gamma;
}
void NAME(interval_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                             double *restrict sums, int64_t columns, int64_t is_signed,
                             int64_t has_gamma, REAL slope, REAL shift, REAL centre, REAL gamma,
                             REAL steps, int threads) {
    const int64_t rows = 1;
#define CALL(is_signed, has_gamma)                                                                 \
    NAME(interval_block_backward)(g + start, x + start, gx + start, sums + 3 * block, count,       \
                                  is_signed, has_gamma, slope, shift, centre, gamma, steps)
    FOR_BLOCKS {
        BLOCK_HERE
        if (has_gamma && is_signed)
            CALL(1, 1);
        else if (has_gamma)
            CALL(0, 1);
        else if (is_signed)
            CALL(1, 0);
        else
            CALL(0, 0);
    }
#undef CALL
    add_blocks(sums, rows, columns, 3);
}

/* y = low + delta (i + (x >= middle)), i = clamp(floor((x - low) / delta)), middle of cell i */
void NAME(soft_uniform)(const REAL *restrict x, REAL *restrict y, int64_t columns, REAL low,
                        REAL delta, REAL cells, int threads) {
    const int64_t rows = 1;
    FOR_BLOCKS {
        BLOCK_HERE
        SIMD for (int64_t j = start; j < start + count; j++) {
            REAL i = FLOOR((x[j] - low) / delta);
            i = i < 0 ? 0 : i > cells - 1 ? cells - 1 : i;
            const REAL middle = low + (i + (REAL)0.5) * delta;
            y[j] = low + delta * (i + (x[j] >= middle ? 1 : 0));
        }
    }
}

/* With u = (x - low) / delta, r = u - i - 1/2 and t = tanh(steepness r), of the soft value
 * low + delta (i + (scale t + 1) / 2): gx, and as sums the gradients of low, high, delta, alpha. */
void NAME(soft_uniform_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                                 double *restrict sums, int64_t columns, REAL low, REAL high,
                                 REAL delta, REAL cells, REAL steepness, REAL scale,
                                 REAL scale_by_alpha, REAL steepness_by_alpha, int threads) {
    const int64_t rows = 1;
    const REAL slope = (REAL)0.5 * scale * steepness, half = (REAL)0.5 * scale;
    const REAL bend = (REAL)0.5 * delta * scale * steepness_by_alpha;
    const REAL grow = (REAL)0.5 * delta * scale_by_alpha;
    FOR_BLOCKS {
        BLOCK_HERE
        REAL to_low = 0, to_high = 0, to_delta = 0, to_alpha = 0;
        SIMD_SUM(to_low, to_high, to_delta, to_alpha)
        for (int64_t j = start; j < start + count; j++) {
            const REAL u = (x[j] - low) / delta;
            REAL i = FLOOR(u);
            i = i < 0 ? 0 : i > cells - 1 ? cells - 1 : i;
            const REAL r = u - (i + (REAL)0.5), t = NAME(tanh)(steepness * r), d = 1 - t * t;
            const int below = x[j] < low, above = x[j] > high;
            const REAL inside = below | above ? 0 : g[j], gd = inside * d;
            gx[j] = slope * gd;
            to_low += (below ? g[j] : inside) - slope * gd;
            to_high += above ? g[j] : 0;
            to_delta += inside * (i + (REAL)0.5 + half * t) - slope * gd * u;
            to_alpha += grow * inside * t + bend * gd * r;
        }
        sums[4 * block] = to_low;
        sums[4 * block + 1] = to_high;
        sums[4 * block + 2] = to_delta;
        sums[4 * block + 3] = to_alpha;
    }
    add_blocks(sums, rows, columns, 4);
}

/* y = scale sign(v) + offset, v = (x - centre) / deviation; 1, 0, 0 and 1 without a pointer */
#define TWO_LEVELS_HERE                                                                            \
    const REAL a = scale ? scale[row] : 1, b = offset ? offset[row] : 0;                           \
    const REAL m = centre ? centre[row] : 0, d = deviation ? deviation[row] : 1;
void NAME(two_levels)(const REAL *restrict x, REAL *restrict y, const REAL *restrict scale,
                      const REAL *restrict offset, const REAL *restrict centre,
                      const REAL *restrict deviation, int64_t rows, int64_t columns, int threads) {
    FOR_BLOCKS {
        BLOCK_HERE
        TWO_LEVELS_HERE
        const REAL upper = a + b, lower = -a + b, sign = d < 0 ? -1 : 1;
        SIMD for (int64_t i = start; i < start + count; i++)
            y[i] = (x[i] - m) * sign >= 0 ? upper : lower;
    }
}

/* gx = g scale slope(v) / deviation. The slope is 1 up to |v| = reach and 0 beyond (0), 2 - 2|v| up
 * to 1 and 0 beyond (1), or max(reach, 1) (1 - tanh(reach v)^2) (2). sums: gx v, gx, g sign(v), g. */
INLINE void NAME(two_levels_block)(const REAL *restrict g, const REAL *restrict x,
                                   REAL *restrict gx, double *restrict sums, int count, int slope,
                                   REAL a, REAL m, REAL d, REAL reach) {
    REAL to_deviation = 0, to_centre = 0, to_scale = 0, to_offset = 0;
    const REAL steep = reach > 1 ? reach : 1, sign = d < 0 ? -1 : 1, inverse = 1 / d;
    SIMD_SUM(to_deviation, to_centre, to_scale, to_offset) for (int i = 0; i < count; i++) {
        const REAL distance = x[i] - m; /* a window ends where the quotient does */
        const REAL v = slope == 0 ? distance / d : distance * inverse, size = SIZE(v);
        REAL h;
        if (slope == 2) {
            const REAL t = NAME(tanh)(reach * v);
            h = steep * (1 - t * t);
        } else if (slope == 1)
            h = size <= 1 ? 2 - 2 * size : 0;
        else
            h = size <= reach ? 1 : 0;
        gx[i] = g[i] * (a * inverse) * h;
        to_deviation += h != 0 ? gx[i] * v : 0;
        to_centre += gx[i];
        to_scale += distance * sign >= 0 ? g[i] : -g[i];
        to_offset += g[i];
    }
    sums[0] = to_deviation;
    sums[1] = to_centre;
    sums[2] = to_scale;
    sums[3] = to_offset;
}
void NAME(two_levels_backward)(const REAL *restrict g, const REAL *restrict x, REAL *restrict gx,
                               const REAL *restrict scale, const REAL *restrict offset,
                               const REAL *restrict centre, const REAL *restrict deviation,
                               double *restrict sums, int64_t rows, int64_t columns, int64_t slope,
                               REAL reach, int threads) {
#define CALL(slope)                                                                                \
    NAME(two_levels_block)(g + start, x + start, gx + start, sums + 4 * block, count, slope, a, m, \
                           d, reach)
    FOR_BLOCKS {
        BLOCK_HERE
        TWO_LEVELS_HERE
        (void)b;
        if (slope == 2)
            CALL(2);
        else if (slope == 1)
            CALL(1);
        else
            CALL(0);
    }
#undef CALL
    add_blocks(sums, rows, columns, 4);
}
#undef TWO_LEVELS_HERE

#endif
