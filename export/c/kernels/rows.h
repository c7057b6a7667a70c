/* `n` neighbouring outputs from column `x` of the convolution on, or n / 4 of them if the largest of 2x2 is taken. The
 * last channels come first: where they do not fill up eight, the rest of what is stored falls on the next position. */
EM_INLINE void em_tile(const int n, const int pool, const em_layer *layer, const em_value *const *runs, int count, int size,
                       int x, em_value *out) {
    const int outputs = EM_FILLED(layer->outputs);
    const uint8_t *chain = layer->chain;
    int block;
    for (block = (outputs - 1) / EM_BLOCK; block >= 0; --block) {
        const int first = EM_BLOCK * block, lanes = outputs - first < EM_BLOCK ? outputs - first : EM_BLOCK;
        const em_multiplier *multiplier = layer->multiplier + first;
        em_value *to = out + first;
        em_sum sum[EM_MOST];
        sum[0] = em_bias(layer->bias + first, lanes);
#define EM_DO(p) sum[p] = sum[0];
        EM_EACH(n, EM_DO);
#undef EM_DO
        em_sums(n, pool, layer, runs, count, size, x, layer->weight + 4 * first * count * size, &chain, lanes, sum);
        if (pool) {
#define EM_DO(p) \
    if ((p) < (n) / 4) { \
        const em_sum above = em_largest(sum[2 * (p) % EM_MOST], sum[(2 * (p) + 1) % EM_MOST]); \
        const em_sum below = em_largest(sum[((n) / 2 + 2 * (p)) % EM_MOST], sum[((n) / 2 + 2 * (p) + 1) % EM_MOST]); \
        em_store(em_largest(above, below), multiplier, layer->zero_point, lanes, to + (p)*layer->outputs); \
    }
            EM_EACH(n, EM_DO);
#undef EM_DO
        } else {
#define EM_DO(p) em_store(sum[p], multiplier, layer->zero_point, lanes, to + (p)*layer->outputs);
            EM_EACH(n, EM_DO);
#undef EM_DO
        }
    }
}

EM_INLINE void em_tile_of(int n, const em_layer *layer, const em_value *const *runs, int count, int size, int x,
                          em_value *out) {
#define EM_CASE(n) case n: em_tile(n, 0, layer, runs, count, size, x, out); break;
    switch (n) {
#if EM_TILE >= 12
    EM_CASE(12) EM_CASE(11) EM_CASE(10) EM_CASE(9)
#endif
#if EM_TILE >= 8
    EM_CASE(8) EM_CASE(7) EM_CASE(6) EM_CASE(5) EM_CASE(4) EM_CASE(3)
#endif
#if EM_TILE >= 2
    EM_CASE(2)
#endif
    EM_CASE(1)
    default: break;
    }
#undef EM_CASE
}

/* A row of outputs; rows[i] is the input row i of those that it sees. */
EM_INLINE void em_conv_row(const em_layer *layer, const em_value *const *rows, em_value *out) {
    const em_value *runs[EM_RUNS];
    const int whole = layer->column_step == 1; /* a window's row is one run; dilated, each of its columns is */
    const int columns = whole ? 1 : layer->columns;
    const int count = layer->rows * columns;
    const int size = ((whole ? layer->columns : 1) * layer->channels + 3) / 4;
    const int pooled = layer->kind == EM_CONV_POOL;
    const int tiles = (layer->width + EM_TILE - 1) / EM_TILE, n = (layer->width + tiles - 1) / tiles;
    int below, row, column, i = 0, x;
    for (below = 0; below <= pooled; ++below) {
        for (row = 0; row < layer->rows; ++row) {
            for (column = 0; column < columns; ++column) {
                runs[i++] = rows[below * layer->down + row * layer->row_step] +
                            column * layer->column_step * layer->channels;
            }
        }
    }
#if EM_HAS_CONV_POOL
    if (pooled) {
        for (x = 0; x + EM_POOL_TILE / 4 <= layer->width; x += EM_POOL_TILE / 4) {
            em_tile(EM_POOL_TILE, 1, layer, runs, count, size, 2 * x, out + x * layer->outputs);
        }
#if EM_POOL_TILE > 8
        if (x + 2 <= layer->width) {
            em_tile(8, 1, layer, runs, count, size, 2 * x, out + x * layer->outputs);
            x += 2;
        }
#endif
        if (x < layer->width) em_tile(4, 1, layer, runs, count, size, 2 * x, out + x * layer->outputs);
        return;
    }
#endif
    for (x = 0; x + n <= layer->width; x += n) em_tile_of(n, layer, runs, count, size, x, out + x * layer->outputs);
    em_tile_of(layer->width - x, layer, runs, count, size, x, out + x * layer->outputs);
}

#if defined(EM_PORTABLE)
static void em_conv(int index, const em_value *const *rows, em_value *out) {
    em_conv_row(em_layers + index, rows, out);
}
#else
/* One piece of code for each convolution, so that the compiler knows its sizes. */
static void em_conv(int index, const em_value *const *rows, em_value *out) {
    (void)rows, (void)out; /* there may be none */
    switch (index) {
#define EM_DO(i) case i: em_conv_row(em_layers + i, rows, out); break;
        EM_CONVOLUTIONS(EM_DO)
#undef EM_DO
    default: break;
    }
}
#endif

