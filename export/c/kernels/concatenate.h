/* Copies the channels of a row of one input between those of the others. */
static void em_concatenate_row(const em_layer *layer, const em_value *in, int channels, em_value *out) {
    int x;
    for (x = 0; x < layer->width; ++x, in += channels, out += layer->outputs) {
        memcpy(out, in, (size_t)channels * sizeof(em_value));
    }
}
