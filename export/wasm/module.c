
/* The functions that a module exports: `run` computes the values at `output` from those at `input`, addresses in the
 * module's memory, and returns the position of the largest one. The rest is what model.c needs of the C library. */
#define EM_EXPORT(name) __attribute__((export_name(#name)))

static uint8_t em_input[EM_INPUTS];
static int8_t em_output[EM_OUTPUTS];
static em_value em_arena[EM_ARENA];

EM_EXPORT(input) uint8_t *em_get_input(void) {
    return em_input;
}

EM_EXPORT(input_size) int em_get_input_size(void) {
    return EM_INPUTS;
}

EM_EXPORT(output) int8_t *em_get_output(void) {
    return em_output;
}

EM_EXPORT(output_size) int em_get_output_size(void) {
    return EM_OUTPUTS;
}

EM_EXPORT(run) int em_run_once(void) {
    return em_run(em_input, em_output, em_arena);
}

__attribute__((no_builtin("memcpy"))) void *memcpy(void *to, const void *from, size_t size) {
    size_t i;
    for (i = 0; i < size; ++i) ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}

__attribute__((no_builtin("memset"))) void *memset(void *to, int value, size_t size) {
    size_t i;
    for (i = 0; i < size; ++i) ((uint8_t *)to)[i] = (uint8_t)value;
    return to;
}
