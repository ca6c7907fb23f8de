/* Convolutions of images of one channel into a few, for inference.

   A vector that held a pixel's channels would be all but empty: columns of a row fill it. The
   loops are simple enough for a compiler to do so itself. Numbers are float32. */

#include "convolution.h"

typedef struct {
    i64 rows, columns, outs, out_rows, out_columns;
    i64 tall, wide, dilation; /* of the kernels */
    i64 top, left;            /* zeros around an image */
    const float *in;          /* (images, rows, columns) */
    const float *kernels;     /* (outs, tall, wide) */
    const float *bias;        /* (outs) */
    float *out;               /* (images, outs, out_rows, out_columns) */
} Planes;

static void add_row(float *restrict out, const float *restrict in, float factor, i64 count) {
    for (i64 i = 0; i < count; i++) out[i] += factor * in[i];
}

KERNEL int64_t stemsplit_planes_size(void) { return sizeof(Planes); }

/* Compute rows [first, last) of the output's images times outs times out_rows. */
KERNEL void stemsplit_convolve_planes(const Planes *p, int64_t first, int64_t last) {
    const i64 taps = p->tall * p->wide;
    for (i64 place = first; place < last; place++) {
        const i64 row = place % p->out_rows, plane = place / p->out_rows;
        const float *image = p->in + plane / p->outs * p->rows * p->columns;
        const float *kernel = p->kernels + plane % p->outs * taps;
        float *out = p->out + place * p->out_columns;
        for (i64 i = 0; i < p->out_columns; i++) out[i] = p->bias[plane % p->outs];
        for (i64 k = 0; k < taps; k++) {
            const i64 down = row + k / p->wide * p->dilation - p->top;
            const i64 across = k % p->wide * p->dilation - p->left;
            if (down < 0 || down >= p->rows) continue;
            const i64 begin = across < 0 ? -across : 0;
            const i64 room = p->columns - across;
            const i64 end = room < p->out_columns ? room : p->out_columns;
            const float *in = image + down * p->columns + begin + across;
            add_row(out + begin, in, kernel[k], end - begin);
        }
    }
}
