static em_value *em_line(const em_ring *ring, em_value *arena, int32_t row) {
    const int32_t slot = row < 0 || row >= ring->height ? ring->slots : row % ring->slots;
    return arena + ring->at + slot * ring->line + ring->left;
}

/* Fills a ring with its padding, before its first row is written. */
static void em_begin(const em_ring *ring, em_value *arena) {
    const int32_t count = ring->line * (ring->slots + ring->below);
    int32_t i;
    if (!(ring->left || ring->right || ring->below)) return;
    for (i = 0; i < count; ++i) arena[ring->at + i] = EM_STORED(ring->zero);
}

/* A row of a layer that sees its input through windows, of which the first row is `first`; or two, if there is `next`. */
static void em_window_row(int index, int32_t first, em_value *arena, em_value *out, em_value *next) {
    const em_layer *layer = em_layers + index;
    const em_ring *from = em_rings + layer->sources[0];
    const em_value *seen[EM_ROWS];
    const int32_t last = first + layer->extent + (next ? layer->down : 0);
    int32_t i, count = 0;
    for (i = first; i < last; ++i) {
        if (layer->kind != EM_POOL) {
            seen[count++] = em_line(from, arena, i) - layer->before * layer->channels;
        } else if (i >= 0 && i < from->height && (i - first) % layer->row_step == 0) {
            seen[count++] = em_line(from, arena, i);
        }
    }
    switch (layer->kind) {
#if EM_HAS_GROUPED
    case EM_GROUPED: em_grouped_row(layer, seen, out); break;
#endif
#if EM_HAS_DEPTHWISE
    case EM_DEPTHWISE: em_depthwise_row(layer, seen, out); break;
#endif
#if EM_HAS_POOL
    case EM_POOL: em_clipped_pool_row(layer, seen, count, from->width / layer->channels, out); break;
#endif
#if EM_HAS_CONV
    default: em_conv(index, seen, out, next); break;
#else
    default: break;
#endif
    }
}

/* Computes the next row of a layer, or the next two, and returns 1; or returns 0 if there is none or rows of its inputs are missing. */
static int em_step(int index, em_value *arena, int32_t *done) {
    const em_layer *layer = em_layers + index;
    const em_ring *to = em_rings + index + 1;
    const int32_t row = done[index + 1];
    const int32_t stride = layer->kind == EM_CONV_POOL ? 2 * layer->down : layer->down;
    const int32_t first = layer->kind == EM_UPSAMPLE ? row / layer->rows : row * stride - layer->above;
    const int32_t rows = to->height - row < layer->at_once ? to->height - row : layer->at_once;
    em_value *out;
    int32_t i;
    if (row == to->height) return 0;
    for (i = 0; i < layer->count; ++i) {
        const int32_t height = em_rings[layer->sources[i]].height;
        const int32_t last = first + layer->extent + (rows - 1) * stride;
        if (done[layer->sources[i]] < (last < height ? last : height)) return 0;
    }
    if (row == 0) em_begin(to, arena);
    out = em_line(to, arena, row);
    switch (layer->kind) {
#define EM_SOURCE(i) (em_rings + layer->sources[i])
#if EM_HAS_ADD
    case EM_ADD: em_add_row(layer, em_line(EM_SOURCE(0), arena, row), em_line(EM_SOURCE(1), arena, row), out); break;
#endif
#if EM_HAS_MULTIPLY
    case EM_MULTIPLY: {
        const int gate = EM_SOURCE(1)->width < to->width || EM_SOURCE(1)->height < to->height;
        const em_value *by = em_line(EM_SOURCE(1), arena, gate ? 0 : row);
        em_multiply_row(layer, em_line(EM_SOURCE(0), arena, row), by, gate, out);
        break;
    }
#endif
#if EM_HAS_TABLE
    case EM_TABLE: em_table_row(layer, em_line(EM_SOURCE(0), arena, row), out); break;
#endif
#if EM_HAS_UPSAMPLE
    case EM_UPSAMPLE: em_upsample_row(layer, em_line(EM_SOURCE(0), arena, first), out); break;
#endif
#if EM_HAS_CONCATENATE
    case EM_CONCATENATE: {
        em_value *part = out;
        for (i = 0; i < layer->count; ++i) {
            const int32_t channels = EM_SOURCE(i)->width / layer->width;
            em_concatenate_row(layer, em_line(EM_SOURCE(i), arena, row), channels, part);
            part += channels;
        }
        break;
    }
#endif
#undef EM_SOURCE
    default: em_window_row(index, first, arena, out, rows > 1 ? em_line(to, arena, row + 1) : 0); break;
    }
    for (i = row; i < row + rows; ++i) {
        int32_t beyond;
        out = em_line(to, arena, i);
        /* A kernel may have written a few values beyond the last position. */
        for (beyond = 0; beyond < to->right; ++beyond) out[to->width + beyond] = EM_STORED(to->zero);
#if defined(EDGE_MNIST_TAP)
        EDGE_MNIST_TAP(index, out, to->width);
#endif
    }
    done[index + 1] += rows;
    return 1;
}

/* Of the layers that can compute a row, the last one always does so next: the rings are as long as that needs. */
static int em_run(const uint8_t *input, int8_t *outputs, em_value *arena) {
    const em_ring *first = em_rings, *last = em_rings + EM_LAYERS;
    const int32_t channels = em_layers[EM_LAYERS - 1].outputs, positions = last->width / channels;
    int32_t done[EM_LAYERS + 1] = {0};
    int32_t i, row, channel, x, best = 0, index = -1;
    em_begin(first, arena);
    while (index >= 0 || done[0] < first->height) {
        if (index < 0) {
            em_value *line = em_line(first, arena, done[0]++);
            for (i = 0; i < first->width; ++i) line[i] = EM_STORED(input[i]);
            input += first->width;
            index = EM_INPUT_READER;
        } else if (em_step(index, arena, done)) {
            index = em_layers[index].reader;
        } else {
            --index;
        }
    }
    for (i = 0, channel = 0; channel < channels; ++channel) {
        for (row = 0; row < last->height; ++row) {
            for (x = 0; x < positions; ++x, ++i) {
                outputs[i] = (int8_t)(EM_U(em_line(last, arena, row)[x * channels + channel]) - 128);
                if (outputs[i] > outputs[best]) best = i;
            }
        }
    }
    return best;
}
