/* Convolutions that go through an image patch by patch, for inference: transposed ones whose kernel
   is as large as their stride, where every pixel becomes a patch of its own and no two of them
   meet, and ordinary ones whose kernel is as tall as their stride, where no row is read twice.
   Either is a product of small matrices. Numbers are float32; strides count floats. */

#include "convolution.h"

/* What is computed at once: vectors of outputs, for some neighbouring pixels. */
enum { VECTORS = 6, PIXELS = 4 };

KERNEL int32_t stemsplit_patch_lanes(void) { return WIDE; }

KERNEL int64_t stemsplit_patches_size(void) { return sizeof(Patches); }

/* Add products to what is there. Both numbers are constants where this is inlined. */
INLINE void add(const Patches *p, const float *in, const float *kernel, const float *before,
                const i64 before_step, float *out, const int vectors, const int pixels) {
    some sums[PIXELS][VECTORS];
    UNROLL for (int v = 0; v < vectors; v++)
        UNROLL for (int n = 0; n < pixels; n++)
            sums[n][v] = ((const some *)(before + n * before_step))[v];
    for (i64 k = 0; k < p->sums; k++, kernel += p->row)
        UNROLL for (int v = 0; v < vectors; v++) {
            const some taps = ((const some *)kernel)[v];
            UNROLL for (int n = 0; n < pixels; n++) sums[n][v] += in[n * p->in_step + k] * taps;
        }
    UNROLL for (int v = 0; v < vectors; v++)
        UNROLL for (int n = 0; n < pixels; n++) ((some *)(out + n * p->row))[v] = sums[n][v];
}

/* Add one row's products to the bias, or to what is there. */
static void add_row(const Patches *p, const float *in, const float *kernel, float *out,
                    i64 columns, int is_first) {
    const i64 step = is_first ? 0 : p->row;
    for (i64 at = 0; at < p->row;) {
        const i64 left = (p->row - at) / WIDE;
        const int vectors = left % 3 ? 1 : left >= VECTORS && left % VECTORS == 0 ? VECTORS : 3;
        const int most = vectors == VECTORS ? 2 : PIXELS;
        for (i64 column = 0; column < columns;) {
            const int pixels = columns - column >= most ? most : 1;
            const float *from = in + column * p->in_step;
            float *to = out + column * p->row + at;
            const float *before = is_first ? p->bias + at : to;
#define ADD(V, N) add(p, from, kernel + at, before, step, to, V, N)
            if (vectors == VECTORS) pixels == 2 ? ADD(VECTORS, 2) : ADD(VECTORS, 1);
            else if (vectors == 3) pixels == PIXELS ? ADD(3, PIXELS) : ADD(3, 1);
            else pixels == PIXELS ? ADD(1, PIXELS) : ADD(1, 1);
            column += pixels;
        }
        at += vectors * WIDE;
    }
}

/* Compute what rows of patches [top, bottom) give, of the products [left, right) of each row. */
KERNEL void stemsplit_write_patches(const Patches *p, int64_t top, int64_t bottom, int64_t left,
                                    int64_t right) {
    for (i64 row = top; row < bottom; row++)
        for (i64 k = 0; k < p->in_rows * p->out_rows; k++) {
            const i64 from = row * p->in_rows + (p->in_rows > 1 ? k : 0);
            const i64 to = row * p->out_rows + (p->out_rows > 1 ? k : 0);
            float *out = p->out + to * p->out_row;
            add_row(p, p->in + from * p->in_row + left * p->in_step,
                    p->kernels + k * p->sums * p->row, out, right - left,
                    k == 0 || p->out_rows > 1);
            if (p->slope != 1 && (k + 1 == p->in_rows || p->out_rows > 1))
                for (i64 at = 0; at < (right - left) * p->row; at += WIDE)
                    *(some *)(out + at) = bend(*(some *)(out + at), p->slope);
        }
}
