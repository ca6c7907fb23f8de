/* Convolutions over the columns of every row alone, for inference: kernels of one row. Those of
   three taps by Winograd's minimal filtering F(4, 3), which needs half the products; others by
   their definition. Numbers are float32; strides count floats. */

#include <string.h>

#include "convolution.h"

/* What is computed at once: vectors of outputs, for some pixels, or some tiles of them. The sums
   take most registers, and a kernel's numbers are read once for all of these. */
enum { VECTORS = 3, PIXELS = REGISTERS >= 32 ? 8 : 4, MOST = 8 };
/* So many that the numbers of one of their points stay in a core's nearest cache. */
enum { TILES = 16 };

TRANSFORMS(some)

/* A layer, and what it reads as if it stood side by side. */
typedef struct {
    RowLayer layer;
    i64 columns; /* of what is read */
    const RowImage *source, *last; /* the first of these and the one behind the last */
    RowImage out;
} Rows;

INLINE i64 count_columns(const Rows *p) {
    return p->columns + 2 * p->layer.pad - p->layer.taps + 1;
}

INLINE const float *find_row(const RowImage *s, i64 row) {
    return s->pixels + row % s->rows * s->row;
}

INLINE float *find_place(const Rows *p, i64 row, i64 column) {
    return p->out.pixels + row % p->out.rows * p->out.row + column * p->layer.outs;
}

/* Write what comes out of a vector of channels from `at` on. */
INLINE void put(const Rows *p, float *to, some values, i64 at) {
    const i64 left = p->layer.outs - at;
    if (left >= WIDE) *(some *)to = values;
    else memcpy(to, &values, left * sizeof(float));
}

/* Compute vectors from `at` of the pixels from `column`. Both numbers are constants where this is
   inlined. Taps are those that meet a pixel of the row: of several pixels, all do. */
INLINE void convolve(const Rows *p, i64 row, i64 column, i64 at, i64 first, i64 last,
                     const int vectors, const int pixels) {
    some sums[MOST][VECTORS];
    UNROLL for (int v = 0; v < vectors; v++)
        UNROLL for (int n = 0; n < pixels; n++)
            sums[n][v] = ((const some *)(p->layer.bias + at))[v];
    for (i64 tap = first; tap < last; tap++) {
        const float *kernel = p->layer.kernels + tap * p->layer.channels * p->layer.wide + at;
        for (const RowImage *s = p->source; s < p->last; s++) {
            const float *in = find_row(s, row) + (column + tap - p->layer.pad) * s->pixel;
            for (i64 c = 0; c < s->channels; c++, kernel += p->layer.wide) {
                UNROLL for (int v = 0; v < vectors; v++) {
                    const some taps = ((const some *)kernel)[v];
                    UNROLL for (int n = 0; n < pixels; n++)
                        sums[n][v] += in[n * s->pixel + c] * taps;
                }
            }
        }
    }
    float *out = find_place(p, row, column) + at;
    UNROLL for (int n = 0; n < pixels; n++)
        UNROLL for (int v = 0; v < vectors; v++)
            put(p, out + n * p->layer.outs + v * WIDE, bend(sums[n][v], p->layer.slope),
                at + v * WIDE);
}

static void convolve_by_definition(const Rows *p, i64 top, i64 bottom) {
    const i64 columns = count_columns(p);
    for (i64 row = top; row < bottom; row++)
        for (i64 at = 0; at < p->layer.wide;) {
            const int vectors = p->layer.wide - at >= VECTORS * WIDE ? VECTORS : 1;
            for (i64 column = 0; column < columns;) {
                /* The row begins at tap `first` and ends before tap `last`. */
                i64 first = p->layer.pad - column, last = p->columns + p->layer.pad - column;
                const int is_inside = first <= 0 && last >= p->layer.taps + PIXELS - 1;
                const int pixels = is_inside && column + PIXELS <= columns ? PIXELS : 1;
                first = first > 0 ? first : 0;
                last = last < p->layer.taps ? last : p->layer.taps;
#define CONVOLVE(V, N) convolve(p, row, column, at, first, last, V, N)
                if (vectors == VECTORS)
                    pixels == 1 ? CONVOLVE(VECTORS, 1) : CONVOLVE(VECTORS, PIXELS);
                else pixels == 1 ? CONVOLVE(1, 1) : CONVOLVE(1, PIXELS);
                column += pixels;
            }
            at += vectors * WIDE;
        }
}

