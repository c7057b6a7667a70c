#if defined(EM_PORTABLE)
static void em_conv(int index, const em_value *const *rows, em_value *out) {
    em_conv_row(em_layers + index, rows, out);
}
#else
/* One piece of code for each convolution, so that the compiler knows its sizes. */
static void em_conv(int index, const em_value *const *rows, em_value *out) {
    (void)rows, (void)out; /* there may be none */
    switch (index) {
#define EM_DO(i) case i: em_conv_row(em_layers + i, rows, out); break;
        EM_CONVOLUTIONS(EM_DO)
#undef EM_DO
    default: break;
    }
}
#endif
