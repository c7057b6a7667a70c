/* The sum of two rows. A sum below 0 is the smallest value; so nothing negative is shifted. */
static void em_add_row(const em_layer *layer, const em_value *a, const em_value *b, em_value *out) {
    const int32_t by_a = layer->factors[0], by_b = layer->factors[1], constant = layer->factors[2];
    const int32_t shift = layer->factors[3], count = layer->width * layer->outputs;
    int32_t i;
    for (i = 0; i < count; ++i) {
        const int32_t sum = EM_U(a[i]) * by_a + EM_U(b[i]) * by_b + constant;
        const int32_t u = sum < 0 ? 0 : sum >> shift;
        out[i] = EM_STORED(u > 255 ? 255 : u);
    }
}