/* Transform what a tile reads. Shape of what is written: (SIDE, TILES, channels), from one tile
   on. */
INLINE void transform(const Rows *p, i64 row, i64 column, float *to, const int is_inside) {
    const i64 step = TILES * p->layer.channels;
    for (const RowImage *s = p->source; s < p->last; to += s->channels, s++) {
        const float *in = find_row(s, row) + (column - p->layer.pad) * s->pixel;
        for (i64 c = 0; c < s->channels; c += WIDE) {
            const i64 left = s->channels - c;
            some inputs[SIDE], points[SIDE];
            UNROLL for (int j = 0; j < SIDE; j++) {
                const i64 at = column - p->layer.pad + j;
                inputs[j] = (some){0};
                if (!is_inside && (at < 0 || at >= p->columns)) continue;
                const float *from = in + j * s->pixel + c;
                if (left >= WIDE) inputs[j] = *(const some *)from;
                else memcpy(&inputs[j], from, left * sizeof(float));
            }
            spread(points, inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5]);
            UNROLL for (int j = 0; j < SIDE; j++) {
                if (left >= WIDE) *(some *)(to + j * step + c) = points[j];
                else memcpy(to + j * step + c, &points[j], left * sizeof(float));
            }
        }
    }
}

/* Multiply some tiles' numbers of one point. Both numbers are constants where this is inlined. */
INLINE void multiply(const Rows *p, const float *values, const float *kernel, float *to,
                     const int vectors, const int tiles) {
    some sums[MOST][VECTORS] = {0};
    for (i64 c = 0; c < p->layer.channels; c++, kernel += p->layer.wide)
        UNROLL for (int v = 0; v < vectors; v++) {
            const some taps = ((const some *)kernel)[v];
            UNROLL for (int n = 0; n < tiles; n++)
                sums[n][v] += values[n * p->layer.channels + c] * taps;
        }
    UNROLL for (int n = 0; n < tiles; n++)
        UNROLL for (int v = 0; v < vectors; v++) ((some *)(to + n * p->layer.wide))[v] = sums[n][v];
}

static void multiply_points(const Rows *p, const float *values, float *sums, i64 tiles) {
    for (i64 j = 0; j < SIDE; j++)
        for (i64 at = 0; at < p->layer.wide;) {
            const int vectors = p->layer.wide - at >= VECTORS * WIDE ? VECTORS : 1;
            const float *kernel = p->layer.kernels + j * p->layer.channels * p->layer.wide + at;
            for (i64 n = 0; n < tiles;) {
                const int some_tiles = tiles - n >= PIXELS ? PIXELS : 1;
                const float *from = values + (j * TILES + n) * p->layer.channels;
                float *to = sums + (j * TILES + n) * p->layer.wide + at;
#define MULTIPLY(V, N) multiply(p, from, kernel, to, V, N)
                if (vectors == VECTORS)
                    some_tiles == 1 ? MULTIPLY(VECTORS, 1) : MULTIPLY(VECTORS, PIXELS);
                else some_tiles == 1 ? MULTIPLY(1, 1) : MULTIPLY(1, PIXELS);
                n += some_tiles;
            }
            at += vectors * WIDE;
        }
}

