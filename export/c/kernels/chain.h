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
