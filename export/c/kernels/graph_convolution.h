#if EM_TILE >= 8
/* Two rows of outputs at once, which are so short that they are one tile; `n` is the number of their positions. */
EM_INLINE void em_tile_of_two(const int n, const em_layer *layer, const em_value *const *runs, int count, int size,
                              em_value *out, em_value *next) {
    const int outputs = EM_FILLED(layer->outputs);
    const uint8_t *chain = layer->chain;
    int block;
    for (block = (outputs - 1) / EM_BLOCK; block >= 0; --block) {
        const int first = EM_BLOCK * block, lanes = outputs - first < EM_BLOCK ? outputs - first : EM_BLOCK;
        const em_multiplier *multiplier = layer->multiplier + first;
        em_sum sum[EM_MOST];
        sum[0] = em_bias(layer->bias + first, lanes);
#define EM_DO(p) sum[p] = sum[0];
        EM_EACH(n, EM_DO);
#undef EM_DO
        em_sums(n, 1, layer, runs, count, size, 0, layer->weight + 4 * first * count * size, &chain, lanes, sum);
#define EM_DO(p) \
    em_store(sum[p], multiplier, layer->zero_point, lanes, \
             (EM_ROW(p, n, 1) ? next : out) + first + EM_COLUMN(p, n, 1) * layer->outputs);
        EM_EACH(n, EM_DO);
#undef EM_DO
    }
}
#endif

/* Two rows of outputs. */
EM_INLINE void em_conv_two_rows(const em_layer *layer, const em_value *const *rows, em_value *out, em_value *next) {
#if EM_TILE >= 8
    const em_value *runs[2 * EM_RUNS];
    const int whole = layer->column_step == 1;
    const int columns = whole ? 1 : layer->columns;
    const int count = layer->rows * columns;
    const int size = ((whole ? layer->columns : 1) * layer->channels + 3) / 4;
    int below, row, column, i = 0;
    for (below = 0; below < 2; ++below) {
        for (row = 0; row < layer->rows; ++row) {
            for (column = 0; column < columns; ++column) {
                runs[i++] = rows[below * layer->down + row * layer->row_step] +
                            column * layer->column_step * layer->channels;
            }
        }
    }
    switch (layer->width) {
#define EM_CASE(width) case width: em_tile_of_two(2 * (width), layer, runs, count, size, out, next); return;
    EM_CASE(1) EM_CASE(2) EM_CASE(3) EM_CASE(4)
#if EM_TILE >= 12
    EM_CASE(5) EM_CASE(6)
#endif
    default: break;
#undef EM_CASE
    }
#endif
    em_conv_row(layer, rows, out);
    em_conv_row(layer, rows + layer->down, next);
}

EM_INLINE void em_conv_rows(const em_layer *layer, const em_value *const *rows, em_value *out, em_value *next) {
    if (next) {
        em_conv_two_rows(layer, rows, out, next);
    } else {
        em_conv_row(layer, rows, out);
    }
}

/* A row of outputs, or two if there is `next`. */
#if defined(EM_PORTABLE)
static void em_conv(int index, const em_value *const *rows, em_value *out, em_value *next) {
    em_conv_rows(em_layers + index, rows, out, next);
}
#else
/* One piece of code for all convolutions of the same sizes as the layer `i`, so that the compiler knows these. */
#define EM_DO(i) \
    static void em_conv_as_##i(const em_layer *layer, const em_value *const *rows, em_value *out, em_value *next) { \
        em_layer same = em_layers[i]; \
        same.zero_point = layer->zero_point; \
        same.weight = layer->weight; \
        same.bias = layer->bias; \
        same.multiplier = layer->multiplier; \
        same.chain = layer->chain; \
        em_conv_rows(&same, rows, out, em_layers[i].at_once > 1 ? next : 0); \
    }
EM_CONVOLUTIONS(EM_DO)
#undef EM_DO

static void em_conv(int index, const em_value *const *rows, em_value *out, em_value *next) {
    const em_layer *layer = em_layers + index;
    switch (layer->like) {
#define EM_DO(i) case i: em_conv_as_##i(layer, rows, out, next); break;
        EM_CONVOLUTIONS(EM_DO)
#undef EM_DO
#if EM_HAS_CONV_OF_ANY_SIZE
    default: em_conv_rows(layer, rows, out, next); break;
#else
    default: break;
#endif
    }
}
#endif
