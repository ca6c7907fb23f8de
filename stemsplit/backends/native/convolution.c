/* Convolutions of two-dimensional images by Winograd's minimal filtering, for inference.

   Lavin, Gray: Fast algorithms for convolutional neural networks. CVPR 2016, section 4. A tile of
   4x4 outputs of a 3x3 convolution needs 36 products per pair of channels where the definition
   asks for 144: with the tile's 6x6 inputs d and the kernel g,

       out = A^T [ (G g G^T) * (B^T d B) ] A

   and the product * of all channels at one of the 36 points is a product of matrices. The kernels'
   part is computed once (`stemsplit_pack`).

   Strides, dilations and transposed convolutions are the same thing on grids of every second (or
   n-th) pixel, whose results are summed or lie side by side; geometry.py says how. Several inputs
   are read as if their channels stood one behind the other.

   Pixels lie one after the other in memory, each with all of its channels: a vector holds LANES
   channels of one pixel. Vectors are GCC's and Clang's own extension of C; no processor's own
   instructions are named. Numbers are float32; sizes, strides and offsets count floats.

   One file, though a long one: its functions are fast because they become one another's. */

#include "convolution.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

typedef int32_t bits __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

enum { POINTS = SIDE * SIDE };

/* Products per step of a matrix product, in vectors: as many as stay in the processor's
   registers. */
#if REGISTERS < 32
enum { HIGH_3 = 4, HIGH_2 = 6, HIGH_1 = 12, SUMS = 12 };
#else
enum { HIGH_3 = 8, HIGH_2 = 12, HIGH_1 = 12, SUMS = 24 };
#endif

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec v) { *(vec *)to = v; }
INLINE i64 fill(i64 channels) { return (channels + LANES - 1) / LANES * LANES; }
INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }

INLINE vec pick(bits is, vec yes, vec no) { return (vec)(((bits)yes & is) | ((bits)no & ~is)); }

INLINE int needs(i64 tall, i64 wide, int point) {
    return (tall || point / SIDE < SIDE - 1) && (wide || point % SIDE < SIDE - 1);
}

/* Channels [0, count) of a vector; what lies behind them in memory is left alone. */
INLINE void store_some(float *to, vec v, i64 count) {
    if (count >= LANES) {
        store(to, v);
        return;
    }
    float all[LANES];
    store(all, v);
    const float *from = all;
    for (i64 size = LANES / 2; size; size /= 2)
        if (count & size) {
            memcpy(to, from, size * sizeof(float));
            to += size, from += size;
        }
}

INLINE vec load_some(const float *from, i64 count) {
    if (count >= LANES) return load(from);
    float all[LANES] = {0};
    memcpy(all, from, count * sizeof(float));
    return load(all);
}

TRANSFORMS(vec)

/* Where each point's numbers of one tile lie, and how many there are. */
typedef struct {
    i64 at[POINTS], count[POINTS], total;
} Layout;

static Layout lay_out_sources(const Task *task) {
    Layout layout = {.total = 0};
    for (int p = 0; p < POINTS; p++) {
        layout.at[p] = layout.total;
        for (i64 s = 0; s < task->sources; s++)
            if (needs(task->source[s].tall, task->source[s].wide, p))
                layout.count[p] += task->source[s].channels;
        /* Whole vectors are written, also behind the last channel. */
        layout.total += layout.count[p] + LANES;
    }
    return layout;
}

static Layout lay_out_targets(const Task *task) {
    Layout layout = {.total = 0};
    for (int p = 0; p < POINTS; p++) {
        layout.at[p] = layout.total;
        if (task->packed) layout.count[p] = fill(task->targets * task->channels);
        for (i64 t = 0; !task->packed && t < task->targets; t++)
            if (needs(task->target[t].tall, task->target[t].wide, p))
                layout.count[p] += fill(task->channels);
        layout.total += layout.count[p];
    }
    layout.total += LANES; /* tiles of a power of two would share the cache's lines */
    return layout;
}

/* B^T d B of all channels of one source's tile. */
INLINE void transform_input(const float *from, i64 row, i64 pixel, const Source *source,
                            int rectify, float *const to[POINTS]) {
    for (i64 c = 0; c < source->channels; c += LANES) {
        vec half[SIDE][SIDE], whole[SIDE];
        UNROLL for (int i = 0; i < SIDE; i++) {
            vec d[SIDE];
            UNROLL for (int j = 0; j < SIDE; j++) {
                d[j] = load(from + i * row + j * pixel + c);
                if (rectify) d[j] = pick(d[j] > 0, d[j], (vec){0});
            }
            spread(half[i], d[0], d[1], d[2], d[3], d[4], d[5]);
        }
        UNROLL for (int j = 0; j < SIDE; j++) {
            if (j == SIDE - 1 && !source->wide) continue;
            spread(whole, half[0][j], half[1][j], half[2][j], half[3][j], half[4][j], half[5][j]);
            UNROLL for (int i = 0; i < SIDE - 1; i++) store(to[i * SIDE + j] + c, whole[i]);
            if (source->tall) store(to[(SIDE - 1) * SIDE + j] + c, whole[SIDE - 1]);
        }
    }
}

