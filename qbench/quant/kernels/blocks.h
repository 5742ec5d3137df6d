/* How loops over the elements of a tensor are cut into blocks, and how they form sums.
 *
 * A source file includes itself twice, once for each type of its elements:
 *
 *     #ifndef REAL
 *     #include "blocks.h"
 *     #define REAL float
 *     #define NAME(function) function##_float32
 *     #include __FILE__
 *     #undef REAL
 *     #undef NAME
 *     #define REAL double
 *     #define NAME(function) function##_float64
 *     #include __FILE__
 *     #else
 *     ...
 *     #endif
 *
 * A tensor has rows of columns; one row, if all elements share their numbers. No block reaches into
 * another row. A loop has to be a vector loop: it has no branches, calls nothing but the functions
 * here, and selects with ?: what both arms have computed. A sum is formed by block and the blocks
 * are added in order, so that its bits do not depend on the number of threads.
 */

#include <math.h>
#include <stdint.h>

#define BLOCK 1024
#define SIMD _Pragma("omp simd")
#define INLINE static inline __attribute__((always_inline)) /* its constant arguments stay so */
#define PRAGMA(text) _Pragma(#text)
#define SIMD_SUM(...) PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#define BLOCKS(columns) (((columns) + BLOCK - 1) / BLOCK) /* in a row */

/* Run what follows for every block, which has `count` elements from `start` on and is in `row`. */
#define FOR_BLOCKS                                                                                 \
    PRAGMA(omp parallel for schedule(static) num_threads(threads) if (rows * columns > 65536))     \
    for (int64_t block = 0; block < rows * BLOCKS(columns); block++)
#define BLOCK_HERE                                                                                 \
    const int64_t row = block / BLOCKS(columns), first = block % BLOCKS(columns) * BLOCK;          \
    const int64_t start = row * columns + first;                                                   \
    const int count = columns - first < BLOCK ? (int)(columns - first) : BLOCK;

/* Functions of either type. */
#define ROUND(v) _Generic((v), float: rintf, double: rint)(v)
#define FLOOR(v) _Generic((v), float: floorf, double: floor)(v)
#define SIZE(v) _Generic((v), float: fabsf, double: fabs)(v)

/* Add the sums of the blocks of every row, (rows, blocks, width), into the first of them. */
static inline void add_blocks(double *sums, int64_t rows, int64_t columns, int width) {
    const int64_t blocks = BLOCKS(columns);
    for (int64_t row = 0; row < rows; row++)
        for (int k = 0; k < width; k++) {
            double total = 0;
            for (int64_t b = 0; b < blocks; b++) total += sums[(row * blocks + b) * width + k];
            sums[row * width + k] = total;
        }
}
