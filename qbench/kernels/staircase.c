/* The staircase of sigmoids, read from a table: qbench/staircase.py builds it and says what it is.
 *
 * A row of the table holds four floats. In a dense table they are a cubic in the position within the
 * cell; in a sparse one the height below the one step near the cell, that step's threshold and its
 * height. The first and last rows are constant, so that what lies outside has no gradient.
 *
 * The work is cut into blocks. A block's rows are found first and read afterwards, which is faster
 * than both in one loop. Sums are formed by block and added up in order by the caller, so that their
 * bits do not depend on the number of threads.
 */

#include <stdint.h>

#define BLOCK 256
#define FOR_BLOCKS                                                                                 \
    _Pragma("omp parallel for schedule(static) num_threads(threads)") for (                        \
        int64_t start = 0; start < size; start += BLOCK)

typedef struct {
    float slope, shift; /* position = x * slope + shift, in rows */
    const float *rows;
    int32_t last; /* the last row */
} Table;

/* NaN passes; infinities are clamped. */
static inline float clamp(float v, float low, float high) {
    v = v < low ? low : v;
    return v > high ? high : v;
}

/* 1 / (1 + e^-z), within 2e-7; the exponential is 2^n e^r with |r| <= ln(2) / 2. */
static inline float sigmoid(float z) {
    z = clamp(-z, -40.0f, 40.0f);
    const float n = (1.44269504f * z + 12582912.0f) - 12582912.0f; /* nearest integer */
    const float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    union {
        int32_t bits;
        float value;
    } power = {((int32_t)n + 127) * (1 << 23)};
    return 1.0f / (1.0f + e * power.value);
}

/* Where each x falls: the offset of its row, and its position within the cell. */
static inline int locate(const Table *table, const float *restrict x, int64_t start, int64_t size,
                         int32_t *restrict offsets, float *restrict t) {
    const int count = size - start < BLOCK ? (int)(size - start) : BLOCK;
    const float slope = table->slope, shift = table->shift;
    const int32_t last = table->last;
#pragma omp simd
    for (int i = 0; i < count; i++) {
        const float position = clamp(x[start + i] * slope + shift, 0.0f, (float)last + 0.5f);
        int32_t row = (int32_t)position; /* that of NaN may be any: hence the clamp */
        row = row < 0 ? 0 : row;
        row = row > last ? last : row;
        offsets[i] = 4 * row;
        t[i] = position - (float)row;
    }
    return count;
}

/* y = alpha * P(t) */
void dense_forward(const float *restrict x, float *restrict y, int64_t size, Table table,
                   float alpha, int threads) {
    const float *restrict rows = table.rows;
    FOR_BLOCKS {
        int32_t offsets[BLOCK];
        float ts[BLOCK];
        const int count = locate(&table, x, start, size, offsets, ts);
#pragma omp simd
        for (int i = 0; i < count; i++) {
            const int32_t k = offsets[i];
            const float t = ts[i];
            y[start + i] =
                alpha * (rows[k] + t * (rows[k + 1] + t * (rows[k + 2] + t * rows[k + 3])));
        }
    }
}

/* gx = g alpha P'(t) slope; sums, for every block: of g P(t), and of g alpha P'(t) x */
void dense_backward(const float *restrict g, const float *restrict x, float *restrict gx,
                    double *restrict sums, int64_t size, Table table, float alpha, int threads) {
    const float *restrict rows = table.rows;
    FOR_BLOCKS {
        int32_t offsets[BLOCK];
        float ts[BLOCK];
        float to_alpha = 0, to_beta = 0;
        const int count = locate(&table, x, start, size, offsets, ts);
#pragma omp simd reduction(+ : to_alpha, to_beta)
        for (int i = 0; i < count; i++) {
            const int32_t k = offsets[i];
            const float t = ts[i], gi = g[start + i];
            const float c1 = rows[k + 1], c2 = rows[k + 2], c3 = rows[k + 3];
            const float d = gi * alpha * (c1 + t * (2 * c2 + t * 3 * c3));
            gx[start + i] = d * table.slope;
            to_alpha += gi * (rows[k] + t * (c1 + t * (c2 + t * c3)));
            to_beta += d * x[start + i];
        }
        sums[2 * (start / BLOCK)] = to_alpha;
        sums[2 * (start / BLOCK) + 1] = to_beta;
    }
}

/* y = alpha * (height + step * sigmoid(T (beta x - threshold))) */
void sparse_forward(const float *restrict x, float *restrict y, int64_t size, Table table,
                    float alpha, float beta, float temperature, int threads) {
    const float *restrict rows = table.rows;
    FOR_BLOCKS {
        int32_t offsets[BLOCK];
        float ts[BLOCK];
        const int count = locate(&table, x, start, size, offsets, ts);
#pragma omp simd
        for (int i = 0; i < count; i++) {
            const int32_t k = offsets[i];
            const float h = sigmoid(temperature * (x[start + i] * beta - rows[k + 1]));
            y[start + i] = alpha * (rows[k] + rows[k + 2] * h);
        }
    }
}

/* gx = g alpha beta F'(u); sums, for every block: of g F(u), and of g alpha F'(u) x */
void sparse_backward(const float *restrict g, const float *restrict x, float *restrict gx,
                     double *restrict sums, int64_t size, Table table, float alpha, float beta,
                     float temperature, int threads) {
    const float *restrict rows = table.rows;
    FOR_BLOCKS {
        int32_t offsets[BLOCK];
        float ts[BLOCK];
        float to_alpha = 0, to_beta = 0;
        const int count = locate(&table, x, start, size, offsets, ts);
#pragma omp simd
        for (int i = 0; i < count; i++)
            ts[i] = sigmoid(temperature * (x[start + i] * beta - rows[offsets[i] + 1]));
#pragma omp simd reduction(+ : to_alpha, to_beta)
        for (int i = 0; i < count; i++) {
            const int32_t k = offsets[i];
            const float gi = g[start + i], h = ts[i];
            const float step = rows[k + 2] * h;
            const float d = gi * alpha * temperature * step * (1 - h);
            gx[start + i] = d * beta;
            to_alpha += gi * (rows[k] + step);
            to_beta += d * x[start + i];
        }
        sums[2 * (start / BLOCK)] = to_alpha;
        sums[2 * (start / BLOCK) + 1] = to_beta;
    }
}
