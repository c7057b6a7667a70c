/* Each position of a row, several times. */
static void em_upsample_row(const em_layer *layer, const em_value *in, em_value *out) {
    int32_t x;
    for (x = 0; x < layer->width; ++x, out += layer->outputs) {
        memcpy(out, in + x / layer->columns * layer->channels, (size_t)layer->channels * sizeof(em_value));
    }
}
