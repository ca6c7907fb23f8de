/* Matrices that every row of an image is multiplied with, for inference. Pixels lie in memory one
   after the other, each with all of its channels, so that a row is itself a matrix laid out as a
   product wants it: nothing is copied or turned. Numbers are float32. */

#include "convolution.h"

/* What is computed at once: outputs, each for some vectors of channels. */
enum { VECTORS = 3, OUTS = REGISTERS < 32 ? 4 : 8 };

KERNEL int64_t stemsplit_matrix_size(void) { return sizeof(Matrix); }

/* Give a stem its share of what came out of a part. */
INLINE void give(const Matrix *p, i64 stem, i64 part, some value, float *out) {
    if (p->shares) value *= p->shares[stem * p->parts + part];
    if (part) value += *(some *)out;
    *(some *)out = value;
}

/* Both numbers are constants where this is inlined. */
INLINE void multiply(const Matrix *p, i64 row, i64 first, i64 part, i64 channel, const int outs,
                     const int vectors) {
    const i64 step = p->parts * p->sums, place = first * p->parts + part;
    const float *in = p->in + row * p->in_row + channel, *weight = p->weight + place * p->sums;
    some sums[OUTS][VECTORS];
    UNROLL for (int n = 0; n < outs; n++)
        UNROLL for (int v = 0; v < vectors; v++) sums[n][v] = (some){0};
    for (i64 k = 0; k < p->sums; k++) {
        const some *pixel = (const some *)(in + k * p->channels);
        some values[VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) values[v] = pixel[v];
        UNROLL for (int n = 0; n < outs; n++) {
            const float factor = weight[n * step + k];
            UNROLL for (int v = 0; v < vectors; v++) sums[n][v] += values[v] * factor;
        }
    }
    const some *scale = (const some *)(p->scale + channel);
    const some *shift = (const some *)(p->shift + channel);
    UNROLL for (int n = 0; n < outs; n++) {
        const float bias = p->bias ? p->bias[place + n * p->parts] : 0;
        UNROLL for (int v = 0; v < vectors; v++) {
            const some value = bend((sums[n][v] + bias) * scale[v] + shift[v], p->slope);
            float *out = p->out + (row * p->outs + first + n) * p->channels + channel + v * WIDE;
            for (i64 stem = 0; stem < p->stems; stem++)
                give(p, stem, part, value, out + stem * p->rows * p->outs * p->channels);
        }
    }
}

/* Compute outputs [first, last) of all rows. A few outputs' weights stay in the nearest cache while
   they meet every row. */
KERNEL void stemsplit_multiply_rows(const Matrix *p, int64_t first, int64_t last) {
    for (i64 at = first; at < last;) {
        const int outs = last - at >= OUTS ? OUTS : 1;
        for (i64 part = 0; part < p->parts; part++)
            for (i64 row = 0; row < p->rows; row++)
                for (i64 channel = 0; channel < p->channels;) {
                    const int vectors = p->channels - channel >= VECTORS * WIDE ? VECTORS : 1;
#define MULTIPLY(N, V) multiply(p, row, at, part, channel, N, V)
                    if (vectors == VECTORS)
                        outs == 1 ? MULTIPLY(1, VECTORS) : MULTIPLY(OUTS, VECTORS);
                    else outs == 1 ? MULTIPLY(1, 1) : MULTIPLY(OUTS, 1);
                    channel += vectors * WIDE;
                }
        at += outs;
    }
}
