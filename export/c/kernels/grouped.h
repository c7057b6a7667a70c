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