#if EM_HAS_GROUPED
/* A convolution whose output channels see only their own group of the input channels. */
static void em_grouped_row(const em_layer *layer, const em_value *const *rows, em_value *out) {
    const int inputs = layer->channels / layer->split, outputs = layer->outputs / layer->split;
    int x, output, row, column, i;
    for (x = 0; x < layer->width; ++x) {
        const em_weight *weight = layer->weight;
        for (output = 0; output < layer->outputs; ++output) {
            const int at = x * layer->right * layer->channels + output / outputs * inputs;
            int32_t sum = layer->bias[output];
            for (row = 0; row < layer->rows; ++row) {
                for (column = 0; column < layer->columns; ++column) {
                    const em_value *in =
                        rows[row * layer->row_step] + at + column * layer->column_step * layer->channels;
                    for (i = 0; i < inputs; ++i) sum += in[i] * *weight++;
                }
            }
            *out++ = EM_STORED(em_requantize(sum, layer->multiplier + output, layer->zero_point));
        }
    }
}
#endif

#if EM_HAS_POOL
/* The largest value under each window. */
static void em_pool_row(const em_layer *layer, const em_value *const *rows, em_value *out) {
    int x, channel, row, column;
    for (x = 0; x < layer->width; ++x) {
        for (channel = 0; channel < layer->channels; ++channel) {
            em_value largest = EM_STORED(0);
            for (row = 0; row < layer->rows; ++row) {
                for (column = 0; column < layer->columns; ++column) {
                    const int at = x * layer->right + column * layer->column_step;
                    const em_value value = rows[row * layer->row_step][at * layer->channels + channel];
                    largest = value > largest ? value : largest;
                }
            }
            *out++ = largest;
        }
    }
}
#endif

static em_value *em_line(const em_ring *ring, em_value *arena, int row) {
    const int slot = row < 0 || row >= ring->height ? ring->slots : row % ring->slots;
    return arena + ring->at + slot * ring->line;
}

/* Lets layer `index`, and those after it, compute every row for which `done[index]` rows of its input suffice. */
static void em_feed(int index, em_value *arena, int16_t *done) {
    const em_layer *layer = em_layers + index;
    const em_ring *from = em_rings + index, *to = from + 1;
    const int pooled = layer->kind == EM_CONV_POOL;
    const int rows = (layer->rows - 1) * layer->row_step + 1 + (pooled ? layer->down : 0);
    while (done[index + 1] < layer->height) {
        const em_value *seen[EM_ROWS];
        const int first = done[index + 1] * layer->down * (pooled ? 2 : 1) - layer->above;
        em_value *out = em_line(to, arena, done[index + 1]) + to->beside;
        int i;
        if ((first + rows < from->height ? first + rows : from->height) > done[index]) return;
        for (i = 0; i < rows; ++i) seen[i] = em_line(from, arena, first + i);
        switch (layer->kind) {
#if EM_HAS_GROUPED
        case EM_GROUPED: em_grouped_row(layer, seen, out); break;
#endif
#if EM_HAS_POOL
        case EM_POOL: em_pool_row(layer, seen, out); break;
#endif
        default: em_conv(index, seen, out); break;
        }
        /* Eight channels at a time may have been written beyond the last position. */
        for (i = 0; i < to->beside; ++i) out[to->width + i] = EM_STORED(to->zero);
#if defined(EDGE_MNIST_TAP)
        EDGE_MNIST_TAP(index, out, to->width);
#endif
        ++done[index + 1];
        if (index + 1 < EM_LAYERS) em_feed(index + 1, arena, done);
    }
}

static int em_run(const uint8_t *pixels, int8_t *logits, em_value *arena) {
    const em_ring *first = em_rings, *last = em_rings + EM_LAYERS;
    const int channels = em_layers[EM_LAYERS - 1].outputs, positions = last->width / channels;
    int16_t done[EM_LAYERS + 1] = {0};
    int i, row, channel, x, best = 0;
    for (i = 0; i <= EM_LAYERS; ++i) {
        const em_ring *ring = em_rings + i;
        const int values = ring->line * (ring->slots + ring->below);
        if (sizeof(em_value) == 1 || !(ring->beside || ring->below)) { /* without padding, any value will do */
            memset(arena + ring->at, EM_STORED(ring->zero), (size_t)values * sizeof(em_value));
        } else {
            for (x = 0; x < values; ++x) arena[ring->at + x] = EM_STORED(ring->zero);
        }
    }
    while (done[0] < first->height) {
        em_value *line = em_line(first, arena, done[0]) + first->beside;
#if defined(EM_PIXELS)
        memcpy(line, pixels, (size_t)first->width);
        pixels += first->width;
#else
        for (x = 0; x < first->width; ++x) line[x] = EM_STORED(*pixels++);
#endif
        ++done[0];
        em_feed(0, arena, done);
    }
    for (i = 0, channel = 0; channel < channels; ++channel) {
        for (row = 0; row < last->height; ++row) {
            for (x = 0; x < positions; ++x, ++i) {
                logits[i] = (int8_t)(EM_U(em_line(last, arena, row)[x * channels + channel]) - 128);
                if (logits[i] > logits[best]) best = i;
            }
        }
    }
    return best;
}
