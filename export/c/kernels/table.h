/* A row of values that are looked up. */
static void em_table_row(const em_layer *layer, const em_value *in, em_value *out) {
    const int32_t count = layer->width * layer->outputs;
    const uint8_t *table = layer->table;
    int32_t i;
    for (i = 0; i < count; ++i) out[i] = EM_STORED(table[EM_U(in[i])]);
}
