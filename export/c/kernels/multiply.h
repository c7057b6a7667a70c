/* The product of two rows, or, if `gate`, of a row and one value for each channel. */
static void em_multiply_row(const em_layer *layer, const em_value *a, const em_value *b, int gate, em_value *out) {
    const int32_t zero_a = layer->factors[0], zero_b = layer->factors[1];
    int32_t x, channel;
    for (x = 0; x < layer->width; ++x) {
        for (channel = 0; channel < layer->outputs; ++channel) {
            const int32_t product = (EM_U(a[channel]) - zero_a) * (EM_U(b[channel]) - zero_b);
            out[channel] = EM_STORED(em_requantize(product, layer->multiplier, layer->zero_point));
        }
        a += layer->outputs;
        b += gate ? 0 : layer->outputs;
        out += layer->outputs;
    }
}