/* Zeros where the image ends, and behind the last channel. */
static void copy_patch(const Task *task, const Source *source, const float *image, i64 row,
                       i64 column, float *patch) {
    const i64 width = fill(source->channels);
    memset(patch, 0, POINTS * width * sizeof(float));
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            const i64 r = row + i * task->in_step, c = column + j * task->in_step;
            if (r >= 0 && c >= 0 && r < task->in_rows && c < task->in_columns)
                memcpy(patch + (i * SIDE + j) * width, image + r * source->row + c * source->pixel,
                       source->channels * sizeof(float));
        }
}

/* Where a tile's first output is on the grids, and by how many pixels these are moved. */
typedef struct {
    i64 image, down, across, top, left;
} Place;

/* Tiles are numbered image by image and row by row; the classes' tiles of the same pixels follow
   each other, so that these are still near when the next class needs what lies between. */
static Place find_place(const Task *task, i64 tile) {
    const i64 columns = (task->right - task->left + TILE - 1) / TILE;
    const i64 rows = (task->grid_rows + TILE - 1) / TILE;
    Place place = {.across = tile % task->classes, .down = tile / task->classes % task->classes};
    tile /= task->classes * task->classes;
    place.left = task->left + tile % columns * TILE, place.top = tile / columns % rows * TILE;
    place.image = tile / (columns * rows);
    return place;
}

/* Bring what a tile to come will read into the cache. */
INLINE void fetch_ahead(const float *from, i64 row_stride, i64 floats) {
    for (int i = 0; i < SIDE; i++)
        for (i64 at = 0; at < floats; at += 16) __builtin_prefetch(from + i * row_stride + at);
}

static void read_tile(const Task *task, const Layout *layout, Place place, float *values,
                      float *patch) {
    float *to[POINTS];
    for (int p = 0; p < POINTS; p++) to[p] = values + layout->at[p];
    for (const Source *source = task->source; source < task->source + task->sources; source++) {
        const float *pixels = source->pixels + place.image * source->image;
        const i64 step = task->in_step, reach = (SIDE - 1) * step;
        const i64 row = place.top * step + place.down + source->first_row;
        const i64 column = place.left * step + place.across + source->first_column;
        const i64 bottom = row + reach, right = column + reach;
        /* A vector may reach past its pixel's channels into the next pixel's, which are replaced
           or not looked at; past the last pixel there may be nothing. */
        const i64 end = (task->in_rows - 1) * source->row + (task->in_columns - 1) * source->pixel;
        const i64 last = bottom * source->row + right * source->pixel;
        const int is_inside = row >= 0 && column >= 0 && bottom < task->in_rows &&
                              right < task->in_columns &&
                              last + fill(source->channels) <= end + source->channels;
        i64 row_stride = step * source->row, pixel_stride = step * source->pixel;
        const float *from = pixels + row * source->row + column * source->pixel;
        if (!is_inside) {
            copy_patch(task, source, pixels, row, column, patch);
            pixel_stride = fill(source->channels), row_stride = SIDE * pixel_stride, from = patch;
        }
        if (is_inside) fetch_ahead(from + TILE * pixel_stride * 2, row_stride, TILE * pixel_stride);
        if (task->rectify) transform_input(from, row_stride, pixel_stride, source, 1, to);
        else transform_input(from, row_stride, pixel_stride, source, 0, to);
        for (int p = 0; p < POINTS; p++)
            if (needs(source->tall, source->wide, p)) to[p] += source->channels;
    }
}

/* `high` rows of (rows, depth) x (depth, wide * LANES): sums stay in registers. */
INLINE void multiply(int high, int wide, const float *left, i64 left_row, const float *right,
                     i64 depth, float *to, i64 to_row) {
    vec sums[SUMS];
    UNROLL for (int i = 0; i < high * wide; i++) sums[i] = (vec){0};
    for (i64 k = 0; k < depth; k++) {
        vec factors[3];
        UNROLL for (int j = 0; j < wide; j++) factors[j] = load(right + (k * wide + j) * LANES);
        UNROLL for (int i = 0; i < high; i++) {
            const float factor = left[i * left_row + k];
            UNROLL for (int j = 0; j < wide; j++) sums[i * wide + j] += factor * factors[j];
        }
    }
    UNROLL for (int i = 0; i < high; i++)
        UNROLL for (int j = 0; j < wide; j++)
            store(to + i * to_row + j * LANES, sums[i * wide + j]);
}

