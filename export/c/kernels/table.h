/* A row of values that are looked up. */
static void em_table_row(const em_layer *layer, const em_value *in, em_value *out) {
    const int32_t count = layer->width * layer->outputs;
    int32_t i;
    for (i = 0; i < count; ++i) out[i] = EM_STORED(layer->table[EM_U(in[i])]);
}
