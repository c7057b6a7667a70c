#if defined(EM_PORTABLE)
static void em_conv(int index, const em_value *const *rows, em_value *out) {
    em_conv_row(em_layers + index, rows, out);
}
#else
/* One piece of code for all convolutions of the same sizes as the layer `i`, so that the compiler knows these. */
#define EM_DO(i) \
    static void em_conv_as_##i(const em_layer *layer, const em_value *const *rows, em_value *out) { \
        em_layer same = em_layers[i]; \
        same.zero_point = layer->zero_point; \
        same.weight = layer->weight; \
        same.bias = layer->bias; \
        same.multiplier = layer->multiplier; \
        same.chain = layer->chain; \
        em_conv_row(&same, rows, out); \
    }
EM_CONVOLUTIONS(EM_DO)
#undef EM_DO

static void em_conv(int index, const em_value *const *rows, em_value *out) {
    const em_layer *layer = em_layers + index;
    switch (layer->like) {
#define EM_DO(i) case i: em_conv_as_##i(layer, rows, out); break;
        EM_CONVOLUTIONS(EM_DO)
#undef EM_DO
#if EM_HAS_CONV_OF_ANY_SIZE
    default: em_conv_row(layer, rows, out); break;
#else
    default: break;
#endif
    }
}
#endif