/* Vectors of the next panel of a matrix of so many. */
INLINE i64 cut_panel(i64 vectors) { return vectors % 3 == 0 ? 3 : vectors > 1 ? 2 : 1; }

#define PRODUCT(name, wide, highest)                                                          \
    static __attribute__((noinline)) void name(const float *left, i64 left_row,               \
                                               const float *right, i64 depth, float *to,      \
                                               i64 to_row, i64 rows) {                        \
        for (; rows >= highest; rows -= highest, left += highest * left_row,                  \
                                to += highest * to_row)                                       \
            multiply(highest, wide, left, left_row, right, depth, to, to_row);                \
        for (; rows >= 4; rows -= 4, left += 4 * left_row, to += 4 * to_row)                  \
            multiply(4, wide, left, left_row, right, depth, to, to_row);                      \
        for (; rows >= 1; rows -= 1, left += left_row, to += to_row)                          \
            multiply(1, wide, left, left_row, right, depth, to, to_row);                      \
    }
PRODUCT(multiply_3, 3, HIGH_3)
PRODUCT(multiply_2, 2, HIGH_2)
PRODUCT(multiply_1, 1, HIGH_1)

/* The 36 products. Kernels of a point lie in panels of 3, 2 or 1 vectors, panel by panel. */
static void multiply_points(const Task *task, const Layout *in, const Layout *out,
                            const float *values, float *sums, i64 tiles) {
    const float *right = task->kernels;
    for (int p = 0; p < POINTS; p++) {
        const float *left = values + in->at[p];
        float *to = sums + out->at[p];
        for (i64 vectors = out->count[p] / LANES; vectors;) {
            const i64 wide = cut_panel(vectors);
            (wide == 3 ? multiply_3 : wide == 2 ? multiply_2 : multiply_1)(
                left, in->total, right, in->count[p], to, out->total, tiles);
            right += in->count[p] * wide * LANES, to += wide * LANES, vectors -= wide;
        }
    }
}

/* A^T m A of one vector of channels. */
INLINE void transform_output(float *const from[POINTS], i64 c, i64 tall, i64 wide,
                             vec to[TILE][TILE]) {
    vec half[SIDE][TILE];
    UNROLL for (int i = 0; i < SIDE; i++) {
        vec m[SIDE];
        UNROLL for (int j = 0; j < SIDE; j++) {
            const int is_there = (i < SIDE - 1 || tall) && (j < SIDE - 1 || wide);
            m[j] = is_there ? load(from[i * SIDE + j] + c) : (vec){0};
        }
        collect(half[i], m[0], m[1], m[2], m[3], m[4], m[5]);
    }
    UNROLL for (int j = 0; j < TILE; j++) {
        vec column[TILE];
        collect(column, half[0][j], half[1][j], half[2][j], half[3][j], half[4][j], half[5][j]);
        UNROLL for (int i = 0; i < TILE; i++) to[i][j] = column[i];
    }
}

INLINE float *find(const Image *image, i64 index, i64 row, i64 column) {
    return image->pixels + index * image->image + row * image->row + column * image->pixel;
}

/* Affine map and activation of the channels from c. */
INLINE vec activate(const Task *task, vec v, i64 c) {
    const vec scale = load(task->scale + c), shift = load(task->shift + c);
    if (task->affine_first) v = v * scale + shift;
    v = pick(v > 0, v, v * task->slope);
    if (!task->affine_first) v = v * scale + shift;
    return v;
}

/* Whether a vector from c would reach past the last pixel's channels: there may be nothing. */
INLINE int is_near_end(const Task *task, const Image *image, i64 row, i64 column, i64 c) {
    const i64 rows = task->out_rows - 1 - row, columns = task->out_columns - 1 - column;
    return rows * image->row + columns * image->pixel + task->channels < c + LANES;
}

/* Bias, sum, affine map and activation, of `count` channels from c of one pixel. */
INLINE void finish(const Task *task, vec v, i64 image, i64 row, i64 column, i64 c, i64 count) {
    v += load(task->bias + c);
    if (task->plus.pixels) {
        const i64 own = least(LANES, task->channels - c);
        v += load_some(find(&task->plus, image, row, column) + c,
                       is_near_end(task, &task->plus, row, column, c) ? own : LANES);
    }
    if (task->bare.pixels) store_some(find(&task->bare, image, row, column) + c, v, count);
    store_some(find(&task->out, image, row, column) + c, activate(task, v, c), count);
}

