/* The staircase of sigmoids, read from a table: qbench/quant/staircase/staircase.py builds it and says what it is.
 *
 * A row of a dense table holds the four coefficients of a cubic in the position within the cell; the
 * first and last rows are constant, so that what lies outside has no gradient. A row of a sparse one
 * holds the threshold of the one step near the cell, and the height below that step.
 *
 * The work is cut into blocks. A block's rows are found first and read afterwards, which is faster
 * than both in one loop. Sums are formed by block and added up in order by the caller, so that their
 * bits do not depend on the number of threads.
 */

#include <stdint.h>
#include <string.h>

#include "exp2.h"

#define BLOCK 256
#define LOG2_E 1.44269504f
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

/* 1 / (1 + 2^z), within 2e-7, and 0 above z = 60. */
static inline float falling_sigmoid(float z) {
    z = z < -60.0f ? -60.0f : z;
    z = z > 60.0f ? 128.0f : z; /* 2^z is infinite then */
    return 1.0f / (1.0f + exp2_float32(z));
}

/* Where each x falls: the offset of its row, and its position within the cell. */
static inline int locate(const Table *table, int width, const float *restrict x, int64_t start,
                         int64_t size, int32_t *restrict offsets, float *restrict t) {
    const int count = size - start < BLOCK ? (int)(size - start) : BLOCK;
    const float slope = table->slope, shift = table->shift;
    const int32_t last = table->last;
#pragma omp simd
    for (int i = 0; i < count; i++) {
        const float position = clamp(x[start + i] * slope + shift, 0.0f, (float)last + 0.5f);
        int32_t row = (int32_t)position; /* that of NaN may be any: hence the clamp */
        row = row < 0 ? 0 : row;
        row = row > last ? last : row;
        offsets[i] = width * row;
        t[i] = position - (float)row;
    }
    return count;
}

/* Rows of four floats, one after the other: to copy a row is faster than to gather its floats. */
static inline void copy_rows(const float *restrict rows, const int32_t *restrict offsets, int count,
                             float *restrict c) {
    for (int i = 0; i < count; i++) memcpy(c + 4 * i, rows + offsets[i], 4 * sizeof(float));
}

/* y = alpha * P(t) */
void dense_forward(const float *restrict x, float *restrict y, int64_t size, Table table,
                   float alpha, int threads) {
    const float *restrict rows = table.rows;
    FOR_BLOCKS {
        int32_t offsets[BLOCK];
        float ts[BLOCK];
        float c[4 * BLOCK];
        const int count = locate(&table, 4, x, start, size, offsets, ts);
        copy_rows(rows, offsets, count, c);
#pragma omp simd
        for (int i = 0; i < count; i++) {
            const float t = ts[i];
            y[start + i] =
                alpha * (c[4 * i] + t * (c[4 * i + 1] + t * (c[4 * i + 2] + t * c[4 * i + 3])));
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
        float c[4 * BLOCK];
        const int count = locate(&table, 4, x, start, size, offsets, ts);
        copy_rows(rows, offsets, count, c);
#pragma omp simd reduction(+ : to_alpha, to_beta)
        for (int i = 0; i < count; i++) {
            const float t = ts[i], gi = g[start + i];
            const float c0 = c[4 * i], c1 = c[4 * i + 1], c2 = c[4 * i + 2], c3 = c[4 * i + 3];
            const float d = gi * alpha * (c1 + t * (2 * c2 + t * 3 * c3));
            gx[start + i] = d * table.slope;
            to_alpha += gi * (c0 + t * (c1 + t * (c2 + t * c3)));
            to_beta += d * x[start + i];
        }
        sums[2 * (start / BLOCK)] = to_alpha;
        sums[2 * (start / BLOCK) + 1] = to_beta;
    }
}

/* y = alpha * (height + scale * sigmoid(T (beta x - threshold))) */
void sparse_forward(const float *restrict x, float *restrict y, int64_t size, Table table,
                    float alpha, float beta, float temperature, float scale, int threads) {
    const float *restrict rows = table.rows;
    const float fall = -LOG2_E * temperature;
    FOR_BLOCKS {
        int32_t offsets[BLOCK];
        float ts[BLOCK];
        const int count = locate(&table, 2, x, start, size, offsets, ts);
#pragma omp simd
        for (int i = 0; i < count; i++) {
            const int32_t k = offsets[i];
            const float h = falling_sigmoid(fall * (x[start + i] * beta - rows[k]));
            y[start + i] = alpha * (rows[k + 1] + scale * h);
        }
    }
}

/* gx = g alpha beta F'(u); sums, for every block: of g F(u), and of g alpha F'(u) x */
void sparse_backward(const float *restrict g, const float *restrict x, float *restrict gx,
                     double *restrict sums, int64_t size, Table table, float alpha, float beta,
                     float temperature, float scale, int threads) {
    const float *restrict rows = table.rows;
    const float fall = -LOG2_E * temperature, steepness = alpha * temperature * scale;
    FOR_BLOCKS {
        int32_t offsets[BLOCK];
        float ts[BLOCK];
        float to_alpha = 0, to_beta = 0;
        const int count = locate(&table, 2, x, start, size, offsets, ts);
#pragma omp simd
        for (int i = 0; i < count; i++)
            ts[i] = falling_sigmoid(fall * (x[start + i] * beta - rows[offsets[i]]));
#pragma omp simd reduction(+ : to_alpha, to_beta)
        for (int i = 0; i < count; i++) {
            const float gi = g[start + i], h = ts[i];
            const float d = gi * steepness * h * (1 - h);
            gx[start + i] = d * beta;
            to_alpha += gi * (rows[offsets[i] + 1] + scale * h);
            to_beta += d * x[start + i];
        }
        sums[2 * (start / BLOCK)] = to_alpha;
        sums[2 * (start / BLOCK) + 1] = to_beta;
    }
}
