/* The largest value under each window of a row. The windows see `count` rows of the input, which has `width` columns;
 * what is outside of it is left out. */
static void em_clipped_pool_row(const em_layer *layer, const em_value *const *rows, int count, int width,
                                em_value *out) {
    const int channels = layer->channels, columns = layer->columns; /* a byte that is stored could be one of these */
    int x, channel, column, row;
    for (x = 0; x < layer->width; ++x, out += channels) {
        for (channel = 0; channel < channels; ++channel) out[channel] = EM_STORED(0);
        for (column = 0; column < columns; ++column) {
            const int at = x * layer->right - layer->before + column * layer->column_step;
            if (at < 0 || at >= width) continue;
            for (row = 0; row < count; ++row) {
                const em_value *in = rows[row] + at * channels;
                for (channel = 0; channel < channels; ++channel) {
                    const em_value value = in[channel];
                    out[channel] = value > out[channel] ? value : out[channel];
                }
            }
        }
    }
}