/* The corner of a tile's outputs that a target has, and how many of them lie in the image. */
typedef struct {
    i64 row, column, rows, columns;
} Corner;

static Corner find_corner(const Task *task, const Target *target, Place place) {
    const i64 step = task->out_step;
    Corner corner = {.row = place.top * step + place.down + target->first_row,
                     .column = place.left * step + place.across + target->first_column};
    corner.rows = least(TILE, (task->out_rows - corner.row + step - 1) / step);
    corner.columns = least(TILE, (task->out_columns - corner.column + step - 1) / step);
    return corner;
}

/* A vector has all targets' channels, and so have bias, scale and shift. */
static void write_packed(const Task *task, const vec tile[TILE][TILE], Place place) {
    float all[TILE][TILE][LANES];
    const vec bias = load(task->bias);
    for (int i = 0; i < TILE; i++)
        for (int j = 0; j < TILE; j++) store(all[i][j], activate(task, tile[i][j] + bias, 0));
    for (i64 t = 0; t < task->targets; t++) {
        const Corner corner = find_corner(task, task->target + t, place);
        const i64 row = task->out_step * task->out.row, column = task->out_step * task->out.pixel;
        float *to = find(&task->out, place.image, corner.row, corner.column);
        for (i64 i = 0; i < corner.rows; i++)
            for (i64 j = 0; j < corner.columns; j++)
                for (i64 c = 0; c < task->channels; c++)
                    to[i * row + j * column + c] = all[i][j][t * task->channels + c];
    }
}

static void write_tile(const Task *task, const Layout *layout, Place place, float *sums) {
    vec tile[TILE][TILE];
    float *from[POINTS];
    for (int p = 0; p < POINTS; p++) from[p] = sums + layout->at[p];
    if (task->packed) {
        transform_output(from, 0, 1, 1, tile);
        write_packed(task, (const vec(*)[TILE])tile, place);
        return;
    }
    for (const Target *target = task->target; target < task->target + task->targets; target++) {
        const Corner corner = find_corner(task, target, place);
        for (i64 c = 0; c < task->channels; c += LANES) {
            transform_output(from, c, target->tall, target->wide, tile);
            const i64 count = task->padded ? LANES : least(LANES, task->channels - c);
            for (i64 i = 0; i < corner.rows; i++)
                for (i64 j = 0; j < corner.columns; j++)
                    finish(task, tile[i][j], place.image, corner.row + i * task->out_step,
                           corner.column + j * task->out_step, c, count);
        }
        for (int p = 0; p < POINTS; p++)
            if (needs(target->tall, target->wide, p)) from[p] += fill(task->channels);
    }
}

/* How many tiles a task has. */
KERNEL int64_t stemsplit_count_tiles(const Task *task) {
    return task->images * task->classes * task->classes * ((task->grid_rows + TILE - 1) / TILE) *
           ((task->right - task->left + TILE - 1) / TILE);
}

KERNEL int32_t stemsplit_lanes(void) { return LANES; }

/* Whether this processor takes such vectors in two steps: AMD's family 19h (of which Zen 4 has
   vectors of 512 bits) does. */
KERNEL int32_t stemsplit_halves(void) {
    int32_t halves = 0;
#if LANES == 16 && defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    const int is_amd = __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ecx == signature_AMD_ecx;
    if (is_amd && __get_cpuid(1, &eax, &ebx, &ecx, &edx))
        halves = (eax >> 8 & 0xf) + (eax >> 20 & 0xff) == 0x19;
#endif
    return halves;
}

/* Bytes of a Task, for whoever lays one out in another language. */
KERNEL int64_t stemsplit_task_size(void) { return sizeof(Task); }

/* How many floats `stemsplit_convolve` needs to work on so many tiles at once. */
KERNEL int64_t stemsplit_workspace(const Task *task, int64_t tiles) {
    i64 widest = 0;
    for (i64 s = 0; s < task->sources; s++)
        if (task->source[s].channels > widest) widest = task->source[s].channels;
    return tiles * (lay_out_sources(task).total + lay_out_targets(task).total) +
           POINTS * fill(widest);
}

/* How many floats the kernels take at all points. */
KERNEL int64_t stemsplit_count_kernels(const Task *task) {
    const Layout in = lay_out_sources(task), out = lay_out_targets(task);
    i64 floats = 0;
    for (int p = 0; p < POINTS; p++) floats += in.count[p] * out.count[p];
    return floats;
}