/* Write a tile's outputs, or as many as the row has. */
static void write_tile(const Rows *p, i64 row, i64 column, i64 columns, const float *sums) {
    const i64 step = TILES * p->layer.wide;
    const i64 count = columns - column < TILE ? columns - column : TILE;
    float *out = find_place(p, row, column);
    for (i64 at = 0; at < p->layer.wide; at += WIDE) {
        some m[SIDE], to[TILE];
        UNROLL for (int j = 0; j < SIDE; j++) m[j] = *(const some *)(sums + j * step + at);
        collect(to, m[0], m[1], m[2], m[3], m[4], m[5]);
        for (i64 n = 0; n < count; n++) {
            const some sum = to[n] + *(const some *)(p->layer.bias + at);
            put(p, out + n * p->layer.outs + at, bend(sum, p->layer.slope), at);
        }
    }
}

static void convolve_by_tiles(const Rows *p, i64 top, i64 bottom, float *workspace) {
    const i64 columns = count_columns(p), across = (columns + TILE - 1) / TILE;
    float *values = workspace, *sums = workspace + SIDE * TILES * p->layer.channels;
    for (i64 first = top * across; first < bottom * across; first += TILES) {
        const i64 left = bottom * across - first, tiles = left < TILES ? left : TILES;
        for (i64 n = 0; n < tiles; n++) {
            const i64 row = (first + n) / across, column = (first + n) % across * TILE;
            const i64 begin = column - p->layer.pad;
            const int is_inside = begin >= 0 && begin + SIDE <= p->columns;
            float *to = values + n * p->layer.channels;
            is_inside ? transform(p, row, column, to, 1) : transform(p, row, column, to, 0);
        }
        multiply_points(p, values, sums, tiles);
        for (i64 n = 0; n < tiles; n++)
            write_tile(p, (first + n) / across, (first + n) % across * TILE, columns,
                       sums + n * p->layer.wide);
    }
}

static void convolve_rows(const Rows *p, i64 top, i64 bottom, float *workspace) {
    if (p->layer.taps == TAPS) convolve_by_tiles(p, top, bottom, workspace);
    else convolve_by_definition(p, top, bottom);
}

INLINE i64 count_points(const RowLayer *layers, i64 count) {
    i64 most = 0;
    for (const RowLayer *l = layers; l < layers + count; l++) {
        const i64 floats = SIDE * TILES * (l->channels + l->wide);
        most = floats > most ? floats : most;
    }
    return most;
}

KERNEL int64_t stemsplit_row_layer_size(void) { return sizeof(RowLayer); }

KERNEL int64_t stemsplit_row_image_size(void) { return sizeof(RowImage); }

/* How many floats a workspace holds: a layer's points, and `step` rows of all layers but the
   last. */
KERNEL int64_t stemsplit_rows_workspace(const RowLayer *layers, int64_t count, int64_t columns,
                                        int64_t step) {
    i64 floats = count_points(layers, count);
    for (const RowLayer *l = layers; l < layers + count - 1; l++)
        floats += step * columns * l->outs;
    return floats;
}

/* Compute rows [top, bottom) of the last layer, `step` rows of each layer after the other. Every
   layer reads what all before it gave, the newest first, and then the images. All but the last keep
   the width. */
KERNEL void stemsplit_follow_rows(const RowLayer *layers, int64_t count, const RowImage *images,
                                  int64_t given, const RowImage *out, int64_t columns, int64_t top,
                                  int64_t bottom, int64_t step, float *workspace) {
    RowImage seen[count + given];
    Rows all[count];
    float *window = workspace + count_points(layers, count);
    memcpy(seen + count, images, given * sizeof(RowImage));
    for (i64 place = 0; place < count; place++) {
        RowImage *goal = seen + count - 1 - place;
        if (place < count - 1) {
            const i64 wide = layers[place].outs;
            *goal = (RowImage){window, wide, columns * wide, wide, step};
            window += step * columns * wide;
        } else {
            *goal = *out;
        }
        all[place] = (Rows){layers[place], columns, goal + 1, seen + count + given, *goal};
    }
    for (i64 row = top; row < bottom; row += step) {
        const i64 end = row + step < bottom ? row + step : bottom;
        for (i64 place = 0; place < count; place++) convolve_rows(all + place, row, end, workspace);
    }
}
