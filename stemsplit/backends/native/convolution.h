/* What a convolution is told; library.py lays the same out. Numbers are float32; sizes, strides and
   offsets count floats. */

#ifndef STEMSPLIT_CONVOLUTION_H
#define STEMSPLIT_CONVOLUTION_H

#include <stdint.h>

#if !defined(LANES) || !defined(REGISTERS)
#error "say how many floats a vector holds, and how many there are: -DLANES=8 -DREGISTERS=16"
#endif

typedef int64_t i64;
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define KERNEL __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 36")

/* Vectors of few numbers, so that few channels fill them: what is computed with these is computed
   alike with long vectors and with short ones. */
enum { WIDE = LANES < 8 ? LANES : 8 };
typedef float some __attribute__((vector_size(WIDE * 4), aligned(4), may_alias));
typedef int32_t some_bits __attribute__((vector_size(WIDE * 4), aligned(4), may_alias));

/* Multiply what is below zero. Infinity times zero is no zero, and what is no number stays so. */
INLINE some bend(some values, float slope) {
    some below = values * slope;
    if (slope == 0) below = (some){0};
    const some_bits is_below = values < 0;
    return (some)(((some_bits)below & is_below) | ((some_bits)values & ~is_below));
}

/* Outputs that are computed as one along an axis, of three taps, and the inputs that they read. */
enum { TILE = 4, TAPS = 3, SIDE = TILE + TAPS - 1 };

/* Along an axis: B^T d, what stands for a tile's inputs, and A^T m, what the products stand for. */
#define TRANSFORMS(vector)                                                                      \
    INLINE void spread(vector to[SIDE], vector d0, vector d1, vector d2, vector d3, vector d4,  \
                       vector d5) {                                                             \
        vector even = d4 - 4 * d2, odd = d3 - 4 * d1, far = d4 - d2, twice = 2 * (d3 - d1);     \
        to[0] = 4 * d0 - 5 * d2 + d4;                                                           \
        to[1] = even + odd, to[2] = even - odd;                                                 \
        to[3] = far + twice, to[4] = far - twice;                                               \
        to[5] = 4 * d1 - 5 * d3 + d5;                                                           \
    }                                                                                           \
    INLINE void collect(vector to[TILE], vector m0, vector m1, vector m2, vector m3, vector m4, \
                        vector m5) {                                                            \
        vector even = m1 + m2, odd = m1 - m2, far_even = m3 + m4, far_odd = m3 - m4;            \
        to[0] = m0 + even + far_even, to[1] = odd + 2 * far_odd;                                \
        to[2] = even + 4 * far_even, to[3] = odd + 8 * far_odd + m5;                            \
    }

/* A grid of an input's pixels. A kernel on it has three taps per axis, or two where `tall` (rows)
   or `wide` (columns) is 0: then the last of the 6 points along that axis is not needed. */
typedef struct {
    const float *pixels;
    i64 channels, image, row, pixel; /* strides */
    i64 first_row, first_column;     /* what the first tap of the first output reads; may be < 0 */
    i64 tall, wide;
} Source;

/* A grid of the output's pixels. */
typedef struct {
    i64 first_row, first_column, tall, wide;
} Target;

typedef struct {
    float *pixels;
    i64 image, row, pixel;
} Image;

typedef struct {
    i64 images, grid_rows, grid_columns; /* outputs on each target's grid */
    i64 left, right; /* which of the grids' columns are wanted; `left` is divisible by TILE */
    i64 classes; /* along each axis: grids that have nothing to do with each other, a pixel apart */
    i64 in_rows, in_columns, in_step;    /* of all sources; step: pixels between a grid's */
    i64 out_rows, out_columns, out_step, channels;
    i64 sources, targets;
    i64 packed; /* all targets' channels share vectors, target by target: few channels */
    i64 rectify; /* sources are read through a ReLU */
    Source *source;
    const Target *target;
    const float *kernels, *bias, *scale, *shift; /* the last three: padded to whole vectors; of
                                                    all targets where these are packed */
    Image out;
    Image plus; /* added before anything else is done, or null; not where targets are packed */
    Image bare; /* gets what comes before map and activation, or null; the same */
    i64 padded; /* whether pixels of `out` and `bare` have room for whole vectors */
    i64 affine_first; /* whether scale and shift come before the activation */
    float slope;      /* of the activation below zero: 1 is none, 0 a ReLU */
} Task;

/* A convolution that goes through an image by patches: patches.c. */
typedef struct {
    const float *in;     /* an image whose channels lie side by side */
    i64 in_row, in_step; /* between rows; between what neighbouring products read */
    i64 sums;            /* how many floats that is, side by side */
    i64 in_rows;         /* of a patch that is read */
    i64 out_rows;        /* of a patch that is written; this or the other is 1 */
    i64 row;             /* floats that come out in each of them; whole vectors */
    const float *kernels; /* (in_rows * out_rows, sums, row) */
    const float *bias;    /* (row) */
    float *out; /* an image, from what the first wanted column gives; pixels lie side by side */
    i64 out_row;
    float slope; /* of the activation below zero: 1 is none, 0 a ReLU */
} Patches;

/* A convolution over the columns of every row alone: rows.c. */
typedef struct {
    i64 taps, pad;
    i64 channels, wide, outs; /* that come in; that are computed, whole vectors; that come out */
    const float *kernels; /* (taps, channels, wide); of three taps (SIDE, channels, wide): G g */
    const float *bias;    /* (wide) */
    float slope; /* of the activation below zero: 1 is none, 0 a ReLU */
} RowLayer;

/* What it reads or writes. */
typedef struct {
    float *pixels; /* channels lie side by side */
    i64 channels, row, pixel; /* strides */
    i64 rows; /* how many there are; behind the last one stands the first again */
} RowImage;

/* A matrix that every row of an image is multiplied with: matrices.c. Where there are shares, what
   comes out of each of its parts is added up, with a share of it for every stem. */
typedef struct {
    const float *in; /* (rows, sums, channels) */
    i64 rows, in_row, sums, channels;
    i64 outs, parts;
    const float *weight;          /* (outs, parts, sums) */
    const float *bias;            /* (outs, parts), or null */
    const float *scale, *shift;   /* (channels): of the norm behind it */
    const float *shares;          /* (stems, parts), or null: one part, one stem, as it is */
    i64 stems;
    float *out; /* (stems, rows, outs, channels) */
    float slope; /* of the activation below zero: 1 is none, 0 a ReLU */
} Matrix;

void stemsplit_convolve(const Task *task, int64_t first, int64_t last, int64_t block,
                        float *workspace);

void stemsplit_write_patches(const Patches *p, int64_t top, int64_t bottom, int64_t left,
                             int64_t right);

#endif