/* A row of G g. */
INLINE void raise(vec to[SIDE], vec g0, vec g1, vec g2) {
    const vec ends = g0 + g2, far = g0 * (1.f / 24) + g2 * (1.f / 6), middle = g1 * (1.f / 12);
    to[0] = g0 * (1.f / 4);
    to[1] = (ends + g1) * (-1.f / 6), to[2] = (ends - g1) * (-1.f / 6);
    to[3] = far + middle, to[4] = far - middle;
    to[5] = g2;
}

/* G g G^T of a vector of kernels, whose nine taps are `plane` floats apart. */
INLINE void transform_kernels(const float *from, i64 plane, i64 count, vec to[SIDE][SIDE]) {
    vec half[TAPS][SIDE];
    UNROLL for (int i = 0; i < TAPS; i++) {
        vec g[TAPS];
        UNROLL for (int j = 0; j < TAPS; j++)
            g[j] = load_some(from + (i * TAPS + j) * plane, count);
        raise(half[i], g[0], g[1], g[2]);
    }
    UNROLL for (int j = 0; j < SIDE; j++) {
        vec column[SIDE];
        raise(column, half[0][j], half[1][j], half[2][j]);
        UNROLL for (int i = 0; i < SIDE; i++) to[i][j] = column[i];
    }
}

/* Transform kernels. `taps`: (3, 3, sources, channels that come in, targets, channels). */
KERNEL void stemsplit_pack(const Task *task, const float *taps, float *kernels) {
    const Layout in = lay_out_sources(task), out = lay_out_targets(task);
    const i64 targets = task->packed ? 1 : task->targets;
    const i64 channels = task->packed ? task->targets * task->channels : task->channels;
    const i64 row = targets * channels, plane = task->sources * task->source->channels * row;
    i64 column[POINTS] = {0}; /* vectors that lie before the target's */
    for (i64 t = 0; t < targets; t++)
        for (i64 c = 0; c < channels; c += LANES) {
            float *to[POINTS];
            i64 step[POINTS];
            float *matrix = kernels;
            for (int p = 0; p < POINTS; p++) {
                const i64 vectors = out.count[p] / LANES;
                i64 start = 0, wide = cut_panel(vectors);
                for (; start + wide <= column[p]; wide = cut_panel(vectors - start)) start += wide;
                to[p] = matrix + (start * in.count[p] + column[p] - start) * LANES;
                step[p] = wide * LANES;
                matrix += in.count[p] * out.count[p];
            }
            const i64 tall = task->packed || task->target[t].tall;
            const i64 wide = task->packed || task->target[t].wide;
            for (i64 k = 0; k < task->sources * task->source->channels; k++) {
                const Source *source = task->source + k / task->source->channels;
                vec points[SIDE][SIDE];
                transform_kernels(taps + k * row + t * channels + c, plane, channels - c, points);
                for (int p = 0; p < POINTS; p++) {
                    if (!needs(source->tall, source->wide, p)) continue;
                    if (needs(tall, wide, p)) store(to[p], points[p / SIDE][p % SIDE]);
                    to[p] += step[p];
                }
            }
            for (int p = 0; p < POINTS; p++) column[p] += needs(tall, wide, p);
        }
}

/* Compute tiles [first, last), `block` at once. */
void stemsplit_convolve(const Task *task, int64_t first, int64_t last, int64_t block,
                        float *workspace) {
    const Layout in = lay_out_sources(task), out = lay_out_targets(task);
    float *values = workspace, *sums = values + block * in.total, *patch = sums + block * out.total;
    for (; first < last; first += block) {
        const i64 tiles = least(block, last - first);
        for (i64 t = 0; t < tiles; t++)
            read_tile(task, &in, find_place(task, first + t), values + t * in.total, patch);
        multiply_points(task, &in, &out, values, sums, tiles);
        for (i64 t = 0; t < tiles; t++)
            write_tile(task, &out, find_place(task, first + t), sums + t * out.total);
    }
}

/* The same for all tiles from `*next` on, beside other threads that were given the same number: a
   block goes to whoever is free. */
KERNEL void stemsplit_convolve_beside(const Task *task, int64_t *next, int64_t block,
                                      float *workspace) {
    const i64 tiles = stemsplit_count_tiles(task);
    for (i64 first; (first = __atomic_fetch_add(next, block, __ATOMIC_RELAXED)) < tiles;)
        stemsplit_convolve(task, first, least(first + block, tiles), block, workspace);
}
