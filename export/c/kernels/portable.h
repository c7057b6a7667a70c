/* For any machine, and with pairs of products for microcontrollers that have them. */
#if defined(EM_PORTABLE)
typedef struct {
    int32_t of[8];
} em_sum;

#if defined(EM_DSP)
#define EM_TILE 2
#define EM_POOL_TILE 4
EM_INLINE uint32_t em_word(const void *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Bytes 1 and 3 of a word as 16 bits each; in assembly, as compilers turn the word in an instruction of its own. */
EM_INLINE int32_t em_odd_u(uint32_t word) {
    int32_t halves;
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
    return halves;
}

EM_INLINE int32_t em_odd_s(uint32_t word) {
    int32_t halves;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
    return halves;
}

/* Two channels at two pixels, each word of four taps split into two pairs of 16 bits. */
EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run, i, p;
    (void)chain;
    for (p = 0; p < n; p += 2) {
        const int other = p + 1 < n ? p + 1 : p;
        const int beside = other == p ? 0 : step; /* a pair lies in one row */
        for (i = 0; i < lanes; i += 2) {
            const int next = i + 1 < lanes ? i + 1 : i;
            const em_weight *w = weight + 4 * i;
            int32_t a = sum[p].of[i], b = sum[p].of[next], c = sum[other].of[i], d = sum[other].of[next];
            for (run = 0; run < count; ++run) {
                const em_value *in = EM_IN(p);
                const em_value *last = in + 4 * size;
                for (; in < last; in += 4, w += 4 * lanes) {
                    const uint32_t u = em_word(in), v = em_word(in + beside);
                    const int32_t u0 = (int32_t)__uxtb16(u), u1 = em_odd_u(u);
                    const int32_t v0 = (int32_t)__uxtb16(v), v1 = em_odd_u(v);
                    uint32_t word = em_word(w);
                    int32_t half = __sxtb16((int32_t)word);
                    a = __smlad(u0, half, a);
                    c = __smlad(v0, half, c);
                    half = em_odd_s(word);
                    a = __smlad(u1, half, a);
                    c = __smlad(v1, half, c);
                    word = em_word(w + 4 * (next - i));
                    half = __sxtb16((int32_t)word);
                    b = __smlad(u0, half, b);
                    d = __smlad(v0, half, d);
                    half = em_odd_s(word);
                    b = __smlad(u1, half, b);
                    d = __smlad(v1, half, d);
                }
            }
            sum[p].of[next] = b;
            sum[p].of[i] = a;
            sum[other].of[next] = d;
            sum[other].of[i] = c;
        }
    }
}
#else
#define EM_TILE 1
#define EM_POOL_TILE 4
EM_INLINE void em_sums(EM_TO_SUM) {
    const int step = layer->right * layer->channels;
    int run, i, p;
    (void)chain;
    for (p = 0; p < n; ++p) {
        for (i = 0; i < lanes; ++i) {
            const em_weight *w = weight + 4 * i;
            int32_t found = sum[p].of[i];
            for (run = 0; run < count; ++run) {
                const em_value *in = EM_IN(p);
                const em_value *last = in + 4 * size;
                for (; in < last; in += 4, w += 4 * lanes) {
                    found += in[0] * w[0] + in[1] * w[1] + in[2] * w[2] + in[3] * w[3];
                }
            }
            sum[p].of[i] = found;
        }
    }
}
#endif

EM_INLINE em_sum em_bias(const int32_t *bias, int lanes) {
    em_sum sum;
    int i;
    for (i = 0; i < 8; ++i) sum.of[i] = i < lanes ? bias[i] : 0;
    return sum;
}

EM_INLINE em_sum em_largest(em_sum a, em_sum b) {
    int i;
    for (i = 0; i < 8; ++i) a.of[i] = a.of[i] > b.of[i] ? a.of[i] : b.of[i];
    return a;
}

EM_INLINE void em_store(em_sum sum, const em_multiplier *multiplier, int zero_point, int lanes, em_value *out) {
    int i;
    for (i = 0; i < lanes; ++i) out[i] = (em_value)em_requantize(sum.of[i], multiplier + i, zero_point);
}
#endif
