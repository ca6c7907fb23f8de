/* The layers of a dense block, one following the other down some columns of an image: dense.py says
   why. */

#include <string.h>

#include "convolution.h"

/* A layer, and how far it has got. Layer k reads what the layers k - 1, ..., 0 give, in this order,
   and then the block's inputs. The first may be what gives one of these, by patches. */
typedef struct {
    Task *task;
    Patches *patches; /* null for a convolution. Of the task, the rest is then the output alone; a
                         tile's rows and columns are whole patches */
    i64 block;     /* tiles that are computed at once */
    i64 lead;      /* how many rows it is ahead of the last layer, and columns wider on each side */
    float *window; /* the rows of its output that are still to be read, of the columns from
                      `task->left`; null for the last layer, which writes an image */
    i64 first;     /* which row of the output is the window's first */
    i64 done;      /* rows of its output that have been computed */
} Layer;

/* Tell everybody where a layer's output would begin of which the window is a part. */
static void aim(Layer *layers, i64 count, i64 place) {
    const Layer *layer = layers + place;
    Image *out = &layer->task->out;
    out->pixels = layer->window - layer->first * out->row - layer->task->left * out->pixel;
    for (i64 next = place + 1; next < count; next++)
        layers[next].task->source[next - 1 - place].pixels = out->pixels;
}

/* Compute the rows before `end`, or all there are. */
static void go_on(Layer *layer, i64 end, float *workspace) {
    const Task *task = layer->task;
    Patches *patches = layer->patches;
    const i64 across = (task->right - task->left + TILE - 1) / TILE;
    if (end > task->grid_rows) end = task->grid_rows;
    if (end <= layer->done) return;
    if (patches) {
        const i64 down = patches->out_rows, wide = patches->row / task->out.pixel;
        patches->out = layer->window - layer->first * patches->out_row;
        stemsplit_write_patches(patches, layer->done / down, end / down, task->left / wide,
                                task->right / wide);
    } else
        stemsplit_convolve(task, layer->done / TILE * across, (end + TILE - 1) / TILE * across,
                       layer->block, workspace);
    layer->done = end;
}

KERNEL int64_t stemsplit_layer_size(void) { return sizeof(Layer); }

/* Compute all rows, `step` of each layer at once. `step` and all leads are divisible by TILE. */
KERNEL void stemsplit_follow(Layer *layers, int64_t count, int64_t step, float *workspace) {
    const Layer *last = layers + count - 1;
    for (i64 place = 0; place < count; place++) {
        layers[place].first = layers[place].done = 0;
        if (layers[place].window) aim(layers, count, place);
    }
    for (i64 front = step - layers->lead; last->done < last->task->grid_rows; front += step) {
        for (Layer *layer = layers; layer <= last; layer++)
            go_on(layer, front + layer->lead, workspace);
        /* The last layer will read on from the row before its next. */
        for (i64 place = 0; place < count - 1; place++) {
            Layer *layer = layers + place;
            const i64 row = layer->task->out.row, past = last->done - 1 - layer->first;
            if (past <= 0) continue;
            layer->first += past;
            memmove(layer->window, layer->window + past * row,
                    (layer->done - layer->first) * row * sizeof(float));
            aim(layers, count, place);
        }
    }
}
