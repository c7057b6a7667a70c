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
