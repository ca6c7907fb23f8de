/* Convolutions over the columns of every row alone, for inference: kernels of one row, by their
   definition. Numbers are float32; strides count floats. */

#include "convolution.h"

/* What is computed at once: vectors of outputs, for some neighbouring pixels. The sums take most
   registers, and a kernel's numbers are read once for all of these pixels. */
enum { VECTORS = 3, PIXELS = REGISTERS >= 32 ? 8 : 4, MOST = 8 };

KERNEL int64_t stemsplit_rows_size(void) { return sizeof(Rows); }

/* Compute vectors from `at` of the pixels from `column`. Both numbers are constants where this is
   inlined. Taps are those that meet a pixel of the row: of several pixels, all do. */
INLINE void convolve(const Rows *p, i64 row, i64 column, i64 at, i64 first, i64 last,
                     const int vectors, const int pixels) {
    some sums[MOST][VECTORS];
    UNROLL for (int v = 0; v < vectors; v++)
        UNROLL for (int n = 0; n < pixels; n++)
            sums[n][v] = ((const some *)(p->bias + at))[v];
    for (i64 tap = first; tap < last; tap++) {
        const float *kernel = p->kernels + tap * p->channels * p->wide + at;
        for (const RowSource *s = p->source; s < p->source + p->sources; s++) {
            const float *in = s->pixels + row * s->row + (column + tap - p->pad) * s->pixel;
            for (i64 c = 0; c < s->channels; c++, kernel += p->wide) {
                UNROLL for (int v = 0; v < vectors; v++) {
                    const some taps = ((const some *)kernel)[v];
                    UNROLL for (int n = 0; n < pixels; n++)
                        sums[n][v] += in[n * s->pixel + c] * taps;
                }
            }
        }
    }
    float *out = p->out + row * p->out_row + column * p->wide + at;
    UNROLL for (int n = 0; n < pixels; n++)
        UNROLL for (int v = 0; v < vectors; v++)
            ((some *)(out + n * p->wide))[v] = bend(sums[n][v], p->slope);
}

/* Compute rows [top, bottom). */
KERNEL void stemsplit_convolve_rows(const Rows *p, int64_t top, int64_t bottom) {
    const i64 columns = p->columns + 2 * p->pad - p->taps + 1;
    for (i64 row = top; row < bottom; row++)
        for (i64 at = 0; at < p->wide;) {
            const int vectors = p->wide - at >= VECTORS * WIDE ? VECTORS : 1;
            for (i64 column = 0; column < columns;) {
                /* The row begins at tap `first` and ends before tap `last`. */
                i64 first = p->pad - column, last = p->columns + p->pad - column;
                const int is_inside = first <= 0 && last >= p->taps + PIXELS - 1;
                const int pixels = is_inside && column + PIXELS <= columns ? PIXELS : 1;
                first = first > 0 ? first : 0;
                last = last < p->taps ? last : p->taps;
#define CONVOLVE(V, N) convolve(p, row, column, at, first, last, V, N)
                if (vectors == VECTORS) pixels == 1 ? CONVOLVE(VECTORS, 1) : CONVOLVE(VECTORS, PIXELS);
                else pixels == 1 ? CONVOLVE(1, 1) : CONVOLVE(1, PIXELS);
                column += pixels;
            }
            at += vectors * WIDE;
        }
}
