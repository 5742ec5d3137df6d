/* 2^v for -126 <= v <= 128, within 2e-7, and infinite at 128.
 *
 * 2^v is 2^n 2^f with |f| <= 1/2, and 2^f is computed by Taylor's polynomial.
 */

#include <stdint.h>

static inline float exp2_float32(float v) {
    const float n = (v + 12582912.0f) - 12582912.0f, f = v - n; /* n: nearest integer */
    float p = 1.5403530e-4f;
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    const union {
        int32_t bits;
        float value;
    } power = {((int32_t)n + 127) * (1 << 23)};
    return p * power.value;
}
