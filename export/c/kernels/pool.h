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
